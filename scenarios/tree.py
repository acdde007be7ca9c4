"""A file's content with the place that every part of it comes from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

Scalar: TypeAlias = str | int | float | bool | None
Plain: TypeAlias = "Scalar | list[Plain] | dict[str, Plain]"
Key: TypeAlias = str | int
TreePath: TypeAlias = tuple[Key, ...]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where something is written.

    Attributes:
        file: File, or command-line option, as messages show it.
        line: Line from 1; ``None`` on the command line.
        folder: What relative paths in it are relative to.
    """

    file: str
    line: int | None
    folder: Path


@dataclass(frozen=True, slots=True)
class Tree:
    """A scalar, list or mapping; immutable, so that parts can be shared.

    Attributes:
        content: The value; parts are trees again.
        origin: Where it is written; for the values of a mapping the line of the key.
    """

    content: Scalar | list[Tree] | dict[str, Tree]
    origin: Origin

    def child(self, key: Key) -> Tree | None:
        """The part under ``key``, if there is one; list indices may be text."""
        if isinstance(self.content, dict):
            return self.content.get(str(key))
        if isinstance(self.content, list):
            index = int(key) if isinstance(key, int) or (key.isascii() and key.isdigit() and len(key) < 9) else -1
            return self.content[index] if 0 <= index < len(self.content) else None
        return None

    def at(self, path: TreePath) -> Tree | None:
        """The part at ``path``, if there is one."""
        node: Tree | None = self
        for key in path:
            if node is None:
                return None
            node = node.child(key)
        return node

    def nearest(self, path: TreePath) -> Tree:
        """The part at ``path``, or the innermost one around it that exists."""
        node = self
        for key in path:
            inner = node.child(key)
            if inner is None:
                return node
            node = inner
        return node

    def plain(self) -> Plain:
        """The content alone."""
        if isinstance(self.content, dict):
            return {key: part.plain() for key, part in self.content.items()}
        if isinstance(self.content, list):
            return [part.plain() for part in self.content]
        return self.content

    def size(self) -> int:
        """Number of scalars, lists and mappings."""
        if isinstance(self.content, (dict, list)):
            return 1 + sum(part.size() for part in self.parts())
        return 1

    def parts(self) -> Iterator[Tree]:
        """The parts of a list or mapping."""
        if isinstance(self.content, dict):
            yield from self.content.values()
        elif isinstance(self.content, list):
            yield from self.content

    def put(self, path: TreePath, new: Tree) -> Tree:
        """A copy with ``new`` at ``path``; missing mappings on the way are made.

        Raises:
            KeyError: A list has no such index, or a scalar stands in the way; the argument is the path up to there.
        """
        return self._put(path, new, ())

    def _put(self, path: TreePath, new: Tree, done: TreePath) -> Tree:
        if not path:
            return new
        key, rest = path[0], path[1:]
        if isinstance(self.content, dict):
            inner = self.content.get(str(key)) or Tree({}, new.origin)
            return Tree({**self.content, str(key): inner._put(rest, new, (*done, key))}, self.origin)
        if isinstance(self.content, list):
            part = self.child(key)
            if part is None:
                raise KeyError((*done, key))
            # By index: an alias may have put the same part into the list twice.
            parts = list(self.content)
            parts[int(key)] = part._put(rest, new, (*done, key))
            return Tree(parts, self.origin)
        raise KeyError(done)

    def without(self, path: TreePath) -> Tree:
        """A copy that lacks the mapping entry at ``path``, if it has it."""
        if not path:
            return self
        part = self.child(path[0])
        if part is None:
            return self
        if len(path) > 1:
            return self.put(path[:1], part.without(path[1:]))
        if not isinstance(self.content, dict):
            return self
        return Tree({key: each for key, each in self.content.items() if key != path[0]}, self.origin)


def from_plain(value: object, origin: Origin) -> Tree:
    """A tree of plain data that all comes from one place."""
    if isinstance(value, dict):
        return Tree({str(key): from_plain(part, origin) for key, part in value.items()}, origin)
    if isinstance(value, (list, tuple)):
        return Tree([from_plain(part, origin) for part in value], origin)
    if value is None or isinstance(value, (str, int, float)):
        return Tree(value, origin)
    raise TypeError(f"{type(value).__name__} has no YAML form")


def dotted(path: TreePath) -> str:
    """``cluster.nodes.0.count``; a part that is longer than any real key is cut."""
    return ".".join(str(key)[:80] for key in path)
