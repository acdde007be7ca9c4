"""What physically happens to machines, links and the coordinator, whether anybody notices or not."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from emulator.churn.disturbances import Disturbances
from emulator.churn.machines import Machine, Role
from emulator.churn.network import Effect, Pair
from emulator.churn.spec import (
    ChurnEvent,
    CoordinatorRestartEvent,
    LinkEvent,
    LinkEventKind,
    NodeEvent,
    NodeEventKind,
    NodeTarget,
    PartitionEvent,
    RegionOutageEvent,
)
from emulator.churn.timeline import FailureProcess
from emulator.randomness import generator
from placement.cluster import COORDINATOR

if TYPE_CHECKING:
    from simpy.events import Event

    from emulator.churn.control import ChurnControl
    from emulator.churn.report import Incident


_SCHEDULE = 0
"""Key of what the scenario's own schedule does to a link; events have keys from 1 on."""


class Happenings:
    """Lets the scenario's events and random failures happen.

    Attributes:
        disturbances: Which events slow links down or cut them.
    """

    def __init__(self, control: ChurnControl) -> None:
        self._control = control
        self._state = control.state
        self._env = control.env
        self._network = control.network
        self._choices = generator(control.state.spec.seed, "churn/choice")
        self._latency_s = control.detector.latency_s
        self._keys = 0
        self.disturbances = Disturbances()
        self._flipped: dict[Pair, bool] = {}
        self._stops_at: dict[str, int] = {}
        self._processes: list[FailureProcess] = []
        self._node_events: dict[NodeEventKind, Callable[[Machine, NodeEvent, Incident], None]] = {
            NodeEventKind.CRASH: self._crash,
            NodeEventKind.DRAIN: self._drain,
            NodeEventKind.PREEMPT: self._preempt,
            NodeEventKind.JOIN: self._join,
            NodeEventKind.STRAGGLER: self._straggle,
            NodeEventKind.GPU_MEMORY_LOSS: self._lose_memory,
        }

    def begin(self) -> None:
        """Schedule everything."""
        spec = self._control.spec
        self._network.on_scheduled = self.scheduled
        for pair in self._network.scheduled_down():
            self.scheduled(pair, False)
        for event in spec.events:
            self._control.later(event.at_s, partial(self._happen, event))
        seed = self._state.spec.seed
        self._processes = [
            FailureProcess(number, process, self._state.spec.cluster, self._env, seed, self._fail)
            for number, process in enumerate(spec.processes)
        ]

    def _happen(self, event: ChurnEvent) -> None:
        self.happen(event)

    @property
    def may_repair(self) -> bool:
        """Whether random failures to come may end with a machine that is as good as new."""
        return any(process.may_repair for process in self._processes)

    def happen(self, event: ChurnEvent) -> Callable[[], None] | None:
        """Let ``event`` happen now; what ends it is returned if it is one of links, and not flapping ones."""
        if isinstance(event, NodeEvent):
            self._node_event(event)
        elif isinstance(event, RegionOutageEvent):
            self._region_outage(event)
        elif isinstance(event, LinkEvent):
            return self._link_event(event)
        elif isinstance(event, PartitionEvent):
            return self._partition(event)
        else:
            self._restart(event)
        return None

    def _fail(self, event: NodeEvent | None) -> None:
        """A random failure, or a time at which there was to be one."""
        if event is not None:
            self._node_event(event)
        self._control.refuse_the_hopeless()

    # -- machines ------------------------------------------------------------------------------

    def _node_event(self, event: NodeEvent) -> None:
        names = event.target.among(self._state.spec.cluster)
        joins = event.kind is NodeEventKind.JOIN
        able = [name for name in names if self._control.machines[name].up != joins]
        if event.target.choose is not None:
            count = min(event.target.choose, len(able))
            drawn = sorted(self._choices.choice(len(able), count, replace=False).tolist()) if count else []
            names = able = [able[index] for index in drawn]  # type: ignore[assignment]
        for name in names:
            if name not in able:
                state = "up" if joins else "down"
                self._control.log("skipped", kind=str(event.kind), node=name, reason=f"it is {state}")
        if able:
            incident = self._control.report.incident(str(event.kind), able)
            for name in able:
                self._node_events[event.kind](self._control.machines[name], event, incident)

    def _region_outage(self, event: RegionOutageEvent) -> None:
        inside = NodeTarget(regions=(event.region,)).among(self._state.spec.cluster)
        names = [name for name in inside if self._control.machines[name].up]
        incident = self._control.report.incident("region_outage", names, region=event.region)
        for name in names:
            machine = self._control.machines[name]
            self.crash(machine, incident)
            if event.duration_s is not None:
                self._return_after(machine, event.duration_s, incident)

    def _crash(self, machine: Machine, event: NodeEvent, incident: Incident) -> None:
        self.crash(machine, incident)
        if event.duration_s is not None:
            self._return_after(machine, event.duration_s, incident)

    def crash(self, machine: Machine, incident: Incident, *, known: bool = False) -> None:
        """``machine`` stops at once; ``known`` if the coordinator expected it."""
        machine.incident = incident
        self._control.report.kv_lost(incident, self.stop(machine))
        self._control.log("crashed", incident, node=machine.name)
        if known:
            self._control.lost(machine, "has stopped")

    def stop(self, machine: Machine) -> float:
        """End everything on ``machine``.

        Returns:
            Bytes of KV entries lost.
        """
        machine.up = False
        self._stops_at.pop(machine.name, None)
        entries = machine.node.stop() if machine.node is not None else 0
        self._state.machine_stopped(machine.name)
        self._control.loads.machine_stopped(machine)
        if self._control.losses.replicas is not None and machine.node is not None:
            self._control.losses.replicas.node_stopped(machine.node)
        return entries * self._state.spec.model.kv_bytes

    def _return_after(self, machine: Machine, delay_s: float, incident: Incident) -> None:
        life = machine.life

        def back() -> None:
            if machine.life == life:
                self._come_up(machine, self._control.report.incident("join", [machine.name]))

        self._control.later(delay_s, back)

    def _join(self, machine: Machine, event: NodeEvent, incident: Incident) -> None:
        self._come_up(machine, incident)

    def _come_up(self, machine: Machine, incident: Incident) -> None:
        if machine.role is not Role.GONE:
            # It is back before it was missed; that it starts anew tells what happened.
            self._control.log("detected", machine.incident, node=machine.name)
            self._control.lost(machine, "has restarted")
        machine.up = True
        machine.life += 1
        self._network.machine_started(machine.name)
        machine.incident = incident
        machine.slowdown = machine.memory_share = 1.0
        self._control.known_slowdown.pop(machine.name, None)
        self._control.log("joined", incident, node=machine.name)
        life = machine.life
        latency_s = self._latency_s[machine.name]
        self._control.later(
            latency_s if math.isfinite(latency_s) else 0.0, lambda: self._control.came_up(machine, life)
        )

    def _drain(self, machine: Machine, event: NodeEvent, incident: Incident) -> None:
        machine.incident = incident
        self._control.log("draining", incident, node=machine.name)
        life = machine.life
        self._control.finish(machine, event.notice_s)
        if event.duration_s is not None:

            def back() -> None:
                if not machine.up and machine.life == life:
                    self._come_up(machine, self._control.report.incident("join", [machine.name]))

            self._control.later(event.duration_s, back)

    def stops_by_itself(self, machine: Machine) -> bool:
        """Whether ``machine`` was given a notice, at the end of which it stops."""
        return self._stops_at.get(machine.name) == machine.life

    def _preempt(self, machine: Machine, event: NodeEvent, incident: Incident) -> None:
        machine.incident = incident
        self._control.log("preempted_soon", incident, node=machine.name, notice_s=event.notice_s)
        life = machine.life
        self._stops_at[machine.name] = life
        self._control.finish(machine, math.inf)

        def end() -> None:
            if machine.life == life and machine.up:
                self.crash(machine, incident, known=True)
                if event.duration_s is not None:
                    self._return_after(machine, event.duration_s, incident)

        self._control.later(event.notice_s, end)

    def _straggle(self, machine: Machine, event: NodeEvent, incident: Incident) -> None:
        machine.incident = incident
        self._slow(machine, event.slowdown)
        self._control.log("slower", incident, node=machine.name, factor=event.slowdown)
        if event.duration_s is not None:
            life = machine.life
            self._control.later(event.duration_s, lambda: self._slow(machine, 1.0) if machine.life == life else None)

    def _slow(self, machine: Machine, factor: float) -> None:
        machine.slowdown = factor
        if machine.node is not None:
            machine.node.slowdown = factor
        life = machine.life

        def learn() -> None:
            # The next heartbeat tells.
            if machine.life == life and machine.slowdown == factor:
                self._control.known_slowdown.pop(machine.name, None)
                if factor != 1:
                    self._control.known_slowdown[machine.name] = factor
                self._control.report.detected(machine.incident)
                self._control.conditions_changed()

        self._control.later(self._control.spec.detection.interval_s, learn)

    def _lose_memory(self, machine: Machine, event: NodeEvent, incident: Incident) -> None:
        machine.incident = incident
        self._control.log("memory_lost", incident, node=machine.name, share=event.memory_share)
        self._set_memory(machine, 1 - event.memory_share)
        if event.duration_s is not None:
            life = machine.life
            self._control.later(
                event.duration_s, lambda: self._set_memory(machine, 1.0) if machine.life == life else None
            )

    def _set_memory(self, machine: Machine, share: float) -> None:
        before, machine.memory_share = machine.memory_share, share
        if machine.node is not None:
            machine.node.lose_memory(max(1, round(machine.node.kv_capacity / before * share)))
        self._control.report.detected(machine.incident)
        self._control.conditions_changed()

    # -- links ---------------------------------------------------------------------------------

    def _key(self) -> int:
        self._keys += 1
        return self._keys

    def _pairs(self, sources: dict[str, None], targets: dict[str, None], *, both_ways: bool) -> list[Pair]:
        cluster = self._state.spec.cluster
        found: dict[Pair, None] = {}
        for source in sources:
            for target in targets:
                if source == target:
                    continue
                for pair in ((source, target), (target, source)) if both_ways else ((source, target),):
                    if cluster.link(*pair) is not None:
                        found[pair] = None
        return list(found)

    def _link_event(self, event: LinkEvent) -> Callable[[], None] | None:
        cluster = self._state.spec.cluster
        pairs = self._pairs(event.source.members(cluster), event.target.members(cluster), both_ways=event.both_ways)
        incident = self._control.report.incident(f"link_{event.kind}", [], links=len(pairs))
        self._control.log(f"link_{event.kind}", incident, links=len(pairs))
        key = self._key()
        if event.kind is LinkEventKind.DEGRADE:
            effect = Effect(bandwidth_factor=event.bandwidth_factor, latency_factor=event.latency_factor)
            self._degrade(pairs, key, effect, incident)
            undo = partial(self._degrade, pairs, key, None, incident)
            if event.duration_s is not None:
                self._control.later(event.duration_s, undo)
            return undo
        if event.kind is LinkEventKind.DOWN:
            return self._take_down(pairs, key, event.duration_s, incident)
        until_s = math.inf if event.duration_s is None else self._env.now + event.duration_s
        self._flap(pairs, key, event, until_s, incident)
        return None

    def _degrade(self, pairs: list[Pair], key: int, effect: Effect | None, incident: Incident) -> None:
        for pair in pairs:
            self._network.set_effect(pair, key, effect)
        if effect is None:
            self.disturbances.end(pairs, key, self._env.now)
        else:
            self.disturbances.begin(pairs, key, incident)

        def learn() -> None:
            for pair in pairs:
                factor = self._network.bandwidth_factor(pair)
                self._control.known_bandwidth.pop(pair, None)
                if factor != 1:
                    self._control.known_bandwidth[pair] = factor
            self._control.report.detected(incident)
            self._control.conditions_changed()

        self._control.later(self._control.spec.detection.timeout_s, learn)

    def scheduled(self, pair: Pair, up: bool) -> None:
        """A schedule has taken a link down, or brought it up; what it does at one time is one event."""
        if not self._flipped:
            self._env.call_at(self._env.now, self._settle)
        self._flipped[pair] = up

    def _settle(self, _event: Event) -> None:
        flipped, self._flipped = self._flipped, {}
        control, env, detection = self._control, self._env, self._control.spec.detection
        down = [pair for pair, up in flipped.items() if not up]
        back = [pair for pair, up in flipped.items() if up]
        # Not by control.later: a schedule may go on for ever, and must not keep requests waiting that long.
        if down:
            incident = control.report.incident("link_down", [], links=len(down), scheduled=True)
            control.log("link_down", incident, links=len(down), scheduled=True)
            self.disturbances.begin(down, _SCHEDULE, incident)
            env.call_at(env.now + detection.timeout_s, lambda _event: control.links_lost(down, incident))
        if back:
            control.log("links_up", None, links=len(back))
            self.disturbances.end(back, _SCHEDULE, env.now)
            env.call_at(env.now + detection.interval_s, lambda _event: control.scheduled_back(back))

    def _take_down(
        self, pairs: list[Pair], key: int, duration_s: float | None, incident: Incident
    ) -> Callable[[], None]:
        """Let nothing pass; what lets everything pass again is returned, and done after ``duration_s``."""
        for pair in pairs:
            self._network.set_effect(pair, key, Effect(down=True))
        self.disturbances.begin(pairs, key, incident)
        control, detection = self._control, self._control.spec.detection
        control.later(detection.timeout_s, lambda: control.links_lost(pairs, incident))
        undo = partial(self._bring_up, pairs, key, incident)
        if duration_s is not None:
            control.later(duration_s, undo)
        return undo

    def _bring_up(self, pairs: list[Pair], key: int, incident: Incident) -> None:
        for pair in pairs:
            self._network.set_effect(pair, key, None)
        self.disturbances.end(pairs, key, self._env.now)
        control = self._control
        control.log("links_up", incident, links=len(pairs))
        control.later(control.spec.detection.interval_s, lambda: control.links_back(pairs, incident))

    def _flap(self, pairs: list[Pair], key: int, event: LinkEvent, until_s: float, incident: Incident) -> None:
        down_s = event.period_s * event.down_share
        self._take_down(pairs, key, min(down_s, max(until_s - self._env.now, 1e-9)), incident)
        if self._env.now + event.period_s < until_s:
            self._control.later(event.period_s, lambda: self._flap(pairs, key, event, until_s, incident))

    def _partition(self, event: PartitionEvent) -> Callable[[], None]:
        cluster = self._state.spec.cluster
        groups = [group.members(cluster) for group in event.groups]
        pairs: dict[Pair, None] = {}
        for index, group in enumerate(groups):
            for other in groups[index + 1 :]:
                pairs.update(dict.fromkeys(self._pairs(group, other, both_ways=True)))
        incident = self._control.report.incident("partition", [], links=len(pairs))
        self._control.log("partition", incident, groups=[list(group) for group in groups])
        return self._take_down(list(pairs), self._key(), event.duration_s, incident)

    # -- the coordinator -----------------------------------------------------------------------

    def _restart(self, event: CoordinatorRestartEvent) -> None:
        control = self._control
        incident = control.report.incident("coordinator_restart", [COORDINATOR])
        if control.coordinator_down:
            control.log("skipped", kind="coordinator_restart", reason="it is down")
            return
        control.log("coordinator_down", incident)
        control.coordinator_down = True
        self._state.coordinator.go_down()

        def back() -> None:
            control.coordinator_down = False
            control.log("coordinator_up", incident)
            control.report.detected(incident)
            remembers = control.losses.replicas is not None
            self._state.coordinator.come_up(remembers=remembers)
            control.detector.forgive()
            if not remembers:
                control.losses.of_all("the coordinator restarted", incident)
            self._state.coordinator.admit_waiting()

        control.later(event.duration_s, back)
