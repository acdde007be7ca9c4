"""What all questions begin with, cells and their points, and the two that need no search: sweep and compare."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from scenarios.changes import Change
from scenarios.errors import ScenarioError
from scenarios.studies.axes import Cell, Label, label_of, si_columns, si_value
from scenarios.studies.cells import CellScenario, ScenarioMaker
from scenarios.studies.definition import Definition
from scenarios.studies.engine import Row, Search, Steps, figure
from scenarios.studies.figures import Figure
from scenarios.studies.points import Point
from scenarios.studies.prices import PriceTable, price_table
from scenarios.studies.schema import CompareSection, ConfidenceSection, SweepSection
from scenarios.studies.statistics import Interval, interval, paired
from scenarios.tree import Plain

ABSENT = "absent"
"""Status of a run that a study which was stopped has not got."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A cell that can run, or why it cannot.

    Attributes:
        cell: The cell.
        columns: Its coordinates.
        scenario: Its scenario; ``None`` if there is none.
        error: Why.
    """

    cell: Cell
    columns: Mapping[str, Figure]
    scenario: CellScenario | None = None
    error: str = ""


@dataclass(slots=True)
class Question:
    """What questions share.

    Args:
        definition: The study.
    """

    definition: Definition
    maker: ScenarioMaker = field(init=False)
    _si: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.maker = ScenarioMaker(self.definition.root)
        self._si = si_columns(self.definition.cells)

    @property
    def confidence(self) -> ConfidenceSection:
        """How intervals are made."""
        return self.definition.section.confidence

    @property
    def prices(self) -> PriceTable | None:
        """What points cost; ``None`` without prices."""
        section = self.definition.section.prices
        return None if section is None else price_table(section)

    @property
    def seeds(self) -> Sequence[int | None]:
        """Seeds of a cell; one ``None`` where an axis has them."""
        return self.definition.seeds if self.definition.seeds is not None else (None,)

    def columns(self, cell: Cell) -> dict[str, Figure]:
        """A cell's coordinates: its number, its axes, and quantities in SI units beside them."""
        columns: dict[str, Figure] = {"cell": cell.number}
        for name, label in cell.labels.items():
            columns[name] = label
            if name in self._si and (value := si_value(label)) is not None:
                columns[self._si[name]] = value[0]
        return columns

    def prepare(
        self, cell: Cell, further: tuple[Change, ...] = (), columns: Mapping[str, Figure] | None = None
    ) -> Prepared:
        """A cell's scenario.

        Args:
            cell: The cell.
            further: Changes beside the cell's.
            columns: Coordinates beside the cell's.
        """
        prepared = Prepared(cell=cell, columns={**self.columns(cell), **(columns or {})})
        try:
            return replace(prepared, scenario=self.maker.make(cell, further))
        except ScenarioError as error:
            return replace(prepared, error=str(error))

    def point(
        self,
        prepared: Prepared,
        seed: int | None,
        changes: Mapping[tuple[str, ...], Plain] | None = None,
        columns: Mapping[str, Figure] | None = None,
    ) -> Point:
        """One run of a cell."""
        coordinates: dict[str, Figure] = {**prepared.columns, **(columns or {})}
        seeded: dict[tuple[str, ...], Plain] = {}
        if seed is not None:
            coordinates["seed"] = seed
            seeded[("seed",)] = seed
        if prepared.scenario is None:
            return Point(coordinates=coordinates, scenario={}, error=prepared.error)
        scenario = prepared.scenario.changed({**(changes or {}), **seeded})
        return Point(coordinates=coordinates, scenario=scenario, traces=prepared.scenario.traces)

    def interval(self, values: Sequence[float]) -> Interval:
        """Mean over seeds with its confidence interval."""
        return interval(values, level=self.confidence.level, method=self.confidence.method)

    def answer_columns(self, name: str, found: Interval) -> dict[str, Figure]:
        """An interval as columns of the answer."""
        return {name: found.mean, f"{name}.low": found.low, f"{name}.high": found.high}

    def searches(self) -> Iterator[Search]:
        """The chains of points that answer it, in order."""
        raise NotImplementedError

    def finish(self, answers: list[Row], rows: Sequence[Sequence[Row]]) -> list[Row]:
        """The answer's rows, one a cell.

        Args:
            answers: What the searches returned, in order.
            rows: The runs of each search.
        """
        return answers

    def so_far(self, rows: Sequence[Row]) -> list[Row]:
        """The answer's rows as far as these runs tell it, for a study that has not finished.

        Args:
            rows: Finished runs, in any order.

        Raises:
            StudyError: They lack a figure that was asked for.
        """
        raise NotImplementedError

    def check_first(self) -> None:
        """A study whose first and last cell are both wrong is wrong itself.

        Raises:
            ScenarioError: What is wrong.
        """
        cells = self.definition.cells
        try:
            self.maker.make(cells[0])
        except ScenarioError:
            self.maker.make(cells[-1])


