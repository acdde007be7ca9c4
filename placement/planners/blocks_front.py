"""The front of flow against depth: deep chains raise the max flow, not what users get (PLANNER.md, last section)."""

from __future__ import annotations

import dataclasses

from placement.effort import now_s
from placement.errors import PlanError
from placement.plan import Plan, Problem
from placement.planners.blocks import BlocksPlanner, least_depth
from placement.planners.progress import require_positive

PRECISION = 5e-3
"""Each plan of the front is about as close to the greatest flow of its depth: what users get depends on more."""


def depth_front(problem: Problem, *, time_limit_s: float = 30.0) -> list[Plan]:
    """Plans of which none is both shallower and no slower than another; rising depth and flow.

    The deepest is the best plan of ``blocks`` without a cap; each further one has at least one node less on its longest
    path than the one before.

    Args:
        problem: What is to be placed.
        time_limit_s: Seconds for all plans; the front ends at the depth reached by then.

    Raises:
        PlanError: Not even a plan without a cap on the depth exists, or the time limit is not positive.
    """
    require_positive("depth front", "time_limit_s", time_limit_s)
    deadline_s = now_s() + time_limit_s
    # The flow is capped by T(k), so half of the time finds nearly all of it and leaves the rest for the other depths.
    plans = [BlocksPlanner(time_limit_s=time_limit_s / 2).plan(problem)]
    while plans[-1].depth > least_depth(problem) and (left_s := deadline_s - now_s()) > 0:
        try:
            shallower = BlocksPlanner(
                time_limit_s=left_s,
                max_depth=plans[-1].depth - 1,
                ceiling_tokens_per_s=plans[-1].flow.tokens_per_s * (1 + 1e-9),
                precision=PRECISION,
            )
            plans.append(shallower.plan(problem))
        except PlanError:
            break
    front: list[Plan] = []
    for plan in sorted(plans, key=lambda plan: (plan.depth, -plan.flow.tokens_per_s)):
        if not front or plan.flow.tokens_per_s > front[-1].flow.tokens_per_s * (1 + 1e-9):
            front.append(dataclasses.replace(plan, planner="blocks"))
    return front
