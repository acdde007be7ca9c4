"""Senders of a loop that need not wait take turns, so that sockets, deadlines and everybody else have theirs."""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from time import monotonic

TURN_S = 0.00025
"""So long may all senders together keep the loop: more would delay what they, or others, have to deliver."""
_MOST_AT_ONCE = 64


class SendTurns:
    """The senders of a loop share each of its turns, first come, first served.

    What they send is read before others go on, while it is in the processor's caches still; hundreds of senders that
    each had a time of their own would push it out, and a turn of the loop would last as many times as long.

    Args:
        loop: Where they run.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._begun_s = -1.0
        self._armed = False
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._at_once = 1

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> SendTurns:
        """Those that all senders on ``loop`` share."""
        turns = _TURNS.get(loop)
        if turns is None:
            turns = _TURNS[loop] = cls(loop)
        return turns

    def over(self, now_s: float) -> bool:
        """Whether this turn's time is up, so that who wants to send must wait for the :meth:`next` one."""
        if self._begun_s >= 0:
            return now_s - self._begun_s > TURN_S
        self._begun_s = now_s
        self._arm()
        return False

    async def next(self) -> None:
        """Wait for a turn in which to send at least one message."""
        waiter = self._loop.create_future()
        self._waiting.append(waiter)
        self._arm()
        await waiter

    def _arm(self) -> None:
        if not self._armed:
            self._armed = True
            self._loop.call_soon(self._end)

    def _end(self) -> None:
        """Let the next ones have a turn, about as many as it has time for."""
        if self._begun_s >= 0 and monotonic() - self._begun_s > TURN_S:
            self._at_once = max(1, self._at_once // 2)
        elif self._at_once < _MOST_AT_ONCE:
            self._at_once *= 2
        self._begun_s = -1.0
        woken, waiting = 0, self._waiting
        while waiting and woken < self._at_once:
            waiter = waiting.popleft()
            if not waiter.done():  # else its task was cancelled
                waiter.set_result(None)
                woken += 1
        self._armed = False
        if woken:
            self._arm()  # behind those just woken


_TURNS: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, SendTurns] = weakref.WeakKeyDictionary()
