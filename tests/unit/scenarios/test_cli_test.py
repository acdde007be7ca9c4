"""The command ``helixemu test``."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from typer.testing import CliRunner

from scenarios.cli import app
from scenarios.cli_test import run_one, scenario_files
from scenarios.errors import ScenarioError

ROOT = Path(__file__).resolve().parents[3]
GOOD = """\
schema_version: 1
name: good
duration: 10 s
model: llama-1-30b
cluster: small-6
placement: {planner: uniform}
workload: {kind: closed, refill: constant, initial_requests: 2, lengths: {prompt_tokens: 100, output_tokens: 5}}
expect: {requests.failed: 0, requests.finished: ">= 1"}
overrides:
  strict: {expect: {requests.finished: ">= 1000"}}
"""
FAILING = GOOD.replace("name: good", "name: failing\nseed: 3").replace('">= 1"', '">= 100000"')
BROKEN = GOOD.replace("duration: 10 s", "duration: 10")


def write(folder: Path, **files: str) -> None:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)


def helixemu(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "scenarios.cli", "test", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
        timeout=60,
        check=False,
    )


def test_good_scenarios_pass(tmp_path: Path) -> None:
    write(tmp_path, good=GOOD)
    done = helixemu("good.yaml", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("ok     good.yaml  (2 conditions, ")
    assert "1 passed in " in done.stdout


def test_failed_expectations_are_told_and_reported(tmp_path: Path) -> None:
    """In a folder, files that expect nothing are left alone; one that cannot be loaded does not stop the others."""
    suite = tmp_path / "suite"
    write(suite, good=GOOD, failing=FAILING, calm=GOOD.split("expect:")[0], cluster="kind: cluster\nexpect: {}\n")
    done = helixemu("suite", "--set", "duration=9 s", "--junit", "report.xml", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("FAILED suite/failing.yaml")
    assert lines[1].strip().startswith("requests.finished: expected >= 100000, got ")
    assert lines[2].strip() == "seed 3; the same again: helixemu test suite/failing.yaml --set 'duration=9 s'"
    assert lines[3].startswith("ok     suite/good.yaml")
    assert lines[4].startswith("1 passed, 1 failed in ")
    report = ElementTree.parse(tmp_path / "report.xml").getroot()
    assert {key: report.attrib[key] for key in ("tests", "failures", "errors")} == {
        "tests": "2",
        "failures": "1",
        "errors": "0",
    }
    failing, good = report.iter("testcase")
    assert (failing.attrib["name"], failing.attrib["classname"]) == ("failing", "suite.failing")
    (failure,) = failing
    assert failure.tag == "failure"
    assert failure.text is not None
    assert "seed 3; the same again: helixemu test suite/failing.yaml" in failure.text
    assert len(good) == 0


def test_what_cannot_run_ends_with_exit_code_2_and_an_error_in_the_report(tmp_path: Path) -> None:
    write(tmp_path, good=GOOD, failing=FAILING, broken=BROKEN)
    done = helixemu(".", "--junit", "report.xml", cwd=tmp_path)
    assert done.returncode == 2
    assert "error: broken.yaml:3: duration: 10: it is a bare number" in done.stderr
    assert "Traceback" not in done.stderr
    assert "1 passed, 1 failed, 1 cannot run in " in done.stdout
    (error,) = ElementTree.parse(tmp_path / "report.xml").getroot().iter("error")
    assert "it is a bare number" in error.attrib["message"]


def test_a_bad_argument_ends_with_exit_code_2_before_anything_runs(tmp_path: Path) -> None:
    write(tmp_path, good=GOOD)
    done = helixemu("good.yaml", "nowhere.yaml", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "error: nowhere.yaml: there is no such file" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("quickstat",), "the library has no scenario of this name; did you mean quickstart?"),
        (("empty",), "no YAML file in this folder has an expect section"),
        (("calm.yaml", "good.yaml"), "it expects nothing: there is no expect section"),
        (("good.yaml", "--junit", "no/such/folder.xml"), "no/such/folder.xml"),
    ],
)
def test_bad_arguments(arguments: tuple[str, ...], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, good=GOOD, calm=GOOD.split("expect:")[0])
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["test", *arguments])
    assert isinstance(done.exception, ScenarioError)
    assert told in str(done.exception)
    assert done.output == ""


def test_files_come_in_order_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, b=GOOD, a=GOOD, z="expect: [")
    write(tmp_path / "deep", c=GOOD, d="- [")
    monkeypatch.chdir(tmp_path)
    found, problems = scenario_files(["b.yaml", "."])
    # A broken file that speaks of expect is run, to be told about; one that does not need not be a scenario.
    assert (found, problems) == (["b.yaml", "a.yaml", "deep/c.yaml", "z.yaml"], [])


def test_overrides_apply(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, good=GOOD)
    monkeypatch.chdir(tmp_path)
    assert run_one("good.yaml").failure == ""
    strict = run_one("good.yaml", ["strict"])
    assert "expected >= 1000" in strict.failure
    assert strict.failure.endswith("helixemu test good.yaml --override strict")
