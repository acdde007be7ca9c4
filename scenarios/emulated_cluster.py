"""An emulated cluster for asynchronous tests: submit requests, break things, wait for what comes of it."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from emulator.churn.spec import ChurnEvent, ChurnSpec, NodeEvent, NodeEventKind
from emulator.emulation import Emulation
from emulator.environment import VirtualEnvironment
from emulator.errors import SimulationError
from emulator.realtime.aio_environment import AioEnvironment
from emulator.realtime.emulation import RealTime, RealTimeEmulation
from emulator.realtime.virtual_loop import VirtualTimeLoop
from emulator.requests import Outcome, Request
from emulator.spec import EmulationSpec
from emulator.workload import ListedArrivals, OpenLoop
from scenarios.churn import event_of
from scenarios.cluster_clock import ClusterClock, LoopClock, PumpClock
from scenarios.cluster_links import LinkHandle
from scenarios.cluster_metrics import ClusterMetrics
from scenarios.cluster_streams import RequestError, Token, TokenStream
from scenarios.loader import LoadedScenario, load_scenario
from scenarios.quantities import DURATION, QuantityError, parse

__all__ = ["ClusterMetrics", "EmulatedCluster", "LinkHandle", "RequestError", "Token", "TokenStream"]

ClockName = Literal["virtual", "real"]
Duration = str | float
"""Text with a unit such as ``"30 s"``, or a number of seconds."""
Who = str | Sequence[str] | Mapping[str, Any]
"""Machines, in the words of a scenario's churn section: names, patterns, ``{region: eu, choose: 2}``."""


