"""What planning for throughput is worth: every planner's plan and the chosen one, emulated, on each library cluster.

Run with ``python -m pytest tests/benchmarks/test_plan_objectives.py -m benchmark -s``; about ten minutes.
"""

from __future__ import annotations

import dataclasses
import time

import pytest
from published import needs_artifact, published_placement

from emulator.emulation import Emulation
from emulator.predicting import predict_run
from emulator.spec import EmulationSpec
from placement.errors import PlanError
from placement.plan import Plan, problem_for
from placement.planners import KNOWN, planner, takes
from scenarios.loader import load_scenario
from scenarios.objectives import Objective
from scenarios.planning import best_plan
from scenarios.ranking import warm_run, with_plan

pytestmark = pytest.mark.benchmark

OFFLINE = {
    "helix-10-30b": (),
    "helix-24-70b-offline": (),
    "helix-24-geo-70b": (),
    "helix-42-70b": (),
    "modern-20-70b": ("full",),
    "modern-20-geo-70b": ("full",),
}
"""Scenario of each library cluster -> overrides that put it under full load."""
PLANNER_LIMIT_S = 5.0
WARM_S = 320.0


def own_plans(spec: EmulationSpec) -> list[Plan]:
    """One plan of each planner that finds one within its time."""
    problem = problem_for(spec.cluster, spec.model, spec.profiles, spec.seed)
    plans: list[Plan] = []
    for name in sorted(KNOWN):
        options = {"time_limit_s": PLANNER_LIMIT_S} if takes(name, "time_limit_s") else {}
        try:
            plans.append(planner(name, **options).plan(problem))
        except PlanError as error:
            print(f"  {name:9s} no plan: {error.problems[0][:90]}")
    return plans


def served(spec: EmulationSpec, plan: Plan) -> tuple[float, float, float]:
    """Decode tokens/s: predicted, from a warm start, and in the scenario's own run."""
    seen = predict_run(with_plan(spec, plan))
    warm = warm_run(spec, plan, seen, WARM_S)["decode_throughput_tokens_per_s"]
    own = Emulation(dataclasses.replace(with_plan(spec, plan), drain=False)).run()["decode_throughput_tokens_per_s"]
    return seen.decode_tokens_per_s, warm, own


@pytest.mark.parametrize("scenario", OFFLINE)
def test_throughput(scenario: str) -> None:
    overrides = OFFLINE[scenario]
    # A plan that restricts links must not keep them from the others.
    spec = load_scenario(scenario, overrides=overrides, sets=["placement={planner: petals}"]).spec
    print(
        f"\n{scenario}: flow, depth; decode tokens/s predicted, emulated from a warm start, in the scenario's own run"
    )
    started_s = time.perf_counter()
    chosen = best_plan(scenario, Objective.THROUGHPUT, overrides=overrides)[0].plan
    seconds = time.perf_counter() - started_s
    best = served(spec, chosen)
    print(f"  {'chosen':9s} {row(chosen, best)}  planned in {seconds:.1f} s ({chosen.planner})", flush=True)
    for plan in own_plans(spec):
        figures = served(spec, plan)
        print(f"  {plan.planner:9s} {row(plan, figures)}", flush=True)
        if plan.placement != chosen.placement:
            # Two plans that serve alike may change places from run to run.
            assert best[2] >= 0.97 * figures[2]


def row(plan: Plan, figures: tuple[float, float, float]) -> str:
    predicted, warm, own = figures
    return f"{plan.flow.tokens_per_s:8.1f} {plan.depth:3}  {predicted:7.1f} {warm:7.1f} {own:7.1f}"


@needs_artifact
def test_published_placement() -> None:
    spec = load_scenario("helix-24-70b-offline").spec
    published = dataclasses.replace(spec, placement=published_placement(spec.cluster))
    before = Emulation(published).run()["decode_throughput_tokens_per_s"]
    chosen = best_plan("helix-24-70b-offline", Objective.THROUGHPUT)[0].plan
    after = Emulation(with_plan(spec, chosen)).run()["decode_throughput_tokens_per_s"]
    print(
        f"\n24 nodes, 660 s: published placement {before:.1f}, chosen {after:.1f} tokens/s, {after / before - 1:+.1%}"
    )
    assert after > 1.15 * before
