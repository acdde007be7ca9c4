"""The coordinator: who is admitted when, who is refused and why, and what counts as a token."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from small_runs import PREFILL_S_PER_TOKEN, arrivals, constant, toy_cluster, toy_profile, toy_spec

from emulator.emulation import Emulation
from emulator.errors import SimulationError
from emulator.requests import Outcome, Request
from emulator.spec import EmulationSpec, FirstToken, SchedulerSpec, Slo, WhenNoRoute

# One node with all four layers and 0.9 * 400 tokens of expected KV room: 144 for the output, 100 for the prompt,
# so one request at a time.
ONE_AT_A_TIME = toy_cluster(kv_capacity=4 * 400)


def run(spec: EmulationSpec) -> tuple[dict[str, Any], list[Request]]:
    ended: list[Request] = []
    summary = Emulation(spec, on_ended=ended.append).run()
    return summary, ended


def narrow(*requests: tuple[float, int, int], **changes: Any) -> EmulationSpec:
    return toy_spec(cluster=ONE_AT_A_TIME, workload=arrivals(*requests), **changes)


# -- admission ---------------------------------------------------------------------------------


def test_requests_wait_for_a_pipeline_in_order_of_arrival() -> None:
    # The last one would fit beside the first, but not before those that came earlier.
    _, ended = run(narrow((0.0, 100, 4), (0.1, 100, 4), (0.2, 100, 4), (0.3, 1, 4)))
    by_number = sorted(ended, key=lambda request: request.number)
    admitted = [request.admitted_s for request in by_number]
    assert admitted[0] == 0.0
    assert admitted[1] == by_number[0].end_s
    assert admitted[2] == by_number[1].end_s
    assert admitted[3] is not None
    assert admitted[2] is not None
    assert admitted[3] >= admitted[2]


def test_waiting_counts_into_ttft_and_admission_wait() -> None:
    summary, ended = run(narrow((0.0, 100, 4), (0.1, 100, 4)))
    second = ended[1]
    assert second.admitted_s is not None
    assert second.first_token_s is not None
    assert second.ttft_s == second.first_token_s - 0.1
    assert summary["admission_wait_s"]["max"] == pytest.approx(second.admitted_s - 0.1)
    assert summary["admission_wait_s"]["min"] == 0.0


def test_the_admission_queue_has_a_limit() -> None:
    _, ended = run(narrow(*((0.01 * index, 100, 4) for index in range(5)), admission_queue_limit=2))
    outcomes = {request.number: (str(request.outcome), request.reason) for request in ended}
    assert outcomes == {
        0: ("finished", ""),
        1: ("finished", ""),
        2: ("finished", ""),
        3: ("rejected", "admission queue is full (2 requests)"),
        4: ("rejected", "admission queue is full (2 requests)"),
    }


def test_without_a_queue_a_request_without_a_pipeline_is_rejected() -> None:
    _, ended = run(narrow((0.0, 100, 4), (0.01, 100, 4), (5.0, 100, 4), when_no_route=WhenNoRoute.REJECT))
    assert [(request.number, str(request.outcome), request.reason) for request in ended] == [
        (1, "rejected", "no pipeline with enough free KV cache"),
        (0, "finished", ""),
        (2, "finished", ""),
    ]


@pytest.mark.parametrize("policy", ["max-flow", "random"])
@pytest.mark.parametrize("when_no_route", list(WhenNoRoute))
def test_a_prompt_longer_than_any_batch_is_rejected(policy: str, when_no_route: WhenNoRoute) -> None:
    spec = toy_spec(
        profiles={"gpu": toy_profile(max_prompts=1)},
        scheduler=SchedulerSpec(policy=policy),
        when_no_route=when_no_route,
        workload=arrivals((0.0, 2049, 4), (0.1, 2048, 4)),
    )
    _, ended = run(spec)
    assert ended[0].outcome is Outcome.REJECTED
    assert ended[0].reason == "prompt of 2049 tokens; no node takes more than 2048 in a batch"
    assert ended[1].outcome is Outcome.FINISHED


@pytest.mark.parametrize("lengths", [(0, 5), (5, 0), (-1, 5)])
def test_lengths_below_one_are_an_error(lengths: tuple[int, int]) -> None:
    emulation = Emulation(toy_spec())
    with pytest.raises(SimulationError, match="both must be at least 1"):
        emulation.state.coordinator.submit(*lengths)


def test_requests_under_way_at_the_end_are_in_flight() -> None:
    summary, ended = run(narrow((0.0, 100, 10_000), (0.1, 100, 4), duration_s=2.0))
    counts = summary["requests"]
    assert (counts["submitted"], counts["in_flight"], counts["waiting"], counts["finished"]) == (2, 2, 1, 0)
    assert [(request.number, str(request.outcome)) for request in ended] == [(0, "in_flight"), (1, "in_flight")]
    assert ended[0].emitted_tokens > 0
    assert ended[0].end_s is None


# -- counting ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first_token", "decodes", "tpot_gaps"), [(FirstToken.PREFILL, 4, 4), (FirstToken.DECODE, 5, 4)]
)
def test_both_counting_conventions(first_token: FirstToken, decodes: int, tpot_gaps: int) -> None:
    tokens: list[float] = []
    emulation = Emulation(toy_spec(first_token=first_token, workload=arrivals((0.0, 100, 5))))
    emulation.state.coordinator.on_token = lambda _request, time: tokens.append(time)
    ended: list[Request] = []
    emulation.state.coordinator.on_ended = ended.append
    summary = emulation.run()
    assert len(tokens) == ended[0].emitted_tokens == 5
    assert summary["prefill_latency_s"]["count"] == 1
    assert summary["decode_latency_s"]["count"] == decodes
    assert summary["itl_s"]["count"] == tpot_gaps
    assert (ended[0].first_token_s, ended[0].end_s) == (tokens[0], tokens[-1])
    assert ended[0].tpot_s == pytest.approx((tokens[-1] - tokens[0]) / 4)
    assert summary["decode_throughput_tokens_per_s"] == pytest.approx(decodes / 60)
    assert summary["total_throughput_tokens_per_s"] == pytest.approx((100 + decodes) / 60)


@pytest.mark.parametrize(("first_token", "decodes"), [(FirstToken.PREFILL, 0), (FirstToken.DECODE, 1)])
def test_a_single_token_has_no_tpot(first_token: FirstToken, decodes: int) -> None:
    summary, ended = run(toy_spec(first_token=first_token, workload=arrivals((0.0, 100, 1))))
    assert ended[0].outcome is Outcome.FINISHED
    assert ended[0].tpot_s is None
    assert summary["tpot_s"]["count"] == 0
    assert summary["decode_latency_s"]["count"] == decodes


def test_nothing_is_sent_after_the_last_token() -> None:
    emulation = Emulation(toy_spec(workload=arrivals((0.0, 100, 3))))
    emulation.run()
    # A prefill and two decodes, there and back.
    assert [link.wire.messages for link in emulation.state.links] == [3, 3]


# -- the window --------------------------------------------------------------------------------


def test_the_warm_up_is_not_measured() -> None:
    spec = toy_spec(workload=constant(2, prompt=100, output=20), duration_s=40.0, warm_up_s=15.0)
    whole, _ = run(dataclasses.replace(spec, warm_up_s=0.0))
    part, _ = run(spec)
    start, _ = run(dataclasses.replace(spec, warm_up_s=0.0, duration_s=15.0))
    assert part["window_s"] == 25.0
    for key in ("prefill_latency_s", "decode_latency_s", "ttft_s", "itl_s", "e2e_s"):
        assert part[key]["count"] == whole[key]["count"] - start[key]["count"] > 0
    throughput = "decode_throughput_tokens_per_s"
    assert part[throughput] * 25 == pytest.approx(whole[throughput] * 40 - start[throughput] * 15)
    node, link = "n0", "coordinator->n0"
    assert part["nodes"][node]["batches"] == whole["nodes"][node]["batches"] - start["nodes"][node]["batches"]
    assert part["links"][link]["messages"] == whole["links"][link]["messages"] - start["links"][link]["messages"]
    # Requests are counted over the whole run, so that they add up.
    assert part["requests"]["submitted"] == whole["requests"]["submitted"]
    assert part["requests"]["finished_in_window"] == whole["requests"]["finished"] - start["requests"]["finished"]
    assert part["request_throughput_per_s"] == pytest.approx(part["requests"]["finished_in_window"] / 25)
    assert part["event_log_sha256"] == whole["event_log_sha256"]


def test_goodput_counts_requests_that_meet_every_objective() -> None:
    # Prompts of 100 and 1,000 tokens: TTFT about 0.05 s and 0.41 s; 10 and 50 tokens: E2E about 0.5 s and 2.5 s.
    spec = toy_spec(
        profiles={"gpu": toy_profile(kv_blocks=10_000)},
        workload=arrivals((0.0, 100, 10), (10.0, 1000, 10), (20.0, 100, 50), (30.0, 100, 1)),
        duration_s=40.0,
    )

    def good(**limits: float) -> float:
        summary, ended = run(dataclasses.replace(spec, slo=Slo(**limits)))
        assert len(ended) == 4
        assert summary["slo"] == limits
        return float(summary["goodput_requests_per_s"] * 40)

    assert good(ttft_s=10.0) == pytest.approx(4)
    assert good(ttft_s=1000 * PREFILL_S_PER_TOKEN) == pytest.approx(3)
    assert good(e2e_s=1.5) == pytest.approx(3)
    assert good(ttft_s=0.1, e2e_s=1.5) == pytest.approx(2)
    # A request of one token has no TPOT to miss.
    assert good(tpot_s=0.001) == pytest.approx(1)


def test_goodput_is_left_out_without_objectives() -> None:
    summary, _ = run(toy_spec())
    assert "goodput_requests_per_s" not in summary
    assert "slo" not in summary


def test_a_node_or_link_is_never_busier_than_always() -> None:
    """A link that gets more than it can carry is busy all the time, however long its queue."""
    spec = toy_spec(
        cluster=toy_cluster(bandwidth=2_000.0), workload=arrivals(*((0.1 * index, 1000, 5) for index in range(100)))
    )
    summary, _ = run(dataclasses.replace(spec, duration_s=20.0))
    assert summary["links"]["coordinator->n0"]["bytes"] > 20 * 2_000
    assert summary["links"]["coordinator->n0"]["utilisation"] == 1.0
    assert 0 < summary["nodes"]["n0"]["utilisation"] <= 1.0


# -- ends --------------------------------------------------------------------------------------


def test_drain_goes_on_until_everybody_is_done() -> None:
    spec = toy_spec(workload=constant(3, prompt=100, output=200), duration_s=5.0, drain=True)
    summary, ended = run(spec)
    counts = summary["requests"]
    assert counts["in_flight"] == 0
    assert counts["finished"] == counts["submitted"] == len(ended)
    assert summary["sim_s"] == max(request.end_s or 0.0 for request in ended) > 5.0
    assert all(request.arrival_s <= 5.0 + 0.1 for request in ended)


def test_ctrl_c_between_events_marks_the_run_interrupted() -> None:
    emulation = Emulation(toy_spec(workload=constant(3), duration_s=1e6))
    ended: list[Request] = []
    emulation.state.coordinator.on_ended = ended.append
    emulation.env.call_at(7.0, lambda _event: emulation.env.interrupt())
    summary = emulation.run()
    assert summary["interrupted"] is True
    assert 7.0 <= summary["sim_s"] < 8.0
    assert summary["window_s"] == summary["sim_s"]
    counts = summary["requests"]
    assert counts["submitted"] == sum(counts[key] for key in ("finished", "rejected", "failed", "in_flight"))


def test_ctrl_c_in_the_progress_callback_marks_the_run_interrupted() -> None:
    def stop(_progress: object) -> None:
        raise KeyboardInterrupt

    summary = Emulation(toy_spec(), on_progress=stop).run()
    assert summary["interrupted"] is True
    assert summary["sim_s"] == pytest.approx(60.0 / 200)


def test_progress_is_reported_about_two_hundred_times() -> None:
    seen: list[tuple[float, float]] = []
    Emulation(toy_spec(), on_progress=lambda progress: seen.append((progress.sim_s, progress.duration_s))).run()
    assert len(seen) == 200
    assert seen[-1] == (60.0, 60.0)
    assert [at_s for at_s, _ in seen] == sorted(at_s for at_s, _ in seen)
