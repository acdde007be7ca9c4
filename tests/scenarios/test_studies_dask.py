"""Studies over a real Dask scheduler with two worker processes, on loopback."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from study_runs import TINY, tiny_study

from scenarios.studies.errors import StudyError, VersionMismatchError
from scenarios.studies.store import RESULTS
from scenarios.studies.study import Study
from scenarios.yaml_text import dump_yaml

ROOT = Path(__file__).parents[2]
LOAD = "workload.synthetic.requests_per_s"
START_S = 90


def started(words: list[str], log: Path, path: Path = ROOT) -> subprocess.Popen[bytes]:
    """A process of Dask that finds our packages in ``path``."""
    environment = {**os.environ, "PYTHONPATH": str(path), "DASK_DISTRIBUTED__WORKER__DAEMON": "False"}
    with log.open("wb") as stream:
        return subprocess.Popen(
            [sys.executable, "-m", *words], stdout=stream, stderr=stream, env=environment, cwd=log.parent
        )


def until(condition: Any, what: str) -> None:
    deadline_s = time.monotonic() + START_S
    while not condition():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.05)


class DaskCluster:
    """A scheduler and its workers, all of which can be killed."""

    def __init__(self, folder: Path, packages: tuple[Path, ...] = (ROOT, ROOT)) -> None:
        self.folder = folder
        file = folder / "scheduler.json"
        common = ["--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", str(file)]
        self.scheduler = started(["distributed.cli.dask_scheduler", *common, "--port", "0"], folder / "scheduler.log")
        self.workers: list[subprocess.Popen[bytes]] = []
        until(file.exists, "the scheduler does not start")
        self.address = str(json.loads(file.read_text())["address"])
        for number, path in enumerate(packages):
            words = ["distributed.cli.dask_worker", *common, "--no-nanny", "--nthreads", "1"]
            words += ["--local-directory", str(folder / f"worker-{number}")]
            self.workers.append(started(words, folder / f"worker-{number}.log", path))

    def ready(self, count: int) -> None:
        """Wait for workers."""
        from distributed import Client

        with Client(self.address, timeout=START_S, set_as_default=False) as client:
            client.wait_for_workers(count, timeout=START_S)

    def close(self) -> None:
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()


@contextmanager
def dask(folder: Path, packages: tuple[Path, ...] = (ROOT, ROOT)) -> Iterator[DaskCluster]:
    folder.mkdir()
    cluster = DaskCluster(folder, packages)
    try:
        cluster.ready(len(packages))
        yield cluster
    finally:
        cluster.close()


def helixemu(*words: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "scenarios.cli", "study", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(out: Path) -> int:
    return len(list((out / "points").glob("[!.]*.parquet")))


def test_dask_gives_the_same_table_and_survives_its_worker_and_its_scheduler(tmp_path: Path) -> None:
    points = 12
    study = tiny_study(
        scenario={**TINY, "duration": "150 s"}, axes={"load": {"path": LOAD, "values": [4.0, 6.0]}}, seeds=points // 2
    )
    file = tmp_path / "study.yaml"
    file.write_text(dump_yaml(study))
    out = tmp_path / "out"
    with dask(tmp_path / "dask") as cluster:
        process = helixemu(file, "--out", out, "--scheduler", cluster.address)
        try:
            until(lambda: finished(out) >= 2 or process.poll() is not None, "no point is finished")
            # A worker is killed: the other one takes over what it had.
            cluster.workers[0].send_signal(signal.SIGKILL)
            before = finished(out)
            until(lambda: finished(out) >= before + 2 or process.poll() is not None, "the other worker does nothing")
            # The scheduler goes away.
            cluster.scheduler.send_signal(signal.SIGKILL)
            _, errors = process.communicate(timeout=120)
        finally:
            process.kill()
            process.wait()
    kept = finished(out)
    assert process.returncode == 1, errors
    assert f"the Dask scheduler at {cluster.address} went away" in errors
    assert "--resume" in errors
    assert "Traceback" not in errors, errors
    assert 4 <= kept < points
    # Nothing finished is lost, and local processes give what Dask's would have given.
    result = Study(file).run(processes=2, out=out, resume=True)
    assert result.kept == kept
    with dask(tmp_path / "again") as cluster:
        whole = Study(file).run(scheduler=cluster.address, out=tmp_path / "whole")
    assert whole.table.equals(result.table)
    assert (out / RESULTS).read_bytes() == (tmp_path / "whole" / RESULTS).read_bytes()
    workers = {row["run.worker"] for row in whole.rows}
    assert len(workers) == 2


def test_a_worker_with_other_code_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other"
    for package in ("emulator", "netshape", "placement", "scenarios"):
        shutil.copytree(ROOT / package, other / package, ignore=shutil.ignore_patterns("__pycache__"))
    with (other / "emulator" / "cluster.py").open("a", encoding="utf-8") as stream:
        stream.write("\n# Another version.\n")
    study = Study(tiny_study())
    with dask(tmp_path / "dask", (other,)) as cluster:
        with pytest.raises(VersionMismatchError, match="other code"):
            study.run(scheduler=cluster.address)
        # One that comes later is refused with its first point, by the worker itself.
        from distributed import Client

        with (
            Client(cluster.address, set_as_default=False) as client,
            client.get_executor(pure=False) as executor,
            pytest.raises(VersionMismatchError, match="install the same version"),
        ):
            study.run(executor, processes=1)


def test_nobody_at_the_address_is_told() -> None:
    with pytest.raises(StudyError, match=r"no Dask scheduler answers at tcp://127.0.0.1:1 .*dask scheduler"):
        Study(tiny_study()).run(scheduler="tcp://127.0.0.1:1")
