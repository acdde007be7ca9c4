"""The tables of a study's report."""

from __future__ import annotations

from collections.abc import Sequence

from scenarios.reports.definitions import figure_of
from scenarios.reports.study_clouds import GOODPUT
from scenarios.reports.study_data import (
    answer_interval,
    asked_figures,
    axes_of,
    axis_title,
    cluster_text,
    interval_text,
    label_text,
    labels_text,
)  # fmt: skip
from scenarios.reports.study_files import StudyFiles
from scenarios.reports.study_words import limits
from scenarios.reports.tables import Cell, Long, Number, short, table
from scenarios.studies.axes import is_number, si_value
from scenarios.studies.engine import Row, by
from scenarios.studies.min_cost import MinCost
from scenarios.studies.schema import CompareSection, SweepSection

MOST_ROWS = 2_000
"""Rows of the tables of points and of the answer; more would make browsers slow."""
ERROR_CHARACTERS = 600
USUAL = (
    *GOODPUT, "total_throughput_tokens_per_s", "slo_attainment", "ttft_s.p50", "ttft_s.p95", "tpot_s.p50",
    "tpot_s.p95", "max_flow_tokens_per_s", "requests.finished", "requests.failed", "cost_per_h",
    "cost_per_million_decode_tokens",
)  # fmt: skip
"""Figures in the table of points beside those that the study asks for."""


def answer_table(study: StudyFiles) -> str:
    """The answer, one row a cell; of max_rate the greatest first."""
    heads, lines = _answer(study)
    axes = axes_of(study, seeds=True)
    heads = [*(axis.name for axis in axes), *heads] if axes else ["cell", *heads]
    # Sweeps and comparisons count what failed; the other questions say why a cell has no answer.
    if any(row.get("error") for row, _ in lines):
        heads.append("error")
        lines = [(row, [*line, Long(_short(row["error"]))]) for row, line in lines]
    return table(heads, ([*_coordinates(study, row), *line] for row, line in lines[:MOST_ROWS]), "the answer")


def _answer(study: StudyFiles) -> tuple[list[str], list[tuple[Row, list[Cell]]]]:
    """Heads and cells of the answer without the axes, each line with its row."""
    if isinstance(study.question, MinCost):
        names = list(study.question.section.catalogue)
        heads = [f"cost, {study.currency}/h", *names, "status", "limited by", "clusters"]
        return heads, [(row, _cheapest(study, row, names)) for row in study.answers]
    if study.kind == "max_rate":
        rows = sorted(study.answers, key=lambda row: -(row["max_rate"] or 0.0))
        heads = [head(study, "max_rate"), "range", "bounds", "seeds", "points"]
        return heads, [(row, _greatest(row)) for row in rows]
    return _mean_heads(study), [(row, _means(study, row)) for row in study.answers]


def _cheapest(study: StudyFiles, row: Row, names: Sequence[str]) -> list[Cell]:
    return [
        _number(row["cost_per_h"]), *(Number(row[name], "d") for name in names), str(row["status"]),
        limits(study, row) or "–", Number(row["clusters"], "d"),
    ]  # fmt: skip


def _greatest(row: Row) -> list[Cell]:
    low, high = row["max_rate.min"], row["max_rate.max"]
    span = "–" if low is None or high is None else f"{short(low)} to {short(high)}"
    return [
        _figure(row, "max_rate"), span, str(row["bounds"] or "–"), Number(row["seeds"], "d"),
        Number(row["points"], "d"),
    ]  # fmt: skip


def _mean_heads(study: StudyFiles) -> list[str]:
    question = study.definition.section.question
    compared = isinstance(question, CompareSection)
    heads: list[str] = []
    for name in _asked(study):
        heads.append(head(study, name))
        heads += ["difference", "share"] if compared else []
    return [*heads, "limited by", *(["baseline"] if compared else []), "seeds", "failed"]


def _means(study: StudyFiles, row: Row) -> list[Cell]:
    """A line of a sweep's or a comparison's answer."""
    compared = isinstance(study.definition.section.question, CompareSection)
    line: list[Cell] = []
    for name in _asked(study):
        line.append(_figure(row, name))
        if compared:
            line += [_figure(row, f"{name}.difference"), Number(row[f"{name}.difference_share"], "+.1%")]
    said = [str(row["min_cut_kinds"] or "–"), *(["yes" if row["baseline"] else ""] if compared else [])]
    return [*line, *said, Number(row["seeds"], "d"), Number(row["failed"], "d")]


