"""What both solver backends share: limits, results, and the watch that follows and stops a running solver."""

from __future__ import annotations

import math
import queue
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from placement.effort import now_s
from placement.plan import TracePoint
from placement.planners.milp_program import Floats

POLL_S = 0.05
"""How long the caller's thread waits between two looks at a running solver, so that Ctrl-C gets through."""

PROGRESS = 1e-6
"""Least relative change of incumbent or bound that makes a point of the trace."""


class Outcome(Enum):
    """Why a solver ended."""

    OPTIMAL = "optimal"
    """It proved its solution best within the gap."""
    STOPPED = "stopped"
    """Time limit, target or Ctrl-C."""
    INFEASIBLE = "infeasible"
    """It proved that there is no solution."""
    FAILED = "failed"
    """It gave up; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When a solver ends and how it works.

    Attributes:
        time_limit_s: Seconds that it may take; no limit when infinite.
        gap: Relative distance between bound and incumbent at which it ends.
        threads: Threads that it may use.
        seed: Its only source of randomness.
    """

    time_limit_s: float
    gap: float
    threads: int
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SolverResult:
    """What a solver found.

    Attributes:
        outcome: Why it ended.
        values: Best solution, shape ``(columns,)``; ``None`` when it has none.
        bound: Least upper bound on the objective that it proved; infinite when it has none.
        message: The solver's own word for the outcome.
    """

    outcome: Outcome
    values: Floats | None
    bound: float
    message: str = ""


def _take_back_interrupts() -> None:
    """Let Python have Ctrl-C again: Gurobi takes it over when it starts, and writes a line to standard output then."""
    if threading.current_thread() is threading.main_thread():
        handler = signal.getsignal(signal.SIGINT)
        # None belongs to a handler that was not set by Python; nothing is known of it.
        if handler is not None:
            signal.signal(signal.SIGINT, handler)


class Watch:
    """Follows a solver from the thread that runs it, and tells it when to stop.

    Args:
        started_s: :func:`placement.effort.now_s` at the planner's start; the trace counts from there.
        ceiling: Upper bound on the objective that is known beforehand.
        target: The solver stops when its incumbent reaches this.
    """

    def __init__(self, *, started_s: float, ceiling: float, target: float) -> None:
        self._started_s, self._target = started_s, target
        self._incumbent, self._bound = 0.0, ceiling
        self._stop = threading.Event()
        self._points: queue.SimpleQueue[TracePoint] = queue.SimpleQueue()
        self.trace: list[TracePoint] = []
        self.interrupted = False

    @property
    def stopping(self) -> bool:
        """Whether the solver should end as soon as it can; backends ask this in their callbacks."""
        return self._stop.is_set()

    def report(self, incumbent: float, bound: float) -> None:
        """Note what the solver knows; what is no progress worth a point, or not known yet, is passed over."""
        if math.isfinite(incumbent):
            self._incumbent = max(self._incumbent, incumbent)
        if math.isfinite(bound):
            self._bound = min(self._bound, max(bound, self._incumbent))
        last = self.trace[-1] if self.trace else None
        if (
            last is None
            or self._incumbent > last.incumbent_tokens_per_s * (1 + PROGRESS)
            or self._bound < last.bound_tokens_per_s * (1 - PROGRESS)
        ):
            self.add_point()
        if self._incumbent >= self._target:
            self._stop.set()

    def add_point(self) -> None:
        """Add what is known now to the trace; the last point tells when the search ended."""
        point = TracePoint(now_s() - self._started_s, self._incumbent, self._bound)
        self.trace.append(point)
        self._points.put(point)

    def run(
        self, solve: Callable[[], SolverResult], progress: Callable[[TracePoint], None] | None = None
    ) -> SolverResult:
        """Run a solver in a thread of its own and wait for it.

        The first Ctrl-C asks the solver to stop and goes on waiting for its best solution; a second one is raised.

        Args:
            solve: Calls the solver.
            progress: Is given every new point of the trace, in the caller's thread. What it raises stops the solver.
        """
        done: list[SolverResult | BaseException] = []
        finished = threading.Event()

        def work() -> None:
            try:
                done.append(solve())
            except BaseException as error:  # handed over to the caller's thread, which raises it
                done.append(error)
            finally:
                finished.set()

        threading.Thread(target=work, name="milp solver", daemon=True).start()
        try:
            self._follow(finished, progress)
        finally:
            self._stop.set()
            # Not Thread.join: in Python 3.11 a Ctrl-C in it makes a running thread look ended.
            finished.wait()
        self.pass_on(progress)
        (result,) = done
        if isinstance(result, BaseException):
            raise result
        return result

    def _follow(self, finished: threading.Event, progress: Callable[[TracePoint], None] | None) -> None:
        while True:
            try:
                while not finished.wait(POLL_S):
                    _take_back_interrupts()
                    self.pass_on(progress)
                return
            except KeyboardInterrupt:
                if self.interrupted:
                    raise
                self.interrupted = True
                self._stop.set()

    def pass_on(self, progress: Callable[[TracePoint], None] | None) -> None:
        """Give the new points of the trace to ``progress``."""
        while not self._points.empty():
            point = self._points.get()
            if progress is not None:
                progress(point)
