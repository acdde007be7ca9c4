"""Where results land, point by point, so that a study can be killed at any time.

A finished point is one small Parquet file of one row, written under another name, synchronised and renamed: it is there
whole or not at all. ``results.parquet`` and ``answer.parquet`` come at the end, made of those.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import polars as pl

from scenarios.errors import Problem, ScenarioError
from scenarios.studies.errors import StudyError
from scenarios.studies.figures import Figure

MANIFEST = "study.json"
RESULTS = "results.parquet"
ANSWER = "answer.parquet"
POINTS = "points"
CLOCKED = "run."
"""What columns begin with that differ every time: seconds of the clock, and who did it."""


class Store:
    """The results of one study.

    Args:
        path: Directory; made if need be.
        manifest: What the study is; of ``name`` and ``code_version`` a resumed one must have the same.
        resume: Whether finished points may be there already.

    Attributes:
        damaged: Files of points that could not be read; they were moved aside, and the points run again.

    Raises:
        ScenarioError: There is a study already, another one, none to resume, or the directory cannot be used.
    """

    def __init__(self, path: Path, manifest: Mapping[str, Any], *, resume: bool) -> None:
        self.path = path
        self.damaged: list[Path] = []
        try:
            (path / POINTS).mkdir(parents=True, exist_ok=True)
            self._lock = (path / ".lock").open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _problem(path, "another study is writing here", "wait for it, or name another directory") from None
        except OSError as error:
            raise _problem(path, f"cannot be written: {error.strerror}", "name another directory") from error
        before = self._check(manifest, resume)
        if before is not None and any(before.get(key) != manifest.get(key) for key in ("study", "scenario")):
            # They would answer another question than the manifest asks; points of both are kept.
            for name in (ANSWER, RESULTS):
                (path / name).unlink(missing_ok=True)
        self._write(MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())

    def _check(self, manifest: Mapping[str, Any], resume: bool) -> dict[str, Any] | None:
        """What the study was before, if there was one."""
        before: dict[str, Any] | None
        try:
            before = json.loads((self.path / MANIFEST).read_text(encoding="utf-8"))
        except FileNotFoundError:
            before = None
        except (OSError, ValueError):
            raise _problem(
                self.path / MANIFEST,
                "it cannot be read",
                "remove it to go on with --resume, if the points are of this code",
            ) from None
        if not resume:
            if before is not None or any((self.path / POINTS).iterdir()):
                raise _problem(self.path, "there are results already", "add --resume to go on, or name another one")
            return None
        if before is None:
            return None
        if before.get("name") != manifest["name"]:
            rule = f"these are the results of study {before.get('name')}"
            raise _problem(self.path, rule, "name another directory")
        if before.get("code_version") != manifest["code_version"]:
            rule = "its points were made by other code, and would not compare with new ones"
            raise _problem(self.path, rule, "name another directory, or go back to that version")
        return before

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.close()

    def known(self, point: str) -> dict[str, Any] | None:
        """A finished point's row, if there is one that can be read."""
        path = self._file(point)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        row = point_row(content, point)
        if row is not None:
            return row
        os.replace(path, path.with_suffix(".damaged"))
        self.damaged.append(path.with_suffix(".damaged"))
        return None

    def add(self, row: Mapping[str, Figure]) -> None:
        """Keep a finished point.

        Args:
            row: Its columns; ``point`` is its name.

        Raises:
            StudyError: It cannot be written: the disk is full, for instance.
        """
        self._write(f"{POINTS}/{row['point']}.parquet", _parquet([row]))

    def finish(self, rows: Sequence[Mapping[str, Figure]], answer: Sequence[Mapping[str, Figure]]) -> None:
        """Write all rows, in the study's order, and the answer; both the same whenever the study is run.

        Raises:
            StudyError: They cannot be written.
        """
        self._write(RESULTS, _parquet([_lasting(row) for row in rows]))
        self._write(ANSWER, _parquet(answer))

    def _file(self, point: str) -> Path:
        return self.path / POINTS / f"{point}.parquet"

    def _write(self, name: str, content: bytes) -> None:
        target = self.path / name
        part = target.with_name(f".{target.name}.part")
        try:
            with part.open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(part, target)
        except OSError as error:
            with contextlib.suppress(OSError):
                part.unlink()
            raise StudyError(self._told(target, error)) from error

    def _told(self, target: Path, error: OSError) -> str:
        finished = sum(1 for each in (self.path / POINTS).glob("*.parquet") if not each.name.startswith("."))
        what = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else f"{error.strerror}"
        what = "the file size limit is reached" if error.errno == errno.EFBIG else what
        return (
            f"{target} cannot be written: {what}; {finished} finished points are kept in {self.path}: "
            "make room, then run the same command with --resume"
        )


def frame(rows: Sequence[Mapping[str, Figure]]) -> pl.DataFrame:
    """Rows as a frame; columns in order of first appearance, null where a row lacks one."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = []
    for name in names:
        values = [row.get(name) for row in rows]
        kind = _type(values)
        if isinstance(kind, pl.String):
            # An axis may mix text and numbers.
            values = [value if value is None or isinstance(value, str) else json.dumps(value) for value in values]
        columns.append(pl.Series(name, values, dtype=kind))
    return pl.DataFrame(columns)


def point_row(content: bytes, point: str) -> dict[str, Any] | None:
    """A point's row from its file's content; ``None`` when that is damaged, or another point's."""
    try:
        # From memory: a file that is mapped and shrinks kills the process.
        rows = pl.read_parquet(io.BytesIO(content)).to_dicts()
    except (pl.exceptions.PolarsError, OSError, ValueError):
        return None
    return rows[0] if len(rows) == 1 and rows[0].get("point") == point else None


def read_frame(path: Path) -> pl.DataFrame:
    """A table that a study has written.

    Raises:
        ScenarioError: It is not there or cannot be read.
    """
    try:
        return pl.read_parquet(io.BytesIO(path.read_bytes()))
    except OSError as error:
        rule = f"it cannot be read: {error.strerror}"
        raise ScenarioError(
            Problem(str(path), None, "", None, rule, "name a directory that a study has written")
        ) from None
    except pl.exceptions.PolarsError as error:
        rule = f"it is damaged: {error}"
        raise ScenarioError(Problem(str(path), None, "", None, rule, "run the study again with --resume")) from None


def _type(values: Sequence[Figure]) -> pl.DataType:
    """The narrowest type that holds all values."""
    given = [value for value in values if value is not None]
    if given and all(isinstance(value, bool) for value in given):
        return pl.Boolean()
    if given and all(isinstance(value, int) and not isinstance(value, bool) for value in given):
        return pl.Int64()
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in given):
        return pl.Float64()
    return pl.String()


def _parquet(rows: Sequence[Mapping[str, Figure]]) -> bytes:
    buffer = io.BytesIO()
    frame(rows).write_parquet(buffer, compression="zstd", statistics=False)
    return buffer.getvalue()


def _lasting(row: Mapping[str, Figure]) -> dict[str, Figure]:
    return {name: value for name, value in row.items() if not name.startswith(CLOCKED)}


def _problem(path: Path, rule: str, remedy: str) -> ScenarioError:
    return ScenarioError(Problem("--out", None, "", str(path), rule, remedy))
