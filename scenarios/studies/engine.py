"""Sends points to workers and keeps what comes back, whatever happens to workers, disk and study meanwhile."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from scenarios.studies.code_version import code_version
from scenarios.studies.errors import StudyError, VersionMismatchError
from scenarios.studies.executors import Workers
from scenarios.studies.figures import Figure
from scenarios.studies.points import Done, Point, Task, execute
from scenarios.studies.prices import PriceTable
from scenarios.studies.store import CLOCKED, Store

Row: TypeAlias = dict[str, Any]
Key = TypeVar("Key", bound=Hashable)
Steps: TypeAlias = Generator[list[Point], list[Row], Row | None]
"""Yields points, gets their rows in the same order, and returns its row of the answer, if it has one."""

LOOK_S = 1.0
"""How often the engine looks whether workers that are silent are still there."""
SUSPECT = 2
"""A point under way when this many pools broke is run alone next, to see whether it is the one that kills processes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """One chain of points of which the later ones depend on the earlier ones.

    Attributes:
        steps: The chain.
        expected: About how many points it takes; for the progress bar.
    """

    steps: Steps
    expected: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyProgress:
    """How far a study is.

    Attributes:
        done: Points that are finished, out of ``total``.
        total: Points expected; a question that searches may need fewer.
        failed: Points that failed.
        kept: Points that were finished before.
    """

    done: int
    total: int
    failed: int
    kept: int


@dataclass(slots=True)
class _Running:
    """A search under way: the batch that it waits for."""

    search: Search
    number: int
    names: list[str] = field(default_factory=list)
    missing: int = 0


