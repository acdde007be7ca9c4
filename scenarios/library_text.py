"""How the generated files of the library are written: heads, folded texts, short mappings and wrapped lists."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

WIDTH = 110


def head(kind: str, title: str, command: str) -> list[str]:
    """First lines of a file.

    Args:
        kind: What it holds.
        title: One line of comment.
        command: What generates it.
    """
    return [f"# {title}", f"# Generated: {command}", "schema_version: 1", f"kind: {kind}"]


def folded(key: str, text: str) -> list[str]:
    """A long text, broken between words."""
    for together in (" %", " ms", " -m "):  # a number keeps its unit, a command its module
        text = text.replace(together, together.replace(" ", "\0"))
    lines = textwrap.wrap(text, WIDTH)
    return [f"{key}: >-", *(f"  {line}".replace("\0", " ") for line in lines)]


def mapping(values: Mapping[str, Any]) -> str:
    """A mapping on one line."""
    return "{" + ", ".join(f"{key}: {value}" for key, value in values.items()) + "}"


def flow(key: str, items: Iterable[Any]) -> list[str]:
    """A list over as few lines as it takes; pairs stay whole."""
    text = ", ".join(str(list(item)) if isinstance(item, tuple) else str(item) for item in items)
    # Pairs stay whole: their inner blanks are hidden from the line breaker.
    lines = (
        textwrap.wrap(f"[{text}]".replace(", ", ",\0").replace("],\0", "], "), WIDTH) if "[[" in f"[{text}]" else None
    )
    wrapped = [line.replace("\0", " ") for line in lines] if lines else textwrap.wrap(f"[{text}]", WIDTH)
    return [f"{key}:", *(f"  {line}" for line in wrapped)]
