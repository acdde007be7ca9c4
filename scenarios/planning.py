"""Plans a scenario's placement, and ranks plans by what they serve in short emulations."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from emulator.emulation import Emulation
from emulator.spec import EmulationSpec
from placement.errors import PlanError
from placement.plan import Plan, problem_for
from placement.planners import KNOWN, takes
from placement.planners.blocks_front import depth_front
from scenarios.errors import Problem, ScenarioError
from scenarios.loader import LoadedScenario, load_scenario

DEFAULT_PLANNER = "blocks"
HEURISTICS = ("petals", "swarm", "uniform")
"""Planners whose plans stand beside the front of ``blocks`` when plans are ranked."""
HEAT_S, HEAT_WARM_UP_S = 100.0, 40.0
FINAL_S, FINAL_WARM_UP_S = 240.0, 60.0
FINALISTS = 3
FRONT_SHARE = 0.3
"""Part of the time limit that goes into finding candidates; the rest is for emulating them."""
FRONT_PLANS = 6
"""Most plans of the front that are emulated: evenly spaced over its shallower two thirds, where the best have been."""


class Objective(StrEnum):
    """What a plan is chosen for."""

    FLOW = "flow"
    """Greatest max flow: the planner's own plan."""
    THROUGHPUT = "throughput"
    """Most decode tokens/s served."""
    LATENCY = "latency"
    """Least median decode latency."""
    GOODPUT = "goodput"
    """Most requests/s that meet the scenario's SLOs."""


