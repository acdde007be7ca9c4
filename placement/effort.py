"""The seconds that planners count: those of the clock, or, where a plan must be the same every time, those of work.

A planner that stops when its time is up finds other plans on a busy machine than on an idle one. Within
:func:`counted` its seconds are made of the work that it does (flows evaluated, programmes solved), at prices that
are about what the work takes on a machine of 2023; so they repeat, whatever the machine does besides.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

LOOK_S = 2e-5
"""Asking for the time costs this much, so that whoever waits for a deadline reaches it."""
FLOW_S_PER_NODE = 8e-6
"""One exact maximum flow, for each node of the cluster."""
LP_S, SIMPLEX_S = 3e-4, 3e-5
"""One linear programme solved; one iteration of the simplex method."""
MIP_S, MIP_SIMPLEX_S, BRANCH_S = 4e-3, 3e-4, 2e-3
"""One programme in whole numbers solved; each of its iterations, cuts and heuristics included; one branch."""
ELEMENT_S = 5e-9
"""One element of an array through one operation."""
BLOCK_S = 2e-5
"""One block laid together from its lanes, or given to a programme as a column."""
SOLVER_LOOK_S = 0.02
"""A solver in whole numbers asks about so often whether to go on; in the largest programmes less often."""
MOST_S = 1e6
"""More than any limit."""
SLACK = 60.0
"""A solver's own limit is this many times what is left: it is there for what never ends, and not to be met."""


class _Work:
    """Seconds of work done."""

    def __init__(self) -> None:
        self.done_s = 0.0


_work: ContextVar[_Work | None] = ContextVar("planning work", default=None)


def now_s() -> float:
    """The time that planners measure by; only differences mean anything."""
    work = _work.get()
    if work is None:
        return time.perf_counter()
    work.done_s += LOOK_S
    return work.done_s


def spend(seconds: float) -> None:
    """Work that costs so much has been done; on the clock it has taken its time already."""
    work = _work.get()
    if work is not None:
        work.done_s += seconds


def solver_limit_s(left_s: float) -> float:
    """Seconds of the clock that a solver may take when planners have ``left_s``."""
    return left_s if _work.get() is None else left_s * SLACK


def solver_looks(left_s: float) -> int | None:
    """How often a solver in whole numbers may ask whether to go on, where time is measured by work."""
    return None if _work.get() is None else max(1, math.ceil(min(left_s, MOST_S) / SOLVER_LOOK_S))


@contextmanager
def counted() -> Iterator[None]:
    """Let planners called within the block measure by work."""
    token = _work.set(_Work())
    try:
        yield
    finally:
        _work.reset(token)
