"""What a full KV cache does: nobody is lost, nobody aborts, and the books balance after every event."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_runs import random_spec, step_through
from small_runs import arrivals, placed, toy_cluster, toy_profile, toy_spec

from emulator.emulation import Emulation
from emulator.requests import Outcome, Request
from emulator.spec import EmulationSpec, FirstToken, SchedulerSpec, WhenFull, WhenNoRoute
from placement.cluster import COORDINATOR, Link

LAYERS = 4
POLICIES = list(WhenFull)


def pressed(kv_tokens: int, **changes: Any) -> EmulationSpec:
    """One node whose KV cache holds ``kv_tokens`` tokens of all layers; every request is admitted."""
    return toy_spec(
        **{
            "cluster": toy_cluster(kv_capacity=kv_tokens * LAYERS),
            "scheduler": SchedulerSpec(policy="round-robin"),
            "drain": True,
            "duration_s": 10.0,
            **changes,
        }
    )


def two_stages(kv_tokens: int, bandwidth: float, **changes: Any) -> EmulationSpec:
    """n0 holds [0, 3), n1 [1, 4): requests enter n1 at its middle layer 3, and at layer 1 through n2."""
    ways = [(COORDINATOR, "n0"), (COORDINATOR, "n2"), ("n0", "n1"), ("n2", "n1"), ("n1", COORDINATOR)]
    cluster = toy_cluster(("n0", "n1", "n2"), kv_capacity=kv_tokens, links=dict.fromkeys(ways, Link(bandwidth, 0.005)))
    return pressed(1, **{"cluster": cluster, "placement": placed(n0=(0, 3), n1=(1, 4), n2=(0, 1)), **changes})


def run_checked(spec: EmulationSpec) -> tuple[Emulation, list[Request]]:
    """Run to the last request with the books checked after every event."""
    emulation = Emulation(spec)
    ended: list[Request] = []
    emulation.state.coordinator.on_ended = ended.append
    step_through(emulation)
    state = emulation.state
    assert state.coordinator.open_requests == 0
    assert all(node.kv_used == 0 for node in state.nodes)
    assert state.dead == 0
    return emulation, ended


def test_reject_ends_the_youngest_and_lets_the_others_finish() -> None:
    # Two prompts of 100 tokens fit, a third does not.
    spec = pressed(250, when_full=WhenFull.REJECT, workload=arrivals(*((0.0, 100, 3),) * 3))
    _, ended = run_checked(spec)
    outcomes = {request.number: (request.outcome, request.reason) for request in ended}
    assert outcomes[0] == outcomes[1] == (Outcome.FINISHED, "")
    assert outcomes[2] == (Outcome.REJECTED, "KV cache of n0 is full")


def test_reject_calls_a_request_failed_that_already_gave_tokens() -> None:
    # Both prompts fit with 10 tokens to spare, which their decodes use up.
    spec = pressed(210, when_full=WhenFull.REJECT, workload=arrivals((0.0, 100, 50), (0.0, 100, 50)))
    _, ended = run_checked(spec)
    assert [request.outcome for request in ended] == [Outcome.FAILED, Outcome.FINISHED]
    assert ended[0].reason == "KV cache of n0 is full"
    assert 0 < ended[0].emitted_tokens < 50


def test_wait_holds_prefills_back_until_there_is_room() -> None:
    spec = pressed(120, when_full=WhenFull.WAIT, workload=arrivals((0.0, 100, 5), (0.0, 100, 5), (0.0, 100, 5)))
    emulation, ended = run_checked(spec)
    assert [request.outcome for request in ended] == [Outcome.FINISHED] * 3
    assert [request.number for request in ended] == [0, 1, 2]
    assert emulation.state.metrics.preemptions == 0
    # Each prefill begins when the one before has finished.
    for before, after in itertools.pairwise(ended):
        assert before.end_s is not None
        assert after.first_token_s is not None
        assert after.first_token_s > before.end_s


def test_preempt_takes_from_the_youngest_and_computes_again() -> None:
    spec = pressed(210, when_full=WhenFull.PREEMPT, workload=arrivals((0.0, 100, 50), (0.0, 100, 50)))
    tokens: dict[int, list[float]] = {0: [], 1: []}
    emulation = Emulation(spec)
    emulation.state.coordinator.on_token = lambda request, time: tokens[request.number].append(time)
    ended: list[Request] = []
    emulation.state.coordinator.on_ended = ended.append
    step_through(emulation)
    first, second = ended
    assert (first.number, first.preemptions, first.recomputed_tokens) == (0, 0, 0)
    assert (second.number, second.outcome) == (1, Outcome.FINISHED)
    assert second.preemptions == 1
    # Lost are its prompt and the tokens it had given but the last, whose entries the next iteration would have made.
    gap_at = max(range(1, 50), key=lambda index: tokens[1][index] - tokens[1][index - 1])
    assert second.recomputed_tokens == 100 + gap_at - 1
    for times in tokens.values():
        assert len(times) == 50
        assert times == sorted(times)
    metrics = emulation.state.metrics
    assert (metrics.preemptions, metrics.recomputed_tokens) == (1, second.recomputed_tokens)
    # What is computed again is no throughput.
    assert metrics.prefill_tokens == 100 + 100


def test_preemptions_count_while_the_request_still_waits() -> None:
    spec = pressed(
        210, when_full=WhenFull.PREEMPT, workload=arrivals((0.0, 100, 50), (0.0, 100, 50)), drain=False, duration_s=1.0
    )
    summary = Emulation(spec).run()
    assert summary["requests"]["waiting"] == 1
    assert summary["preemptions"] == 1
    assert summary["recomputed_tokens"] > 100


@pytest.mark.parametrize("first_token", list(FirstToken))
@pytest.mark.parametrize("when_full", POLICIES)
def test_a_request_that_can_never_fit_is_rejected_with_the_reason(when_full: WhenFull, first_token: FirstToken) -> None:
    spec = pressed(90, when_full=when_full, first_token=first_token, workload=arrivals((0.0, 100, 5), (0.1, 50, 5)))
    _, ended = run_checked(spec)
    outcomes = {request.number: (request.outcome, request.reason) for request in ended}
    assert outcomes[0] == (Outcome.REJECTED, "needs 400 KV layer-tokens on n0, which has 360")
    assert outcomes[1] == (Outcome.FINISHED, "")


@pytest.mark.parametrize("when_full", POLICIES)
def test_a_request_that_outgrows_an_empty_cache_fails_with_what_it_gave(when_full: WhenFull) -> None:
    spec = pressed(110, when_full=when_full, workload=arrivals((0.0, 100, 50)))
    _, (request,) = run_checked(spec)
    assert request.outcome is Outcome.FAILED
    # The last token's own entries are never needed.
    assert request.emitted_tokens == 11
    assert request.reason == "needs 444 KV layer-tokens on n0, which has 440"


@pytest.mark.parametrize("when_full", POLICIES)
def test_who_queues_behind_an_impossible_request_is_served(when_full: WhenFull) -> None:
    """One prompt a batch: when the first one's batch comes to nothing, the node must look for the next by itself."""
    spec = pressed(
        90,
        when_full=when_full,
        profiles={"gpu": toy_profile(max_prompts=1)},
        workload=arrivals((0.0, 30, 1), (0.0, 100, 1), (0.0, 100, 1), (0.0, 50, 2)),
    )
    _, ended = run_checked(spec)
    assert sorted((request.number, str(request.outcome)) for request in ended) == [
        (0, "finished"),
        (1, "rejected"),
        (2, "rejected"),
        (3, "finished"),
    ]


