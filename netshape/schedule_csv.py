"""Schedules from CSV traces of a link, for instance a mobile network's measured bandwidth.

The first line names the columns: ``time_s`` or ``time_ms``, and at least one of :data:`COLUMNS`. An empty cell leaves
its condition as it is. Rows are in the order of time.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from netshape.conditions import IndependentLoss, Jitter, LinkConditions
from netshape.errors import NetworkError
from netshape.schedule import ConditionSchedule, ConditionStep

MAX_FILE_BYTES = 1 << 26
MAX_LINE_CHARACTERS = 4096
MAX_ROWS = 1_000_000
MAX_PROBLEMS = 20
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
_FLAGS = {"1": True, "true": True, "yes": True, "up": True, "0": False, "false": False, "no": False, "down": False}
_TIMES = {"time_s": 1.0, "time_ms": 1e-3}

# Column -> condition, and its value from the number.
_NUMBERS: dict[str, tuple[str, Callable[[float], Any]]] = {
    "bandwidth_bytes_per_s": ("bandwidth_bytes_per_s", float),
    "bandwidth_bit_per_s": ("bandwidth_bytes_per_s", lambda value: value / 8),
    "bandwidth_kbit_per_s": ("bandwidth_bytes_per_s", lambda value: value * 125),
    "bandwidth_mbit_per_s": ("bandwidth_bytes_per_s", lambda value: value * 125_000),
    "bandwidth_gbit_per_s": ("bandwidth_bytes_per_s", lambda value: value * 125_000_000),
    "latency_s": ("latency_s", float),
    "latency_ms": ("latency_s", lambda value: value / 1000),
    "jitter_s": ("jitter", lambda value: Jitter(spread_s=value) if value else None),
    "jitter_ms": ("jitter", lambda value: Jitter(spread_s=value / 1000) if value else None),
    "loss_probability": ("loss", lambda value: IndependentLoss(probability=value) if value else None),
    "duplicate_probability": ("duplicate_probability", float),
    "reorder_probability": ("reorder_probability", float),
    "queue_limit_bytes": ("queue_limit_bytes", float),
}
COLUMNS = (*_NUMBERS, "up")
"""Columns beside the time; those with a unit in the name are numbers in it, jitter is uniform, loss independent."""


def read_schedule(path: Path, *, repeat_s: float | None = None) -> ConditionSchedule:
    """The schedule in a CSV file.

    Args:
        path: The file.
        repeat_s: Period after which it begins again; see :class:`~netshape.schedule.ConditionSchedule`.

    Raises:
        NetworkError: The file cannot be read, is too large or has broken rows; one line each, the first
            :data:`MAX_PROBLEMS` of them, as ``FILE:LINE: column: "value": rule``.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise NetworkError(f"{path}: it is larger than {MAX_FILE_BYTES >> 20} MiB; shorten it")
        with path.open(encoding="utf-8-sig", newline="") as stream:
            steps = _Rows(str(path), stream).steps()
    except OSError as error:
        raise NetworkError(f"{path}: it cannot be read: {error.strerror}; check the path") from None
    except UnicodeDecodeError:
        raise NetworkError(f"{path}: it is not text in UTF-8; save it as that") from None
    try:
        return ConditionSchedule(steps=tuple(steps), repeat_s=repeat_s)
    except NetworkError as error:
        raise NetworkError(f"{path}: {error}") from None


