"""Axes of a study and the cells that a sample makes of them."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from emulator.randomness import generator
from scenarios.changes import Change
from scenarios.quantities import DURATION, RATE, SIZE, Dimension, QuantityError, parse
from scenarios.studies.constraints import Constraint, Value
from scenarios.studies.schema import MAX_POINTS, SampleSection
from scenarios.tree import Origin, Plain, Scalar, TreePath, from_plain

Label: TypeAlias = str | int | float | bool | None

_DIMENSIONS = ((DURATION, "s"), (SIZE, "bytes"), (RATE, "bytes_per_s"))
_DRAWS_PER_POINT = 200
"""A random sample whose constraints refuse more draws than this for each point is given up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisValue:
    """One value of one axis.

    Attributes:
        label: What tables show.
        changes: What it changes in the scenario.
        count: Group or machine type of nodes, and how many there are then; ``None`` for other axes.
    """

    label: Label
    changes: tuple[Change, ...] = ()
    count: tuple[str, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Everything between two ends.

    Attributes:
        start: First value, in ``unit``.
        stop: Last value.
        unit: Unit of the scenario's file; empty for plain numbers.
        log: Whether the logarithm is what is evenly spaced.
        whole: Whether values are rounded to whole numbers.
    """

    start: float
    stop: float
    unit: str = ""
    log: bool = False
    whole: bool = False

    def at(self, share: float) -> Scalar:
        """The value at a share of the way, 0 to 1, as a scenario holds it."""
        if self.log:
            value = self.start * (self.stop / self.start) ** share
        else:
            value = self.start + (self.stop - self.start) * share
        if self.whole:
            number: int | float = round(value)
        else:
            # Six figures are more than a study can tell apart, and read better.
            number = float(f"{value:.6g}")
        return f"{number:.15g} {self.unit}" if self.unit else number


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One thing that is varied.

    Attributes:
        name: Its column.
        values: What it can be; empty for a span that only a sample gives values.
        span: Where values come from.
        paths: Fields that a span's values go to.
        origin: Where the axis is written.
        nodes: Group or machine type, where a span counts nodes.
    """

    name: str
    values: tuple[AxisValue, ...] = ()
    span: Span | None = None
    paths: tuple[TreePath, ...] = ()
    origin: Origin
    nodes: str | None = None

    def drawn(self, share: float) -> AxisValue:
        """The value at a share in [0, 1): of the span, or of the list."""
        if self.span is not None:
            return value_of(self.span.at(share), self.paths, self.nodes, self.origin)
        return self.values[min(int(share * len(self.values)), len(self.values) - 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One combination of the axes' values; it is run once for each seed.

    Attributes:
        number: From 0, in the study's order.
        labels: Axis -> what tables show.
        changes: What is changed in the scenario.
        counts: Group or machine type -> number of nodes.
    """

    number: int
    labels: Mapping[str, Label]
    changes: tuple[Change, ...]
    counts: Mapping[str, int]


def value_of(content: Plain, paths: Sequence[TreePath], nodes: str | None, origin: Origin) -> AxisValue:
    """An axis's value from what the study's file says."""
    if nodes is not None:
        assert isinstance(content, int), "the definition checks counts"
        return AxisValue(label=content, count=(nodes, content))
    tree = from_plain(content, origin)
    return AxisValue(label=label_of(content), changes=tuple(Change(path, tree) for path in paths))


def label_of(content: object) -> Label:
    """A value as a table shows it: numbers, flags and text as they are, the rest as JSON."""
    if content is None or isinstance(content, (str, int, float)):
        return content
    return json.dumps(content, sort_keys=True)


def si_value(label: Label) -> tuple[float, str] | None:
    """A quantity's value in SI units, and what a column of such values is called after the axis's name."""
    for dimension, ending in _DIMENSIONS:
        value = _parsed(label, dimension)
        if value is not None:
            return value, ending
    return None


def _parsed(label: Label, dimension: Dimension) -> float | None:
    try:
        return parse(label, dimension)
    except QuantityError:
        return None


def si_columns(cells: Sequence[Cell]) -> dict[str, str]:
    """Axes whose values are all quantities of one kind -> name of a column of SI values."""
    columns: dict[str, str] = {}
    for axis in cells[0].labels if cells else ():
        found = [si_value(cell.labels[axis]) for cell in cells]
        endings = list(dict.fromkeys(each[1] if each else "" for each in found))
        if len(endings) == 1 and endings[0]:
            columns[axis] = f"{axis}_{endings[0]}"
    return columns


def make_cells(axes: Sequence[Axis], sample: SampleSection, constraints: Sequence[Constraint]) -> tuple[Cell, ...]:
    """The study's cells, in order.

    Args:
        axes: What is varied.
        sample: Which combinations.
        constraints: What must hold of a cell; others are left out, and a random sample draws anew.

    Raises:
        ValueError: There is none, or there are too many.
        ConstraintError: A constraint cannot be computed.
    """
    wanted = sample.points if sample.kind == "random" else None
    cells: list[Cell] = []
    for values in _combinations(axes, sample):
        chosen = dict(zip((axis.name for axis in axes), values, strict=True))
        if all(constraint.holds(_comparable(chosen)) for constraint in constraints):
            cells.append(_cell(len(cells), chosen))
        if len(cells) > MAX_POINTS:
            raise ValueError(f"the axes make more than {MAX_POINTS:,} cells")
        if len(cells) == wanted:
            break
    if not cells:
        raise ValueError("the constraints leave no cell")
    if wanted is not None and len(cells) < wanted:
        raise ValueError(f"the constraints refuse almost every draw; {len(cells)} of {wanted} points were found")
    return tuple(cells)


def _cell(number: int, chosen: Mapping[str, AxisValue]) -> Cell:
    return Cell(
        number=number,
        labels={name: value.label for name, value in chosen.items()},
        changes=tuple(change for value in chosen.values() for change in value.changes),
        counts=dict(value.count for value in chosen.values() if value.count is not None),
    )


def _comparable(chosen: Mapping[str, AxisValue]) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for name, value in chosen.items():
        quantity = si_value(value.label)
        found[name] = quantity[0] if quantity else "" if value.label is None else value.label
    return found


def _combinations(axes: Sequence[Axis], sample: SampleSection) -> Iterator[Sequence[AxisValue]]:
    match sample.kind:
        case "grid":
            yield from itertools.product(*(axis.values for axis in axes))
        case "list":
            if len(lengths := dict.fromkeys(len(axis.values) for axis in axes)) > 1:
                raise ValueError(
                    f"a list needs equally many values of every axis, not {' and '.join(map(str, lengths))}"
                )
            yield from zip(*(axis.values for axis in axes), strict=True)
        case "random":
            draws = generator(sample.seed, "study sample")
            for _ in range((sample.points or 0) * _DRAWS_PER_POINT):
                yield [axis.drawn(float(draws.random())) for axis in axes]
        case "latin-hypercube":
            for row in _latin_hypercube(len(axes), sample.points or 0, sample.seed):
                yield [axis.drawn(float(share)) for axis, share in zip(axes, row, strict=True)]


def _latin_hypercube(dimensions: int, points: int, seed: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Shares in [0, 1), one row a point: every column has one value in each of ``points`` equal parts."""
    from scipy.stats import qmc  # Slow to import, and workers never need it.

    draws = generator(seed, "study sample")
    shares: np.ndarray[Any, np.dtype[np.float64]] = qmc.LatinHypercube(dimensions, rng=draws).random(points)
    return shares


def spaced(span: Span, steps: int) -> list[Scalar]:
    """Evenly spaced values, both ends included; doubles that rounding makes are left out."""
    return list(dict.fromkeys(span.at(index / (steps - 1)) for index in range(steps)))


def is_number(value: object) -> bool:
    """Whether a value is a finite number and no flag."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
