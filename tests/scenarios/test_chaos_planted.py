"""The chaos search finds planted defects of every kind, and shrinks them to small scenarios that still show them."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import emulator.cluster
from emulator.churn.control import ChurnControl
from emulator.churn.detection import FailureDetector
from emulator.churn.invariants import Rule
from emulator.churn.losses import Losses
from emulator.churn.machines import Machine, Role
from emulator.churn.network import ChurningNetwork
from emulator.cluster import ClusterState
from emulator.coordinator import Coordinator
from emulator.links import Transfer
from emulator.node import GpuNode
from emulator.schedulers.policy import PerHopPolicy
from netshape.link_model import ConditionedClock
from netshape.link_queue import Replan
from placement.flow import MaxFlow
from scenarios.chaos import Failure, Verdict, failure_text, judge, same_failure, shrunk
from scenarios.chaos_cases import ChaosCase, chaos_case
from scenarios.loader import load_scenario

MOST_RUNS = 200
TRIES = 120
SEED = 20_261_124

Plant = Callable[[pytest.MonkeyPatch], None]


def _wrapped(patch: pytest.MonkeyPatch, owner: type, name: str, around: Callable[..., Any]) -> None:
    """Replace a method by one that is given the original first."""
    original = getattr(owner, name)
    patch.setattr(owner, name, lambda self, *args, **kwargs: around(original, self, *args, **kwargs))


def token_twice(patch: pytest.MonkeyPatch) -> None:
    """Whoever was tried again gets its next token twice."""

    def around(original: Any, self: Coordinator, request: Any, at_s: float) -> None:
        original(self, request, at_s)
        if request.retries and self.on_token is not None:
            self.on_token(request, at_s)

    _wrapped(patch, Coordinator, "_emit", around)


def token_lost(patch: pytest.MonkeyPatch) -> None:
    """A retry counts one token too many as given."""

    def around(original: Any, self: Coordinator, attempt: Any, reason: str) -> int:
        attempt.request.emitted_tokens += attempt.request.emitted_tokens > 0
        return int(original(self, attempt, reason))

    _wrapped(patch, Coordinator, "try_again", around)


def kv_kept(patch: pytest.MonkeyPatch) -> None:
    """The KV entries of every request that was preempted or lost its pipeline stay where they are."""

    def around(original: Any, self: Coordinator, attempt: Any) -> None:
        before = {node: node.kv_used for node, _ in attempt.stages() if not node.down}
        original(self, attempt)
        for node, used in before.items():
            if attempt.dead:
                node.kv_used = used

    _wrapped(patch, Coordinator, "_close", around)


def kv_overflow(patch: pytest.MonkeyPatch) -> None:
    """A cache that shrinks keeps all its entries."""
    patch.setattr("emulator.kv_pressure.KvPressure.shrink", lambda self, node: None)


def overtaking(patch: pytest.MonkeyPatch) -> None:
    """Now and then a transfer arrives at once, past those before it."""

    def around(original: Any, self: ChurningNetwork, transfer: Transfer, at_s: float) -> None:
        if transfer.items[0].request.number % 4 == 3:
            transfer.times = [self._env.now for _ in transfer.times]
        original(self, transfer, at_s)

    _wrapped(patch, ChurningNetwork, "launch", around)


def swapped_by_change(patch: pytest.MonkeyPatch) -> None:
    """When a link changes, its backlog arrives in the opposite order."""

    def around(original: Any, self: ConditionedClock, conditions: Any, now_s: float) -> Replan:
        replan = original(self, conditions, now_s)
        return dataclasses.replace(replan, arrivals_s=replan.arrivals_s[::-1])

    _wrapped(patch, ConditionedClock, "set", around)


def bytes_uncounted(patch: pytest.MonkeyPatch) -> None:
    """The messages of prefills are not counted on their wires."""

    def around(original: Any, self: ChurningNetwork, transfer: Transfer, at_s: float) -> None:
        if transfer.prefills:
            transfer.link.wire.bytes_sent -= transfer.link.bytes_per_token * transfer.tokens
        original(self, transfer, at_s)

    _wrapped(patch, ChurningNetwork, "launch", around)


def dead_node(patch: pytest.MonkeyPatch) -> None:
    """Machines that have not been heard of stay in the routes."""
    patch.setattr(Machine, "routed", property(lambda self: self.role is Role.SERVING))


def dead_link(patch: pytest.MonkeyPatch) -> None:
    """Links that are taken for down stay in the routes."""

    def around(original: Any, self: ClusterState, serving: Any, **kwargs: Any) -> None:
        original(self, serving, **{**kwargs, "blocked": ()})

    _wrapped(patch, ClusterState, "rewire", around)


def dropped(patch: pytest.MonkeyPatch) -> None:
    """Every third request is forgotten when it has to queue again."""

    def around(original: Any, self: Coordinator, request: Any) -> None:
        if request.number % 3:
            original(self, request)

    _wrapped(patch, Coordinator, "_queue_again", around)


def ended_twice(patch: pytest.MonkeyPatch) -> None:
    """A request that failed is reported twice."""

    def around(original: Any, self: Coordinator, request: Any) -> None:
        original(self, request)
        if request.reason and self.on_ended is not None:
            self.on_ended(request)

    _wrapped(patch, Coordinator, "_end", around)


def flow_made(patch: pytest.MonkeyPatch) -> None:
    """The busiest link carries half as much again."""
    solve = emulator.cluster.solve_flow

    def solved(*args: Any, **kwargs: Any) -> MaxFlow:
        flow = solve(*args, **kwargs)
        most = max(flow.link_flow, key=lambda pair: flow.link_flow[pair])
        return dataclasses.replace(flow, link_flow={**flow.link_flow, most: flow.link_flow[most] * 1.5})

    patch.setattr(emulator.cluster, "solve_flow", solved)


def flow_stale(patch: pytest.MonkeyPatch) -> None:
    """Slower machines and links are left out of account."""

    def around(original: Any, self: ClusterState, nodes: Any, pairs: Any, slowdown: Any, bandwidth: Any) -> Any:
        return original(self, nodes, pairs, {}, {})

    _wrapped(patch, ClusterState, "_solve", around)


def link_loss_unnoticed(patch: pytest.MonkeyPatch) -> None:
    """Requests on a link that is taken for down are left there."""
    patch.setattr(Losses, "of_links", lambda self, pairs, incident: None)


def nobody_woken(patch: pytest.MonkeyPatch) -> None:
    """A node is not told that KV entries were freed."""
    patch.setattr(GpuNode, "kv_freed", lambda self: None)


def waiting_forgotten(patch: pytest.MonkeyPatch) -> None:
    """Who waits is let in when a request finishes, and at no other time."""
    patch.setattr(Coordinator, "admit_waiting", lambda self: None)


def waiting_overlooked(patch: pytest.MonkeyPatch) -> None:
    """The same, until long after the last request has come."""

    def around(original: Any, self: Coordinator) -> None:
        if self._env.now > self._state.spec.duration_s + 8:
            original(self)

    _wrapped(patch, Coordinator, "admit_waiting", around)


def false_hope(patch: pytest.MonkeyPatch) -> None:
    """A cluster that is gone for good is waited for."""
    patch.setattr(ChurnControl, "may_get_better", lambda self: True)


def dead_uncounted(patch: pytest.MonkeyPatch) -> None:
    """Nodes do not count what they drop."""

    def drop(self: GpuNode, items: list[Any]) -> tuple[list[Any], int, int]:
        living = [item for item in items if not item.dead]
        return living, sum(1 for item in living if item.prefill), sum(item.tokens for item in living)

    patch.setattr(GpuNode, "_drop_dead", drop)


def dead_twice(patch: pytest.MonkeyPatch) -> None:
    """What goes down with a machine is counted off twice."""

    def around(original: Any, self: ClusterState, attempt: Any) -> None:
        original(self, attempt)
        self.dead -= attempt.dead

    _wrapped(patch, ClusterState, "lose", around)


def wall_clock(patch: pytest.MonkeyPatch) -> None:
    """The log tells how late it is by the wall clock."""

    def around(original: Any, self: ChurnControl, what: str, incident: Any = None, **details: Any) -> None:
        original(self, what, incident, **details, wall_ns=time.perf_counter_ns())

    _wrapped(patch, ChurnControl, "log", around)


def left_over(patch: pytest.MonkeyPatch) -> None:
    """When a machine's heartbeats begin hangs on how many runs there were before."""
    count = itertools.count()

    def around(original: Any, self: FailureDetector, machine: Any) -> None:
        self._order[machine.name] = next(count) * 0.01 % 1
        original(self, machine)

    _wrapped(patch, FailureDetector, "watch", around)


