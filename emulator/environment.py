"""SimPy's event core with three additions that the emulator's hot path needs."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

import simpy
from simpy.events import NORMAL, URGENT, Event, EventPriority

LATE = EventPriority(NORMAL + 1)
"""Priority behind all of SimPy's own."""


class VirtualEnvironment(simpy.Environment):
    """Virtual time: events follow each other as fast as the processor allows, in a repeatable order."""

    def push(self, event: Event, at_s: float, priority: EventPriority = NORMAL) -> None:
        """Schedule a triggered ``event`` at exactly ``at_s``; a delay would round the time."""
        heappush(self._queue, (at_s, priority, next(self._eid), event))

    def trigger_late(self, event: Event, at_s: float, caused_s: float) -> Event:
        """Trigger ``event`` at ``at_s``, after every other event of that time.

        Whoever forms a batch waits on such an event, so that all that arrives at the same time is in it.
        Among themselves, late events of one time go in order of ``caused_s``: machines that run in step
        finish together, and then the one whose last step began first is first.
        """
        event._ok = True
        event._value = None
        # The third entry only ever meets its like: entries of equal time and priority are all late ones.
        heappush(self._queue, (at_s, LATE, (caused_s, next(self._eid)), event))  # type: ignore[misc]
        return event

    def call_at(self, at_s: float, callback: Callable[[Event], Any], value: object = None) -> Event:
        """Call ``callback(event)`` at ``at_s``, with ``event.value`` being ``value``."""
        event = Event(self)
        event._ok = True
        event._value = value
        assert event.callbacks is not None
        event.callbacks.append(callback)
        self.push(event, at_s)
        return event

    def interrupt(self) -> None:
        """Raise ``KeyboardInterrupt`` from :meth:`run_to` or :meth:`step` before the next event, not within one.

        A signal handler may call it at any time.
        """
        event = Event(self)
        event._ok = True
        event._value = None
        assert event.callbacks is not None
        event.callbacks.append(_raise_interrupt)
        at_s = self._queue[0][0] if self._queue else self._now
        heappush(self._queue, (at_s, URGENT, next(self._eid), event))

    def run_to(self, until_s: float) -> None:
        """Process every event up to and including ``until_s``, then stand at ``until_s``."""
        queue = self._queue
        while queue and queue[0][0] <= until_s:
            self._now, _, _, event = heappop(queue)
            callbacks, event.callbacks = event.callbacks, None  # type: ignore[assignment]
            for callback in callbacks:
                callback(event)
            if not event._ok and not hasattr(event, "_defused"):
                raise event._value
        self._now = until_s


def _raise_interrupt(_event: Event) -> None:
    raise KeyboardInterrupt
