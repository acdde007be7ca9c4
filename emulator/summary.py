"""The figures of a run, as ``summary.json`` holds them."""

from __future__ import annotations

from typing import Any

from emulator.cluster import ClusterState
from emulator.node import GpuNode
from emulator.requests import Outcome

SUMMARY_VERSION = 1


def summarise(state: ClusterState, *, wall_s: float, cpu_s: float, interrupted: bool) -> dict[str, Any]:
    """All figures of a finished run; every key names its unit. See the README for the definitions."""
    metrics = state.metrics
    spec = state.spec
    # A draining run measures until its last request is done.
    end_s = state.env.now
    window_s = max(end_s - metrics.window_start_s, 0.0)
    per_s = 1 / window_s if window_s > 0 else 0.0
    flow = state.flow
    waiting = sum(1 for _ in state.coordinator.waiting)
    summary: dict[str, Any] = {
        "summary_version": SUMMARY_VERSION,
        "scenario": spec.name,
        "seed": spec.seed,
        "interrupted": interrupted,
        "sim_s": state.env.now,
        "window_s": window_s,
        "decode_throughput_tokens_per_s": metrics.decode_iterations * per_s,
        "total_throughput_tokens_per_s": (metrics.decode_iterations + metrics.prefill_tokens) * per_s,
        "request_throughput_per_s": metrics.finished * per_s,
        "requests": {
            "submitted": metrics.submitted,
            "finished": metrics.outcomes[Outcome.FINISHED],
            "rejected": metrics.outcomes[Outcome.REJECTED],
            "failed": metrics.outcomes[Outcome.FAILED],
            "in_flight": state.coordinator.in_flight_count + waiting,
            "waiting": waiting,
            "finished_in_window": metrics.finished,
        },
        "preemptions": metrics.preemptions,
        "recomputed_tokens": metrics.recomputed_tokens,
        "prefill_latency_s": metrics.prefill.summary(),
        "decode_latency_s": metrics.decode_latency().summary(),
        "ttft_s": metrics.ttft.summary(),
        "tpot_s": metrics.tpot.summary(),
        "itl_s": metrics.itl().summary(),
        "e2e_s": metrics.e2e.summary(),
        "admission_wait_s": metrics.queue.summary(),
        "max_flow_tokens_per_s": flow.tokens_per_s,
        "flow_upper_bound_tokens_per_s": state.flow_upper_bound_tokens_per_s,
        "min_cut": [
            {
                "kind": edge.kind,
                "source": edge.source,
                "target": edge.target,
                "capacity_tokens_per_s": edge.capacity_tokens_per_s,
            }
            for edge in flow.min_cut
        ],
        "nodes": {node.name: _node_figures(state, node, per_s) for node in state.latest.values()},
        "links": {
            wire.name: {
                "bytes": wire.bytes_sent,
                "messages": wire.messages,
                # What was handed over late in the window may still wait for its turn at the end.
                "utilisation": min(1.0, wire.bytes_sent / wire.clock.bytes_per_s * per_s),
            }
            for wire in state.used_wires()
        },
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "sim_s_per_cpu_s": state.env.now / cpu_s if cpu_s > 0 else None,
        "event_log_sha256": state.log.sha256(),
        "event_log_lines": state.log.lines,
    }
    if state.churn is not None:
        summary["retries"] = metrics.retries
        summary["churn"] = state.churn.report.figures()
    if spec.slo.given:
        slo = {"ttft_s": spec.slo.ttft_s, "tpot_s": spec.slo.tpot_s, "e2e_s": spec.slo.e2e_s}
        summary["slo"] = {key: value for key, value in slo.items() if value is not None}
        summary["goodput_requests_per_s"] = metrics.good * per_s
    return summary


def _node_figures(state: ClusterState, node: GpuNode, per_s: float) -> dict[str, Any]:
    return {
        "layers": [node.held.start, node.held.stop],
        "utilisation": node.busy_until_now_s() * per_s,
        "kv_peak": node.highest_kv_use,
        "kv_capacity_layer_tokens": node.kv_capacity,
        "batches": node.batches,
        "mean_batch": node.batched / node.batches if node.batches else 0.0,
        "flow_tokens_per_s": state.flow.node_flow.get(node.name, 0.0),
    }
