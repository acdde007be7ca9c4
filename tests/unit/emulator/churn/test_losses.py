"""Requests that lose their pipeline: bounded retries, deadlines, copies of KV entries, waiting for better times."""

from __future__ import annotations

import math
from typing import Any

import pytest

from emulator.churn.spec import InFlight, InFlightPolicy, NodeEvent, NodeEventKind
from emulator.requests import Outcome
from emulator.spec import FirstToken, WhenFull
from tests.churn_runs import EVENTS, Watched, churn_spec, node_event, two_regions
from tests.small_runs import arrivals, constant, placed, toy_profile


def crashes(count: int, name: str = "d") -> list[NodeEvent]:
    return [node_event(5 + 4 * turn, NodeEventKind.CRASH, name, duration_s=0.1) for turn in range(count)]


def long_request(count: int, **in_flight: Any) -> Watched:
    """One request that needs half a minute on the only pipeline a, d, whose second node restarts over and over."""
    return Watched(
        churn_spec(
            crashes(count),
            placement=placed(a=(0, 2), d=(2, 4)),
            workload=arrivals((0.0, 100, 500)),
            duration_s=200.0,
            churn={"in_flight": InFlight(**in_flight)},
        )
    )


def test_retries_are_bounded() -> None:
    run = long_request(5, max_retries=3)
    (request,) = run.ended.values()
    assert request.outcome is Outcome.FAILED
    assert request.retries == 3
    assert "it has been tried again 3 times" in request.reason
    assert run.tokens[0] == request.emitted_tokens > 0


def test_enough_retries_see_it_through() -> None:
    run = long_request(5, max_retries=5)
    (request,) = run.ended.values()
    assert request.outcome is Outcome.FINISHED
    assert request.retries == 5
    assert run.tokens[0] == 500
    assert run.summary["recomputed_tokens"] == request.recomputed_tokens > 500


def test_a_request_keeps_its_deadline() -> None:
    run = long_request(5, max_retries=9, deadline_s=10.0)
    (request,) = run.ended.values()
    assert request.outcome is Outcome.FAILED
    assert "past its deadline" in request.reason
    assert request.end_s is not None
    # Crashes at 5 and 9 s are within it, the one at 13 s is not.
    assert 13 < request.end_s < 16


@pytest.mark.parametrize("first_token", list(FirstToken))
def test_copies_save_what_was_computed(first_token: FirstToken) -> None:
    found = {}
    for policy in (InFlightPolicy.RETRY, InFlightPolicy.REPLICATE):
        run = Watched(churn_spec(EVENTS["crash for good"], in_flight=policy, first_token=first_token))
        found[policy] = run
        assert run.churn["requests_retried"] > 0
        assert run.summary["requests"]["failed"] == 0
        for request in run.ended.values():
            assert run.tokens.get(request.number, 0) == request.emitted_tokens
    kept, retried = found[InFlightPolicy.REPLICATE], found[InFlightPolicy.RETRY]
    assert kept.churn["requests_resumed"] > 0
    assert kept.churn["replica_bytes_sent"] > 0
    assert kept.churn["tokens_recomputed"] < 0.2 * retried.churn["tokens_recomputed"]


def test_copies_that_are_under_way_are_worth_what_has_arrived() -> None:
    """Over a slow wire the copies lag behind; what has not arrived is computed again."""
    quick = Watched(churn_spec(EVENTS["crash for good"], in_flight=InFlightPolicy.REPLICATE))
    slow = Watched(
        churn_spec(EVENTS["crash for good"], in_flight=InFlightPolicy.REPLICATE, cluster=two_regions(bandwidth=4e5))
    )
    assert slow.churn["requests_retried"] > 0
    per_request = [run.churn["tokens_recomputed"] / run.churn["requests_retried"] for run in (quick, slow)]
    assert per_request[0] < per_request[1]


def test_copies_give_way_to_work() -> None:
    """Caches that hold four requests and a half: copies must not cost anybody its own entries."""
    cluster = two_regions()
    spec = churn_spec(
        [],
        in_flight=InFlightPolicy.REPLICATE,
        cluster=cluster,
        profiles={"gpu": toy_profile(kv_blocks=45)},
        workload=constant(8, 100, 40),
    )
    run = Watched(spec)
    plain = Watched(
        churn_spec([], cluster=cluster, profiles={"gpu": toy_profile(kv_blocks=45)}, workload=constant(8, 100, 40))
    )
    assert run.summary["preemptions"] == plain.summary["preemptions"]
    assert run.summary["requests"]["finished"] > 0.9 * plain.summary["requests"]["finished"]


@pytest.mark.parametrize("when_full", list(WhenFull))
def test_lost_memory_preempts_or_waits_but_never_overflows(when_full: WhenFull) -> None:
    run = Watched(churn_spec(EVENTS["gpu_memory_loss"], when_full=when_full))
    assert run.summary["preemptions"] > 0
    assert all(node["kv_peak"] <= 1 for node in run.summary["nodes"].values())


def test_without_the_whole_model_requests_wait_and_go_on_by_themselves() -> None:
    run = Watched(
        churn_spec(
            [node_event(10, NodeEventKind.CRASH, "c", "d", duration_s=8)],
            workload=arrivals(*[(float(second), 100, 10) for second in range(40)]),
        )
    )
    waited = [request for request in run.ended.values() if 12.5 < request.arrival_s < 17.5]
    assert waited
    for request in waited:
        assert request.outcome is Outcome.FINISHED
        assert request.admitted_s is not None
        assert request.admitted_s >= 20.0
    assert run.summary["requests"]["failed"] == run.summary["requests"]["rejected"] == 0


def test_the_admission_queue_is_bounded() -> None:
    run = Watched(
        churn_spec(
            [node_event(10, NodeEventKind.CRASH, "c", "d", duration_s=8)],
            workload=arrivals(*[(second / 2, 100, 10) for second in range(80)]),
            admission_queue_limit=5,
        )
    )
    rejected = [request for request in run.ended.values() if request.outcome is Outcome.REJECTED]
    assert rejected
    assert all("admission queue is full (5 requests)" in request.reason for request in rejected)


def test_when_nothing_can_come_back_nobody_waits() -> None:
    run = Watched(churn_spec([node_event(10, NodeEventKind.CRASH, "c", "d")], drain=True))
    reasons = {request.reason for request in run.ended.values() if request.outcome is not Outcome.FINISHED}
    assert reasons
    assert all("hold the whole model" in reason for reason in reasons)
    assert run.summary["sim_s"] < 60
    assert math.isfinite(run.summary["sim_s"])
