"""Ranks plans by what users feel: the serving model prunes the candidates, short emulations decide.

A plan's max flow is not what it serves: deep chains raise the flow, and the round trip with it, and nodes full of
layers have no room for the requests of a long round trip. So the candidates are plans of ``blocks`` of several depths
and for several round trips beside every other planner's plan; the serving model predicts what each of them serves,
and the best few run the scenario itself: as it is where that takes little enough time, else a part of it from a warm
start. Time is measured by work (:mod:`placement.effort`), so a scenario gets the same plan on an idle machine and on a
busy one.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from emulator.emulation import Emulation
from emulator.predicting import BRIEF, predict_run
from emulator.requests import Outcome, Request
from emulator.spec import EmulationSpec, Slo
from emulator.warm_start import WarmStart
from emulator.workload import ClosedLoop, OpenLoop
from placement import effort
from placement.errors import PlanError
from placement.plan import Plan, problem_for
from placement.planners import planner, takes
from placement.planners.blocks import least_depth
from placement.planners.blocks_front import PRECISION
from placement.serving.model import Prediction
from scenarios.objectives import Objective

RANKING_LIMIT_S = 30.0
SEARCH_SHARE = 0.4
"""Part of the time limit that goes into finding plans and predicting what they serve; the rest is for emulations."""
RULES, PROGRAMMES = ("swarm", "petals", "uniform"), ("cover", "separate")
"""Other planners: those that take no time are asked first, the others once the plans of ``blocks`` are searched."""
FIRST_SHARES, SHARES = (0.5, 0.4), (0.5, 0.65, 0.4, 0.8)
"""Depths that are tried first without a round trip in mind and with one, as shares of the deepest plan's."""
ROUND_TRIPS = (1.1, 1.4, 1.8, 2.3)
"""Round trips to plan for, in those of the best plan without: KV caches are never full, and waiting is uneven."""
FIRST_ROUND_TRIP = 2
"""Place of the one that is tried first, counted from 1."""
PATIENCE = 12
"""The search ends when so many plans in a row were no better than the best before them."""
BLOCKS_LIMIT_S = 2.0
HEATS, FINALISTS = 5, 2
"""Most plans that are emulated, and those of them that have a final; fewest in the scenario's own run."""
HEAT_S, HEAT_WARM_UP_S, PACE_S = 80.0, 20.0, 30.0
FINAL_S, SHORTEST_FINAL_S = 300.0, 120.0
"""Emulated seconds of a heat, of its warm-up, and of a run that shows what emulating costs; of a final, as long as the
time left allows, or left out."""
SET_UP_S, BATCH_S, MESSAGE_S = 4e-3, 8e-6, 1.2e-6
"""What an emulation costs where time is measured by work: for each node, batch, and message on a link."""
PROMPTS = 500
"""So many stand for all of a workload."""
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

_NOTHING: Score = (-math.inf, 0.0)
"""Where there is no plan."""

_PREDICTED: Mapping[Objective, Callable[[Prediction, float], Score]] = {
    Objective.THROUGHPUT: lambda seen, full: (seen.decode_tokens_per_s * full, 0.0),
    Objective.LATENCY: lambda seen, full: (-seen.decode_latency_s_p50, seen.decode_tokens_per_s * full),
    # Where no plan meets the objectives, the one that serves most comes closest.
    Objective.GOODPUT: lambda seen, full: (seen.good_requests_per_s * full, seen.decode_tokens_per_s * full),
}
_SERVED: Mapping[Objective, Callable[[Mapping[str, Any], float], Score]] = {
    Objective.THROUGHPUT: lambda seen, full: (float(seen["decode_throughput_tokens_per_s"]) * full, 0.0),
    Objective.LATENCY: lambda seen, full: (
        -float(seen["decode_latency_s"]["p50"] or float("inf")),
        float(seen["decode_throughput_tokens_per_s"]) * full,
    ),
    Objective.GOODPUT: lambda seen, full: (
        float(seen["goodput_requests_per_s"]) * full,
        float(seen["decode_throughput_tokens_per_s"]) * full,
    ),
}
"""Of what the model predicts and of what a warm run has served, with the share that :func:`filled` makes of it."""


