"""The report of a study: the answer first, then plots and tables."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from html import escape
from pathlib import Path

from scenarios.library import list_library
from scenarios.reports import study_plots as plots
from scenarios.reports.definitions import STUDY_COLUMNS, figure_of
from scenarios.reports.frame import Page, document, require_reportable, write_page
from scenarios.reports.plots import MOST_BARS
from scenarios.reports.study_clouds import bisections, cluster_costs, pareto
from scenarios.reports.study_data import answered, asked_figures, axes_of, curves, differences, grid, measured
from scenarios.reports.study_files import StudyFiles, study_file
from scenarios.reports.study_tables import (
    MOST_ROWS,
    answer_table,
    definitions_table,
    failed_table,
    head,
    points_table,
)  # fmt: skip
from scenarios.reports.study_words import progress, study_answer, study_asked
from scenarios.reports.tables import Number, short, table
from scenarios.reports.words import capital
from scenarios.studies.schema import CompareSection
from scenarios.yaml_text import dump_yaml

FILE = "study.yaml"
"""What the study's file is called where it is kept nowhere else than in the page."""


def write_study_report(study: StudyFiles, out: Path) -> None:
    """Write a study's report.

    Raises:
        ScenarioError: plotly or matplotlib is missing, or the file cannot be written.
    """
    require_reportable(out)
    write_page(study_page(study), out)


def study_page(study: StudyFiles) -> str:
    """The whole page."""
    page = Page()
    definition = study.definition
    page.header(definition.name, definition.section.description)
    _state(page, study)
    page.answer(study_answer(study))
    page.key_figures(_key_figures(study))
    page.heading("Answer")
    if len(study.answers) > MOST_ROWS:
        page.text(f"The first {MOST_ROWS:,} of {len(study.answers):,}; the study's directory has all.", "soft")
    page.add(answer_table(study))
    level = f"{study.definition.section.confidence.level:.0%}"
    page.text(
        "Costs are of the nodes alone. Every seed meets the conditions."
        if study.kind == "min_cost"
        else f"Means over seeds, in brackets the {level} confidence interval, which a single seed has none of.",
        "soft",
    )
    page.heading("What was asked")
    page.terms(study_asked(study))
    _answer_plots(page, study)
    _curves(page, study)
    _bisections(page, study)
    _pareto(page, study)
    page.heading("Points")
    if len(study.rows) > MOST_ROWS:
        page.text(f"The first {MOST_ROWS:,} of {len(study.rows):,}; the study's directory has all.", "soft")
    page.add(points_table(study))
    if study.failed:
        page.heading("Points that failed")
        page.add(failed_table(study))
    page.heading("Definitions")
    page.add(definitions_table(study))
    page.terms(STUDY_COLUMNS.items())
    _repeat(page, study)
    return document(definition.name, page)


def _state(page: Page, study: StudyFiles) -> None:
    told = [progress(study)]
    if study.damaged:
        told.append(f"Damaged files of points: {len(study.damaged)}; they are left out, and --resume runs them again.")
    if study.strays:
        told.append(f"{study.strays} points of an earlier form of this study are left out.")
    said = " ".join(part for part in told if part)
    if said:
        page.text(said, "partial")


def _key_figures(study: StudyFiles) -> Iterator[tuple[str, str]]:
    yield "question", study.kind
    yield "cells", f"{len(study.definition.cells):,}"
    if study.definition.seeds is not None:
        yield "seeds a cell", f"{len(study.definition.seeds):,}"
    yield "points", f"{len(study.rows):,}"
    yield "points that failed", f"{len(study.failed):,}"


def _answer_plots(page: Page, study: StudyFiles) -> None:
    """What the question itself gives: differences, greatest rates, cheapest clusters."""
    question = study.definition.section.question
    if isinstance(question, CompareSection):
        page.heading("Differences from the baseline")
        for name in question.figures:
            rows = differences(study, name)
            measure = figure_of(name, study.currency)
            shown = plots.difference_plot(measure, rows).figure if rows else None
            first = f"The first {MOST_BARS} of {len(rows)}. " if len(rows) > MOST_BARS else ""
            page.add(f"<h3>{escape(capital(measure.name))}</h3>")
            said = "Paired by seed, with confidence intervals; grey ones include nought."
            page.plot(shown, f"difference of {measure.name}", f"{first}{said}")
    for name, heading in (("max_rate", "Greatest rate"), ("cost_per_h", "Cost of the cheapest cluster")):
        if name in study.answers[0]:
            found = curves(study, figure_of(name, study.currency), answered(study, name))
            if found:
                page.heading(heading)
                _curve(page, study, plots.curve_plot(found), heading)
    costs = cluster_costs(study)
    if costs:
        page.heading("What the cheapest clusters are made of")
        first = f"The first {MOST_BARS} of {len(costs)}." if len(costs) > MOST_BARS else ""
        page.plot(plots.cost_plot(costs, study.currency).figure, "cost of the cheapest clusters by group", first)


