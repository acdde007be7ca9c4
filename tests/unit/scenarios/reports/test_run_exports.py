"""Exports against their formats' keys and against the run's own summary."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from scenarios.errors import ScenarioError
from scenarios.reports.exports import Format, _peaks, aiperf_records, export_run, vllm_result
from scenarios.reports.run_files import RequestRow, read_run

# What `vllm bench serve --save-result --percentile-metrics ttft,tpot,itl,e2el --metric-percentiles 50,90,95,99` writes.
VLLM_KEYS = {
    "date", "endpoint_type", "backend", "label", "model_id", "tokenizer_id", "num_prompts", "request_rate",
    "burstiness", "max_concurrency", "duration", "completed", "failed", "total_input_tokens", "total_output_tokens",
    "request_throughput", "request_goodput", "output_throughput", "total_token_throughput", "max_output_tokens_per_s",
    "max_concurrent_requests", "rtfx", "latencies", "queue_times",
    *(f"{statistic}_{name}_ms" for statistic in ("mean", "median", "std", "p50", "p90", "p95", "p99")
      for name in ("ttft", "tpot", "itl", "e2el")),
}  # fmt: skip
DETAILS = {"input_lens", "output_lens", "ttfts", "itls", "start_times", "generated_texts", "errors"}
"""What --save-detailed adds."""


@pytest.fixture(scope="module")
def vllm(hops_run: Path) -> dict[str, Any]:
    return vllm_result(read_run(hops_run), percentiles=(50, 90, 95, 99))


def test_vllm_keys(vllm: dict[str, Any]) -> None:
    assert vllm.keys() == VLLM_KEYS


def test_vllm_figures_are_the_summary_s(hops_run: Path, vllm: dict[str, Any]) -> None:
    summary = read_run(hops_run).summary
    assert vllm["completed"] == summary["requests"]["finished_in_window"] > 3
    assert vllm["duration"] == summary["window_s"]
    assert vllm["request_throughput"] == pytest.approx(summary["request_throughput_per_s"])
    assert vllm["request_goodput"] == pytest.approx(summary["goodput_requests_per_s"])
    for name, column in (("tpot", "tpot_s"), ("e2el", "e2e_s")):
        for ours, theirs in (("mean", "mean"), ("p50", "median"), ("p95", "p95"), ("p99", "p99")):
            assert vllm[f"{theirs}_{name}_ms"] == pytest.approx(1e3 * summary[column][ours], rel=1e-6)
    assert vllm["max_concurrency"] == 12 >= vllm["max_concurrent_requests"] > 0
    assert vllm["request_rate"] == "inf"


def test_vllm_percentiles_are_those_asked_for_99_by_default(hops_run: Path) -> None:
    keys = {key for key in vllm_result(read_run(hops_run)) if key.endswith("_itl_ms")}
    assert keys == {f"{one}_itl_ms" for one in ("mean", "median", "std", "p99")}
    result = vllm_result(read_run(hops_run), percentiles=(0, 99.9))
    assert result["p0_ttft_ms"] <= result["median_ttft_ms"] <= result["p99.9_ttft_ms"]


def test_vllm_itl_is_of_every_gap_between_tokens(hops_run: Path, vllm: dict[str, Any]) -> None:
    """Gaps of each request add up to its time after the first token; the spread is over all of them, alike."""
    run = read_run(hops_run)
    begin, end = run.window
    gaps: list[float] = []
    for row, times in run.requests_with_token_times():
        assert len(times) == row.emitted_tokens
        if row.finished and begin <= (row.end_s or 0) <= end:
            assert times[0] == pytest.approx(row.first_token_s, abs=2e-9)
            assert times[-1] == pytest.approx(row.end_s, abs=2e-9)
            gaps += [after - before for before, after in itertools.pairwise(times)]
    assert len(gaps) == vllm["total_output_tokens"] - vllm["completed"] > 100
    ranked = sorted(gaps)
    mean = sum(gaps) / len(gaps)
    assert vllm["mean_itl_ms"] == pytest.approx(1e3 * mean)
    assert vllm["std_itl_ms"] == pytest.approx(1e3 * (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5)
    assert vllm["median_itl_ms"] == vllm["p50_itl_ms"]
    place = 0.9 * (len(ranked) - 1)
    low = int(place)
    between = ranked[low] + (place - low) * (ranked[low + 1] - ranked[low])
    assert vllm["p90_itl_ms"] == pytest.approx(1e3 * between)


def test_times_of_tokens_of_requests_that_were_tried_again_rise(churn_run: Path) -> None:
    """Every token counts once, however often its request was begun anew."""
    run = read_run(churn_run)
    assert run.summary["churn"]["requests_retried"] > 0
    for row, times in run.requests_with_token_times():
        assert len(times) == row.emitted_tokens
        assert times == sorted(times)


def test_vllm_peaks_by_hand() -> None:
    def row(number: int, arrival: float, times: list[float]) -> tuple[RequestRow, list[float]]:
        row = RequestRow(
            request=number, outcome="finished", reason="", arrival_s=arrival, admitted_s=arrival,
            first_token_s=times[0], end_s=times[-1], prompt_tokens=10, output_tokens=len(times),
            emitted_tokens=len(times), ttft_s=times[0] - arrival, tpot_s=None, e2e_s=times[-1] - arrival,
            preemptions=0, recomputed_tokens=0, pipeline="",
        )  # fmt: skip
        return row, times

    # Four tokens between the third and the fourth second; the third request comes when the first leaves.
    rows = [row(0, 0.5, [1.5, 3.4, 3.5]), row(1, 1.0, [4.0, 4.25, 4.49]), row(2, 3.5, [5.0])]
    assert _peaks(rows) == (4.0, 2)
    assert _peaks([]) == (0.0, 0)


def test_without_times_of_tokens_vllm_is_refused_and_what_to_do_is_said(requests_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    with pytest.raises(
        ScenarioError, match=r"tokens\.jsonl.*run the scenario again with --set output.token_times=true"
    ):
        export_run(read_run(requests_run), Format.VLLM, out)
    assert list(tmp_path.iterdir()) == []
    for record in aiperf_records(read_run(requests_run)):
        assert "inter_chunk_latency" not in record["metrics"]


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "no line here"),
        ('{"request":0,"times_s":[1.0]}\n', r"has \d+ tokens in requests.csv, but 1 times here"),
        ('{"request":0,"times_s":[1.0', "only a part of one"),
    ],
)
def test_times_of_tokens_that_were_cut_short_are_refused(text: str, rule: str, hops_run: Path, tmp_path: Path) -> None:
    shutil.copytree(hops_run, tmp_path / "run")
    (tmp_path / "run" / "tokens.jsonl").write_text(text)
    with pytest.raises(ScenarioError, match=rule):
        vllm_result(read_run(tmp_path / "run"))


def test_vllm_details(hops_run: Path) -> None:
    result = vllm_result(read_run(hops_run), detailed=True)
    assert result.keys() - vllm_result(read_run(hops_run)).keys() == DETAILS
    lists = (*DETAILS, "latencies", "queue_times")
    assert {len(result[name]) for name in lists} == {result["num_prompts"]}
    assert sum(result["output_lens"]) == result["total_output_tokens"]
    assert result["start_times"] == sorted(result["start_times"])
    for ttft, itls, latency in zip(result["ttfts"], result["itls"], result["latencies"], strict=True):
        assert ttft + sum(itls) == pytest.approx(latency)


def test_vllm_of_random_arrivals(tmp_path: Path) -> None:
    from scenarios.loader import load_scenario
    from scenarios.runner import run_scenario

    sets = ("duration=20 s", "warm_up=0 s", "workload.synthetic.burstiness=4", "output.token_times=true")
    run_scenario(load_scenario("small-6-30b", sets=sets), out=tmp_path / "run")
    result = vllm_result(read_run(tmp_path / "run"))
    assert result["burstiness"] == 0.25
    assert isinstance(result["request_rate"], float)
    assert result["max_concurrency"] is None


def test_aiperf_records_are_the_requests(hops_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "profile_export.jsonl"
    run = read_run(hops_run)
    rows = {row.request: row for row in run.requests() if row.end_s is not None}
    assert export_run(run, Format.AIPERF, out) == len(rows)
    for line in out.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        about, metrics = record["metadata"], record["metrics"]
        row = rows.pop(about["session_num"])
        assert about["request_end_ns"] - about["request_start_ns"] == pytest.approx(1e9 * (row.e2e_s or 0), abs=2)
        assert about["benchmark_phase"] == ("profiling" if (row.end_s or 0) >= 4 else "warmup")
        assert metrics["output_sequence_length"] == {"value": row.output_tokens, "unit": "tokens"}
        latency = metrics["request_latency"]["value"] - metrics["time_to_first_token"]["value"]
        if row.output_tokens > 1:
            assert metrics["inter_token_latency"]["value"] == pytest.approx(latency / (row.output_tokens - 1))
            assert sum(metrics["inter_chunk_latency"]["value"]) == pytest.approx(latency)
            assert len(metrics["inter_chunk_latency"]["value"]) == row.output_tokens - 1
        assert record["error"] is None
    assert rows == {}


def test_aiperf_tells_of_requests_that_failed(tmp_path: Path) -> None:
    from scenarios.loader import load_scenario
    from scenarios.runner import run_scenario

    sets = ("duration=60 s", "churn.in_flight={policy: fail}", "output.token_times=true")
    run_scenario(load_scenario("quickstart-churn", sets=sets), out=tmp_path / "run")
    run = read_run(tmp_path / "run")
    failed = [record for record in aiperf_records(run) if record["error"]]
    assert len(failed) == run.summary["requests"]["failed"] > 0
    for record in failed:
        assert record["error"]["code"] == 500
        assert record["error"]["message"]
        assert record["metrics"].keys() == {"error_isl"}
    result = vllm_result(run)
    assert result["failed"] == len(failed)


def test_every_figure_is_finite(vllm: dict[str, Any]) -> None:
    numbers = {name: value for name, value in vllm.items() if isinstance(value, float)}
    assert len(numbers) > 30
    assert all(math.isfinite(value) and value >= 0 for value in numbers.values())
