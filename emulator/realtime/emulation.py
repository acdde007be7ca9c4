"""Runs a spec on an asyncio loop: at once on a virtual-time loop, in step with the wall clock on another."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from emulator.emulation import DRAIN_LIMIT_FACTOR, PROGRESS_SLICES, Emulation
from emulator.errors import SimulationError
from emulator.interruption import interrupted_between_events
from emulator.realtime.aio_environment import AioEnvironment
from emulator.realtime.connections import Pair
from emulator.realtime.exchange import Exchange, need_files
from emulator.realtime.messages import TOKEN_BYTES
from emulator.realtime.meter import Counts, LoopLag, Meter, advice, figures, keeping_up
from emulator.realtime.network import SocketCarrier, TimeMode
from emulator.realtime.places import Namespaces, check_namespaces
from emulator.spec import EmulationSpec
from netshape.timing import realtime_scheduling, timer_kind
from placement.cluster import COORDINATOR

LEAD_S = 0.05
"""From the last preparation to emulated time 0."""
MAX_WORKERS = 64
WATCH_EVERY_S = 0.5


class Transport(StrEnum):
    """What joins the machines of a run in real time."""

    LOOPBACK = "loopback"
    """Loopback sockets; receivers hold what comes before its time."""
    NAMESPACES = "namespaces"
    """A network namespace each; packets take the time that the kernel's network takes for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RealTime:
    """How a run in real time goes.

    Attributes:
        dilation: Emulated seconds per second of the wall: 0.5 runs at half speed, an emulated second takes two.
        mode: Whose time counts.
        transport: What joins the machines.
        workers: Processes for the nodes beside the coordinator's; 0 has everything in one.
        priority: Real-time priority (SCHED_FIFO) to ask for, 1 to 99; 0 for none. With it other programs of the machine
            make nothing late, and a machine that is too slow for the run has nothing left for them.
    """

    dilation: float = 1.0
    mode: TimeMode = TimeMode.LOGICAL
    transport: Transport = Transport.LOOPBACK
    workers: int = 0
    priority: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.priority <= 99:
            raise SimulationError(f"priority is {self.priority}; it must be from 1 to 99, or 0 for none")
        if not 0 <= self.workers <= MAX_WORKERS:
            raise SimulationError(f"workers is {self.workers}; it must be from 0 to {MAX_WORKERS}")
        if not (math.isfinite(self.dilation) and 0.001 <= self.dilation <= 1_000):
            raise SimulationError(f"dilation is {self.dilation:g}; it must be from 0.001 to 1000, 0.5 being half speed")


def check_real_time(spec: EmulationSpec, real_time: RealTime) -> None:
    """Refuse what cannot be run as asked.

    Raises:
        SimulationError: The scenario and the settings do not go together.
    """
    if real_time.transport is Transport.NAMESPACES:
        check_namespaces(spec)
        if real_time.workers:
            raise SimulationError("--transport namespaces has all nodes in one process; leave --workers out")
    if not (spec.churn is not None or spec.conditions.change):
        return
    what = "churn" if spec.churn is not None else "a link's schedule"
    if real_time.transport is Transport.NAMESPACES:
        raise SimulationError(f"{what} changes links, which stay in the kernel's network; use --transport loopback")
    if real_time.mode is TimeMode.OBSERVED:
        raise SimulationError(
            f"{what} gives messages that are on their way other times, which observed time does not; use --mode logical"
        )
    if real_time.workers:
        raise SimulationError(f"{what} changes nodes and links of all processes at once; leave --workers out")


class AioEmulation(Emulation):
    """One run whose events are driven by the running asyncio loop; messages travel as in virtual time.

    On a :class:`~emulator.realtime.virtual_loop.VirtualTimeLoop` it ends at once, with the same event log as
    :class:`~emulator.emulation.Emulation`; other coroutines of the loop can watch and disturb it at set times.
    """

    env: AioEnvironment

    def __init__(self, spec: EmulationSpec, *, dilation: float = 1.0, **hooks: Any) -> None:
        super().__init__(spec, env=AioEnvironment(asyncio.get_running_loop(), dilation=dilation), **hooks)

    async def run_on_loop(self) -> dict[str, Any]:
        """Run to the end and return the summary; Ctrl-C ends early and marks it ``interrupted``."""
        wall, cpu = time.perf_counter(), time.process_time()
        reached = await self._advance_on_loop()
        return self._ended(wall, cpu, interrupted=not reached)

    async def _advance_on_loop(self) -> bool:
        duration = self.spec.duration_s
        for part in range(1, PROGRESS_SLICES + 1):
            if not await self.env.advance(duration * part / PROGRESS_SLICES):
                return False
            self._report()
        if not self.spec.drain:
            return True
        coordinator = self.state.coordinator
        reached = await self.env.advance(duration * DRAIN_LIMIT_FACTOR, stop=lambda: not coordinator.open_requests)
        self._report()
        return reached


