"""Wires whose conditions change and whose ends fail while messages are on them."""

from __future__ import annotations

import dataclasses
import math
from bisect import bisect_right
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Protocol

from simpy.events import Event

from emulator.links import CARD_BLOCK_S, Dispatch, Transfer, VirtualNetwork, Wire
from netshape.link_model import ConditionedClock

if TYPE_CHECKING:
    from emulator.cluster import ClusterState
    from emulator.conditions import LinkBehaviour
    from emulator.requests import Attempt
    from netshape.conditions import LinkConditions
    from netshape.link_queue import Replan

Pair = tuple[str, str]


@dataclasses.dataclass(frozen=True, slots=True)
class Effect:
    """What one event does to a wire: factors on bandwidth and latency, or nothing passes."""

    bandwidth_factor: float = 1.0
    latency_factor: float = 1.0
    down: bool = False


class Observer(Protocol):
    """Whoever carries real bytes beside the plan."""

    def machine_stopped(self, name: str) -> None:
        """A machine has stopped at once."""

    def machine_started(self, name: str) -> None:
        """A machine runs again."""

    def wire_changed(self, pair: Pair, up: bool) -> None:
        """Nothing passes from one to the other any more, or something does again."""

    def moved(self, transfer: Transfer) -> None:
        """A transfer that is on its way has other times now."""


class Parcel(Dispatch):
    """A message of the cluster's own (heartbeat, weights, KV copies) on a wire that requests use too."""

    def __init__(self, state: ClusterState, wire: Wire, at_s: float, callback: Callable[[], None]) -> None:
        super().__init__(state.env)
        self._ok = True
        self._value = None
        self.wire = wire
        self.times = [at_s]
        self.callback = callback


class WireWatch:
    """Is told of everything that happens on wires, when a network has one; does nothing itself."""

    def sent(self, wire: Wire, dispatch: Dispatch) -> None:
        """``dispatch`` was handed to ``wire`` and will arrive at its times."""

    def arrived(self, wire: Wire, dispatch: Dispatch) -> None:
        """``dispatch`` has arrived, up to the messages that it names; it has not been handed over yet."""

    def replanned(self, wire: Wire) -> None:
        """What has not been sent on ``wire`` arrives at other times."""

    def lost(self, wire: Wire, dispatch: Dispatch, arriving: int) -> None:
        """Of ``dispatch`` only the first ``arriving`` messages still arrive."""

    def restarted(self, wire: Wire) -> None:
        """The sender of ``wire`` has stopped; what it sends from now on is a stream of its own."""