@pytest.mark.parametrize("when_full", [WhenFull.WAIT, WhenFull.PREEMPT])
def test_waiting_does_not_lock_up_where_requests_enter_at_middle_layers(when_full: WhenFull) -> None:
    """Prompts that have run a node's first layers must not wait for each other to run the rest."""
    one_hop = two_stages(
        450,
        1e6,
        when_full=when_full,
        workload=arrivals(*[(index * 0.001, 100, 4) for index in range(12)]),
    )
    _, ended = run_checked(one_hop)
    assert [request.outcome for request in ended] == [Outcome.FINISHED] * 12


def test_entries_of_a_victim_at_a_middle_layer_are_freed() -> None:
    """A request that is rejected at a node's second segment has entries of the first one there."""
    # Every other request goes by n2. The second and third of those run layers 1 and 2 of n1 together; then 700 of 880
    # are in use there, and layer 3 has room for one of them only.
    short, long = (0.0, 1, 1), (0.0, 100, 20)
    spec = two_stages(880, 1e9, when_full=WhenFull.REJECT, workload=arrivals(short, long, short, long, short, long))
    emulation = Emulation(spec)
    n1 = emulation.state.nodes[1]
    seen: list[int] = []
    emulation.state.coordinator.on_ended = lambda request: seen.append(n1.kv_used) if request.number == 5 else None
    step_through(emulation)
    assert emulation.state.coordinator.open_requests == 0
    assert emulation.state.metrics.outcomes[Outcome.REJECTED] == 1
    # The first has entries in three layers, the second so far in two, the third none.
    assert seen == [500]


