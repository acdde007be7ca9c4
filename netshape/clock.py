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

    def receive(self, times: list[float], size_bytes: list[float] | float) -> list[float]:
        """Times at which messages have passed a receiving card.

        Args:
            times: Arrival of each message's last byte from the wire, rising, shape ``(n,)``.
            size_bytes: Size of each message, or one size for all.

        Returns:
            Times at which the last byte is through the card, shape ``(n,)``; equal to ``times`` when it is idle.
        """
        free = self.free_s
        if isinstance(size_bytes, list):
            passed = []
            for time, size in zip(times, size_bytes, strict=True):
                free = max(time, free + size / self.bytes_per_s)
                passed.append(free)
            self.free_s = free
            return passed
        duration = size_bytes / self.bytes_per_s
        if free + duration <= times[0] and (len(times) == 1 or times[1] - times[0] >= duration):
            # Nothing queued and the wire is no faster than the card: each message passes as it comes.
            self.free_s = times[-1]
            return times
        passed = []
        for time in times:
            free = max(time, free + duration)
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
