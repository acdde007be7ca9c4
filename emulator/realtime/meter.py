"""How well a run in real time kept up with its clock."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from emulator.distribution import Distribution

PROBE_EVERY_S = 0.02
KEPT_UP_S = 0.010
"""A run has kept up when 95 % of its events and frames were no later than this, in seconds of the wall."""
KEPT_UP_SHARE = 0.01
"""In observed time, where every hop's lateness adds to a token's latency: the most that it may make up of that."""
VIOLATIONS_SHARE = 0.001
"""So many of the messages may come after their receiver had passed their time."""


class LoopLag:
    """Sets a timer again and again and notes how late it fires."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.lag_s = Distribution()
        self._due_s = 0.0
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin."""
        self._due_s = self._loop.time() + PROBE_EVERY_S
        self._handle = self._loop.call_at(self._due_s, self._probe)

    def _probe(self) -> None:
        self.lag_s.add(max(0.0, self._loop.time() - self._due_s))
        self.start()

    def stop(self) -> None:
        """End."""
        if self._handle is not None:
            self._handle.cancel()


class Meter:
    """What sockets and clock of one process count.

    Attributes:
        frame_lateness_s: How long after its planned time each message was there, or, in observed time, was let through
            to its receiver; 0 for one that was early. Seconds of the wall.
        late_frames: Messages whose last byte came after their planned time.
        causality_violations: Messages planned for a time that their receiver had passed already.
    """

    def __init__(self) -> None:
        self.start_window()

    def start_window(self) -> None:
        """Forget what was counted so far."""
        self.frame_lateness_s = Distribution()
        self.late_frames = 0
        self.causality_violations = 0

    def let_through(self, lateness_s: float) -> None:
        """A message was there, ``lateness_s`` after its time."""
        self.frame_lateness_s.add(max(0.0, lateness_s))


@dataclass(slots=True, kw_only=True)
class Counts:
    """What a process counted, or all processes of a run together."""

    events: int = 0
    late_frames: int = 0
    causality_violations: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    strangers: int = 0
    malformed: int = 0
    event_lateness_s: Distribution = field(default_factory=Distribution)
    frame_lateness_s: Distribution = field(default_factory=Distribution)
    loop_lag_s: Distribution = field(default_factory=Distribution)

    def to_plain(self) -> dict[str, Any]:
        """As JSON knows it."""
        return {
            each.name: value.to_plain() if isinstance(value := getattr(self, each.name), Distribution) else value
            for each in fields(self)
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Counts:
        """What :meth:`to_plain` wrote."""
        given: dict[str, Any] = {
            each.name: Distribution.from_plain(value) if isinstance(value := plain[each.name], dict) else value
            for each in fields(cls)
        }
        return cls(**given)

    def add(self, other: Counts) -> None:
        """Add what another process counted."""
        for each in fields(self):
            mine, theirs = getattr(self, each.name), getattr(other, each.name)
            if isinstance(mine, Distribution):
                mine.absorb(theirs)
            else:
                setattr(self, each.name, mine + theirs)


def keeping_up(
    counts: Counts, *, behind_s: float, share_of_latency: float | None, planned: bool = True
) -> tuple[bool, str]:
    """Whether a run kept up with its clock, and, if not, what was wrong.

    Args:
        counts: Of all processes.
        behind_s: How far the last event was behind the clock.
        share_of_latency: What lateness makes up of a token's latency; ``None`` where it does not count.
        planned: Whether messages should come as planned; not over a network that takes its own time. Then only the
            loop tells how the machine does.
    """
    problems: list[str] = []
    looked_at = {"events": counts.event_lateness_s, "messages": counts.frame_lateness_s}
    for what, distribution in (looked_at if planned else {"turns of the loop": counts.loop_lag_s}).items():
        p95 = distribution.summary()["p95"]
        if p95 is not None and p95 > KEPT_UP_S:
            problems.append(f"5 % of {what} were more than {p95 * 1e3:.1f} ms late")
    if behind_s > 10 * KEPT_UP_S and planned:
        problems.append(f"the clock stood {behind_s * 1e3:.0f} ms behind at the end")
    if share_of_latency is not None and share_of_latency > KEPT_UP_SHARE:
        problems.append(f"lateness made up {share_of_latency:.1%} of the latency of tokens")
    messages = counts.frame_lateness_s.summary()["count"]
    assert isinstance(messages, int)
    if counts.causality_violations > VIOLATIONS_SHARE * messages:
        problems.append(f"{counts.causality_violations} messages came after their receiver had passed their time")
    return not problems, "; ".join(problems)


def advice(problem: str, dilation: float, workers: int) -> str:
    """What to do about a run that fell behind."""
    spread = "" if workers else "spread the nodes over processes (--workers 2), "
    return (
        f"the machine did not keep up with real time: {problem}. Slow the clock down (--dilation {dilation / 2:g}), "
        f"use fewer nodes or requests, {spread}or stop other programs"
    )


def figures(distribution: Distribution) -> Mapping[str, Any]:
    """The percentiles that a report shows, in seconds."""
    summary = distribution.summary()
    return {key: summary[key] for key in ("count", "mean", "p50", "p95", "p99", "max")}