def test_max_flow_rejects_at_once_what_no_pipeline_could_ever_take() -> None:
    # At most 0.9 of 800 tokens, of which 144 are kept for the output.
    spec = pressed(
        800,
        scheduler=SchedulerSpec(policy="max-flow"),
        when_no_route=WhenNoRoute.WAIT,
        workload=arrivals((0.0, 500, 40), (0.1, 577, 3), (0.2, 576, 3)),
    )
    _, ended = run_checked(spec)
    assert [(request.number, str(request.outcome)) for request in ended] == [
        (1, "rejected"),
        (0, "finished"),
        (2, "finished"),
    ]
    assert ended[0].reason == (
        "prompt of 577 tokens; no pipeline takes more than 576, even with nothing else in flight"
    )
    assert ended[0].end_s == ended[0].arrival_s


def test_max_flow_takes_a_preempted_request_back_that_has_outgrown_its_expectation() -> None:
    """Preempted with 550 of 620 tokens, it is longer than a new request may be."""
    spec = pressed(
        620,
        scheduler=SchedulerSpec(
            policy="max-flow", options={"expected_output_ratio": 0.0, "expected_kv_high_water_mark": 0.85}
        ),
        when_full=WhenFull.PREEMPT,
        duration_s=60.0,
        workload=arrivals((0.0, 20, 100), (0.0, 500, 110)),
    )
    _, ended = run_checked(spec)
    assert [str(request.outcome) for request in ended] == ["finished", "finished"]
    assert ended[1].preemptions >= 1
    # The first admission, and one that no new request of its length would have got.
    assert ended[1].recomputed_tokens > 0.85 * 620


def test_new_requests_do_not_overtake_a_preempted_one() -> None:
    spec = pressed(
        210,
        when_full=WhenFull.PREEMPT,
        when_no_route=WhenNoRoute.REJECT,
        workload=arrivals((0.0, 100, 50), (0.0, 100, 50), (2.0, 10, 1)),
    )
    _, ended = run_checked(spec)
    late = next(request for request in ended if request.number == 2)
    assert late.reason == "no pipeline with enough free KV cache"
    assert sum(request.outcome is Outcome.FINISHED for request in ended) == 2


@given(
    seed=st.integers(0, 1 << 32),
    when_full=st.sampled_from(POLICIES),
    when_no_route=st.sampled_from(list(WhenNoRoute)),
    first_token=st.sampled_from(list(FirstToken)),
    policy=st.sampled_from(["round-robin", "swarm", "shortest-queue", "random", "max-flow"]),
    kv_tokens=st.integers(60, 500),
    in_flight=st.integers(1, 12),
)
@settings(max_examples=120, deadline=None)
def test_the_books_balance_after_every_event(
    seed: int,
    when_full: WhenFull,
    when_no_route: WhenNoRoute,
    first_token: FirstToken,
    policy: str,
    kv_tokens: int,
    in_flight: int,
) -> None:
    spec = random_spec(
        seed,
        policy,
        in_flight=in_flight,
        kv_tokens=(kv_tokens, kv_tokens + 60),
        options={"expected_output_ratio": 0.0} if policy == "max-flow" else {},
        duration_s=1.0,
        when_full=when_full,
        when_no_route=when_no_route,
        first_token=first_token,
    )
    emulation = Emulation(spec)
    ended: list[Request] = []
    tokens: dict[int, int] = {}
    emulation.state.coordinator.on_ended = ended.append

    def on_token(request: Request, _time: float) -> None:
        tokens[request.number] = tokens.get(request.number, 0) + 1

    emulation.state.coordinator.on_token = on_token
    step_through(emulation)
    state = emulation.state
    assert state.coordinator.open_requests == 0
    assert state.dead == 0
    assert len(ended) == state.metrics.submitted
    for request in ended:
        assert tokens.get(request.number, 0) == request.emitted_tokens <= request.output_tokens
        assert (request.outcome is Outcome.FINISHED) == (request.emitted_tokens == request.output_tokens)
        assert (request.reason == "") == (request.outcome is Outcome.FINISHED)
        if when_full is WhenFull.REJECT:
            assert request.preemptions == 0
