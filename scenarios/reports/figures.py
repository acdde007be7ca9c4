"""The plots of a report as files for papers: SVG, PNG or PDF, one a figure, drawn by matplotlib."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from placement.errors import PlanError
from scenarios.drawing import FORMATS, new_figure, placement_figure, save
from scenarios.errors import Problem, ScenarioError
from scenarios.reports.frame import require_reportable
from scenarios.reports.page import placement_plan, reloaded
from scenarios.reports.plot_style import BLUE, GREEN, GREY, ORANGE, RED
from scenarios.reports.plots import MOST_BARS, MOST_MARKS
from scenarios.reports.run_files import RunFiles
from scenarios.reports.series import LATENCIES, RunSeries, cumulative, run_series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMN_IN = 7.0
"""Width of a figure: both columns of a page."""


def write_figures(run: RunFiles, folder: Path, suffix: str) -> tuple[list[Path], list[str]]:
    """Write a run's plots.

    Args:
        run: The run.
        folder: Where to; made when it is missing.
        suffix: One of :data:`scenarios.drawing.FORMATS`.

    Returns:
        The files, and a sentence for each that could not be drawn.

    Raises:
        ScenarioError: matplotlib is missing, the format unknown, or the folder cannot be written.
    """
    require_reportable(folder)
    spec, reason = reloaded(run)
    written = write_all(_figures(run, run_series(run)), folder, suffix)
    if spec is None:
        return written, [f"placement{suffix} needs the run's scenario.yaml, which does not load now: {reason}"]
    try:
        figure = placement_figure(placement_plan(spec), spec)
    except PlanError as error:
        return written, [f"placement{suffix}: {error}"]
    return [*written, *write_all([("placement", figure)], folder, suffix)], []


def write_all(figures: Iterable[tuple[str, Figure]], folder: Path, suffix: str) -> list[Path]:
    """Write figures under their names.

    Raises:
        ScenarioError: matplotlib is missing, the format unknown, or the folder cannot be written.
    """
    if suffix not in FORMATS:
        rule = f"figures end with {', '.join(FORMATS)}"
        raise ScenarioError(Problem("--figure-format", None, "", suffix, rule, "name one of them"))
    require_reportable(folder)
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, figure in figures:
            path = folder / f"{name}{suffix}"
            save(figure, path)
            written.append(path)
    except OSError as error:
        rule = f"figures cannot be written: {error.strerror}"
        raise ScenarioError(Problem(str(folder), None, "--figures", None, rule, "name another directory")) from error
    return written


def _figures(run: RunFiles, series: RunSeries) -> Iterator[tuple[str, Figure]]:
    yield "throughput", _throughput(run, series)
    if any(len(values) for values in series.latencies.values()):
        yield "latencies", _latencies(run, series)
    if run.summary["nodes"]:
        yield "nodes", _nodes(run)
    if run.summary["links"]:
        yield "links", _links(run)


def _throughput(run: RunFiles, series: RunSeries) -> Figure:
    figure = new_figure(COLUMN_IN, 3.0)
    axes = figure.add_axes((0.09, 0.16, 0.89, 0.70))
    flow = series.throughput
    for values, name, colour in (
        (flow.total_tokens_per_s, "total", BLUE),
        (flow.decode_tokens_per_s, "decode", GREEN),
    ):
        axes.stairs(values, flow.edges_s, color=colour, label=name, linewidth=1.2)
    axes.step(
        flow.flow_s, flow.flow_tokens_per_s, where="post", color=RED, linestyle="--", linewidth=1.2, label="max flow"
    )
    events = (run.summary.get("churn") or {}).get("events", [])[:MOST_MARKS]
    for number, event in enumerate(events):
        axes.axvline(
            event["at_s"], color=GREY, linestyle=":", linewidth=0.9, label="churn event" if number == 0 else None
        )
    if run.window[0] > 0:
        axes.axvspan(0, run.window[0], color="#E9ECEF", zorder=0, label="warm-up")
    finish(axes, "emulated seconds", "tokens/s")
    axes.set_xlim(0, float(flow.edges_s[-1]))
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=5, frameon=False, fontsize=8)
    return figure


def _latencies(run: RunFiles, series: RunSeries) -> Figure:
    figure = new_figure(COLUMN_IN, 2.6)
    for index, (column, name) in enumerate(LATENCIES.items()):
        axes = figure.add_axes((0.075 + index * 0.325, 0.18, 0.26, 0.70))
        values = series.latencies[column]
        if len(values):
            xs, shares = cumulative(values)
            axes.step(xs, 100 * shares, where="post", color=BLUE, linewidth=1.2)
            for share in (50, 95, 99):
                axes.plot([np.percentile(values, share)], [share], ".", color=ORANGE)
        objective = run.summary.get("slo", {}).get(column)
        if objective is not None:
            axes.axvline(objective, color=RED, linestyle="--", linewidth=1.2)
        finish(axes, f"{name}, s", "% of requests" if index == 0 else "")
        axes.set_ylim(0, 102)
    return figure


def _nodes(run: RunFiles) -> Figure:
    shown = sorted(run.summary["nodes"].items(), key=lambda item: -item[1]["utilisation"])[:MOST_BARS]
    figure, axes = bars([name for name, _ in shown])
    rows = np.arange(len(shown))
    for offset, key, name, colour in ((-0.2, "utilisation", "computing", BLUE), (0.2, "kv_peak", "KV peak", ORANGE)):
        axes.barh(rows + offset, [100 * one[key] for _, one in shown], height=0.38, color=colour, label=name)
    axes.set_xlim(0, 100)
    axes.set_xlabel("%", fontsize=9)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, frameon=False, fontsize=8)
    return figure


def _links(run: RunFiles) -> Figure:
    shown = sorted(run.summary["links"].items(), key=lambda item: -item[1]["utilisation"])[:MOST_BARS]
    figure, axes = bars([name for name, _ in shown])
    axes.barh(np.arange(len(shown)), [100 * one["utilisation"] for _, one in shown], height=0.7, color=GREEN)
    axes.set_xlabel("% of bandwidth", fontsize=9)
    return figure


def bars(names: Sequence[str]) -> tuple[Figure, Axes]:
    """A figure with a row for each name, the first at the top."""
    height = 1.0 + 0.2 * len(names)
    figure = new_figure(COLUMN_IN, height)
    left = 0.12 + 0.0085 * max(len(name) for name in names)
    axes = figure.add_axes((left, 0.5 / height, 0.97 - left, 1 - 0.85 / height))
    finish(axes, "", "")
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    return figure, axes


def finish(axes: Axes, x: str, y: str, *, from_nought: bool = True) -> None:
    """Titles, grid and frame as all figures have them."""
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(color="#E3E6E8", linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if from_nought:
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
