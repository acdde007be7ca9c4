"""The plots of a study's report as files for papers, one a figure and panel, drawn by matplotlib."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scenarios.drawing import new_figure
from scenarios.reports.definitions import figure_of
from scenarios.reports.figures import COLUMN_IN, bars, finish, write_all
from scenarios.reports.plot_style import GREEN, GREY, LINES, PALE, RED, SEQUENTIAL
from scenarios.reports.plots import MOST_BARS
from scenarios.reports.study_clouds import Cloud, bisections, cluster_costs, pareto
from scenarios.reports.study_data import (
    Axis,
    Curves,
    Grid,
    Line,
    answered,
    asked_figures,
    axis_title,
    curves,
    differences,
    excludes_nought,
    grid,
    label_text,
    measured,
    ticked,
    wide,
)  # fmt: skip
from scenarios.reports.study_files import StudyFiles
from scenarios.reports.tables import short
from scenarios.studies.statistics import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HEIGHT_IN = 3.2
PLACE = (0.11, 0.17, 0.86, 0.66)
"""Of the axes in the figure; above them are the legend and the panel's name."""


def write_study_figures(study: StudyFiles, folder: Path, suffix: str) -> list[Path]:
    """Write a study's plots.

    Args:
        study: The study.
        folder: Where to; made when it is missing.
        suffix: One of :data:`scenarios.drawing.FORMATS`.

    Returns:
        The files.

    Raises:
        ScenarioError: matplotlib is missing, the format unknown, or the folder cannot be written.
    """
    return write_all(_figures(study), folder, suffix)


def _figures(study: StudyFiles) -> Iterator[tuple[str, Figure]]:
    for name in asked_figures(study):
        measure, found = figure_of(name, study.currency), measured(study, name)
        for one in curves(study, measure, found):
            over = "" if one.joined else f"-over-{one.x.name}"
            yield from _numbered(f"{name}{over}", [_curve(one, index) for index in range(len(one.panels))])
        field = grid(study, measure, found)
        if field is not None:
            yield from _numbered(f"{name}-map", [_map(field, panel) for panel in field.panels])
        rows = differences(study, name)
        if rows:
            yield f"{name}-difference", _difference(axis_title(measure), rows[:MOST_BARS])
    for name in ("max_rate", "cost_per_h"):
        if name in study.answers[0]:
            for one in curves(study, figure_of(name, study.currency), answered(study, name)):
                over = "" if one.joined else f"-over-{one.x.name}"
                yield from _numbered(f"{name}{over}", [_curve(one, index) for index in range(len(one.panels))])
    for cloud in bisections(study):
        yield from _numbered(f"bisection-{cloud.figure.path}", [_bisection(cloud, panel) for panel in cloud.panels])
    costs = cluster_costs(study)
    if costs:
        yield "clusters", _clusters(costs, study.currency)
    front = pareto(study)
    if front is not None:
        yield from _numbered("pareto", [_pareto(front, panel, study.currency) for panel in front.panels])


def _numbered(name: str, figures: Sequence[Figure]) -> Iterator[tuple[str, Figure]]:
    safe = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name)
    for number, figure in enumerate(figures, 1):
        yield (safe if len(figures) == 1 else f"{safe}-{number}"), figure


def _sheet(title: str) -> tuple[Figure, Axes]:
    figure = new_figure(COLUMN_IN, HEIGHT_IN)
    axes = figure.add_axes(PLACE)
    if title:
        figure.text(PLACE[0] + PLACE[2], 0.985, _text(title), fontsize=9, fontweight="bold", va="top", ha="right")
    return figure, axes


def _text(text: str) -> str:
    """Text as it is: matplotlib takes dollar signs for formulas."""
    return text.replace("$", r"\$")


def _legend(axes: Axes, title: str = "") -> None:
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1.0), ncols=5, frameon=False, fontsize=8, title=_text(title) or None,
        title_fontsize=8, alignment="left",
    )  # fmt: skip


def _curve(curves: Curves, index: int) -> Figure:
    panel, x = curves.panels[index], curves.x
    figure, axes = _sheet(panel.name)
    if x.values is None:
        _draw_places(axes, curves, panel.lines)
    else:
        for number, line in enumerate(panel.lines):
            _draw_line(axes, curves, line, x.values, number)
        _label_numbers(axes, x, x.values)
    if curves.log:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    finish(axes, _text(x.title), _text(axis_title(curves.figure)), from_nought=not curves.log)
    if curves.by is not None:
        _legend(axes, curves.by.title)
    return figure


def _draw_line(axes: Axes, curves: Curves, line: Line, values: Sequence[float], number: int) -> None:
    colour = LINES[number % len(LINES)]
    at, means = [values[place] for place in line.at], [_mean(one) for one in line.found]
    if not curves.joined:
        axes.errorbar(at, means, yerr=_errors(line.found), fmt="o", color=colour, ecolor=GREY, markersize=4, capsize=2)
        return
    axes.plot(at, means, "o-", color=colour, linewidth=1.4, markersize=3.5, label=_text(line.name))
    ends = [(place, *curves.band(one)) for place, one in zip(at, line.found, strict=True) if one.low is not None]
    if len(ends) > 1:
        places, lows, highs = zip(*ends, strict=True)
        axes.fill_between(places, lows, highs, color=colour, alpha=0.18, linewidth=0)


