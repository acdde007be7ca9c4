"""``slicer``: bytes come in small pieces, with a pause after each."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import ClassVar

from netshape.proxy.errors import bad_body
from netshape.proxy.stages import Alarm, End, Place, Stage
from netshape.proxy.toxics.toxic import Attributes

MAX_SLICE_BYTES = 1 << 30
"""Larger than anything read at once, so that a slice drawn from here is the whole read."""
SLICES_A_TURN = 64
"""Slices without a pause that are passed on before the event loop sees to others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slicer(Attributes):
    """Passes what is read at once on in slices.

    Attributes:
        average_size: Bytes of a slice on average, at least 1.
        size_variation: Bytes by which a slice may be smaller or larger; less than ``average_size``.
        delay: Microseconds of pause after each slice.
    """

    TYPE: ClassVar[str] = "slicer"
    average_size: int = 0
    size_variation: int = 0
    delay: int = 0

    def __post_init__(self) -> None:
        if not self.average_size:
            raise bad_body("attributes.average_size of a slicer toxic must be at least 1")
        if self.size_variation and self.size_variation >= self.average_size:
            raise bad_body("attributes.size_variation must be less than attributes.average_size")

    def stage(self, place: Place, name: str) -> Stage:
        """A stage that slices."""
        return SlicerStage(place, self, name)


class SlicerStage(Stage):
    """Passes each read on in slices; the next one waits for the pauses of those before."""

    def __init__(self, place: Place, attributes: Slicer, name: str) -> None:
        super().__init__(place)
        self._slicer = attributes
        self._random = place.random(name)
        self._reads: deque[bytes] = deque()
        self._passed_bytes = 0
        self._held_bytes = 0
        self._end: End | None = None
        self._gone = False
        self._alarm = Alarm(place.loop, self._pass_some)

    @property
    def held_bytes(self) -> int:
        """Bytes that wait."""
        return self._held_bytes

    @property
    def full(self) -> bool:
        """One read at a time."""
        return bool(self._reads)

    def receive(self, data: bytes) -> None:
        """Begin to pass slices on, unless others are before them."""
        self._reads.append(data)
        self._held_bytes += len(data)
        if not self._alarm.set:
            self._pass_some()

    def end(self, how: End) -> None:
        """The end comes after the last slice and its pause."""
        self._end = how
        if not self._alarm.set:
            self.release()

    def update(self, attributes: Slicer) -> None:
        """Sizes and pause change from the next slice on."""
        self._slicer = attributes

    def release(self) -> None:
        """Pass everything on, unsliced."""
        self._alarm.stop()
        while self._reads:
            self.next.receive(self._take(self._held_bytes))
        how, self._end = self._end, None
        if how is not None:
            self.next.end(how)

    def close(self) -> None:
        """Forget everything."""
        self._gone = True
        self._alarm.stop()
        self._reads.clear()
        self._held_bytes = self._passed_bytes = 0

    def _pass_some(self) -> None:
        delay_s = self._slicer.delay / 1e6
        passed = 0
        while self._reads and passed < (1 if delay_s else SLICES_A_TURN):
            self.next.receive(self._take(self._size()))
            passed += 1
        if self._gone:
            return
        if passed and delay_s:
            self._alarm.ring_at(self.place.loop.time() + delay_s)
        elif self._reads:
            # Other connections have their turn first.
            self._alarm.ring_at(self.place.loop.time())
        elif self._end is not None:
            self.release()
        self.place.moved()

    def _take(self, most_bytes: int) -> bytes:
        """The next bytes, no more than ``most_bytes`` and none of the read after."""
        read = self._reads[0]
        data = read[self._passed_bytes : self._passed_bytes + most_bytes]
        self._passed_bytes += len(data)
        if self._passed_bytes >= len(read):
            self._reads.popleft()
            self._passed_bytes = 0
        self._held_bytes -= len(data)
        return data

    def _size(self) -> int:
        """Size of the next slice, drawn evenly from the average less to the average plus the variation."""
        least = self._slicer.average_size - self._slicer.size_variation
        most = min(self._slicer.average_size + self._slicer.size_variation, MAX_SLICE_BYTES)
        return least if most <= least else int(self._random.integers(least, most, endpoint=True))
