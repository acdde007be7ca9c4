"""The queue before a link, and what a live change does to it.

A :class:`LinkQueue` is a :class:`~netshape.clock.LinkClock` that remembers what it has accepted and not yet sent. So a
change of conditions can plan the backlog anew: bytes that have left keep their arrival, the others drain at the new
rate, in order.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from netshape.clock import LinkClock, NicClock
from netshape.conditions import LinkConditions


@dataclass(frozen=True, slots=True)
class Replan:
    """New arrivals of what was accepted and not yet sent when conditions changed.

    Attributes:
        first: Number of the first message concerned, counted from 0 in the order of acceptance.
        arrivals_s: Arrival of it and of all after it, shape ``(n,)``; infinite while the link is down.
    """

    first: int
    arrivals_s: tuple[float, ...]


class _Pending:
    """A message that is accepted and not yet sent to its last byte."""

    __slots__ = ("arrival_s", "card_s", "delay_s", "done_s", "earliest_s", "overtakes", "start_s", "wire_bytes")

    def __init__(self, wire_bytes: float, earliest_s: float, card_s: float, delay_s: float, overtakes: bool) -> None:
        self.wire_bytes = wire_bytes
        self.earliest_s = earliest_s
        self.card_s = card_s
        self.delay_s = delay_s
        self.overtakes = overtakes
        self.start_s = self.done_s = self.arrival_s = 0.0


class LinkQueue(LinkClock):
    """One direction of a link whose conditions may change while messages wait for it.

    Times must not fall from one call to the next. Messages with one size, no delay of their own and no change arrive
    exactly when :class:`~netshape.clock.LinkClock` says.

    Attributes:
        accepted: Messages accepted so far; the number of the next one.
        waiting_bytes: Bytes accepted and, when last looked at, not yet sent; a message counts until its last byte.
        up: Whether bytes move.
    """

    __slots__ = ("_last_s", "_pending", "_sent_arrival_s", "_sent_s", "accepted", "up", "waiting_bytes")

    def __init__(self, conditions: LinkConditions, rate_bytes_per_s: float, sender: NicClock | None = None) -> None:
        super().__init__(rate_bytes_per_s, conditions.latency_s, sender)
        self.up = conditions.up
        self.accepted = 0
        self.waiting_bytes = 0.0
        self._pending: deque[_Pending] = deque()
        self._last_s = 0.0
        # End of transmission and latest arrival of what has left the queue.
        self._sent_s = self._sent_arrival_s = 0.0

    @property
    def first_unsent(self) -> int:
        """Number of the oldest message that a change could plan anew; equals ``accepted`` when there is none."""
        return self.accepted - len(self._pending)

    def forget_sent(self, now_s: float) -> None:
        """Drop from the queue what has left it by ``now_s``."""
        pending = self._pending
        if pending and pending[0].done_s > now_s:
            return
        while pending and pending[0].done_s <= now_s:
            sent = pending.popleft()
            self.waiting_bytes -= sent.wire_bytes
            self._sent_s = sent.done_s
            if not sent.overtakes and sent.arrival_s > self._sent_arrival_s:
                self._sent_arrival_s = sent.arrival_s
        if not pending:
            self.waiting_bytes = 0.0  # sheds rounding

    def accept(self, ready_s: float, wire_bytes: float, delay_s: float = 0.0, *, overtakes: bool = False) -> float:
        """Take in one message.

        Args:
            ready_s: When it is handed over.
            wire_bytes: Bytes that it takes up on the link.
            delay_s: Its own delay after transmission beside the latency (jitter, retransmission); latency and delay
                together count as 0 when they come to less.
            overtakes: Whether it arrives as soon as it is sent, past those before it.

        Returns:
            Arrival of its last byte; infinite while the link is down.
        """
        pending = self._pending
        if pending and pending[0].done_s <= ready_s:
            self.forget_sent(ready_s)
        earliest, card = ready_s, 0.0
        sender = self.sender
        if sender is not None:
            if sender.free_s > earliest:
                earliest = sender.free_s
            card = sender.free_s = earliest + wire_bytes / sender.bytes_per_s
        message = _Pending(wire_bytes, earliest, card, delay_s, overtakes)
        pending.append(message)
        self._plan(message)
        self.accepted += 1
        self.waiting_bytes += wire_bytes
        return message.arrival_s

    def change(self, conditions: LinkConditions, rate_bytes_per_s: float, now_s: float) -> Replan:
        """Let ``conditions`` hold from ``now_s`` on.

        Messages sent by ``now_s`` keep their arrival. Of the others, what is left to send drains at the new rate and
        takes the new latency; each keeps the delay of its own that it came with, and none arrives before one accepted
        earlier. A card's time that was taken stays taken.

        Args:
            conditions: The new ones.
            rate_bytes_per_s: The rate that they come to.
            now_s: When.

        Returns:
            The new arrivals of the backlog.
        """
        self.forget_sent(now_s)
        self._leave_off(now_s)
        self.bytes_per_s = rate_bytes_per_s
        self.latency_s = conditions.latency_s
        self.up = conditions.up
        self._last_s = self._sent_arrival_s
        if self._pending:
            self.free_s = max(now_s, self._sent_s)
        for message in self._pending:
            self._plan(message)
        return Replan(self.first_unsent, tuple(message.arrival_s for message in self._pending))

    def _leave_off(self, now_s: float) -> None:
        """Leave of the message in transmission only what is still to be sent."""
        if not self._pending:
            return
        message = self._pending[0]
        if message.start_s < now_s < message.done_s < math.inf:
            left = message.wire_bytes * (message.done_s - now_s) / (message.done_s - message.start_s)
            self.waiting_bytes -= message.wire_bytes - left
            message.wire_bytes = left
        message.earliest_s = max(message.earliest_s, now_s)

    def _plan(self, message: _Pending) -> None:
        """Put ``message`` behind all that is planned."""
        start = message.earliest_s
        if self.free_s > start:
            start = self.free_s
        done = start + message.wire_bytes / self.bytes_per_s if self.up else math.inf
        if message.card_s > done:
            done = message.card_s
        message.start_s, message.done_s = start, done
        self.free_s = done
        if message.overtakes:
            message.arrival_s = done
            return
        delay = self.latency_s + message.delay_s
        arrival = done + delay if delay > 0 else done
        if arrival < self._last_s:
            arrival = self._last_s
        self._last_s = message.arrival_s = arrival
