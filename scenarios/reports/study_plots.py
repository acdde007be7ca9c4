"""The plots of a study's report, with plotly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scenarios.reports.definitions import Figure as Measure
from scenarios.reports.plot_style import (
    GREEN,
    GREY,
    LINES,
    PALE,
    RED,
    SEQUENTIAL,
    Choice,
    blank,
    faded,
    plain,
    shown_text,
)  # fmt: skip
from scenarios.reports.plots import MOST_BARS, ROW_PX
from scenarios.reports.study_clouds import Cloud, Dot
from scenarios.reports.study_data import (
    Axis,
    Curves,
    Grid,
    Line,
    axis_title,
    excludes_nought,
    interval_text,
    label_text,
    log_ticks,
    ticked,
    wide,
)  # fmt: skip
from scenarios.reports.tables import short
from scenarios.studies.statistics import Interval

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

DASHES = ("solid", "dash", "dot", "dashdot")
MOST_WRITTEN = 16
"""Columns of a map whose fields have room for their figures; on narrow screens the page's script allows fewer."""
WIDE_TEXT = 22
"""Characters of a bar's name on one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """A plot, and the parts of it that can be chosen from."""

    figure: Figure
    choices: tuple[Choice, ...] = ()


def curve_plot(curves: Sequence[Curves]) -> Plot:
    """A figure over one axis with its confidence bands; over several, one is chosen."""
    first = curves[0]
    figure = blank(height=360 if first.by is None else 400)
    choices = []
    for one in curves:
        for panel in one.panels:
            before = len(figure.data)
            for number, line in enumerate(panel.lines):
                _draw_line(figure, one, line, number)
            name = panel.name if len(curves) == 1 else f"over {one.x.name}"
            layout = {} if len(curves) == 1 else {"xaxis": _x_axis(figure, one.x)}
            choices.append(Choice(name=name, traces=frozenset(range(before, len(figure.data))), layout=layout))
    figure.update_xaxes(**_ticks(first.x))
    figure.update_yaxes(**_scale(first))
    if first.x.values is None:
        # Dots stand beside each other as bars do; on an axis of numbers they would stand at wrong ones.
        figure.update_layout(barmode="group", bargap=0.3, scattermode="group")
    if first.by is not None:
        figure.update_layout(legend={"title": {"text": f"{shown_text(first.by.title)}: "}})
    return Plot(figure=figure, choices=_first_shown(figure, choices))


def _draw_line(figure: Figure, curves: Curves, line: Line, number: int) -> None:
    colour, dash = LINES[number % len(LINES)], DASHES[number // len(LINES) % len(DASHES)]
    x = curves.x
    at: list[Any] = [_said(x, place) if x.values is None else x.values[place] for place in line.at]
    shown: dict[str, Any] = {
        "x": at, "y": _numbers([one.mean for one in line.found]), "name": shown_text(line.name) or "mean",
        "text": [_told(x, place, line, one, curves.figure) for place, one in zip(line.at, line.found, strict=True)],
        "hoverinfo": "text", "showlegend": curves.by is not None, "legendgroup": str(number),
    }  # fmt: skip
    errors = _errors(line.found)
    if x.values is None and curves.joined and not curves.log:
        figure.add_bar(**shown, marker={"color": colour}, error_y=errors, textposition="none")
        return
    if x.values is None or not curves.joined:
        figure.add_scatter(**shown, mode="markers", marker={"color": colour, "size": 9}, error_y=errors)
        return
    _draw_band(figure, curves, line, at, colour, number)
    figure.add_scatter(
        **shown, mode="lines+markers", line={"color": colour, "width": 2, "dash": dash}, marker={"size": 7}
    )


def _draw_band(figure: Figure, curves: Curves, line: Line, at: Sequence[float], colour: str, number: int) -> None:
    """Between the ends of the intervals."""
    ends = [(place, *curves.band(one)) for place, one in zip(at, line.found, strict=True) if one.low is not None]
    if len(ends) < 2:
        return
    figure.add_scatter(
        x=plain([place for place, _, _ in ends] + [place for place, _, _ in reversed(ends)]),
        y=plain([high for _, _, high in ends] + [low for _, low, _ in reversed(ends)]),
        mode="lines", fill="toself", fillcolor=faded(colour), line={"width": 0, "color": colour}, hoverinfo="skip",
        showlegend=False, legendgroup=str(number),
    )  # fmt: skip


def _errors(found: Sequence[Interval]) -> dict[str, Any]:
    up = [0.0 if one.high is None or one.mean is None else one.high - one.mean for one in found]
    down = [0.0 if one.low is None or one.mean is None else one.mean - one.low for one in found]
    return {
        "type": "data", "symmetric": False, "array": plain(up), "arrayminus": plain(down), "color": GREY,
        "thickness": 1.2, "width": 4, "visible": any(up) or any(down),
    }  # fmt: skip


def _numbers(values: Sequence[float | None]) -> list[float | None]:
    return [None if value is None else plain([value])[0] for value in values]


def _said(axis: Axis, place: int) -> str:
    return shown_text(label_text(axis.labels[place]))


def _told(axis: Axis, place: int, line: Line, found: Interval, measure: Measure) -> str:
    where = ", ".join(part for part in (axis.said(axis.labels[place]), line.name) if part)
    return f"{shown_text(where)}<br>{interval_text(found)} {shown_text(measure.unit)}"


def _scale(curves: Curves) -> dict[str, Any]:
    title = shown_text(axis_title(curves.figure))
    return {"title": title, "automargin": True, **(_log(curves.means) if curves.log else {"rangemode": "tozero"})}


def _log(values: Sequence[float]) -> dict[str, Any]:
    """A logarithmic scale; plotly would write what is between powers of ten too small to read."""
    ticks = log_ticks(values)
    return {"type": "log", "tickvals": ticks, "ticktext": [short(tick) for tick in ticks]}


def _ticks(axis: Axis) -> dict[str, Any]:
    """Title, scale and labels of an x axis: the study's own values, as many as have room."""
    title = shown_text(axis.title)
    if axis.values is None:
        order = [_said(axis, place) for place in range(len(axis.labels))]
        return {
            "title": title, "type": "category", "categoryorder": "array", "categoryarray": order, "automargin": True,
        }  # fmt: skip
    places = ticked(axis)
    return {
        "title": title, "type": "log" if axis.log else "linear", "automargin": True, "zeroline": False,
        "tickvals": [axis.values[place] for place in places], "ticktext": [_said(axis, place) for place in places],
    }  # fmt: skip


