"""What a receiver holds until its planned time: frames in order, released when they are due."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from time import monotonic

from netshape.clock import NicClock
from netshape.frames import FrameReader
from netshape.link_metrics import LinkMetrics
from netshape.slabs import Slab

RELEASED_A_TURN = 512
"""Most frames released in one go, so that other links and the sockets have their turn."""
EMPTY = memoryview(b"")

FrameCallback = Callable[[memoryview, memoryview, float, float], None]


class HeldFrames:
    """Frames of one connection on the receiving side, first in, first out.

    Args:
        reader: Owner of the memory that the frames are in.
        metrics: What counts deliveries.
        on_frame: Called with application header, payload, planned time and time of arrival of each frame. The two
            views are good during the call only.
        card: Receiving card, when it is shared with other connections.

    Attributes:
        held_bytes: Bytes of headers and payloads held.
        released: Messages released so far; the number of the next one.
    """

    __slots__ = ("_card", "_held", "_metrics", "_on_frame", "_reader", "_through_card", "held_bytes", "released")

    def __init__(
        self, reader: FrameReader, metrics: LinkMetrics, on_frame: FrameCallback, card: NicClock | None = None
    ) -> None:
        self._reader = reader
        self._metrics = metrics
        self._on_frame = on_frame
        self._card = card
        self._through_card = False
        self._held: deque[tuple[float, float, float, float, Slab, int, int, int]] = deque()
        self.held_bytes = 0
        self.released = 0

    def __len__(self) -> int:
        return len(self._held)

    @property
    def next_s(self) -> float:
        """When the next frame is due; infinite when there is none, or when its link is down."""
        return self._held[0][0] if self._held else math.inf

    def add(
        self,
        planned_s: float,
        handed_s: float,
        transmission_s: float,
        arrived_s: float,
        slab: Slab,
        start: int,
        split: int,
        end: int,
    ) -> None:
        """Hold a frame: its times, and where its header and payload are in ``slab``."""
        self._held.append((planned_s, handed_s, transmission_s, arrived_s, slab, start, split, end))
        self.held_bytes += end - start

    def release(self, now_s: float) -> int:
        """Hand out what is due by ``now_s`` or falls due meanwhile, at most :data:`RELEASED_A_TURN` frames.

        Returns:
            How many.
        """
        held, count = self._held, 0
        on_frame, delivered, give_up = self._on_frame, self._metrics.delivered, self._reader.release
        while held and held[0][0] <= now_s and count < RELEASED_A_TURN:
            if self._card is not None and not self._passes_card(now_s):
                continue  # the head has got a later time
            planned, handed, transmission, arrived, slab, start, split, end = held.popleft()
            self._through_card = False
            self.held_bytes -= end - start
            self.released += 1
            count += 1
            header = slab.view[start:split] if split > start else EMPTY
            payload = slab.view[split:end]
            try:
                on_frame(header, payload, planned, arrived)
            finally:
                try:
                    payload.release()
                    if split > start:
                        header.release()
                except BufferError:
                    # Somebody kept what was good during the call only: leave that memory to them.
                    slab.kept = True
                give_up(slab)
            delivered(end - split, handed, planned, now_s, transmission)
            now_s = monotonic()
        return count

    def replan(self, first: int, planned_s: tuple[float, ...]) -> None:
        """Give messages ``first`` and after new times; those released already are counted and left."""
        begin = first - self.released
        if begin < 0:
            gone = min(-begin, len(planned_s))
            self._metrics.late_replans += gone
            planned_s, begin = planned_s[gone:], 0
        if begin == 0 and self._through_card and planned_s:
            planned_s, begin = planned_s[1:], 1  # it has come to the receiver's card
        held = list(self._held)
        for index, planned in enumerate(planned_s[: max(0, len(held) - begin)], begin):
            held[index] = (planned, *held[index][1:])
        self._held = deque(held)

    def drop_all(self) -> None:
        """Forget all frames."""
        while self._held:
            self._reader.release(self._held.popleft()[4])
        self.held_bytes = 0

    def _passes_card(self, now_s: float) -> bool:
        """Lead the head through the card when it comes there; whether it is through by ``now_s``."""
        if self._through_card or self._card is None:
            return True
        planned, handed, transmission, arrived, slab, start, split, end = self._held[0]
        size = end - start
        wire = size / transmission if transmission > 0 else math.inf
        through = self._card.receive([planned], size, wire)[0]
        self._through_card = True
        self._held[0] = (through, handed, transmission, arrived, slab, start, split, end)
        return through <= now_s
