"""Why a scenario serves what it serves: what limits it, what would help, where its requests wait, what churn costs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from emulator.emulation import Emulation
from emulator.predicting import arrival_rate
from emulator.spec import EmulationSpec, LogLevel
from emulator.workload import OpenLoop
from placement.flow import MaxFlow
from placement.throughput import ThroughputModel
from scenarios.errors import Problem, ScenarioError
from scenarios.loader import LoadedScenario
from scenarios.reports.churn_cost import ChurnCost, churn_cost
from scenarios.reports.emulations import Length, emulated, for_each, granularity, length_for, nudged
from scenarios.reports.marginal import LINKS, Change, bound_of, flow_of, full_parts, network_changes, throughput_of
from scenarios.reports.one_more import node_changes, node_tasks
from scenarios.reports.ttft_parts import PARTS, TtftParts, TtftReader
from scenarios.reports.words import cut_in_words
from scenarios.studies.executors import Executor
from scenarios.studies.prices import PriceTable, cost_figures


@dataclass(frozen=True, slots=True, kw_only=True)
class Worth:
    """What a change is worth; see :class:`~scenarios.reports.marginal.Change` for its nature.

    Attributes:
        name: The change.
        kind: ``node``, ``replan``, ``bandwidth`` or ``latency``.
        scope: ``cluster``, ``regions`` or ``link``.
        replanned: Whether others than an added node may hold other layers than before.
        layers_moved: Layers that nodes have to load.
        load_s: Seconds until the slowest of them has read its layers.
        flow_gain_tokens_per_s: By how much the max flow rises, exactly.
        bound_gain_tokens_per_s: By how much the bound on the flow of any placement rises; 0 for links, which that
            bound does not know.
        decode_gain_tokens_per_s: By how much decode throughput rises in an emulation on the same seed; ``None`` when
            none was made, or the changed cluster cannot run.
        within_noise: Whether changes that are worth nothing move decode throughput as far.
        ttft_p50_change_s: By how much the median time to first token rises there; ``None`` where it is not known.
        cost_per_million_tokens: Per decoded tokens in the emulation after the change; ``None`` without prices or
            emulation.
        cost_per_million_tokens_at_max_flow: Nodes' price per token of the max flow, prompts included; ``None`` without
            prices.
    """

    name: str
    kind: str
    scope: str
    replanned: bool
    layers_moved: int
    load_s: float
    flow_gain_tokens_per_s: float
    bound_gain_tokens_per_s: float
    decode_gain_tokens_per_s: float | None = None
    within_noise: bool = False
    ttft_p50_change_s: float | None = None
    cost_per_million_tokens: float | None = None
    cost_per_million_tokens_at_max_flow: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What :func:`explain` finds; all but :attr:`churn` is about the scenario when nothing goes wrong.

    Attributes:
        scenario: Its name.
        summary: The emulation's summary.
        flow: Max flow of the placement, with its minimum cut.
        cut: What limits it, in words.
        full: Nodes and links beside the cut that it uses up as well.
        cost_per_million_tokens: Per decoded tokens now; ``None`` without prices.
        cost_per_million_tokens_at_max_flow: Nodes' price per token of the max flow; ``None`` without prices.
        worth: What changes are worth, the greatest gain first.
        length: How long changes were emulated; ``None`` when they were not.
        compared_tokens_per_s: Decode throughput of the scenario itself in that time, with which changes are compared;
            ``None`` without emulations.
        noise_tokens_per_s: By how much changes that are worth nothing moved decode throughput, at most, and at
            least what the window's edge makes; ``None`` without emulations.
        arrivals_per_s: Rate at which requests arrive whatever is served; ``None`` in a closed loop.
        ttft: Parts of the TTFT of every request that got its first token in the window, in that order.
        churn: What the scenario's churn costs; ``None`` when it has none.
    """

    scenario: str
    summary: Mapping[str, Any]
    flow: MaxFlow
    cut: str
    full: tuple[str, ...]
    cost_per_million_tokens: float | None
    cost_per_million_tokens_at_max_flow: float | None
    worth: tuple[Worth, ...]
    length: Length | None
    compared_tokens_per_s: float | None
    noise_tokens_per_s: float | None
    arrivals_per_s: float | None
    ttft: tuple[TtftParts, ...]
    churn: ChurnCost | None

    def shares(self) -> dict[str, float]:
        """Throughput against what was possible: achieved / max flow, / compute bound, and max flow / compute bound."""
        total = float(self.summary["total_throughput_tokens_per_s"])
        bound = float(self.summary["flow_upper_bound_tokens_per_s"])
        flow = self.flow.tokens_per_s
        return {
            "achieved_of_max_flow": total / flow if flow else 0.0,
            "achieved_of_compute_bound": total / bound if bound else 0.0,
            "max_flow_of_compute_bound": flow / bound if bound else 0.0,
        }

    def mean_parts(self) -> dict[str, float]:
        """Mean seconds of each part of the TTFT; empty when nobody got a first token."""
        if not self.ttft:
            return {}
        told = [parts.parts() for parts in self.ttft]
        return {part: float(np.mean([one[part] for one in told])) for part in PARTS}

    def stages(self) -> list[dict[str, Any]]:
        """For each node: visits on the way to first tokens, and mean seconds of each part there; longest first."""
        rows: dict[str, list[tuple[float, float, float, float]]] = {}
        for parts in self.ttft:
            for stage in parts.stages:
                rows.setdefault(stage.node, []).append((stage.network, stage.queue, stage.host, stage.compute))
        told = [
            {"node": node, "visits": len(values), **dict(zip(PARTS[1:], np.mean(values, axis=0).tolist(), strict=True))}
            for node, values in rows.items()
        ]
        return sorted(told, key=lambda row: -sum(row[part] for part in PARTS[1:]))

    def figures(self) -> dict[str, Any]:
        """Everything as plain data, for JSON."""
        return {
            "scenario": self.scenario,
            "max_flow_tokens_per_s": self.flow.tokens_per_s,
            "min_cut": [
                {"kind": edge.kind, "source": edge.source, "target": edge.target,
                 "capacity_tokens_per_s": edge.capacity_tokens_per_s}
                for edge in self.flow.min_cut
            ],
            "min_cut_in_words": self.cut,
            "decode_throughput_tokens_per_s": self.summary["decode_throughput_tokens_per_s"],
            "total_throughput_tokens_per_s": self.summary["total_throughput_tokens_per_s"],
            "compute_bound_tokens_per_s": self.summary["flow_upper_bound_tokens_per_s"],
            **self.shares(),
            "cost_per_million_tokens": self.cost_per_million_tokens,
            "cost_per_million_tokens_at_max_flow": self.cost_per_million_tokens_at_max_flow,
            "changes_emulated_for_s": None if self.length is None else self.length.duration_s,
            "compared_tokens_per_s": self.compared_tokens_per_s,
            "noise_tokens_per_s": self.noise_tokens_per_s,
            "worth": [_plain(one) for one in self.worth],
            "churn": None if self.churn is None else self.churn.figures(),
            "ttft_parts_s": self.mean_parts(),
            "stages": self.stages(),
            "requests": [
                {"request": parts.request, "ttft_s": parts.ttft_s, **parts.parts(),
                 "stages": [{"node": stage.node, "network": stage.network, "queue": stage.queue, "host": stage.host,
                             "compute": stage.compute} for stage in parts.stages]}
                for parts in self.ttft
            ],
        }  # fmt: skip


