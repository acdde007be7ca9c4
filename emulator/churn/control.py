"""The hub of churn: lets events happen, notices them as the coordinator would, and has the run adapt."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from emulator.churn.detection import FailureDetector
from emulator.churn.happenings import Happenings
from emulator.churn.losses import Losses
from emulator.churn.machines import Machine, Role
from emulator.churn.network import ChurningNetwork, Pair
from emulator.churn.recovery import make_recovery
from emulator.churn.report import ChurnReport, Incident
from emulator.churn.weights import WeightLoads
from placement.cluster import COORDINATOR
from placement.layers import LayerRange, Placement

if TYPE_CHECKING:
    from emulator.churn.spec import ChurnEvent, ChurnSpec
    from emulator.cluster import ClusterState
    from emulator.node import GpuNode
    from emulator.requests import Attempt

POLL_S = 0.25
"""How often it is looked whether machines have finished what they had."""
MOST_VAIN_RETURNS = 20
"""So often a schedule may bring links back without anybody being let in; then nobody waits for the next time."""


class ChurnControl:
    """Churn of one run.

    What happens to machines and links happens in :class:`~emulator.churn.happenings.Happenings`; what the coordinator
    knows of it comes here, by :meth:`missed`, :meth:`heard_again`, :meth:`came_up`, :meth:`links_lost` and the like.

    Attributes:
        machines: By name, in file order.
        blocked: Pairs that the coordinator takes for unusable.
        known_bandwidth: Pair -> factor on its bandwidth, as far as the coordinator knows.
        known_slowdown: Machine -> factor on its compute time, as far as the coordinator knows.
        coordinator_down: Whether the coordinator is away.
        report: What the summary says about churn.
    """

    def __init__(self, state: ClusterState, spec: ChurnSpec) -> None:
        self.state = state
        self.spec = spec
        self.env = state.env
        assert isinstance(state.network, ChurningNetwork)
        self.network: ChurningNetwork = state.network
        self.coordinator_down = False
        self.blocked: dict[Pair, None] = {}
        self.known_bandwidth: dict[Pair, float] = {}
        self.known_slowdown: dict[str, float] = {}
        self._moves: dict[str, LayerRange] = {}
        self._loaded: dict[str, None] = {}
        self._pending = 0
        self._polling = False
        self._vain_returns = 0
        placement = state.spec.placement.ranges
        self.machines = {node.name: Machine(node, placement.get(node.name)) for node in state.spec.cluster.nodes}
        self.report = ChurnReport(self)
        self.losses = Losses(self)
        self.loads = WeightLoads(self)
        self.recovery = make_recovery(self, spec.recovery)
        self.detector: FailureDetector = FailureDetector(self, state, spec.detection)
        self.happenings = Happenings(self)
        self._begin()

    def _begin(self) -> None:
        for machine in self.machines.values():
            if machine.name in self.spec.initially_down:
                machine.up, machine.role = False, Role.GONE
                if machine.home is not None:
                    self.state.latest[machine.name].stop()
                continue
            if machine.home is not None:
                machine.node, machine.role = self.state.latest[machine.name], Role.SERVING
            self.detector.watch(machine)
        if self.spec.initially_down:
            self.reroute()
        self.recovery.begin()
        self.report.begin()
        self.happenings.begin()

    # -- time ----------------------------------------------------------------------------------

    def later(self, delay_s: float, work: Callable[[], None]) -> None:
        """Call ``work`` after ``delay_s``; until then things may still get better for who waits."""
        self._pending += 1

        def happen(_event: object) -> None:
            work()
            self._pending -= 1
            self.refuse_the_hopeless()

        self.env.call_at(self.env.now + delay_s, happen)

    def refuse_the_hopeless(self) -> None:
        """Let nobody wait for a pipeline that will never be there."""
        if not self.may_get_better():
            # Whoever has no pipeline now will not get one.
            self.state.coordinator.admit_waiting()

    def may_get_better(self) -> bool:
        """Whether something is still to come that could let a request in that has no pipeline now."""
        return (
            self._pending > 0
            or self.loads.busy
            or self.spec.live_links
            or self.happenings.may_repair
            or self.coordinator_down
            or any(self._may_be_heard(machine) for machine in self.machines.values())
            or (self._vain_returns < MOST_VAIN_RETURNS and any(self._may_return(pair) for pair in self.blocked))
        )

    def _may_return(self, pair: Pair) -> bool:
        """Whether a link that is taken for lost carries again, or may when its schedule goes on."""
        return not self.network.is_down(pair) or self.network.waits_for_schedule(pair)

    def _may_be_heard(self, machine: Machine) -> bool:
        """Whether a heartbeat of a machine that is taken for dead may still come."""
        reaches = self.detector.latency_s[machine.name] < math.inf
        return machine.suspected and machine.up and reaches and not self.network.is_down((machine.name, COORDINATOR))

    def apply(self, event: ChurnEvent) -> Callable[[], None] | None:
        """Let ``event`` happen now, whatever its time says.

        Returns:
            What ends it, for links that change or go down; whatever else has an end is ended by another event.
        """
        return self.happenings.happen(event)

    def log(self, what: str, incident: Incident | None = None, **details: Any) -> None:
        """Write a churn event into the event log."""
        number = {} if incident is None else {"incident": incident.number}
        self.state.log.churn(self.env.now, what, {**number, **details})

    # -- what the coordinator comes to know ----------------------------------------------------

    def is_gone(self, machine: Machine) -> bool:
        """Whether the coordinator takes ``machine`` for down."""
        return machine.role is Role.GONE

    def missed(self, machine: Machine) -> None:
        """``machine`` has not been heard for too long."""
        if machine.up:
            machine.suspected = True
            wire = (machine.name, COORDINATOR)
            machine.blamed = self.happenings.disturbances.cause(wire, self.detector.heard_s(machine))
            self.log("suspected", machine.blamed, node=machine.name)
            self.report.false_suspicions += 1
        else:
            self.log("detected", machine.incident, node=machine.name)
        self.lost(machine, "has not been heard of")

    def lost(self, machine: Machine, reason: str) -> None:
        """The coordinator gives ``machine`` up: it routes past it and sees to the requests that were on it."""
        self.report.detected(machine.incident if not machine.up else None)
        node = machine.node
        served = machine.role in (Role.SERVING, Role.FINISHING)
        leaving = machine.leaving
        if not machine.up:
            machine.role, machine.node, machine.leaving = Role.GONE, None, False
            self._forget_move(machine)
        if served:
            self.reroute()
        if node is not None:
            self.losses.of_node(node, f"{machine.name} {reason}", machine.cause)
        if not leaving:
            self.recovery.lost(machine)
        self.state.coordinator.admit_waiting()

    def heard_again(self, machine: Machine) -> None:
        """A machine that was taken for dead is not."""
        machine.suspected = False
        self.log("heard_again", node=machine.name)
        self.reroute()
        self.recovery.changed()
        self.state.coordinator.admit_waiting()

    def came_up(self, machine: Machine, life: int) -> None:
        """The coordinator hears of a machine that has started."""
        if machine.life != life or not machine.up:
            return
        if self.coordinator_down:
            self.later(self.spec.detection.interval_s, lambda: self.came_up(machine, life))
            return
        machine.role = Role.SPARE
        machine.suspected = False
        self.report.detected(machine.incident)
        self.detector.watch(machine)
        self.recovery.joined(machine)
        self.state.coordinator.admit_waiting()

    def links_lost(self, pairs: Iterable[Pair], incident: Incident) -> None:
        """Nothing has passed on these links for too long."""
        if self.coordinator_down:
            self.later(self.spec.detection.interval_s, lambda: self.links_lost(pairs, incident))
            return
        # One that has carried in between is not lost, though it may be down again.
        least_s = self.spec.detection.timeout_s * (1 - 1e-9)
        pairs = [pair for pair in pairs if self.network.down_for_s(pair) >= least_s and pair not in self.blocked]
        if not pairs:
            return
        self.blocked.update(dict.fromkeys(pairs))
        self.log("links_lost", incident, links=len(pairs))
        self.report.detected(incident)
        self.reroute()
        self.loads.links_lost(self.blocked)
        self.losses.of_links(dict.fromkeys(pairs), incident)
        self.recovery.changed()
        self.state.coordinator.admit_waiting()

    def links_back(self, pairs: Iterable[Pair], incident: Incident | None) -> None:
        """Links that were lost carry again."""
        if self.coordinator_down:
            self.later(self.spec.detection.interval_s, lambda: self.links_back(pairs, incident))
            return
        back = [pair for pair in pairs if pair in self.blocked and not self.network.is_down(pair)]
        if not back:
            return
        for pair in back:
            del self.blocked[pair]
        self.log("links_back", incident, links=len(back))
        self.reroute()
        self.recovery.changed()
        self.state.coordinator.admit_waiting()

    def scheduled_back(self, pairs: Iterable[Pair]) -> None:
        """Links that a schedule had taken down have carried again for an interval, or would have."""
        self.links_back(pairs, None)
        self._vain_returns = 0 if self.state.coordinator.in_flight_count else self._vain_returns + 1
        self.refuse_the_hopeless()

    def conditions_changed(self) -> None:
        """The coordinator learns of slower or faster machines or links."""
        if self.coordinator_down:
            self.later(self.spec.detection.interval_s, self.conditions_changed)
            return
        self.reroute()
        self.recovery.changed()
        self.state.coordinator.admit_waiting()

    # -- routing -------------------------------------------------------------------------------

    def reroute(self) -> None:
        """Route new requests over the machines that serve now."""
        machines = self.machines.values()
        serving = [machine.node for machine in machines if machine.routed and machine.node is not None]
        finishing = [
            machine.node
            for machine in machines
            if machine.role is Role.FINISHING and not machine.suspected and machine.node is not None
        ]
        self.state.rewire(
            serving,
            closed=finishing,
            blocked=self.blocked,
            slowdown=self.known_slowdown,
            bandwidth=self.known_bandwidth,
            solve=self.recovery.solves,
        )
        self.report.flow_changed()

    def serving_ranges(self) -> dict[str, LayerRange]:
        """Machine -> layers, of those that new requests may be routed to."""
        return {
            machine.name: machine.node.held
            for machine in self.machines.values()
            if machine.routed and machine.node is not None
        }

    def flow_of(self, ranges: Mapping[str, LayerRange]) -> float:
        """Max flow in tokens/s if these machines served these layers now."""
        return self.state.max_flow_of(Placement(dict(ranges)), self.blocked, self.known_slowdown, self.known_bandwidth)

    # -- who holds what ------------------------------------------------------------------------

    def assign(self, goals: Mapping[str, LayerRange]) -> None:
        """Have machines hold these layers as soon as they have loaded them.

        A machine that serves goes on with its old layers until then. Machines switch when that costs no flow, and all
        together when the last of them is ready.
        """
        for name, goal in goals.items():
            machine = self.machines[name]
            if machine.leaving or machine.role is Role.GONE:
                continue
            machine.goal = goal
            self._forget_move(machine)
            if machine.node is not None and machine.node.held == goal and machine.role is Role.SERVING:
                continue
            self._moves[name] = goal
            if machine.role is Role.SPARE:
                machine.role = Role.LOADING
            self.loads.start(machine, goal)

    def loaded(self, machine: Machine) -> None:
        """A machine has all the weights of its goal."""
        self._loaded[machine.name] = None
        self._switch_if_good()
        self.state.coordinator.admit_waiting()

    def _forget_move(self, machine: Machine) -> None:
        self._moves.pop(machine.name, None)
        self._loaded.pop(machine.name, None)
        self.loads.cancel(machine)
        if machine.role is Role.LOADING:
            machine.role = Role.SPARE

    def _switch_if_good(self) -> None:
        ready = [name for name in self._moves if name in self._loaded]
        if not ready:
            return
        present = self.serving_ranges()
        after = {**present, **{name: self._moves[name] for name in ready}}
        if len(ready) < len(self._moves) and self.flow_of(after) < self.flow_of(present):
            return
        for name in ready:
            machine = self.machines[name]
            goal = self._moves.pop(name)
            del self._loaded[name]
            if machine.node is None:
                self._serve(machine, goal)
            else:
                machine.role = Role.FINISHING
                self.later(self.spec.recovery.drain_s, partial(self._cut_off, machine, machine.life, machine.node))
        self.reroute()
        self._poll()

    def _serve(self, machine: Machine, held: LayerRange) -> None:
        node = self.state.make_node(machine.name, held)
        node.slowdown = machine.slowdown
        if machine.memory_share < 1:
            node.kv_capacity = max(1, int(node.kv_capacity * machine.memory_share))
        machine.node, machine.role = node, Role.SERVING
        node.start()
        self.log("serving", node=machine.name, layers=[held.start, held.stop])

    # -- machines that finish ------------------------------------------------------------------

    def finish(self, machine: Machine, notice_s: float) -> None:
        """``machine`` takes nothing new and leaves when it has finished, or after ``notice_s``."""
        self._forget_move(machine)
        machine.leaving = True
        if machine.node is None:
            self._finished(machine)
            return
        machine.role = Role.FINISHING
        node, life = machine.node, machine.life
        self.reroute()
        self.recovery.lost(machine)
        self.state.coordinator.admit_waiting()
        if notice_s < float("inf"):
            self.later(notice_s, lambda: self._cut_off(machine, life, node))
        self._poll()

    def _cut_off(self, machine: Machine, life: int, node: GpuNode) -> None:
        """What is still on ``node`` when its time is up is lost."""
        if machine.life == life and machine.node is node and machine.role is Role.FINISHING:
            self.losses.of_node(node, f"{machine.name} had to stop", machine.incident)
            self._finished(machine)
            self.state.coordinator.admit_waiting()

    def _poll(self) -> None:
        if not self._polling and any(machine.role is Role.FINISHING for machine in self.machines.values()):
            self._polling = True
            self.later(POLL_S, self._look)

    def _look(self) -> None:
        self._polling = False
        used = {node.index: None for attempt in self.state.coordinator.in_flight() for node, _ in attempt.stages()}
        for machine in self.machines.values():
            if machine.role is Role.FINISHING and machine.node is not None and machine.node.index not in used:
                self._finished(machine)
        self.state.coordinator.admit_waiting()
        self._poll()

    def _finished(self, machine: Machine) -> None:
        """Nothing is left on ``machine``: it leaves, or begins with its new layers."""
        if machine.leaving:
            if not self.happenings.stops_by_itself(machine):
                self.left(machine)
            return
        node = machine.node
        assert node is not None
        assert machine.goal is not None
        node.stop()
        self._serve(machine, machine.goal)
        self.reroute()

    def left(self, machine: Machine) -> None:
        """``machine`` leaves in order."""
        self.happenings.stop(machine)
        machine.role, machine.node, machine.leaving = Role.GONE, None, False
        self.log("left", machine.incident, node=machine.name)
        self.reroute()

    # -- hooks of the hot path -----------------------------------------------------------------

    def closed(self, attempt: Attempt) -> None:
        """``attempt`` has ended."""
        if self.losses.replicas is not None:
            self.losses.replicas.forget(attempt)

    def make_room(self, node: GpuNode, entries: int) -> None:
        """Work on ``node`` needs room for more KV entries: copies kept there give way."""
        if self.losses.replicas is not None:
            self.losses.replicas.make_room(node, entries)

    def stage_left(self, node: GpuNode, items: list[Attempt], prefills: int) -> tuple[list[Attempt], int]:
        """``items`` are about to leave ``node``: copy their new KV entries, and drop who has nowhere to go."""
        if self.losses.replicas is not None:
            self.losses.replicas.stage_left(node, items)
        if node.out_links or not prefills or not self.state.policy.per_hop:
            return items, prefills
        stranded = [item for item in items if node.index not in item.links]
        if not stranded:
            return items, prefills
        for item in stranded:
            self.losses.of_attempt(item, f"{node.name} has no successor", None)
            self.state.dead -= 1
        self.env.call_at(self.env.now, lambda _event: self.state.coordinator.admit_waiting())
        kept = [item for item in items if item not in stranded]
        return kept, sum(1 for item in kept if item.prefill)
