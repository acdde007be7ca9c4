"""Exports against their formats' keys and against the run's own summary."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from scenarios.reports.exports import Format, _peaks, aiperf_records, export_run, vllm_result
from scenarios.reports.run_files import RequestRow, read_run

# What `vllm bench serve --save-result --percentile-metrics ttft,tpot,itl,e2el --metric-percentiles 50,90,95,99` writes.
VLLM_KEYS = {
    "date", "endpoint_type", "backend", "label", "model_id", "tokenizer_id", "num_prompts", "request_rate",
    "burstiness", "max_concurrency", "duration", "completed", "failed", "total_input_tokens", "total_output_tokens",
    "request_throughput", "request_goodput", "output_throughput", "total_token_throughput", "max_output_tokens_per_s",
    "max_concurrent_requests", "rtfx",
    *(f"{statistic}_{name}_ms" for statistic in ("mean", "median", "std", "p50", "p90", "p95", "p99")
      for name in ("ttft", "tpot", "itl", "e2el")),
}  # fmt: skip
ITL_WITHOUT_P90 = {"p90_itl_ms"}
"""The summary has no p90 of ITL."""


@pytest.fixture(scope="module")
def vllm(hops_run: Path) -> dict[str, Any]:
    return vllm_result(read_run(hops_run))


def test_vllm_keys(vllm: dict[str, Any]) -> None:
    assert vllm.keys() == VLLM_KEYS - ITL_WITHOUT_P90


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


def test_vllm_itl_of_a_hand_made_request(hops_run: Path, vllm: dict[str, Any]) -> None:
    """Mean ITL weighs every gap alike: the time after first tokens over the number of gaps."""
    begin, end = read_run(hops_run).window
    rows = [row for row in read_run(hops_run).requests() if row.finished and begin <= (row.end_s or 0) <= end]
    waited = sum((row.e2e_s or 0) - (row.ttft_s or 0) for row in rows)
    gaps = sum(row.emitted_tokens - 1 for row in rows)
    assert vllm["mean_itl_ms"] == pytest.approx(1e3 * waited / gaps)


def test_vllm_peaks_by_hand() -> None:
    def row(number: int, arrival: float, first: float, end: float, tokens: int) -> RequestRow:
        return RequestRow(
            request=number, outcome="finished", reason="", arrival_s=arrival, admitted_s=arrival, first_token_s=first,
            end_s=end, prompt_tokens=10, output_tokens=tokens, emitted_tokens=tokens, ttft_s=first - arrival,
            tpot_s=None, e2e_s=end - arrival, preemptions=0, recomputed_tokens=0, pipeline="",
        )  # fmt: skip

    # Tokens at 1, 2, 3 and at 3.5, 3.75, 4; the third request comes when the first leaves.
    rows = [row(0, 0.0, 1.0, 3.0, 3), row(1, 0.5, 3.5, 4.0, 3), row(2, 3.0, 4.5, 4.5, 1)]
    assert _peaks(rows) == (3.0, 2)
    assert _peaks([]) == (0.0, 0)


def test_vllm_details(hops_run: Path) -> None:
    result = vllm_result(read_run(hops_run), detailed=True)
    lists = ("input_lens", "output_lens", "ttfts", "latencies", "start_times", "errors")
    assert {len(result[name]) for name in lists} == {result["num_prompts"]}
    assert sum(result["output_lens"]) == result["total_output_tokens"]
    assert result["start_times"] == sorted(result["start_times"])


def test_vllm_of_random_arrivals(tmp_path: Path) -> None:
    from scenarios.loader import load_scenario
    from scenarios.runner import run_scenario

    sets = ("duration=20 s", "warm_up=0 s", "workload.synthetic.burstiness=4")
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
        assert record["error"] is None
    assert rows == {}


def test_aiperf_tells_of_requests_that_failed(tmp_path: Path) -> None:
    from scenarios.loader import load_scenario
    from scenarios.runner import run_scenario

    sets = ("duration=60 s", "churn.in_flight={policy: fail}")
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
    assert vllm["std_itl_ms"] is None