def _x_axis(figure: Figure, axis: Axis) -> dict[str, Any]:
    """The whole x axis, for a choice that replaces it."""
    ticks = _ticks(axis)
    return {**figure.layout.xaxis.to_plotly_json(), **ticks, "title": {"text": ticks["title"], "standoff": 8}}


def _first_shown(figure: Figure, choices: Sequence[Choice]) -> tuple[Choice, ...]:
    """The choices, if there are several; what the first does not show is hidden at first."""
    if len(choices) < 2:
        return ()
    for number, trace in enumerate(figure.data):
        trace.visible = number in choices[0].traces
    return tuple(choices)


# ----------------------------------------------------------------------------------------------------- other plots


def heat_map(grid: Grid) -> Plot:
    """A figure over two axes of numbers; fields are of one size, whatever lies between the values."""
    figure = blank(height=130 + 40 * max(len(grid.y.labels), 4))
    across, up = ([_said(axis, place) for place in range(len(axis.labels))] for axis in (grid.x, grid.y))
    choices = []
    values = [value for rows in grid.panels.values() for row in rows for value in row if value is not None]
    for name, rows in grid.panels.items():
        figure.add_heatmap(
            x=across, y=up, z=[_numbers(row) for row in rows], zmin=min(values), zmax=max(values),
            text=[["" if value is None else short(value, 3) for value in row] for row in rows],
            texttemplate="%{text}" if len(across) <= MOST_WRITTEN else None, textfont={"size": 11},
            colorscale=SEQUENTIAL, hoverongaps=False, xgap=2, ygap=2,
            colorbar={"thickness": 10},
            hovertemplate="%{x}, %{y}: %{text}<extra></extra>",
        )  # fmt: skip
        choices.append(Choice(name=name, traces=frozenset((len(figure.data) - 1,))))
    figure.update_xaxes(title=shown_text(grid.x.title), type="category", showgrid=False, automargin=True)
    figure.update_yaxes(title=shown_text(grid.y.title), type="category", showgrid=False, automargin=True)
    return Plot(figure=figure, choices=_first_shown(figure, choices))


def difference_plot(measure: Measure, rows: Sequence[tuple[str, Interval]]) -> Plot:
    """Paired differences with their intervals."""
    shown = rows[:MOST_BARS]
    names = [broken(name) for name, _ in shown]
    figure = blank(height=110 + ROW_PX * max(sum(1 + name.count("<br>") for name in names), 4))
    found = [one for _, one in shown]
    figure.add_scatter(
        x=_numbers([one.mean for one in found]), y=names, mode="markers", showlegend=False,
        marker={"color": [LINES[0] if excludes_nought(one) else PALE for one in found], "size": 10},
        error_x=_errors(found), hoverinfo="text",
        text=[f"{shown_text(name)}<br>{interval_text(one)} {shown_text(measure.unit)}" for name, one in shown],
    )  # fmt: skip
    figure.add_vline(x=0, line={"color": GREY, "width": 1.5, "dash": "dash"})
    figure.update_xaxes(
        title=shown_text(f"difference, {measure.unit}" if measure.unit else "difference"), automargin=True
    )
    figure.update_yaxes(range=[len(shown) - 0.5, -0.5], automargin=True, type="category")
    return Plot(figure=figure)