def _draw_places(axes: Axes, curves: Curves, lines: Sequence[Line]) -> None:
    """Bars beside each other for every value of an axis without numbers; dots on a logarithmic scale."""
    width = 0.8 / max(len(lines), 1)
    for number, line in enumerate(lines):
        at = [place + (number - (len(lines) - 1) / 2) * width for place in line.at]
        means, colour = [_mean(one) for one in line.found], LINES[number % len(LINES)]
        if curves.log or not curves.joined:
            axes.plot(at, means, "o", color=colour, label=_text(line.name))
        else:
            axes.bar(at, means, width=0.92 * width, color=colour, label=_text(line.name))
        axes.errorbar(at, means, yerr=_errors(line.found), fmt="none", ecolor=GREY, capsize=2, linewidth=1)
    axes.set_xticks(range(len(curves.x.labels)), [_text(label_text(label)) for label in curves.x.labels])


def _label_numbers(axes: Axes, axis: Axis, values: Sequence[float]) -> None:
    from matplotlib.ticker import NullLocator

    if axis.log:
        axes.set_xscale("log")
    places = ticked(axis)
    axes.set_xticks([values[place] for place in places], [_text(label_text(axis.labels[place])) for place in places])
    axes.xaxis.set_minor_locator(NullLocator())


def _mean(found: Interval) -> float:
    return np.nan if found.mean is None else found.mean


def _errors(found: Sequence[Interval]) -> np.ndarray:
    """Distances of the intervals' ends from their means, lower ones first."""
    return np.array(
        [
            [0.0 if one.mean is None or one.low is None else one.mean - one.low for one in found],
            [0.0 if one.mean is None or one.high is None else one.high - one.mean for one in found],
        ]
    )


def _map(field: Grid, panel: str) -> Figure:
    from matplotlib.colors import LinearSegmentedColormap

    figure, axes = _sheet(panel)
    rows = np.array([[np.nan if value is None else value for value in row] for row in field.panels[panel]])
    colours = LinearSegmentedColormap.from_list("helixemu", SEQUENTIAL)
    shown = axes.imshow(rows, aspect="auto", origin="lower", cmap=colours)
    for axis, set_ticks in ((field.x, axes.set_xticks), (field.y, axes.set_yticks)):
        set_ticks(range(len(axis.labels)), [_text(label_text(label)) for label in axis.labels])
    middle = (float(np.nanmax(rows)) + float(np.nanmin(rows))) / 2
    for (up, across), value in np.ndenumerate(rows):
        if not np.isnan(value):
            ink = "white" if value > middle else "black"
            axes.text(across, up, short(value, 3), ha="center", va="center", fontsize=7, color=ink)
    axes.set_xlabel(_text(field.x.title), fontsize=9)
    axes.set_ylabel(_text(field.y.title), fontsize=9)
    axes.tick_params(labelsize=8)
    figure.colorbar(shown, ax=axes, pad=0.02).set_label(_text(axis_title(field.figure)), fontsize=8)
    return figure


def _difference(title: str, rows: Sequence[tuple[str, Interval]]) -> Figure:
    figure, axes = bars([_text(name) for name, _ in rows])
    for at, (_, one) in enumerate(rows):
        colour = LINES[0] if excludes_nought(one) else PALE
        sides = _errors([one])
        axes.errorbar([_mean(one)], [at], xerr=sides, fmt="o", color=colour, ecolor=GREY, markersize=5, capsize=2)
    axes.axvline(0, color=GREY, linestyle="--", linewidth=1)
    axes.set_xlabel(_text(f"difference of {title}"), fontsize=9)
    return figure


def _bisection(cloud: Cloud, panel: str) -> Figure:
    figure, axes = _sheet(panel)
    dots = cloud.panels[panel]
    for good, name, colour, symbol in ((True, "met", GREEN, "o"), (False, "not met", RED, "x")):
        chosen = [dot for dot in dots if dot.good == good]
        axes.plot([dot.x for dot in chosen], [dot.y for dot in chosen], symbol, color=colour, label=name, markersize=5)
    if cloud.limit is not None:
        axes.axhline(cloud.limit, color=GREY, linestyle="--", linewidth=1)
    finish(axes, "rate that was tried, requests/s", _text(axis_title(cloud.figure)))
    if wide([dot.x for dot in dots]):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
    _legend(axes)
    return figure


def _clusters(costs: Mapping[str, Mapping[str, float]], currency: str) -> Figure:
    shown = list(costs)[:MOST_BARS]
    figure, axes = bars([_text(name) for name in shown])
    left = np.zeros(len(shown))
    for number, group in enumerate(dict.fromkeys(group for cell in shown for group in costs[cell])):
        paid = np.array([costs[cell].get(group, 0.0) for cell in shown])
        axes.barh(range(len(shown)), paid, left=left, height=0.7, color=LINES[number % len(LINES)], label=_text(group))
        left += paid
    axes.set_xlabel(_text(f"cost of nodes, {currency}/h"), fontsize=9)
    _legend(axes)
    return figure


def _pareto(cloud: Cloud, panel: str, currency: str) -> Figure:
    figure, axes = _sheet(panel)
    front = [dot for dot in cloud.panels[panel] if dot.good]
    beaten = [dot for dot in cloud.panels[panel] if not dot.good]
    axes.plot([dot.x for dot in beaten], [dot.y for dot in beaten], "o", color=PALE, label="beaten", markersize=5)
    axes.step([dot.x for dot in front], [dot.y for dot in front], where="post", color=LINES[0], linewidth=1.4)
    axes.plot([dot.x for dot in front], [dot.y for dot in front], "o", color=LINES[0], label="on the front")
    finish(axes, _text(f"cost, {currency}/h"), _text(axis_title(cloud.figure)))
    axes.set_xlim(left=0)
    axes.set_ylim(0, 1.08 * max(dot.y for dot in cloud.panels[panel]) or 1.0)
    _legend(axes)
    return figure
