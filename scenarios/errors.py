"""What the scenario edge can complain about: everything that is wrong with a user's files, at once."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

SHOWN_CHARACTERS = 80
"""Longest rendering of an offending value in a message."""


def printable(text: str) -> str:
    """``text`` with control characters, line ends and lone surrogates escaped."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def shown(value: object) -> str:
    """An offending value for a message: one line, printable, at most :data:`SHOWN_CHARACTERS` long."""
    try:
        text = json.dumps(value, ensure_ascii=False) if isinstance(value, str) else json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        text = repr(value)
    text = printable(text)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 3]}..."


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        file: The file, or the command-line option, that holds it.
        line: Line in the file, from 1; ``None`` where there is none.
        path: Dotted path of keys and list indices, ``cluster.nodes.0.count``; empty for the whole file.
        value: The offending value; ``None`` where there is none to show.
        rule: The rule that it breaks.
        remedy: What to do.
    """

    file: str
    line: int | None
    path: str
    value: object
    rule: str
    remedy: str

    def __str__(self) -> str:
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        parts = [where, self.path, "" if self.value is None else shown(self.value)]
        told = ": ".join(part for part in parts if part)
        return printable(f"{told}: {self.rule}; {self.remedy}" if self.remedy else f"{told}: {self.rule}")


class ScenarioError(ValueError):
    """Files or options that do not make a scenario.

    Attributes:
        problems: Every problem that was found, in the order of the files.
    """

    def __init__(self, problems: Problem | Iterable[Problem]) -> None:
        found = (problems,) if isinstance(problems, Problem) else tuple(problems)
        self.problems: tuple[Problem, ...] = tuple(dict.fromkeys(found)) if _hashable(found) else found
        super().__init__("\n".join(str(problem) for problem in self.problems))


def _hashable(problems: tuple[Problem, ...]) -> bool:
    """Whether doubles can be found by hashing; a value may be a list or a mapping."""
    try:
        hash(problems)
    except TypeError:
        return False
    return True
