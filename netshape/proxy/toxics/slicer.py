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


@dataclass(frozen=True, slots=True, kw_only=True)
class Slicer(Attributes):
    """Slices what is sent together.

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
    """Cuts each read into slices; the next one waits for the pauses of those before."""

    def __init__(self, place: Place, attributes: Slicer, name: str) -> None:
        super().__init__(place)
        self._slicer = attributes
        self._random = place.random(name)
        self._slices: deque[bytes] = deque()
        self._held_bytes = 0
        self._end: End | None = None
        self._alarm = Alarm(place.loop, self._pass_next)

    @property
    def held_bytes(self) -> int:
        """Bytes of slices that wait."""
        return self._held_bytes

    @property
    def full(self) -> bool:
        """One read at a time."""
        return bool(self._slices)

    def receive(self, data: bytes) -> None:
        """Cut, and begin to pass the slices on."""
        self._slices.extend(self._cut(data))
        self._held_bytes += len(data)
        if not self._alarm.set:
            self._pass_next()

    def end(self, how: End) -> None:
        """The end comes after the last slice; a reset at once."""
        self._end = how
        if how is End.RESET:
            self.close()
        if not self._alarm.set:
            self.release()

    def update(self, attributes: Slicer) -> None:
        """Slices that are cut stay as they are; the pause changes from the next one."""
        self._slicer = attributes

    def release(self) -> None:
        """Pass everything on without pauses."""
        self._alarm.stop()
        while self._slices:
            self.next.receive(self._take())
        how, self._end = self._end, None
        if how is not None:
            self.next.end(how)

    def close(self) -> None:
        """Forget the slices."""
        self._alarm.stop()
        self._slices.clear()
        self._held_bytes = 0

    def _pass_next(self) -> None:
        delay_s = self._slicer.delay / 1e6
        while self._slices:
            self.next.receive(self._take())
            if delay_s:
                self._alarm.ring_at(self.place.loop.time() + delay_s)
                break
        if not self._alarm.set and self._end is not None:
            self.release()
        self.place.moved()

    def _take(self) -> bytes:
        data = self._slices.popleft()
        self._held_bytes -= len(data)
        return data

    def _cut(self, data: bytes) -> list[bytes]:
        """Slices of sizes drawn evenly around the average; the last one is what is left."""
        average, variation = self._slicer.average_size, self._slicer.size_variation
        if average - variation >= len(data):
            return [data]
        if not variation:
            return [data[start : start + average] for start in range(0, len(data), average)]
        least, most = average - variation, min(average + variation, MAX_SLICE_BYTES)
        sizes = self._random.integers(least, most, size=len(data) // least + 1, endpoint=True).tolist()
        slices = []
        start = 0
        for size in sizes:
            if start >= len(data):
                break
            slices.append(data[start : start + size])
            start += size
        return slices
