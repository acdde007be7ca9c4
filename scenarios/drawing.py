"""Pictures of placements as SVG, PNG or PDF: nodes, layers, flow and minimum cut.

matplotlib draws; it comes with the extra ``report``. Colours are of Paul Tol's light scheme and of Okabe and Ito, which
people with colour-blindness can tell apart; what a colour says is also said by a width, a line style or a text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emulator.spec import EmulationSpec
from placement.plan import Plan
from placement.throughput import ThroughputModel
from scenarios.drawing_layout import Layout, Row, Stream, lay_out
from scenarios.errors import Problem, ScenarioError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = (".svg", ".png", ".pdf")

TYPE_COLOURS = ("#77AADD", "#EEDD88", "#44BB99", "#FFAABB", "#BBCC33", "#99DDFF", "#DDDDDD", "#AAAA00", "#C8A8E9")
HATCHES = ("", "///", "...", "xxx")
"""For more machine types than colours."""

FLOW, CROSSING, CUT = "#5B6770", "#0072B2", "#D55E00"

BAR = 0.66
"""Height of a bar, in rows."""
WIDEST = 7.0
"""Points of a line that carries the whole flow."""
THINNEST = 0.5


def require_drawable(path: str | Path, option: str) -> None:
    """Check that a picture can be drawn, before work goes into what it shows.

    Raises:
        ScenarioError: matplotlib is missing, or the file's ending names no known format.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        rule = f"pictures end with {', '.join(FORMATS)}"
        raise ScenarioError(Problem(str(path), None, option, suffix or "no ending", rule, "name the file accordingly"))
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        rule = f"pictures need matplotlib, which is not installed ({error})"
        remedy = "pip install 'helix-emulator[report]'"
        raise ScenarioError(Problem(str(path), None, option, None, rule, remedy)) from None


def draw_placement(plan: Plan, spec: EmulationSpec, path: str | Path) -> None:
    """Draw a placement: nodes by region, layer ranges as bars, flows by width, minimum cut, capacity of each layer.

    Args:
        plan: What to draw.
        spec: Scenario whose cluster and model it is for.
        path: File to write; its ending says the format.
    """
    save(placement_figure(plan, spec), path)


def placement_figure(plan: Plan, spec: EmulationSpec) -> Figure:
    """The picture that :func:`draw_placement` writes."""
    throughput = ThroughputModel(spec.model, spec.profiles, spec.cluster.machine_counts())
    layout = lay_out(plan, spec.cluster, spec.model, throughput)
    figure, (rows, capacity) = _sheet(layout)
    _draw_bands(rows, layout)
    for stream in layout.streams:
        _draw_stream(rows, layout, stream, plan.flow.tokens_per_s)
    for row in layout.rows:
        _draw_row(rows, layout, row)
    _draw_coordinator(rows, layout)
    _draw_capacity(capacity, layout, plan)
    figure.text(0.012, 1 - 0.16 / figure.get_figheight(), spec.name, fontsize=13, fontweight="bold", va="top")
    figure.text(0.012, 1 - 0.42 / figure.get_figheight(), headline(plan), fontsize=9.5, va="top")
    _draw_legend(figure, layout, plan)
    return figure


def headline(plan: Plan) -> str:
    """What a plan reaches, in one line."""
    unused = f", {len(plan.unused)} nodes without layers" if plan.unused else ""
    return (
        f"{plan.planner}, {plan.status.value}: {plan.flow.tokens_per_s:,.1f} tokens/s of flow, "
        f"bound {plan.bound_tokens_per_s:,.1f} (gap {plan.gap:.1%}), depth {plan.depth}{unused}"
    )


