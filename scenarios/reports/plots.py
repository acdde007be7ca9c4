"""The plots of a run's report, with plotly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from scenarios.reports.plot_style import BLUE, GREEN, GREY, ORANGE, RED, SEQUENTIAL, blank, plain
from scenarios.reports.series import LATENCIES, NodesOverTime, RunSeries, cumulative

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

MOST_BARS = 30
MOST_MARKS = 60
"""Churn events that are marked; more would hide what they mark."""
ROW_PX = 22
FAR = 2.5
"""An objective past so many times the worst request would squeeze the others together."""


def throughput(series: RunSeries, churn: Mapping[str, Any] | None, warm_up_s: float) -> Figure:
    """Decode and total throughput over time against the max flow, with churn events as marks."""
    figure = blank(height=380)
    flow = series.throughput
    figure.add_scatter(
        x=plain(flow.middles_s), y=plain(flow.total_tokens_per_s), name="total", mode="lines",
        line={"color": BLUE, "width": 2}, hovertemplate="%{y:,.1f} tokens/s",
    )  # fmt: skip
    figure.add_scatter(
        x=plain(flow.middles_s), y=plain(flow.decode_tokens_per_s), name="decode", mode="lines",
        line={"color": GREEN, "width": 2}, hovertemplate="%{y:,.1f} tokens/s",
    )  # fmt: skip
    figure.add_scatter(
        x=plain(flow.flow_s), y=plain(flow.flow_tokens_per_s), name="max flow", mode="lines",
        line={"color": RED, "width": 2, "dash": "dash", "shape": "hv"}, hovertemplate="%{y:,.1f} tokens/s",
    )  # fmt: skip
    if warm_up_s > 0:
        figure.add_vrect(x0=0, x1=warm_up_s, fillcolor="#E9ECEF", opacity=0.6, line_width=0, layer="below")
        figure.add_annotation(
            x=0, y=1, yref="paper", text="warm-up", showarrow=False, xanchor="left", yanchor="top",
            font={"size": 11, "color": GREY},
        )  # fmt: skip
    events = (churn or {}).get("events", [])[:MOST_MARKS]
    for event in events:
        figure.add_vline(x=event["at_s"], line={"color": GREY, "width": 1, "dash": "dot"})
    if events:
        top = float(max(flow.total_tokens_per_s.max(), flow.flow_tokens_per_s.max(), 1.0))
        figure.add_scatter(
            x=[event["at_s"] for event in events], y=[top * 1.04] * len(events), name="churn event", mode="markers",
            marker={"symbol": "triangle-down", "size": 10, "color": GREY},
            text=[event_name(event) for event in events], hovertemplate="%{x:.1f} s: %{text}<extra></extra>",
        )  # fmt: skip
    figure.update_layout(hovermode="x unified")
    figure.update_yaxes(title="tokens/s", rangemode="tozero")
    figure.update_xaxes(title="emulated seconds")
    return figure


def event_name(event: Mapping[str, Any]) -> str:
    """A churn event in short."""
    names = event["nodes"]
    return f"{event['kind']} {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}".strip()


def crowd(series: RunSeries) -> Figure:
    """Requests in flight and waiting over time."""
    figure = blank(height=280)
    figure.add_scatter(
        x=plain(series.crowd.times_s), y=plain(series.crowd.in_flight), name="in flight", mode="lines",
        fill="tozeroy", fillcolor="rgba(0,114,178,0.25)", line={"color": BLUE, "width": 1.5, "shape": "hv"},
        hovertemplate="%{y:.0f}",
    )  # fmt: skip
    figure.add_scatter(
        x=plain(series.crowd.times_s), y=plain(series.crowd.waiting), name="waiting for admission", mode="lines",
        line={"color": ORANGE, "width": 1.5, "shape": "hv"}, hovertemplate="%{y:.0f}",
    )  # fmt: skip
    figure.update_layout(hovermode="x unified")
    figure.update_yaxes(title="requests", rangemode="tozero")
    figure.update_xaxes(title="emulated seconds")
    return figure


def latency(series: RunSeries, column: str, objective_s: float | None) -> Figure | None:
    """The share of requests that had at most so much; ``None`` when none finished."""
    values = series.latencies[column]
    if not len(values):
        return None
    figure = blank(height=300)
    xs, shares = cumulative(values)
    figure.add_scatter(
        x=plain(xs), y=plain(100 * shares), mode="lines", name=LATENCIES[column], showlegend=False,
        line={"color": BLUE, "width": 2, "shape": "hv"}, hovertemplate="%{y:.1f} % within %{x:.3g} s<extra></extra>",
    )  # fmt: skip
    for share in (50, 95, 99):
        value = float(np.percentile(values, share))
        figure.add_scatter(
            x=[value], y=[share], mode="markers", name=f"p{share} {value:.3g} s", marker={"size": 9, "color": ORANGE},
            hovertemplate=f"p{share}: %{{x:.3g}} s<extra></extra>", showlegend=False,
        )  # fmt: skip
    most = float(values[-1])
    if objective_s is not None and objective_s > FAR * most:
        figure.add_annotation(
            x=1, y=0.06, xref="paper", yref="paper", text=f"objective {objective_s:g} s, far to the right \u2192",
            showarrow=False, xanchor="right", font={"color": RED, "size": 11},
        )  # fmt: skip
    elif objective_s is not None:
        figure.add_vline(
            x=objective_s, line={"color": RED, "width": 2, "dash": "dash"},
            annotation={"text": f"objective {objective_s:g} s", "font": {"color": RED, "size": 11}},
        )  # fmt: skip
    figure.update_yaxes(title="% of requests", range=[0, 102])
    figure.update_xaxes(title="seconds", rangemode="tozero")
    return figure


def node_use(nodes: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Utilisation and peak KV use of the busiest nodes."""
    shown = sorted(nodes.items(), key=lambda item: -item[1]["utilisation"])[:MOST_BARS]
    figure = blank(height=110 + ROW_PX * max(len(shown), 4))
    names = [name for name, _ in shown]
    for label, key, colour in (("computing", "utilisation", BLUE), ("KV peak", "kv_peak", ORANGE)):
        figure.add_bar(
            y=names, x=[100 * one[key] for _, one in shown], name=label, orientation="h",
            marker={"color": colour}, hovertemplate="%{y}: %{x:.1f} %",
        )  # fmt: skip
    figure.update_layout(barmode="group", bargap=0.25)
    figure.update_xaxes(title="%", range=[0, 100])
    figure.update_yaxes(autorange="reversed", automargin=True, type="category")
    return figure


