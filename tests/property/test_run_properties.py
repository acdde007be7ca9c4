"""What holds in every run, whatever the cluster, the workload and the policies."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from random_runs import random_spec

from emulator.emulation import Emulation
from emulator.links import EmulatedLink, Transfer
from emulator.requests import Outcome, Request
from emulator.schedulers import POLICY_NAMES
from emulator.spec import EmulationSpec, FirstToken, LinkSharing, LogLevel, WhenFull, WhenNoRoute
from emulator.workload import FixedLengths, OpenLoop, QuantileLengths, RandomArrivals

LENGTHS = QuantileLengths(prompt_quantiles=[1, 20, 100], bin_edges=[30], output_quantiles=[[1, 5], [2, 12]])


@st.composite
def specs(draw: st.DrawFn, *, drain: bool | None = None, log_level: LogLevel = LogLevel.REQUESTS) -> EmulationSpec:
    """Random small clusters and workloads under all policies; KV caches from tight to ample."""
    kv_tokens = draw(st.integers(60, 2_000))
    rate = draw(st.none() | st.floats(1.0, 60.0))
    workload = None
    if rate is not None:
        burstiness = draw(st.sampled_from([0.2, 1.0, 5.0]))
        workload = OpenLoop(source=RandomArrivals(requests_per_s=rate, burstiness=burstiness, lengths=LENGTHS))
    policy = draw(st.sampled_from(POLICY_NAMES))
    return random_spec(
        draw(st.integers(0, 1 << 32)),
        policy,
        # Otherwise it would keep more room for outputs than such small caches have.
        options={"expected_output_ratio": 0.05} if policy == "max-flow" else {},
        in_flight=draw(st.integers(1, 15)),
        workload=workload,
        kv_tokens=(kv_tokens, 2 * kv_tokens),
        duration_s=1.5,
        warm_up_s=draw(st.sampled_from([0.0, 0.5])),
        sharing=draw(st.sampled_from(list(LinkSharing))),
        when_full=draw(st.sampled_from(list(WhenFull))),
        when_no_route=draw(st.sampled_from(list(WhenNoRoute))),
        first_token=draw(st.sampled_from(list(FirstToken))),
        drain=draw(st.booleans()) if drain is None else drain,
        log_level=log_level,
    )


def run(spec: EmulationSpec) -> tuple[Emulation, dict[str, Any], list[Request]]:
    ended: list[Request] = []
    emulation = Emulation(spec, on_ended=ended.append)
    return emulation, emulation.run(), ended


@given(specs())
@settings(max_examples=60, deadline=None)
def test_every_request_is_accounted_for(spec: EmulationSpec) -> None:
    emulation, summary, ended = run(spec)
    counts = summary["requests"]
    assert counts["submitted"] == sum(counts[key] for key in ("finished", "rejected", "failed", "in_flight"))
    assert sorted(request.number for request in ended) == list(range(counts["submitted"]))
    by_outcome = dict.fromkeys(Outcome, 0)
    for request in ended:
        by_outcome[request.outcome] += 1
    assert {str(outcome): count for outcome, count in by_outcome.items()} == {key: counts[key] for key in by_outcome}
    for request in ended:
        finished = request.outcome is Outcome.FINISHED
        assert finished == (request.emitted_tokens == request.output_tokens)
        assert bool(request.reason) == (request.outcome in (Outcome.REJECTED, Outcome.FAILED))
        if finished:
            assert request.admitted_s is not None
            assert request.first_token_s is not None
            assert request.end_s is not None
            assert request.arrival_s <= request.admitted_s < request.first_token_s <= request.end_s
    emulation.state.check_invariants()


@given(specs(drain=True))
@settings(max_examples=60, deadline=None)
def test_a_drained_run_leaves_nothing_behind(spec: EmulationSpec) -> None:
    emulation, summary, ended = run(spec)
    state = emulation.state
    assert summary["requests"]["in_flight"] == 0
    assert all(node.kv_used == 0 for node in state.nodes)
    assert state.dead == 0
    assert state.kv_bottleneck() == 0
    assert all(request.outcome is not Outcome.IN_FLIGHT for request in ended)
    assert all(0 <= figures["kv_peak"] <= 1 for figures in summary["nodes"].values())


@given(specs(drain=True))
@settings(max_examples=60, deadline=None)
def test_tokens_in_are_tokens_out(spec: EmulationSpec) -> None:
    """Every token that a client got came from one iteration that was counted."""
    emulation, _, ended = run(dataclasses.replace(spec, warm_up_s=0.0))
    metrics = emulation.state.metrics
    emitted = sum(request.emitted_tokens for request in ended)
    by_prefill = metrics.prefill.count + len(metrics.prefill.samples)
    if spec.first_token is FirstToken.PREFILL:
        assert metrics.decode_iterations + by_prefill == emitted
    else:
        assert metrics.decode_iterations == emitted
    if spec.when_full is WhenFull.REJECT:
        assert metrics.recomputed_tokens == 0


@given(specs(log_level=LogLevel.HOPS))
@settings(max_examples=60, deadline=None)
def test_links_deliver_in_the_order_of_sending(spec: EmulationSpec) -> None:
    pieces: list[bytes] = []
    emulation = Emulation(spec, log_sink=pieces.append)
    delivered: dict[str, list[tuple[float, int]]] = {}
    for link in emulation.state.links:
        if link.node is not None:
            watch(link, delivered.setdefault(link.name, []))
    emulation.run()
    sent: dict[str, list[int]] = {name: [] for name in delivered}
    last: dict[str, float] = {}
    for line in b"".join(pieces).splitlines():
        event = json.loads(line)
        if event["event"] != "transfer":
            continue
        assert event["t"] <= event["first_s"] <= event["last_s"]
        assert event["first_s"] >= last.get(event["link"], 0.0)
        last[event["link"]] = event["last_s"]
        if event["link"] in sent:
            sent[event["link"]] += event["requests"]
    for name, arrivals in delivered.items():
        assert arrivals == sorted(arrivals, key=lambda arrival: arrival[0])
        # What was still on its way at the end was sent last.
        assert [number for _, number in arrivals] == sent[name][: len(arrivals)]


def watch(link: EmulatedLink, arrivals: list[tuple[float, int]]) -> None:
    """Note when each message is through the receiving card, and whose it is."""
    receive = link.deliver

    def watched(transfer: Transfer) -> None:
        receive(transfer)
        arrivals.extend(zip(transfer.times, (item.request.number for item in transfer.items), strict=True))

    link.deliver = watched


@given(specs(log_level=LogLevel.HOPS))
@settings(max_examples=30, deadline=None)
def test_the_same_spec_gives_the_same_log(spec: EmulationSpec) -> None:
    assert run(spec)[1]["event_log_sha256"] == run(spec)[1]["event_log_sha256"]


@given(st.integers(0, 1 << 32), st.sampled_from(POLICY_NAMES))
@settings(max_examples=20, deadline=None)
def test_another_seed_gives_another_log(seed: int, policy: str) -> None:
    lengths = FixedLengths(prompt_tokens=20, output_tokens=3)
    workload = OpenLoop(source=RandomArrivals(requests_per_s=20.0, lengths=lengths))
    spec = random_spec(seed, policy, workload=workload)
    other = dataclasses.replace(spec, seed=seed + 1)
    assert run(spec)[1]["event_log_sha256"] != run(other)[1]["event_log_sha256"]
