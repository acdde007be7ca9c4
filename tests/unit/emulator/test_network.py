"""Links and network cards of the running cluster: who waits for whom, and what arrives when."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_runs import DECODE_S, MODEL, PREFILL_S_PER_TOKEN, arrivals, constant, placed, toy_spec

from emulator.emulation import Emulation
from emulator.node import GpuNode, Segment
from emulator.requests import Request
from emulator.spec import EmulationSpec, HostCost, LinkSharing, SchedulerSpec
from placement.cluster import COORDINATOR, Cluster, Coordinator, Link, Network, Node

NO_HOST_COST = HostCost(concat_bytes_per_s=1e30, transfer_bytes_per_s=1e30)
FAST = 1e12
LATENCY = 0.005


def node(name: str, *, nic_in: float = FAST, nic_out: float = FAST) -> Node:
    return Node(
        name=name,
        machine_type="gpu",
        nic_in_bytes_per_s=nic_in,
        nic_out_bytes_per_s=nic_out,
        disk_bytes_per_s=1e9,
        vram_bytes=1e12,
    )


def cluster_of(nodes: list[Node], rates: dict[tuple[str, str], float], *, coordinator_nic: float = FAST) -> Cluster:
    return Cluster(
        name="cards",
        nodes=tuple(nodes),
        coordinator=Coordinator(nic_in_bytes_per_s=coordinator_nic, nic_out_bytes_per_s=coordinator_nic),
        network=Network(links={pair: Link(rate, LATENCY) for pair, rate in rates.items()}),
    )


def spec_of(cluster: Cluster, **changes: Any) -> EmulationSpec:
    fields: dict[str, Any] = {
        "cluster": cluster,
        "scheduler": SchedulerSpec(policy="round-robin"),
        "host_cost": NO_HOST_COST,
        **changes,
    }
    return toy_spec(**fields)


def ended_of(spec: EmulationSpec) -> list[Request]:
    ended: list[Request] = []
    emulation = Emulation(spec, on_ended=ended.append)
    emulation.run()
    return sorted(ended, key=lambda request: request.number)


# -- sharing -----------------------------------------------------------------------------------

PARALLEL = {
    (COORDINATOR, "a"): FAST,
    (COORDINATOR, "b"): FAST,
    ("a", COORDINATOR): FAST,
    ("b", COORDINATOR): FAST,
}
COMPUTE_S = 4 * 1000 * PREFILL_S_PER_TOKEN


@pytest.mark.parametrize(
    ("sharing", "first_wire_s", "second_wire_s"),
    [
        # The card sends one prompt of 2,000 bytes after the other at full rate,
        (LinkSharing.CLOCKS, 0.2, 0.4),
        # or each link has half of it.
        (LinkSharing.SHARES, 0.4, 0.4),
    ],
)
def test_two_links_share_the_sending_card(sharing: LinkSharing, first_wire_s: float, second_wire_s: float) -> None:
    cluster = cluster_of([node("a"), node("b")], PARALLEL, coordinator_nic=10_000.0)
    workload = arrivals((0.0, 1000, 1), (0.0, 1000, 1))
    spec = spec_of(cluster, placement=placed(a=(0, 4), b=(0, 4)), workload=workload, sharing=sharing)
    emulation = Emulation(spec)
    starts: dict[str, float] = {}
    emulation.env.run_to(1.5)
    for one in emulation.state.nodes:
        starts[one.name] = one.busy_s
    assert list(starts.values()) == pytest.approx([COMPUTE_S, COMPUTE_S])
    first, second = ended_of(spec)
    # The way back: the receiving card, or its share, takes 0.2 s or nothing but the link.
    back_first = back_second = 0.2 if sharing is LinkSharing.CLOCKS else 2000 / FAST
    assert first.ttft_s == pytest.approx(first_wire_s + COMPUTE_S + back_first + 2 * LATENCY, abs=1e-6)
    assert second.ttft_s == pytest.approx(second_wire_s + COMPUTE_S + back_second + 2 * LATENCY, abs=1e-6)


def test_shares_of_max_flow_follow_the_flow() -> None:
    """Links of 300 and 100 tokens/s have three quarters and one quarter of both cards."""
    rates = {**PARALLEL, (COORDINATOR, "a"): 600.0, (COORDINATOR, "b"): 200.0}
    cluster = cluster_of([node("a"), node("b")], rates, coordinator_nic=4_000.0)
    spec = spec_of(
        cluster,
        placement=placed(a=(0, 4), b=(0, 4)),
        scheduler=SchedulerSpec(policy="max-flow"),
        sharing=LinkSharing.SHARES,
    )
    found = {link.name: link.clock.bytes_per_s for link in Emulation(spec).state.links}
    assert found == {
        "coordinator->a": 600.0,
        "coordinator->b": 200.0,
        "a->coordinator": 3000.0,
        "b->coordinator": 1000.0,
    }


def test_even_shares_divide_the_sending_card_only() -> None:
    cluster = cluster_of([node("a", nic_out=900.0), node("b")], PARALLEL, coordinator_nic=4_000.0)
    spec = spec_of(cluster, placement=placed(a=(0, 4), b=(0, 4)), sharing=LinkSharing.SHARES)
    found = {link.name: link.clock.bytes_per_s for link in Emulation(spec).state.links}
    assert found["coordinator->a"] == found["coordinator->b"] == 2000.0
    assert found["a->coordinator"] == 900.0
    assert found["b->coordinator"] == FAST


def test_the_receiving_card_is_shared_by_the_links_that_lead_to_it() -> None:
    """Two nodes send 1,000 tokens of activations each to z at the same time; z's card takes one after the other."""
    rates = {
        (COORDINATOR, "a"): FAST,
        (COORDINATOR, "b"): FAST,
        ("a", "z"): FAST,
        ("b", "z"): FAST,
        ("z", COORDINATOR): FAST,
    }
    size = 1000 * MODEL.hop_bytes
    cluster = cluster_of([node("a"), node("b"), node("z", nic_in=size / 0.5)], rates)
    placement = placed(a=(0, 2), b=(0, 2), z=(2, 4))
    spec = spec_of(cluster, placement=placement, workload=arrivals((0.0, 1000, 1), (0.0, 1000, 1)))
    first, second = ended_of(spec)
    half = COMPUTE_S / 2
    assert first.ttft_s == pytest.approx(half + 0.5 + half + 3 * LATENCY, abs=1e-6)
    assert second.ttft_s == pytest.approx(half + 1.0 + half + 3 * LATENCY, abs=1e-6)


