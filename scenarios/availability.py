"""Availability traces: a CSV with columns ``time_s,node,event`` that says when machines went and came.

An event is ``down`` (or ``crash``), ``up`` (or ``join``), ``drain`` or ``preempt``. Rows may be in any order, since
traces are often written machine by machine; of equal times the row farther up is first. A row at time 0 tells what a
machine is when the run starts. Columns are found by name; further ones are ignored.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from emulator.churn.spec import NodeEventKind
from scenarios.errors import Problem, ScenarioError
from scenarios.library import suggestion

MAX_FILE_BYTES = 64_000_000
MAX_LINE_BYTES = 4_096
MAX_ROWS = 1_000_000
MAX_PROBLEMS = 20
MAX_SECONDS = 1e10
"""Greatest time that a row may hold: three centuries."""
COLUMNS = ("time_s", "node", "event")
KINDS = {
    "down": NodeEventKind.CRASH,
    "crash": NodeEventKind.CRASH,
    "up": NodeEventKind.JOIN,
    "join": NodeEventKind.JOIN,
    "drain": NodeEventKind.DRAIN,
    "preempt": NodeEventKind.PREEMPT,
}
_NUMBER = re.compile(r"[+-]?(\d{1,20}\.?\d{0,30}|\.\d{1,30})([eE][+-]?\d{1,3})?", re.ASCII)


class Row(NamedTuple):
    """One row: seconds since the start of the trace, machine, what happened, line in the file."""

    time_s: float
    node: str
    kind: NodeEventKind
    line: int


def read_availability(path: Path, nodes: Collection[str]) -> list[Row]:
    """The rows of a trace, in order of time.

    Args:
        path: The file.
        nodes: Names of the machines that there are; a mapping or a set, for speed.

    Raises:
        ScenarioError: The file is missing, too large, has no such columns, or broken rows (the first
            :data:`MAX_PROBLEMS` of them).
    """
    reader = _Reader(str(path), nodes)
    for number, line in _lines(path):
        if line.strip():
            reader.take(number, line)
        if len(reader.problems) >= MAX_PROBLEMS or reader.columns == ():
            break
    if reader.columns is None:
        rule = "the trace is empty"
        reader.problems.append(Problem(str(path), None, "", None, rule, f"start it with {','.join(COLUMNS)}"))
    if reader.problems:
        raise ScenarioError(reader.problems)
    return sorted(reader.rows, key=lambda row: row.time_s)


class _Reader:
    def __init__(self, file: str, nodes: Collection[str]) -> None:
        self._file = file
        self._nodes = nodes
        self.columns: tuple[int, ...] | None = None
        self.rows: list[Row] = []
        self.problems: list[Problem] = []

    def take(self, number: int, line: str) -> None:
        """One line that is not blank; the first one names the columns."""
        cells = _cells(line)
        if self.columns is None:
            header = [cell.lower() for cell in cells]
            good = all(header.count(column) == 1 for column in COLUMNS)
            self.columns = tuple(header.index(column) for column in COLUMNS) if good else ()
            if not good:
                rule = f"the first line must name the columns {', '.join(COLUMNS)}, each once"
                self._bad(number, "", line.strip(), rule, f"write {','.join(COLUMNS)}")
        elif len(cells) <= max(self.columns):
            rule = f"a row needs at least {max(self.columns) + 1} columns, as the header has"
            self._bad(number, "", line.strip(), rule, "complete the row or remove it")
        elif len(self.rows) >= MAX_ROWS:
            rule = f"an availability trace has at most {MAX_ROWS:,} rows"
            self._bad(number, "", None, rule, "split it")
            self.columns = ()
        else:
            self._row(number, *(cells[column] for column in self.columns))

    def _row(self, number: int, time: str, node: str, event: str) -> None:
        time_s = float(time) if _NUMBER.fullmatch(time) else math.nan
        if not 0 <= time_s <= MAX_SECONDS:
            rule = f"it must be a number of seconds, 0 to {MAX_SECONDS:g}"
            self._bad(number, "time_s", time, rule, "correct the row or remove it")
        if node not in self._nodes:
            self._bad(number, "node", node, "there is no such node", suggestion(node, list(self._nodes)))
        kind = KINDS.get(event.lower())
        if kind is None:
            self._bad(number, "event", event, "there is no such event", suggestion(event, tuple(KINDS)))
        if 0 <= time_s <= MAX_SECONDS and node in self._nodes and kind is not None:
            self.rows.append(Row(time_s, node, kind, number))

    def _bad(self, number: int, column: str, value: str | None, rule: str, remedy: str) -> None:
        self.problems.append(Problem(self._file, number, column, value, rule, remedy))


def _cells(line: str) -> list[str]:
    if '"' in line:
        try:
            return [cell.strip() for cell in next(csv.reader([line]), [])]
        except csv.Error:
            return []  # Too few columns, which is told.
    return [cell.strip() for cell in line.split(",")]


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines, with bounds on file and line length."""

    def bad(line: int | None, value: object, rule: str, remedy: str) -> ScenarioError:
        return ScenarioError(Problem(str(path), line, "", value, rule, remedy))

    try:
        if not path.is_file():
            raise bad(None, None, "there is no such file", "check the path; it is relative to the file naming it")
        if (size := path.stat().st_size) > MAX_FILE_BYTES:
            raise bad(None, f"{size} bytes", f"the file has more than {MAX_FILE_BYTES} bytes", "split it")
        with path.open("rb") as stream:
            number = 0
            while line := stream.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(line) > MAX_LINE_BYTES:
                    shown = line[:60].decode("ascii", "replace")
                    raise bad(number, shown, f"a line has at most {MAX_LINE_BYTES} bytes", "check that it is a CSV")
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8", "replace")
    except (OSError, ValueError) as error:
        if isinstance(error, ScenarioError):
            raise
        # ValueError: a path with a NUL character or a lone surrogate.
        reason = getattr(error, "strerror", None) or str(error)
        raise bad(None, None, f"it cannot be read: {reason}", "check the path and its permissions") from error