def broken(name: str) -> str:
    """A name on lines of bearable length, as plotly breaks them."""
    lines = [""]
    for part in name.split(", "):
        joined = f"{lines[-1]}, {part}" if lines[-1] else part
        if len(joined) > WIDE_TEXT and lines[-1]:
            lines[-1] += ","
            lines.append(part)
        else:
            lines[-1] = joined
    return "<br>".join(shown_text(line) for line in lines)


def bisection_plot(cloud: Cloud) -> Plot:
    """Rates that were tried, those that met the conditions and those that did not."""
    figure = blank(height=360)
    choices = []
    for name, dots in cloud.panels.items():
        before = len(figure.data)
        for good, said, colour, symbol in ((True, "met", GREEN, "circle"), (False, "not met", RED, "x")):
            _draw_dots(figure, [dot for dot in dots if dot.good == good], said, colour, symbol)
        choices.append(Choice(name=name, traces=frozenset(range(before, len(figure.data)))))
    if cloud.limit is not None:
        figure.add_hline(y=cloud.limit, line={"color": GREY, "width": 1.5, "dash": "dash"})
    xs = [dot.x for dots in cloud.panels.values() for dot in dots]
    figure.update_xaxes(title="rate that was tried, requests/s", **(_log(xs) if wide(xs) else {}))
    figure.update_yaxes(title=shown_text(axis_title(cloud.figure)), automargin=True)
    return Plot(figure=figure, choices=_first_shown(figure, choices))


def _draw_dots(figure: Figure, dots: Sequence[Dot], name: str, colour: str, symbol: str) -> None:
    figure.add_scatter(
        x=plain([dot.x for dot in dots]), y=plain([dot.y for dot in dots]), name=name, mode="markers",
        marker={"color": colour, "size": 9, "symbol": symbol, "opacity": 0.8}, hoverinfo="text",
        text=[f"{shown_text(dot.name)}<br>{short(dot.x)}: {short(dot.y)}" for dot in dots],
    )  # fmt: skip


def pareto_plot(cloud: Cloud, currency: str) -> Plot:
    """Cost against what it brings: the front joined, what is beaten grey."""
    figure = blank(height=380)
    choices = []
    for name, dots in cloud.panels.items():
        before = len(figure.data)
        front = [dot for dot in dots if dot.good]
        figure.add_scatter(
            x=plain([dot.x for dot in front]), y=plain([dot.y for dot in front]), mode="lines", hoverinfo="skip",
            showlegend=False, line={"color": LINES[0], "width": 2, "shape": "hv"},
        )  # fmt: skip
        _draw_dots(figure, [dot for dot in dots if not dot.good], "beaten", PALE, "circle")
        _draw_dots(figure, front, "on the front", LINES[0], "circle")
        choices.append(Choice(name=name, traces=frozenset(range(before, len(figure.data)))))
    figure.update_xaxes(title=shown_text(f"cost, {currency}/h"), rangemode="tozero")
    figure.update_yaxes(title=shown_text(axis_title(cloud.figure)), rangemode="tozero", automargin=True)
    return Plot(figure=figure, choices=_first_shown(figure, choices))


def cost_plot(costs: Mapping[str, Mapping[str, float]], currency: str) -> Plot:
    """What the cheapest clusters cost, by group of nodes: cell -> group -> cost per hour."""
    shown = list(costs)[:MOST_BARS]
    figure = blank(height=130 + 2 * ROW_PX * max(len(shown), 2))
    for number, group in enumerate(dict.fromkeys(group for cell in shown for group in costs[cell])):
        paid = [costs[cell].get(group, 0.0) for cell in shown]
        figure.add_bar(
            y=[broken(cell) for cell in shown], x=plain(paid), name=shown_text(group), orientation="h",
            marker={"color": LINES[number % len(LINES)]}, textposition="none", hoverinfo="text",
            text=[f"{shown_text(group)}: {short(cost)} {shown_text(currency)}/h" for cost in paid],
        )  # fmt: skip
    figure.update_layout(barmode="stack", bargap=0.35, showlegend=True, legend={"traceorder": "normal"})
    figure.update_xaxes(title=shown_text(f"cost of nodes, {currency}/h"), rangemode="tozero")
    figure.update_yaxes(autorange="reversed", automargin=True, type="category")
    return Plot(figure=figure)