def slow_and_fast_way() -> EmulationSpec:
    """Two prompts leave a together over a slow link to z; one comes to z from b while the second is on the wire.

    The slow link takes 1 s for each prompt, the card of z nothing to speak of.
    """
    rates = {
        (COORDINATOR, "a"): FAST,
        (COORDINATOR, "b"): FAST,
        ("a", "z"): 100 * MODEL.hop_bytes,
        ("b", "z"): FAST,
        ("z", COORDINATOR): FAST,
    }
    cluster = cluster_of([node("a"), node("b"), node("z", nic_in=1e9)], rates)
    # Round robin: requests 0, 2 and 4 go by a. Request 0 keeps it busy, so that 2 and 4 leave it as one batch.
    requests = [(0.0, 100, 1), (0.0, 1, 1), (0.001, 100, 1), (0.002, 1, 1), (0.003, 100, 1), (2.3, 100, 1)]
    return spec_of(
        cluster,
        placement=placed(a=(0, 2), b=(0, 2), z=(2, 4)),
        workload=arrivals(*requests),
        sharing=LinkSharing.CLOCKS,
    )


def test_a_message_on_a_slow_wire_does_not_block_the_card_that_it_will_come_to() -> None:
    requests = ended_of(slow_and_fast_way())
    compute = 4 * 100 * PREFILL_S_PER_TOKEN
    assert requests[2].ttft_s == pytest.approx(2.0 + compute + 3 * LATENCY, abs=0.01)
    assert requests[4].ttft_s == pytest.approx(3.0 + compute + 3 * LATENCY, abs=0.01)
    assert requests[5].ttft_s == pytest.approx(compute + 3 * LATENCY, abs=0.001)


# -- late messages -----------------------------------------------------------------------------


def watch_collection(emulation: Emulation) -> list[tuple[float, float]]:
    """(time of arrival, time at which the node took it in) of every message at every node."""
    seen: list[tuple[float, float]] = []

    def watch(one: GpuNode) -> None:
        collect = one._collect

        def watched(segment: Segment, now: float) -> None:
            times = {
                item: time
                for transfer in segment.pending
                for item, time in zip(transfer.items, transfer.times, strict=True)
            }
            before = set(segment.ready)
            collect(segment, now)
            seen.extend((times[item], now) for item in segment.ready if item not in before)

        one._collect = watched  # type: ignore[method-assign]

    for one in emulation.state.nodes:
        watch(one)
    return seen


@pytest.mark.parametrize("sharing", list(LinkSharing))
def test_a_prefill_behind_a_decode_is_not_touched_before_its_time(sharing: LinkSharing) -> None:
    """A batch of a decode and a prefill of 1,000 tokens leaves a over a link that takes 1 s for the prefill."""
    rate = 1000 * MODEL.hop_bytes
    rates = {(COORDINATOR, "a"): FAST, ("a", "z"): rate, ("z", COORDINATOR): FAST}
    cluster = cluster_of([node("a"), node("z")], rates)
    # The first request decodes when the second one's prompt arrives.
    workload = arrivals((0.0, 10, 200), (1.0, 1000, 1))
    spec = spec_of(cluster, placement=placed(a=(0, 2), z=(2, 4)), workload=workload, sharing=sharing)
    emulation = Emulation(spec)
    seen = watch_collection(emulation)
    tokens: list[float] = []
    emulation.state.coordinator.on_token = lambda request, time: tokens.append(time) if request.number == 0 else None
    ended: list[Request] = []
    emulation.state.coordinator.on_ended = ended.append
    emulation.run()
    assert len(seen) > 300
    assert all(arrived <= taken for arrived, taken in seen)
    second = next(request for request in ended if request.number == 1)
    alone = 4 * 1000 * PREFILL_S_PER_TOKEN + 1.0 + 3 * LATENCY
    assert second.ttft_s is not None
    # At most a decode of the other request is in its way on each node, and in its batch.
    assert alone <= second.ttft_s <= alone + 2 * 4 * DECODE_S
    # The decode in the same transfer did not wait for it, nor did the next one overtake it on the link.
    gaps = [after - before for before, after in itertools.pairwise(tokens)]
    assert max(gaps) == pytest.approx(1.0, abs=0.5)
    assert sum(gap > 0.5 for gap in gaps) == 1


@given(st.integers(1, 60), st.floats(1e3, 1e6))
def test_no_message_is_touched_before_it_arrives(in_flight: int, rate: float) -> None:
    rates = {(COORDINATOR, "a"): FAST, ("a", "z"): rate, ("z", COORDINATOR): rate}
    cluster = cluster_of([node("a"), node("z")], rates)
    spec = spec_of(cluster, placement=placed(a=(0, 2), z=(2, 4)), workload=constant(in_flight, 20, 4), duration_s=5.0)
    emulation = Emulation(spec)
    seen = watch_collection(emulation)
    emulation.run()
    assert seen
    assert all(arrived <= taken for arrived, taken in seen)
