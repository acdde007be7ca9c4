"""Results in the field's formats.

``vllm``: the JSON that ``vllm bench serve --save-result`` writes, with its keys and definitions (vLLM,
``vllm/benchmarks/serve.py``). It covers the requests that end in the window, as the summary's latencies do.

Inter-token latencies need the times of tokens, which a run keeps with ``output.token_times: true``.

``aiperf``: one record a request, as AIPerf's ``profile_export.jsonl`` (NVIDIA AIPerf, "Working with Profile Export
Files"). Times are emulated nanoseconds from the start of the run. ``inter_chunk_latency``, a list, is there where the
run kept the times of tokens: each token is a chunk.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import IO, Any

import numpy as np

from scenarios.reports.run_files import RequestRow, RunFiles
from scenarios.reports.writing import whole_file

BACKEND = "helixemu"
WARM_UP, PROFILING = "warmup", "profiling"
REJECTED_CODE, FAILED_CODE = 503, 500
"""HTTP status that a client would see."""
LATENCIES = {"ttft": "ttft_s", "tpot": "tpot_s", "e2el": "e2e_s"}
PERCENTILES = (99.0,)
"""Those that vLLM gives unless told otherwise."""


class Format(StrEnum):
    """What a run can be exported to."""

    VLLM = "vllm"
    AIPERF = "aiperf"


DEFAULT_NAMES = {Format.VLLM: "vllm-bench.json", Format.AIPERF: "profile_export.jsonl"}


def export_run(
    run: RunFiles, kind: Format, out: Path, *, detailed: bool = False, percentiles: Sequence[float] = PERCENTILES
) -> int:
    """Write a run's results.

    Args:
        run: The run.
        kind: Format.
        out: File to write.
        detailed: With ``vllm``, the requests' own figures too, as ``--save-detailed`` gives.
        percentiles: With ``vllm``, those of latencies, 0 to 100, as ``--metric-percentiles`` gives.

    Returns:
        How many requests the file tells of.

    Raises:
        ScenarioError: The run cannot be read or the file not be written.
    """
    with whole_file(out) as file:
        if kind is Format.AIPERF:
            return _write_lines(file, aiperf_records(run))
        figures = vllm_result(run, detailed=detailed, percentiles=percentiles)
        file.write(json.dumps(figures, allow_nan=False) + "\n")
    return int(figures["num_prompts"])


def _write_lines(file: IO[str], records: Iterable[Mapping[str, Any]]) -> int:
    count = 0
    for record in records:
        file.write(json.dumps(record, allow_nan=False) + "\n")
        count += 1
    return count


# -- vllm bench serve --------------------------------------------------------------------------


def vllm_result(run: RunFiles, *, detailed: bool = False, percentiles: Sequence[float] = PERCENTILES) -> dict[str, Any]:
    """The result of ``vllm bench serve`` as this run's client would have measured it.

    ``duration`` is the window; ``completed`` and all latencies, those between tokens too, are of requests that finish
    in it. There is no text (``generated_texts``), no audio (``rtfx``), and no waiting in the client (``queue_times``):
    requests come to the coordinator when they arrive.

    Args:
        run: The run, with times of tokens.
        detailed: Lists with an entry a request, too.
        percentiles: Those of latencies, 0 to 100.

    Raises:
        ScenarioError: The run did not keep the times of tokens, or cannot be read.
    """
    begin, end = run.window
    ended = [
        (row, times)
        for row, times in run.requests_with_token_times()
        if row.end_s is not None and begin <= row.end_s <= end
    ]
    done = [(row, times) for row, times in ended if row.finished]
    others = [(row, times) for row, times in ended if row.outcome in ("failed", "rejected")]
    window_s = end - begin
    per_s = 1 / window_s if window_s > 0 else 0.0
    prompt, output = (sum(getattr(row, name) for row, _ in done) for name in ("prompt_tokens", "emitted_tokens"))
    slo = run.summary.get("slo")
    peak_tokens, peak_requests = _peaks(done)
    result: dict[str, Any] = {
        **_vllm_setup(run, len(done) + len(others)),
        "duration": window_s,
        "completed": len(done),
        "failed": len(others),
        "total_input_tokens": prompt,
        "total_output_tokens": output,
        "request_throughput": len(done) * per_s,
        "request_goodput": sum(_good(row, slo) for row, _ in done) * per_s if slo else None,
        "output_throughput": output * per_s,
        "total_token_throughput": (prompt + output) * per_s,
        **_vllm_lists([*done, *others], detailed=detailed),
        "max_output_tokens_per_s": peak_tokens,
        "max_concurrent_requests": peak_requests,
        "rtfx": 0.0,
    }
    for name, column in LATENCIES.items():
        values = [value for row, _ in done if (value := getattr(row, column)) is not None]
        result |= _spread(name, values, percentiles)
    return result | _spread("itl", [gap for _, times in done for gap in _gaps(times)], percentiles)


def _gaps(times_s: Sequence[float]) -> list[float]:
    """Seconds between tokens that follow one another."""
    return np.diff(times_s).tolist()  # type: ignore[no-any-return]


def _vllm_setup(run: RunFiles, prompts: int) -> dict[str, Any]:
    scenario = run.scenario()
    workload = scenario.get("workload", {})
    synthetic = workload.get("synthetic") or {}
    rate = synthetic.get("requests_per_s") or (workload.get("trace") or {}).get("requests_per_s")
    constant = workload.get("kind") == "closed" and workload.get("refill") == "constant"
    written = datetime.fromtimestamp((run.path / "summary.json").stat().st_mtime)
    model = scenario.get("model", {})
    return {
        "date": written.strftime("%Y%m%d-%H%M%S"),
        "endpoint_type": BACKEND,
        "backend": BACKEND,
        "label": run.summary.get("scenario"),
        "model_id": model.get("name") if isinstance(model, dict) else model,
        "tokenizer_id": None,
        "num_prompts": prompts,
        "request_rate": "inf" if rate is None else rate,
        # vLLM's is the shape of the gamma distribution, ours the squared coefficient of variation of the gaps.
        "burstiness": 1 / float(synthetic.get("burstiness", 1.0)),
        "max_concurrency": workload.get("initial_requests") if constant else None,
    }


def _vllm_lists(ended: Sequence[tuple[RequestRow, list[float]]], *, detailed: bool) -> dict[str, Any]:
    """Lists with an entry a request, by arrival; vLLM writes two of them always."""
    ordered = sorted(ended, key=lambda each: (each[0].arrival_s, each[0].request))
    rows = [row for row, _ in ordered]
    lists: dict[str, Any] = {
        "input_lens": [row.prompt_tokens for row in rows],
        "output_lens": [row.emitted_tokens if row.finished else 0 for row in rows],
        "ttfts": [row.ttft_s or 0.0 for row in rows],
        "itls": [_gaps(times) for _, times in ordered],
        "latencies": [row.e2e_s or 0.0 for row in rows],
        "start_times": [row.arrival_s for row in rows],
        "queue_times": [0.0] * len(rows),
        "generated_texts": [""] * len(rows),
        "errors": ["" if row.finished else row.reason or row.outcome for row in rows],
    }
    return lists if detailed else {name: lists[name] for name in ("latencies", "queue_times")}


def _spread(name: str, values: Sequence[float], percentiles: Sequence[float]) -> dict[str, float]:
    """Mean, median, population standard deviation and percentiles in milliseconds; zeros of nothing, as vLLM has it."""
    milliseconds = 1e3 * np.asarray(values if len(values) else [0.0])
    figures = {
        f"mean_{name}_ms": float(np.mean(milliseconds)),
        f"median_{name}_ms": float(np.median(milliseconds)),
        f"std_{name}_ms": float(np.std(milliseconds)),
    }
    return figures | {
        f"p{int(p) if p == int(p) else p}_{name}_ms": float(np.percentile(milliseconds, p)) for p in percentiles
    }


def _good(row: RequestRow, slo: Mapping[str, float]) -> bool:
    """Whether a request meets all objectives; one of a single token has no TPOT to miss."""
    return all((getattr(row, name) or 0.0) <= limit for name, limit in slo.items())


def _peaks(done: Sequence[tuple[RequestRow, list[float]]]) -> tuple[float, int]:
    """Most tokens in a second, counted from the first arrival, and most requests at once; of those that finish."""
    if not done:
        return 0.0, 0
    origin = min(row.arrival_s for row, _ in done)
    seconds = (np.concatenate([times for _, times in done]) - origin).astype(int)
    steps = [(row.arrival_s, 1) for row, _ in done] + [(row.end_s or 0.0, -1) for row, _ in done]
    now = peak = 0
    # Who leaves goes before who comes at the same time.
    for _, step in sorted(steps):
        now += step
        peak = max(peak, now)
    return float(np.bincount(seconds).max()), peak


# -- AIPerf ------------------------------------------------------------------------------------


def aiperf_records(run: RunFiles) -> Iterator[dict[str, Any]]:
    """A record for each request that ended, in the order in which they ended; those in flight have none."""
    begin, _ = run.window
    known = run.has_token_times()
    ended = run.requests_with_token_times() if known else ((row, []) for row in run.requests())
    for row, times in ended:
        if row.end_s is None:
            continue
        yield {
            "metadata": {
                "session_num": row.request,
                "x_request_id": f"{run.summary.get('scenario')}-{run.summary.get('seed')}-{row.request}",
                "x_correlation_id": None,
                "conversation_id": None,
                "turn_index": 0,
                "request_start_ns": round(row.arrival_s * 1e9),
                "request_ack_ns": None,
                "request_end_ns": round(row.end_s * 1e9),
                "worker_id": BACKEND,
                "record_processor_id": BACKEND,
                "benchmark_phase": WARM_UP if row.end_s < begin else PROFILING,
                "was_cancelled": False,
                "cancellation_time_ns": None,
            },
            "metrics": _aiperf_metrics(row, times if known else None)
            if row.finished
            else {"error_isl": _value(row.prompt_tokens, "tokens")},
            "error": None if row.finished else _aiperf_error(row),
        }


def _aiperf_metrics(row: RequestRow, times_s: Sequence[float] | None) -> dict[str, dict[str, Any]]:
    metrics = {
        "input_sequence_length": _value(row.prompt_tokens, "tokens"),
        "output_sequence_length": _value(row.emitted_tokens, "tokens"),
        "output_token_count": _value(row.emitted_tokens, "tokens"),
        "request_latency": _value(1e3 * (row.e2e_s or 0.0), "ms"),
    }
    if row.ttft_s is not None:
        metrics["time_to_first_token"] = _value(1e3 * row.ttft_s, "ms")
    if times_s is not None and len(times_s) > 1:
        metrics["inter_chunk_latency"] = _value([1e3 * gap for gap in _gaps(times_s)], "ms")
    if row.tpot_s is not None:
        metrics["inter_token_latency"] = _value(1e3 * row.tpot_s, "ms")
        if row.tpot_s > 0:
            metrics["output_token_throughput_per_user"] = _value(1 / row.tpot_s, "tokens/sec/user")
    return metrics


def _aiperf_error(row: RequestRow) -> dict[str, Any]:
    code = REJECTED_CODE if row.outcome == "rejected" else FAILED_CODE
    return {"code": code, "type": f"Request{row.outcome.title()}", "message": row.reason or row.outcome}


def _value(value: float | list[float], unit: str) -> dict[str, Any]:
    return {"value": value, "unit": unit}