def _curves(page: Page, study: StudyFiles) -> None:
    names = asked_figures(study)
    if not names:
        return
    page.heading("Study curves")
    drawn = False
    for name in names:
        measure, values = figure_of(name, study.currency), measured(study, name)
        found = curves(study, measure, values)
        if not found:
            continue
        drawn = True
        label = f"{measure.name} by {' and '.join(axis.name for axis in axes_of(study))}"
        page.add(f"<h3>{escape(capital(measure.name))}</h3>")
        _curve(page, study, plots.curve_plot(found), label)
        field = grid(study, measure, values)
        if field is not None:
            shown = plots.heat_map(field)
            page.plot(shown.figure, f"map of {measure.name}", f"Means of {head(study, name)}.", shown.choices)
    if not drawn:
        page.text("No axis has several values, or no point has a figure: there is nothing to draw.", "soft")


def _curve(page: Page, study: StudyFiles, plot: plots.Plot, label: str) -> None:
    cheapest = study.kind == "min_cost"
    seeds = study.definition.seeds
    several = seeds is None or len(seeds) > 1
    level = f"{study.definition.section.confidence.level:.0%}"
    said = f"Means over seeds with their {level} confidence intervals." if several else "A single seed: no interval."
    said = "Of the nodes alone; cells without a cluster that meets the conditions are left out." if cheapest else said
    page.plot(plot.figure, label, said, plot.choices)


def _bisections(page: Page, study: StudyFiles) -> None:
    clouds = bisections(study)
    if not clouds:
        return
    page.heading("Bisection")
    for cloud in clouds:
        shown = plots.bisection_plot(cloud)
        said = "Every rate that was tried, for each seed."
        said += "" if cloud.limit is None else " The dashed line is the condition's limit."
        page.plot(shown.figure, f"{cloud.figure.name} by rate", said, shown.choices)


def _pareto(page: Page, study: StudyFiles) -> None:
    if not study.currency:
        return
    cloud = pareto(study)
    page.heading("Cost against what it brings")
    if cloud is None:
        page.text("No point has both a cost and a goodput.", "soft")
        return
    shown = plots.pareto_plot(cloud, study.currency)
    what = "clusters" if study.kind == "min_cost" else "cells"
    page.plot(
        shown.figure,
        f"Pareto front of cost and {cloud.figure.name}",
        f"Means over seeds. Of the {what} on the front, none is cheaper that brings as much; grey ones are beaten.",
        shown.choices,
    )
    page.add(
        table(
            ["on the front", f"cost, {study.currency}/h", head(study, cloud.figure.path)],
            (
                [", ".join(part for part in (panel, dot.name) if part) or study.definition.name,
                 Number(dot.x, said=short(dot.x)), Number(dot.y, said=short(dot.y))]
                for panel, dots in cloud.panels.items() for dot in dots if dot.good
            ),
            "the Pareto front",
        )
    )  # fmt: skip


def _repeat(page: Page, study: StudyFiles) -> None:
    page.heading("Again")
    source = _source(study)
    where = f" --out {shlex.quote(str(study.path.resolve()))} --resume" if not study.finished else ""
    page.commands(study.versions, f"helixemu study {shlex.quote(source)}{where}")
    seeds = study.definition.seeds
    page.text(
        ("" if source != FILE else f"Save what is below as {FILE} first. ")
        + ("" if seeds is None else f"Seeds {', '.join(map(str, seeds))}. ")
        + "In virtual time the same study, seeds and code give the same table. "
        f"SHA-256 of the code: {study.manifest.get('code_version', 'unknown')}."
    )
    page.versions(study.versions)
    page.folded(f"{FILE}, with its scenario in it", dump_yaml(study_file(study.manifest)))


def _source(study: StudyFiles) -> str:
    """What to name to run the study again: a library name, a file, or the file that the page holds."""
    source = Path(str(study.manifest.get("source", "")))
    if any(entry.path.resolve() == source for entry in list_library("study")):
        return source.stem
    return str(source) if source.is_file() else FILE
