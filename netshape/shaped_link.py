"""One direction of a link in real time: its clock, who waits for it, and changes while it runs."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any

from netshape.clock import NicClock
from netshape.conditions import LinkConditions
from netshape.deadlines import DeadlineHeap
from netshape.link_model import ConditionedClock
from netshape.link_queue import Replan
from netshape.schedule import ConditionSchedule

HORIZON_S = 0.02
"""How far a sender may run ahead of its link."""
MAX_HORIZON_S = 0.16
"""How far on a machine that wakes it late."""

Listener = Callable[[Replan], None]


class ShapedLink:
    """A link that messages are planned on as time passes; streams that share it queue for it in order.

    Its time is CLOCK_MONOTONIC. Make and use it within the event loop that its streams run on.

    Args:
        conditions: What it is like at first.
        name: Its name; with ``seed`` it settles every draw.
        seed: Of the scenario.
        return_latency_s: Latency of the way back; that of this way when not given.
        sending_card: Sending network card, when it is shared with other links.
        horizon_s: How far senders may run ahead at first, in seconds of the link's time.

    Attributes:
        clock: Its virtual clock.
        horizon_s: How far senders may run ahead now: more on a machine that wakes them late, less where the queue limit
            is less.
    """

    def __init__(
        self,
        conditions: LinkConditions,
        *,
        name: str = "link",
        seed: int = 0,
        return_latency_s: float | None = None,
        sending_card: NicClock | None = None,
        horizon_s: float = HORIZON_S,
    ) -> None:
        self.clock = ConditionedClock(
            conditions, name=name, seed=seed, return_latency_s=return_latency_s, sender=sending_card
        )
        self._most_ahead_s = horizon_s
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._listeners: list[Listener] = []
        self._loop = asyncio.get_running_loop()
        self._room = DeadlineHeap.of(self._loop).deadline(lambda _: self.wake())
        self._set_horizon()

    @property
    def name(self) -> str:
        """Its name."""
        return self.clock.name

    @property
    def conditions(self) -> LinkConditions:
        """What it is like now."""
        return self.clock.conditions

    def plan(self, size_bytes: float, now_s: float) -> tuple[float, float]:
        """Take in a message.

        Returns:
            When it is to be delivered, infinite while the link is down, and how long it takes up on the link.
        """
        clock = self.clock
        begin = clock.free_s
        planned = clock.send(now_s, size_bytes)
        if planned == math.inf:
            return planned, 0.0
        return planned, clock.free_s - (begin if begin > now_s else now_s)

    async def room(self, gone: Callable[[], bool]) -> None:
        """Wait until a sender may go on, or ``gone`` says that it need not.

        Those who wait are woken when half the horizon is free, first come first.
        """
        while self.clock.free_s - monotonic() > self.horizon_s and not gone():
            await self._next_wake()

    def ran_dry(self) -> None:
        """Take note that the link was idle although its sender sends all it can: the machine woke it late.

        The horizon doubles, up to :data:`MAX_HORIZON_S`, as what it bridges was too short.
        """
        self._most_ahead_s = max(self._most_ahead_s, min(2 * self._most_ahead_s, MAX_HORIZON_S))
        self._set_horizon()

    async def sent(self, gone: Callable[[], bool]) -> None:
        """Wait until no change can concern what was accepted so far, as all of it has left the link, or ``gone``."""
        number = self.clock.accepted
        while not gone():
            self.clock.forget_sent(monotonic())
            if self.clock.first_unsent >= number:
                return
            await self._next_wake()

    def wake(self) -> None:
        """Let all who wait look again."""
        waiters, self._waiters = self._waiters, deque()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def set(self, conditions: LinkConditions) -> Replan:
        """Let ``conditions`` hold from now on; what has left keeps its time, the backlog is planned anew.

        Returns:
            The new deliveries of the backlog; the streams on this link have told their peers.
        """
        replan = self.clock.set(conditions, monotonic())
        self._changed(replan)
        return replan

    async def follow(self, schedule: ConditionSchedule, begin_s: float | None = None) -> None:
        """Apply a schedule's changes as their time comes; returns after the last, or never if it repeats.

        Args:
            schedule: The changes; it begins with the conditions that hold now.
            begin_s: Its beginning on CLOCK_MONOTONIC; now when not given.

        Raises:
            NetworkError: Steps that make no valid conditions, before the first is applied.
        """
        begin = monotonic() if begin_s is None else begin_s
        for time_s, conditions in schedule.changes(self.conditions):
            while (wait_s := begin + time_s - monotonic()) > 0:
                await asyncio.sleep(wait_s)
            self.set(conditions)

    def set_return_latency(self, return_latency_s: float) -> Replan:
        """Take note of a change of the way back; see :meth:`ConditionedClock.set_return_latency`."""
        replan = self.clock.set_return_latency(return_latency_s, monotonic())
        self._changed(replan)
        return replan

    def listen(self, listener: Listener) -> None:
        """Call ``listener`` with every change's replan."""
        self._listeners.append(listener)

    def unlisten(self, listener: Listener) -> None:
        """Call it no more."""
        self._listeners.remove(listener)

    def report(self) -> dict[str, Any]:
        """What the link is set to, as a plain dictionary."""
        conditions = self.conditions
        return {
            "link": self.name,
            "bandwidth_bytes_per_s": conditions.bandwidth_bytes_per_s,
            "rate_bytes_per_s": self.clock.bytes_per_s,
            "latency_s": conditions.latency_s,
            "up": conditions.up,
            "accepted_messages": self.clock.accepted,
        }

    def _changed(self, replan: Replan) -> None:
        self._set_horizon()
        for listener in list(self._listeners):
            listener(replan)
        self._arm()

    def _set_horizon(self) -> None:
        """A queue limit below the horizon holds the sender back sooner."""
        self.horizon_s = min(self._most_ahead_s, self.conditions.queue_limit_bytes / self.clock.bytes_per_s)
        if math.isnan(self.horizon_s):  # no limit on an unlimited link
            self.horizon_s = self._most_ahead_s

    async def _next_wake(self) -> None:
        waiter = self._loop.create_future()
        self._waiters.append(waiter)
        self._arm()
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            raise

    def _arm(self) -> None:
        """Wake who waits when half the horizon is free, and once more when all is."""
        if self._waiters:
            free = self.clock.free_s
            half = free - self.horizon_s / 2
            self._room.set(half if half > monotonic() else free)
