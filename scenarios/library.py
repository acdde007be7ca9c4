"""The files that ship inside the package, found by kind and name."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from scenarios.yaml_text import read_yaml

FOLDERS = {
    "scenario": "scenarios",
    "cluster": "clusters",
    "model": "models",
    "machine": "machines",
    "profile": "profiles",
    "study": "studies",
    "lengths": "",
}
"""Kind -> folder; profiles have one folder a model, lengths are the ``*_lengths.yaml`` files at the top."""


@dataclass(frozen=True, slots=True, order=True)
class LibraryEntry:
    """One shipped file.

    Attributes:
        name: What a scenario calls it: the ``name`` in the file; a profile's is ``MODEL/MACHINE``.
        kind: Key of :data:`FOLDERS`.
        description: One line, may be empty.
        path: The file.
    """

    name: str
    kind: str
    description: str
    path: Path


def library_folder() -> Path:
    """Where the shipped files are."""
    return Path(str(files("scenarios") / "library"))


@cache
def list_library(kind: str = "scenario") -> tuple[LibraryEntry, ...]:
    """All shipped files of one kind, by name.

    Args:
        kind: Key of :data:`FOLDERS`.

    Raises:
        KeyError: There is no such kind.
    """
    pattern = {"profile": "*/*.yaml", "lengths": "*_lengths.yaml"}.get(kind, "*.yaml")
    return tuple(sorted(_entry(path, kind) for path in (library_folder() / FOLDERS[kind]).glob(pattern)))


def find_in_library(kind: str, name: str) -> Path | None:
    """The shipped file of this kind and name, or ``None``."""
    return next((entry.path for entry in list_library(kind) if entry.name == name), None)


def library_profiles(model: str) -> tuple[Path, ...]:
    """All shipped profiles of a model, by machine type; empty when there are none."""
    return tuple(entry.path for entry in list_library("profile") if entry.name.partition("/")[0] == model)


def suggestion(name: str, known: list[str] | tuple[str, ...]) -> str:
    """A remedy for a name that is not known: the one that was probably meant, or all there are."""
    lowered = {each.lower(): each for each in known}
    close = difflib.get_close_matches(name.lower()[:100], lowered, n=1)
    if close:
        return f"did you mean {lowered[close[0]]}?"
    shown = ", ".join(known[:20]) + (", ..." if len(known) > 20 else "")
    return f"known are: {shown}" if known else "there are none to choose from"


def library_names(kind: str) -> list[str]:
    """Names of all shipped files of one kind."""
    return [entry.name for entry in list_library(kind)]


def _entry(path: Path, kind: str) -> LibraryEntry:
    tree = read_yaml(path)
    fields = {key: part.content for key in ("name", "machine", "description") if (part := tree.child(key)) is not None}
    if kind == "profile":
        name = f"{path.parent.name}/{fields.get('machine', path.stem)}"
    elif kind == "lengths":
        name = path.stem.removesuffix("_lengths").replace("_", "-")
    else:
        name = str(fields.get("name", path.stem))
    return LibraryEntry(name, kind, str(fields.get("description", "")), path)
