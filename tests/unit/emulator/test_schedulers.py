"""Scheduler policies: which links they choose."""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_runs import arrivals, constant, placed, toy_cluster, toy_profile, toy_spec

from emulator.emulation import Emulation
from emulator.errors import SimulationError
from emulator.links import EmulatedLink
from emulator.requests import Attempt, Outcome, Request
from emulator.schedulers import POLICY_NAMES, policy_class
from emulator.schedulers.max_flow import MaxFlowPolicy
from emulator.schedulers.policy import PerHopPolicy
from emulator.schedulers.swarm import SwarmPolicy
from emulator.spec import SchedulerSpec
from placement.cluster import COORDINATOR, Cluster, Link

FAST, SLOW = 1e9, 1e5
ENTRY_SHARES = {"a": 600.0, "b": 300.0, "c": 100.0}


def entries_with_flows(flows: dict[str, float], **node: Any) -> Cluster:
    """Nodes that all hold the whole model; the link to each carries at most ``flows`` tokens/s."""
    links = {}
    for name, flow in flows.items():
        links[COORDINATOR, name] = Link(flow * 2, 0.001)
        links[name, COORDINATOR] = Link(FAST, 0.001)
    return toy_cluster(tuple(flows), links=links, **node)


def emulation_of(policy: str, cluster: Cluster, options: dict[str, object] | None = None, **changes: Any) -> Emulation:
    """All nodes of ``cluster`` hold the whole model, unless ``changes`` place them otherwise."""
    fields: dict[str, Any] = {"placement": placed(**{node.name: (0, 4) for node in cluster.nodes}), **changes}
    return Emulation(toy_spec(cluster=cluster, scheduler=SchedulerSpec(policy=policy, options=options or {}), **fields))


def max_flow_policy(emulation: Emulation) -> MaxFlowPolicy:
    policy = emulation.state.policy
    assert isinstance(policy, MaxFlowPolicy)
    return policy


def per_hop(emulation: Emulation) -> PerHopPolicy:
    policy = emulation.state.policy
    assert isinstance(policy, PerHopPolicy)
    return policy


def admit(emulation: Emulation, prompt: int = 10, number: int = 0) -> Attempt | None:
    """Ask the policy alone; nothing is sent."""
    attempt = Attempt(Request(number, 0.0, prompt, 5), prompt, 4, 0.0)
    return attempt if emulation.state.policy.admit(attempt, 0.0) else None


def entry_node(attempt: Attempt | None) -> str:
    assert attempt is not None
    assert attempt.first_link is not None
    assert attempt.first_link.node is not None
    return attempt.first_link.node.name


# -- max flow ----------------------------------------------------------------------------------


def test_iwrr_shares_follow_the_flow() -> None:
    emulation = emulation_of("max-flow", entries_with_flows(ENTRY_SHARES, kv_capacity=10**9))
    assert [emulation.state.flow_of(link) for link in emulation.state.entry_links] == pytest.approx([600, 300, 100])
    chosen = [entry_node(admit(emulation)) for _ in range(1000)]
    assert Counter(chosen) == {"a": 600, "b": 300, "c": 100}
    # Interleaved, not in runs: any ten in a row have their share too.
    assert all(5 <= chosen[start : start + 10].count("a") <= 7 for start in range(990))


def test_iwrr_weighs_requests_by_their_prompt() -> None:
    emulation = emulation_of("max-flow", entries_with_flows({"a": 300.0, "b": 300.0}, kv_capacity=10**9))
    assert entry_node(admit(emulation, prompt=100)) == "a"
    assert [entry_node(admit(emulation, prompt=20)) for _ in range(5)] == ["b"] * 5
    # Level again: the first in file order.
    assert entry_node(admit(emulation, prompt=20)) == "a"


def test_iwrr_counts_the_decode_iterations_of_a_pipeline() -> None:
    emulation = emulation_of("max-flow", entries_with_flows({"a": 300.0, "b": 300.0}, kv_capacity=10**9))
    attempt = admit(emulation, prompt=10)
    assert entry_node(attempt) == "a"
    assert attempt is not None
    assert attempt.pipeline is not None
    attempt.pipeline.decodes_issued = 25
    # 35 tokens weigh on a: four prompts of 10 go to b before a is less loaded again.
    assert [entry_node(admit(emulation)) for _ in range(5)] == ["b", "b", "b", "b", "a"]


