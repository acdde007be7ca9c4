"""``timeout``: nothing passes, and after a while the connection is closed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from netshape.proxy.stages import Alarm, End, Place, Stage
from netshape.proxy.toxics.toxic import Attributes


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeout(Attributes):
    """Throws all bytes away.

    Attributes:
        timeout: Milliseconds after which the connection is closed, from when the toxic took hold of it; 0 for never.
    """

    TYPE: ClassVar[str] = "timeout"
    timeout: int = 0

    def stage(self, place: Place, name: str) -> Stage:
        """A stage that passes nothing."""
        return TimeoutStage(place, self)


class TimeoutStage(Stage):
    """Drops bytes; closes when the time is up, or when the toxic is removed, for the stream has a hole then."""

    def __init__(self, place: Place, attributes: Timeout) -> None:
        super().__init__(place)
        self._timeout_s = attributes.timeout / 1000
        self._alarm = Alarm(place.loop, lambda: self.cut_off(End.CLOSE))
        self._started_s = place.loop.time()

    def start(self) -> None:
        """The time runs from here."""
        if self._timeout_s and not self.cut:
            self._alarm.ring_at(self._started_s + self._timeout_s)

    def receive(self, data: bytes) -> None:
        """Nothing passes."""
        self.place.dropped(len(data))

    def end(self, how: End) -> None:
        """A stream that has ended closes the connection."""
        self._alarm.stop()
        self.cut_off(max(how, End.CLOSE))

    def update(self, attributes: Timeout) -> None:
        """A changed time counts from now."""
        self._timeout_s = attributes.timeout / 1000
        self._started_s = self.place.loop.time()
        self._alarm.stop()
        self.start()

    def release(self) -> None:
        """Close the connection."""
        self._alarm.stop()
        self.cut_off(End.CLOSE)

    def close(self) -> None:
        """Disarm."""
        self._alarm.stop()
