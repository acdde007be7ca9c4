"""The Helix artifact's ini files: sections with line numbers, and values read without evaluating any code.

The artifact writes values as Python expressions over unit names, for instance ``10 * gbps``. Here a small recursive
descent over numbers, ``+ - * /``, parentheses and the names in :data:`UNITS` reads them; nothing else has a meaning.
Where the artifact says gbps or mbps it divides bytes by them, so 10 gbps is 1e10 bytes/s.

The standard ``configparser`` is not used because it forgets at which line a value stood.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Self

from scenarios.errors import Problem, ScenarioError

MAX_FILE_BYTES = 64 << 20
MAX_EXPRESSION_CHARS = 120
MAX_PROBLEMS = 20

RATE, SIZE, TIME = "bytes/s", "bytes", "seconds"
UNITS: Mapping[str, tuple[float, str]] = MappingProxyType(
    {
        "kbps": (1e3, RATE),
        "mbps": (1e6, RATE),
        "gbps": (1e9, RATE),
        "KB": (1e3, SIZE),
        "MB": (1e6, SIZE),
        "GB": (1e9, SIZE),
        "Sec": (1.0, TIME),
        "MilliSec": (1e-3, TIME),
        "MicroSec": (1e-6, TIME),
    }
)
"""Unit name -> (factor, what it measures)."""


def problem(file: Path | str, line: int | None, path: str, value: object, rule: str, remedy: str) -> ScenarioError:
    """An error of one problem."""
    return ScenarioError(Problem(str(file), line, path, value, rule, remedy))


@dataclass(slots=True)
class Problems:
    """Gathers the problems of several files, so that all are told at once."""

    found: list[Problem] = field(default_factory=list)

    def gathered(self) -> Self:
        """For a ``with`` statement: the problems of a :class:`ScenarioError` in the block are kept, and it goes on."""
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, ScenarioError):
            self.found.extend(error.problems)
        return isinstance(error, ScenarioError)

    def check(self) -> None:
        """Raise what was gathered, the first :data:`MAX_PROBLEMS` of it, if anything was."""
        if self.found:
            raise ScenarioError(tuple(self.found[:MAX_PROBLEMS]))


_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?)|(?P<unit>[A-Za-z_]\w*)|(?P<sign>[-+*/()]))", re.ASCII
)


class _Arithmetic:
    """One expression; every method raises ValueError with the rule that it breaks."""

    def __init__(self, text: str) -> None:
        if len(text) > MAX_EXPRESSION_CHARS:
            raise ValueError(f"an expression has at most {MAX_EXPRESSION_CHARS} characters")
        self.tokens: list[tuple[str, str]] = []
        self.measures: set[str] = set()
        at, text = 0, text.strip()
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                raise ValueError("it must be made of numbers, units, + - * / and parentheses")
            self.tokens.append((str(match.lastgroup), match[str(match.lastgroup)]))
            at = match.end()
        self.tokens.reverse()

    def value(self) -> float:
        result = self._sum()
        if self.tokens:
            raise ValueError(f"an operator is missing before {self.tokens[-1][1]}")
        if not math.isfinite(result):
            raise ValueError("it must come to a finite number")
        return result

    def _sign(self, wanted: str) -> str:
        if self.tokens and self.tokens[-1][0] == "sign" and self.tokens[-1][1] in wanted:
            return self.tokens.pop()[1]
        return ""

    def _sum(self) -> float:
        total = self._product()
        while sign := self._sign("+-"):
            other = self._product()
            total = total + other if sign == "+" else total - other
        return total

    def _product(self) -> float:
        result = self._factor()
        while sign := self._sign("*/"):
            other = self._factor()
            if sign == "/" and other == 0:
                raise ValueError("it must not divide by 0")
            result = result * other if sign == "*" else result / other
        return result

    def _factor(self) -> float:
        factor = 1.0
        while sign := self._sign("+-"):
            factor = -factor if sign == "-" else factor
        if self._sign("("):
            inner = self._sum()
            if not self._sign(")"):
                raise ValueError("a closing parenthesis is missing")
            return factor * inner
        kind, text = self.tokens.pop() if self.tokens else ("end", "the end")
        if kind == "number":
            return factor * float(text)
        if kind == "unit" and text in UNITS:
            self.measures.add(UNITS[text][1])
            return factor * UNITS[text][0]
        raise ValueError(f"{text} is no unit" if kind == "unit" else f"a number or unit must stand where {text} is")


def evaluate(
    text: str, *, measure: str | None = None, file: Path | str = "", line: int | None = None, path: str = ""
) -> float:
    """The number that an expression such as ``1000.0 * mbps`` comes to.

    Args:
        text: The expression.
        measure: :data:`RATE`, :data:`SIZE` or :data:`TIME`: units of anything else are an error. Bare numbers pass.
        file: Where it stands, for errors, with ``line`` and ``path``.
        line: See ``file``.
        path: See ``file``.

    Raises:
        ScenarioError: It is not an expression of finite value over numbers and known units.
    """
    try:
        arithmetic = _Arithmetic(text)
        value = arithmetic.value()
        if measure is not None and not arithmetic.measures <= {measure}:
            raise ValueError(f"its units must be of {measure}")
    except ValueError as error:
        known = [name for name, (_, kind) in UNITS.items() if measure in (None, kind)]
        remedy = f"write a number, or a product such as 10 * {known[-1]} with units of {', '.join(known)}"
        raise problem(file, line, path, text, str(error), remedy) from error
    return value


@dataclass(frozen=True, slots=True)
class IniSection:
    """One section: key -> (text, line)."""

    file: Path
    name: str
    line: int
    entries: Mapping[str, tuple[str, int]]

    def error(self, key: str, rule: str, remedy: str) -> ScenarioError:
        """A problem with a key of this section."""
        text, line = self.entries.get(key, (None, self.line))
        return problem(self.file, line, f"[{self.name}] {key}", text, rule, remedy)

    def line_of(self, key: str) -> int:
        """Line of a key, or of the section."""
        return self.entries.get(key, ("", self.line))[1]

    def text(self, key: str) -> str:
        """A value without its quotes."""
        if key not in self.entries:
            raise self.error(key, f"the section must have {key}", f"add {key}=...")
        text = self.entries[key][0]
        return text[1:-1] if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"" else text

    def number(self, key: str, measure: str | None, *, zero: bool = False, unlimited: bool = False) -> float:
        """A quantity above 0.

        Args:
            key: Its key.
            measure: See :func:`evaluate`.
            zero: Whether 0 is accepted too.
            unlimited: Whether a negative number is, which the artifact uses for what does not apply.
        """
        value = evaluate(
            self.text(key), measure=measure, file=self.file, line=self.line_of(key), path=f"[{self.name}] {key}"
        )
        if not (value > 0 or (zero and value == 0) or (unlimited and value < 0)):
            raise self.error(key, "it must be at least 0" if zero else "it must be above 0", "correct the value")
        return value

    def whole(self, key: str, *, minimum: int, maximum: int) -> int:
        """A whole number between bounds."""
        value = evaluate(self.text(key), file=self.file, line=self.line_of(key), path=f"[{self.name}] {key}")
        if not (value.is_integer() and minimum <= value <= maximum):
            raise self.error(key, f"it must be a whole number, {minimum} to {maximum}", "correct the value")
        return int(value)

    def strings(self, key: str) -> list[str]:
        """A list of quoted names."""
        items = self._items(key)
        if not all(isinstance(item, str) for item in items):
            raise self.error(key, "it must be a list of quoted names", "write it as ['a', 'b']")
        return [str(item) for item in items]

    def wholes(self, key: str) -> list[int]:
        """A list of whole numbers."""
        items = self._items(key)
        if not all(isinstance(item, int) for item in items):
            raise self.error(key, "it must be a list of whole numbers", "write it as [0, 1, 2]")
        return [int(item) for item in items]

    def _items(self, key: str) -> list[str | int]:
        text = self.text(key)
        items: list[str | int] = []
        if text[:1] == "[" and text[-1:] == "]" and not text[1:-1].strip():
            return items
        for part in text[1:-1].split(",") if text[:1] == "[" and text[-1:] == "]" else [""]:
            match = re.fullmatch(r"\s*(?:'([^'\\]*)'|\"([^\"\\]*)\"|(-?\d{1,9}))\s*", part, re.ASCII)
            if match is None:
                raise self.error(key, "it must be a list of whole numbers or quoted names", "write it as [0, 1, 2]")
            items.append(int(match[3]) if match[3] is not None else (match[1] or match[2] or ""))
        return items


@dataclass(frozen=True, slots=True)
class IniFile:
    """The sections of a file, in its order."""

    file: Path
    sections: Mapping[str, IniSection]

    def section(self, name: str) -> IniSection:
        """The section called ``name``; a ScenarioError when there is none."""
        if name not in self.sections:
            raise problem(self.file, None, f"[{name}]", None, f"the file must have a section [{name}]", "add it")
        return self.sections[name]


def read_ini(path: Path) -> IniFile:
    """Read ``[section]``, ``key = value`` and whole-line comments (``#`` or ``;``).

    Raises:
        ScenarioError: The file cannot be read, is larger than :data:`MAX_FILE_BYTES`, or has a line that is none of
            those, a section or key twice, or a key before the first section.
    """
    sections: dict[str, IniSection] = {}
    problems = Problems()
    entries: dict[str, tuple[str, int]] | None = None
    for number, raw in enumerate(read_bounded(path, MAX_FILE_BYTES).splitlines(), start=1):
        line = raw.strip()
        key, equals, value = (part.strip() for part in line.partition("="))
        if not line or line[0] in "#;":
            continue
        with problems.gathered():
            if line[0] == "[" and line[-1] == "]":
                name = line[1:-1].strip()
                entries = {}
                if name in sections:
                    raise problem(path, number, line, line, "a section may appear once", "remove or merge one of them")
                sections[name] = IniSection(path, name, number, entries)
            elif not (equals and key):
                raise problem(
                    path, number, "", line, "a line must be [section], key = value or # comment", "correct it"
                )
            elif entries is None:
                raise problem(path, number, key, line, "a key must stand in a section", "add a [section] before it")
            elif key in entries:
                raise problem(path, number, key, value, "a key may appear once in a section", "remove one of them")
            else:
                entries[key] = (value, number)
        if len(problems.found) >= MAX_PROBLEMS:
            break
    problems.check()
    return IniFile(path, sections)


def read_bounded(path: Path, limit: int) -> str:
    """The text of a file of at most ``limit`` bytes; a ScenarioError otherwise."""
    try:
        if not path.is_file():
            raise problem(path, None, "", None, "it must be a file that exists", "check the path")
        with path.open("rb") as stream:
            content = stream.read(limit + 1)
    except OSError as error:
        raise problem(
            path, None, "", str(error), "it must be readable", "check the file and its permissions"
        ) from error
    if len(content) > limit:
        raise problem(path, None, "", f"over {limit} bytes", f"it may have at most {limit} bytes", "check the path")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise problem(path, None, "", str(error), "it must be UTF-8 text", "check that it is the right file") from error
