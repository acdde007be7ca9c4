"""Planning measured by work: the same plan every time, whatever the machine does."""

from __future__ import annotations

import time

import numpy as np
import pytest

from placement.effort import LOOK_S, counted, now_s, solver_limit_s, spend
from placement.layers import Placement
from placement.plan import Problem, problem_for
from placement.planners.linear import Maximisation, Outcome
from placement.replanning import Replan, cost_over_horizon, replan
from scenarios.loader import load_scenario

BUDGET_S = 0.3


def problem_of(name: str) -> tuple[Problem, Placement]:
    spec = load_scenario(name, sets=["placement={planner: swarm}"]).spec
    return problem_for(spec.cluster, spec.model, spec.profiles, 3), spec.placement


def test_on_the_clock_it_is_the_clock() -> None:
    before = time.perf_counter()
    spend(1e6)
    assert before <= now_s() <= time.perf_counter()
    assert solver_limit_s(2.0) == 2.0


def test_work_counts_and_so_does_looking() -> None:
    with counted():
        first = now_s()
        spend(5.0)
        assert now_s() == pytest.approx(first + 5.0 + LOOK_S)
        assert solver_limit_s(2.0) > 60.0
        with counted():
            assert now_s() == pytest.approx(LOOK_S)
        assert now_s() == pytest.approx(first + 5.0 + 2 * LOOK_S)
    assert abs(now_s() - time.perf_counter()) < 1.0


def market_split() -> Maximisation:
    """A programme in whole numbers that branch and bound takes for ever to solve (Cornuejols and Dawande, 1998)."""
    weights = np.random.default_rng(1).integers(0, 100, (5, 40))
    programme = Maximisation()
    for _ in range(40):
        programme.add_column(0.0, upper=1.0, integer=True)
    for row in weights:
        slacks = [programme.add_column(-1.0), programme.add_column(-1.0)]
        half = float(row.sum() // 2)
        programme.add_row([*range(40), *slacks], [*map(float, row), 1.0, -1.0], lower=half, upper=half)
    return programme


def test_a_programme_in_whole_numbers_ends_by_work() -> None:
    def once() -> tuple[float, float, float]:
        with counted():
            answer = market_split().solve(time_limit_s=0.5)
            assert answer.outcome is Outcome.FEASIBLE
            return answer.value, answer.bound, now_s()

    assert once() == once()


def test_a_plan_by_work_is_the_same_on_a_slowed_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three regions, where the planner never proves anything in its time and stops for want of it."""
    problem, current = problem_of("helix-24-geo-70b")
    gone = [problem.cluster.nodes[0].name, problem.cluster.nodes[9].name]

    def once() -> Replan:
        with counted():
            return replan(
                problem,
                current,
                budget_s=BUDGET_S,
                move_cost=cost_over_horizon(problem, current, 600.0),
                forbidden=gone,
            )

    found = once()
    evaluate = type(problem.throughput).tokens_per_s

    def slowly(*arguments: object) -> float:
        time.sleep(2e-5)
        return evaluate(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(type(problem.throughput), "tokens_per_s", slowly)
    again = once()
    assert again.plan.placement == found.plan.placement
    assert [point.seconds for point in again.plan.trace] == [point.seconds for point in found.plan.trace]
    # The budget is what ended it.
    assert found.plan.gap > 0
    assert BUDGET_S <= found.plan.seconds < 2 * BUDGET_S