@pytest.mark.parametrize(("flow", "used"), [(49.0, False), (51.0, True)])
def test_links_below_five_per_cent_of_the_outflow_are_masked(flow: float, used: bool) -> None:
    rest = 1000.0 - flow
    emulation = emulation_of("max-flow", entries_with_flows({"a": rest, "b": flow}, kv_capacity=10**9))
    chosen = {entry_node(admit(emulation)) for _ in range(200)}
    assert ("b" in chosen) is used


def test_many_even_links_are_not_masked_away() -> None:
    emulation = emulation_of(
        "max-flow", entries_with_flows({f"n{index}": 10.0 for index in range(30)}, kv_capacity=10**9)
    )
    assert len({entry_node(admit(emulation)) for _ in range(30)}) == 30


def test_nodes_without_expected_kv_room_are_masked() -> None:
    # 1,000 tokens each, of which 0.9 may be expected: 10 + 0.6 * 240 = 154 a request, so five of them.
    emulation = emulation_of("max-flow", entries_with_flows({"a": 300.0, "b": 100.0}, kv_capacity=4_000))
    attempts = [admit(emulation, number=number) for number in range(10)]
    assert Counter(entry_node(attempt) for attempt in attempts) == {"a": 5, "b": 5}
    assert admit(emulation) is None
    assert attempts[0] is not None
    emulation.state.policy.closed(attempts[0])
    assert entry_node(admit(emulation)) == "a"


def test_the_bottleneck_is_the_expected_use_of_the_fullest_layer() -> None:
    emulation = emulation_of("max-flow", entries_with_flows({"a": 300.0, "b": 100.0}, kv_capacity=4_000))
    assert emulation.state.kv_bottleneck() == pytest.approx(0.0)
    attempt = admit(emulation)
    assert emulation.state.kv_bottleneck() == pytest.approx(154 / 2000)
    assert attempt is not None
    emulation.state.policy.closed(attempt)
    assert emulation.state.kv_bottleneck() == pytest.approx(0.0)


def dead_end() -> Emulation:
    """Two entries; behind ``a`` and ``b`` one node ``z`` that has room for two requests."""
    pairs = [(COORDINATOR, "a"), (COORDINATOR, "b"), ("a", "z"), ("b", "z"), ("z", COORDINATOR)]
    cluster = toy_cluster(("a", "b", "z"), links=dict.fromkeys(pairs, Link(1e6, 0.001)), kv_capacity=800)
    return emulation_of("max-flow", cluster, placement=placed(a=(0, 2), b=(0, 2), z=(2, 4)))


def test_a_dead_end_leaves_loads_and_expectations_as_they_were() -> None:
    emulation = dead_end()
    policy = max_flow_policy(emulation)
    assert admit(emulation, prompt=20) is not None
    assert admit(emulation, prompt=20) is not None
    loads = [list(wheel.loads) for wheel in (policy._entry, *policy._wheels.values())]
    bottleneck = policy.kv_bottleneck()
    # It would go by a, which has room, and then finds none at z.
    assert admit(emulation, prompt=7) is None
    assert [list(wheel.loads) for wheel in (policy._entry, *policy._wheels.values())] == [
        pytest.approx(row) for row in loads
    ]
    assert policy.kv_bottleneck() == bottleneck


def test_the_longest_prompt_is_that_of_the_widest_way() -> None:
    """Through a at most 0.9 * 200 - 144 = 36 tokens fit, through b and c more."""
    pairs = [(COORDINATOR, "a"), (COORDINATOR, "b"), ("b", "c"), ("a", COORDINATOR), ("c", COORDINATOR)]
    cluster = toy_cluster(("a", "b", "c"), links=dict.fromkeys(pairs, Link(1e6, 0.001)), kv_capacity=800)
    emulation = emulation_of("max-flow", cluster, placement=placed(a=(0, 4), b=(0, 2), c=(2, 4)))
    assert max_flow_policy(emulation).longest_prompt == int(0.9 * 400 - 144)
    assert admit(emulation, prompt=216) is not None
    assert admit(emulation, prompt=217) is None
    alone = emulation_of("max-flow", entries_with_flows({"a": 300.0}, kv_capacity=800))
    assert max_flow_policy(alone).longest_prompt == 36


def test_the_longest_prompt_keeps_within_a_batch() -> None:
    emulation = emulation_of(
        "max-flow", entries_with_flows({"a": 300.0}, kv_capacity=10**9), profiles={"gpu": toy_profile(max_prompts=2)}
    )
    assert max_flow_policy(emulation).longest_prompt == 2 * 2048


# -- policies that choose hop by hop -----------------------------------------------------------


def busy(link: EmulatedLink, until_s: float) -> None:
    link.clock.free_s = until_s


