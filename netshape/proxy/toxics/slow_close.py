"""``slow_close``: the end of the stream comes late."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from netshape.proxy.stages import Alarm, End, Place, Stage
from netshape.proxy.toxics.toxic import Attributes


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowClose(Attributes):
    """Holds back the end of the stream.

    Attributes:
        delay: Milliseconds by which it comes later.
    """

    TYPE: ClassVar[str] = "slow_close"
    delay: int = 0

    def stage(self, place: Place, name: str) -> Stage:
        """A stage that delays the end."""
        return SlowCloseStage(place, self)


class SlowCloseStage(Stage):
    """Bytes pass; the end waits."""

    def __init__(self, place: Place, attributes: SlowClose) -> None:
        super().__init__(place)
        self._delay_s = attributes.delay / 1000
        self._ended_s = 0.0
        self._pending: End | None = None
        self._alarm = Alarm(place.loop, self.release)

    def end(self, how: End) -> None:
        """Wait, unless it is a reset, which no peer can delay."""
        if how is End.RESET:
            self._pending = how
            self.release()
            return
        self._pending = how
        self._ended_s = self.place.loop.time()
        self._alarm.ring_at(self._ended_s + self._delay_s)

    def update(self, attributes: SlowClose) -> None:
        """A changed delay counts from the same end."""
        self._delay_s = attributes.delay / 1000
        if self._pending is not None:
            self._alarm.ring_at(self._ended_s + self._delay_s)

    def release(self) -> None:
        """Pass the end on."""
        self._alarm.stop()
        how, self._pending = self._pending, None
        if how is not None:
            self.next.end(how)

    def close(self) -> None:
        """Forget the end."""
        self._alarm.stop()
        self._pending = None