def new_figure(width: float, height: float) -> Figure:
    """A figure of its own: nothing of matplotlib's interactive state is touched."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as NewFigure

    figure = NewFigure(figsize=(width, height), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: str | Path) -> None:
    """Write a picture; the same plan gives the same file."""
    import matplotlib

    # Text stays text in SVG.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "helixemu"}):
        none: dict[str, Any] = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(
            Path(path).suffix.lower(), {}
        )
        figure.savefig(path, metadata=none)


def _sheet(layout: Layout) -> tuple[Figure, tuple[Axes, Axes]]:
    """A figure with the axes of the rows above those of the capacity; all heights in inches."""
    title, between, below, legend = 0.95, 0.30, 1.15, 0.40 + 0.2 * _legend_rows(layout)
    rows = 0.235 * layout.bottom + 0.1
    width, height = 15.0, title + rows + between + below + 0.45 + legend
    figure = new_figure(width, height)
    longest = max(len(row.label) for row in layout.rows)
    left, right = 0.55 + 0.075 * longest, 2.35
    box = (left / width, (width - left - right) / width)
    upper = figure.add_axes((box[0], (height - title - rows) / height, box[1], rows / height))
    lower = figure.add_axes((box[0], (legend + 0.45) / height, box[1], below / height))
    margin = 0.022 * layout.width
    for axes in (upper, lower):
        axes.set_xlim(-3 * margin, layout.width + 3 * margin)
        for side in ("top", "right", "left", "bottom"):
            axes.spines[side].set_visible(False)
    upper.set_ylim(layout.bottom + 0.05, -0.05)
    upper.set_xticks([])
    upper.set_yticks([])
    return figure, (upper, lower)


def _draw_bands(axes: Axes, layout: Layout) -> None:
    for region, top, bottom in layout.bands:
        axes.axhspan(top, bottom, facecolor="#F4F5F6", edgecolor="none", zorder=0)
        if len(layout.bands) > 1:
            axes.text(
                1.176, (top + bottom) / 2, f"region {region}", rotation=270, ha="center", va="center", fontsize=9.5,
                fontweight="bold", color="#333333", transform=axes.get_yaxis_transform(),
            )  # fmt: skip
    # Columns of figures at the right: x in shares of the axes.
    for x, text in ((1.049, "layers"), (1.108, "tokens/s"), (1.153, "of T")):
        axes.text(
            x, -0.12, text, fontsize=8, fontstyle="italic", ha="right", va="bottom", color="#333333",
            transform=axes.get_yaxis_transform(),
        )  # fmt: skip


def _draw_row(axes: Axes, layout: Layout, row: Row) -> None:
    from matplotlib.patches import Rectangle

    left, right = layout.after(row.held.start), layout.before(row.held.stop)
    kinds = list(layout.types)
    bar = Rectangle(
        (left, row.y - BAR / 2), right - left, BAR,
        facecolor=_colour(kinds, row.machine_type), hatch=_hatch(kinds, row.machine_type) or None,
        edgecolor=CUT if row.cut else "#3A3A3A", linewidth=2.0 if row.cut else 0.6, zorder=4 if row.cut else 3,
    )  # fmt: skip
    axes.add_patch(bar)
    beside = axes.get_yaxis_transform()
    marked: dict[str, Any] = {"color": CUT, "fontweight": "bold"} if row.cut else {"color": "black"}
    axes.text(-0.006, row.y, row.label, fontsize=8, ha="right", va="center", transform=beside, **marked)
    where = [kind for kind in row.cut if kind != "compute"]
    share = f"{row.flow / row.capacity:.0%}" + (f" {'/'.join(where)}" if where else "")
    for x, text in ((1.049, str(row.held)), (1.108, f"{row.flow:,.1f}")):
        axes.text(x, row.y, text, fontsize=8, ha="right", va="center", transform=beside, **marked)
    axes.text(1.153, row.y, share, fontsize=8, ha="right", va="center", transform=beside, **marked)


def _draw_stream(axes: Axes, layout: Layout, stream: Stream, whole: float) -> None:
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Curve

    margin = 0.022 * layout.width
    x0 = -1.6 * margin if stream.source is None else layout.before(stream.layer)
    x1 = layout.width + 1.6 * margin if stream.target is None else layout.after(stream.layer)
    if stream.source is None and stream.target is not None:
        y0 = y1 = stream.target.y
    elif stream.target is None and stream.source is not None:
        y0 = y1 = stream.source.y
    else:
        assert stream.source is not None
        assert stream.target is not None
        y0, y1 = stream.source.y, stream.target.y
    middle, width = (x0 + x1) / 2, _width(stream.tokens_per_s, whole)
    path = Curve([(x0, y0), (middle, y0), (middle, y1), (x1, y1)], [1, 4, 4, 4])
    axes.add_patch(
        PathPatch(
            path, facecolor="none", edgecolor=_stream_colour(stream), alpha=0.85 if stream.cut else 0.6,
            linewidth=width, linestyle=_dashes(width) if stream.crossing else "-",
            capstyle="butt", zorder=5 if stream.target is not None and stream.target.held.start < stream.layer else 2,
        )
    )  # fmt: skip
    if stream.target is not None and stream.target.held.start < stream.layer:
        # Partial inference: the flow enters in the middle of the bar.
        axes.plot([x1], [y1], marker=".", markersize=4, color=_stream_colour(stream), zorder=6)


def _stream_colour(stream: Stream) -> str:
    return CUT if stream.cut else CROSSING if stream.crossing else FLOW


def _width(tokens_per_s: float, whole: float) -> float:
    return THINNEST + (WIDEST - THINNEST) * tokens_per_s / whole


def _dashes(width: float) -> tuple[float, tuple[float, float]]:
    """Dashes of 7 points with gaps of 2.5; matplotlib counts in line widths."""
    return 0.0, (7.0 / width, 2.5 / width)


def _colour(kinds: Sequence[str], kind: str) -> str:
    return TYPE_COLOURS[kinds.index(kind) % len(TYPE_COLOURS)]


def _hatch(kinds: Sequence[str], kind: str) -> str:
    return HATCHES[kinds.index(kind) // len(TYPE_COLOURS) % len(HATCHES)]


def _draw_coordinator(axes: Axes, layout: Layout) -> None:
    from matplotlib.patches import Rectangle

    margin = 0.022 * layout.width
    for x, text in ((-2.6 * margin, "coordinator sends"), (layout.width + 1.6 * margin, "coordinator receives")):
        box = Rectangle(
            (x, 0), margin, layout.bottom, facecolor="#D7DBDF", zorder=3,
            edgecolor=CUT if layout.coordinator_cut else "#3A3A3A", linewidth=2.0 if layout.coordinator_cut else 0.6,
        )  # fmt: skip
        axes.add_patch(box)
        axes.text(x + margin / 2, layout.bottom / 2, text, rotation=90, fontsize=8, ha="center", va="center", zorder=4)


def _draw_capacity(axes: Axes, layout: Layout, plan: Plan) -> None:
    """Tokens/s that each layer has, as a stepped line over the same layers, with the flow as a level."""
    xs: list[float] = []
    ys: list[float] = []
    for layer, capacity in enumerate(layout.layer_capacity):
        xs += [_middle(layout, layer), _middle(layout, layer + 1)]
        ys += [capacity, capacity]
    axes.fill_between(xs, ys, color="#C9D3DB", linewidth=0, zorder=1)
    axes.plot(xs, ys, color="#3A3A3A", linewidth=1.0, zorder=3)
    flow, top = plan.flow.tokens_per_s, max(ys)
    axes.plot([0, layout.width], [flow, flow], color=CUT, linewidth=1.4, zorder=4)
    axes.set_ylim(0, top * 1.12)
    axes.text(1.0, flow, f" flow {flow:,.0f}", color=CUT, fontsize=8, va="center", transform=axes.get_yaxis_transform())
    axes.set_ylabel("tokens/s that the\nholders compute", fontsize=8)
    axes.tick_params(axis="y", labelsize=8)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.grid(axis="y", color="#E3E6E8", linewidth=0.7, zorder=0)
    axes.set_axisbelow(True)
    ticks = _spread([0, *layout.boundaries, layout.layers], layout)
    axes.set_xticks([_middle(layout, layer) for layer in ticks], [str(one) for one in ticks])
    axes.tick_params(axis="x", labelsize=8)
    axes.set_xlabel("layers done (labels at gutters, where requests change nodes)", fontsize=8.5)


def _middle(layout: Layout, layer: int) -> float:
    """x of the middle of the gutter before a layer."""
    return (layout.before(layer) + layout.after(layer)) / 2


def _spread(layers: Sequence[int], layout: Layout) -> list[int]:
    """Layers whose labels do not overlap: the ends, and others at least 2.2 % of the width apart."""
    apart = 0.022 * layout.width
    chosen = [layers[0]]
    for layer in layers[1:-1]:
        far = layout.before(layer) - layout.after(chosen[-1]) >= apart / 2
        if (
            far
            and layout.before(layer) - layout.before(chosen[-1]) >= apart
            and layout.width - layout.after(layer) >= apart
        ):
            chosen.append(layer)
    return [*chosen, layers[-1]]


def _draw_legend(figure: Figure, layout: Layout, plan: Plan) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    kinds = list(layout.types)
    whole = plan.flow.tokens_per_s
    handles: list[Any] = [
        Patch(
            facecolor=_colour(kinds, kind), hatch=_hatch(kinds, kind) or None, edgecolor="#3A3A3A", linewidth=0.6,
            label=f"{count} {kind}",
        )
        for kind, count in layout.types.items()
    ]  # fmt: skip
    handles += [
        Line2D([], [], color=FLOW, alpha=0.6, linewidth=_width(amount, whole), label=f"{amount:,g} tokens/s")
        for amount in _samples(whole)
    ]
    if any(stream.crossing for stream in layout.streams):
        handles.append(Line2D([], [], color=CROSSING, linestyle=_dashes(2.0), linewidth=2, label="between regions"))
    if any(row.cut for row in layout.rows) or layout.coordinator_cut:
        handles.append(Patch(facecolor="white", edgecolor=CUT, linewidth=2, label="in the minimum cut"))
    if any(stream.cut for stream in layout.streams):
        handles.append(Line2D([], [], color=CUT, linewidth=2, label="link in the minimum cut"))
    if any(stream.target is not None and stream.target.held.start < stream.layer for stream in layout.streams):
        label = "enters past the first layer"
        handles.append(Line2D([], [], color=FLOW, marker=".", markersize=6, linewidth=0, label=label))
    columns = math.ceil(len(handles) / _legend_rows(layout))
    figure.legend(
        handles=handles, loc="lower center", ncols=columns, fontsize=8.5, frameon=False, handlelength=2.2,
        columnspacing=1.8,
    )  # fmt: skip


def _legend_rows(layout: Layout) -> int:
    return 1 if len(layout.types) <= 5 else 2


def _samples(whole: float) -> list[float]:
    """Two round flows for the legend: about a tenth and a half of the whole."""
    return list(dict.fromkeys(_round_down(share * whole) for share in (0.1, 0.5)))


def _round_down(value: float) -> float:
    """1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return max(step * power for step in (1.0, 2.0, 5.0) if step * power <= value * (1 + 1e-12))