def link_use(links: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Utilisation of the busiest links."""
    shown = sorted(links.items(), key=lambda item: -item[1]["utilisation"])[:MOST_BARS]
    figure = blank(height=110 + ROW_PX * max(len(shown), 4))
    figure.add_bar(
        y=[name for name, _ in shown], x=[100 * one["utilisation"] for _, one in shown], orientation="h", name="use",
        marker={"color": GREEN}, hovertemplate="%{y}: %{x:.3g} %<extra></extra>", showlegend=False,
    )  # fmt: skip
    figure.update_xaxes(title="% of bandwidth", rangemode="tozero")
    figure.update_yaxes(autorange="reversed", automargin=True, type="category")
    return figure


def over_time(nodes: NodesOverTime, what: str) -> Figure:
    """Busy share (``busy``) or KV use (``kv``) of each node over time."""
    values = nodes.busy if what == "busy" else nodes.kv
    middles = (nodes.edges_s[:-1] + nodes.edges_s[1:]) / 2
    figure = blank(height=130 + max(12, min(ROW_PX, 900 // max(len(nodes.nodes), 1))) * max(len(nodes.nodes), 4))
    # KV caches are often far from full: the scale ends at a round figure above the fullest.
    top = (
        100.0
        if what == "busy"
        else min(100.0, 10.0 * np.ceil(10.0 * float(np.max(np.nan_to_num(values), initial=0.01))))
    )
    figure.add_heatmap(
        x=plain(middles), y=list(nodes.nodes), z=[plain(100 * row) for row in values], zmin=0, zmax=top,
        colorscale=SEQUENTIAL, colorbar={"title": {"text": "%", "side": "right"}, "thickness": 10, "len": 1.0},
        hovertemplate="%{y} at %{x:.1f} s: %{z:.1f} %<extra></extra>", hoverongaps=False,
    )  # fmt: skip
    figure.update_yaxes(autorange="reversed", automargin=True, type="category")
    figure.update_xaxes(title="emulated seconds")
    return figure
