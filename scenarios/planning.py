"""Plans a scenario's placement, and ranks plans by what they serve in short emulations."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from emulator.predicting import predict_run
from placement.plan import Plan
from placement.planners import KNOWN, takes
from scenarios.errors import ScenarioError
from scenarios.loader import LoadedScenario, load_scenario
from scenarios.objectives import Objective
from scenarios.ranking import Ranked, warm_run

DEFAULT_PLANNER = "blocks"
COMPARED_S = 300.0
"""Emulated seconds of each planner's plan in a comparison, from a warm start."""


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
    with _told_of_the_plan():
        loaded = load_scenario(scenario, overrides=overrides, sets=[*sets, f"placement={section}"])
    assert loaded.plan is not None
    return loaded


@contextmanager
def _told_of_the_plan() -> Iterator[None]:
    """Let problems with the placement section that is put in here be those of the plan: nobody wrote that section."""
    try:
        yield
    except ScenarioError as error:
        raise ScenarioError(
            dataclasses.replace(problem, file="plan", path="")
            if (problem.file, problem.path.partition(".")[0]) == ("--set", "placement")
            else problem
            for problem in error.problems
        ) from error


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
    """Candidates in order of ``objective``, best first; see :func:`scenarios.ranking.rank_plans`.

    Raises:
        ScenarioError: The scenario is wrong, no planner finds a plan, or goodput is asked for without SLOs.
    """
    section = {"planner": DEFAULT_PLANNER, "objective": objective.value, "options": {"time_limit_s": time_limit_s}}
    with _told_of_the_plan():
        loaded = load_scenario(scenario, overrides=overrides, sets=[*sets, f"placement={json.dumps(section)}"])
    return list(loaded.ranked)


def compare_planners(
    scenario: str, *, time_limit_s: float = 30.0, overrides: Sequence[str] = (), sets: Sequence[str] = ()
) -> tuple[list[Ranked], list[str]]:
    """One plan of each planner, by name, predicted and emulated, and a sentence for each planner that finds none.

    Emulations take :data:`COMPARED_S` from a warm start. Ctrl-C ends the comparison with what there is.

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
        prediction = predict_run(loaded.spec)
        summary = warm_run(loaded.spec, loaded.plan, prediction, COMPARED_S)
        ranked.append(Ranked(plan=loaded.plan, prediction=prediction, summary=summary))
        if summary["interrupted"] or any("interrupted" in warning for warning in loaded.plan.warnings):
            failures.append(f"{name} was interrupted; the planners behind it were not asked")
            break
    return ranked, failures


def plan_figures(ranked: Ranked, objective: Objective) -> dict[str, Any]:
    """A plan, and what was predicted and emulated of it, as JSON holds it."""
    plan, prediction, summary = ranked.plan, ranked.prediction, ranked.summary
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
    if prediction is not None:
        figures["predicted"] = {
            "decode_throughput_tokens_per_s": prediction.decode_tokens_per_s,
            "decode_latency_s_p50": _finite(prediction.decode_latency_s_p50),
            "ttft_s": _finite(prediction.ttft_s),
            "tpot_s": _finite(prediction.tpot_s),
            "in_flight": prediction.in_flight,
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
