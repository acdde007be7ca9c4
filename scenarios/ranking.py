"""Ranks plans by what users feel: the serving model prunes the candidates, short emulations decide.

A plan's max flow is not what it serves: deep chains raise the flow, and the round trip with it. So the candidates are
plans of ``blocks`` of several depths beside every other planner's plan; the serving model predicts what each of them
serves, and the best few run the scenario itself from a warm start. Time is measured by work (:mod:`placement.effort`),
so a scenario gets the same plan on an idle machine and on a busy one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from emulator.emulation import Emulation
from emulator.predicting import predict_run
from emulator.requests import Outcome, Request
from emulator.spec import EmulationSpec, Slo
from emulator.warm_start import WarmStart
from emulator.workload import OpenLoop
from placement import effort
from placement.errors import PlanError
from placement.plan import Plan, problem_for
from placement.planners import planner, takes
from placement.serving.model import Effort, Prediction
from scenarios.objectives import Objective

RANKING_LIMIT_S = 30.0
SEARCH_SHARE = 0.4
"""Part of the time limit that goes into finding plans and predicting what they serve; the rest is for emulations."""
ORDER: tuple[str | float, ...] = (0.5, "swarm", "petals", 0.65, 0.8, 0.4, "uniform", "cover", "separate", 0.3)
"""What is tried after the deepest plan of ``blocks``: its plans with so large a part of that depth, other planners."""
BLOCKS_LIMIT_S = 2.0
PRUNING = Effort(settling_s=8.0, least_s=20.0, most_s=100.0, ends=50)
HEATS, FINALISTS = 5, 2
HEAT_S, HEAT_WARM_UP_S = 80.0, 20.0
FINAL_S, SHORTEST_FINAL_S = 300.0, 120.0
"""Emulated seconds of a heat and of a final; a final is as long as the time left allows, or is left out."""
SET_UP_S, BATCH_S, MESSAGE_S = 4e-3, 1e-5, 1.5e-6
"""What an emulation costs where time is measured by work: for each node, batch, and message on a link."""
LEAST_EMITTED = 20
"""A request that has not ended shows its pace after so many tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """A plan, what the model predicts for it, and what it served in its last emulation, as far as it came."""

    plan: Plan
    prediction: Prediction | None = None
    summary: Mapping[str, Any] | None = None


Score = tuple[float, float]
"""Greater is better; the second figure decides between equals."""

_PREDICTED: Mapping[Objective, Callable[[Prediction], Score]] = {
    Objective.THROUGHPUT: lambda seen: (seen.decode_tokens_per_s, 0.0),
    Objective.LATENCY: lambda seen: (-seen.decode_latency_s_p50, seen.decode_tokens_per_s),
    # Where no plan meets the objectives, the one that serves most comes closest.
    Objective.GOODPUT: lambda seen: (seen.good_requests_per_s, seen.decode_tokens_per_s),
}
_SERVED: Mapping[Objective, Callable[[Mapping[str, Any]], Score]] = {
    Objective.THROUGHPUT: lambda seen: (float(seen["decode_throughput_tokens_per_s"]), 0.0),
    Objective.LATENCY: lambda seen: (
        -float(seen["decode_latency_s"]["p50"] or float("inf")),
        float(seen["decode_throughput_tokens_per_s"]),
    ),
    Objective.GOODPUT: lambda seen: (
        float(seen["goodput_requests_per_s"]),
        float(seen["decode_throughput_tokens_per_s"]),
    ),
}


def rank_plans(spec: EmulationSpec, objective: Objective, *, time_limit_s: float = RANKING_LIMIT_S) -> list[Ranked]:
    """Candidates in order of ``objective``, best first.

    Args:
        spec: The run to plan for; its cluster must have all its links, its placement does not matter.
        objective: Any but ``flow``.
        time_limit_s: For all of it, measured by work; the first prediction and the first heat take place in any case.

    Raises:
        PlanError: No planner finds a plan, or goodput is asked for without SLOs.
    """
    if objective is Objective.GOODPUT and not spec.slo.given:
        raise PlanError("objective goodput: it needs latency objectives, and the scenario has no slo; add slo")
    with effort.counted():
        return _ranked(spec, objective, time_limit_s)


