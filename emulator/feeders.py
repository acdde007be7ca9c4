"""Feeders: turn a workload into submissions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from emulator.warm_start import fill
from emulator.workload import Arrival, ClosedLoop, Lengths, OpenLoop, Refill, Workload

if TYPE_CHECKING:
    from simpy.events import Event

    from emulator.cluster import ClusterState

REFUSED_PAUSE_S = 0.1
"""Least time between a refusal and the request that takes its place."""


class OpenLoopFeeder:
    """Submits each request at its time; the next arrival is always on the event queue."""

    def __init__(self, state: ClusterState, workload: OpenLoop, seed: int, until_s: float) -> None:
        self._state = state
        self._arrivals = workload.source.arrivals(seed)
        self._until_s = until_s
        self._schedule_next()

    def _schedule_next(self) -> None:
        arrival = next(self._arrivals, None)
        if arrival is not None and arrival.at_s <= self._until_s:
            self._state.env.call_at(arrival.at_s, self._submit, arrival)

    def _submit(self, event: Event) -> None:
        arrival = event.value
        assert isinstance(arrival, Arrival)
        self._state.coordinator.submit(arrival.prompt_tokens, arrival.output_tokens)
        self._schedule_next()


class ClosedLoopFeeder:
    """Keeps the cluster under pressure (HELIX.md section 7)."""

    def __init__(self, state: ClusterState, workload: ClosedLoop, seed: int, until_s: float, first: int) -> None:
        self._state = state
        self._workload = workload
        self._until_s = until_s
        self._lengths: Iterator[Lengths] = workload.lengths.draws(seed)
        coordinator = state.coordinator
        if workload.refill is Refill.KV_ROOM:
            coordinator.on_prefill_done = self._refill
        else:
            coordinator.on_refused = self._replace
        coordinator.on_request_end = self._refill
        for index in range(first):
            self._issue(index * workload.spacing_s)

    def _replace(self, now_s: float) -> None:
        """Another request for one that was turned away, after a pause that lets the run go on if all are."""
        if now_s <= self._until_s:
            self._issue(now_s + max(self._workload.spacing_s, REFUSED_PAUSE_S))

    def _issue(self, at_s: float) -> None:
        self._state.env.call_at(at_s, self._submit, next(self._lengths))

    def _submit(self, event: Event) -> None:
        lengths = event.value
        assert isinstance(lengths, Lengths)
        self._state.coordinator.submit(lengths.prompt_tokens, lengths.output_tokens)

    def _refill(self, now_s: float) -> None:
        if now_s > self._until_s:
            return
        workload = self._workload
        if workload.refill is Refill.KV_ROOM and self._state.kv_bottleneck() > workload.feed_high_water_mark:
            return
        self._issue(now_s + workload.spacing_s)


Feeder = OpenLoopFeeder | ClosedLoopFeeder


def feed(state: ClusterState, workload: Workload, seed: int, until_s: float) -> Feeder:
    """Start feeding ``workload`` until ``until_s``, onto a cluster that a warm start fills first, if there is one."""
    warm = state.spec.warm_start
    first = None if warm is None else fill(state, warm)
    if isinstance(workload, OpenLoop):
        return OpenLoopFeeder(state, workload, seed, until_s)
    return ClosedLoopFeeder(state, workload, seed, until_s, workload.initial_requests if first is None else first)
