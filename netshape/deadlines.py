"""Deadlines of a loop: one heap and one timer for all of them, and all that is due on each wake."""

from __future__ import annotations

import asyncio
import heapq
import weakref
from collections.abc import Callable

_FEW = 64
"""So many entries that stand for nothing are not worth a look."""


class Deadline:
    """One moving deadline in a :class:`DeadlineHeap`.

    Attributes:
        when_s: When it is due, in the loop's time; ``None`` when it is not set.
    """

    __slots__ = ("_due", "_heap", "number", "when_s")

    def __init__(self, heap: DeadlineHeap, due: Callable[[float], None]) -> None:
        self._heap = heap
        self._due = due
        self.number = 0
        self.when_s: float | None = None

    def set(self, when_s: float) -> None:
        """Be due at ``when_s`` and at no other time; an infinite time is never."""
        if when_s == self.when_s:
            return
        if self.when_s is not None:
            self._heap.withdraw(self)
        if when_s == float("inf"):
            self.when_s = None
            return
        self.when_s = when_s
        self._heap.push(when_s, self)

    def clear(self) -> None:
        """Be due at no time."""
        if self.when_s is not None:
            self._heap.withdraw(self)
            self.when_s = None

    def fire(self, now_s: float) -> None:
        """Be due now, having been withdrawn; the callback may set the next time."""
        self.when_s = None
        self._due(now_s)


class DeadlineHeap:
    """All deadlines of a loop behind one timer: absolute times, and all that is due on each wake.

    A callback that raises is reported to the loop's exception handler; the others are called all the same. What is
    moved or cleared leaves an entry behind, which keeps nothing alive, and at most as many of them as stand for
    something, and a few.

    Args:
        loop: The loop whose time counts.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._heap: list[tuple[float, int]] = []
        self._standing: dict[int, Deadline] = {}
        self._count = 0
        self._armed: asyncio.TimerHandle | None = None
        self._draining = False

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> DeadlineHeap:
        """The heap that all links on ``loop`` share."""
        heap = _HEAPS.get(loop)
        if heap is None:
            heap = _HEAPS[loop] = cls(loop)
        return heap

    def deadline(self, due: Callable[[float], None]) -> Deadline:
        """A deadline that calls ``due`` with the time of the call; not set yet."""
        return Deadline(self, due)

    def push(self, when_s: float, deadline: Deadline) -> None:
        """Queue a deadline that was set; :meth:`Deadline.set` calls this."""
        self._count = deadline.number = self._count + 1
        self._standing[deadline.number] = deadline
        heapq.heappush(self._heap, (when_s, deadline.number))
        if not self._draining and (self._armed is None or when_s < self._armed.when()):
            self._arm()

    def withdraw(self, deadline: Deadline) -> None:
        """Let a deadline's entry stand for nothing any more; :meth:`Deadline.clear` calls this."""
        del self._standing[deadline.number]
        self._compact()

    def _compact(self) -> None:
        """Sort out entries that stand for nothing, when they are most."""
        heap, standing = self._heap, self._standing
        if len(heap) > 2 * len(standing) + _FEW:
            # In place, as a drain may be under way.
            heap[:] = [entry for entry in heap if entry[1] in standing]
            heapq.heapify(heap)

    def _arm(self) -> None:
        """Arm the timer for the first deadline that still stands."""
        heap, standing = self._heap, self._standing
        while heap and heap[0][1] not in standing:
            heapq.heappop(heap)
        if self._armed is not None:
            self._armed.cancel()
        self._armed = self._loop.call_at(heap[0][0], self._wake) if heap else None

    def _wake(self) -> None:
        self._draining = True
        try:
            self._drain(self._loop.time())
        finally:
            self._draining = False
            self._armed = None
            self._compact()
            self._arm()

    def _drain(self, now: float) -> None:
        """Fire all that is due at ``now``."""
        heap, standing = self._heap, self._standing
        while heap and heap[0][0] <= now:
            deadline = standing.pop(heapq.heappop(heap)[1], None)
            if deadline is None:
                continue  # moved or cleared since
            try:
                deadline.fire(now)
            except Exception as error:
                context = {"message": "a deadline's callback failed", "exception": error}
                self._loop.call_exception_handler(context)


_HEAPS: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, DeadlineHeap] = weakref.WeakKeyDictionary()
