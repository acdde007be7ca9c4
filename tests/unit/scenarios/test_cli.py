"""The command line, run as a process of its own: output, exit codes, run directory, Ctrl-C."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scenarios.library import list_library

ROOT = Path(__file__).resolve().parents[3]
SHORT = ("--set", "duration=60 s", "--set", "warm_up=0 s")
PATIENCE_S = 60.0


def helixemu(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "scenarios.cli", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
        timeout=PATIENCE_S,
        check=False,
    )


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """What was printed about bad input, after checking that it was refused as it should be."""
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.stderr


# -- what it prints ----------------------------------------------------------------------------


@pytest.mark.parametrize("command", [(), ("run",), ("validate",), ("schema",), ("scenarios",), ("import",)])
def test_help(command: tuple[str, ...], tmp_path: Path) -> None:
    done = helixemu(*command, "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "Usage" in done.stdout


def test_help_on_the_importer_names_its_options(tmp_path: Path) -> None:
    done = helixemu("import", "helix-artifact", "--help", cwd=tmp_path)
    options = ("--model", "--cluster", "--machines", "--placement", "--links", "--profiles", "--scheduler")
    assert all(option in done.stdout for option in (*options, "--offline", "--online", "--trace", "--out"))


def test_scenarios_lists_the_library_name_first(tmp_path: Path) -> None:
    done = helixemu("scenarios", cwd=tmp_path)
    assert done.returncode == 0
    names = [line.split()[0] for line in done.stdout.splitlines() if line and not line.startswith(" ")]
    assert names == [entry.name for entry in list_library("scenario")]


@pytest.mark.parametrize("kind", [(), ("net",)])
def test_schema_is_json_alone(kind: tuple[str, ...], tmp_path: Path) -> None:
    done = helixemu("schema", *kind, cwd=tmp_path)
    assert json.loads(done.stdout)["title"] == f"helix-emulator {(*kind, 'scenario')[0]}"


def test_an_unknown_schema_is_told_with_those_there_are(tmp_path: Path) -> None:
    done = helixemu("schema", "cluster", cwd=tmp_path)
    assert done.returncode == 2
    assert "'scenario', 'study', 'proxy', 'net'" in " ".join(done.stderr.split())


def test_validate_says_what_it_found(tmp_path: Path) -> None:
    done = helixemu("validate", "quickstart", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.startswith("quickstart: valid (")


def test_json_on_the_terminal_is_json_alone(tmp_path: Path) -> None:
    done = helixemu("run", "quickstart", *SHORT, "--json", "-", cwd=tmp_path)
    assert done.returncode == 0
    summary = json.loads(done.stdout)
    assert summary["sim_s"] == 60.0
    # No run directory unless asked for.
    assert list(tmp_path.iterdir()) == []


def test_json_to_a_file(tmp_path: Path) -> None:
    done = helixemu("run", "quickstart", *SHORT, "--json", "summary.json", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "")
    assert json.loads((tmp_path / "summary.json").read_text())["scenario"] == "quickstart"


def test_a_run_without_options_shows_tables_and_makes_a_directory(tmp_path: Path) -> None:
    first, second = (helixemu("run", "quickstart", *SHORT, cwd=tmp_path) for _ in range(2))
    assert first.returncode == second.returncode == 0
    for label in ("decode throughput", "max flow", "min cut", "TTFT", "requests finished"):
        assert label in first.stdout
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["quickstart-1", "quickstart-2"]


# -- bad input ---------------------------------------------------------------------------------


def test_an_unknown_scenario_gets_a_suggestion(tmp_path: Path) -> None:
    for command in ("run", "validate"):
        assert "quickstart" in refused(helixemu(command, "quikstart", cwd=tmp_path))


def test_every_problem_of_a_file_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(
        "schema_version: 1\nname: bad\ndurration: 60 s\nduration: 60\nmodel: llama-1-30b\ncluster: small-6\n"
        "placement: {planner: uniform}\nworkload:\n  kind: open\n"
    )
    for command in ("run", "validate"):
        lines = refused(helixemu(command, "bad.yaml", cwd=tmp_path))
        assert "bad.yaml:3" in lines
        assert "durration" in lines
        assert "bad.yaml:4" in lines


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--set", "no.such.field=1"), "no"),
        (("--set", "duration=-1 s"), "duration"),
        (("--set", "duration"), "duration"),
        (("--override", "no-such-override"), "no-such-override"),
        (("--set", "scheduler.policy=maxflow"), "max-flow"),
        (("--set", "scheduler.policy=no_such_module:Policy"), "no_such_module"),
        (("--set", "scheduler.options.minimum_flow=1"), "minimum_flow"),
        (("--no-such-option",), "--no-such-option"),
    ],
)
def test_bad_changes(arguments: tuple[str, ...], named: str, tmp_path: Path) -> None:
    assert named in refused(helixemu("run", "quickstart", *SHORT, *arguments, "--json", "-", cwd=tmp_path))


def test_a_directory_that_is_not_empty_is_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "results"
    target.mkdir()
    (target / "precious.txt").write_text("mine")
    message = refused(helixemu("run", "quickstart", *SHORT, "--out", str(target), cwd=tmp_path))
    assert "not empty" in message
    assert [path.name for path in target.iterdir()] == ["precious.txt"]


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refused(
        helixemu("run", "quickstart", *SHORT, "--out", str(tmp_path / "file" / "results"), cwd=tmp_path)
    )


def test_a_summary_that_cannot_be_written(tmp_path: Path) -> None:
    message = refused(helixemu("run", "quickstart", *SHORT, "--json", "no/such/folder/s.json", cwd=tmp_path))
    assert "no/such/folder/s.json" in message


# -- the run directory -------------------------------------------------------------------------


def test_the_run_directory_holds_everything(tmp_path: Path) -> None:
    first = tmp_path / "first"
    done = helixemu("run", "quickstart", *SHORT, "--out", str(first), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in first.iterdir()) == [
        "events.jsonl",
        "requests.csv",
        "scenario.yaml",
        "summary.json",
        "versions.json",
    ]
    summary = json.loads((first / "summary.json").read_text())
    events = (first / "events.jsonl").read_bytes()
    assert hashlib.sha256(events).hexdigest() == summary["event_log_sha256"]
    assert len(events.splitlines()) == summary["event_log_lines"] > 0
    check_rows(first, summary["requests"])
    versions = json.loads((first / "versions.json").read_text())
    assert versions["python"] == ".".join(str(part) for part in sys.version_info[:3])
    assert {"helix-emulator", "simpy", "numpy"} <= set(versions)

    # The resolved scenario needs no library, no overrides and no other file.
    again = helixemu("run", str(first / "scenario.yaml"), "--json", "-", cwd=tmp_path)
    assert json.loads(again.stdout)["event_log_sha256"] == summary["event_log_sha256"]


def check_rows(directory: Path, counts: dict[str, int]) -> None:
    """One row a request, of which each names its outcome."""
    with (directory / "requests.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(int(row["request"]) for row in rows) == list(range(counts["submitted"]))
    for outcome in ("finished", "rejected", "failed", "in_flight"):
        assert sum(row["outcome"] == outcome for row in rows) == counts[outcome]
    for row in rows:
        if row["outcome"] == "finished":
            assert float(row["ttft_s"]) == pytest.approx(float(row["first_token_s"]) - float(row["arrival_s"]))
            assert row["emitted_tokens"] == row["output_tokens"]
            assert row["pipeline"]


# -- Ctrl-C ------------------------------------------------------------------------------------

# A shell that starts jobs in the background has them ignore the signal; this is the state on a terminal.
AS_ON_A_TERMINAL = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from scenarios.cli import main; main()"
)


def test_ctrl_c_leaves_complete_files_of_a_partial_run(tmp_path: Path) -> None:
    target = tmp_path / "results"
    arguments = ["run", "quickstart", "--set", "duration=10000000 s", "--out", str(target)]
    process = subprocess.Popen(
        [sys.executable, "-c", AS_ON_A_TERMINAL, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        events = target / "events.jsonl"
        deadline = time.monotonic() + PATIENCE_S
        while not (events.exists() and events.stat().st_size):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, "the run has logged nothing"
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    summary = json.loads((target / "summary.json").read_text())
    assert summary["interrupted"] is True
    assert 0 < summary["sim_s"] < 10_000_000
    assert hashlib.sha256(events.read_bytes()).hexdigest() == summary["event_log_sha256"]
    check_rows(target, summary["requests"])


def test_on_a_terminal_a_bar_shows_time_speed_and_time_left(tmp_path: Path) -> None:
    """A real pseudo-terminal: rich draws the bar nowhere else."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(tmp_path)
        os.environ.update(COLUMNS="160", TERM="xterm")
        os.execv(sys.executable, [sys.executable, "-m", "scenarios.cli", "run", "helix-24-70b-offline"])
    shown = b""
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:
            break
        if not piece:
            break
        shown += piece
    _, status = os.waitpid(child, 0)
    os.close(terminal)
    text = shown.decode(errors="replace")
    assert os.waitstatus_to_exitcode(status) == 0, text[-2000:]
    assert "/660 s emulated" in text
    assert "x real time" in text
    assert "decode throughput" in text
