"""Reads a study directory: what :class:`scenarios.studies.store.Store` wrote, finished or not, or an honest error."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scenarios.errors import Problem, ScenarioError
from scenarios.reports.run_files import read_json
from scenarios.studies.axes import Label
from scenarios.studies.definition import Definition, define_plain
from scenarios.studies.engine import Row
from scenarios.studies.errors import StudyError
from scenarios.studies.schema import MinCostSection
from scenarios.studies.store import ANSWER, MANIFEST, POINTS, RESULTS, point_row, read_frame
from scenarios.studies.study import QUESTIONS
from scenarios.studies.sweep import Question

AGAIN = "run the study again with --resume"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StudyFiles:
    """A study that was run, or a part of it.

    Attributes:
        path: The directory.
        manifest: ``study.json``.
        question: The question; its ``definition`` has the cells, the seeds and the study's file.
        rows: The runs, by cell, seed, rate and cluster; placements that were only planned are not among them.
        answers: The answer's rows, one a cell; of a study that has not finished, as far as ``rows`` tell it.
        finished: Whether the study came to its end.
        damaged: Files of points that cannot be read.
        strays: Points that belong to no cell: the study's axes were others when they were run.
    """

    path: Path
    manifest: Mapping[str, Any]
    question: Question
    rows: tuple[Row, ...]
    answers: tuple[Row, ...]
    finished: bool
    damaged: tuple[Path, ...] = ()
    strays: int = 0

    @property
    def definition(self) -> Definition:
        """What was asked."""
        return self.question.definition

    @property
    def kind(self) -> str:
        """The question's kind."""
        return self.definition.section.question.kind

    @property
    def currency(self) -> str:
        """Of prices; empty without a price table."""
        prices = self.definition.section.prices
        return "" if prices is None else prices.currency

    @property
    def failed(self) -> list[Row]:
        """Runs that failed."""
        return [row for row in self.rows if row["status"] == "failed"]

    @property
    def versions(self) -> dict[str, str]:
        """Versions of what can change a figure."""
        found = self.manifest.get("versions")
        return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}

    def labels(self, row: Row) -> Mapping[str, Label]:
        """Axis -> value, of a run's or an answer's cell."""
        return self.definition.cells[row["cell"]].labels


def is_study(path: Path) -> bool:
    """Whether a directory is, or was to become, one of a study."""
    return (path / MANIFEST).is_file() or (path / POINTS).is_dir()


def read_study_files(path: Path) -> StudyFiles:
    """Look into a study directory.

    Raises:
        ScenarioError: It is none, nothing is in it yet, or a file is damaged.
    """
    if not (path / MANIFEST).is_file():
        raise _problem(
            path, f"this is no study directory: {MANIFEST} is missing", "name one that `helixemu study` wrote"
        )
    manifest = read_json(path / MANIFEST, AGAIN)
    question = _question(path / MANIFEST, manifest)
    finished = (path / RESULTS).is_file() and (path / ANSWER).is_file()
    damaged: list[Path] = []
    rows = _table(path / RESULTS) if finished else _points(path / POINTS, damaged)
    by_place = {_place(question.definition, row): row for row in rows if _belongs(question.definition, row, path)}
    known = [by_place[place] for place in sorted(by_place)]
    if not known:
        rule = "the study has no finished points yet" if not damaged else "the study's points are damaged, all of them"
        raise _problem(path, rule, AGAIN)
    try:
        answers = _table(path / ANSWER) if finished else question.so_far(known)
    except StudyError as error:
        raise _problem(path, str(error), "correct the study's question") from None
    _check_answers(path / ANSWER, answers, question.definition)
    return StudyFiles(
        path=path,
        manifest=manifest,
        question=question,
        rows=tuple(known),
        answers=tuple(answers),
        finished=finished,
        damaged=tuple(damaged),
        strays=len(rows) - len(known),
    )


def study_file(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The study as one file would have it: the scenario, changed by overrides and ``set``, in its place."""
    kept = {key: value for key, value in manifest["study"].items() if key not in ("overrides", "set")}
    return {**kept, "scenario": manifest["scenario"]}


def _question(path: Path, manifest: Mapping[str, Any]) -> Question:
    for key in ("study", "scenario"):
        if not isinstance(manifest.get(key), dict):
            raise _problem(path, f"{key} is missing", AGAIN)
    try:
        definition = define_plain(study_file(manifest))
    except ScenarioError as error:
        raise _problem(
            path, f"the study in it is none of this version: {error}", "use the version that made it"
        ) from None
    return QUESTIONS[definition.section.question.kind](definition)


def _table(path: Path) -> list[Row]:
    return read_frame(path).to_dicts()


def _points(folder: Path, damaged: list[Path]) -> list[Row]:
    """The rows of all points' files, of several for the same work the latest."""
    found: list[tuple[int, Path, Row]] = []
    for file in sorted(folder.glob("[!.]*.parquet")):
        try:
            row = point_row(file.read_bytes(), file.stem)
            modified = file.stat().st_mtime_ns
        except OSError as error:
            raise _problem(file, f"it cannot be read: {error.strerror}", "check its permissions") from error
        if row is None:
            damaged.append(file)
        elif row.get("status") != "planned":
            found.append((modified, file, row))
    return [row for _, _, row in sorted(found, key=lambda each: each[:2])]


def _belongs(definition: Definition, row: Row, path: Path) -> bool:
    """Whether a run is of one of the study's cells, and has what all runs have."""
    cell, status = row.get("cell"), row.get("status")
    if not isinstance(row.get("point"), str) or not isinstance(cell, int) or status not in ("ok", "failed"):
        raise _problem(path, "its results are not those of a study: point, cell or status is missing", AGAIN)
    if not 0 <= cell < len(definition.cells):
        return False
    if definition.seeds is not None and row.get("seed") not in definition.seeds:
        return False
    further = (*_catalogue(definition), *(("rate",) if definition.section.question.kind == "max_rate" else ()))
    return all(row.get(name) is not None for name in further) and all(
        name in row and _same(row[name], label) for name, label in definition.cells[cell].labels.items()
    )


def _same(value: object, label: Label) -> bool:
    """Whether a column holds this label: in one that mixes text and numbers, numbers are written as text."""
    texts = [one if isinstance(one, str) else json.dumps(one) for one in (value, label)]
    return value == label or texts[0] == texts[1]


def _catalogue(definition: Definition) -> tuple[str, ...]:
    question = definition.section.question
    return tuple(question.catalogue) if isinstance(question, MinCostSection) else ()


def _place(definition: Definition, row: Row) -> tuple[Any, ...]:
    """Where a run stands among the others; no two of one study stand at the same place."""
    seed = definition.seeds.index(row["seed"]) if definition.seeds is not None else 0
    return (row["cell"], seed, row.get("rate") or 0.0, *(row[name] for name in _catalogue(definition)))


def _check_answers(path: Path, answers: Sequence[Row], definition: Definition) -> None:
    for row in answers:
        if not isinstance(row.get("cell"), int) or not 0 <= row["cell"] < len(definition.cells):
            raise _problem(path, "its rows are not those of the study's cells", AGAIN)


def _problem(path: Path, rule: str, remedy: str) -> ScenarioError:
    return ScenarioError(Problem(str(path), None, "", None, rule, remedy))
