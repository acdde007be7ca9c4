from __future__ import annotations

import io
import resource
import signal
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from scenarios.errors import ScenarioError
from scenarios.studies.errors import StudyError
from scenarios.studies.store import ANSWER, MANIFEST, RESULTS, Store, frame, read_frame

MANIFEST_OF: dict[str, Any] = {"name": "a", "code_version": "1"}
ROW: dict[str, Any] = {"point": "p1", "cell": 0, "load": 1.5, "planner": "x", "status": "ok", "error": None, "n": 3}


def store(path: Path, *, resume: bool = False, **keys: str) -> Store:
    return Store(path, {**MANIFEST_OF, **keys}, resume=resume)


def test_a_point_comes_back_as_it_was(tmp_path: Path) -> None:
    with store(tmp_path) as kept:
        kept.add(ROW)
        assert kept.known("p1") == ROW
        assert kept.known("p2") is None
    with store(tmp_path, resume=True) as again:
        assert again.known("p1") == ROW
        assert again.damaged == []


def test_results_need_resume_and_the_same_study_and_code(tmp_path: Path) -> None:
    store(tmp_path).__exit__(None, None, None)
    for keys, told in (({}, "--resume"), ({"name": "b"}, "study a"), ({"code_version": "2"}, "other code")):
        with pytest.raises(ScenarioError, match=told):
            store(tmp_path, resume=bool(keys), **keys)
    (tmp_path / MANIFEST).write_text("{")
    with pytest.raises(ScenarioError, match="cannot be read"):
        store(tmp_path, resume=True)


def test_two_studies_do_not_write_to_one_directory(tmp_path: Path) -> None:
    with store(tmp_path), pytest.raises(ScenarioError, match="another study"):
        store(tmp_path, resume=True)


@pytest.mark.parametrize("length", [0, 1, 100, -1, -9])
def test_a_file_that_was_cut_short_is_moved_aside(tmp_path: Path, length: int) -> None:
    with store(tmp_path) as kept:
        kept.add(ROW)
        path = tmp_path / "points" / "p1.parquet"
        path.write_bytes(path.read_bytes()[:length])
        assert kept.known("p1") is None
        assert [each.name for each in kept.damaged] == ["p1.damaged"]
        kept.add(ROW)
        assert kept.known("p1") == ROW


def test_a_file_with_another_points_row_is_not_taken_for_it(tmp_path: Path) -> None:
    with store(tmp_path) as kept:
        kept.add(ROW)
        (tmp_path / "points" / "p1.parquet").rename(tmp_path / "points" / "p2.parquet")
        assert kept.known("p2") is None
        assert kept.damaged


def test_a_write_that_fails_keeps_what_is_there_and_says_what_to_do(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with store(tmp_path) as kept:
        kept.add(ROW)
        before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))
        try:
            with pytest.raises(StudyError, match=r"1 finished points are kept .* --resume"):
                kept.add({**ROW, "point": "p2"})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, before)
        assert kept.known("p1") == ROW
        assert [path.name for path in (tmp_path / "points").iterdir()] == ["p1.parquet"]


def test_columns_have_the_narrowest_type_and_null_where_a_row_lacks_them() -> None:
    table = frame([{"a": 1, "b": 1, "c": "x", "d": None}, {"a": 2, "b": 0.5, "c": 3, "e": True}])
    assert table.schema == {"a": pl.Int64, "b": pl.Float64, "c": pl.String, "d": pl.Float64, "e": pl.Boolean}
    assert table.rows() == [(1, 1.0, "x", None, None), (2, 0.5, "3", None, True)]


def test_the_tables_at_the_end_lack_what_differs_every_time(tmp_path: Path) -> None:
    with store(tmp_path) as kept:
        kept.finish([{**ROW, "run.wall_s": 3.0}], [{"cell": 0, "n": 3.0}])
    assert "run.wall_s" not in read_frame(tmp_path / RESULTS).columns
    assert read_frame(tmp_path / ANSWER).rows() == [(0, 3.0)]
    # Plain Parquet, for whatever else reads it.
    assert pl.read_parquet(io.BytesIO((tmp_path / RESULTS).read_bytes())).height == 1
    (tmp_path / ANSWER).write_bytes(b"PAR1")
    with pytest.raises(ScenarioError, match="damaged"):
        read_frame(tmp_path / ANSWER)
    with pytest.raises(ScenarioError, match="cannot be read"):
        read_frame(tmp_path / "none.parquet")
