"""Studies in real processes: killed, resumed, on a disk that is full."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from study_runs import TINY, tiny_study

from scenarios.studies.executors import LocalWorkers
from scenarios.studies.store import ANSWER, RESULTS, read_frame
from scenarios.studies.study import Study
from scenarios.yaml_text import dump_yaml

LOAD = "workload.synthetic.requests_per_s"
POINTS = 12


def slow_study(**keys: Any) -> dict[str, Any]:
    """Twelve points of some tenths of a second each."""
    return tiny_study(
        scenario={**TINY, "duration": "100 s"},
        axes={"load": {"path": LOAD, "values": [4.0, 5.0, 6.0]}},
        seeds=POINTS // 3,
        **keys,
    )


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(dump_yaml(slow_study()))
    return path


def helixemu(*words: str | Path, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "scenarios.cli", "study", *map(str, words)]
    environment = {**os.environ, "COLUMNS": "160"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **options
    )


def finished(out: Path) -> list[Path]:
    return sorted((out / "points").glob("[!.]*.parquet"))


@contextmanager
def under_way(study: Path, out: Path, *words: str, least: int = 3) -> Iterator[subprocess.Popen[str]]:
    """A study that has finished some points (``least``) and not all."""
    process = helixemu(study, "--out", out, "--processes", "2", *words)
    try:
        deadline_s = time.monotonic() + 120
        while len(finished(out)) < least:
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            assert time.monotonic() < deadline_s
            time.sleep(0.02)
        yield process
    finally:
        process.kill()
        process.wait()


def children(pid: int) -> list[int]:
    """Processes that a study started to run points: those with a pipe of multiprocessing's spawn."""
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((each / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid and b"spawn_main" in (each / "cmdline").read_bytes():
                found.append(int(each.name))
        except (OSError, IndexError):
            continue
    return found


def undisturbed(study: Path, out: Path) -> tuple[bytes, bytes]:
    process = helixemu(study, "--out", out, "--processes", "2")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return (out / RESULTS).read_bytes(), (out / ANSWER).read_bytes()


def test_a_study_that_was_killed_goes_on_and_ends_like_one_that_was_not(study_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    with under_way(study_file, out) as process:
        workers = children(process.pid)
        assert len(workers) == 2
        process.send_signal(signal.SIGKILL)
        process.wait()
    kept = finished(out)
    assert 3 <= len(kept) < POINTS
    before = {path: path.stat().st_mtime_ns for path in kept}
    # Its processes end by themselves, and do not go on computing for nobody.
    deadline_s = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline_s, "processes of the killed study still run"
        time.sleep(0.05)
    # A file that was cut short is made anew.
    damaged = kept[0]
    damaged.write_bytes(damaged.read_bytes()[:200])
    with under_way(study_file, out, "--resume", least=len(kept) + 1) as process:
        # A worker that is killed costs nothing but time.
        os.kill(children(process.pid)[0], signal.SIGKILL)
        output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert f"{POINTS} points ({len(kept) - 1} kept from before)" in output
    assert "damaged" in errors
    for path in kept[1:]:
        assert path.stat().st_mtime_ns == before[path], "finished points are not run again"
    tables = undisturbed(study_file, tmp_path / "whole")
    assert ((out / RESULTS).read_bytes(), (out / ANSWER).read_bytes()) == tables
    # Once more, everything is there, and the same comes of it.
    process = helixemu(study_file, "--out", out, "--resume")
    output, _ = process.communicate(timeout=300)
    assert f"{POINTS} points ({POINTS} kept from before)" in output
    assert read_frame(out / RESULTS).height == POINTS
    assert ((out / RESULTS).read_bytes(), (out / ANSWER).read_bytes()) == tables


def test_ctrl_c_keeps_what_is_finished_and_says_how_to_go_on(study_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with under_way(study_file, out) as process:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "--resume" in errors
    assert "Traceback" not in errors
    assert len(finished(out)) >= 3


def test_a_full_disk_stops_the_study_keeps_what_is_finished_and_says_so(study_file: Path, tmp_path: Path) -> None:
    """A file system of its own, in a mount namespace of the study, has room for a few points."""
    probe = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", str(tmp_path)]
    if os.geteuid() != 0 or subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system is not permitted")
    out, kept = tmp_path / "small", tmp_path / "kept"
    out.mkdir()
    script = (
        f"mount -t tmpfs -o size=160k tmpfs {out} && "
        f"{sys.executable} -m scenarios.cli study {study_file} --out {out}/s --processes 2; code=$?; "
        f"cp -r {out}/s {kept}; exit $code"
    )
    process = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, timeout=300, check=False
    )
    assert process.returncode == 1, process.stderr
    assert "the disk is full" in process.stderr
    assert "--resume" in process.stderr
    assert "Traceback" not in process.stderr
    some = len(finished(kept))
    assert 0 < some < POINTS
    assert f"{some} finished points are kept" in process.stderr
    again = helixemu(study_file, "--out", kept, "--resume", "--processes", "2")
    output, errors = again.communicate(timeout=300)
    assert again.returncode == 0, errors
    assert f"({some} kept from before)" in output


def test_a_point_that_kills_its_process_is_recorded_and_the_others_go_on(tmp_path: Path) -> None:
    (tmp_path / "deadly.py").write_text(
        "import os\n"
        "from emulator.schedulers.round_robin import RoundRobinPolicy\n"
        "class Deadly(RoundRobinPolicy):\n"
        "    def __init__(self, *arguments, **keys):\n"
        "        os.kill(os.getpid(), 9)\n"
    )
    (tmp_path / "study.yaml").write_text(
        dump_yaml(tiny_study(axes={"scheduler": ["max-flow", "deadly:Deadly", "swarm"]}, seeds=2))
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    process = subprocess.run(
        [sys.executable, "-m", "scenarios.cli", "study", "study.yaml", "--out", "out", "--processes", "2"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    table = read_frame(tmp_path / "out" / RESULTS)
    assert table["status"].to_list() == ["ok", "ok", "failed", "failed", "ok", "ok"]
    assert all("its process was killed" in error for error in table["error"].drop_nulls())
    assert "2 of 6 points failed" in process.stderr


def test_whoever_runs_it_the_table_is_the_same(tmp_path: Path) -> None:
    study = Study(tiny_study(axes={"load": {"path": LOAD, "values": [1.0, 2.0]}}, seeds=2))
    one = study.run(processes=1, out=tmp_path / "one")
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as executor:
        other = study.run(executor, out=tmp_path / "other")
    assert one.table.equals(other.table)
    assert (tmp_path / "one" / RESULTS).read_bytes() == (tmp_path / "other" / RESULTS).read_bytes()
    manifest = json.loads((tmp_path / "one" / "study.json").read_text())
    assert manifest["study"]["scenario"] == TINY


def test_local_processes_end_with_their_pool() -> None:
    workers = LocalWorkers(2)
    assert workers.executor.submit(os.getpid).result(timeout=60) != os.getpid()
    pids = list(workers.executor._processes)
    workers.close()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
