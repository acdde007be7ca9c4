"""Counters of all proxies in Prometheus' text format, by Toxiproxy's names where it has them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from netshape.link_metrics import PERCENTILES
from netshape.proxy.flow_metrics import FlowMetrics
from netshape.proxy.proxy import Proxy
from netshape.proxy.toxics.toxic import DIRECTIONS

Sample = tuple[dict[str, str], float]

FLOWS: tuple[tuple[str, str, Callable[[FlowMetrics], float]], ...] = (
    ("received_bytes_total", "Bytes from the near end.", lambda metrics: metrics.received_bytes),
    ("sent_bytes_total", "Bytes handed to the far end.", lambda metrics: metrics.sent_bytes),
    ("dropped_bytes_total", "Bytes thrown away.", lambda metrics: metrics.dropped_bytes),
)
PROXIES: tuple[tuple[str, str, str, Callable[[Proxy], float]], ...] = (
    ("accepted_connections_total", "counter", "Clients accepted.", lambda proxy: proxy.accepted),
    ("refused_connections_total", "counter", "Clients turned away.", lambda proxy: proxy.refused),
    ("upstream_failures_total", "counter", "Upstreams not reached.", lambda proxy: proxy.upstream_failures),
    ("open_connections", "gauge", "Clients connected.", lambda proxy: proxy.open_connections),
    ("held_bytes", "gauge", "Bytes on their way.", lambda proxy: proxy.held_bytes),
)

LINKS: tuple[tuple[str, str], ...] = (
    ("configured_bytes_per_s", "Rate that the link is set to."),
    ("delivered_bytes_per_s", "Rate that it delivered at while it was busy."),
    ("configured_latency_s", "Latency that the link is set to."),
    ("planned_delay_s_mean", "Mean delay, queueing included, that the link model gave."),
    ("delivered_delay_s_mean", "Mean delay that there was."),
)


def exposition(proxies: Sequence[Proxy]) -> str:
    """The text of all counters."""
    lines: list[str] = []
    for name, about, value in FLOWS:
        samples = [
            (_labels(proxy, direction), value(proxy.metrics[direction]))
            for proxy in proxies
            for direction in DIRECTIONS
        ]
        lines += _family(f"toxiproxy_proxy_{name}", "counter", about, samples)
    for name, kind, about, figure in PROXIES:
        lines += _family(f"helixemu_proxy_{name}", kind, about, [(_labels(proxy), figure(proxy)) for proxy in proxies])
    for name, about in LINKS:
        found = [
            (_labels(proxy, direction), channel.metrics.report()[name])
            for proxy in proxies
            for direction in DIRECTIONS
            if (channel := proxy.links.channel(direction)) is not None and channel.metrics is not None
        ]
        # What was not measured yet is left out, and so is a rate without a limit.
        samples = [(labels, value) for labels, value in found if value is not None and value < math.inf]
        lines += _family(f"helixemu_link_{name}", "gauge", about, samples)
    lateness = [
        ({**_labels(proxy, direction), "quantile": str(share)}, proxy.metrics[direction].lateness.quantile(share))
        for proxy in proxies
        for direction in DIRECTIONS
        for share in PERCENTILES.values()
        if proxy.metrics[direction].lateness.count
    ]
    lines += _family("helixemu_proxy_lateness_seconds", "gauge", "How late held bytes were passed on.", lateness)
    return "\n".join(lines) + "\n"


def _labels(proxy: Proxy, direction: str | None = None) -> dict[str, str]:
    labels = {} if direction is None else {"direction": direction}
    return {**labels, "proxy": proxy.name, "listener": proxy.listen, "upstream": proxy.upstream}


def _family(name: str, kind: str, about: str, samples: Iterable[Sample]) -> list[str]:
    lines = [f"# HELP {name} {about}", f"# TYPE {name} {kind}"]
    for labels, value in samples:
        inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
        lines.append(f"{name}{{{inside}}} {value!r}")
    return lines


def _escaped(text: str) -> str:
    text = text.encode("utf-8", "replace").decode()
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
