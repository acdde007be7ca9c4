"""Pictures of how planners got to their plans: best flow and bound against time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from placement.plan import Plan
from scenarios.drawing import new_figure, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINE_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def draw_traces(plans: Sequence[Plan], title: str, path: str | Path) -> None:
    """Draw how planners got to their plans: best flow (full line) and bound (dashed) against time.

    A plan without a trace, as a rule makes it, is a point.

    Args:
        plans: What to draw; one colour a plan.
        title: Stands above.
        path: File to write; its ending says the format.
    """
    save(traces_figure(plans, title), path)


def traces_figure(plans: Sequence[Plan], title: str) -> Figure:
    """The picture that :func:`draw_traces` writes."""
    figure = new_figure(10.0, 5.6)
    axes = figure.add_axes((0.085, 0.11, 0.66, 0.77))
    latest = max(plan.seconds for plan in plans)
    earliest = min((point.seconds for plan in plans for point in plan.trace if point.seconds > 0), default=latest)
    top = max(plan.flow.tokens_per_s for plan in plans)
    for index, plan in enumerate(plans):
        _draw_trace(axes, plan, LINE_COLOURS[index % len(LINE_COLOURS)], MARKERS[index % len(MARKERS)])
    bounds = [plan.bound_tokens_per_s for plan in plans if math.isfinite(plan.bound_tokens_per_s)]
    axes.set_ylim(0, 1.12 * min(max([top, *bounds]), 2 * top))
    if latest > 20 * earliest:
        axes.set_xscale("log")
        axes.set_xlim(earliest / 1.3, latest * 1.3)
        axes.xaxis.set_major_formatter("{x:g}")
    else:
        axes.set_xlim(0, latest * 1.05)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("seconds of planning")
    axes.set_ylabel("tokens/s of flow")
    axes.grid(color="#E3E6E8", linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.text(0.012, 0.975, title, fontsize=13, fontweight="bold", va="top")
    figure.text(0.012, 0.92, "full line: best plan so far; dashed: bound on any plan", fontsize=9.5, va="top")
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=9, labelspacing=0.9)
    return figure


def _draw_trace(axes: Axes, plan: Plan, colour: str, marker: str) -> None:
    flow, bound = plan.flow.tokens_per_s, plan.bound_tokens_per_s
    label = f"{plan.planner}, {plan.status.value}\n{flow:,.1f} of {bound:,.1f}, {plan.seconds:.2f} s"
    points = [point for point in plan.trace if point.incumbent_tokens_per_s > 0]
    times = [point.seconds for point in points]
    axes.plot(
        [*times, plan.seconds], [*(point.incumbent_tokens_per_s for point in points), flow],
        color=colour, drawstyle="steps-post", linewidth=1.8, marker=marker, markevery=[-1], markersize=7, label=label,
    )  # fmt: skip
    bounds = [point for point in plan.trace if math.isfinite(point.bound_tokens_per_s)]
    if bounds:
        times, levels = [point.seconds for point in bounds], [point.bound_tokens_per_s for point in bounds]
        axes.plot([*times, plan.seconds], [*levels, bound], color=colour, drawstyle="steps-post", linestyle=(0, (4, 2)))
