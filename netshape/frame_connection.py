"""A connection that carries frames with planned delivery times: the asyncio protocol, both directions.

What is sent goes out at once and carries the time at which it is to be delivered; the receiver holds it until then, so
the real transit hides inside the planned delay. Shaping itself, that is where planned times come from, is above:
:mod:`netshape.streams`, or whoever calls :meth:`FrameConnection.send_planned`.
"""

from __future__ import annotations

import asyncio
import math
from time import monotonic
from typing import Any

from netshape.clock import NicClock
from netshape.deadlines import DeadlineHeap
from netshape.errors import NetworkError
from netshape.frame_handler import FrameHandler
from netshape.frame_sending import FrameSending
from netshape.frames import (
    CONTROL_BYTES,
    DEFAULT_LIMITS,
    ConnectionFailedError,
    FrameLimits,
    FrameReader,
    Kind,
    MalformedFrameError,
    PeerLostError,
    PeerSilentError,
    checked_greeting,
    hello,
    packed,
    read_conditions,
    read_replan,
)
from netshape.held_frames import HeldFrames
from netshape.link_metrics import LinkMetrics
from netshape.sockets import socket_report

WRITE_HIGH_BYTES = 1 << 20
LINGER_S = 10.0
"""How long a closed connection waits for its peer to go on reading, and then to close, too."""
_DATA = int(Kind.DATA)


