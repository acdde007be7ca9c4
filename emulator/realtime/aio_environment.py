"""SimPy on the asyncio loop: emulated time follows the loop's clock."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Protocol

from simpy.events import NORMAL, URGENT, Event, EventPriority

from emulator.distribution import Distribution
from emulator.environment import VirtualEnvironment, _raise_interrupt
from emulator.errors import SimulationError
from emulator.realtime.virtual_loop import VirtualTimeLoop

EVENTS_PER_TURN = 1_000
"""Most events processed before the loop's other callbacks (sockets, timers) get their turn."""


class Gate(Protocol):
    """Says up to where emulated time may go."""

    def earliest_s(self) -> float:
        """Events before this time may happen; at it or later they must wait. Infinite when nothing is awaited."""
        ...


class AioEnvironment(VirtualEnvironment):
    """SimPy's event core driven by an asyncio loop.

    The event that comes next has one timer on the loop; when it fires, everything due is processed. Events happen
    in exactly the order of :class:`~emulator.environment.VirtualEnvironment`, never before their time, and as soon
    after it as the machine allows. On a :class:`VirtualTimeLoop` they happen at once.

    Args:
        loop: The loop that drives it.
        dilation: Emulated seconds per second of the loop. 0.5 runs at half speed: an emulated second takes two.
        gate: Holds events back until what they stand for has arrived.

    Attributes:
        dilation: As given.
        gate: As given; may be set until the first :meth:`advance`.
        lateness_s: How long after its time each event was processed, in seconds of the loop.
        events: Events processed.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, dilation: float = 1.0, gate: Gate | None = None) -> None:
        if not (math.isfinite(dilation) and dilation > 0):
            raise SimulationError(f"dilation is {dilation}; it must be above 0, for instance 0.5 for half speed")
        super().__init__()
        self._loop = loop
        self._virtual = loop if isinstance(loop, VirtualTimeLoop) else None
        self.dilation = dilation
        self.gate = gate
        self.lateness_s = Distribution()
        self.events = 0
        self._anchor_s: float | None = None
        self._handle: asyncio.Handle | None = None
        self._armed_s = math.inf
        self._until_s = -math.inf
        self._stop: Callable[[], bool] | None = None
        self._finished: asyncio.Future[bool] | None = None
        self._turning = False
        self._gated = False

    # -- the clock -----------------------------------------------------------------------------

    def begin(self, at_loop_s: float) -> None:
        """Let emulated time 0 be at ``at_loop_s`` of the loop's clock, which may lie ahead."""
        self._anchor_s = at_loop_s

    def due_at(self, emulated_s: float) -> float:
        """When ``emulated_s`` is, on the loop's clock."""
        assert self._anchor_s is not None
        return self._anchor_s + emulated_s / self.dilation

    def clock_s(self) -> float:
        """Emulated time by the loop's clock; :attr:`now` is that of the last event, which is no later."""
        assert self._anchor_s is not None
        return (self._loop.time() - self._anchor_s) * self.dilation

    # -- scheduling: all of SimPy's ways in, each of which may bring a new earliest event -----------

    def schedule(self, event: Event, priority: EventPriority = NORMAL, delay: float = 0) -> None:
        """Schedule as SimPy does."""
        super().schedule(event, priority, delay)
        self._rearm()

    def push(self, event: Event, at_s: float, priority: EventPriority = NORMAL) -> None:
        """Schedule a triggered ``event`` at exactly ``at_s``."""
        super().push(event, at_s, priority)
        self._rearm()

    def trigger_late(self, event: Event, at_s: float, caused_s: float) -> Event:
        """Trigger ``event`` at ``at_s``, after every other event of that time."""
        super().trigger_late(event, at_s, caused_s)
        self._rearm()
        return event

    def interrupt(self) -> None:
        """End :meth:`advance` before the next event. A signal handler may call it at any time."""
        event = Event(self)
        event._ok = True
        event._value = None
        assert event.callbacks is not None
        event.callbacks.append(_raise_interrupt)
        heappush(self._queue, (self._now, URGENT, next(self._eid), event))
        # From within a signal handler only this wakes the loop.
        self._loop.call_soon_threadsafe(self._rearm_whatever_the_gate)

    def recheck(self) -> None:
        """The gate has opened, perhaps; go on if events were held back."""
        if self._gated and self._finished is not None and self._handle is None and not self._turning:
            self._arm(self._loop.call_soon(self._turn), self._now)

    # -- running -------------------------------------------------------------------------------

    async def advance(self, until_s: float, stop: Callable[[], bool] | None = None) -> bool:
        """Process every event up to and including ``until_s`` at its time, then stand at ``until_s``.

        Args:
            until_s: Emulated time.
            stop: Asked after each event; whether to return now, standing at that event.

        Returns:
            ``False`` if :meth:`interrupt` ended it.

        Raises:
            Exception: Whatever a process or callback raised.
        """
        assert self._finished is None
        if self._anchor_s is None:
            self.begin(self._loop.time() - self._now / self.dilation)
        if stop is not None and stop():
            return True
        self._until_s, self._stop = until_s, stop
        finished: asyncio.Future[bool] = self._loop.create_future()
        self._finished = finished
        try:
            self._rearm()
            reached: bool = await finished
            return reached
        finally:
            self._disarm()
            self._finished = None

    def end_at(self, until_s: float) -> None:
        """Let the :meth:`advance` under way go to ``until_s`` at most; at once if that is past."""
        self._until_s = min(self._until_s, max(until_s, self._now))
        self._disarm()
        self._rearm_whatever_the_gate()

    def fail(self, error: BaseException) -> None:
        """End :meth:`advance` with ``error``; if none is under way, the next one."""
        event = Event(self)
        event._ok = False
        event._value = error
        assert event.callbacks is not None
        heappush(self._queue, (self._now, URGENT, next(self._eid), event))
        self._rearm_whatever_the_gate()

    def _rearm_whatever_the_gate(self) -> None:
        self._gated = False
        self._rearm()

    def _rearm(self) -> None:
        if self._turning or self._finished is None or self._finished.done() or self._gated:
            return
        next_s = min(self._queue[0][0], self._until_s) if self._queue else self._until_s
        if self._handle is not None:
            if self._armed_s <= next_s:
                return
            self._disarm()
        self._arm(self._loop.call_at(self.due_at(next_s), self._turn), next_s)

    def _arm(self, handle: asyncio.Handle, for_s: float) -> None:
        self._handle, self._armed_s = handle, for_s

    def _disarm(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._handle, self._armed_s = None, math.inf

    def _turn(self) -> None:
        """Process what is due."""
        armed_s = self._armed_s
        self._handle, self._armed_s = None, math.inf
        self._turning, self._gated = True, False
        outcome: bool | BaseException | None
        try:
            outcome = self._process_due(armed_s)
        except KeyboardInterrupt:
            outcome = False
        except Exception as error:
            outcome = error
        finally:
            self._turning = False
        self.lateness_s.settle()
        finished = self._finished
        assert finished is not None
        if finished.done():
            return
        if isinstance(outcome, BaseException):
            finished.set_exception(outcome)
        elif outcome is not None:
            finished.set_result(outcome)
        elif not self._gated:
            self._rearm()

    def _process_due(self, armed_s: float) -> bool | None:
        """Process what is due; ``True`` when done, ``None`` when there is more to come.

        Args:
            armed_s: Emulated time that the timer was set for, due by definition: the way back from the loop's clock
                may round below it.
        """
        queue, gate, until, stop = self._queue, self.gate, self._until_s, self._stop
        late = self.lateness_s.samples
        for _ in range(EVENTS_PER_TURN):
            at_s = min(queue[0][0], until) if queue else until
            clock_s = self.clock_s()
            if at_s > clock_s and at_s > armed_s:
                if self._virtual is None or not self._virtual.advance_to(self.due_at(at_s)):
                    return None
                armed_s = at_s
            if gate is not None and at_s >= gate.earliest_s() and not (queue and queue[0][1] == URGENT):
                self._gated = True
                return None
            if not queue or queue[0][0] > until:
                self._now = until
                return True
            self._now, _, _, event = heappop(queue)
            late.append(max(0.0, clock_s - at_s) / self.dilation)
            self.events += 1
            callbacks, event.callbacks = event.callbacks, None  # type: ignore[assignment]
            for callback in callbacks:
                callback(event)
            if not event._ok and not hasattr(event, "_defused"):
                raise event._value
            if stop is not None and stop():
                return True
        return None
