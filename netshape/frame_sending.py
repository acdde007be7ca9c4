"""The sending half of a connection of frames: checks, packs and writes them."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any

from netshape.frames import (
    HEADER,
    VERSION,
    ConnectionFailedError,
    FrameLimits,
    Kind,
    MalformedFrameError,
    SendQueueFullError,
    replan_frames,
)

FLUSH_BYTES = 1 << 17
"""The first frame of a turn of the loop goes to the socket at once, the others together in writes of this size."""
_DATA = int(Kind.DATA)
_PACK = HEADER.pack


class FrameSending:
    """Sends frames over a transport.

    Args:
        limits: What may be sent.

    Attributes:
        sent: Messages sent; the number of the next one.
        writable: Whether the socket takes more for now.
        closed: Whether no message can be sent any more.
        lost: Whether the socket is gone.
        error: What went wrong, if anything.
    """

    _loop: asyncio.AbstractEventLoop
    _transport: asyncio.Transport

    def __init__(self, limits: FrameLimits) -> None:
        self.sent = 0
        self.writable = True
        self.closed = False
        self.lost = False
        self.error: ConnectionFailedError | None = None
        self._closing = False
        self._limits = limits
        self._out: list[Any] = []
        self._out_bytes = 0
        self._in_turn = False
        self._spoke_s = 0.0

    def send_planned(
        self,
        payload: bytes | bytearray | memoryview,
        header: bytes = b"",
        *,
        planned_s: float,
        handed_s: float = 0.0,
        transmission_s: float = 0.0,
    ) -> None:
        """Send a message that the peer is to deliver at ``planned_s``; later calls must not plan earlier times.

        The first of a turn of the loop goes out at once, the others together.

        Args:
            payload: Bytes; may be changed again after the call unless it is ``bytes``.
            header: The application's, opaque.
            planned_s: Time of delivery on CLOCK_MONOTONIC; infinite while the link is down.
            handed_s: When the message was handed over, for the report.
            transmission_s: Time that it takes up on the link, for the report and the receiving card.

        Raises:
            ConnectionFailedError: The connection is closed.
            MalformedFrameError: Header or payload too long.
            SendQueueFullError: Too much is unsent; wait for ``writable``.
        """
        self.check(payload, header)
        self.push(payload, header, planned_s, handed_s, transmission_s)

    def check(self, payload: bytes | bytearray | memoryview, header: bytes) -> None:
        """Whether a message can be sent; errors as for :meth:`send_planned`."""
        if self.closed:
            raise self.error or ConnectionFailedError("the connection is closed: nothing can be sent")
        if type(payload) is memoryview and payload.nbytes != len(payload):
            raise MalformedFrameError("a payload of something else than bytes: cast the view to format B")
        limits = self._limits
        if len(header) > limits.max_header_bytes or len(payload) > limits.max_payload_bytes:
            raise MalformedFrameError(
                f"a message of {len(header)} + {len(payload)} bytes: at most {limits.max_header_bytes} of header and "
                f"{limits.max_payload_bytes} of payload are allowed"
            )
        if not self.writable and self._transport.get_write_buffer_size() > limits.max_unsent_bytes:
            raise SendQueueFullError(f"more than {limits.max_unsent_bytes} bytes are unsent; wait until writable")

    def push(
        self,
        payload: bytes | bytearray | memoryview,
        header: bytes,
        planned_s: float,
        handed_s: float,
        transmission_s: float,
    ) -> None:
        """Send a message that :meth:`check` found good; arguments as for :meth:`send_planned`."""
        header_length = len(header)
        length = header_length + len(payload)
        out = self._out
        out.append(_PACK(length, header_length, _DATA, VERSION, planned_s, handed_s, transmission_s))
        if header_length:
            out.append(header)
        out.append(payload)
        self._out_bytes += length + HEADER.size
        self.sent += 1
        if not self._in_turn:
            self._in_turn = True
            self._loop.call_soon(self._end_turn)
            self.flush()
        elif self._out_bytes >= FLUSH_BYTES or type(payload) is not bytes:
            self.flush()

    def flush(self) -> None:
        """Give the socket what was sent."""
        out = self._out
        if not out or self.lost:
            return
        self._spoke_s = monotonic()
        if self._out_bytes >= 2 * FLUSH_BYTES:
            # A copy to join so much would cost more than another call.
            for part in out:
                self._transport.write(part)
        else:
            self._transport.write(b"".join(out))
        out.clear()
        self._out_bytes = 0

    def _end_turn(self) -> None:
        self._in_turn = False
        self.flush()

    def send_control(self, frame: bytes) -> None:
        """Send a frame that is no message, behind all that was sent."""
        if not self._closing and not self.lost:
            self._out.append(frame)
            self._out_bytes += len(frame)
            self.flush()

    def replan(self, first: int, planned_s: list[float]) -> None:
        """Tell the peer new delivery times of messages ``first``, ``first + 1`` and so on."""
        for frame in replan_frames(first, planned_s):
            self.send_control(frame)