def test_round_robin_takes_links_in_turn() -> None:
    emulation = emulation_of("round-robin", entries_with_flows(ENTRY_SHARES))
    assert [entry_node(admit(emulation)) for _ in range(7)] == ["a", "b", "c", "a", "b", "c", "a"]


def test_random_uses_free_links_only() -> None:
    emulation = emulation_of("random", entries_with_flows(ENTRY_SHARES))
    a, b, c = emulation.state.entry_links
    busy(b, 5.0)
    policy = per_hop(emulation)
    chosen = Counter(policy.choose([a, b, c], 4.9).name for _ in range(400))
    assert set(chosen) == {a.name, c.name}
    assert min(chosen.values()) > 150
    assert {policy.choose([a, b, c], 5.0).name for _ in range(100)} == {a.name, b.name, c.name}


def test_random_waits_for_the_link_that_is_free_first() -> None:
    emulation = emulation_of("random", entries_with_flows(ENTRY_SHARES))
    links = emulation.state.entry_links
    for link, until_s in zip(links, (7.0, 5.0, 6.0), strict=True):
        busy(link, until_s)
    assert {per_hop(emulation).choose(links, 1.0).name for _ in range(20)} == {links[1].name}


def test_shortest_queue_picks_the_shortest() -> None:
    emulation = emulation_of("shortest-queue", entries_with_flows(ENTRY_SHARES))
    waiting = Attempt(Request(0, 0.0, 10, 5), 10, 4, 0.0)
    for node, count in zip(emulation.state.nodes, (3, 1, 2), strict=True):
        node.segments[0].ready = [waiting] * count
    links = emulation.state.entry_links
    policy = per_hop(emulation)
    assert {policy.choose(links, 0.0).name for _ in range(20)} == {links[1].name}
    # The queue decides before the link does.
    busy(links[1], 9.0)
    assert {policy.choose(links, 0.0).name for _ in range(20)} == {links[1].name}


def test_shortest_queue_draws_among_equals() -> None:
    emulation = emulation_of("shortest-queue", entries_with_flows(ENTRY_SHARES))
    links = emulation.state.entry_links
    policy = per_hop(emulation)
    assert {policy.choose(links, 0.0).name for _ in range(60)} == {link.name for link in links}
    busy(links[0], 9.0)
    assert {policy.choose(links, 0.0).name for _ in range(60)} == {link.name for link in links[1:]}


def test_swarm_averages_what_successors_took() -> None:
    """One request at a time by n0 or n1; the successor's time is network + queue + compute, decodes included."""
    cluster = entries_with_flows({"n0": FAST, "n1": FAST})
    emulation = emulation_of("swarm", cluster, workload=arrivals((0.0, 100, 2), (10.0, 100, 1)))
    policy = emulation.state.policy
    assert isinstance(policy, SwarmPolicy)
    first, second = emulation.state.entry_links
    host = 1000 / 4e9 + 1000 / 5e9
    prefill_s = 0.001 + 200 / (2 * FAST) + 4 * 100 * 1e-4 + 100 * host
    decode_s = 0.001 + 2 / (2 * FAST) + 4 * 0.01 + host
    emulation.env.run_to(9.0)
    # Priorities start at 0.05; the request took n0, whose priority rose by its average of then, 0.05.
    assert policy._queues[first.index] == [(0.05, second.index), (pytest.approx(0.1), first.index)]
    after_prefill = 0.8 * prefill_s + 0.2 * 0.05
    assert policy._average[first.index] == pytest.approx(0.8 * decode_s + 0.2 * after_prefill)
    assert policy._average[second.index] == 0.05
    emulation.env.run_to(19.0)
    assert policy._average[second.index] == pytest.approx(after_prefill)


def test_swarm_takes_the_least_priority_and_the_first_of_equals() -> None:
    emulation = emulation_of("swarm", entries_with_flows(ENTRY_SHARES))
    policy = emulation.state.policy
    assert isinstance(policy, SwarmPolicy)
    a, b, c = emulation.state.entry_links
    policy._average = {a.index: 0.3, b.index: 0.1, c.index: 0.1}
    # a 0.35, b 0.15, c 0.15; then b and c until both are at 0.35; then a again.
    chosen = [entry_node(admit(emulation)) for _ in range(7)]
    assert chosen == ["a", "b", "c", "b", "c", "b", "c"]