class FrameConnection(FrameSending, asyncio.BufferedProtocol):
    """One connection.

    Args:
        handler: What to call.
        greeting: Sent to the peer first, at most ``limits.max_header_bytes``.
        limits: What to take.
        metrics: What counts deliveries.
        receiving_card: Receiving network card, when it is shared.

    Attributes:
        handler: What is called.
        metrics: What counts deliveries.
        sent: Messages sent; the number of the next one.
        writable: Whether the socket takes more for now.
        closed: Whether nothing can be sent any more.
        queued_bytes: Bytes released that the application has not taken; it keeps this count, see :meth:`took`.
    """

    def __init__(
        self,
        handler: FrameHandler,
        *,
        greeting: bytes = b"",
        limits: FrameLimits = DEFAULT_LIMITS,
        metrics: LinkMetrics | None = None,
        receiving_card: NicClock | None = None,
    ) -> None:
        if len(greeting) > limits.max_header_bytes:
            raise MalformedFrameError(f"a greeting of {len(greeting)} bytes: at most {limits.max_header_bytes}")
        super().__init__(limits)
        self.handler = handler
        self.metrics = LinkMetrics() if metrics is None else metrics
        self.queued_bytes = 0
        self._greeting = greeting
        self._reader = FrameReader(limits)
        self._held = HeldFrames(self._reader, self.metrics, handler.on_frame, receiving_card)
        self._greeted = self._ended = self._end_sent = False
        self._end_delivered = self._told = False
        self._reading = True

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet the peer."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES)
        self._socket_report = socket_report(transport.get_extra_info("socket"))
        self._loop = asyncio.get_running_loop()
        heap = DeadlineHeap.of(self._loop)
        self._due = heap.deadline(self._release)
        self._watch = heap.deadline(self._look_after)
        self._opened_s = self._heard_s = self._spoke_s = self._loop.time()
        self._suspect = False
        self._watch.set(self._opened_s + min(self._limits.handshake_s, self._limits.heartbeat_s))
        transport.write(hello(self._greeting))
        self.handler.on_connected(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where received bytes go."""
        return self._reader.buffer()

    def buffer_updated(self, nbytes: int) -> None:
        """Hold the frames that came, and hand out what is due already."""
        now = self._heard_s = monotonic()
        self._suspect = False
        held, waiting = self._held, len(self._held)
        add, takes_data = held.add, self._takes_data
        for kind, planned, handed, transmission, slab, start, split, end in self._reader.received(nbytes, now):
            if kind == _DATA and takes_data:
                add(planned, handed, transmission, now, slab, start, split, end)
                continue
            if self.error is None and not self._closing:
                try:
                    self._take_other(kind, slab.view[start:split], slab.view[split:end], now)
                except NetworkError as error:
                    self._fail(error if isinstance(error, ConnectionFailedError) else ConnectionFailedError(str(error)))
            self._reader.release(slab)
            takes_data = self._takes_data
        if self._reader.problem is not None:
            self._fail(self._reader.problem)
        if not waiting or held.next_s <= now:
            self._release(now)
        if held.held_bytes + self.queued_bytes > self._limits.max_held_bytes:
            self._hold_back()

    def eof_received(self) -> bool:
        """The peer sends no more; whether to keep our side open: no."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Deliver what is held in its time, then tell the handler."""
        self.lost = self.closed = True
        self._watch.clear()
        if self.error is None and not self._ended and not self._closing:
            begun = self._reader.partial_bytes
            where = f"in the middle of a frame ({begun} bytes of it)" if begun else "without an end frame"
            why = "the peer closed the connection" if exc is None else str(exc)
            self.error = PeerLostError(f"{why} {where}")
        self._reader.close()
        if self._closing:
            self._held.drop_all()
        self._out.clear()
        self.writable = True
        self.handler.on_writable(True)
        self._finish_when_empty()

    def pause_writing(self) -> None:
        """The socket's buffers are full."""
        self.writable = False
        self.handler.on_writable(False)

    def resume_writing(self) -> None:
        """There is room again."""
        self.writable = True
        self.handler.on_writable(True)

    # What the application calls.

    def end(self) -> None:
        """Send the end frame: the last message has been sent. Receiving goes on."""
        if not self._end_sent and not self.closed:
            self.send_control(packed(Kind.END))
            self._end_sent = self.closed = True

    def close(self) -> None:
        """End, and let the peer have read everything before the socket is closed; what still comes is dropped."""
        if self._closing or self.lost:
            return
        self.end()
        self._closing = True
        self._held.drop_all()
        self._due.clear()
        self.resume_reading()
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._unread_bytes = self._transport.get_write_buffer_size()
        self._watch.set(self._loop.time() + LINGER_S)

    def abort(self, error: ConnectionFailedError | None = None) -> None:
        """Close at once; what is unsent is lost, what is held is dropped."""
        self._closing = self.closed = True
        self.error = self.error or error
        self._held.drop_all()
        self._due.clear()
        self._transport.abort()
        if self.lost:  # only what was held was left of it
            self._finish_when_empty()

    def finished(self) -> None:
        """The socket is gone and everything that came is delivered; for servers that count."""

    def took(self, count: int) -> None:
        """The application took ``count`` of ``queued_bytes``."""
        self.queued_bytes -= count
        self._read_on()

    def resume_reading(self) -> None:
        """Read from the socket again."""
        if not self._reading and not self.lost:
            self._reading = True
            self._heard_s = self._loop.time()
            self._transport.resume_reading()

    def report(self) -> dict[str, Any]:
        """What the kernel granted the socket, as a plain dictionary."""
        return dict(self._socket_report)

    # Receiving.

    @property
    def _takes_data(self) -> bool:
        return self._greeted and not self._ended and not self._closing and self.error is None

    def _take_other(self, kind: int, header: memoryview, payload: memoryview, now: float) -> None:
        """Take a frame that is no plain data."""
        if not self._greeted:
            greeting = checked_greeting(kind, header, payload)
            self._greeted = True
            self.handler.on_open(greeting)
        elif kind == Kind.END and not self._ended:
            self._ended = True
        elif kind == Kind.REPLAN:
            first, times = read_replan(payload, now + self._limits.max_hold_s)
            self._held.replan(first, times)
            self._due.clear()
            self._due.set(max(self._held.next_s, now))
        elif kind == Kind.CONDITIONS:
            self.metrics.configured_bytes_per_s, self.metrics.configured_latency_s = read_conditions(payload)
        elif kind != Kind.HEARTBEAT:
            raise MalformedFrameError(f"malformed frame: one of kind {kind} does not belong here")

    def _release(self, now: float) -> None:
        """Hand out what is due."""
        held = self._held
        try:
            released = held.release(now)
        except Exception as error:
            self._loop.call_exception_handler({"message": "a frame's handler failed", "exception": error})
            self.abort(ConnectionFailedError(f"the handler of a message failed: {error!r}"))
            return
        if released:
            self.handler.on_batch_end(monotonic())
            self._read_on()
        self._due.set(max(held.next_s, monotonic()) if held.next_s <= now else held.next_s)
        if self._ended or self.lost:
            self._finish_when_empty()

    def _finish_when_empty(self) -> None:
        """Tell the handler of the end, once all has been delivered."""
        if self.lost and self._held and self._held.next_s == math.inf:
            self.error = self.error or PeerLostError("the peer is gone")
            self.error.add_note(f"{len(self._held)} messages waited for a link that was down")
            self._held.drop_all()
        if self._held:
            return
        if self._ended and not self._end_delivered and not self._closing:
            self._end_delivered = True
            self.handler.on_end()
        if self.lost and not self._told:
            self._told = True
            self.finished()
            self.handler.on_closed(self.error)

    def _hold_back(self) -> None:
        """Stop reading while too much is held; but what waits for a link to come up needs the frame that says so."""
        if self._held and self._held.next_s == math.inf:
            if self._held.held_bytes > 2 * self._limits.max_held_bytes + CONTROL_BYTES:
                self._fail(MalformedFrameError("malformed frames: more of them wait for a link than may be held"))
            return
        if self._reading and not self.lost and not self._transport.is_closing():
            self._reading = False
            self._transport.pause_reading()

    def _read_on(self) -> None:
        """Read again, when half of what may be held is free or only a down link's messages are there."""
        if not self._reading:
            held = self._held.held_bytes + self.queued_bytes
            down = self._held and self._held.next_s == math.inf
            if down or 2 * held <= self._limits.max_held_bytes:
                self.resume_reading()

    # Ends and trouble.

    def _fail(self, error: ConnectionFailedError) -> None:
        """Close a connection that went wrong; what came in order before is delivered in its time."""
        if self.error is not None or self._closing:
            return
        if isinstance(error, MalformedFrameError):
            self.metrics.malformed_frames += 1
        self.error = error
        self.closed = True
        self._transport.abort()

    def _look_after(self, now: float) -> None:
        """Greetings that do not come, heartbeats, peers that fell silent, and the end of lingering."""
        limits = self._limits
        if self._closing:
            self._linger(now)
            return
        if not self._greeted and now - self._opened_s >= limits.handshake_s:
            self._fail(PeerSilentError(f"no greeting from the peer within {limits.handshake_s:g} s"))
            return
        if self._reading and now - self._heard_s >= limits.silence_s:
            if self._suspect:
                self._fail(PeerSilentError(f"nothing from the peer for {limits.silence_s:g} s: it is gone"))
                return
            # This loop may have been the one that was busy: look once more after it has read.
            self._suspect = True
            self._watch.set(now + min(0.1, limits.silence_s))
            return
        if now - self._spoke_s >= limits.heartbeat_s:
            self._out.append(packed(Kind.HEARTBEAT))
            self.flush()
        heard_s = self._heard_s if self._reading else now
        next_s = min(self._spoke_s + limits.heartbeat_s, heard_s + limits.silence_s)
        if not self._greeted:
            next_s = min(next_s, self._opened_s + limits.handshake_s)
        self._watch.set(max(next_s, now + 0.001))

    def _linger(self, now: float) -> None:
        """Wait for a peer that still reads; leave the rest to the kernel; give up one that stopped."""
        unread = self._transport.get_write_buffer_size()
        if not unread:
            self._transport.close()
        elif unread < self._unread_bytes:
            self._unread_bytes = unread
            self._watch.set(now + LINGER_S)
        else:
            self.error = PeerSilentError(f"the peer has not read for {LINGER_S:g} s; {unread} bytes are lost")
            self._transport.abort()
