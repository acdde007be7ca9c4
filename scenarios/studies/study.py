"""A study, from its file to its table and answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from scenarios.results import versions
from scenarios.studies.code_version import code_version
from scenarios.studies.definition import Definition, define_plain, read_study
from scenarios.studies.engine import Engine, Row, StudyProgress
from scenarios.studies.executors import Executor, GivenWorkers, Workers, workers_for
from scenarios.studies.max_rate import MaxRate
from scenarios.studies.min_cost import MinCost
from scenarios.studies.store import CLOCKED, Store, frame
from scenarios.studies.sweep import Compare, Question, Sweep

if TYPE_CHECKING:
    import polars as pl

QUESTIONS: Mapping[str, type[Question]] = {"sweep": Sweep, "compare": Compare, "max_rate": MaxRate, "min_cost": MinCost}


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyResult:
    """What a study found.

    Attributes:
        name: The study's name.
        question: Its kind: sweep, compare, max_rate or min_cost.
        rows: One mapping a run, in the study's order: ``point``, ``cell``, axes, ``seed``, ``status``, ``error``,
            figures.
        answers: The answer's rows, one a cell.
        kept: Points that had been finished before.
        damaged: Result files that could not be read; their points were run again.
    """

    name: str
    question: str
    rows: tuple[Row, ...]
    answers: tuple[Row, ...]
    kept: int = 0
    damaged: tuple[Path, ...] = ()

    @property
    def table(self) -> pl.DataFrame:
        """All runs; the same whenever the study is run, by whomever."""
        return frame(
            [{name: value for name, value in row.items() if not name.startswith(CLOCKED)} for row in self.rows]
        )

    @property
    def answer(self) -> pl.DataFrame:
        """The answer: a row a cell, means over seeds with their confidence intervals (``.low``, ``.high``)."""
        return frame(self.answers)

    @property
    def failed(self) -> int:
        """Runs that failed; ``error`` in their rows says why."""
        return sum(row["status"] == "failed" for row in self.rows)


class Study:
    """A study that can be run.

    Args:
        study: Name in the library, path of a YAML file, or the file's content as plain data.

    Raises:
        ScenarioError: All that is wrong with it.

    Example:
        >>> study = Study({
        ...     "schema_version": 1, "kind": "study", "name": "links", "scenario": "small-6-geo-30b",
        ...     "axes": {"bandwidth": {"path": "cluster.network.regions.0.bandwidth",
        ...                            "values": ["50 Mbit/s", "200 Mbit/s"]}},
        ... })
        >>> study.run(processes=2).table.select("bandwidth", "decode_throughput_tokens_per_s")  # doctest: +SKIP
    """

    def __init__(self, study: str | Path | Mapping[str, Any]) -> None:
        self.definition: Definition = define_plain(study) if isinstance(study, Mapping) else read_study(study)

    @classmethod
    def of(cls, definition: Definition) -> Self:
        """A study that has been read already."""
        study = cls.__new__(cls)
        study.definition = definition
        return study

    @property
    def name(self) -> str:
        """Its name."""
        return self.definition.name

    def run(
        self,
        executor: Executor | None = None,
        *,
        processes: int | None = None,
        scheduler: str | None = None,
        out: Path | str | None = None,
        resume: bool = False,
        on_progress: Callable[[StudyProgress], None] | None = None,
    ) -> StudyResult:
        """Run all points and answer the question.

        Args:
            executor: Who runs points: any executor of :mod:`concurrent.futures`, or one alike. It is left open.
            processes: Number of local processes, by default one a core; with an executor, how many points it gets at a
                time are twice as many.
            scheduler: Without an executor: address of a Dask scheduler, for instance ``tcp://host:8786``.
            out: Directory for the results, kept point by point; without one they are only returned.
            resume: Whether points that are finished in ``out`` are taken from there.
            on_progress: Called after every point.

        Returns:
            The runs and the answer. The same study gives the same, whoever runs it.

        Raises:
            ScenarioError: The study or the directory cannot be used.
            StudyError: The study cannot go on; what is finished is kept, and the message says what to do.
        """
        with ExitStack() as stack:
            section = self.definition.section
            question = QUESTIONS[section.question.kind](self.definition)
            question.check_first()
            store = None if out is None else stack.enter_context(Store(Path(out), self._manifest(), resume=resume))
            workers: Workers = (
                stack.enter_context(workers_for(processes, scheduler))
                if executor is None
                else GivenWorkers(executor, processes)
            )
            engine = Engine(
                workers,
                store,
                figures=section.figures,
                prices=question.prices,
                on_progress=on_progress,
            )
            answers = engine.run(list(question.searches()))
            by_search = [engine.rows[number] for number in sorted(engine.rows)]
            answers = question.finish(answers, by_search)
            rows = list({row["point"]: row for found in by_search for row in found}.values())
            if store is not None:
                store.finish(rows, answers)
            return StudyResult(
                name=self.name,
                question=section.question.kind,
                rows=tuple(rows),
                answers=tuple(answers),
                kept=engine.kept,
                damaged=tuple(store.damaged) if store is not None else (),
            )

    def _manifest(self) -> dict[str, Any]:
        section = self.definition.section
        return {
            "name": self.name,
            "description": section.description,
            "question": section.question.kind,
            "axes": list(section.axes),
            "seeds": None if self.definition.seeds is None else list(self.definition.seeds),
            "currency": None if section.prices is None else section.prices.currency,
            "study": self.definition.tree.plain(),
            "scenario": self.definition.root.plain(),
            "source": str(self.definition.tree.origin.file),
            "code_version": code_version(),
            "versions": versions(),
        }