def _ranked(spec: EmulationSpec, objective: Objective, time_limit_s: float) -> list[Ranked]:
    started_s = effort.now_s()
    deadline_s = started_s + time_limit_s
    predicted = _Search(spec, objective, started_s + time_limit_s * SEARCH_SHARE).run()
    served_score = _SERVED[objective]
    heats, longest_s = _heats(spec, predicted[:HEATS], HEAT_S, deadline_s)
    heats.sort(key=lambda each: served_score(each.summary or {}), reverse=True)
    rest = predicted[len(heats) :]
    # As long as the time left allows for all finals, with a fifth to spare.
    final_s = min(FINAL_S, 0.8 * (deadline_s - effort.now_s()) / FINALISTS * HEAT_S / longest_s)
    if final_s < SHORTEST_FINAL_S or len(heats) == 1:
        return [*heats, *rest]
    finals, _ = _heats(spec, heats[:FINALISTS], final_s, deadline_s)
    finals.sort(key=lambda each: served_score(each.summary or {}), reverse=True)
    return [*finals, *heats[len(finals) :], *rest]


class _Search:
    """Looks for plans that the model promises much of: other planners' plans, and depths of ``blocks`` ever closer."""

    def __init__(self, spec: EmulationSpec, objective: Objective, deadline_s: float) -> None:
        self._spec = spec
        self._score = _PREDICTED[objective]
        self._deadline_s = deadline_s
        self._problem = problem_for(spec.cluster, spec.model, spec.profiles, spec.seed)
        self._found: dict[tuple[object, ...], Ranked] = {}
        self._by_depth: dict[int, Score] = {}
        self._refusal: PlanError | None = None

    def run(self) -> list[Ranked]:
        """Plans with their predictions, best first.

        Raises:
            PlanError: There is none.
        """
        deepest = self._try("blocks", time_limit_s=self._limit_s())
        depth = 0 if deepest is None else deepest.plan.depth
        if deepest is not None:
            self._by_depth[depth] = self._score(_seen(deepest))
        for step in ORDER:
            if self._found and effort.now_s() > self._deadline_s:
                break
            if isinstance(step, str):
                self._try(step, **({"time_limit_s": self._limit_s()} if takes(step, "time_limit_s") else {}))
            elif depth:
                self._try_depth(round(step * depth))
        while (between := self._next_depth()) and effort.now_s() < self._deadline_s:
            self._try_depth(between)
        if not self._found:
            raise self._refusal or PlanError("objective: nothing flows through any plan; allow partial inference")
        return sorted(self._found.values(), key=lambda each: self._score(_seen(each)), reverse=True)

    def _limit_s(self) -> float:
        return max(0.5, min(BLOCKS_LIMIT_S, self._deadline_s - effort.now_s()))

    def _try_depth(self, depth: int) -> None:
        if depth < 1 or depth in self._by_depth:
            return
        made = self._try("blocks", max_depth=depth, time_limit_s=self._limit_s())
        self._by_depth[depth] = (-math.inf, 0.0) if made is None else self._score(_seen(made))

    def _next_depth(self) -> int:
        """A depth half way between the best one and its wider side; 0 when both sides are known."""
        if not self._by_depth:
            return 0
        best = max(self._by_depth, key=lambda depth: self._by_depth[depth])
        lower = max((depth for depth in self._by_depth if depth < best), default=0)
        upper = min((depth for depth in self._by_depth if depth > best), default=best)
        below, above = best - lower, upper - best
        if max(below, above) < 2:
            return 0
        return best - below // 2 if below > above else best + above // 2

    def _try(self, name: str, **options: Any) -> Ranked | None:
        """The prediction for a planner's plan; nothing where it finds none, or none that flows."""
        try:
            plan = planner(name, **options).plan(self._problem)
            key = (tuple(sorted(plan.placement.ranges.items())), plan.links)
            if key not in self._found:
                prediction = predict_run(with_plan(self._spec, plan), PRUNING)
                effort.spend(SET_UP_S / 2 * len(self._spec.cluster.nodes))
                self._found[key] = Ranked(plan=plan, prediction=prediction)
            return self._found[key]
        except PlanError as error:
            # A planner that cannot place this model is no candidate; if none can, the first one's reasons are told.
            self._refusal = self._refusal or error
            return None


def _seen(ranked: Ranked) -> Prediction:
    assert ranked.prediction is not None
    return ranked.prediction