class ChurningNetwork(VirtualNetwork):
    """Virtual clocks that remember what is on the way, so that it can be planned anew, held up or lost.

    A transfer is handed over in pieces of at most :data:`~emulator.links.CARD_BLOCK_S`: what has not arrived when
    something happens to its wire is still in the wire's ``in_flight``.

    Attributes:
        observer: Is told what happens to machines and wires, when set.
        on_scheduled: Is told of each pair that a schedule takes down (``False``) or brings up, when set.
        wire_watch: Is told of every message on every wire, when set.
    """

    def __init__(self, state: ClusterState, watch: Callable[[Transfer], None] | None) -> None:
        super().__init__(state.env, watch)
        self._state = state
        self._effects: dict[Pair, dict[int, Effect]] = {}
        self._scheduled: dict[Pair, LinkConditions] = {}
        self._goes_on: dict[Pair, None] = {}
        self._down_since_s: dict[Pair, float] = {}
        self.observer: Observer | None = None
        self.on_scheduled: Callable[[Pair, bool], None] | None = None
        self.wire_watch: WireWatch | None = None

    # -- sending -------------------------------------------------------------------------------

    def launch(self, transfer: Transfer, at_s: float) -> None:
        """Let ``transfer`` be delivered at ``at_s``, unless something happens to its wire before."""
        clock = transfer.link.clock
        if isinstance(clock, ConditionedClock):
            transfer.number = clock.accepted - len(transfer.items)
        self._track(transfer.link.wire, transfer)
        if self.wire_watch is not None:
            self.wire_watch.sent(transfer.link.wire, transfer)

    def send(self, wire: Wire, size_bytes: float, callback: Callable[[], None]) -> None:
        """Send ``size_bytes`` of the cluster's own; ``callback`` is called when they have arrived, if they do."""
        clock = wire.clock
        parcel = Parcel(self._state, wire, clock.send(self._env.now, size_bytes), callback)
        if isinstance(clock, ConditionedClock):
            parcel.number = clock.accepted - 1
        self._track(wire, parcel)
        if self.wire_watch is not None:
            self.wire_watch.sent(wire, parcel)

    def _track(self, wire: Wire, dispatch: Dispatch) -> None:
        wire.in_flight[dispatch] = None
        dispatch.callbacks = [self._arrive]
        if dispatch.times[0] < math.inf:
            self._env.push(dispatch, dispatch.times[0])

    def _arrive(self, event: Event) -> None:
        if isinstance(event, Parcel):
            del event.wire.in_flight[event]
            if self.wire_watch is not None:
                self.wire_watch.arrived(event.wire, event)
            event.callback()
            return
        assert isinstance(event, Transfer)
        in_flight = event.link.wire.in_flight
        del in_flight[event]
        times = event.times
        if times[-1] > times[0] + CARD_BLOCK_S:
            tail = event.split(bisect_right(times, times[0] + CARD_BLOCK_S))
            tail.callbacks = [self._arrive]
            in_flight[tail] = None
        if self.wire_watch is not None:
            self.wire_watch.arrived(event.link.wire, event)
        event.link.deliver(event)

    # -- changes -------------------------------------------------------------------------------

    def is_down(self, pair: Pair) -> bool:
        """Whether nothing passes from one to the other now."""
        return pair in self._down_since_s

    def down_for_s(self, pair: Pair) -> float:
        """How long nothing has passed from one to the other; 0 when something does."""
        return self._env.now - self._down_since_s.get(pair, self._env.now)

    def _note_whether_down(self, pair: Pair) -> None:
        scheduled = self._scheduled.get(pair)
        down = scheduled is not None and not scheduled.up
        if down or any(effect.down for effect in self._effects.get(pair, {}).values()):
            self._down_since_s.setdefault(pair, self._env.now)
        else:
            self._down_since_s.pop(pair, None)

    def scheduled_down(self) -> list[Pair]:
        """Pairs between which nothing passes now because a schedule says so."""
        return [pair for pair, conditions in self._scheduled.items() if not conditions.up]

    def waits_for_schedule(self, pair: Pair) -> bool:
        """Whether a schedule has stopped what passes from one to the other, and has not come to its end."""
        scheduled = self._scheduled.get(pair)
        return scheduled is not None and not scheduled.up and pair in self._goes_on

    def bandwidth_factor(self, pair: Pair) -> float:
        """What all that has happened makes of a wire's bandwidth; 1 when nothing has."""
        return math.prod(effect.bandwidth_factor for effect in self._effects.get(pair, {}).values())

    def set_effect(self, pair: Pair, key: int, effect: Effect | None) -> None:
        """Begin, change or, with ``None``, end what event ``key`` does to a wire."""
        effects = self._effects.setdefault(pair, {})
        if effect is None:
            effects.pop(key, None)
        else:
            effects[key] = effect
        self._note_whether_down(pair)
        wire = self._state.wire(*pair)
        if wire is not None:
            self.refresh(wire)

    def refresh(self, wire: Wire) -> None:
        """Make the wire's clock what its link and the effects on it say."""
        pair = wire.source, wire.target
        link = self._state.spec.cluster.link(*pair)
        assert link is not None
        rate = wire.share_bytes_per_s or link.bandwidth_bytes_per_s
        latency = link.latency_s
        scheduled = self._scheduled.get(pair)
        if scheduled is not None:
            rate, latency = scheduled.bandwidth_bytes_per_s, scheduled.latency_s
        effects = self._effects.get(pair, {}).values()
        for effect in effects:
            rate *= effect.bandwidth_factor
            latency *= effect.latency_factor
        clock = wire.clock
        if not isinstance(clock, ConditionedClock):
            assert not effects, "runs whose links change have clocks that can"
            clock.bytes_per_s = rate
            return
        before = clock.conditions
        conditions = dataclasses.replace(
            scheduled or before,
            bandwidth_bytes_per_s=rate,
            latency_s=latency,
            up=(scheduled is None or scheduled.up) and not any(effect.down for effect in effects),
        )
        if conditions != before:
            self._replan(wire, clock.set(conditions, self._env.now))
            if conditions.up != before.up and self.observer is not None:
                self.observer.wire_changed(pair, conditions.up)
        if latency != before.latency_s:
            # What is lost on the way back is sent again after a round trip, which has changed.
            back = self._state.wire(wire.target, wire.source)
            if back is not None and isinstance(back.clock, ConditionedClock):
                self._replan(back, back.clock.set_return_latency(latency, self._env.now))

    def follow(self, wire: Wire, behaviour: LinkBehaviour) -> None:
        """Let a wire's conditions change as its schedule says."""
        assert behaviour.schedule is not None
        self._step(wire, behaviour.schedule.changes(behaviour.conditions))

    def _step(self, wire: Wire, changes: Iterator[tuple[float, LinkConditions]]) -> None:
        """Take all steps that are due, and wait for the next."""
        self._goes_on.pop((wire.source, wire.target), None)
        for at_s, conditions in changes:
            if at_s > self._env.now:
                # A generator gives each step once, so the next one is kept until its time.
                self._goes_on[wire.source, wire.target] = None
                self._env.call_at(at_s, partial(self._due, wire, conditions, changes))
                break
            self._schedule(wire, conditions)
        self.refresh(wire)

    def _schedule(self, wire: Wire, conditions: LinkConditions) -> None:
        pair = wire.source, wire.target
        before = self._scheduled.get(pair)
        self._scheduled[pair] = conditions
        self._note_whether_down(pair)
        if self.on_scheduled is not None and conditions.up != (before is None or before.up):
            self.on_scheduled(pair, conditions.up)

    def _due(
        self, wire: Wire, conditions: LinkConditions, changes: Iterator[tuple[float, LinkConditions]], _event: Event
    ) -> None:
        self._schedule(wire, conditions)
        self._step(wire, changes)

    def set_rate(self, wire: Wire, bytes_per_s: float) -> None:
        """Give a wire another share of the cards at its ends."""
        wire.share_bytes_per_s = bytes_per_s
        self.refresh(wire)

    def _replan(self, wire: Wire, replan: Replan) -> None:
        # In order of sending: the rest of a transfer that has begun to arrive stands behind later ones.
        waiting = sorted(wire.in_flight, key=lambda dispatch: dispatch.number)
        wire.in_flight = {}
        for dispatch in waiting:
            sent = max(0, replan.first - dispatch.number)
            times = dispatch.times
            if sent >= len(times):
                wire.in_flight[dispatch] = None
                continue
            at = dispatch.number + sent - replan.first
            times = times[:sent] + list(replan.arrivals_s[at : at + len(times) - sent])
            self._track(wire, self._moved(dispatch, times))
        if self.wire_watch is not None:
            self.wire_watch.replanned(wire)

    def _moved(self, dispatch: Dispatch, times: list[float]) -> Dispatch:
        """The same messages at other times; the old event comes to nothing."""
        dispatch.callbacks = []
        twin: Dispatch
        if isinstance(dispatch, Parcel):
            twin = Parcel(self._state, dispatch.wire, times[0], dispatch.callback)
        else:
            assert isinstance(dispatch, Transfer)
            twin = Transfer(self._state.env, dispatch.link, dispatch.items, times, dispatch.prefills, dispatch.tokens)
        twin.number, twin.serial = dispatch.number, dispatch.serial
        if self.observer is not None and isinstance(twin, Transfer):
            self.observer.moved(twin)
        return twin

    def machine_stopped(self, name: str) -> None:
        """Machine ``name`` has stopped, and what is on its way to it comes to nobody."""
        if self.observer is not None:
            self.observer.machine_stopped(name)

    def machine_started(self, name: str) -> None:
        """Machine ``name`` runs again."""
        if self.observer is not None:
            self.observer.machine_started(name)

    def sender_stopped(self, wire: Wire) -> None:
        """Lose what the sender of ``wire`` had not sent; what has left it still arrives."""
        now = self._env.now
        clock = wire.clock
        first_unsent = 0
        if isinstance(clock, ConditionedClock):
            clock.forget_sent(now)
            first_unsent = clock.first_unsent
        for dispatch in list(wire.in_flight):
            if isinstance(clock, ConditionedClock):
                sent = min(len(dispatch.times), max(0, first_unsent - dispatch.number))
            else:
                sent = bisect_right(dispatch.times, now + clock.latency_s)
            if sent == len(dispatch.times):
                continue
            if self.wire_watch is not None:
                self.wire_watch.lost(wire, dispatch, sent)
            if isinstance(dispatch, Transfer):
                lost = dispatch.items[sent:]
                for item in lost:
                    self._state.lose(item)
                dispatch.prefills -= sum(1 for item in lost if item.prefill) if dispatch.prefills else 0
                dispatch.tokens -= sum(item.tokens for item in lost)
                dispatch.items = dispatch.items[:sent]
            dispatch.times = dispatch.times[:sent]
            if not sent:
                dispatch.callbacks = []
                del wire.in_flight[dispatch]
        for dispatch in wire.in_flight:
            # The sender's next clock counts from 0 again; these are sent, whatever it says.
            dispatch.number = -len(dispatch.times)
        if self.wire_watch is not None:
            self.wire_watch.restarted(wire)

    def attempts_on(self, pair: Pair) -> list[Attempt]:
        """What is on its way from one to the other now."""
        wire = self._state.wire(*pair)
        if wire is None:
            return []
        return [item for dispatch in wire.in_flight if isinstance(dispatch, Transfer) for item in dispatch.items]
