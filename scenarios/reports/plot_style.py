"""How plots of reports look. Colours are those of :mod:`scenarios.drawing` and of Okabe and Ito."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

BLUE, ORANGE, GREEN, GREY, RED = "#0072B2", "#E69F00", "#009E73", "#5B6770", "#D55E00"
LINES = (BLUE, ORANGE, GREEN, RED, "#CC79A7", "#56B4E9", "#2B1A4A", GREY)
"""For lines that stand beside each other."""
PALE = "#B8BFC5"
"""For what matters less."""
SEQUENTIAL = [(0.0, "#F4F5F6"), (0.25, "#99DDFF"), (0.6, "#0072B2"), (1.0, "#2B1A4A")]
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A part of a plot that can be chosen.

    Attributes:
        name: What is chosen.
        traces: Which of the plot's traces are seen.
        layout: What changes in the layout: dotted key -> value.
    """

    name: str
    traces: frozenset[int]
    layout: Mapping[str, Any] = field(default_factory=dict)


def blank(height: int) -> Figure:
    """An empty plot of so many pixels, as wide as its place."""
    from plotly.graph_objects import Figure as NewFigure

    figure = NewFigure()
    figure.update_layout(
        template="none", height=height, autosize=True, paper_bgcolor="white", plot_bgcolor="white",
        font={"family": FONT, "size": 13, "color": "#1B1F23"}, margin={"l": 56, "r": 16, "t": 36, "b": 48},
        legend={"orientation": "h", "x": 0, "y": 1.02, "xanchor": "left", "yanchor": "bottom", "font": {"size": 12}},
    )  # fmt: skip
    for update in (figure.update_xaxes, figure.update_yaxes):
        update(gridcolor="#E3E6E8", zerolinecolor="#B8BFC5", linecolor="#8A949C", title_standoff=8)
    return figure


def plain(values: Sequence[float] | np.ndarray[Any, Any]) -> list[float | None]:
    """Plain numbers with six significant digits: a report stays small, and JSON knows no NaN."""
    return [None if np.isnan(value) else float(f"{value:.6g}") for value in np.asarray(values, dtype=float)]


def shown_text(text: str) -> str:
    """Text that plotly shows as it is: it reads some HTML and its own templates."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("%{", "%&#123;")


def faded(colour: str) -> str:
    """A colour ``#RRGGBB`` that lets through what is behind it."""
    parts = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
    return f"rgba({','.join(map(str, parts))},0.2)"
