"""Named overrides and ``--set``: changes to a scenario before it is resolved and checked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from scenarios.errors import Problem, ScenarioError
from scenarios.library import suggestion
from scenarios.references import SPOTS, Resolver
from scenarios.tree import Key, Origin, Tree, TreePath, dotted
from scenarios.validation import problem_at
from scenarios.yaml_text import parse_yaml


@dataclass(frozen=True, slots=True)
class Change:
    """One new value.

    Attributes:
        path: Where it goes.
        value: What goes there; its origin is what messages about it show.
    """

    path: TreePath
    value: Tree


def changed(tree: Tree, overrides: Sequence[str], sets: Sequence[str], resolver: Resolver) -> Tree:
    """The scenario with the chosen overrides, in order, and then the ``--set`` options applied.

    A new value replaces what is at its path; nothing is merged. Missing mappings on the way are made, so that an
    unknown path becomes an unknown key, which the schema reports with a suggestion.

    Args:
        tree: The scenario file.
        overrides: Names in its ``overrides``.
        sets: ``a.b.0.c=value`` each; the value is YAML.
        resolver: Reads a file when a path leads into it, and takes the problems.
    """
    changes = [*_named(tree, overrides, resolver.problems), *_set(sets, resolver.problems)]
    return with_changes(tree.without(("overrides",)), changes, resolver)


def with_changes(tree: Tree, changes: Iterable[Change], resolver: Resolver) -> Tree:
    """The scenario with new values in their places, in order; see :func:`changed`."""
    for change in changes:
        tree = _applied(tree, change, resolver)
    return tree


def _named(tree: Tree, overrides: Sequence[str], problems: list[Problem]) -> Iterator[Change]:
    section = tree.child("overrides")
    known = section.content if section is not None and isinstance(section.content, dict) else {}
    for name in overrides:
        chosen = known.get(name)
        if chosen is None:
            origin = tree.origin
            remedy = suggestion(name, list(known)) if known else "add it under overrides"
            problems.append(
                Problem(
                    origin.file, origin.line, "overrides", name, "the scenario has no override of this name", remedy
                )
            )
        elif not isinstance(chosen.content, dict):
            problems.append(
                problem_at(tree, ("overrides", name), "an override is a mapping", "write `path: value` lines")
            )
        else:
            for path, value in chosen.content.items():
                yield Change(tuple(path.split(".")), value)


def _set(sets: Sequence[str], problems: list[Problem]) -> Iterator[Change]:
    for text in sets:
        path, sign, value = text.partition("=")
        origin = Origin("--set", None, Path.cwd())
        keys = tuple(path.strip().split("."))
        if not sign or not all(keys):
            problems.append(
                Problem("--set", None, "", text, "it is not of the form a.b.c=value", "for instance duration='60 s'")
            )
            continue
        try:
            yield Change(keys, parse_yaml(value, origin, numbered=False))
        except ScenarioError as error:
            problems += [Problem(p.file, p.line, dotted(keys), value, p.rule, p.remedy) for p in error.problems]


def _applied(tree: Tree, change: Change, resolver: Resolver) -> Tree:
    for length in range(1, len(change.path)):
        tree = _opened(tree, change.path[:length], change.path, resolver)
        if change.path[:length] in resolver.broken:
            return tree
    try:
        return tree.put(change.path, change.value)
    except KeyError as error:
        resolver.problems.append(_no_way(tree, error.args[0], change))
        return tree


def _opened(tree: Tree, prefix: TreePath, path: TreePath, resolver: Resolver) -> Tree:
    """The scenario with the references along a path replaced by what they stand for."""
    if prefix in SPOTS or (len(prefix) == 2 and prefix[0] == "profiles"):
        tree = resolver.resolve_at(tree, prefix)
    if prefix == ("cluster", "machines"):
        tree = resolver.inline_machines(tree)
    if prefix == ("placement", "ranges") and path != prefix:
        tree = resolver.inline_placement(tree)
    return tree


def _no_way(tree: Tree, stop: TreePath, change: Change) -> Problem:
    """Why a path leads nowhere; ``stop`` is as far as it gets."""
    origin = change.value.origin
    around = tree.at(stop)
    if around is not None:
        rule = f"{dotted(stop)} is one value, it has no parts"
        remedy = f"set {dotted(stop)} itself"
    else:
        parts = list(tree.nearest(stop).parts())
        last: Key = stop[-1]
        rule = f"{dotted(stop[:-1])} is a list of {len(parts)}, it has no part {dotted((last,))}"
        remedy = f"use an index from 0 to {len(parts) - 1}" if parts else "set the whole list"
    return Problem(origin.file, origin.line, dotted(change.path), None, rule, remedy)
