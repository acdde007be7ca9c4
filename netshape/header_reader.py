"""Reading frames whose payload only stands for so many bytes: nothing is kept of it, nor held for its time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from netshape.frames import DEFAULT_LIMITS, HEADER, HEADER_BYTES, FrameLimits, Kind, MalformedFrameError, header_problem

_DATA = int(Kind.DATA)


class HeaderFrame(NamedTuple):
    """A frame of which all bytes have come.

    Attributes:
        kind: What it is (:class:`~netshape.frames.Kind`).
        planned_s: Planned delivery on CLOCK_MONOTONIC.
        header: Application header.
        body: Payload of a frame that is not data; empty for data.
        payload_bytes: Bytes of payload.
    """

    kind: int
    planned_s: float
    header: bytes
    body: bytes
    payload_bytes: int


class HeaderReader:
    """Finds frames in received bytes, whatever pieces they come in, and keeps no payload of a message.

    A receiver can take all its connections' bytes in one buffer. No I/O of its own.

    Args:
        limits: What is too long.

    Attributes:
        on_begun: Called with the application header of every message as soon as it is here, before the payload.
    """

    __slots__ = ("_fields", "_frame", "_head", "_limits", "_missing", "on_begun")

    def __init__(self, limits: FrameLimits = DEFAULT_LIMITS) -> None:
        self._limits = limits
        self.on_begun: Callable[[bytes], None] | None = None
        self._head = bytearray()
        self._missing = HEADER_BYTES
        self._fields: tuple[int, int, int, float] | None = None
        self._frame: HeaderFrame | None = None

    @property
    def within_frame(self) -> bool:
        """Whether bytes of a begun frame are missing."""
        return bool(self._head) or self._fields is not None or self._frame is not None

    @property
    def missing_bytes(self) -> int:
        """Bytes that belong to the present frame for certain: whoever reads no more leaves the next one alone."""
        return self._missing

    def received(self, data: memoryview, now_s: float) -> Iterator[HeaderFrame]:
        """Frames that ``data`` completes, in order.

        Args:
            data: Further bytes; they are all taken once the iterator is at its end.
            now_s: Now, for the limit of planned times.

        Raises:
            MalformedFrameError: What follows is no frame; this reader is of no more use.
        """
        at, size = 0, len(data)
        while True:
            missing = self._missing
            taken = missing if missing < size - at else size - at
            if self._frame is None:
                self._head += data[at : at + taken]
            at += taken
            if taken < missing:
                self._missing = missing - taken
                return
            if self._frame is not None:
                frame, self._frame = self._frame, None
                self._missing = HEADER_BYTES
                yield frame
            elif self._fields is None:
                self._take_fixed(now_s)
            else:
                self._take_header(*self._fields)

    def _take_fixed(self, now_s: float) -> None:
        """The fixed header is here: go on with the application header, and with a body that is kept."""
        fields = HEADER.unpack(self._head)
        problem = header_problem(self._limits, *fields, latest=now_s + self._limits.max_hold_s)
        if problem:
            raise MalformedFrameError(f"malformed frame: {problem}")
        length, header_length, kind, _, planned, _, _ = fields
        self._fields = length, header_length, kind, planned
        self._missing = header_length if kind == _DATA else length
        self._head.clear()

    def _take_header(self, length: int, header_length: int, kind: int, planned: float) -> None:
        """All that is kept is here: go on with the payload."""
        kept = bytes(self._head)
        self._head.clear()
        self._fields = None
        self._frame = HeaderFrame(kind, planned, kept[:header_length], kept[header_length:], length - header_length)
        self._missing = length - len(kept)
        if kind == _DATA and self.on_begun is not None:
            self.on_begun(kept)