class _Rows:
    """The rows of one file, and what is wrong with them."""

    def __init__(self, file: str, stream: TextIO) -> None:
        self._file = file
        self._line = 0
        self._stream = stream
        self._problems: list[str] = []

    def steps(self) -> list[ConditionStep]:
        rows = csv.reader(self._lines(), strict=True)
        steps: list[ConditionStep] = []
        last_s = -math.inf
        try:
            names = [name.strip() for name in next(rows, [])]
            self._check_columns(names)
            for row in rows:
                if not any(cell.strip() for cell in row):
                    continue
                step = self._step(names, row, last_s)
                if step is not None:
                    last_s = step.time_s
                    steps.append(step)
                if len(steps) > MAX_ROWS:
                    self._fail(f"there are more than {MAX_ROWS} rows; shorten the file")
                if len(self._problems) >= MAX_PROBLEMS:
                    break
        except csv.Error as error:
            self._tell(f"this is no CSV: {error}")
        if self._problems:
            raise NetworkError("\n".join(self._problems))
        if not steps:
            raise NetworkError(f"{self._file}: it has no rows below the column names; give at least one")
        return steps

    def _lines(self) -> Iterator[str]:
        """Lines of bounded length, counted."""
        while line := self._stream.readline(MAX_LINE_CHARACTERS + 1):
            self._line += 1
            if len(line) > MAX_LINE_CHARACTERS:
                self._fail(f"the line is longer than {MAX_LINE_CHARACTERS} characters")
            yield line

    def _check_columns(self, names: list[str]) -> None:
        if not names:
            raise NetworkError(f"{self._file}: it is empty; the first line must name the columns")
        doubles = sorted({name for name in names if names.count(name) > 1})
        if doubles:
            self._fail(f"column {doubles[0]!r} is there twice; keep one")
        unknown = [name for name in names if name not in _TIMES and name not in COLUMNS]
        if unknown:
            self._fail(f"column {unknown[0][:40]!r} is unknown; known are time_s, time_ms, {', '.join(COLUMNS)}")
        if sum(name in _TIMES for name in names) != 1:
            self._fail("there must be one column of times, time_s or time_ms")
        conditions = [_NUMBERS[name][0] if name in _NUMBERS else name for name in names if name not in _TIMES]
        if not conditions:
            self._fail(f"there is no column beside the time; add one of {', '.join(COLUMNS)}")
        doubles = sorted({name for name in conditions if conditions.count(name) > 1})
        if doubles:
            self._fail(f"{doubles[0]} is given by two columns; keep one")

    def _step(self, names: list[str], row: list[str], last_s: float) -> ConditionStep | None:
        if len(row) != len(names):
            self._tell(f"there are {len(row)} cells, but {len(names)} columns")
            return None
        time_s: float | None = None
        changes: list[tuple[str, Any]] = []
        before = len(self._problems)
        for name, cell in zip(names, (cell.strip() for cell in row), strict=True):
            if name in _TIMES:
                time_s = self._time(name, cell, last_s)
            elif cell:
                self._take(name, cell, changes)
        if len(self._problems) > before or time_s is None:
            return None
        if not changes:
            self._tell("nothing changes in this row; remove it")
            return None
        return ConditionStep(time_s=time_s, changes=tuple(changes))

    def _time(self, name: str, cell: str, last_s: float) -> float | None:
        number = self._number(name, cell)
        if number is None:
            return None
        time_s = number * _TIMES[name]
        if not 0 <= time_s < math.inf:
            self._tell_cell(name, cell, "it must be a time from 0 on")
        elif time_s <= last_s:
            self._tell_cell(name, cell, "it is not later than the row before; sort the rows")
        else:
            return time_s
        return None

    def _take(self, name: str, cell: str, changes: list[tuple[str, Any]]) -> None:
        """Add what a cell changes, checked on its own."""
        if name == "up":
            flag = _FLAGS.get(cell.lower())
            if flag is None:
                self._tell_cell(name, cell, "it must be true or false")
            else:
                changes.append(("up", flag))
            return
        number = self._number(name, cell)
        if number is None:
            return
        condition, convert = _NUMBERS[name]
        try:
            value = convert(number)
            LinkConditions(**{condition: value})
        except NetworkError as error:
            self._tell_cell(name, cell, str(error))
        else:
            changes.append((condition, value))

    def _number(self, name: str, cell: str) -> float | None:
        if _NUMBER.fullmatch(cell):
            return float(cell)
        self._tell_cell(name, cell, "it must be a number" if cell else "it must not be empty")
        return None

    def _tell_cell(self, name: str, cell: str, rule: str) -> None:
        self._tell(f'{name}: "{ascii(cell[:40])[1:-1]}": {rule}')

    def _tell(self, what: str) -> None:
        self._problems.append(f"{self._file}:{self._line}: {what}")

    def _fail(self, what: str) -> None:
        """Tell this and what was found before, and stop."""
        self._tell(what)
        raise NetworkError("\n".join(self._problems))
