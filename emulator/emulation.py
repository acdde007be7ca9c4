"""Runs a spec, in virtual time unless told otherwise."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from emulator.cluster import ClusterState
from emulator.environment import VirtualEnvironment
from emulator.eventlog import EventLog
from emulator.feeders import feed
from emulator.interruption import interrupted_between_events
from emulator.requests import Request
from emulator.spec import EmulationSpec
from emulator.summary import summarise

PROGRESS_SLICES = 200
DRAIN_LIMIT_FACTOR = 100.0
"""A draining run that takes longer than this many durations is stopped; whoever is left counts as in flight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run is: emulated seconds done, emulated seconds in all, requests finished and in flight."""

    sim_s: float
    duration_s: float
    finished: int
    in_flight: int


class Emulation:
    """One run, from a spec to its summary.

    Args:
        spec: What to run.
        log_sink: Gets the event log in pieces.
        log_limit_bytes: After this much the sink gets no more.
        on_ended: Gets every request as it ends, and those in flight at the very end.
        on_progress: Called about 200 times.
        env: Event core; one in virtual time when not given.
    """

    def __init__(
        self,
        spec: EmulationSpec,
        *,
        log_sink: Callable[[bytes], object] | None = None,
        log_limit_bytes: int = 1 << 30,
        on_ended: Callable[[Request], None] | None = None,
        on_token: Callable[[Request, float], None] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        env: VirtualEnvironment | None = None,
    ) -> None:
        self.spec = spec
        self.env = VirtualEnvironment() if env is None else env
        self.state = ClusterState(spec, self.env, EventLog(log_sink, log_limit_bytes))
        self._connect()
        self.state.coordinator.on_ended = on_ended
        self.state.coordinator.on_token = on_token
        self._on_ended = on_ended
        self._on_progress = on_progress
        self._feeder = feed(self.state, spec.workload, spec.seed, spec.duration_s)
        if spec.warm_up_s > 0:
            self.env.call_at(spec.warm_up_s, lambda _event: self._start_window())

    def _connect(self) -> None:
        """Give the cluster another network than that of virtual time, before anything is sent."""

    def _start_window(self) -> None:
        self.state.metrics.start_window(self.env.now)
        self.state.start_window()

    def run(self) -> dict[str, Any]:
        """Run to the end and return the summary; Ctrl-C ends early and marks it ``interrupted``."""
        wall, cpu = time.perf_counter(), time.process_time()
        interrupted = False
        try:
            with interrupted_between_events(self.env):
                self._advance()
        except KeyboardInterrupt:
            interrupted = True
        return self._ended(wall, cpu, interrupted=interrupted)

    def _ended(self, wall: float, cpu: float, *, interrupted: bool) -> dict[str, Any]:
        """The summary of a run that began at ``wall`` and ``cpu`` by the process's clocks."""
        self.state.check_invariants()
        if self._on_ended is not None:
            for attempt in self.state.coordinator.in_flight():
                self._on_ended(attempt.request)
            for request in self.state.coordinator.waiting:
                self._on_ended(request)
        return summarise(
            self.state,
            wall_s=time.perf_counter() - wall,
            cpu_s=time.process_time() - cpu,
            interrupted=interrupted,
        )

    def _advance(self) -> None:
        duration = self.spec.duration_s
        for part in range(1, PROGRESS_SLICES + 1):
            self.env.run_to(duration * part / PROGRESS_SLICES)
            self._report()
        if not self.spec.drain:
            return
        deadline = duration * DRAIN_LIMIT_FACTOR
        while self.state.coordinator.open_requests and self.env.peek() <= deadline:
            self.env.step()
        self._report()

    def _report(self) -> None:
        if self._on_progress is not None:
            metrics = self.state.metrics
            self._on_progress(
                Progress(
                    sim_s=self.env.now,
                    duration_s=self.spec.duration_s,
                    finished=metrics.finished,
                    in_flight=self.state.coordinator.in_flight_count,
                )
            )
