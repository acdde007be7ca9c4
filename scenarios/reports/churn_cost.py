"""What a scenario's churn costs: the same seed with it and without, and which of its events cost most."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from emulator.churn.spec import NodeEventKind
from emulator.emulation import Emulation
from emulator.metrics import Metrics
from emulator.spec import EmulationSpec, LogLevel
from scenarios.reports.emulations import for_each
from scenarios.studies.executors import Executor

MOST_SAMPLES = 20_000
"""Tokens served are counted at most so often."""
COMPARED = (
    "decode_throughput_tokens_per_s", "total_throughput_tokens_per_s", "request_throughput_per_s",
    "goodput_requests_per_s",
)  # fmt: skip
"""Figures of a summary, the more the better, that are compared where there are any."""
LATENCIES = ("ttft_s", "tpot_s", "e2e_s")
COUNTED = (
    "incidents", "unrecovered", "requests_retried", "requests_failed", "tokens_recomputed", "layers_moved",
    "bytes_moved", "slo_debt_s",
)  # fmt: skip
"""What the summary's part about churn counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventCost:
    """What events at one moment cost: until the next that is no join, against the same time without churn.

    Attributes:
        at_s: When.
        what: What happened, with the machines; joins that followed too.
        tokens_lost: Tokens served less, prompts included, until the next event or the end; negative where the calm
            run, other requests in flight by then, served less.
        slo_debt_s: Seconds outside the objectives until then.
        requests_failed: Requests that failed because of them.
        requests_retried: Requests that were tried again because of them.
        tokens_recomputed: Tokens computed again because of them.
        recovery_s: From the first of them until throughput was back after the last; ``None`` if it never was.
    """

    at_s: float
    what: str
    tokens_lost: float
    slo_debt_s: float
    requests_failed: int
    requests_retried: int
    tokens_recomputed: int
    recovery_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChurnCost:
    """What churn costs.

    Attributes:
        calm: Figure -> value without churn.
        churning: The same figures with it.
        counts: What the churn did, as counted by the run with it.
        tokens_lost: Tokens served less in the whole run, prompts included: the sum of the events', as nothing differs
            before the first.
        events: Each event's cost, the greatest first.
    """

    calm: Mapping[str, float | None]
    churning: Mapping[str, float | None]
    counts: Mapping[str, float]
    tokens_lost: float
    events: tuple[EventCost, ...]

    def figures(self) -> dict[str, Any]:
        """Everything as plain data, for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Served:
    """A run: its summary, and tokens served so far at moments of it."""

    summary: dict[str, Any]
    times_s: np.ndarray
    tokens: np.ndarray


def churn_cost(
    spec: EmulationSpec, executor: Executor | None = None, on_done: Callable[[], None] | None = None
) -> ChurnCost:
    """Run a scenario with and without its churn.

    Args:
        spec: The scenario, with churn.
        executor: Who runs it; this process without one.
        on_done: Called after each run.

    Raises:
        SimulationError: The scenario cannot run.
        StudyError: A worker was killed.
    """
    assert spec.churn is not None, "only churn can be compared with none"
    churning, calm = for_each(_served, [spec, replace(spec, churn=None)], executor, on_done)
    told = churning.summary["churn"]
    return ChurnCost(
        calm=_compared(calm.summary),
        churning=_compared(churning.summary),
        counts={name: told[name] for name in COUNTED},
        tokens_lost=float(calm.tokens[-1] - churning.tokens[-1]),
        events=tuple(_events(told["events"], calm, churning)),
    )


def _served(spec: EmulationSpec) -> _Served:
    """Run, and look at what was served at even steps; looking changes nothing."""
    emulation = Emulation(replace(spec, log_level=LogLevel.REQUESTS))
    metrics = emulation.state.metrics
    steps = max(1, min(MOST_SAMPLES, int(spec.duration_s)))
    times_s = np.linspace(0.0, spec.duration_s, steps + 1)
    tokens = np.zeros(steps + 1)
    for index, at_s in enumerate(times_s[1:-1].tolist(), start=1):
        emulation.env.call_at(at_s, partial(_count, tokens, index, metrics))
    summary = emulation.run()
    if summary["interrupted"]:
        raise KeyboardInterrupt
    tokens[-1] = metrics.tokens
    return _Served(summary=summary, times_s=times_s, tokens=tokens)


def _count(tokens: np.ndarray, index: int, metrics: Metrics, _event: object) -> None:
    tokens[index] = metrics.tokens


def _compared(summary: Mapping[str, Any]) -> dict[str, float | None]:
    figures = {name: summary[name] for name in COMPARED if name in summary}
    return figures | {
        f"{name}_{statistic}": summary[name][statistic] for name in LATENCIES for statistic in ("p50", "p95")
    }


def _events(records: Sequence[Mapping[str, Any]], calm: _Served, churning: _Served) -> list[EventCost]:
    """The costs of events; those at the same moment are one, and joins belong to what they mend."""
    moments: dict[float, list[Mapping[str, Any]]] = {}
    for record in sorted(records, key=lambda one: float(one["at_s"])):
        mends = record["kind"] == NodeEventKind.JOIN and moments
        moments.setdefault(next(reversed(moments)) if mends else float(record["at_s"]), []).append(record)
    times = list(moments)
    lost = calm.tokens - churning.tokens
    reach = np.interp([*times, calm.times_s[-1]], calm.times_s, lost)
    # Before the first event both runs are the same; what interpolation says there is the first one's.
    reach[0] = 0.0
    costs = []
    for at_s, before, after in zip(times, reach[:-1].tolist(), reach[1:].tolist(), strict=True):
        those = moments[at_s]
        recovered = [None if one["recovery_s"] is None else one["at_s"] - at_s + one["recovery_s"] for one in those]
        costs.append(
            EventCost(
                at_s=at_s,
                what=", ".join(dict.fromkeys(_what(one) for one in those)),
                tokens_lost=after - before,
                slo_debt_s=sum(one["slo_debt_s"] for one in those),
                requests_failed=sum(one["requests_failed"] for one in those),
                requests_retried=sum(one["requests_retried"] for one in those),
                tokens_recomputed=sum(one["tokens_recomputed"] for one in those),
                recovery_s=None if None in recovered else max(one for one in recovered if one is not None),
            )
        )
    return sorted(costs, key=lambda one: -one.tokens_lost)


def _what(record: Mapping[str, Any]) -> str:
    nodes = record["nodes"]
    named = f"{', '.join(nodes[:3])}{f' and {len(nodes) - 3} more' if len(nodes) > 3 else ''}"
    return f"{record['kind']} of {named}" if nodes else str(record["kind"])