def filled(spec: EmulationSpec, ranked: Ranked) -> float:
    """Share of the steady state that a closed loop reaches on average over its window, as it begins with no request.

    Requests in flight grow as fast as their prompts pass, which is the max flow, up to those of the steady state. Large
    KV caches serve more in the end, but take longer to fill, and a short run sees more of that.
    """
    workload = spec.workload
    if not isinstance(workload, ClosedLoop):
        return 1.0
    prompts = [each.prompt_tokens for each in itertools.islice(workload.lengths.draws(spec.seed), PROMPTS)]
    mean = sum(prompts) / len(prompts)
    full_s = _seen(ranked).in_flight * mean / ranked.plan.flow.tokens_per_s
    since_s = min(spec.warm_up_s, full_s)
    until_s = min(spec.duration_s, full_s)
    lacking_s = (until_s - since_s) - (until_s**2 - since_s**2) / (2 * full_s) if full_s > 0 else 0.0
    return 1.0 - lacking_s / (spec.duration_s - spec.warm_up_s)


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
    served = _SERVED[objective]

    def steadily(each: Ranked) -> Score:
        return served(each.summary or {}, filled(spec, each))

    _, paced_s = _heats(predicted[:1], _Warm(spec, PACE_S), deadline_s)
    # A run that begins empty serves otherwise than its steady state, so nothing else is emulated where it fits.
    own_s = paced_s / PACE_S * spec.duration_s * filled(dataclasses.replace(spec, warm_up_s=0.0), predicted[0])
    fitting = min(HEATS, int((deadline_s - effort.now_s()) / own_s))
    if fitting >= min(FINALISTS, len(predicted)):
        order = _with_another(predicted)
        runs, _ = _heats(order[:fitting], lambda each: own_run(spec, each.plan), deadline_s)
        runs.sort(key=lambda each: served(each.summary or {}, 1.0), reverse=True)
        rest = [each for each in predicted if each not in order[: len(runs)]]
        return [*runs, *rest]
    heats, longest_s = _heats(predicted[:HEATS], _Warm(spec, HEAT_S), deadline_s)
    heats.sort(key=steadily, reverse=True)
    # As long as the time left allows for all finals, with a fifth to spare.
    final_s = min(FINAL_S, 0.8 * (deadline_s - effort.now_s()) / FINALISTS * HEAT_S / longest_s)
    finalists = heats[:FINALISTS] if final_s >= SHORTEST_FINAL_S else []
    finals = sorted(_heats(finalists, _Warm(spec, final_s), deadline_s)[0], key=steadily, reverse=True)
    return [*finals, *heats[len(finals) :], *predicted[len(heats) :]]


def _with_another(predicted: Sequence[Ranked]) -> list[Ranked]:
    """In order, but second the best plan of another planner: none is to be passed over on a prediction alone."""
    best, *rest = predicted
    other = next((each for each in rest if each.plan.planner != best.plan.planner), None)
    return [best, *([other] if other else []), *(each for each in rest if each is not other)]


Cell = tuple[int, int]
"""A depth, and the place of a round trip in :data:`ROUND_TRIPS` counted from 1; 0 is none."""