def broken(patch: pytest.MonkeyPatch) -> None:
    """A policy fails when a machine has no link to choose from, or the third is free."""

    def choose_free(links: list[Any], now_s: float) -> list[Any]:
        return [links[2]]

    patch.setattr(PerHopPolicy, "free_links", staticmethod(choose_free))


PLANTED: dict[Rule, tuple[Plant, ...]] = {
    Rule.TOKENS: (token_twice, token_lost),
    Rule.KV: (kv_kept, kv_overflow),
    Rule.LINKS: (overtaking, swapped_by_change),
    Rule.BYTES: (bytes_uncounted,),
    Rule.ROUTES: (dead_node, dead_link),
    Rule.REQUESTS: (dropped, ended_twice),
    Rule.FLOW: (flow_made, flow_stale),
    Rule.PROGRESS: (link_loss_unnoticed, nobody_woken, waiting_overlooked),
    Rule.TERMINATION: (false_hope, waiting_forgotten),
    Rule.DEAD: (dead_uncounted, dead_twice),
    Rule.DETERMINISM: (wall_clock, left_over),
    Rule.EXCEPTION: (broken,),
}


def test_every_rule_has_a_planted_defect() -> None:
    assert set(PLANTED) == set(Rule)
    assert all(PLANTED.values())


