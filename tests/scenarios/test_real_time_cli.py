"""``helixemu run --clock real`` as a person runs it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 120
# A shell that starts jobs in the background has them ignore the signal; this is the state on a terminal.
AS_ON_A_TERMINAL = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from scenarios.cli import main; main()"
)


def started(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", AS_ON_A_TERMINAL, "run", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
    )


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_run_reports_how_it_kept_up(tmp_path: Path, workers: str) -> None:
    short = ["--set", "duration=6 s", "--set", "warm_up=1 s"]
    real = ["--clock", "real", "--dilation", "4", "--workers", workers]
    process = started("quickstart", *short, *real, "--out", "results", cwd=tmp_path)
    output, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors
    assert "real time (logical, dilation 4)" in output
    assert "ms late" in output
    figures = json.loads((tmp_path / "results" / "summary.json").read_text())["real_time"]
    assert figures["dilation"] == 4.0
    assert 0 < figures["dilation_achieved"] <= 4.2
    assert figures["workers"] == int(workers)
    assert figures["causality_violations"] == 0 or workers != "0"
    assert figures["error"] is None
    assert figures["kept_up"] or "warning: the machine did not keep up" in errors
    for key in ("event_lateness_s", "frame_lateness_s", "loop_lag_s"):
        assert figures[key]["count"] > 0
        assert figures[key]["p50"] <= figures[key]["p95"] <= figures[key]["p99"] <= figures[key]["max"]


def test_ctrl_c_ends_a_run_with_partial_results(tmp_path: Path) -> None:
    target = tmp_path / "results"
    endless = ["--set", "duration=1000000 s", "--set", "output.event_log=hops"]
    process = started("quickstart", *endless, "--clock", "real", "--dilation", "50", "--out", str(target), cwd=tmp_path)
    try:
        events = target / "events.jsonl"
        deadline = time.monotonic() + PATIENCE_S
        while not (events.exists() and events.stat().st_size):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, "the run has logged nothing"
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert "interrupted" in output
    summary = json.loads((target / "summary.json").read_text())
    assert summary["interrupted"] is True
    assert summary["real_time"]["error"] is None
    assert 0 < summary["sim_s"] < 1_000_000
    assert hashlib.sha256(events.read_bytes()).hexdigest() == summary["event_log_sha256"]


def test_a_worker_that_dies_leaves_partial_results_and_exit_code_1(tmp_path: Path) -> None:
    long = ["--set", "duration=600 s", "--set", "output.event_log=hops"]
    process = started("quickstart", *long, "--clock", "real", "--workers", "2", "--out", "results", cwd=tmp_path)
    try:
        deadline = time.monotonic() + PATIENCE_S
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while len(workers := children.read_text().split()) < 2 or not connected(int(workers[1])):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, "the workers do not start"
            time.sleep(0.1)
        time.sleep(1.0)
        os.kill(int(workers[1]), signal.SIGKILL)
        _, errors = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    assert process.returncode == 1, errors
    assert "Traceback" not in errors
    assert "error: worker 2 (" in errors
    assert "was killed by signal 9; the figures are partial" in errors
    summary = json.loads((tmp_path / "results" / "summary.json").read_text())
    assert summary["interrupted"] is True
    assert 0 < summary["sim_s"] < 600


def connected(pid: int) -> bool:
    """Whether a worker has opened its connections, of which it has a dozen."""
    sockets = 0
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # Closed in the meantime.
            sockets += "socket" in os.readlink(each)
    return sockets >= 6


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--dilation", "0.5"], "--clock real"),
        (["--mode", "observed"], "--clock real"),
        (["--clock", "real", "--dilation", "0"], "dilation is 0; it must be from 0.001 to 1000"),
        (["--clock", "real", "--dilation", "nan"], "dilation is nan"),
        (["--clock", "real", "--mode", "guessed"], "observed"),
        (["--workers", "2"], "--clock real"),
        (["--transport", "namespaces"], "--clock real"),
        (["--clock", "real", "--transport", "namespaces", "--workers", "2"], "--transport namespaces"),
        (["--clock", "real", "--priority", "100"], "priority is 100"),
        (["--clock", "real", "--workers", "1000"], "it must be from 0 to 64"),
        (["--clock", "real", "--workers", "2", "--set", "scheduler={policy: swarm}"], "leave --workers out"),
    ],
)
def test_options_that_cannot_be(options: list[str], told: str, tmp_path: Path) -> None:
    process = started("quickstart", *options, cwd=tmp_path)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 2
    assert told in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "runs").exists()
