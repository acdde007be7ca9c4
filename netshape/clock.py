"""Virtual clocks: when a message that is handed over now arrives at the other end.

A clock is not a token bucket: it remembers when the resource becomes free. Sending NIC, link and
receiving NIC are three clocks in a row. Messages are cut through, not stored and forwarded: the
next stage starts as soon as the first byte is there, so the slowest stage sets the pace and the
transmission time is paid once.
"""

from __future__ import annotations

from itertools import accumulate, repeat


class NicClock:
    """One direction of a network card, shared by all links on it.

    Attributes:
        bytes_per_s: Line rate.
        free_s: Time at which everything accepted so far has passed.
    """

    __slots__ = ("bytes_per_s", "free_s")

    def __init__(self, bytes_per_s: float) -> None:
        self.bytes_per_s = bytes_per_s
        self.free_s = 0.0

    def receive(self, times: list[float], size_bytes: list[float] | float, wire_bytes_per_s: float) -> list[float]:
        """Times at which messages have passed a receiving card.

        Args:
            times: Arrival of each message's last byte from one wire, shape ``(n,)``; one after the other, so each at
                least its size / ``wire_bytes_per_s`` after the one before.
            size_bytes: Size of each message, or one size for all.
            wire_bytes_per_s: Rate at which a message comes in.

        Returns:
            Times at which the last byte is through the card, shape ``(n,)``; equal to ``times`` when the card is idle
            and no slower than the wire.
        """
        free = self.free_s
        first_bytes = size_bytes[0] if isinstance(size_bytes, list) else size_bytes
        if wire_bytes_per_s <= self.bytes_per_s and free + first_bytes / self.bytes_per_s <= times[0]:
            # Nothing queued and the wire is no faster than the card: each message passes as it comes.
            self.free_s = times[-1]
            return times
        passed = []
        if isinstance(size_bytes, list):
            lag_s = max(0.0, 1 / self.bytes_per_s - 1 / wire_bytes_per_s)
            for time, size in zip(times, size_bytes, strict=True):
                free = max(time + size * lag_s, free + size / self.bytes_per_s)
                passed.append(free)
            self.free_s = free
            return passed
        duration = size_bytes / self.bytes_per_s
        lag = duration - size_bytes / wire_bytes_per_s
        if lag < 0:
            lag = 0.0
        for time in times:
            free += duration
            if time + lag > free:
                free = time + lag
            passed.append(free)
        self.free_s = free
        return passed


class LinkClock:
    """One direction of a link, behind an optional shared sending card.

    Attributes:
        bytes_per_s: Rate of the link.
        latency_s: One-way propagation delay.
        free_s: Time at which the link has sent everything accepted so far.
        sender: Sending card, when it is shared with other links.
    """

    __slots__ = ("bytes_per_s", "free_s", "latency_s", "sender")

    def __init__(self, bytes_per_s: float, latency_s: float, sender: NicClock | None = None) -> None:
        self.bytes_per_s = bytes_per_s
        self.latency_s = latency_s
        self.sender = sender
        self.free_s = 0.0

    @property
    def pace_bytes_per_s(self) -> float:
        """Rate at which a message leaves: that of the slower of link and sending card."""
        return self.bytes_per_s if self.sender is None else min(self.bytes_per_s, self.sender.bytes_per_s)

    def send(self, ready_s: float, size_bytes: float) -> float:
        """Arrival time of one message handed over at ``ready_s``."""
        start = ready_s
        sent = 0.0
        if self.sender is not None:
            if self.sender.free_s > start:
                start = self.sender.free_s
            sent = start + size_bytes / self.sender.bytes_per_s
            self.sender.free_s = sent
        if self.free_s > start:
            start = self.free_s
        done = start + size_bytes / self.bytes_per_s
        if sent > done:
            done = sent
        self.free_s = done
        return done + self.latency_s

    def send_run(self, ready_s: float, size_bytes: float, count: int) -> list[float]:
        """Arrival times of ``count`` messages of one size handed over together, shape ``(count,)``, rising."""
        if count == 1:
            return [self.send(ready_s, size_bytes)]
        if self.sender is not None:
            return [self.send(ready_s, size_bytes) for _ in range(count)]
        # Each end is the one before plus a duration, added one by one: a product would round otherwise,
        # and the order of events that fall together would hang on it.
        start = self.free_s
        if ready_s > start:
            start = ready_s
        latency = self.latency_s
        ends = list(accumulate(repeat(size_bytes / self.bytes_per_s, count), initial=start))
        self.free_s = ends[-1]
        return [end + latency for end in ends[1:]]
