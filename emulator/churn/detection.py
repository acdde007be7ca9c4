"""Failure detection by heartbeats over the network that requests use, so that a slow link can deceive it."""

from __future__ import annotations

import heapq
import math
from typing import TYPE_CHECKING

from emulator.churn.network import ChurningNetwork
from placement.cluster import COORDINATOR, Cluster

if TYPE_CHECKING:
    from simpy.events import Event

    from emulator.churn.control import ChurnControl
    from emulator.churn.machines import Machine
    from emulator.churn.spec import Detection
    from emulator.cluster import ClusterState


class FailureDetector:
    """Every machine that is up sends heartbeats to the coordinator, which misses them after a while.

    A heartbeat travels on the machine's wire to the coordinator, between requests; while one is on the way no other
    is sent. A machine without such a wire reports over the way of least latency, which is taken to have room.

    Attributes:
        latency_s: Machine -> least latency from it to the coordinator.
    """

    def __init__(self, control: ChurnControl, state: ClusterState, spec: Detection) -> None:
        self._control = control
        self._state = state
        self._env = state.env
        self._spec = spec
        self._heard_s: dict[str, float] = {}
        self.latency_s = _latencies_to_coordinator(state.spec.cluster)
        self._order = {node.name: index for index, node in enumerate(state.spec.cluster.nodes)}

    def watch(self, machine: Machine) -> None:
        """``machine`` is up and known to be: expect its heartbeats."""
        now = self._env.now
        self._heard_s[machine.name] = now
        # Not all at once: a machine's place in the file is its phase.
        phase = self._spec.interval_s * self._order[machine.name] / len(self._order)
        life = machine.life
        self._env.call_at(now + phase, lambda _event: self._beat(machine, life))
        self._env.call_at(now + self._spec.timeout_s, lambda _event: self._check(machine, life))

    def heard_s(self, machine: Machine) -> float:
        """When ``machine`` was last heard of, or began to be expected."""
        return self._heard_s[machine.name]

    def forgive(self) -> None:
        """The coordinator was away: count silence from now on only."""
        now = self._env.now
        for name in self._heard_s:
            self._heard_s[name] = now

    def _beat(self, machine: Machine, life: int) -> None:
        if not machine.up or machine.life != life:
            return
        sent_s = self._env.now

        def arrived(_event: Event | None = None) -> None:
            self._heard(machine, life)
            # The next one, at the first multiple of the interval that is still to come.
            gap = self._spec.interval_s
            beats = max(1, math.ceil((self._env.now - sent_s) / gap))
            self._env.call_at(sent_s + beats * gap, lambda _event: self._beat(machine, life))

        wire = self._state.wire(machine.name, COORDINATOR)
        if wire is None:
            self._env.call_at(sent_s + self.latency_s[machine.name], arrived)
            return
        network = self._state.network
        assert isinstance(network, ChurningNetwork)
        network.send(wire, self._spec.heartbeat_bytes, arrived)

    def _heard(self, machine: Machine, life: int) -> None:
        if machine.life != life or self._control.coordinator_down:
            return
        self._heard_s[machine.name] = self._env.now
        if machine.suspected:
            self._env.call_at(self._env.now + self._spec.timeout_s, lambda _event: self._check(machine, life))
            self._control.heard_again(machine)

    def _check(self, machine: Machine, life: int) -> None:
        if machine.life != life or machine.suspected or self._control.is_gone(machine):
            return
        due_s = self._heard_s[machine.name] + self._spec.timeout_s
        if due_s > self._env.now or self._control.coordinator_down:
            # While the coordinator is away it notices nothing; then silence counts anew.
            due_s = max(due_s, self._env.now + self._spec.interval_s)
            self._env.call_at(due_s, lambda _event: self._check(machine, life))
            return
        self._control.missed(machine)


def _latencies_to_coordinator(cluster: Cluster) -> dict[str, float]:
    """Least sum of latencies from each node to the coordinator (Dijkstra), infinite where no links lead there."""
    arriving: dict[str, list[tuple[str, float]]] = {}
    for source, target in cluster.pairs():
        link = cluster.link(source, target)
        assert link is not None
        arriving.setdefault(target, []).append((source, link.latency_s))
    found = dict.fromkeys((node.name for node in cluster.nodes), math.inf)
    frontier = [(0.0, COORDINATOR)]
    while frontier:
        latency_s, name = heapq.heappop(frontier)
        for source, more_s in arriving.get(name, []):
            if source in found and latency_s + more_s < found[source]:
                found[source] = latency_s + more_s
                heapq.heappush(frontier, (found[source], source))
    return found