def _heats(
    spec: EmulationSpec, ranked: Sequence[Ranked], duration_s: float, deadline_s: float
) -> tuple[list[Ranked], float]:
    """Emulate plans one after another, and the seconds of the longest emulation.

    None is begun that would not end in time, but the first always is.
    """
    done: list[Ranked] = []
    longest_s = 0.0
    for each in ranked:
        started_s = effort.now_s()
        if done and started_s + longest_s > deadline_s:
            break
        summary = warm_run(spec, each.plan, _seen(each), duration_s)
        effort.spend(emulation_s(summary))
        longest_s = max(longest_s, effort.now_s() - started_s)
        done.append(dataclasses.replace(each, summary=summary))
    return done, longest_s


def emulation_s(summary: Mapping[str, Any]) -> float:
    """About what a run has cost, in seconds of a machine of 2023."""
    batches = sum(int(node["batches"]) for node in summary["nodes"].values())
    messages = sum(int(link["messages"]) for link in summary["links"].values())
    return SET_UP_S * len(summary["nodes"]) + BATCH_S * batches + MESSAGE_S * messages


def warm_run(spec: EmulationSpec, plan: Plan, prediction: Prediction, duration_s: float) -> dict[str, Any]:
    """The summary of a run on a plan that begins as the model predicts that it goes on.

    The first 20 emulated seconds do not count. Goodput is that of the requests seen in the run, ended or not: those
    that a warm start put in place show a pace, the new ones show a time to first token.
    """
    open_loop = isinstance(spec.workload, OpenLoop)
    warm = WarmStart(
        spread_s=prediction.decode_latency_s if prediction.decode_latency_s < duration_s else 1.0,
        stays_s=prediction.stays_s,
        requests=round(prediction.in_flight) if open_loop else None,
    )
    seen: list[Request] = []
    run = dataclasses.replace(
        with_plan(spec, plan), duration_s=duration_s, warm_up_s=HEAT_WARM_UP_S, drain=False, warm_start=warm
    )
    summary = Emulation(run, on_ended=seen.append).run()
    if spec.slo.given:
        share = good_share(seen, spec.slo, duration_s)
        summary["goodput_requests_per_s"] = summary["request_throughput_per_s"] * share
    return summary


def good_share(requests: Sequence[Request], slo: Slo, now_s: float) -> float:
    """Part of the requests that meets the objectives, as far as a run that they outlast can tell.

    Times to first token, paces and end-to-end times come from different requests, and count as independent.
    """
    share = 1.0
    if slo.ttft_s is not None:
        share *= _part(
            slo.ttft_s,
            (
                request.ttft_s if request.ttft_s is not None else now_s - request.arrival_s
                for request in requests
                # One that still waits tells something once it has waited too long.
                if not request.adopted_tokens
                and (request.ttft_s is not None or now_s - request.arrival_s > (slo.ttft_s or 0.0))
            ),
        )
    if slo.tpot_s is not None:
        share *= _part(slo.tpot_s, (pace for request in requests if (pace := _pace_s(request)) is not None))
    if slo.e2e_s is not None:
        share *= _part(slo.e2e_s, (took for request in requests if (took := _end_to_end_s(request)) is not None))
    return share


def _part(limit: float, values: Iterator[float]) -> float:
    met = [value <= limit for value in values]
    return sum(met) / len(met) if met else 1.0


def _pace_s(request: Request) -> float | None:
    """Seconds per token after the first, as far as it got."""
    if request.outcome is Outcome.FINISHED:
        return request.tpot_s
    began_s = request.arrival_s if request.adopted_tokens else request.first_token_s
    tokens = request.emitted_tokens - (request.adopted_tokens or 1)
    if began_s is None or request.last_token_s is None or tokens < LEAST_EMITTED:
        return None
    return (request.last_token_s - began_s) / tokens


def _end_to_end_s(request: Request) -> float | None:
    """Time from arrival to end, as its pace and a prompt start make it expect where the run saw only a part."""
    if request.e2e_s is not None:
        return request.e2e_s
    pace_s = _pace_s(request)
    if pace_s is None:
        return None
    return (request.ttft_s or 0.0) + pace_s * (request.output_tokens - 1)


def with_plan(spec: EmulationSpec, plan: Plan) -> EmulationSpec:
    """The same run on another placement."""
    cluster = spec.cluster if plan.links is None else spec.cluster.reduced_to(plan.links)
    return dataclasses.replace(spec, placement=plan.placement, cluster=cluster)
