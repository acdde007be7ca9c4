"""Every figure of a report with what it means; the README's table in the words of a summary's keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One figure: its path in ``summary.json``, its name for people, its unit and its definition."""

    path: str
    name: str
    unit: str
    definition: str


_LATENCY = "; of all that end in the window"
FIGURES = (
    Figure(
        path="decode_throughput_tokens_per_s", name="decode throughput", unit="tokens/s",
        definition="decode iterations that are back at the coordinator in the window / window",
    ),
    Figure(
        path="total_throughput_tokens_per_s", name="total throughput", unit="tokens/s",
        definition="the same and the tokens of prefills that are back / window",
    ),
    Figure(
        path="request_throughput_per_s", name="request throughput", unit="requests/s",
        definition="requests that finish in the window / window",
    ),
    Figure(
        path="goodput_requests_per_s", name="goodput", unit="requests/s",
        definition="requests that finish in the window and meet all objectives given / window",
    ),
    Figure(
        path="max_flow_tokens_per_s", name="max flow", unit="tokens/s",
        definition="most tokens/s, prompt and output alike, that the placement can carry; equals its minimum cut",
    ),
    Figure(
        path="flow_upper_bound_tokens_per_s", name="compute bound", unit="tokens/s",
        definition="the most that any placement on these machines could reach on an instantaneous network",
    ),
    Figure(path="ttft_s", name="TTFT", unit="s",
           definition=f"first token at the coordinator - arrival, admission wait included{_LATENCY}"),
    Figure(path="tpot_s", name="TPOT", unit="s",
           definition=f"(E2E - TTFT) / (output tokens - 1); none for requests of one token{_LATENCY}"),
    Figure(path="itl_s", name="ITL", unit="s",
           definition=f"gaps between a request's consecutive tokens at the coordinator{_LATENCY}"),
    Figure(path="e2e_s", name="E2E", unit="s", definition=f"last token - arrival{_LATENCY}"),
    Figure(path="admission_wait_s", name="admission wait", unit="s",
           definition=f"arrival until the coordinator sends the request on{_LATENCY}"),
    Figure(path="prefill_latency_s", name="prefill iteration", unit="s",
           definition=f"from the coordinator's send of a prefill to its receipt of the result{_LATENCY}"),
    Figure(path="decode_latency_s", name="decode iteration", unit="s",
           definition=f"from the coordinator's send of a decode to its receipt of the result{_LATENCY}"),
    Figure(path="preemptions", name="preemptions", unit="",
           definition="requests put off because a KV cache was full, over the whole run"),
    Figure(path="recomputed_tokens", name="recomputed tokens", unit="tokens",
           definition="tokens computed again after a preemption, over the whole run"),
)  # fmt: skip

COLUMNS: Mapping[str, str] = {
    "node": "name of the machine",
    "type": "machine type",
    "region": "region that it stands in",
    "layers": "layers that it holds, half-open; after churn the latest",
    "utilisation": "share of the window that a node spends computing; of a link: bytes sent / (bandwidth x window)",
    "KV peak": "peak share of the KV cache's capacity in the window",
    "mean batch": "requests a batch, in the window",
    "batches": "batches run in the window",
    "flow": "tokens/s of the max flow through it",
    "link": "source and target",
    "bytes": "sent in the window",
    "messages": "sent in the window, one a request and iteration",
}
"""Columns of the tables."""

