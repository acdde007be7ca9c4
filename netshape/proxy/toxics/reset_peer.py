"""``reset_peer``: the connection is reset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from netshape.proxy.stages import Alarm, End, Place, Stage
from netshape.proxy.toxics.toxic import Attributes


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetPeer(Attributes):
    """Throws bytes away and resets the connection.

    Attributes:
        timeout: Milliseconds from the first bytes (or the end) to the reset.
    """

    TYPE: ClassVar[str] = "reset_peer"
    timeout: int = 0

    def stage(self, place: Place, name: str) -> Stage:
        """A stage that resets."""
        return ResetPeerStage(place, self)


class ResetPeerStage(Stage):
    """Waits for the first bytes, then for the time to pass, then resets both ends."""

    def __init__(self, place: Place, attributes: ResetPeer) -> None:
        super().__init__(place)
        self._timeout_s = attributes.timeout / 1000
        self._first_s: float | None = None
        self._alarm = Alarm(place.loop, lambda: self.cut_off(End.RESET))

    def receive(self, data: bytes) -> None:
        """The first bytes start the time; none pass."""
        self.place.dropped(len(data))
        self._begin()

    def end(self, how: End) -> None:
        """An end starts the time as bytes do."""
        self._begin()

    def update(self, attributes: ResetPeer) -> None:
        """A changed time counts from the same first bytes."""
        self._timeout_s = attributes.timeout / 1000
        if self._first_s is not None and not self.cut:
            self._alarm.ring_at(self._first_s + self._timeout_s)

    def release(self) -> None:
        """Bytes that have been thrown away leave a hole: only a connection that sent none lives on."""
        self._alarm.stop()
        if self._first_s is not None:
            self.cut_off(End.RESET)

    def close(self) -> None:
        """Disarm."""
        self._alarm.stop()

    def _begin(self) -> None:
        if self._first_s is None:
            self._first_s = self.place.loop.time()
            if self._timeout_s:
                self._alarm.ring_at(self._first_s + self._timeout_s)
            else:
                self.cut_off(End.RESET)
