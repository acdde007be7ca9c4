"""Studies over a real Dask scheduler with two worker processes, on loopback."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from dask_cluster import ROOT, dask, until
from study_runs import TINY, tiny_study

from scenarios.studies.errors import StudyError, VersionMismatchError
from scenarios.studies.store import RESULTS
from scenarios.studies.study import Study
from scenarios.yaml_text import dump_yaml

LOAD = "workload.synthetic.requests_per_s"


def helixemu(*words: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "scenarios.cli", "study", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(out: Path) -> int:
    return len(list((out / "points").glob("[!.]*.parquet")))


def test_dask_gives_the_same_table_and_survives_its_worker_and_its_scheduler(tmp_path: Path) -> None:
    points = 10
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


def test_nobody_at_the_address_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scenarios.studies.executors.CONNECT_S", 1.0)
    with pytest.raises(StudyError, match=r"no Dask scheduler answers at tcp://127.0.0.1:1 .*dask scheduler"):
        Study(tiny_study()).run(scheduler="tcp://127.0.0.1:1")