_SCORES: Mapping[Objective, Callable[[Mapping[str, Any]], float]] = {
    Objective.THROUGHPUT: lambda summary: float(summary["decode_throughput_tokens_per_s"]),
    Objective.LATENCY: lambda summary: -float(summary["decode_latency_s"]["p50"] or float("inf")),
    Objective.GOODPUT: lambda summary: float(summary.get("goodput_requests_per_s", 0.0)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """A plan and what it served in its last emulation; no summary where plans were not emulated."""

    plan: Plan
    summary: Mapping[str, Any] | None = None


def plan_scenario(
    scenario: str,
    *,
    planner: str = DEFAULT_PLANNER,
    time_limit_s: float = 30.0,
    options: Mapping[str, object] | None = None,
    overrides: Sequence[str] = (),
    sets: Sequence[str] = (),
) -> LoadedScenario:
    """The scenario with its placement made by ``planner``, whatever it says itself; its ``plan`` is there.

    Raises:
        ScenarioError: The scenario is wrong, or the planner finds no plan.
        PlanError: There is no such planner.
    """
    chosen = dict(options or {})
    if takes(planner, "time_limit_s"):
        chosen.setdefault("time_limit_s", time_limit_s)
    section = json.dumps({"planner": planner, "options": chosen})
    loaded = load_scenario(scenario, overrides=overrides, sets=[*sets, f"placement={section}"])
    assert loaded.plan is not None
    return loaded


def with_placement(
    scenario: str, plan: Plan, *, overrides: Sequence[str] = (), sets: Sequence[str] = ()
) -> LoadedScenario:
    """The scenario with a plan's placement, whatever it says itself.

    Raises:
        ScenarioError: The scenario is wrong.
    """
    written = placement_file(plan)
    section = {key: written[key] for key in ("ranges", "links", "allow_over_profile") if key in written}
    return load_scenario(scenario, overrides=overrides, sets=[*sets, f"placement={json.dumps(section)}"])


def best_plan(
    scenario: str,
    objective: Objective,
    *,
    time_limit_s: float = 30.0,
    overrides: Sequence[str] = (),
    sets: Sequence[str] = (),
) -> list[Ranked]:
    """Candidates in order of ``objective``, best first, by emulating the scenario itself for a short time.

    Candidates are plans from the front of flow against depth, and the heuristics. All run a heat of 100 emulated
    seconds, as far as time allows; the best three go on to 240. Every run has the scenario's own workload and seed.
    A closed loop that takes minutes to fill the KV caches (40 nodes and more) is still filling up by then, so the
    ranking of large clusters says who starts best.

    Raises:
        ScenarioError: The scenario is wrong, no planner finds a plan, or goodput is asked for without SLOs.
    """
    started_s = time.perf_counter()
    # Any plan will do to load the scenario; one that restricts links would keep them from the others.
    base = plan_scenario(scenario, planner="petals", overrides=overrides, sets=sets)
    if objective is Objective.GOODPUT and not base.spec.slo.given:
        rule = "goodput needs objectives, and the scenario has no slo"
        raise ScenarioError(Problem(scenario, None, "slo", None, rule, "add slo, or choose another objective"))
    plans = _candidates(base, time_limit_s * FRONT_SHARE, scenario, overrides, sets)
    score = _SCORES[objective]
    deadline_s = started_s + time_limit_s
    heats = _heat(base, plans, HEAT_S, HEAT_WARM_UP_S, deadline_s - FINALISTS * time_limit_s / 10)
    heats.sort(key=lambda ranked: -score(ranked.summary or {}))
    finals = _heat(base, [ranked.plan for ranked in heats[:FINALISTS]], FINAL_S, FINAL_WARM_UP_S, deadline_s)
    finals.sort(key=lambda ranked: -score(ranked.summary or {}))
    return [*finals, *heats[len(finals) :]]


def compare_planners(
    scenario: str, *, time_limit_s: float = 30.0, overrides: Sequence[str] = (), sets: Sequence[str] = ()
) -> tuple[list[Ranked], list[str]]:
    """One plan of each planner, by name, emulated for 240 s, and a sentence for each planner that finds none.

    Raises:
        ScenarioError: The scenario is wrong for every planner.
    """
    ranked: list[Ranked] = []
    failures: list[str] = []
    for name in sorted(KNOWN):
        try:
            loaded = plan_scenario(scenario, planner=name, time_limit_s=time_limit_s, overrides=overrides, sets=sets)
        except ScenarioError as error:
            failures.append(f"{name}: {error.problems[0].rule}")
            if len(failures) == len(KNOWN):
                raise
            continue
        assert loaded.plan is not None
        ranked += _heat(loaded, [loaded.plan], FINAL_S, FINAL_WARM_UP_S, math.inf)
    return ranked, failures


def _heat(
    base: LoadedScenario, plans: Sequence[Plan], duration_s: float, warm_up_s: float, deadline_s: float
) -> list[Ranked]:
    """Emulate plans one after another; past the deadline none is begun, but the first always is."""
    ranked: list[Ranked] = []
    for plan in plans:
        if ranked and time.perf_counter() > deadline_s:
            break
        spec = dataclasses.replace(with_plan(base.spec, plan), duration_s=duration_s, warm_up_s=warm_up_s, drain=False)
        ranked.append(Ranked(plan=plan, summary=Emulation(spec).run()))
    return ranked


def _candidates(
    base: LoadedScenario, time_limit_s: float, scenario: str, overrides: Sequence[str], sets: Sequence[str]
) -> list[Plan]:
    spec = base.spec
    assert base.plan is not None
    front = depth_front(problem_for(spec.cluster, spec.model, spec.profiles, spec.seed), time_limit_s=time_limit_s)
    shallow = front[: max(1, math.ceil(len(front) * 2 / 3))]
    count = min(FRONT_PLANS, len(shallow))
    plans = [shallow[round(index * (len(shallow) - 1) / max(1, count - 1))] for index in range(count)]
    for name in HEURISTICS:
        try:
            made = plan_scenario(scenario, planner=name, overrides=overrides, sets=sets).plan
        except (ScenarioError, PlanError):
            # A heuristic that cannot place this model is no candidate; blocks has found a plan already.
            continue
        assert made is not None
        plans.append(made)
    return plans


def with_plan(spec: EmulationSpec, plan: Plan) -> EmulationSpec:
    """The same run on another placement."""
    cluster = spec.cluster if plan.links is None else spec.cluster.reduced_to(plan.links)
    return dataclasses.replace(spec, placement=plan.placement, cluster=cluster)


def plan_figures(plan: Plan, objective: Objective, summary: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A plan as JSON holds it."""
    figures: dict[str, Any] = {
        "planner": plan.planner,
        "solver": plan.solver or None,
        "status": plan.status.value,
        "objective": objective.value,
        "flow_tokens_per_s": plan.flow.tokens_per_s,
        "bound_tokens_per_s": plan.bound_tokens_per_s,
        "gap": plan.gap,
        "depth": plan.depth,
        "seconds": plan.seconds,
        "placement": {name: [held.start, held.stop] for name, held in plan.placement.ranges.items()},
        "warnings": list(plan.warnings),
        "trace": [
            [_finite(value) for value in (point.seconds, point.incumbent_tokens_per_s, point.bound_tokens_per_s)]
            for point in plan.trace
        ],
    }
    if summary is not None:
        figures["emulated"] = {
            key: summary[key] for key in ("decode_throughput_tokens_per_s", "request_throughput_per_s", "window_s")
        } | {"decode_latency_s_p50": summary["decode_latency_s"]["p50"]}
    return figures


def _finite(value: float) -> float | None:
    """JSON has no infinity; where nothing is known yet there is no figure."""
    return value if math.isfinite(value) else None


def placement_file(plan: Plan) -> dict[str, Any]:
    """A plan as a placement file, for ``placement: {file: ...}``."""
    section: dict[str, Any] = {
        "schema_version": 1,
        "kind": "placement",
        "planned_by": {"planner": plan.planner},
        "ranges": {name: [held.start, held.stop] for name, held in plan.placement.ranges.items()},
    }
    if plan.links is not None:
        section["links"] = [list(pair) for pair in plan.links]
    if plan.allow_over_profile:
        section["allow_over_profile"] = True
    return section