class Engine:
    """Runs the points of searches.

    Args:
        workers: Who runs them.
        store: Where results are kept; nowhere without one.
        figures: Further figures of each point.
        prices: Price table.
        on_progress: Called after every point.

    Attributes:
        rows: For each search, the rows of its runs in the order in which it asked for them.
        kept: Points that the store had already.
    """

    def __init__(
        self,
        workers: Workers,
        store: Store | None = None,
        *,
        figures: Sequence[str] = (),
        prices: PriceTable | None = None,
        on_progress: Callable[[StudyProgress], None] | None = None,
    ) -> None:
        self._workers, self._store = workers, store
        self._figures, self._prices = tuple(figures), prices
        self._settings = f"{self._figures!r} {prices!r}"
        self._on_progress = on_progress
        self.rows: dict[int, list[Row]] = {}
        self.kept = 0
        self._finished: dict[str, Row] = {}
        self._points: dict[str, Point] = {}
        self._waiting: dict[str, list[_Running]] = {}
        self._ready: deque[str] = deque()
        self._suspects: deque[str] = deque()
        self._flying: dict[Future[Done], str] = {}
        self._breaks: dict[str, int] = {}
        self._answers: dict[int, Row | None] = {}
        self._done = self._failed = self._total = 0

    def run(self, searches: Sequence[Search]) -> list[Row]:
        """Run all searches.

        Returns:
            Their answers, in order, those without one left out.

        Raises:
            StudyError: The study cannot go on. What is finished is in the store.
        """
        self._total = sum(search.expected for search in searches)
        upcoming = deque(enumerate(searches))
        while upcoming or self._waiting:
            # Chains that are started late hold no points meanwhile.
            while upcoming and len(self._ready) + len(self._flying) < 2 * self._workers.count:
                number, search = upcoming.popleft()
                self._start(_Running(search, number))
            self._send()
            if self._flying:
                self._collect()
        return [answer for number in sorted(self._answers) if (answer := self._answers[number]) is not None]

    # ------------------------------------------------------------------------------------------------- searches

    def _start(self, running: _Running) -> None:
        self.rows[running.number] = []
        self._advance(running, None)

    def _advance(self, running: _Running, rows: list[Row] | None) -> None:
        """Give a search what it asked for, until it has to wait for something that is not finished."""
        while True:
            try:
                batch = next(running.search.steps) if rows is None else running.search.steps.send(rows)
            except StopIteration as end:
                self._answers[running.number] = end.value
                self._told()
                return
            running.names = [self._asked(point) for point in batch]
            missing = list(dict.fromkeys(name for name in running.names if name not in self._finished))
            if missing:
                running.missing = len(missing)
                for name in missing:
                    self._waiting.setdefault(name, []).append(running)
                return
            rows = self._rows_of(running)

    def _rows_of(self, running: _Running) -> list[Row]:
        rows = [self._finished[name] for name in running.names]
        kept = self.rows[running.number]
        kept += [row for row in rows if row["status"] != "planned"]
        return rows

    def _asked(self, point: Point) -> str:
        """The point's name; it is finished, under way, or ready to be sent afterwards."""
        name = point.identity(self._settings)
        if name in self._finished or name in self._points:
            return name
        row = None if self._store is None else self._store.known(name)
        if row is not None:
            self.kept += 1
            self._finish(name, row)
        elif point.error:
            self._points[name] = point
            self._add(Done(name=name, error=point.error))
        else:
            self._points[name] = point
            self._ready.append(name)
        return name

    def _finish(self, name: str, row: Row) -> None:
        self._finished[name] = row
        self._points.pop(name, None)
        self._done += 1
        self._failed += row["status"] == "failed"
        self._told()
        for running in self._waiting.pop(name, ()):
            running.missing -= 1
            if not running.missing:
                self._advance(running, self._rows_of(running))

    def _told(self) -> None:
        if self._on_progress is not None:
            total = max(self._total, self._done)
            self._on_progress(StudyProgress(done=self._done, total=total, failed=self._failed, kept=self.kept))

    # -------------------------------------------------------------------------------------------------- workers

    def _send(self) -> None:
        """Keep every worker busy; suspects go alone."""
        while self._ready and len(self._flying) < 2 * self._workers.count:
            if not self._submit(self._ready.popleft()):
                return
        if self._suspects and not self._flying:
            self._submit(self._suspects.popleft())

    def _submit(self, name: str) -> bool:
        """Whether the executor took it."""
        point = self._points[name]
        task = Task(
            name=name,
            point=point,
            code=code_version(),
            figures=self._figures,
            prices=self._prices,
            files={file: Path(file).read_bytes() for file in point.traces} if self._workers.remote else {},
        )
        try:
            self._flying[self._workers.executor.submit(execute, task)] = name
        except BrokenExecutor:
            # It broke since the last look; whoever is under way says so, too.
            self._ready.appendleft(name)
            self._broken([])
            return False
        return True

    def _collect(self) -> None:
        finished = wait(self._flying, timeout=LOOK_S, return_when=FIRST_COMPLETED).done
        if not finished:
            self._workers.check()
        lost: list[str] = []
        for future in [each for each in self._flying if each in finished]:
            name = self._flying.pop(future)
            try:
                done = future.result()
            except BrokenExecutor:
                lost.append(name)
                continue
            except CancelledError:
                self._workers.check()
                raise StudyError(self._stopped("the executor gave up a point")) from None
            except (VersionMismatchError, StudyError):
                raise
            except Exception as error:
                # Not the point's own doing, which comes back as a result: it could not be sent, or killed its worker.
                self._workers.check()
                done = Done(name=name, error=f"no worker could run it: {type(error).__name__}: {error}")
            self._add(done)
        if lost:
            self._broken(lost)

    def _broken(self, lost: list[str]) -> None:
        """A process was killed, and took the pool with it: run what was under way again."""
        alone = len(lost) == 1 and not self._flying and self._breaks.get(lost[0], 0) >= SUSPECT
        for future, name in list(self._flying.items()):
            if future.done() and not future.cancelled() and future.exception() is None:
                continue
            lost.append(name)
            del self._flying[future]
        self._workers.renew()
        if alone:
            self._add(Done(name=lost[0], error=f"its process was killed {SUSPECT + 1} times; is there enough memory?"))
            return
        for name in lost:
            self._breaks[name] = self._breaks.get(name, 0) + 1
            (self._suspects if self._breaks[name] >= SUSPECT else self._ready).append(name)

    def _add(self, done: Done) -> None:
        point = self._points[done.name]
        row: Row = {
            "point": done.name,
            **point.coordinates,
            "status": _status(done, point),
            "error": done.error or None,
        }
        doubles = [column for column in point.coordinates if column in done.figures]
        if doubles:
            raise StudyError(f"an axis is called {doubles[0]}, and so is a figure of every point; rename the axis")
        row |= done.figures
        row |= {f"{CLOCKED}{name}": value for name, value in done.clocked.items()}
        row[f"{CLOCKED}worker"] = done.worker
        if self._store is not None:
            self._store.add(row)
        self._finish(done.name, row)

    def _stopped(self, why: str) -> str:
        where = "" if self._store is None else f" in {self._store.path}: run the same command with --resume"
        return f"{why}; {len(self._finished)} finished points are kept{where}"


def _status(done: Done, point: Point) -> str:
    if done.error:
        return "failed"
    return "planned" if point.kind == "plan" else "ok"


def by(rows: Iterable[Row], key: Callable[[Row], Key]) -> dict[Key, list[Row]]:
    """Rows put together by what ``key`` says of them, in order of first appearance."""
    found: dict[Key, list[Row]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return found


def figure(row: Mapping[str, Figure], name: str) -> float | None:
    """A number of a row; ``None`` where the point failed or measured nothing.

    Raises:
        StudyError: Points have no such figure, or it is no number.
    """
    if row["status"] != "ok":
        return None
    if name not in row:
        from scenarios.library import suggestion

        raise StudyError(f"points have no figure {name}; {suggestion(name, [str(key) for key in row])}")
    value = row[name]
    if value is not None and not isinstance(value, int | float):
        raise StudyError(f"{name} is no number but {value!r}; name a figure that can be averaged")
    return value
