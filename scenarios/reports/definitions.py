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
