"""The scatter plots of a study's report, whoever draws them: bisections, and cost against what it brings."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from scenarios.reports.definitions import Figure, figure_of
from scenarios.reports.study_data import axes_of, cluster_text, labels_of, labels_text
from scenarios.reports.study_files import StudyFiles
from scenarios.studies.axes import is_number
from scenarios.studies.engine import Row, by
from scenarios.studies.max_rate import MaxRate, meets
from scenarios.studies.min_cost import MinCost

GOODPUT = ("goodput_requests_per_s", "decode_throughput_tokens_per_s")
"""What a Pareto front sets against cost, in order of preference."""


@dataclass(frozen=True, slots=True)
class Dot:
    """A point of a scatter plot; ``good``: on the front, or meeting the conditions."""

    name: str
    x: float
    y: float
    good: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Cloud:
    """Dots, panel by panel, and where a condition's limit is."""

    figure: Figure
    panels: Mapping[str, tuple[Dot, ...]]
    limit: float | None = None


def bisections(study: StudyFiles) -> list[Cloud]:
    """The rates that were tried, by cell, against each figure that a condition is about."""
    question = study.question
    if not isinstance(question, MaxRate):
        return []
    conditions = question.definition.meets
    clouds = []
    for name in dict.fromkeys(each.figure for each in conditions):
        limits = [each.value for each in conditions if each.figure == name]
        dots = {
            labels_text(study, rows[0]): tuple(
                Dot(f"seed {row.get('seed')}", row["rate"], row[name], meets(row, conditions))
                for row in rows
                if is_number(row.get(name))
            )
            for rows in by(study.rows, lambda row: int(row["cell"])).values()
        }
        kept = {panel: found for panel, found in dots.items() if found}
        if kept:
            limit = limits[0] if len(limits) == 1 and is_number(limits[0]) else None
            clouds.append(Cloud(figure=figure_of(name, study.currency), panels=kept, limit=_number(limit)))
    return clouds


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def pareto(study: StudyFiles) -> Cloud | None:
    """Cost per hour against what it brings; ``None`` without prices.

    Cells of a sweep, comparison or max_rate are set against each other; of min_cost, the clusters of each cell.
    """
    if not study.currency:
        return None
    if isinstance(study.question, MaxRate):
        costs = by((row for row in study.rows if is_number(row.get("cost_per_h"))), lambda row: int(row["cell"]))
        rates = [
            Dot(
                name=labels_text(study, row), x=mean_of(costs[row["cell"]], "cost_per_h"), y=row["max_rate"], good=False
            )
            for row in study.answers
            if row.get("max_rate") and row["cell"] in costs
        ]
        return _fronts(study, "max_rate", {"": rates})
    name = next((each for each in GOODPUT if any(is_number(row.get(each)) for row in study.rows)), None)
    if name is None:
        return None
    panels: dict[str, list[Dot]] = {}
    known = (row for row in study.rows if is_number(row.get(name)) and is_number(row.get("cost_per_h")))
    for rows in by(known, _point_key(study)).values():
        cell, cluster = labels_text(study, rows[0]), cluster_text(study, rows[0])
        panel, told = (cell, cluster) if cluster else ("", cell)
        dot = Dot(told, mean_of(rows, "cost_per_h"), mean_of(rows, name))
        panels.setdefault(panel, []).append(dot)
    return _fronts(study, name, panels)


def _point_key(study: StudyFiles) -> Callable[[Row], tuple[Any, ...]]:
    """What tells dots apart: cells, and in min_cost clusters; seeds are replicates even where they are an axis."""
    axes, question = axes_of(study), study.question
    if isinstance(question, MinCost):
        return lambda row: (row["cell"], question.counts(row))
    return lambda row: labels_of(study, row, axes)


def mean_of(rows: Sequence[Row], name: str) -> float:
    """Mean of a figure over runs that all have it."""
    return sum(float(row[name]) for row in rows) / len(rows)


def _fronts(study: StudyFiles, name: str, panels: Mapping[str, Sequence[Dot]]) -> Cloud | None:
    kept = {panel: tuple(on_front(dots)) for panel, dots in panels.items() if dots}
    return Cloud(figure=figure_of(name, study.currency), panels=kept) if kept else None


def on_front(dots: Sequence[Dot]) -> list[Dot]:
    """The dots by cost, those marked ``good`` that no other one beats.

    One beats another when it costs at most as much, brings at least as much, and is better in one of both.
    """
    marked: list[Dot] = []
    most, at = -math.inf, -math.inf
    for dot in sorted(dots, key=lambda dot: (dot.x, -dot.y)):
        good = dot.y > most or (dot.y == most and dot.x == at)
        if good:
            most, at = dot.y, dot.x
        marked.append(replace(dot, good=good))
    return marked


def cluster_costs(study: StudyFiles) -> dict[str, dict[str, float]]:
    """The cheapest clusters of a min_cost study: cell -> group of nodes -> its price per hour."""
    question = study.question
    if not isinstance(question, MinCost):
        return {}
    names, prices = list(question.section.catalogue), question.knowledge().prices
    return {
        labels_text(study, row) or study.definition.name: {
            name: count * price for name, count, price in zip(names, question.counts(row), prices, strict=True) if count
        }
        for row in study.answers
        if row["cost_per_h"] is not None
    }