class EmulatedCluster:
    """A cluster that runs beside the coroutines of a test: ``async with EmulatedCluster("quickstart") as cluster``.

    Time is emulated. With the virtual clock it passes while coroutines wait for the cluster, as fast as the processor
    allows, and everything repeats exactly. On a :class:`~emulator.realtime.virtual_loop.VirtualTimeLoop` it is the
    loop's time, so that ``asyncio.sleep(5)`` sleeps five emulated seconds; on another loop only what is awaited of the
    cluster takes emulated time. With the real clock it is the wall's, and bytes travel over sockets.

    Args:
        scenario: Library name, path, or what was loaded already.
        clock: ``virtual`` or ``real``.
        workload: Whether the scenario's own requests come, too; they do until the scenario's duration.
        overrides: Names of the scenario's ``overrides``.
        sets: Changes ``a.b.c=value``.
        dilation: For the real clock: emulated seconds per second of the wall.
        limit: Emulated time at which everybody who still waits gets an error.

    Raises:
        ScenarioError: The scenario is wrong.
    """

    def __init__(
        self,
        scenario: str | Path | LoadedScenario,
        *,
        clock: ClockName = "virtual",
        workload: bool = True,
        overrides: Sequence[str] = (),
        sets: Sequence[str] = (),
        dilation: float = 1.0,
        limit: Duration = "24 h",
    ) -> None:
        if clock not in ("virtual", "real"):
            raise SimulationError(f"clock is {clock!r}; it must be 'virtual' or 'real'")
        loaded = scenario
        if not isinstance(loaded, LoadedScenario):
            loaded = load_scenario(loaded, overrides=overrides, sets=sets)
        self.scenario = loaded
        self.spec = _for_tests(loaded.spec, workload=workload)
        self.limit_s = _seconds(limit)
        self._clock_name, self._dilation = clock, dilation
        self._streams: dict[int, TokenStream] = {}
        self._conditions: dict[asyncio.Future[None], Callable[[ClusterMetrics], object]] = {}
        self._emulation: Emulation | None = None

    # -- beginning and end ---------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._emulation is not None:
            raise SimulationError("this cluster has run already; make another EmulatedCluster")
        loop = asyncio.get_running_loop()
        clock: ClusterClock
        if self._clock_name == "real":
            emulation: Emulation = RealTimeEmulation(self.spec, real_time=RealTime(dilation=self._dilation))
            assert isinstance(emulation, RealTimeEmulation)
            try:
                await emulation.open()
            except BaseException:
                await emulation.close()
                raise
            clock = LoopClock(emulation.env, self.limit_s)
        elif isinstance(loop, VirtualTimeLoop):
            env = AioEnvironment(loop)
            env.begin(loop.time())
            emulation, clock = Emulation(self.spec, env=env), LoopClock(env, self.limit_s)
        else:
            plain = VirtualEnvironment()
            emulation, clock = Emulation(self.spec, env=plain), PumpClock(plain, self.limit_s)
        self._emulation, self._clock, self._loop = emulation, clock, loop
        self._state = emulation.state
        self._state.coordinator.on_token = self._token
        self._state.coordinator.on_ended = self._ended
        clock.on_event = self._check_conditions
        self.metrics = ClusterMetrics(emulation, clock)
        clock.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._clock.stop()
        if isinstance(self._emulation, RealTimeEmulation):
            await self._emulation.close()
        if error is None:
            self._state.check_invariants()
        elif isinstance(error, Exception):
            error.add_note(f"emulated cluster {self.spec.name}, seed {self.spec.seed}, {self.metrics!r}")

    def _running(self) -> ClusterClock:
        if self._emulation is None:
            raise SimulationError("the cluster has not been started; use it inside `async with EmulatedCluster(...)`")
        if asyncio.get_running_loop() is not self._loop:
            raise SimulationError(
                "the cluster was started on another event loop; give fixture and test the same loop scope, "
                "or start it in the test with `async with EmulatedCluster(...)`"
            )
        return self._clock

    # -- requests ------------------------------------------------------------------------------

    async def submit(self, *, prompt_tokens: int, output_tokens: int) -> TokenStream:
        """Submit a request now.

        Returns:
            Its tokens as they come.
        """
        clock = self._running()

        def arrive() -> TokenStream:
            # Its end may come at once, when it is refused.
            request = self._state.coordinator.submit(prompt_tokens, output_tokens)
            stream = TokenStream(request, clock)
            if request.outcome is Outcome.IN_FLIGHT:
                self._streams[request.number] = stream
            return stream

        return await clock.at_once(arrive)

    def _token(self, request: Request, time_s: float) -> None:
        stream = self._streams.get(request.number)
        if stream is not None:
            stream.put(time_s)

    def _ended(self, request: Request) -> None:
        stream = self._streams.pop(request.number, None)
        if stream is not None:
            stream.wake()

    # -- what goes wrong -----------------------------------------------------------------------

    async def happen(self, **event: Any) -> None:
        """Let a churn event happen now: ``happen(crash="a100-0")``, ``happen(flap={"from": "us", "to": "eu"})``.

        The keys are those of an event in a scenario file, without ``at``; for ``for`` write ``for_``.

        Raises:
            ScenarioError: There is no such event, or nobody whom it means.
            SimulationError: It cannot happen: the machine is down, or up already.
        """
        words = {key.rstrip("_"): _plain(value) for key, value in event.items() if value is not None}
        await self._running().at_once(lambda: self._apply(event_of(self.spec.cluster, words)))

    def _apply(self, event: ChurnEvent) -> Callable[[], None] | None:
        churn = self._state.churn
        assert churn is not None
        if isinstance(event, NodeEvent):
            joins = event.kind is NodeEventKind.JOIN
            if all(churn.machines[name].up is joins for name in event.target.among(self.spec.cluster)):
                raise SimulationError(f"{event.kind} of {event.target}: it is {'up' if joins else 'down'} already")
        return churn.apply(event)

    async def crash(self, who: Who, *, duration: Duration | None = None) -> None:
        """Machines stop at once; after ``duration``, if given, they come back."""
        await self.happen(crash=who, for_=_text(duration))

    async def join(self, who: Who) -> None:
        """Machines come up, holding no weights."""
        await self.happen(join=who)

    async def drain(self, who: Who, *, notice: Duration | None = None, duration: Duration | None = None) -> None:
        """Machines take nothing new, finish what they have (for ``notice`` at most), and leave."""
        await self.happen(drain=who, notice=_text(notice), for_=_text(duration))

    async def preempt(self, who: Who, *, notice: Duration = "30 s", duration: Duration | None = None) -> None:
        """Spot machines are told that they will stop after ``notice``."""
        await self.happen(preempt=who, notice=_text(notice), for_=_text(duration))

    async def straggle(self, who: Who, *, slowdown: float, duration: Duration | None = None) -> None:
        """Machines compute slower by a factor; 1 makes them well again."""
        await self.happen(straggler=who, slowdown=slowdown, for_=_text(duration))

    async def lose_memory(self, who: Who, *, share: float, duration: Duration | None = None) -> None:
        """Machines lose a share of their KV cache."""
        await self.happen(gpu_memory_loss=who, share=share, for_=_text(duration))

    async def region_outage(self, region: str, *, duration: Duration | None = None) -> None:
        """All machines of a region stop at once."""
        await self.happen(region_outage=region, for_=_text(duration))

    async def restart_coordinator(self, *, away: Duration = "5 s") -> None:
        """The coordinator is away for a while."""
        await self.happen(coordinator_restart=_text(away))

    async def partition(self, *groups: Who, duration: Duration | None = None) -> None:
        """Groups cannot reach each other until ``duration`` is over; for good without it."""
        await self.happen(partition=list(groups), for_=_text(duration))

    def link(self, source: Who, target: Who, *, both_ways: bool = True) -> LinkHandle:
        """The links between two ends: nodes, patterns, regions or the coordinator."""
        self._running()
        return LinkHandle(self.spec.cluster, source, target, both_ways, self._apply_link)

    async def _apply_link(
        self, begin: Sequence[ChurnEvent], end: Sequence[Callable[[], None]]
    ) -> list[Callable[[], None]]:
        def work() -> list[Callable[[], None]]:
            for undo in end:
                undo()
            begun = [self._apply(event) for event in begin]
            return [undo for undo in begun if undo is not None]

        return await self._running().at_once(work)

    # -- time ----------------------------------------------------------------------------------

    @property
    def now_s(self) -> float:
        """Emulated seconds since the start."""
        return self._running().now_s

    async def run_for(self, duration: Duration) -> None:
        """Let time pass."""
        clock = self._running()
        await clock.pass_until(clock.now_s + _seconds(duration))

    async def until(self, condition: Callable[[ClusterMetrics], object], *, timeout: Duration = "10 min") -> None:
        """Let time pass until a condition holds; it is asked after every event, so it should be quick.

        Raises:
            TimeoutError: ``timeout``, in emulated time, is over.
        """
        clock = self._running()
        if condition(self.metrics):
            return
        limit_s = _seconds(timeout)
        holds: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def give_up() -> None:
            if not holds.done():
                holds.set_exception(TimeoutError(f"the condition did not hold within {limit_s:g} s: {self.metrics!r}"))

        clock.at_end_of(clock.now_s + limit_s, give_up)
        self._conditions[holds] = condition
        try:
            await clock.wait(holds)
        finally:
            del self._conditions[holds]

    def _check_conditions(self) -> bool:
        """Wake whoever waits for a condition that holds now; whether anybody does."""
        woken = False
        for future, condition in list(self._conditions.items()) if self._conditions else ():
            if future.done():
                continue
            try:
                if condition(self.metrics):
                    future.set_result(None)
                    woken = True
            except Exception as error:  # The condition is the test's own, and so is its error.
                future.set_exception(error)
                woken = True
        return woken


def _for_tests(spec: EmulationSpec, *, workload: bool) -> EmulationSpec:
    """A spec in which everything can go wrong, whether its scenario foresees it or not."""
    churn = dataclasses.replace(spec.churn or ChurnSpec(), live_links=True)
    quiet = spec.workload if workload else OpenLoop(source=ListedArrivals(()))
    return dataclasses.replace(spec, churn=churn, workload=quiet)


def _seconds(duration: Duration) -> float:
    if isinstance(duration, str):
        try:
            return parse(duration, DURATION)
        except QuantityError as error:
            raise SimulationError(f"{duration!r}: {error}") from None
    if isinstance(duration, bool) or not 0 <= duration < float("inf"):
        raise SimulationError(
            f"a duration is {duration!r}; it must be text with a unit or a number of seconds from 0 on"
        )
    return float(duration)


def _text(duration: Duration | None) -> str | None:
    return duration if duration is None or isinstance(duration, str) else f"{_seconds(duration)!r} s"


def _plain(value: Any) -> Any:
    """A value in the words of a scenario file."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value
