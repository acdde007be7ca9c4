"""What was asked of a study and what came out, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from scenarios.reports.definitions import better, figure_of
from scenarios.reports.study_data import (
    answer_interval,
    best,
    cluster_text,
    excludes_nought,
    interval_text,
    label_text,
    labels_text,
)  # fmt: skip
from scenarios.reports.study_files import StudyFiles
from scenarios.reports.tables import short
from scenarios.reports.words import asked, capital, listed
from scenarios.studies.axes import label_of
from scenarios.studies.engine import Row
from scenarios.studies.max_rate import MaxRate
from scenarios.studies.min_cost import MinCost
from scenarios.studies.schema import AxisSection, CompareSection, MinCostSection, PricesSection, SweepSection

MOST_VALUES = 12
"""Values of an axis that are named one by one."""
MOST_SENTENCES = 6
"""Figures, or cells, that get a sentence of their own."""


def study_asked(study: StudyFiles) -> list[tuple[str, str]]:
    """What a study asks: heading and sentence."""
    section = study.definition.section
    told = [("question", _question(study))]
    if isinstance(section.question, MinCostSection):
        told.append(("catalogue", _catalogue(section.question)))
    told += [(f"axis {name}", _axis(study, name, axis)) for name, axis in section.axes.items()]
    cells, seeds = len(study.definition.cells), study.definition.seeds
    told.append(("cells", f"{cells}, as a {section.sample.kind}" if section.axes else "one: there are no axes"))
    if section.constraints:
        told.append(("constraints", ", ".join(section.constraints)))
    told.append(("seeds", "an axis" if seeds is None else f"{len(seeds)} a cell: {_some(list(map(str, seeds)))}"))
    if section.prices is not None:
        told.append(("prices", _prices(section.prices)))
    given = study.manifest["study"]
    base = given.get("scenario")
    told.append(("base scenario", base if isinstance(base, str) else "written in the study"))
    changed = [*(f"override {name}" for name in given.get("overrides") or ())]
    changed += [f"{path} {_plain(value)}" for path, value in (given.get("set") or {}).items()]
    if changed:
        told.append(("changed in all points", ", ".join(changed)))
    return told + asked(study.manifest["scenario"])


def _question(study: StudyFiles) -> str:
    question = study.definition.section.question
    meets = listed([f"{each.figure} {each.text}" for each in study.definition.meets] or ["nothing"])
    level = f"{study.definition.section.confidence.level:.0%} confidence"
    if isinstance(question, SweepSection):
        return f"sweep: {', '.join(question.figures)}, means over seeds with {level}"
    if isinstance(question, CompareSection):
        return f"compare with {_baseline(question)}, seed by seed: {', '.join(question.figures)}, with {level}"
    if isinstance(question, MinCostSection):
        return (
            f"min_cost: the cheapest cluster of the catalogue with which every seed meets {meets}; at most "
            f"{question.clusters} clusters are tried in each cell"
        )
    return (
        f"max_rate: the greatest {question.path} from {question.start:g} to {question.stop:g} that meets {meets}, to "
        f"within {100 * question.tolerance:g} %, with {level}"
    )


def _baseline(question: CompareSection) -> str:
    return ", ".join(f"{name} {label_text(label_of(value))}" for name, value in question.baseline.items())


def _axis(study: StudyFiles, name: str, axis: AxisSection) -> str:
    if axis.range is not None:
        steps = f" in {axis.range.steps} steps" if axis.range.steps else ""
        said = f"{axis.range.start} to {axis.range.stop}{steps}, {axis.range.scale}"
        return f"{_target(axis)}: {said}" if _target(axis) else said
    values = list(dict.fromkeys(label_text(cell.labels[name]) for cell in study.definition.cells))
    return f"{_target(axis)}: {_some(values)}" if _target(axis) else _some(values)


def _target(axis: AxisSection) -> str:
    return f"nodes of {axis.nodes}" if axis.nodes else ", ".join(axis.paths or ([axis.path] if axis.path else ()))


def _some(values: Sequence[str]) -> str:
    more = f", ... ({len(values)} values)" if len(values) > MOST_VALUES else ""
    return f"{', '.join(values[:MOST_VALUES])}{more}"


def _plain(value: object) -> str:
    return label_text(label_of(value))


def _prices(prices: PricesSection) -> str:
    told = [
        f"{name} {price.on_demand:g}" + (f" (spot {price.spot:g})" if price.spot is not None else "")
        for name, price in prices.nodes.items()
    ]
    spot = f"; spot are {', '.join(prices.spot)}" if prices.spot else ""
    egress = f"; {prices.egress_per_gb:g} per GB that leaves a region" if prices.egress_per_gb else ""
    return f"{prices.currency} per node-hour: {', '.join(told)}{spot}{egress}"


def _catalogue(question: MinCostSection) -> str:
    return "; ".join(
        f"{name}: {offer.at_least} to {offer.at_most} {offer.machine}{' spot' if offer.spot else ''}"
        + (f" in {offer.region}" if offer.region != "default" else "")
        for name, offer in question.catalogue.items()
    )


# ------------------------------------------------------------------------------------------------------ the answer


def progress(study: StudyFiles) -> str:
    """How far a study has come; empty for one that finished."""
    if study.finished:
        return ""
    definition = study.definition
    searches = len(definition.cells) * len(definition.seeds or (None,))
    if isinstance(study.question, MaxRate):
        done = sum(row["seeds"] for row in study.answers)
        told = f"{len(study.rows)} points are done, and {done} of {searches} bisections have come to their end"
    elif isinstance(study.question, MinCost):
        told = f"{len(study.rows)} points are done; no search of the {len(definition.cells)} is known to be complete"
    else:
        told = f"{len(study.rows)} of {searches} points are done"
    return f"Partial: the study has not finished. {capital(told)}; what follows is of those."


def study_answer(study: StudyFiles) -> list[str]:
    """What came out, the most important first."""
    question = study.definition.section.question
    if isinstance(question, SweepSection):
        said = [_best(study, name) for name in question.figures[:MOST_SENTENCES]]
    elif isinstance(question, CompareSection):
        said = [sentence for name in question.figures for sentence in _compared(study, question, name)]
    elif isinstance(question, MinCostSection):
        said = [_cheapest(study, row) for row in study.answers[:MOST_SENTENCES]]
        if len(study.answers) > MOST_SENTENCES:
            said.append(f"The table has the other {len(study.answers) - MOST_SENTENCES} cells.")
    else:
        said = _greatest(study)
    failed = len(study.failed)
    if failed:
        why = ", such as clusters that cannot hold the model" if isinstance(question, MinCostSection) else ""
        said.append(f"{failed} of {len(study.rows)} points failed{why}; their errors are at the end.")
    return said


def _where(study: StudyFiles, row: Row) -> str:
    cell = labels_text(study, row)
    return f" at {cell}" if cell else ""


def _best(study: StudyFiles, name: str) -> str:
    figure, row = figure_of(name, study.currency), best(study.answers, name)
    if row is None:
        return f"No cell has a value of {figure.name}."
    which = {1: "most", -1: "least"}.get(better(name), "greatest") + " " if len(study.answers) > 1 else ""
    value = f"{interval_text(answer_interval(row, name))} {figure.unit}".rstrip()
    return f"{capital(which + figure.name)}: {value}{_where(study, row)}."


def _compared(study: StudyFiles, question: CompareSection, name: str) -> list[str]:
    """For each variant of the baseline's axes, in how many cells it differs."""
    figure = figure_of(name, study.currency)
    variants: dict[tuple[str, ...], list[Row]] = {}
    for row in study.answers:
        if not row["baseline"]:
            labels = study.labels(row)
            variants.setdefault(tuple(f"{axis} {label_text(labels[axis])}" for axis in question.baseline), []).append(
                row
            )
    said = []
    for variant, rows in variants.items():
        found = [answer_interval(row, f"{name}.difference") for row in rows]
        known = [one for one in found if one.mean is not None]
        if not known:
            said.append(f"{capital(figure.name)} of {', '.join(variant)}: no cell has a difference.")
            continue
        told = [one for one in known if excludes_nought(one)]
        up = sum(one.mean is not None and one.mean > 0 for one in told)
        shares = [row[f"{name}.difference_share"] for row in rows if row.get(f"{name}.difference_share") is not None]
        mean = f", on average {sum(shares) / len(shares):+.1%}" if shares else ""
        said.append(
            f"{capital(figure.name)} of {', '.join(variant)} against {_baseline(question)}: higher in {up}, "
            f"lower in {len(told) - up}, not told apart in {len(known) - len(told)} of {len(rows)} cells{mean}"
            + (f"; {len(rows) - len(known)} have no figure." if len(known) < len(rows) else ".")
        )
    return said