def _plain(worth: Worth) -> dict[str, Any]:
    told = asdict(worth)
    return {"change": told.pop("name"), **told}


def explain(
    loaded: LoadedScenario,
    *,
    prices: PriceTable | None = None,
    emulate: bool = True,
    links: int = LINKS,
    whole: bool = False,
    executor: Executor | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Explanation:
    """Explain a scenario.

    The same comes out every time: planners count work and not seconds, and emulations are cut short, where there are
    many long ones, by what the first of them computed.

    Args:
        loaded: What to explain. Its churn is left out, and told of apart.
        prices: Price of each machine type.
        emulate: Whether to emulate each change, too; otherwise the max flow tells alone.
        links: So many single links are looked at, those that matter most.
        whole: Emulate changes as long as the scenario, however long that takes; otherwise it is cut short for about
            :data:`scenarios.reports.emulations.MOST_BATCHES`.
        executor: Who plans and emulates, such as :class:`scenarios.studies.executors.LocalWorkers` has one; this
            process without one.
        on_step: Called with steps done and in all, as far as known.

    Raises:
        ScenarioError: A machine type has no price.
        SimulationError: The scenario cannot run.
        StudyError: A worker was killed.
    """
    spec = replace(loaded.spec, churn=None)
    _check_prices(spec, prices)
    steps = _Steps(on_step)
    throughput = throughput_of(spec)
    base = flow_of(spec, throughput)
    tasks = node_tasks(spec, by_serving=emulate)
    todo = list(network_changes(spec, links))
    steps.expect(1 + len(tasks) + (len(todo) + 2 * len(tasks) if emulate else 0) + 2 * (loaded.spec.churn is not None))
    summary, ttft = emulated_with_parts(spec)
    steps.done()
    # What planning anew gives without a new node is needed with each: the other tasks are told of it.
    alone = node_changes(tasks[0])
    steps.done()
    tasks = [replace(task, alone=alone[0].spec) for task in tasks[1:]]
    grown = for_each(node_changes, tasks, executor, steps.done)
    todo = [change for found in (alone, *grown) for change in found] + todo
    emulations = _Emulations(spec, summary, todo, whole, executor, steps) if emulate else None
    told = [_worth(change, spec, throughput, base, prices, emulations) for change in todo]
    edges = [
        {"kind": edge.kind, "source": edge.source, "target": edge.target,
         "capacity_tokens_per_s": edge.capacity_tokens_per_s}
        for edge in base.min_cut
    ]  # fmt: skip
    return Explanation(
        scenario=spec.name,
        summary=summary,
        flow=base,
        cut=cut_in_words(edges),
        full=tuple(full_parts(spec, throughput, base)),
        cost_per_million_tokens=_cost(prices, spec, summary),
        cost_per_million_tokens_at_max_flow=_cost_at(prices, spec, base.tokens_per_s),
        worth=tuple(
            sorted(told, key=lambda one: (-(one.decode_gain_tokens_per_s or 0.0), -one.flow_gain_tokens_per_s))
        ),
        length=None if emulations is None else emulations.length,
        compared_tokens_per_s=None if emulations is None else emulations.before_tokens_per_s,
        noise_tokens_per_s=None if emulations is None else emulations.noise_tokens_per_s,
        arrivals_per_s=arrival_rate(spec) if isinstance(spec.workload, OpenLoop) else None,
        ttft=tuple(ttft),
        churn=None if loaded.spec.churn is None else churn_cost(loaded.spec, executor, steps.done),
    )


class _Steps:
    """Counts what is done for who wants to know."""

    def __init__(self, on_step: Callable[[int, int], None] | None) -> None:
        self._on_step = on_step
        self._done = self._all = 0

    def expect(self, count: int) -> None:
        self._all = count

    def done(self) -> None:
        self._done += 1
        if self._on_step is not None:
            self._on_step(min(self._done, self._all), self._all)


class _Emulations:
    """Decode throughput of changes against the scenario's, all emulated for the same time.

    Attributes:
        length: That time.
        before_tokens_per_s: Decode throughput of the scenario itself in that time.
        noise_tokens_per_s: By how much chance moves decode throughput.
    """

    def __init__(
        self, spec: EmulationSpec, summary: dict[str, Any], todo: Sequence[Change], whole: bool,
        executor: Executor | None,        steps: _Steps,
    ) -> None:  # fmt: skip
        # What came out of no change at all, or twice the same, is emulated once.
        specs: list[EmulationSpec] = []
        for change in todo:
            if change.spec not in specs and change.spec != spec:
                specs.append(change.spec)
        probes = nudged(spec)
        self.length = length_for(spec, summary, 0 if whole else len(specs) + len(probes) + 1)
        again = [spec] if self.length.cut else []
        every = [replace(one, duration_s=self.length.duration_s) for one in (*again, *probes, *specs)]
        found = for_each(emulated, every, executor, steps.done)
        before = found[0] if again else summary
        assert before is not None, "the scenario ran before"
        self.before_tokens_per_s = float(before["decode_throughput_tokens_per_s"])
        self._ttft_s: float | None = before["ttft_s"]["p50"]
        chance = found[len(again) : len(again) + len(probes)]
        self.noise_tokens_per_s = max(granularity(before), *(abs(self.gain(one) or 0.0) for one in chance))
        self._known: list[tuple[EmulationSpec, Mapping[str, Any] | None]] = [
            (spec, before),
            *zip(specs, found[len(again) + len(probes) :], strict=True),
        ]

    def gain(self, summary: Mapping[str, Any] | None) -> float | None:
        """Decode throughput gained; none where the cluster could not run."""
        return None if summary is None else float(summary["decode_throughput_tokens_per_s"]) - self.before_tokens_per_s

    def ttft_change_s(self, summary: Mapping[str, Any] | None) -> float | None:
        """Change of the median time to first token; none where one of the two has none."""
        after = None if summary is None else summary["ttft_s"]["p50"]
        return None if after is None or self._ttft_s is None else float(after) - self._ttft_s

    def summary(self, change: Change) -> Mapping[str, Any] | None:
        """The summary of a change; none where the cluster cannot run."""
        for spec, summary in self._known:
            if spec == change.spec:
                return summary
        raise AssertionError(f"{change.name} was not emulated")


def _worth(
    change: Change,
    spec: EmulationSpec,
    throughput: ThroughputModel,
    base: MaxFlow,
    prices: PriceTable | None,
    emulations: _Emulations | None,
) -> Worth:
    after = None if emulations is None else emulations.summary(change)
    gain = None if emulations is None else emulations.gain(after)
    noise = 0.0 if emulations is None else emulations.noise_tokens_per_s
    return Worth(
        name=change.name,
        kind=change.kind,
        scope=change.scope,
        replanned=change.replanned,
        layers_moved=change.layers_moved,
        load_s=change.load_s,
        flow_gain_tokens_per_s=_gain(change.flow_tokens_per_s, base.tokens_per_s),
        bound_gain_tokens_per_s=_gain(change.bound_tokens_per_s, bound_of(spec, throughput)),
        decode_gain_tokens_per_s=gain,
        within_noise=gain is not None and abs(gain) <= noise,
        ttft_p50_change_s=None if emulations is None else emulations.ttft_change_s(after),
        cost_per_million_tokens=_cost(prices, change.spec, after),
        cost_per_million_tokens_at_max_flow=_cost_at(prices, change.spec, change.flow_tokens_per_s),
    )


def _gain(after: float, before: float) -> float:
    """Differences that are rounding are none."""
    return 0.0 if abs(after - before) <= 1e-9 * max(after, before) else after - before


def emulated_with_parts(spec: EmulationSpec) -> tuple[dict[str, Any], list[TtftParts]]:
    """The summary of a run, and the parts of TTFTs that end in its window; the log is read as it is written."""
    kinds = {node.name: node.machine_type for node in spec.cluster.nodes}
    reader = TtftReader(spec.model, spec.profiles, kinds)

    def take(chunk: bytes) -> None:
        reader.read(json.loads(line) for line in chunk.splitlines())

    summary = Emulation(replace(spec, log_level=LogLevel.HOPS), log_sink=take, log_limit_bytes=1 << 62).run()
    if summary["interrupted"]:
        raise KeyboardInterrupt
    return summary, [parts for parts in reader.done if parts.first_token_s >= spec.warm_up_s]


def _cost(prices: PriceTable | None, spec: EmulationSpec, summary: Mapping[str, Any] | None) -> float | None:
    if prices is None or summary is None:
        return None
    return cost_figures(prices, spec.cluster, summary)["cost_per_million_decode_tokens"]


def _cost_at(prices: PriceTable | None, spec: EmulationSpec, tokens_per_s: float) -> float | None:
    if prices is None or tokens_per_s <= 0:
        return None
    per_h = sum(prices.node_price(node.name, node.machine_type) for node in spec.cluster.nodes)
    return per_h / (3600 * tokens_per_s) * 1e6


def _check_prices(spec: EmulationSpec, prices: PriceTable | None) -> None:
    if prices is None:
        return
    missing: Sequence[str] = prices.missing([(node.name, node.machine_type) for node in spec.cluster.nodes])
    if missing:
        rule = f"there is no price of {', '.join(missing)}"
        raise ScenarioError(Problem("--price", None, "", None, rule, f"add --price {missing[0]}=PER_HOUR"))
