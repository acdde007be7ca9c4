"""A mixed-integer linear program as plain sparse arrays, which either solver takes as they are."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int32]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Program:
    """Maximise ``cost @ x`` subject to ``row_lower <= A @ x <= row_upper`` and ``lower <= x <= upper``.

    ``A`` has shape ``(rows, columns)`` and is kept by rows: row ``r`` has the entries ``first[r]`` to ``first[r + 1]``
    of ``index`` and ``value``.

    Attributes:
        column_names: Name of each column; shape ``(columns,)``.
        cost: Coefficient in the objective; shape ``(columns,)``.
        lower: Least value; shape ``(columns,)``.
        upper: Greatest value, ``inf`` where there is none; shape ``(columns,)``.
        integer: Whether the column takes whole numbers only; shape ``(columns,)``.
        row_names: Name of each row; shape ``(rows,)``.
        row_lower: Least value, ``-inf`` where there is none; shape ``(rows,)``.
        row_upper: Greatest value, ``inf`` where there is none; shape ``(rows,)``.
        first: Where each row's entries begin; shape ``(rows + 1,)``.
        index: Column of each entry; shape ``(nonzeros,)``.
        value: Coefficient of each entry; shape ``(nonzeros,)``.
    """

    column_names: tuple[str, ...]
    cost: Floats
    lower: Floats
    upper: Floats
    integer: Flags
    row_names: tuple[str, ...]
    row_lower: Floats
    row_upper: Floats
    first: Ints
    index: Ints
    value: Floats

    @property
    def columns(self) -> int:
        """Number of variables."""
        return len(self.column_names)

    @property
    def rows(self) -> int:
        """Number of constraints."""
        return len(self.row_names)

    @property
    def nonzeros(self) -> int:
        """Number of coefficients in the constraints."""
        return len(self.value)

    def objective(self, values: Floats) -> float:
        """``cost @ values``; shape of ``values``: ``(columns,)``."""
        return float(self.cost @ values)

    def violation(self, values: Floats) -> float:
        """How far ``values`` are outside a bound, a row or the whole numbers, at worst; 0 when feasible."""
        entries_row = np.repeat(np.arange(self.rows), np.diff(self.first))
        activity = np.bincount(entries_row, weights=self.value * values[self.index], minlength=self.rows)
        worst = [
            self.lower - values,
            values - self.upper,
            self.row_lower - activity,
            activity - self.row_upper,
            np.abs(values - np.round(values))[self.integer],
        ]
        return max(float(one.max(initial=0.0)) for one in worst)


@dataclass(slots=True)
class ProgramBuilder:
    """Collects columns and rows one by one."""

    _columns: list[tuple[str, float, float, float, bool]] = field(default_factory=list)
    _rows: list[tuple[str, float, float]] = field(default_factory=list)
    _first: list[int] = field(default_factory=lambda: [0])
    _index: list[int] = field(default_factory=list)
    _value: list[float] = field(default_factory=list)

    def column(
        self, name: str, *, cost: float = 0.0, lower: float = 0.0, upper: float = math.inf, integer: bool = False
    ) -> int:
        """Add a variable; returns its index."""
        self._columns.append((name, cost, lower, upper, integer))
        return len(self._columns) - 1

    def binary(self, name: str) -> int:
        """Add a variable that is 0 or 1; returns its index."""
        return self.column(name, upper=1.0, integer=True)

    def fix(self, column: int, value: float) -> None:
        """Leave a variable only one value."""
        name, cost, _, _, integer = self._columns[column]
        self._columns[column] = (name, cost, value, value, integer)

    def row(
        self, name: str, terms: Iterable[tuple[int, float]], *, lower: float = -math.inf, upper: float = math.inf
    ) -> None:
        """Add ``lower <= sum of coefficient * column <= upper``; each column at most once in ``terms``."""
        for column, coefficient in terms:
            self._index.append(column)
            self._value.append(coefficient)
        self._first.append(len(self._index))
        self._rows.append((name, lower, upper))

    def build(self) -> Program:
        """The program so far."""
        return Program(
            column_names=tuple(name for name, *_ in self._columns),
            cost=np.array([cost for _, cost, *_ in self._columns], dtype=np.float64),
            lower=np.array([lower for _, _, lower, *_ in self._columns], dtype=np.float64),
            upper=np.array([upper for *_, upper, _ in self._columns], dtype=np.float64),
            integer=np.array([integer for *_, integer in self._columns], dtype=np.bool_),
            row_names=tuple(name for name, _, _ in self._rows),
            row_lower=np.array([lower for _, lower, _ in self._rows], dtype=np.float64),
            row_upper=np.array([upper for _, _, upper in self._rows], dtype=np.float64),
            first=np.array(self._first, dtype=np.int32),
            index=np.array(self._index, dtype=np.int32),
            value=np.array(self._value, dtype=np.float64),
        )
