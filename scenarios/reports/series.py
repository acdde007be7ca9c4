"""What a report plots, as arrays: computed once from a run's files, drawn by plotly or matplotlib.

Throughput over time comes from the batches of the model's last layer, where the event log has batches. Otherwise from
the requests: prompt tokens count when the first token is there, the tokens after it are spread evenly to the last one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scenarios.reports.run_files import RequestRow, RunFiles

Array = NDArray[np.float64]

MOST_BINS = 240
"""Bins of time in a plot."""
FEW_BINS = 60
"""Bins of throughput: prompts come in lumps of hundreds of tokens."""
LEAST_BIN_S = 1.0
MOST_QUANTILES = 400
"""Points of a cumulative distribution."""
MOST_ROWS = 120
"""Nodes in a plot over time."""
LATENCIES = {"ttft_s": "TTFT", "tpot_s": "TPOT", "e2e_s": "E2E"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """Tokens/s in bins of time.

    Attributes:
        edges_s: Edges of the bins, shape ``(n + 1,)``.
        decode_tokens_per_s: Tokens after each request's first, shape ``(n,)``.
        total_tokens_per_s: The same with prompt tokens and first tokens, shape ``(n,)``.
        exact: Whether it was counted from batches, and not spread over each request's time.
        flow_s: When the max flow changed, rising.
        flow_tokens_per_s: Max flow from then on.
    """

    edges_s: Array
    decode_tokens_per_s: Array
    total_tokens_per_s: Array
    exact: bool
    flow_s: Array
    flow_tokens_per_s: Array

    @property
    def middles_s(self) -> Array:
        """Middles of the bins."""
        return (self.edges_s[:-1] + self.edges_s[1:]) / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowd:
    """Requests at the coordinator over time: those it has not admitted, and those under way."""

    times_s: Array
    waiting: Array
    in_flight: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class NodesOverTime:
    """Busy share and KV use of nodes in bins of time, from the batches of the event log.

    Attributes:
        nodes: Names, in the summary's order, the busiest :data:`MOST_ROWS` of them.
        edges_s: Edges of the bins, shape ``(n + 1,)``.
        busy: Share of each bin spent computing, shape ``(nodes, n)``.
        kv: KV entries at the last batch of each bin / capacity, shape ``(nodes, n)``; NaN before the first batch.
    """

    nodes: tuple[str, ...]
    edges_s: Array
    busy: Array
    kv: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSeries:
    """All of it.

    Attributes:
        latencies: Column of ``requests.csv`` -> its values of requests that finish in the window, sorted.
        over_time: ``None`` when the event log has no batches.
        slowest: Finished requests with the longest E2E, longest first.
    """

    throughput: Throughput
    crowd: Crowd
    latencies: Mapping[str, Array]
    over_time: NodesOverTime | None
    slowest: tuple[RequestRow, ...]


def run_series(run: RunFiles, slowest: int = 100) -> RunSeries:
    """Read a run's requests and events into what a report plots."""
    rows = list(run.requests())
    begin, end = run.window
    done = [row for row in rows if row.finished and row.end_s is not None and begin <= row.end_s <= end]
    over_time, tokens = _batches(run, bins(end), bins(end, FEW_BINS))
    return RunSeries(
        throughput=_throughput(run, rows, bins(end, FEW_BINS), tokens),
        crowd=_crowd(rows, end),
        latencies={
            name: np.sort([value for row in done if (value := getattr(row, name)) is not None]) for name in LATENCIES
        },
        over_time=over_time,
        slowest=tuple(sorted(done, key=lambda row: (-(row.e2e_s or 0.0), row.request))[:slowest]),
    )


def bins(end_s: float, most: int = MOST_BINS) -> Array:
    """Edges of bins of at least :data:`LEAST_BIN_S`, of a round length, from 0 to ``end_s``."""
    least = max(LEAST_BIN_S, end_s / most)
    power = 10.0 ** math.floor(math.log10(least))
    width = next(step * power for step in (1.0, 2.0, 5.0, 10.0) if step * power >= least * (1 - 1e-9))
    edges = np.arange(0.0, end_s, width)
    # A last bin that is much shorter than the others would show noise.
    if len(edges) > 1 and end_s - edges[-1] < width / 2:
        edges = edges[:-1]
    return np.append(edges, end_s) if end_s > 0 else np.array([0.0, LEAST_BIN_S])


def cumulative(values: Array) -> tuple[Array, Array]:
    """A cumulative distribution with at most :data:`MOST_QUANTILES` points: values and shares of 1."""
    if len(values) <= MOST_QUANTILES:
        return values, np.arange(1, len(values) + 1) / len(values)
    shares = np.linspace(0.0, 1.0, MOST_QUANTILES)
    return np.quantile(values, shares), shares


def _throughput(
    run: RunFiles, rows: Sequence[RequestRow], edges: Array, tokens: tuple[Array, Array] | None
) -> Throughput:
    decodes, prompts = _tokens_of(rows, edges) if tokens is None else tokens
    widths = np.diff(edges)
    flow_s, flows = _flows(run)
    return Throughput(
        edges_s=edges,
        decode_tokens_per_s=decodes / widths,
        total_tokens_per_s=(decodes + prompts) / widths,
        exact=tokens is not None,
        flow_s=np.array([*flow_s, edges[-1]]),
        flow_tokens_per_s=np.array([*flows, flows[-1]]),
    )


