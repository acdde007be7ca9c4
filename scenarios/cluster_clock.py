"""What makes time pass in an emulated cluster while coroutines talk to it."""

from __future__ import annotations

import asyncio
import math
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from emulator.environment import VirtualEnvironment
from emulator.errors import SimulationError
from emulator.realtime.aio_environment import AioEnvironment

T = TypeVar("T")
STEPS_PER_TURN = 1_000
"""Most events between two turns of the loop's own timers and sockets."""


class ClusterClock(ABC):
    """Processes events while coroutines wait for what comes of them.

    Args:
        env: The event core.
        limit_s: Emulated time at which everybody who still waits gets an error.

    Attributes:
        env: As given.
        limit_s: As given.
        on_event: Asked after every event whether somebody must see the cluster as it is now, before the next one.
    """

    def __init__(self, env: VirtualEnvironment, limit_s: float) -> None:
        self.env = env
        self.limit_s = limit_s
        self.on_event: Callable[[], bool] = lambda: False
        self._waiters: dict[asyncio.Future[Any], None] = {}
        self._error: BaseException | None = None

    @property
    @abstractmethod
    def now_s(self) -> float:
        """Emulated time."""

    @abstractmethod
    def start(self) -> None:
        """Let time begin."""

    @abstractmethod
    async def stop(self) -> None:
        """Let time end; whoever waits is cancelled."""

    async def wait(self, future: asyncio.Future[T]) -> T:
        """Let time pass until ``future`` is done.

        Raises:
            SimulationError: Time has run out, or nothing is left to happen.
            Exception: Whatever an event raised.
        """
        if self._error is not None:
            raise self._error
        self._waiters[future] = None
        self._more_waiters()
        try:
            return await future
        finally:
            self._waiters.pop(future, None)

    async def at_once(self, work: Callable[[], T]) -> T:
        """Do ``work`` as an event of the present time."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def happen(_event: object) -> None:
            if future.done():
                return
            try:
                future.set_result(work())
            except Exception as error:  # Whoever asked for it is told, not whoever else waits.
                future.set_exception(error)

        self.env.call_at(max(self.env.now, self.now_s), happen)
        return await self.wait(future)

    async def pass_until(self, at_s: float) -> None:
        """Let time pass until ``at_s``; all events up to and including it have happened then."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.at_end_of(at_s, lambda: None if future.done() else future.set_result(None))
        await self.wait(future)

    def at_end_of(self, at_s: float, work: Callable[[], None]) -> None:
        """Have ``work`` done behind everything else that happens at ``at_s``."""
        event = self.env.event()
        assert event.callbacks is not None
        event.callbacks.append(lambda _event: work())
        # Nothing that has a cause is later than this.
        self.env.trigger_late(event, max(at_s, self.env.now), math.inf)

    def _more_waiters(self) -> None:
        """Somebody has begun to wait."""
        return

    def _fail(self, error: BaseException) -> None:
        self._error = error
        for future in list(self._waiters):
            if not future.done():
                future.set_exception(error)

    def _end(self) -> None:
        """Nothing will happen any more."""
        for future in list(self._waiters):
            future.cancel()
        self._error = SimulationError("the emulated cluster has ended; use it inside its `async with`")

    def _out_of_time(self) -> SimulationError:
        return SimulationError(
            f"emulated time has come to the limit of {self.limit_s:g} s and somebody still waits for something; "
            "give EmulatedCluster a greater limit, or look for what never comes"
        )


class LoopClock(ClusterClock):
    """Time of the loop itself: a virtual-time loop's, or the wall's.

    It passes whether anybody waits for the cluster or not.
    """

    env: AioEnvironment

    def __init__(self, env: AioEnvironment, limit_s: float) -> None:
        super().__init__(env, limit_s)
        self._task: asyncio.Task[None] | None = None

    @property
    def now_s(self) -> float:
        """Emulated time by the loop's clock."""
        return max(self.env.now, self.env.clock_s())

    def start(self) -> None:
        """Let events happen from the next turn of the loop on."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="emulated cluster")

    async def _run(self) -> None:
        try:
            while self.env.now < self.limit_s:
                await self.env.advance(self.limit_s, stop=self.on_event)
            self._fail(self._out_of_time())
        except Exception as error:
            self._fail(error)

    async def stop(self) -> None:
        """End the task that lets events happen."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._end()


class PumpClock(ClusterClock):
    """Virtual time on a loop of real time: events happen when every coroutine waits, and one of them for the cluster.

    What the coroutines do is then as repeatable as they are themselves; ``asyncio.sleep`` sleeps real seconds in
    which nothing happens in the cluster.
    """

    def __init__(self, env: VirtualEnvironment, limit_s: float) -> None:
        super().__init__(env, limit_s)
        self._pump = _Pump.of(asyncio.get_running_loop())

    @property
    def now_s(self) -> float:
        """Emulated time of the last event."""
        return self.env.now

    def start(self) -> None:
        """From now on, whoever waits makes time pass."""
        self._pump.clocks[self] = None

    async def stop(self) -> None:
        """Nothing happens any more."""
        self._pump.clocks.pop(self, None)
        self._end()

    def _more_waiters(self) -> None:
        self._pump.arm()

    @property
    def waited_for(self) -> bool:
        """Whether somebody waits."""
        return bool(self._waiters)

    def turn(self, ready: deque[Any]) -> bool:
        """Process events until somebody has something to do; whether there is more to process meanwhile."""
        env = self.env
        for _ in range(STEPS_PER_TURN):
            if env.peek() > self.limit_s:
                self._fail(self._out_of_time())
                return False
            try:
                env.step()
            except Exception as error:
                self._fail(error)
                return False
            if self.on_event() or ready:
                return False
        return True


_pumps: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Pump] = weakref.WeakKeyDictionary()


class _Pump:
    """Gives all pump clocks of one loop their turns, when nobody else has anything to do."""

    def __init__(self, ready: deque[Any], loop: asyncio.AbstractEventLoop) -> None:
        self._ready = ready
        self._loop = weakref.ref(loop)
        self._armed = False
        self.clocks: dict[PumpClock, None] = {}

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> _Pump:
        """The pump of ``loop``.

        Raises:
            SimulationError: The loop does not tell whether callbacks are ready.
        """
        found = _pumps.get(loop)
        if found is None:
            ready = getattr(loop, "_ready", None)
            if not isinstance(ready, deque):
                raise SimulationError(
                    f"a virtual clock needs one of asyncio's own event loops, and this is a {type(loop).__name__}; "
                    "choose another loop, or clock='real'"
                )
            found = _pumps[loop] = _Pump(ready, loop)
        return found

    def arm(self) -> None:
        """Have a turn behind everything that is ready now."""
        loop = self._loop()
        if not self._armed and loop is not None:
            self._armed = True
            loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._armed = False
        waited_for = [clock for clock in self.clocks if clock.waited_for]
        if not waited_for:
            return
        if not self._ready:
            for clock in waited_for:
                if clock.turn(self._ready) or self._ready:
                    break
        self.arm()
