"""``limit_data``: so many bytes pass, then the connection is closed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from netshape.proxy.stages import End, Place, Stage
from netshape.proxy.toxics.toxic import Attributes


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitData(Attributes):
    """Closes a connection that has transmitted enough.

    Attributes:
        bytes: Bytes that pass; a connection counts on when the limit changes.
    """

    TYPE: ClassVar[str] = "limit_data"
    bytes: int = 0

    def stage(self, place: Place, name: str) -> Stage:
        """A stage that counts."""
        return LimitDataStage(place, self)


class LimitDataStage(Stage):
    """Passes bytes up to the limit; the byte that reaches it closes the connection."""

    def __init__(self, place: Place, attributes: LimitData) -> None:
        super().__init__(place)
        self._limit_bytes = attributes.bytes
        self._passed_bytes = 0

    def receive(self, data: bytes) -> None:
        """Pass what the limit leaves."""
        if self.cut:
            self.place.dropped(len(data))
            return
        left = max(0, self._limit_bytes - self._passed_bytes)
        passing = data[:left]
        if passing:
            self._passed_bytes += len(passing)
            self.next.receive(passing)
        if len(data) >= left:
            self.place.dropped(len(data) - len(passing))
            self.cut_off(End.CLOSE)

    def end(self, how: End) -> None:
        """The end passes, unless the limit was an end already."""
        if how is End.RESET or not self.cut:
            self.next.end(how)

    def update(self, attributes: LimitData) -> None:
        """A limit that is lower than what has passed closes with the next bytes."""
        self._limit_bytes = attributes.bytes