class _Search:
    """Looks for plans that the model promises much of: other planners' plans, and those of ``blocks`` ever closer."""

    def __init__(self, spec: EmulationSpec, objective: Objective, deadline_s: float) -> None:
        self._spec = spec
        self._objective = objective
        self._deadline_s = deadline_s
        self._problem = problem_for(spec.cluster, spec.model, spec.profiles, spec.seed)
        self._found: dict[tuple[object, ...], Ranked] = {}
        self._cells: dict[Cell, Score] = {}
        self._round_trip_s = 0.0
        self._shallowest = 1
        self._refusal: PlanError | None = None

    def run(self) -> list[Ranked]:
        """Plans with their predictions, best first.

        Raises:
            PlanError: There is none.
        """
        deepest = self._try("blocks", time_limit_s=self._limit_s())
        if deepest is not None:
            self._shallowest = least_depth(self._problem)
            self._cells[deepest.plan.depth, 0] = self._score(deepest)
            for share in FIRST_SHARES:
                self._try_cell((round(share * deepest.plan.depth), 0))
        self._ask(RULES)
        if deepest is not None:
            self._search_depths(deepest.plan.depth)
        self._ask(PROGRAMMES)
        if not self._found:
            raise self._refusal or PlanError("objective: nothing flows through any plan; allow partial inference")
        return sorted(self._found.values(), key=self._score, reverse=True)

    def _score(self, ranked: Ranked) -> Score:
        return _PREDICTED[self._objective](_seen(ranked), filled(self._spec, ranked))

    def _ask(self, names: Sequence[str]) -> None:
        for name in names:
            if not self._found or not self._over:
                self._try(name, **({"time_limit_s": self._limit_s()} if takes(name, "time_limit_s") else {}))

    @property
    def _over(self) -> bool:
        return effort.now_s() > self._deadline_s

    def _search_depths(self, deepest: int) -> None:
        """Try depths for a round trip, then what lies beside the best cell, or, where that is known, the next best."""
        made = [each for each in self._found.values() if each.plan.planner == "blocks"]
        self._round_trip_s = _seen(max(made, key=self._score)).decode_latency_s
        for share in SHARES:
            if not self._over:
                self._try_cell((round(share * deepest), FIRST_ROUND_TRIP))
        idle = 0
        while idle < PATIENCE and not self._over and (cell := self._next_cell(deepest)) is not None:
            before = max(self._cells.values())
            self._try_cell(cell)
            idle = 0 if self._cells[cell] > before else idle + 1

    def _next_cell(self, deepest: int) -> Cell | None:
        for depth, place in sorted(self._cells, key=lambda cell: (self._cells[cell], cell), reverse=True):
            if self._cells[depth, place] == _NOTHING:
                break
            known = [each for each, at in self._cells if at == place]
            below = max((each for each in known if each < depth), default=0)
            above = min((each for each in known if each > depth), default=deepest + 1)
            beside = [(depth, place + 1), (depth, place - 1)]
            half_way = [(depth - (depth - below + 1) // 2, place), (depth + (above - depth + 1) // 2, place)]
            for cell in [*beside, *half_way]:
                possible = self._shallowest <= cell[0] <= deepest and 0 <= cell[1] <= len(ROUND_TRIPS)
                if possible and cell not in self._cells:
                    return cell
        return None

    def _limit_s(self) -> float:
        return max(0.5, min(BLOCKS_LIMIT_S, self._deadline_s - effort.now_s()))

    def _try_cell(self, cell: Cell) -> None:
        depth, place = cell
        if depth < self._shallowest or cell in self._cells:
            return
        options: dict[str, float] = {"time_limit_s": self._limit_s(), "precision": PRECISION}
        if place:
            options["round_trip_s"] = ROUND_TRIPS[place - 1] * self._round_trip_s
        made = self._try("blocks", max_depth=depth, **options)
        if made is None:
            self._shallowest = max(self._shallowest, depth + 1)
        self._cells[cell] = _NOTHING if made is None else self._score(made)

    def _try(self, name: str, **options: Any) -> Ranked | None:
        """The prediction for a planner's plan; nothing where it finds none, or none that flows."""
        try:
            plan = planner(name, **options).plan(self._problem)
            key = (tuple(sorted(plan.placement.ranges.items())), plan.links)
            if key not in self._found:
                prediction = predict_run(with_plan(self._spec, plan), BRIEF)
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


@dataclass(frozen=True, slots=True)
class _Warm:
    """Runs a plan from a warm start."""

    spec: EmulationSpec
    duration_s: float

    def __call__(self, ranked: Ranked) -> dict[str, Any]:
        return warm_run(self.spec, ranked.plan, _seen(ranked), self.duration_s)


def _heats(
    ranked: Sequence[Ranked], run: Callable[[Ranked], dict[str, Any]], deadline_s: float
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
        summary = run(each)
        effort.spend(emulation_s(summary))
        longest_s = max(longest_s, effort.now_s() - started_s)
        done.append(dataclasses.replace(each, summary=summary))
    return done, longest_s


def own_run(spec: EmulationSpec, plan: Plan) -> dict[str, Any]:
    """The summary of the scenario's run on a plan, up to the end of its duration."""
    return Emulation(dataclasses.replace(with_plan(spec, plan), drain=False)).run()


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
