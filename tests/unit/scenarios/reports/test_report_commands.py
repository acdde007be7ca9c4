"""The commands trace, export, report and explain, through the entry point."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from study_runs import HereExecutor, tiny_study

from scenarios.cli import main
from scenarios.studies.study import Study

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def helixemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Calls the entry point in ``tmp_path``; gives exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "path", list(sys.path))

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["helixemu", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return call


@pytest.fixture(scope="module")
def begun_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that was killed before its first point had finished."""

    def killed(progress: object) -> None:
        raise KeyboardInterrupt

    folder = tmp_path_factory.mktemp("studies") / "begun"
    with pytest.raises(KeyboardInterrupt):
        Study(tiny_study()).run(HereExecutor(), out=folder, on_progress=killed)
    for path in (folder / "points").iterdir():
        path.unlink()
    return folder


def test_a_study_becomes_a_page_and_figures(helixemu: Command, tmp_path: Path) -> None:
    Study(tiny_study(axes={"planner": ["petals", "uniform"]})).run(HereExecutor(), out=tmp_path / "study")
    code, out, err = helixemu("report", "study", "--figures", "plots", "--figure-format", "png")
    assert code == 0, err
    assert out.splitlines()[0] == "wrote study/report.html"
    assert "wrote plots/ttft_s.p50.png" in out
    assert (tmp_path / "plots" / "ttft_s.p50.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "study" / "results.parquet").write_bytes(b"PAR1")
    code, out, err = helixemu("report", "study")
    assert (code, out) == (2, "")
    assert "results.parquet: it is damaged" in err


def test_what_a_run_becomes(helixemu: Command, hops_run: Path, tmp_path: Path) -> None:
    shutil.copytree(hops_run, tmp_path / "run")
    for command, said, name in (
        (("trace",), "flows, 0 churn events", "trace.json"),
        (("export", "--format", "vllm", "--percentiles", "50,99.9"), "requests", "vllm-bench.json"),
        (("report", "--figures", "plots", "--figure-format", "pdf"), "wrote plots/placement.pdf", "report.html"),
    ):
        code, out, err = helixemu(command[0], "run", *command[1:])
        assert code == 0, err
        assert f"wrote run/{name}" in out
        assert said in out
        assert (tmp_path / "run" / name).stat().st_size > 500
    assert (tmp_path / "plots" / "throughput.pdf").read_bytes().startswith(b"%PDF")


def test_a_run_without_times_of_tokens_is_repeated_for_vllm(
    helixemu: Command, requests_run: Path, tmp_path: Path
) -> None:
    shutil.copytree(requests_run, tmp_path / "run")
    code, out, err = helixemu("export", "run", "--format", "vllm", "--percentiles", "50,95")
    assert (code, out) == (0, "wrote run/vllm-bench.json: 9 requests\n"), err
    assert "emulating it again" in err
    result = json.loads((tmp_path / "run" / "vllm-bench.json").read_text())
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert result["completed"] == summary["requests"]["finished"]
    assert result["p95_e2el_ms"] == pytest.approx(1e3 * summary["e2e_s"]["p95"])
    assert result["std_itl_ms"] > 0
    assert not (tmp_path / "run" / "tokens.jsonl").exists()
    # What is not the same run again, or cannot be, is refused.
    for change, rule in (
        ({"event_log_sha256": "0" * 64}, "its event log is another"),
        ({"interrupted": True}, "did not keep"),
    ):
        (tmp_path / "run" / "summary.json").write_text(json.dumps(summary | change))
        code, out, err = helixemu("export", "run", "--format", "vllm", "--out", "other.json")
        assert (code, out) == (2, "")
        assert rule in err
        assert "--set output.token_times=true" in err
        assert not (tmp_path / "other.json").exists()


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        (("trace", "{requests}", "--out", "t.json"), "--set output.event_log=batches"),
        (("report", "nowhere"), "there is no such directory"),
        (("export", "{requests}", "--format", "aiperf", "--out", "no/such/dir.json"), "cannot be written"),
        (("export", "{requests}", "--format", "vllm", "--percentiles", "50,101"), "percentiles are 0 to 100"),
        (("export", "{requests}", "--format", "vllm", "--percentiles", "p50"), "no list such as 50,90,99"),
        (("export", "{requests}", "--format", "aiperf", "--percentiles", "50"), "--percentiles"),
        (("report", "{requests}/.."), "neither the directory of a run nor that of a study"),
        (("report", "{study}"), "no finished points yet"),
        (("export", "{requests}", "--format", "aiperf", "--detailed"), "--detailed"),
        (("explain", "quickstart", "--price", "A100"), "TYPE=PER_HOUR"),
        (("explain", "quickstart", "--price", "A100=1"), "no price of L4, T4"),
        (("explain", "no-such-scenario"), "no-such-scenario"),
    ],
)
def test_bad_input_is_refused(
    helixemu: Command, arguments: tuple[str, ...], rule: str, requests_run: Path, begun_study: Path, tmp_path: Path
) -> None:
    code, out, err = helixemu(*(one.format(requests=requests_run, study=begun_study) for one in arguments))
    assert code == 2, err
    assert out == ""
    assert rule in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_explain_in_words_and_as_json(helixemu: Command) -> None:
    sets = ("--set", "duration=30 s", "--set", "warm_up=0 s", "--flow-only")
    code, out, err = helixemu("explain", "quickstart", *sets)
    assert code == 0, err
    for said in ("The compute of l4-0", "brings nothing: l4-1", "one more A100", "where the time to first token went"):
        assert said in out
    told = json.loads(helixemu("explain", "quickstart", *sets, "--json", "-")[1])
    assert told["min_cut"][0]["source"] == "l4-0"
    assert all(one["decode_gain_tokens_per_s"] is None for one in told["worth"])
    assert told["churn"] is None
    assert {one["scope"] for one in told["worth"]} == {"cluster", "regions", "link"}


def test_explain_tells_what_churn_costs(helixemu: Command) -> None:
    code, out, err = helixemu("explain", "quickstart-churn", "--set", "duration=60 s", "--flow-only", "--links", "0")
    assert code == 0, err
    for said in ("without the scenario's churn, which costs this", "2 events: 0 requests failed", "crash of l4-0"):
        assert said in out