_ONE_RUN = "; over the whole run"
STUDY_FIGURES = (
    *FIGURES,
    Figure(
        path="slo_attainment", name="SLO attainment", unit="",
        definition="share of the requests that arrive in the window and meet all objectives, of those of which it is "
        "known: who waits too long counts though nobody answered them",
    ),
    Figure(path="node_cost_per_h", name="node cost", unit="{currency}/h",
           definition="sum of the nodes' prices per hour, also of those that are down or hold no layers"),
    Figure(path="egress_gb_per_h", name="egress", unit="GB/h",
           definition="10^9 bytes that leave a region in the window / hours of the window"),
    Figure(path="cost_per_h", name="cost", unit="{currency}/h",
           definition="node cost and egress at its price"),
    Figure(path="cost_per_million_decode_tokens", name="cost of decoded tokens", unit="{currency}/M tokens",
           definition="cost per hour / (10^6 tokens decoded in an hour at this throughput)"),
    Figure(path="cost_per_million_total_tokens", name="cost of tokens", unit="{currency}/M tokens",
           definition="cost per hour / (10^6 tokens, prompts included, in an hour at this throughput)"),
    Figure(path="max_rate", name="greatest rate", unit="requests/s",
           definition="greatest rate that met the conditions, by bisection for each seed; 0 where the lowest did not"),
    Figure(path="requests", name="requests", unit="requests", definition=f"by what became of them{_ONE_RUN}"),
    Figure(path="min_cut_kinds", name="limited by", unit="",
           definition="kinds of the edges in the minimum cut of the flow graph: compute, links, network cards"),
    Figure(path="churn.recovery_s", name="recovery", unit="s",
           definition="from a churn event until throughput was at 95 % of what the max flow allows"),
    Figure(path="churn.detection_s", name="detection", unit="s",
           definition="from a churn event until the coordinator knew of it"),
    Figure(path="churn.slo_debt_s", name="SLO debt", unit="s",
           definition="seconds after churn events that were outside the objectives"),
    Figure(path="churn.requests_retried", name="requests retried", unit="requests",
           definition=f"tried again because of churn{_ONE_RUN}"),
    Figure(path="churn.requests_failed", name="requests failed by churn", unit="requests",
           definition=f"failed because of churn{_ONE_RUN}"),
    Figure(path="churn.tokens_recomputed", name="tokens recomputed", unit="tokens",
           definition=f"computed again because of churn{_ONE_RUN}"),
)  # fmt: skip
"""Figures of a study's points."""
STUDY_COLUMNS: Mapping[str, str] = {
    "cell": "number of a combination of the axes' values",
    "seeds": "runs of it that were made, one a seed",
    "failed": "runs of it that could not run, or failed",
    "difference": "mean over seeds of the difference from the baseline on the same seed",
    "share": "that difference as a share of the baseline's mean",
    "range": "least and greatest of the seeds",
    "bounds": "seeds whose greatest rate is outside the range that was searched",
    "clusters": "clusters of the catalogue that were tried",
    "status": "cheapest: nothing cheaper is left untried; best found: there is; failed: the point could not run",
}
"""Columns of a study's tables."""

_UNITS = (
    ("requests_per_s", "requests/s"), ("tokens_per_s", "tokens/s"), ("bytes_per_s", "bytes/s"),
    ("_tokens", "tokens"), ("_bytes", "bytes"), ("_s", "s"),
)  # fmt: skip
_MORE = (
    "decode_throughput", "total_throughput", "request_throughput", "goodput", "max_flow", "slo_attainment", "max_rate",
    "flow_upper_bound", "requests.finished",
)  # fmt: skip
_LESS = (
    "ttft_s", "tpot_s", "itl_s", "e2e_s", "admission_wait_s", "prefill_latency_s", "decode_latency_s", "preemptions",
    "recomputed_tokens", "cost_per", "node_cost", "egress", "churn.recovery_s", "churn.detection_s",
    "churn.slo_debt_s", "churn.requests_failed", "churn.requests_retried", "churn.tokens_recomputed",
    "requests.rejected", "requests.failed",
)  # fmt: skip
_STATISTICS = ("mean", "p50", "p95", "p99", "max")


def rows(summary: Mapping[str, Any]) -> Iterator[tuple[Figure, str, float | None]]:
    """Each figure that the summary has, with the statistic (empty for a plain one) and its value."""
    for figure in FIGURES:
        value = summary.get(figure.path)
        if isinstance(value, Mapping):
            for statistic in _STATISTICS:
                yield figure, statistic, value.get(statistic)
        elif value is not None:
            yield figure, "", value


def figure_of(name: str, currency: str = "") -> Figure:
    """The figure of a study's column.

    Args:
        name: Dotted name, the statistic at its end: ``ttft_s.p50``.
        currency: Of prices.

    Returns:
        The figure with the statistic in its name. One that has no definition here is called as its column is.
    """
    for known in STUDY_FIGURES:
        if name == known.path or name.startswith(f"{known.path}."):
            rest = name[len(known.path) + 1 :].replace("_", " ")
            return Figure(
                path=name,
                name=f"{known.name} {rest}".rstrip(),
                unit=known.unit.format(currency=currency),
                definition=known.definition,
            )
    return Figure(path=name, name=name, unit=unit_of(name), definition="as summary.json of a run has it")


def unit_of(path: str) -> str:
    """The unit that a field's or a figure's name ends with; empty where it says none."""
    return next((unit for part in reversed(path.split(".")) for end, unit in _UNITS if part.endswith(end)), "")


def better(name: str) -> int:
    """Whether more of a figure is better (1), or less (-1), or neither can be said (0)."""
    if name.startswith(_MORE):
        return 1
    return -1 if name.startswith(_LESS) else 0
