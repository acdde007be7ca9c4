"""How well a shaped link keeps its conditions: configured against delivered, and lateness, in bounded memory."""

from __future__ import annotations

import math
from typing import Any

RESOLUTION = 1.02
"""Ratio of a bucket's ends: percentiles are at most 2 % high."""
_LEAST_S = 1e-6
_BUCKETS = 1100
"""From 1 us to 2900 s."""
_PER_LOG = 1 / math.log(RESOLUTION)
PERCENTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
_BUSY_SLACK = 1.000001


class DurationHistogram:
    """Counts of durations in buckets of 2 %, with an exact maximum and mean.

    Attributes:
        count: Durations added.
        total_s: Their sum.
        max_s: The longest; 0 without any.
    """

    __slots__ = ("_buckets", "count", "max_s", "total_s")

    def __init__(self) -> None:
        self._buckets = [0] * _BUCKETS
        self.count = 0
        self.total_s = self.max_s = 0.0

    def add(self, duration_s: float) -> None:
        """Count a duration; one below 1 us counts as that in percentiles, and one below 0 as 0."""
        self.count += 1
        if duration_s <= _LEAST_S:
            self._buckets[0] += 1
            if duration_s > 0:
                self.total_s += duration_s
            return
        self.total_s += duration_s
        if duration_s > self.max_s:
            self.max_s = duration_s
        bucket = int(math.log(duration_s / _LEAST_S) * _PER_LOG) + 1
        self._buckets[bucket if bucket < _BUCKETS else _BUCKETS - 1] += 1

    def quantile(self, share: float) -> float:
        """Duration that ``share`` of them do not exceed, at most 2 % high; 0 without any."""
        wanted, seen = share * self.count, 0
        for bucket, count in enumerate(self._buckets):
            seen += count
            if count and seen >= wanted:
                return min(_LEAST_S * RESOLUTION**bucket, self.max_s) if bucket else min(_LEAST_S, self.total_s)
        return self.max_s

    def report(self) -> dict[str, float]:
        """Percentiles, mean and maximum in seconds."""
        found = {name: self.quantile(share) for name, share in PERCENTILES.items()}
        return {**found, "mean": self.total_s / self.count if self.count else 0.0, "max": self.max_s}


class LinkMetrics:
    """What the receiving end of a link has seen.

    Bandwidth is measured while the link is busy: over messages that follow on the one before without a gap in the
    plan, bytes by the time between deliveries, against bytes by the time between planned deliveries. Latency counts
    from the moment the last byte leaves the link as planned, so it holds no queueing; what is delivered of it beyond
    the plan is the lateness. The delays count from the moment of handing over, and hold queueing and transmission.

    Args:
        name: The link's name.

    Attributes:
        configured_bytes_per_s: The rate that the sender said last; ``None`` when it said none.
        configured_latency_s: The latency that it said last.
        messages: Messages delivered.
        delivered_bytes: Their payload bytes.
        lateness: Delivered less planned time of each.
        malformed_frames: Frames that were none.
        late_replans: Messages that a live change would have moved, but that were delivered already.
    """

    def __init__(self, name: str = "link") -> None:
        self.name = name
        self.configured_bytes_per_s: float | None = None
        self.configured_latency_s: float | None = None
        self.messages = 0
        self.delivered_bytes = 0
        self.malformed_frames = 0
        self.late_replans = 0
        self.lateness = DurationHistogram()
        self._planned_delay_s = self._delay_s = 0.0
        self._busy_bytes = 0
        self._busy_s = self._busy_planned_s = 0.0
        self._last_planned_s = self._last_delivered_s = -math.inf

    def delivered(
        self, size_bytes: int, handed_s: float, planned_s: float, delivered_s: float, transmission_s: float
    ) -> None:
        """Count a message.

        Args:
            size_bytes: Its payload.
            handed_s: When it was handed over.
            planned_s: When it was to be delivered.
            delivered_s: When it was.
            transmission_s: Time that it took up on the link.
        """
        self.messages += 1
        self.delivered_bytes += size_bytes
        self.lateness.add(delivered_s - planned_s)
        self._planned_delay_s += planned_s - handed_s
        self._delay_s += delivered_s - handed_s
        gap = planned_s - self._last_planned_s
        if gap <= transmission_s * _BUSY_SLACK:
            self._busy_bytes += size_bytes
            self._busy_planned_s += gap
            self._busy_s += delivered_s - self._last_delivered_s
        self._last_planned_s, self._last_delivered_s = planned_s, delivered_s

    def report(self) -> dict[str, Any]:
        """All of it as a plain dictionary; rates in bytes/s, times in s, ``None`` where nothing was measured."""
        count = self.messages
        latency = self.configured_latency_s
        typical = None if latency is None or not count else latency + self.lateness.quantile(0.5)
        return {
            "link": self.name,
            "messages": count,
            "delivered_bytes": self.delivered_bytes,
            "configured_bytes_per_s": self.configured_bytes_per_s,
            "planned_bytes_per_s": self._busy_bytes / self._busy_planned_s if self._busy_planned_s > 0 else None,
            "delivered_bytes_per_s": self._busy_bytes / self._busy_s if self._busy_s > 0 else None,
            "configured_latency_s": latency,
            "delivered_latency_s_p50": typical,
            "planned_delay_s_mean": self._planned_delay_s / count if count else None,
            "delivered_delay_s_mean": self._delay_s / count if count else None,
            "lateness_s": self.lateness.report() if count else None,
            "malformed_frames": self.malformed_frames,
            "late_replans": self.late_replans,
        }
