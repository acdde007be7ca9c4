"""Safe YAML with line numbers, limits and no surprises.

PyYAML's parser supplies events; the tree is built here, because its constructor loses the lines, accepts duplicate
keys, expands alias bombs and follows YAML 1.1, where ``no`` is false and ``1:30`` is ninety. Scalars follow the core
schema of YAML 1.2 instead, and keys are always text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from scenarios.errors import Problem, ScenarioError
from scenarios.tree import Origin, Plain, Scalar, Tree

MAX_BYTES = 2_000_000
MAX_NODES = 300_000
"""Scalars, lists and mappings of one file, with every alias counted as what it stands for."""
MAX_DEPTH = 40
TOO_DEEP = f"lists and mappings are nested deeper than {MAX_DEPTH}", "flatten the file"

_INT = re.compile(r"[-+]?[0-9]+")
_BASED = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_INFINITE = re.compile(r"(?P<sign>[-+]?)\.(?:inf|Inf|INF)")
_WORDS: dict[str, Scalar] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
}
_DIGITS = 18
"""Most digits of a whole number; every figure of a scenario fits 64 bits."""
_TAG = "tag:yaml.org,2002:"
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(path: Path) -> Tree:
    """The content of a file.

    Args:
        path: File; also what messages call it.

    Raises:
        ScenarioError: It is missing, no file, too large, not UTF-8, empty, not YAML, or breaks a limit above.
    """
    origin = Origin(str(path), None, path.parent)
    text = _read_text(path, origin)
    tree = parse_yaml(text, origin)
    if tree.content is None:
        raise _error(origin, 1, "the file is empty", "write a mapping, starting with schema_version: 1")
    return tree


def parse_yaml(text: str, origin: Origin, *, numbered: bool = True) -> Tree:
    """The content of some text; empty text is null.

    Args:
        text: YAML, one document.
        origin: Where it comes from.
        numbered: Whether lines mean something; on a command line they do not.

    Raises:
        ScenarioError: Not YAML, or beyond a limit.
    """
    try:
        return _Builder(origin, numbered).build(yaml.parse(text, Loader=_LOADER))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = " ".join(part for part in (error.context, error.problem) if part)
        line = mark.line + 1 if mark is not None and numbered else None
        if "nesting depth" in what:
            # A scanner that reads ahead may meet its own limit, which is far beyond ours, first.
            raise _error(origin, line, *TOO_DEEP) from None
        raise _error(origin, line, f"this is not YAML: {what}", "check indentation, quotes and brackets") from None
    except (yaml.YAMLError, ValueError) as error:
        if isinstance(error, ScenarioError):
            raise
        reason = " ".join(str(getattr(error, "reason", error)).split())
        raise _error(
            origin, 1 if numbered else None, f"this is not YAML: {reason}", "remove characters that cannot be printed"
        ) from None


def dump_yaml(value: Plain) -> str:
    """YAML text that :func:`parse_yaml` reads as ``value``; keys keep their order."""
    text: str = yaml.dump(
        value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None
    )
    return text


def _read_text(path: Path, origin: Origin) -> str:
    limit = f"at most {MAX_BYTES / 1e6:g} MB (2,000,000 bytes) are read"
    try:
        if path.is_dir():
            raise _error(origin, None, "it is a directory, but a file belongs here", "name a YAML file in it")
        if not path.exists():
            raise _error(origin, None, "there is no such file", "check the path; it is relative to the file naming it")
        if not path.is_file():
            raise _error(origin, None, "it is not a regular file", "name a YAML file")
        if (size := path.stat().st_size) > MAX_BYTES:
            raise _error(
                origin, None, f"the file has {size / 1e6:.1f} MB, but {limit}", "split it, or keep data in a trace"
            )
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except ScenarioError:
        raise
    except (OSError, ValueError) as error:
        # ValueError: a path with a NUL character or a lone surrogate.
        reason = getattr(error, "strerror", None) or str(error)
        raise _error(origin, None, f"it cannot be read: {reason}", "check the path and its permissions") from None
    if len(content) > MAX_BYTES:
        raise _error(origin, None, f"the file is too large: {limit}", "split it, or keep data in a trace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _error(origin, line, "the file is not UTF-8 text", "save it as UTF-8") from None


@dataclass(slots=True)
class _Builder:
    """Builds a tree from parser events, as they come: a bomb is stopped before it is in memory."""

    origin: Origin
    numbered: bool
    anchors: dict[str, tuple[Tree, int]] = field(default_factory=dict)
    nodes: int = 0

    def build(self, events: Iterable[Any]) -> Tree:
        """The tree of the only document."""
        source: Iterator[Any] = iter(events)
        documents = 0
        tree = Tree(None, self.origin)
        for event in source:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    line = _line_of(event)
                    raise self._error(line, "a second document starts here", "keep one document in a file")
            elif isinstance(event, yaml.NodeEvent):
                tree = self._node(event, source, 0, None)
        return tree

    def _node(self, event: Any, source: Iterator[Any], depth: int, key_line: int | None) -> Tree:
        line = _line_of(event)
        if depth > MAX_DEPTH:
            raise self._error(line, *TOO_DEEP)
        origin = Origin(self.origin.file, (key_line or line) if self.numbered else None, self.origin.folder)
        if isinstance(event, yaml.AliasEvent):
            name = str(event.anchor)
            if name not in self.anchors:
                raise self._error(line, f"*{name[:80]} has no anchor before it", "add an anchor, or write the value")
            known, size = self.anchors[name]
            self._count(size, line)
            return Tree(known.content, origin)
        before = self.nodes
        self._count(1, line)
        if isinstance(event, yaml.ScalarEvent):
            tree = Tree(self._scalar(event, line), origin)
        elif isinstance(event, yaml.SequenceStartEvent):
            self._check_tag(event.tag, ("seq",), line)
            tree = Tree(self._items(source, depth), origin)
        else:
            self._check_tag(event.tag, ("map",), line)
            tree = Tree(self._entries(source, depth), origin)
        if event.anchor is not None:
            self.anchors[event.anchor] = (tree, self.nodes - before)
        return tree

    def _items(self, source: Iterator[Any], depth: int) -> list[Tree]:
        items: list[Tree] = []
        while not isinstance(event := next(source), yaml.SequenceEndEvent):
            items.append(self._node(event, source, depth + 1, None))
        return items

    def _entries(self, source: Iterator[Any], depth: int) -> dict[str, Tree]:
        entries: dict[str, Tree] = {}
        lines: dict[str, int] = {}
        merged: list[Tree] = []
        while not isinstance(event := next(source), yaml.MappingEndEvent):
            line = _line_of(event)
            key = self._key(event, line)
            value = self._node(next(source), source, depth + 1, line)
            if key == "<<" and event.style in (None, ""):
                merged += self._merges(value, line)
                continue
            if key in entries:
                rule = f'the key "{key[:80]}" stands here for the second time, after line {lines[key]}'
                raise self._error(line, rule, "remove one of the two")
            entries[key], lines[key] = value, line
        for tree in merged:
            if isinstance(tree.content, dict):
                self._count(tree.size(), 1)
                entries = {**tree.content, **entries}
        return entries

    def _merges(self, value: Tree, line: int) -> list[Tree]:
        """The mappings of a merge key, the most important one first."""
        found = value.content if isinstance(value.content, list) else [value]
        if not all(isinstance(each.content, dict) for each in found):
            raise self._error(line, "<< merges mappings only", "give it an alias of a mapping")
        return found

    def _key(self, event: Any, line: int) -> str:
        if not isinstance(event, yaml.ScalarEvent):
            rule = "a key must be text, not a list, a mapping or an alias"
            raise self._error(line, rule, "write one word before the colon")
        self._count(1, line)
        self._check_tag(event.tag, ("str", "int"), line)
        key: str = event.value
        if not key.strip() or event.anchor is not None:
            rule = "a key is empty or has an anchor"
            raise self._error(line, rule, "write one plain word before the colon")
        return key

    def _scalar(self, event: Any, line: int) -> Scalar:
        text: str = event.value
        if event.tag not in (None, "!"):
            self._check_tag(event.tag, ("str", "int", "float", "bool", "null"), line)
            return text if event.tag == f"{_TAG}str" else self._resolve(text, line)
        return self._resolve(text, line) if event.implicit[0] and event.tag is None else text

    def _resolve(self, text: str, line: int) -> Scalar:
        """A plain scalar in the core schema of YAML 1.2."""
        if text in _WORDS:
            return _WORDS[text]
        whole = _INT.fullmatch(text)
        if whole or _BASED.fullmatch(text):
            if len(text) > _DIGITS + 2:
                rule = f"a whole number has more than {_DIGITS} digits"
                raise self._error(line, rule, "write a smaller number, or quote the text")
            return int(text) if whole else int(text, 0)
        if _FLOAT.fullmatch(text):
            return float(text)
        if match := _INFINITE.fullmatch(text):
            return -math.inf if match["sign"] == "-" else math.inf
        return text

    def _check_tag(self, tag: str | None, allowed: tuple[str, ...], line: int) -> None:
        if tag not in (None, "!", *(f"{_TAG}{name}" for name in allowed)):
            shown = str(tag).replace(_TAG, "!!")[:80]
            raise self._error(line, f"the tag {shown} is not allowed here", "remove the tag")

    def _count(self, size: int, line: int) -> None:
        self.nodes += size
        if self.nodes > MAX_NODES:
            rule = f"with its aliases written out the file has more than {MAX_NODES:,} values"
            raise self._error(line, rule, "use fewer aliases, or split the file")

    def _error(self, line: int, rule: str, remedy: str) -> ScenarioError:
        return _error(self.origin, line if self.numbered else None, rule, remedy)


def _line_of(event: Any) -> int:
    line: int = event.start_mark.line
    return line + 1


def _error(origin: Origin, line: int | None, rule: str, remedy: str) -> ScenarioError:
    return ScenarioError(Problem(origin.file, line, "", None, rule, remedy))


class _Dumper(yaml.SafeDumper):
    """Quotes text that YAML 1.1 or the core schema of YAML 1.2 would take for something else."""

    def ignore_aliases(self, _data: Any) -> bool:
        """Write everything out: the text is a record, not source."""
        return True


def _text_node(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # Only double quotes keep line separators such as U+0085; PyYAML would fold them into blanks.
    return dumper.represent_scalar(f"{_TAG}str", text, None if text.isprintable() else '"')


_Dumper.add_representer(str, _text_node)
for _tag, _pattern in (
    ("int", re.compile(rf"^(?:{_INT.pattern}|{_BASED.pattern})$")),
    ("float", re.compile(rf"^{_FLOAT.pattern}$")),
):
    _Dumper.add_implicit_resolver(f"{_TAG}{_tag}", _pattern, list("-+0123456789."))
