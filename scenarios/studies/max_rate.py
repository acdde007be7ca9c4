"""The greatest request rate that meets the conditions."""

from __future__ import annotations

import json
import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace

from scenarios.expect import Expectation
from scenarios.studies.axes import Cell
from scenarios.studies.engine import Row, Search, Steps, by, figure
from scenarios.studies.points import PLAN_COLUMN, Point
from scenarios.studies.schema import MaxRateSection
from scenarios.studies.sweep import Prepared, Question
from scenarios.tree import Plain


def meets(row: Row, conditions: Sequence[Expectation]) -> bool:
    """Whether a point meets all conditions; one that failed, or measured nothing, does not.

    Raises:
        StudyError: Points have no such figure.
    """
    return row["status"] == "ok" and all(each.holds(figure(row, each.figure)) for each in conditions)


class MaxRate(Question):
    """For each seed: double the rate until it fails, then halve the interval in logarithms.

    Every seed gets its own greatest rate; their mean has a confidence interval. The same seed gives the same arrivals
    at every rate, only closer together, and the same to every cell, so differences between cells are those of the
    cells. A placement is planned once for each seed, so that rates are compared on one and the same. A rate is taken
    to fail above one that failed.
    """

    @property
    def section(self) -> MaxRateSection:
        """What is asked."""
        section = self.definition.section.question
        assert isinstance(section, MaxRateSection)
        return section

    def searches(self) -> Iterator[Search]:
        """One for each cell and seed."""
        span = math.log2(self.section.stop / self.section.start)
        expected = 2 + round(span / 2 + math.log2(1 / math.log2(1 + self.section.tolerance)))
        for cell in self.definition.cells:
            for seed in self.seeds:
                yield Search(steps=self._steps(cell, seed), expected=expected)

    def _steps(self, cell: Cell, seed: int | None) -> Steps:
        prepared = yield from self._planned(self.prepare(cell), seed)
        low, high, points, error = None, None, 0, ""
        while not self._settled(low, high):
            rate = self._next(low, high)
            [row] = yield [self._probe(prepared, seed, rate)]
            points += 1
            error = error or str(row["error"] or "")
            low, high = (rate, high) if meets(row, self.definition.meets) else (low, rate)
        return {"cell": cell.number, "seed": seed, "low": low, "high": high, "points": points, "error": error}

    def _settled(self, low: float | None, high: float | None) -> bool:
        """Whether a search is over: of the greatest rate that meets the conditions and the lowest that does not."""
        if low is None:
            return high is not None
        return low == self.section.stop if high is None else high / low <= 1 + self.section.tolerance

    def _next(self, low: float | None, high: float | None) -> float:
        """The rate to try next."""
        if low is None:
            return self.section.start
        return min(2 * low, self.section.stop) if high is None else _between(low, high)

    def _planned(self, prepared: Prepared, seed: int | None) -> Generator[list[Point], list[Row], Prepared]:
        """The cell with the placement that all rates of a seed share, planned at the lowest rate."""
        scenario = prepared.scenario
        if scenario is None or not scenario.plans:
            return prepared
        path = tuple(self.section.path.split("."))
        [row] = yield [replace(self.point(prepared, seed, {path: self.section.start}), kind="plan")]
        if row["status"] == "failed":
            return replace(prepared, scenario=None, error=str(row["error"]))
        placement: Plain = json.loads(str(row[PLAN_COLUMN]))
        placed = replace(scenario, plain=scenario.changed({("placement",): placement}), plans=False)
        return replace(prepared, scenario=placed)

    def _probe(self, prepared: Prepared, seed: int | None, rate: float) -> Point:
        path = tuple(self.section.path.split("."))
        return self.point(prepared, seed, {path: rate}, {"rate": rate})

    def finish(self, answers: list[Row], rows: Sequence[Sequence[Row]]) -> list[Row]:
        """The answer: a row a cell.

        ``max_rate`` is the mean over seeds of the greatest rate that met the conditions (0 where not even the lowest
        did), ``bounds`` says whether the range was too narrow to tell.
        """
        result: list[Row] = []
        for cell in self.definition.cells:
            found = [answer for answer in answers if answer["cell"] == cell.number]
            lows = [0.0 if answer["low"] is None else answer["low"] for answer in found]
            row: Row = self.columns(cell)
            row |= self.answer_columns("max_rate", self.interval(lows))
            row["max_rate.min"], row["max_rate.max"] = min(lows, default=None), max(lows, default=None)
            below = sum(answer["low"] is None for answer in found)
            above = sum(answer["high"] is None for answer in found)
            notes = [f"{below} seeds below {self.section.start:g}"] * (below > 0)
            notes += [f"{above} seeds above {self.section.stop:g}"] * (above > 0)
            row["bounds"] = ", ".join(notes)
            row["seeds"], row["points"] = len(found), sum(answer["points"] for answer in found)
            row["error"] = next((answer["error"] for answer in found if answer["error"]), None)
            result.append(row)
        return result

    def so_far(self, rows: Sequence[Row]) -> list[Row]:
        """Of the searches that came to their end; what others found so far would make the mean too low."""
        answers: list[Row] = []
        for (cell, seed), tried in by(rows, lambda row: (row["cell"], row.get("seed"))).items():
            good = [meets(row, self.definition.meets) for row in tried]
            low = max((row["rate"] for row, met in zip(tried, good, strict=True) if met), default=None)
            high = min((row["rate"] for row, met in zip(tried, good, strict=True) if not met), default=None)
            if self._settled(low, high):
                error = next((str(row["error"]) for row in tried if row["error"]), "")
                answers.append(
                    {"cell": cell, "seed": seed, "low": low, "high": high, "points": len(tried), "error": error}
                )
        return self.finish(answers, [])


def _between(low: float, high: float) -> float:
    """The geometric middle, in six figures as far as they tell it from both ends."""
    middle = math.sqrt(low * high)
    rounded = float(f"{middle:.6g}")
    return rounded if low < rounded < high else middle