@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_decodes_keep_the_route_of_their_prefill(policy: str) -> None:
    pairs = [(COORDINATOR, "a"), (COORDINATOR, "b"), ("a", "y"), ("a", "z"), ("b", "y"), ("b", "z")]
    pairs += [("y", COORDINATOR), ("z", COORDINATOR)]
    cluster = toy_cluster(("a", "b", "y", "z"), links=dict.fromkeys(pairs, Link(1e6, 0.001)))
    emulation = emulation_of(
        policy, cluster, placement=placed(a=(0, 2), b=(0, 2), y=(2, 4), z=(2, 4)), workload=constant(6, output=20)
    )
    routes: dict[int, str] = {}

    def on_token(request: Request, _time: float) -> None:
        assert routes.setdefault(request.number, str(request.pipeline)) == str(request.pipeline)

    emulation.state.coordinator.on_token = on_token
    emulation.run()
    assert len(set(routes.values())) == 4
    sent = {link.name: link.wire.messages for link in emulation.state.links}
    assert sent["coordinator->a"] == pytest.approx(sent["a->y"] + sent["a->z"], abs=6)


# -- own policies and errors -------------------------------------------------------------------


@pytest.fixture
def own_policies() -> Iterator[None]:
    """Makes the module beside this file importable as ``own_policies``."""
    path = Path(__file__).with_name("own_policies.py")
    spec = importlib.util.spec_from_file_location("own_policies", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["own_policies"] = module
    spec.loader.exec_module(module)
    yield
    del sys.modules["own_policies"]


@pytest.mark.usefixtures("own_policies")
def test_an_own_policy_by_module_and_class() -> None:
    emulation = emulation_of("own_policies:LastLink", entries_with_flows(ENTRY_SHARES), {"skip": 1})
    ended: list[Request] = []
    emulation.state.coordinator.on_ended = ended.append
    emulation.run()
    assert ended[0].outcome is Outcome.FINISHED
    assert str(ended[0].pipeline) == "b:0-4"


@pytest.mark.usefixtures("own_policies")
@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("own_policies:NoPolicy", "is no subclass of emulator.schedulers.policy.SchedulerPolicy"),
        ("own_policies:Unfinished", "lacks admit; define them in the class"),
        ("own_policies:Missing", "cannot be loaded: AttributeError"),
        ("no_such_module:Policy", "cannot be loaded: ModuleNotFoundError"),
        (":Policy", "cannot be loaded: ValueError"),
        ("maxflow", "did you mean max-flow?"),
        ("entirely-else", "known are max-flow, swarm, random, shortest-queue, round-robin"),
    ],
)
def test_a_policy_that_cannot_be_used(policy: str, message: str) -> None:
    with pytest.raises(SimulationError) as caught:
        policy_class(policy)
    assert repr(policy) in str(caught.value)
    assert message in str(caught.value)


def test_a_module_that_fails_on_import_is_no_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_policy_module.py").write_text("this is no Python\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SimulationError, match="cannot be loaded: SyntaxError"):
        policy_class("broken_policy_module:Policy")


@pytest.mark.parametrize(
    ("policy", "options", "message"),
    [
        ("max-flow", {"minimum_flow_shar": 0.1}, "no option 'minimum_flow_shar'; did you mean minimum_flow_share?"),
        ("random", {"seed": 3}, "no option 'seed'; it knows none"),
        ("swarm", {"smoothing": "much"}, "option smoothing is 'much'; it must be a number"),
        ("swarm", {"smoothing": True}, "option smoothing is True; it must be a number"),
        ("swarm", {"smoothing": float("nan")}, "it must be a number"),
        ("swarm", {"smoothing": 1.5}, "option smoothing is 1.5; it must be at least 0 and at most 1"),
        ("swarm", {"initial_priority": -1}, "option initial_priority is -1; it must be at least 0"),
        ("max-flow", {"expected_output_ratio": -0.1}, "option expected_output_ratio is -0.1; it must be at least 0"),
        ("max-flow", {"minimum_flow_share": 2}, "it must be at least 0 and at most 1"),
        ("max-flow", {"expected_kv_high_water_mark": 0}, "it must be above 0 and at most 1"),
    ],
)
def test_options_that_make_no_sense(policy: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(SimulationError) as caught:
        emulation_of(policy, entries_with_flows(ENTRY_SHARES), options)
    assert message in str(caught.value)


@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_a_placement_that_needs_partial_inference_without_it(policy: str) -> None:
    cluster = toy_cluster(("n0", "n1"))
    with pytest.raises(SimulationError, match="without partial inference no chain of links"):
        emulation_of(policy, cluster, placement=placed(n0=(0, 3), n1=(1, 4)), partial_inference=False)
