"""Stages: what bytes pass through, one after the other, in one direction of a connection.

A stage is called synchronously from the event loop: with bytes, with the end of the stream, when a timer of its own is
due. What it passes on goes to :attr:`Stage.next`. That makes live changes simple: between two calls nothing moves, so
a stage can be put in, taken out or changed without a byte lost or overtaken.
"""

from __future__ import annotations

import asyncio
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from netshape.conditions import LinkConditions

if TYPE_CHECKING:
    from netshape.proxy.delays import Channel


class End(IntEnum):
    """How a stream ends, the gentlest first."""

    HALF = 0
    """The sender has nothing more to say; the other direction goes on."""
    CLOSE = 1
    """The whole connection is closed once everything sent before has been delivered."""
    RESET = 2
    """The whole connection is reset: both ends get a TCP RST."""


class Place(Protocol):
    """Where a stage stands: what it may use of the pipe around it."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop; its clock is the time of all stages."""

    @property
    def share_bytes(self) -> int:
        """Bytes that a stage that delays may hold."""

    def random(self, component: str) -> np.random.Generator:
        """A generator for a component of this direction of this connection."""

    def channel(self, conditions: LinkConditions, component: str) -> Channel:
        """A channel of this connection's own, its draws derived from the component's name."""

    def moved(self) -> None:
        """To be called when a stage has changed what it holds outside of :meth:`Stage.receive`."""

    def dropped(self, count: int) -> None:
        """Account for bytes that a stage has thrown away."""

    def late(self, lateness_s: float) -> None:
        """Account for bytes that were passed on ``lateness_s`` after they were due."""


class Stage:
    """A stage that passes everything on at once; the interface of all stages.

    Args:
        place: The pipe around it.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self.next: Stage = self
        self.cut = False

    @property
    def held_bytes(self) -> int:
        """Bytes that are inside."""
        return 0

    @property
    def full(self) -> bool:
        """Whether the sender is to wait."""
        return False

    def start(self) -> None:
        """The stage has been put in its place."""

    def receive(self, data: bytes) -> None:
        """Bytes from the stage before."""
        self.next.receive(data)

    def end(self, how: End) -> None:
        """The stage before passes nothing more."""
        self.next.end(how)

    def update(self, attributes: Any) -> None:
        """The attributes have changed."""

    def release(self) -> None:
        """The stage is being taken out: pass on what is inside."""

    def close(self) -> None:
        """The connection is gone: forget what is inside, disarm timers."""

    def cut_off(self, how: End) -> None:
        """End the stream here, whatever still comes: it is thrown away."""
        if not self.cut:
            self.cut = True
            self.next.end(how)


class Alarm:
    """One timer of a stage, set to the time that was asked for last."""

    __slots__ = ("_action", "_handle", "_loop", "_rang_s")

    def __init__(self, loop: asyncio.AbstractEventLoop, action: Any) -> None:
        self._loop = loop
        self._action = action
        self._handle: asyncio.TimerHandle | None = None
        self._rang_s = 0.0

    @property
    def now_s(self) -> float:
        """The loop's time; at least that of the last ring, for loops ring up to their clock's resolution early."""
        return max(self._loop.time(), self._rang_s)

    @property
    def set(self) -> bool:
        """Whether it is going to ring."""
        return self._handle is not None

    def ring_at(self, when_s: float) -> None:
        """Ring at ``when_s`` of the loop's clock instead of when it was to ring."""
        if self._handle is not None:
            if self._handle.when() == when_s:
                return
            self._handle.cancel()
        self._handle = self._loop.call_at(when_s, self._ring)

    def stop(self) -> None:
        """Do not ring."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _ring(self) -> None:
        if self._handle is not None:
            self._rang_s = self._handle.when()
        self._handle = None
        self._action()
