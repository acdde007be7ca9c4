"""Linear and mixed-integer programmes solved by HiGHS, with typed answers and one thread."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, cast

import highspy
import numpy as np
import numpy.typing as npt

from placement.effort import BRANCH_S, LP_S, MIP_S, MIP_SIMPLEX_S, SIMPLEX_S, solver_limit_s, solver_looks, spend

Vector = npt.NDArray[np.float64]

_INFINITY: float = highspy.kHighsInf

INTERRUPTIBLE_S = 5.0
"""Time limit of a mixed-integer solve above which a keyboard interrupt can end it."""


class Outcome(Enum):
    """How a solve ended."""

    OPTIMAL = "optimal"
    FEASIBLE = "feasible"
    """A limit was reached with a solution at hand."""
    INFEASIBLE = "infeasible"
    UNKNOWN = "unknown"
    """A limit was reached without a solution, or the solver gave up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the solver found.

    Attributes:
        outcome: How it ended.
        value: Objective of ``columns``; NaN without a solution.
        bound: No solution is better than this (the dual bound of a maximisation is at least ``value``).
        columns: Value of each column; shape ``(columns,)``, empty without a solution.
        duals: Dual value of each row of a linear programme, non-negative for a binding ``<=`` row of a maximisation;
            shape ``(rows,)``; empty for mixed-integer programmes.
    """

    outcome: Outcome
    value: float
    bound: float
    columns: Vector
    duals: Vector

    @property
    def has_solution(self) -> bool:
        """Whether ``columns`` holds one."""
        return self.outcome in (Outcome.OPTIMAL, Outcome.FEASIBLE)


class Maximisation:
    """``max cost . x`` subject to rows ``lower <= a . x <= upper`` and ``x >= 0``; rows and columns may be added.

    A linear programme is warm-started from its last basis when it is solved again.

    Attributes:
        interrupted: Whether Ctrl-C ended the last solve.

    Args:
        tolerance: By how much rows, bounds and whole numbers may be missed; the solver's own ones when ``None``.
    """

    def __init__(self, *, tolerance: float | None = None) -> None:
        self._highs: Any = cast(Any, highspy).Highs()
        for option, value in (("output_flag", False), ("threads", 1), ("parallel", "off"), ("random_seed", 0)):
            self._highs.setOptionValue(option, value)
        if tolerance is not None:
            for option in ("primal_feasibility_tolerance", "mip_feasibility_tolerance"):
                self._highs.setOptionValue(option, tolerance)
        self._highs.changeObjectiveSense(highspy.ObjSense.kMaximize)
        self._integer = False
        self._whole: list[int] = []
        self.interrupted = False

    @property
    def columns(self) -> int:
        """Number of columns."""
        return int(self._highs.getNumCol())

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(self._highs.getNumRow())

    def add_row(
        self, columns: Sequence[int], values: Sequence[float], *, lower: float = -_INFINITY, upper: float = _INFINITY
    ) -> None:
        """Add a row with the given entries."""
        self._highs.addRow(lower, upper, len(columns), np.asarray(columns, np.int32), np.asarray(values, np.float64))

    def add_column(
        self,
        cost: float,
        rows: Sequence[int] = (),
        values: Sequence[float] = (),
        *,
        upper: float = _INFINITY,
        integer: bool = False,
    ) -> int:
        """Add a column with entries in existing rows; returns its index."""
        index = self.columns
        self._highs.addCol(cost, 0.0, upper, len(rows), np.asarray(rows, np.int32), np.asarray(values, np.float64))
        if integer:
            self._whole.append(index)
            self._integer = True
        return index

    def set_upper(self, column: int, upper: float) -> None:
        """Change the upper bound of a column."""
        self._highs.changeColBounds(column, 0.0, upper)

    def start_from(self, columns: Sequence[float]) -> None:
        """Give the solver a solution to start from."""
        self._mark_whole()
        solution = highspy.HighsSolution()
        solution.col_value = list(columns)
        self._highs.setSolution(solution)

    def solve(
        self,
        *,
        time_limit_s: float = _INFINITY,
        node_limit: int | None = None,
        target: float | None = None,
        relative_gap: float = 1e-9,
        absolute_gap: float = 1e-9,
    ) -> Answer:
        """Solve it; a keyboard interrupt ends the solve like the time limit.

        Args:
            time_limit_s: Most time for this solve, see :mod:`placement.effort`.
            node_limit: Branch-and-bound nodes, for limits that do not depend on the machine.
            target: A solution at least this good is good enough.
            relative_gap: Distance of bound and solution that counts as proof, as a share of the solution.
            absolute_gap: The same in units of the objective; below 1 where only whole numbers are possible.
        """
        self._mark_whole()
        limit_s = solver_limit_s(max(time_limit_s, 0.0))
        options: list[tuple[str, Any]] = [("time_limit", self._highs.getRunTime() + limit_s)]
        if self._integer:
            options += [
                ("mip_rel_gap", relative_gap),
                ("mip_abs_gap", absolute_gap),
                ("mip_max_nodes", 2**31 - 1 if node_limit is None else node_limit),
                ("objective_target", -_INFINITY if target is None else target),
            ]
        for option, value in options:
            self._highs.setOptionValue(option, value)
        looks = solver_looks(time_limit_s)
        if self._integer and (looks is not None or time_limit_s > INTERRUPTIBLE_S):
            self._run_interruptibly(looks)
        else:
            self._highs.run()
        info = self._highs.getInfo()
        iterations = max(0, info.simplex_iteration_count)
        if self._integer:
            spend(MIP_S + MIP_SIMPLEX_S * iterations + BRANCH_S * max(0, info.mip_node_count))
        else:
            spend(LP_S + SIMPLEX_S * iterations)
        return self._answer()

    def _mark_whole(self) -> None:
        """Tell the solver of new integer columns: all at once, as each call costs as much as adding a column."""
        if self._whole:
            kinds = [highspy.HighsVarType.kInteger] * len(self._whole)
            self._highs.changeColsIntegrality(len(self._whole), np.asarray(self._whole, np.int32), kinds)
            self._whole = []

    def _run_interruptibly(self, looks: int | None) -> None:
        """Solve in a thread of its own: the solver's code holds back Ctrl-C from the thread that it runs in.

        Args:
            looks: End when the solver has asked so often whether to go on, which it does at the same steps every time.
        """
        stop = threading.Event()
        asked = itertools.count(1)

        def ask(event: Any) -> None:
            if stop.is_set() or (looks is not None and next(asked) > looks):
                event.interrupt()

        sources = (self._highs.cbSimplexInterrupt, self._highs.cbIpmInterrupt, self._highs.cbMipInterrupt)
        for source in sources:
            source.subscribe(ask)
        done = threading.Event()

        def work() -> None:
            self._highs.run()
            done.set()

        threading.Thread(target=work, name="highs").start()
        # Not by Thread.join: after an interrupt in it a thread counts as ended that still runs.
        while not done.is_set():
            try:
                done.wait(0.05)
            except KeyboardInterrupt:
                stop.set()
        for source in sources:
            source.unsubscribe(ask)
        self.interrupted = stop.is_set()

    def write(self, path: str) -> None:
        """Write the model in LP or MPS format, by the ending of ``path``."""
        self._mark_whole()
        self._highs.writeModel(path)

    def _answer(self) -> Answer:
        status = self._highs.getModelStatus()
        info = self._highs.getInfo()
        statuses = highspy.HighsModelStatus
        primal = info.primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible
        if status == statuses.kOptimal:
            outcome = Outcome.OPTIMAL
        elif status == statuses.kInfeasible:
            outcome = Outcome.INFEASIBLE
        else:
            outcome = Outcome.FEASIBLE if primal else Outcome.UNKNOWN
        # In any other state, an interrupt among them, the dual bound need not be proven.
        trusted = (statuses.kOptimal, statuses.kTimeLimit, statuses.kSolutionLimit)
        none = np.empty(0)
        solution = self._highs.getSolution()
        found = outcome in (Outcome.OPTIMAL, Outcome.FEASIBLE)
        value = float(info.objective_function_value) if found else float("nan")
        proven = value if outcome is Outcome.OPTIMAL else _INFINITY
        return Answer(
            outcome=outcome,
            value=value,
            bound=float(info.mip_dual_bound) if self._integer and status in trusted else proven,
            columns=np.array(solution.col_value) if found else none,
            duals=np.array(solution.row_dual) if found and not self._integer else none,
        )