def _greatest(study: StudyFiles) -> list[str]:
    known = sorted((row for row in study.answers if row["max_rate"] is not None), key=lambda row: -row["max_rate"])
    if not known:
        return ["No bisection has come to its end."]
    said = []
    for which, row in (("Greatest", known[0]), ("Least", known[-1]))[: min(2, len(known))]:
        found = interval_text(answer_interval(row, "max_rate"))
        notes = f" ({row['bounds']})" if row["bounds"] else ""
        said.append(f"{which} rate that meets the conditions: {found} requests/s{_where(study, row)}{notes}.")
    bounded = sum(bool(row["bounds"]) for row in known)
    if bounded:
        said.append(f"In {bounded} of {len(known)} cells the range that was searched was too narrow for some seed.")
    return said


def _cheapest(study: StudyFiles, row: Row) -> str:
    cell = labels_text(study, row)
    where = f"{capital(cell)}: " if cell else ""
    if row["cost_per_h"] is None:
        return f"{where}no cluster that was tried meets the conditions ({row['status']})."
    bound = limits(study, row)
    limited = f", limited by {bound}" if bound else ""
    cost = f"{short(row['cost_per_h'])} {study.currency}/h"
    return f"{where}{cluster_text(study, row)} for {cost} ({row['status']}){limited}."


def limits(study: StudyFiles, answer: Row) -> str:
    """What limits the flow of a min_cost study's cheapest cluster; empty where there is none."""
    question = study.question
    if not isinstance(question, MinCost) or answer["cost_per_h"] is None:
        return ""
    wanted = (answer["cell"], question.counts(answer))
    kinds = dict.fromkeys(
        str(row["min_cut_kinds"])
        for row in study.rows
        if row["status"] == "ok" and (row["cell"], question.counts(row)) == wanted
    )
    return " or ".join(kinds).replace("+", " and ")
