"""Why a scenario serves what it serves: what limits it, what would help, where its requests wait."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from emulator.emulation import Emulation
from emulator.errors import SimulationError
from emulator.spec import EmulationSpec, LogLevel
from placement.flow import MaxFlow
from scenarios.errors import Problem, ScenarioError
from scenarios.loader import LoadedScenario
from scenarios.reports.marginal import bound_of, changes, flow_of, full_parts, throughput_of
from scenarios.reports.ttft_parts import PARTS, TtftParts, TtftReader
from scenarios.reports.words import cut_in_words
from scenarios.studies.prices import PriceTable, cost_figures


@dataclass(frozen=True, slots=True, kw_only=True)
class Worth:
    """What a change is worth.

    Attributes:
        name: The change.
        kind: ``node``, ``bandwidth`` or ``latency``.
        flow_gain_tokens_per_s: By how much the max flow rises when everybody keeps their layers, exactly.
        bound_gain_tokens_per_s: By how much the bound on the flow of any placement rises; 0 for links, which that
            bound does not know.
        decode_gain_tokens_per_s: By how much decode throughput rises in an emulation on the same seed; ``None`` when
            none was made. Small figures are noise: batches fall otherwise.
        cost_per_million_tokens: Per decoded tokens after the change; ``None`` without prices or emulation.
    """

    name: str
    kind: str
    flow_gain_tokens_per_s: float
    bound_gain_tokens_per_s: float
    decode_gain_tokens_per_s: float | None = None
    cost_per_million_tokens: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What :func:`explain` finds.

    Attributes:
        scenario: Its name.
        summary: The emulation's summary.
        flow: Max flow of the placement, with its minimum cut.
        cut: What limits it, in words.
        full: Nodes and links beside the cut that it uses up as well.
        cost_per_million_tokens: Per decoded tokens now; ``None`` without prices.
        worth: What changes are worth, the greatest gain first.
        ttft: Parts of the TTFT of every request that got its first token in the window, in that order.
    """

    scenario: str
    summary: Mapping[str, Any]
    flow: MaxFlow
    cut: str
    full: tuple[str, ...]
    cost_per_million_tokens: float | None
    worth: tuple[Worth, ...]
    ttft: tuple[TtftParts, ...]

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
            "worth": [
                {"change": one.name, "kind": one.kind, "flow_gain_tokens_per_s": one.flow_gain_tokens_per_s,
                 "bound_gain_tokens_per_s": one.bound_gain_tokens_per_s,
                 "decode_gain_tokens_per_s": one.decode_gain_tokens_per_s,
                 "cost_per_million_tokens": one.cost_per_million_tokens}
                for one in self.worth
            ],
            "ttft_parts_s": self.mean_parts(),
            "stages": self.stages(),
            "requests": [
                {"request": parts.request, "ttft_s": parts.ttft_s, **parts.parts(),
                 "stages": [{"node": stage.node, "network": stage.network, "queue": stage.queue, "host": stage.host,
                             "compute": stage.compute} for stage in parts.stages]}
                for parts in self.ttft
            ],
        }  # fmt: skip


def explain(
    loaded: LoadedScenario,
    *,
    prices: PriceTable | None = None,
    emulate: bool = True,
    on_step: Callable[[int, int], None] | None = None,
) -> Explanation:
    """Explain a scenario.

    Args:
        loaded: What to explain. Churn is left out: it is about what the scenario does when nothing goes wrong.
        prices: Price of each machine type.
        emulate: Whether to emulate each change, too; otherwise the max flow tells alone.
        on_step: Called with emulations done and in all.

    Raises:
        ScenarioError: A machine type has no price.
        SimulationError: The scenario cannot run.
    """
    spec = replace(loaded.spec, churn=None)
    _check_prices(spec, prices)
    todo = list(changes(spec))
    steps = 1 + (len(todo) if emulate else 0)
    summary, ttft = _emulated(spec)
    if on_step is not None:
        on_step(1, steps)
    throughput = throughput_of(spec)
    base, bound = flow_of(spec, throughput), bound_of(spec, throughput)
    worth = []
    for done, change in enumerate(todo, start=2):
        after = _quick(change.spec) if emulate else None
        worth.append(
            Worth(
                name=change.name,
                kind=change.kind,
                flow_gain_tokens_per_s=_gain(change.flow_tokens_per_s, base.tokens_per_s),
                bound_gain_tokens_per_s=_gain(change.bound_tokens_per_s, bound),
                decode_gain_tokens_per_s=None
                if after is None
                else after["decode_throughput_tokens_per_s"] - summary["decode_throughput_tokens_per_s"],
                cost_per_million_tokens=_cost(prices, change.spec, after),
            )
        )
        if emulate and on_step is not None:
            on_step(done, steps)
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
        worth=tuple(
            sorted(worth, key=lambda one: (-one.flow_gain_tokens_per_s, -(one.decode_gain_tokens_per_s or 0.0)))
        ),
        ttft=tuple(ttft),
    )


def _gain(after: float, before: float) -> float:
    """Differences that are rounding are none."""
    return 0.0 if abs(after - before) <= 1e-9 * max(after, before) else after - before


def _emulated(spec: EmulationSpec) -> tuple[dict[str, Any], list[TtftParts]]:
    """The summary, and the parts of TTFTs that end in the window; the log is read as it is written."""
    kinds = {node.name: node.machine_type for node in spec.cluster.nodes}
    reader = TtftReader(spec.model, spec.profiles, kinds)

    def take(chunk: bytes) -> None:
        reader.read(json.loads(line) for line in chunk.splitlines())

    summary = Emulation(replace(spec, log_level=LogLevel.HOPS), log_sink=take, log_limit_bytes=1 << 62).run()
    return summary, [parts for parts in reader.done if parts.first_token_s >= spec.warm_up_s]


def _quick(spec: EmulationSpec) -> dict[str, Any] | None:
    """A summary alone; ``None`` where the changed cluster cannot run."""
    try:
        return Emulation(replace(spec, log_level=LogLevel.REQUESTS)).run()
    except SimulationError:
        return None


def _cost(prices: PriceTable | None, spec: EmulationSpec, summary: Mapping[str, Any] | None) -> float | None:
    if prices is None or summary is None:
        return None
    return cost_figures(prices, spec.cluster, summary)["cost_per_million_decode_tokens"]


def _check_prices(spec: EmulationSpec, prices: PriceTable | None) -> None:
    if prices is None:
        return
    missing: Sequence[str] = prices.missing([(node.name, node.machine_type) for node in spec.cluster.nodes])
    if missing:
        rule = f"there is no price of {', '.join(missing)}"
        raise ScenarioError(Problem("--price", None, "", None, rule, f"add --price {missing[0]}=PER_HOUR"))
