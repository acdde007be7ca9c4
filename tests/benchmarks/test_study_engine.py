"""Throughput of the study engine: local processes and Dask; overhead of a point; how busy workers are kept.

python -m pytest tests/benchmarks/test_study_engine.py -m benchmark -s
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from dask_cluster import dask
from study_runs import TINY, HereExecutor, tiny_study

from scenarios.studies.study import Study, StudyResult

pytestmark = pytest.mark.benchmark

LONG, SHORT = 10, 200
LOAD = "workload.synthetic.requests_per_s"


def long_study(seconds: float) -> dict[str, Any]:
    """Points of several seconds each."""
    return tiny_study(scenario={**TINY, "duration": f"{seconds:.0f} s"}, set={LOAD: 8.0}, seeds=LONG)


def point_s(result: StudyResult) -> float:
    return sum(row["run.wall_s"] for row in result.rows)


def shown(what: str, result: StudyResult, elapsed_s: float, workers: int) -> None:
    cpu_s = sum(row["run.cpu_s"] for row in result.rows)
    busy = point_s(result) / (workers * elapsed_s)
    print(
        f"\n{what}: {len(result.rows)} points in {elapsed_s:.1f} s, {cpu_s / len(result.rows):.2f} CPU s a point, "
        f"{3600 * len(result.rows) / cpu_s:.0f} points per CPU hour, workers busy {busy:.1%}"
    )


def test_local_processes_and_dask(tmp_path: Path) -> None:
    trial = Study(tiny_study(scenario={**TINY, "duration": "200 s"}, set={LOAD: 8.0})).run(HereExecutor())
    study = Study(long_study(200.0 * 5.5 / trial.rows[0]["run.cpu_s"]))
    elapsed: dict[str, float] = {}
    for what, workers in (("1 process", 1), ("2 processes", 2)):
        begun_s = time.perf_counter()
        result = study.run(processes=workers, out=tmp_path / what)
        elapsed[what] = time.perf_counter() - begun_s
        shown(what, result, elapsed[what], workers)
    print(f"2 processes against 1: efficiency {elapsed['1 process'] / elapsed['2 processes'] / 2:.1%}")
    with dask(tmp_path / "dask") as cluster:
        begun_s = time.perf_counter()
        result = study.run(scheduler=cluster.address, out=tmp_path / "dask-out")
        shown("Dask, 2 workers", result, time.perf_counter() - begun_s, 2)


def test_overhead_of_a_point(tmp_path: Path) -> None:
    """What is not the emulation itself: making the scenario, sending it, loading it, writing its file."""
    study = Study(tiny_study(axes={"load": {"path": LOAD, "range": {"from": 0.5, "to": 2, "steps": SHORT}}}))
    cpu_s, begun_s = time.process_time(), time.perf_counter()
    result = study.run(HereExecutor(), out=tmp_path / "here")
    cpu_s, elapsed_s = time.process_time() - cpu_s, time.perf_counter() - begun_s
    load_s = sum(row["run.load_cpu_s"] for row in result.rows)
    engine_s = cpu_s - sum(row["run.cpu_s"] for row in result.rows)
    print(
        f"\none process: {SHORT} points in {elapsed_s:.1f} s ({cpu_s:.1f} CPU s); a point costs the engine "
        f"{1e3 * engine_s / SHORT:.1f} CPU ms, and loading and planning its scenario {1e3 * load_s / SHORT:.1f} CPU ms"
    )
    begun_s = time.perf_counter()
    result = study.run(processes=2, out=tmp_path / "two")
    elapsed_s = time.perf_counter() - begun_s
    print(
        f"2 processes, their start included: {1e3 * (2 * elapsed_s - point_s(result)) / SHORT:.1f} ms a point "
        "beside loading and emulating"
    )