class Sweep(Question):
    """Every cell with every seed."""

    def searches(self) -> Iterator[Search]:
        """One for each cell."""
        for cell in self.definition.cells:
            yield Search(steps=self._steps(cell), expected=len(self.seeds))

    def _steps(self, cell: Cell) -> Steps:
        prepared = self.prepare(cell)
        rows = yield [self.point(prepared, seed) for seed in self.seeds]
        return self._answer(cell, rows)

    def _answer(self, cell: Cell, rows: Sequence[Row]) -> Row:
        section = self.definition.section.question
        assert isinstance(section, SweepSection | CompareSection)
        run = [row for row in rows if row["status"] != ABSENT]
        answer: Row = {**self.columns(cell), "seeds": len(run), "failed": sum(row["status"] != "ok" for row in run)}
        for name in section.figures:
            values = [value for row in rows if (value := figure(row, name)) is not None]
            answer |= self.answer_columns(name, self.interval(values))
        cuts = list(dict.fromkeys(row["min_cut_kinds"] for row in rows if row["status"] == "ok"))
        answer["min_cut_kinds"] = ", ".join(cuts) or None
        return answer

    def so_far(self, rows: Sequence[Row]) -> list[Row]:
        """Means of the seeds that are there; cells without any have no figures."""
        found = {(row["cell"], row.get("seed")): row for row in rows}
        absent: Row = {"status": ABSENT}
        by_cell = []
        for cell in self.definition.cells:
            # Where an axis is the seed, each has a cell of its own.
            seeds = [cell.labels.get("seed") if seed is None else seed for seed in self.seeds]
            by_cell.append([found.get((cell.number, seed), absent) for seed in seeds])
        answers = [self._answer(cell, rows) for cell, rows in zip(self.definition.cells, by_cell, strict=True)]
        return self.finish(answers, by_cell)


class Compare(Sweep):
    """Every cell with every seed, and differences from a baseline seed by seed."""

    def finish(self, answers: list[Row], rows: Sequence[Sequence[Row]]) -> list[Row]:
        """The answer: a row a cell, with the paired difference of each figure from its baseline."""
        section = self.definition.section.question
        assert isinstance(section, CompareSection)
        numbers = {tuple(cell.labels.values()): cell.number for cell in self.definition.cells}
        for answer, cell in zip(answers, self.definition.cells, strict=True):
            wanted: dict[str, Label] = {**cell.labels, **_labels(section.baseline)}
            other = numbers.get(tuple(wanted.values()))
            answer["baseline"] = other == cell.number
            for name in section.figures:
                pairs = [] if other is None else _pairs(rows[cell.number], rows[other], name)
                difference = paired(
                    [first for first, _ in pairs],
                    [second for _, second in pairs],
                    level=self.confidence.level,
                    method=self.confidence.method,
                )
                answer |= self.answer_columns(f"{name}.difference", difference)
                base = interval([second for _, second in pairs]).mean
                share = difference.mean / base if base and difference.mean is not None else None
                answer[f"{name}.difference_share"] = share
        return answers


def _labels(baseline: Mapping[str, object]) -> dict[str, Label]:
    return {name: label_of(value) for name, value in baseline.items()}


def _pairs(rows: Sequence[Row], others: Sequence[Row], name: str) -> list[tuple[float, float]]:
    """Values of one figure on the same seeds, where both cells have one."""
    found = [(figure(row, name), figure(other, name)) for row, other in zip(rows, others, strict=True)]
    return [(first, second) for first, second in found if first is not None and second is not None]