class RealTimeEmulation(AioEmulation):
    """One run in step with the wall clock, every message's bytes sent over a socket of its own link."""

    def __init__(self, spec: EmulationSpec, *, real_time: RealTime | None = None, **hooks: Any) -> None:
        self.real_time = real_time or RealTime()
        check_real_time(spec, self.real_time)
        loop = asyncio.get_running_loop()
        self.meter = Meter()
        self.lag = LoopLag(loop)
        self.error: str | None = None
        self._namespaces: Namespaces | None = None
        self._watching: asyncio.TimerHandle | None = None
        self.scheduling = ""
        self.sockets: Mapping[str, Any] = {}
        self.exchange = Exchange(loop, secrets.token_bytes(TOKEN_BYTES), lambda *_: None, self._lost)
        self._behind_s = self._achieved = 0.0
        super().__init__(spec, dilation=self.real_time.dilation, **hooks)

    @property
    def lead_s(self) -> float:
        """From the last preparation to emulated time 0."""
        return LEAD_S

    def _connect(self) -> None:
        settings = self.real_time
        SocketCarrier(
            self.env,
            self.exchange,
            settings.mode,
            self.state.model_layers,
            self.meter,
            holds=settings.transport is Transport.LOOPBACK,
        ).attach(self.state)

    async def run_on_loop(self) -> dict[str, Any]:
        """Run to the end and return the summary.

        Ctrl-C, or a peer that is lost, ends it early: the summary's ``interrupted`` is set, and
        ``real_time.error`` says what was lost.
        """
        wall, cpu = time.perf_counter(), time.process_time()
        reached = False
        loop = asyncio.get_running_loop()
        before = loop.get_exception_handler()
        # A callback that fails must not leave the run waiting for what it should have done.
        loop.set_exception_handler(lambda _loop, context: self.env.fail(failure(context)))
        try:
            await self._open()
            try:
                with (
                    interrupted_between_events(self.env),
                    _no_collections(),
                    prioritised(self.real_time.priority) as told,
                ):
                    self.scheduling = told
                    reached = await self._keep_time()
            except PeerLostError as error:
                self.error = str(error)
        finally:
            await self._close()
            loop.set_exception_handler(before)
        summary = self._ended(wall, cpu, interrupted=not reached or self.error is not None)
        summary["real_time"] = self._figures()
        return summary

    async def open(self) -> None:
        """Connect everybody and let emulated time begin in a moment, for whoever lets it advance piece by piece.

        :meth:`run_on_loop` is all of it in one.
        """
        await self._open()
        self._begin(asyncio.get_running_loop().time() + self.lead_s)
        self.lag.start()

    async def close(self) -> None:
        """Give back what :meth:`open` took."""
        await self._close()

    async def _open(self) -> None:
        pairs: list[Pair] = list(dict.fromkeys((wire.source, wire.target) for wire in self.state.used_wires()))
        machines = [COORDINATOR, *(node.name for node in self.state.nodes)]
        # Where links come and go, any two machines may be joined.
        most = len(pairs) if self.spec.churn is None else sum(1 for _ in self.spec.cluster.pairs())
        need_files(2 * most + len(machines))
        if self.real_time.transport is Transport.NAMESPACES:
            self._namespaces = self.exchange.places = Namespaces(self.spec, pairs, self.real_time.dilation)
            await self._namespaces.open()
            self._look_after(self._namespaces)
        for machine in machines:
            self.exchange.listen(machine)
        await self.exchange.connect(pairs, pairs)
        self.sockets = self.exchange.settings()

    def _look_after(self, namespaces: Namespaces) -> None:
        """A network that is gone delivers nothing and closes nothing, so somebody has to look."""
        if failure := namespaces.failure():
            self.env.fail(PeerLostError(failure))
        else:
            self._watching = asyncio.get_running_loop().call_later(WATCH_EVERY_S, self._look_after, namespaces)

    async def _close(self) -> None:
        self.lag.stop()
        self.exchange.close()
        if self._watching is not None:
            self._watching.cancel()
        if self._namespaces is not None:
            await self._namespaces.close()

    def _begin(self, at_loop_s: float) -> None:
        """Emulated time 0 is at ``at_loop_s``, which is a little ahead."""
        self.env.begin(at_loop_s)

    async def _keep_time(self) -> bool:
        loop = asyncio.get_running_loop()
        begin_s = loop.time() + self.lead_s
        self._begin(begin_s)
        self.lag.start()
        try:
            return await self._advance_on_loop()
        finally:
            wall_s = max(loop.time() - begin_s, 1e-9)
            self._achieved = self.env.now / wall_s
            self._behind_s = max(0.0, self.env.clock_s() - self.env.now) / self.env.dilation

    def _start_window(self) -> None:
        super()._start_window()
        self.meter.start_window()

    def _lost(self, pair: Pair, reason: str) -> None:
        self.env.fail(PeerLostError(f"the connection {pair[0]}->{pair[1]} was lost: {reason}"))

    def _counts(self) -> list[Counts]:
        """What each process of the run counted, the coordinator's first."""
        return [
            Counts(
                events=self.env.events,
                late_frames=self.meter.late_frames,
                causality_violations=self.meter.causality_violations,
                sent_bytes=self.exchange.sent_bytes,
                received_bytes=self.exchange.received_bytes,
                strangers=self.exchange.strangers,
                malformed=self.exchange.malformed,
                event_lateness_s=self.env.lateness_s,
                frame_lateness_s=self.meter.frame_lateness_s,
                loop_lag_s=self.lag.lag_s,
            )
        ]

    def _figures(self) -> dict[str, Any]:
        """The part ``real_time`` of the summary."""
        settings = self.real_time
        counts = Counts()
        for part in self._counts():
            counts.add(part)
        loopback = settings.transport is Transport.LOOPBACK
        share = self._share_of_latency(counts) if settings.mode is TimeMode.OBSERVED and loopback else None
        behind_s = self._behind_s if self.error is None else 0.0
        kept_up, problem = keeping_up(counts, behind_s=behind_s, share_of_latency=share, planned=loopback)
        return {
            "mode": str(settings.mode),
            "transport": str(settings.transport),
            "dilation": settings.dilation,
            "dilation_achieved": self._achieved,
            "workers": settings.workers,
            "kept_up": kept_up,
            "warning": None if kept_up else advice(problem, settings.dilation, settings.workers),
            "error": self.error,
            "event_lateness_s": figures(counts.event_lateness_s),
            "frame_lateness_s": figures(counts.frame_lateness_s),
            "loop_lag_s": figures(counts.loop_lag_s),
            "lateness_share_of_iteration_latency": share,
            "late_frames": counts.late_frames,
            "causality_violations": counts.causality_violations,
            "events": counts.events,
            "sent_bytes": counts.sent_bytes,
            "received_bytes": counts.received_bytes,
            "strangers_turned_away": counts.strangers,
            "malformed_connections": counts.malformed,
            "scheduling": self.scheduling,
            "timer": timer_kind(asyncio.get_running_loop()),
            "sockets": self.sockets,
        }

    def _share_of_latency(self, counts: Counts) -> float | None:
        """What the lateness of messages makes up of the time from the coordinator and back."""
        late_s = counts.frame_lateness_s.total() * self.env.dilation
        metrics = self.state.metrics
        whole_s = metrics.decode_latency().total() + metrics.prefill.total()
        return late_s / whole_s if whole_s > 0 else None


def failure(context: Mapping[str, Any]) -> BaseException:
    """What an event loop's exception handler is told, as an exception."""
    error = context.get("exception")
    return error if isinstance(error, BaseException) else RuntimeError(str(context.get("message")))


class PeerLostError(SimulationError):
    """Somebody that the run cannot go on without is gone."""


@contextlib.contextmanager
def prioritised(priority: int) -> Iterator[str]:
    """Ask for real-time scheduling within the block, unless ``priority`` is 0; says what came of it."""
    if not priority:
        yield "as other programs"
        return
    with realtime_scheduling(priority) as granted:
        yield f"real time, priority {priority}" if granted.realtime else f"as other programs: {granted.reason}"


@contextlib.contextmanager
def _no_collections() -> Iterator[None]:
    """Keep what there is now out of garbage collection: a full one would stop the loop for milliseconds."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