ABOUT = {kv_overflow: "gpu_memory_loss", link_loss_unnoticed: "'down': {'from'", dead_link: "'down': {'from'"}
"""What a case must have for a planted defect to show at all, where few have it."""


def first_failure(rule: Rule, about: str) -> tuple[ChaosCase, Verdict]:
    """The first case, of those about something, that fails at all."""
    for number in range(MOST_RUNS):
        case = chaos_case(SEED, number)
        if about not in str(case.document["churn"]):
            continue
        verdict = judge(case.loaded.spec, twice=rule is Rule.DETERMINISM)
        if verdict.rule is not None:
            return case, verdict
    raise AssertionError(f"nothing found in {MOST_RUNS} runs")


@pytest.mark.parametrize(
    ("rule", "plant"),
    [pytest.param(rule, plant, id=plant.__name__) for rule, plants in PLANTED.items() for plant in plants],
)
def test_planted(rule: Rule, plant: Plant, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        plant(patch)
        case, verdict = first_failure(rule, ABOUT.get(plant, ""))
        assert verdict.rule is rule, verdict
        small = shrunk(case, verdict, TRIES)
        assert size(small.document) < size(case.document)
        path = tmp_path / "small.yaml"
        path.write_text(failure_text(Failure(case=case, verdict=verdict, small=small)))
        replayed = judge(load_scenario(path).spec, twice=rule is Rule.DETERMINISM)
        assert same_failure(replayed, verdict), replayed
    # Without the defect the same file is in order.
    assert judge(load_scenario(path).spec, twice=True) == dataclasses.replace(
        judge(load_scenario(path).spec), rule=None, detail=""
    )


def size(document: dict[str, Any]) -> int:
    """What shrinking is to reduce: nodes, links and events."""
    churn, cluster = document["churn"], document["cluster"]
    network = cluster["network"]
    parts = (cluster["nodes"], network.get("links", ()), network.get("regions", ()))
    return sum(len(part) for part in (*parts, churn.get("events", ()), churn.get("random", ())))