def _tokens_of(rows: Sequence[RequestRow], edges: Array) -> tuple[Array, Array]:
    """Decoded and prompt tokens in bins, from the times of the requests."""
    decodes, prompts = np.zeros(len(edges) - 1), np.zeros(len(edges) - 1)
    for row in rows:
        if row.first_token_s is None:
            continue
        prompts[_bin(edges, row.first_token_s)] += row.prompt_tokens
        until = float(edges[-1]) if row.end_s is None else row.end_s
        if row.emitted_tokens > 1:
            _spread(decodes, edges, row.first_token_s, until, row.emitted_tokens - 1)
    return decodes, prompts


def _flows(run: RunFiles) -> tuple[list[float], list[float]]:
    """When the max flow changed, and what it was from then on."""
    timeline = (run.summary.get("churn") or {}).get("timeline") or []
    if not timeline:
        return [0.0], [float(run.summary.get("max_flow_tokens_per_s") or 0.0)]
    times, flows = [0.0], [float(timeline[0]["max_flow_tokens_per_s"])]
    for entry in timeline[1:]:
        if entry["max_flow_tokens_per_s"] != flows[-1]:
            times.append(float(entry["t_s"]))
            flows.append(float(entry["max_flow_tokens_per_s"]))
    return times, flows


def _bin(edges: Array, time: float) -> int:
    return min(max(int(np.searchsorted(edges, time, side="right")) - 1, 0), len(edges) - 2)


def _spread(amounts: Array, edges: Array, begin: float, end: float, amount: float) -> None:
    """Add ``amount`` evenly from ``begin`` to ``end``."""
    first = max(int(np.searchsorted(edges, begin, side="right")) - 1, 0)
    last = min(int(np.searchsorted(edges, end, side="left")), len(edges) - 1)
    if end <= begin:
        amounts[min(first, len(amounts) - 1)] += amount
        return
    inside = np.minimum(edges[first + 1 : last + 1], end) - np.maximum(edges[first:last], begin)
    amounts[first:last] += amount * np.maximum(inside, 0.0) / (end - begin)


def _crowd(rows: Sequence[RequestRow], end_s: float) -> Crowd:
    arrivals = np.sort([row.arrival_s for row in rows])
    admissions = np.sort([row.admitted_s for row in rows if row.admitted_s is not None])
    gone = np.sort([row.end_s for row in rows if row.end_s is not None])
    turned_away = np.sort([row.end_s for row in rows if row.end_s is not None and row.admitted_s is None])
    left = np.sort([row.end_s for row in rows if row.end_s is not None and row.admitted_s is not None])
    times = np.unique(np.concatenate([[0.0], arrivals, admissions, gone, [end_s]]))
    if len(times) > 2 * MOST_BINS:
        times = np.linspace(0.0, end_s, 2 * MOST_BINS + 1)

    def until(events: Array) -> Array:
        return np.searchsorted(events, times, side="right").astype(float)

    in_flight = until(admissions) - until(left)
    waiting = until(arrivals) - until(admissions) - until(turned_away)
    return Crowd(times_s=times, waiting=np.maximum(waiting, 0.0), in_flight=np.maximum(in_flight, 0.0))


def _batches(run: RunFiles, edges: Array, coarse: Array) -> tuple[NodesOverTime | None, tuple[Array, Array] | None]:
    """Nodes over time, and decoded and prompt tokens that passed the last layer in ``coarse`` bins."""
    figures: Mapping[str, Any] = run.summary["nodes"]
    busiest = sorted(figures, key=lambda name: -figures[name]["utilisation"])[:MOST_ROWS]
    chosen = dict.fromkeys(busiest)
    names = tuple(name for name in figures if name in chosen)
    index = {name: row for row, name in enumerate(names)}
    busy = np.zeros((len(names), len(edges) - 1))
    kv = np.full((len(names), len(edges) - 1), np.nan)
    passed: dict[int, tuple[Array, Array]] = {}
    for number, event in run.events():
        if event["event"] != "batch":
            continue
        try:
            end, begin = float(event["t"]), float(event["t"]) - float(event["duration_s"])
            stop, decodes, prompts = int(event["layers"][1]), int(event["decodes"]), int(event["prompt_tokens"])
            row, used = index.get(event["node"]), float(event["kv_used"])
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise run.broken_event(number, error) from error
        tokens = passed.setdefault(stop, (np.zeros(len(coarse) - 1), np.zeros(len(coarse) - 1)))
        at = _bin(coarse, end)
        tokens[0][at] += decodes
        tokens[1][at] += prompts
        if row is not None:
            _spread(busy[row], edges, begin, end, end - begin)
            kv[row, _bin(edges, end)] = used / figures[names[row]]["kv_capacity_layer_tokens"]
    if not passed:
        return None, None
    # Every placement covers the model, so the greatest end of a batch is the model's.
    over_time = NodesOverTime(nodes=names, edges_s=edges, busy=busy / np.diff(edges), kv=_held(kv))
    return over_time, passed[max(passed)]


def _held(values: Array) -> Array:
    """Each row with its last known value where there is none."""
    for row in values:
        known = np.nan
        for index, value in enumerate(row):
            known = row[index] = known if np.isnan(value) else value
    return values
