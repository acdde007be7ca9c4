"""What the plots of a study's report show, whoever draws it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from scenarios.reports.definitions import Figure, better, unit_of
from scenarios.reports.study_files import StudyFiles
from scenarios.reports.tables import short
from scenarios.studies.axes import Label, is_number, si_columns, si_value
from scenarios.studies.engine import Row, by
from scenarios.studies.min_cost import MinCost
from scenarios.studies.schema import CompareSection, SweepSection
from scenarios.studies.statistics import Interval

DECADE = 10.0
MOST_LINES = 8
"""An axis with more values than this is rather chosen from than drawn as lines."""
MOST_DECADES = 3
"""Up to so many, a logarithmic axis has room for labels between its powers of ten."""
TICK_SHARE = 0.13
"""Least distance of two labels on an axis, as a share of its length."""

Labels = tuple[Label, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One axis of a study.

    Attributes:
        name: Its name.
        title: Name and unit; quantities have their units in their labels.
        labels: Its values, numbers and quantities from small to great, others in the study's order.
        values: The same as numbers, quantities in SI units; ``None`` when they are not all numbers.
    """

    name: str
    title: str
    labels: Labels
    values: tuple[float, ...] | None

    @property
    def log(self) -> bool:
        """Whether the values span more than a decade."""
        return self.values is not None and wide(self.values)

    def said(self, label: Label) -> str:
        """One of its values, with the axis's name."""
        return f"{self.name} {label_text(label)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of a plot: places on the x axis (indices of its labels) and what was measured there."""

    name: str
    at: tuple[int, ...]
    found: tuple[Interval, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """What is seen at a time: the lines for one combination of the axes that are neither x nor lines."""

    name: str
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """A figure over an axis.

    Attributes:
        figure: What was measured.
        x: Axis of the plot; of one without labels, a single place.
        by: Axis of the lines.
        panels: At least one.
        joined: Whether points belong together; not in random samples.
    """

    figure: Figure
    x: Axis
    by: Axis | None
    panels: tuple[Panel, ...]
    joined: bool = True

    @property
    def log(self) -> bool:
        """Whether the figure spans more than a decade."""
        return wide(self.means)

    @property
    def means(self) -> list[float]:
        """All means."""
        found = [one for panel in self.panels for line in panel.lines for one in line.found]
        return [one.mean for one in found if one.mean is not None]

    def band(self, found: Interval) -> tuple[float, float]:
        """Ends of an interval that has them, as they can be drawn: a logarithmic axis has no nought."""
        assert found.mean is not None
        assert found.low is not None
        assert found.high is not None
        return (max(found.low, found.mean / DECADE) if self.log else found.low), found.high


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A figure over two axes of numbers: panel -> means, one row a value of ``y``."""

    figure: Figure
    x: Axis
    y: Axis
    panels: Mapping[str, tuple[tuple[float | None, ...], ...]]


def wide(values: Sequence[float]) -> bool:
    """Whether positive values span more than a decade."""
    return bool(values) and min(values) > 0 and max(values) / min(values) > DECADE


def axis_title(figure: Figure) -> str:
    """Name and unit."""
    return f"{figure.name}, {figure.unit}" if figure.unit else figure.name


def interval_text(found: Interval) -> str:
    """A mean with its interval."""
    if found.mean is None:
        return "–"
    ends = "" if found.low is None or found.high is None else f" [{short(found.low)}, {short(found.high)}]"
    return f"{short(found.mean)}{ends}"


def excludes_nought(found: Interval) -> bool:
    """Whether an interval of a difference says that there is one."""
    return found.low is not None and found.high is not None and (found.low > 0 or found.high < 0)


def ticked(axis: Axis) -> list[int]:
    """The values of an axis of numbers that are labelled: both ends, and between them what is not too close."""
    assert axis.values is not None
    values = [math.log(value) for value in axis.values] if axis.log else list(axis.values)
    least = TICK_SHARE * (values[-1] - values[0])
    kept = [0]
    for place in range(1, len(values) - 1):
        if values[place] - values[kept[-1]] >= least and values[-1] - values[place] >= least:
            kept.append(place)
    return [*kept, len(values) - 1]


def log_ticks(values: Sequence[float]) -> list[float]:
    """Where a logarithmic axis over positive values is labelled: at 1, 2 and 5 of each decade, or at its beginning."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    steps = (1, 2, 5) if high - low <= MOST_DECADES else (1,)
    return [float(f"{step}e{decade}") for decade in range(low, high + 1) for step in steps]


def label_text(label: Label) -> str:
    """A value as people read it."""
    return f"{label:g}" if isinstance(label, float) else str(label)


def labels_text(study: StudyFiles, row: Row) -> str:
    """A cell in words, axes with one value left out; empty where there is nothing to tell apart."""
    shown = [axis.name for axis in axes_of(study, seeds=True)]
    return ", ".join(f"{name} {label_text(label)}" for name, label in study.labels(row).items() if name in shown)


@lru_cache(maxsize=8)
def axes_of(study: StudyFiles, *, seeds: bool = False) -> tuple[Axis, ...]:
    """The study's axes that have several values; the seed only if asked for: it makes replicates."""
    cells = study.definition.cells
    quantities = si_columns(cells)
    axes = []
    for name in cells[0].labels:
        labels = list(dict.fromkeys(cell.labels[name] for cell in cells))
        if len(labels) < 2 or (name == "seed" and not seeds):
            continue
        values: list[float] | None = None
        if name in quantities:
            values = [found[0] for label in labels if (found := si_value(label))]
        elif all(is_number(label) for label in labels):
            values = [float(label) for label in labels if label is not None]
        if values is not None:
            order = sorted(range(len(labels)), key=values.__getitem__)
            labels, values = [labels[at] for at in order], [values[at] for at in order]
        title = name if name in quantities else _title(study, name)
        numbers = None if values is None else tuple(values)
        axes.append(Axis(name=name, title=title, labels=tuple(labels), values=numbers))
    return tuple(axes)


def _title(study: StudyFiles, name: str) -> str:
    section = study.definition.section.axes[name]
    if section.nodes is not None:
        return f"{name}, nodes"
    paths = section.paths or ((section.path,) if section.path else ())
    unit = unit_of(paths[0]) if paths else ""
    return f"{name}, {unit}" if unit else name


# ------------------------------------------------------------------------------------------------------ measures


def asked_figures(study: StudyFiles) -> list[str]:
    """Names of the figures that the study asks for, and of cost where there are prices."""
    question = study.definition.section.question
    if not isinstance(question, SweepSection | CompareSection):
        return []
    names = list(question.figures)
    cost = "cost_per_million_decode_tokens"
    return [*names, cost] if study.currency and cost not in names else names


def measured(study: StudyFiles, name: str) -> dict[Labels, Interval]:
    """A figure's mean over seeds for each combination of the axes' values that some run has it for."""
    axes = axes_of(study)
    found = by(study.rows, lambda row: labels_of(study, row, axes))
    result = {}
    for labels, rows in found.items():
        values = [row[name] for row in rows if row["status"] == "ok" and is_number(row.get(name))]
        if values:
            result[labels] = study.question.interval(values)
    return result


def answered(study: StudyFiles, name: str) -> dict[Labels, Interval]:
    """A column of the answer, with its interval if it has one."""
    axes = axes_of(study)
    result = {}
    for row in study.answers:
        if row.get(name) is not None:
            result[labels_of(study, row, axes)] = answer_interval(row, name)
    return result


def answer_interval(row: Row, name: str) -> Interval:
    """A figure of an answer's row."""
    low, high = row.get(f"{name}.low"), row.get(f"{name}.high")
    return Interval(mean=row.get(name), low=low, high=high, count=row.get("seeds") or 0)


def labels_of(study: StudyFiles, row: Row, axes: Iterable[Axis]) -> Labels:
    """A run's or an answer's values of some axes."""
    labels = study.labels(row)
    return tuple(labels[axis.name] for axis in axes)


# -------------------------------------------------------------------------------------------------------- curves


def curves(study: StudyFiles, figure: Figure, found: Mapping[Labels, Interval]) -> list[Curves]:
    """A figure over the study's axes.

    Returns:
        One plot; of a study that is no grid one for each axis; none where there is no axis or no value.
    """
    axes = axes_of(study)
    if not axes or not found:
        return []
    if not _is_grid(study):
        numbers_first = sorted(range(len(axes)), key=lambda at: axes[at].values is None)
        return [_scattered(figure, axes, at, found) for at in numbers_first]
    x = _across(axes)
    lines = _beside(axes, x)
    rest = [at for at in range(len(axes)) if at not in (x, lines)]
    panels = []
    for name, here in _panels(axes, rest, found).items():
        told = by(
            [{"labels": labels, "found": one} for labels, one in here.items()],
            lambda row: None if lines is None else row["labels"][lines],
        )
        order = (None,) if lines is None else axes[lines].labels
        panels.append(
            Panel(
                name=name,
                lines=tuple(
                    _line(axes[x], x, "" if lines is None else label_text(label), told[label])
                    for label in order
                    if label in told
                ),
            )
        )
    return [Curves(figure=figure, x=axes[x], by=None if lines is None else axes[lines], panels=tuple(panels))]


def _is_grid(study: StudyFiles) -> bool:
    """Whether cells that differ in one axis alone stand beside each other, so that lines join what belongs together."""
    kind = study.definition.section.sample.kind
    return kind == "grid" or (kind == "list" and len(axes_of(study)) == 1)


def _across(axes: Sequence[Axis]) -> int:
    """The axis along which a figure is drawn: of numbers, with the most values."""
    numeric = [at for at, axis in enumerate(axes) if axis.values is not None]
    return max(numeric or range(len(axes)), key=lambda at: (len(axes[at].labels), -at))


def _beside(axes: Sequence[Axis], x: int) -> int | None:
    """The axis that makes lines: the first other one that does not make too many, else the one that makes fewest."""
    others = [at for at in range(len(axes)) if at != x]
    few = [at for at in others if len(axes[at].labels) <= MOST_LINES]
    return few[0] if few else min(others, key=lambda at: len(axes[at].labels), default=None)


def _panels(
    axes: Sequence[Axis], rest: Sequence[int], found: Mapping[Labels, Interval]
) -> dict[str, dict[Labels, Interval]]:
    """What is seen at a time, in the axes' order."""
    place = {axes[at].name: {label: index for index, label in enumerate(axes[at].labels)} for at in rest}
    order = sorted(
        dict.fromkeys(tuple(labels[at] for at in rest) for labels in found),
        key=lambda chosen: [place[axes[at].name][label] for at, label in zip(rest, chosen, strict=True)],
    )
    return {
        ", ".join(axes[at].said(label) for at, label in zip(rest, chosen, strict=True)): {
            labels: one for labels, one in found.items() if tuple(labels[at] for at in rest) == chosen
        }
        for chosen in order
    }


def _line(x: Axis, at: int, name: str, rows: Sequence[Mapping[str, Any]]) -> Line:
    places = {label: index for index, label in enumerate(x.labels)}
    points = sorted(((places[row["labels"][at]], row["found"]) for row in rows), key=lambda point: point[0])
    return Line(name=name, at=tuple(place for place, _ in points), found=tuple(one for _, one in points))


def _scattered(figure: Figure, axes: Sequence[Axis], at: int, found: Mapping[Labels, Interval]) -> Curves:
    rows = [{"labels": labels, "found": one} for labels, one in found.items()]
    line = _line(axes[at], at, "", rows)
    return Curves(figure=figure, x=axes[at], by=None, panels=(Panel(name="", lines=(line,)),), joined=False)


def grid(study: StudyFiles, figure: Figure, found: Mapping[Labels, Interval]) -> Grid | None:
    """A figure over two axes of numbers, where the study has two."""
    axes = axes_of(study)
    numeric = [at for at, axis in enumerate(axes) if axis.values is not None]
    if len(numeric) < 2 or not _is_grid(study):
        return None
    x, y = sorted(sorted(numeric, key=lambda at: (-len(axes[at].labels), at))[:2], key=lambda at: -len(axes[at].labels))
    rest = [at for at in range(len(axes)) if at not in (x, y)]
    panels = {}
    for name, here in _panels(axes, rest, found).items():
        means = {(labels[x], labels[y]): one.mean for labels, one in here.items()}
        panels[name] = tuple(tuple(means.get((across, up)) for across in axes[x].labels) for up in axes[y].labels)
    return Grid(figure=figure, x=axes[x], y=axes[y], panels=panels) if panels else None


def cluster_text(study: StudyFiles, row: Row) -> str:
    """The cluster of a min_cost study's run or answer in words; empty for other studies and for no cluster."""
    if not isinstance(study.question, MinCost) or row[next(iter(study.question.section.catalogue))] is None:
        return ""
    counts = zip(study.question.section.catalogue, study.question.counts(row), strict=True)
    return " + ".join(f"{count} {name}" for name, count in counts if count) or "no nodes"


def differences(study: StudyFiles, name: str) -> list[tuple[str, Interval]]:
    """Cell and paired difference of a figure from the baseline, without the baselines themselves."""
    return [
        (labels_text(study, row), answer_interval(row, f"{name}.difference"))
        for row in study.answers
        if not row.get("baseline") and row.get(f"{name}.difference") is not None
    ]


def best(rows: Iterable[Row], name: str) -> Row | None:
    """The answer's row with the best value of a figure; the greatest where better is not known."""
    known = [row for row in rows if is_number(row.get(name))]
    return max(known, key=lambda row: (better(name) or 1) * row[name], default=None)