def _asked(study: StudyFiles) -> tuple[str, ...]:
    question = study.definition.section.question
    return question.figures if isinstance(question, SweepSection | CompareSection) else ()


def _figure(row: Row, name: str) -> Number:
    """A mean of the answer with its interval."""
    found = answer_interval(row, name)
    return Number(found.mean, said=interval_text(found))


def _number(value: object) -> Number:
    return Number(value, said=short(value)) if isinstance(value, int | float) else Number(None)


def head(study: StudyFiles, name: str) -> str:
    """A figure's name and unit."""
    return axis_title(figure_of(name, study.currency))


def _coordinates(study: StudyFiles, row: Row) -> list[Cell]:
    """The cells' values, quantities sorted by what they come to."""
    axes, labels = axes_of(study, seeds=True), study.labels(row)
    cells: list[Cell] = []
    for axis in axes:
        label = labels[axis.name]
        if axis.values is None:
            cells.append(label_text(label))
        else:
            quantity = si_value(label)
            value = quantity[0] if quantity else float(label or 0.0)
            cells.append(Number(value, said=label_text(label)))
    return cells or [Number(row["cell"], "d")]


def _short(error: object) -> str:
    text = str(error or "")
    return text if len(text) <= ERROR_CHARACTERS else f"{text[:ERROR_CHARACTERS]} ..."


def points_table(study: StudyFiles) -> str:
    """The runs, at most :data:`MOST_ROWS`, with the figures that matter."""
    names = _shown_figures(study)
    own = ["rate"] if study.kind == "max_rate" else []
    own += list(study.question.section.catalogue) if isinstance(study.question, MinCost) else []
    own += ["seed"] if study.definition.seeds is not None else []
    axes = [axis.name for axis in axes_of(study, seeds=True)] or ["cell"]
    return table(
        [*axes, *own, "status", *(head(study, name) for name in names), "limited by"],
        (
            [
                *_coordinates(study, row), *(Number(row[name], ",.6g") for name in own), str(row["status"]),
                *(_number(row.get(name)) for name in names),
                str(row.get("min_cut_kinds") or "–"),
            ]
            for row in study.rows[:MOST_ROWS]
        ),
        "all points",
    )  # fmt: skip


def _shown_figures(study: StudyFiles) -> list[str]:
    """Figures in the table of points, of those that some point has."""
    section = study.definition.section
    names = dict.fromkeys([*asked_figures(study), *(each.figure for each in study.definition.meets), *USUAL])
    further = {name.partition("*")[0] for name in section.figures}
    wanted = [*names, *(name for name in _columns(study) if any(name.startswith(start) for start in further))]
    return [name for name in dict.fromkeys(wanted) if any(is_number(row.get(name)) for row in study.rows)]


def _columns(study: StudyFiles) -> list[str]:
    return list(dict.fromkeys(name for row in study.rows for name in row))


def failed_table(study: StudyFiles) -> str:
    """Errors of points that failed, each once."""
    errors = by(study.failed, lambda row: _short(row.get("error")))
    return table(
        ["points", "error", "for instance"],
        ([Number(len(rows), "d"), Long(error), Long(_instance(study, rows[0]))] for error, rows in errors.items()),
        "points that failed",
    )


def _instance(study: StudyFiles, row: Row) -> str:
    seed = f"seed {row['seed']}" if study.definition.seeds is not None else ""
    return ", ".join(part for part in (labels_text(study, row), cluster_text(study, row), seed) if part)


def definitions_table(study: StudyFiles) -> str:
    """Every figure of the page with what it means."""
    own = {"max_rate": ["max_rate"], "min_cost": ["cost_per_h"]}.get(study.kind, [])
    names = dict.fromkeys([*own, *_shown_figures(study), "min_cut_kinds"])
    figures = [figure_of(name, study.currency) for name in names]
    return table(
        ["figure", "column", "unit", "definition"],
        ([one.name, one.path, one.unit, Long(one.definition)] for one in figures),
        "figures with their definitions",
    )
