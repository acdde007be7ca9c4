"""The two ends of a connection between machines of a run.

Sockets are driven by the loop's readers and writers, without streams or transports in between, so that a payload is
copied into and out of the kernel and nowhere else: all senders share one block of zeros, all receivers one buffer.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from collections import deque
from typing import TYPE_CHECKING

from emulator.errors import SimulationError
from emulator.realtime.messages import (
    LIMITS,
    MAX_PAYLOAD_BYTES,
    Message,
    frame_sizes,
    greeting,
    pack,
    read_greeting,
    unpack,
)
from netshape.frames import Kind, MalformedFrameError, checked_greeting, data_beginning, hello
from netshape.header_reader import HeaderReader

if TYPE_CHECKING:
    from emulator.realtime.exchange import Exchange

Pair = tuple[str, str]
Address = tuple[str, int]

GREETING_LIMIT_S = 5.0
"""A connection that has not greeted by then is a stranger's."""
_BURST_BYTES = MAX_PAYLOAD_BYTES
_BURST_BUFFERS = 64

_ZEROS = memoryview(bytes(MAX_PAYLOAD_BYTES))


def reset_on_close(connection: socket.socket) -> None:
    """Have the kernel drop what is in ``connection``, and reset it, when it is closed."""
    if connection.fileno() >= 0:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Outbound:
    """The sending end of a connection; messages wait here while the kernel takes no more."""

    def __init__(self, exchange: Exchange, pair: Pair, address: Address) -> None:
        self._exchange = exchange
        self._loop = exchange.loop
        self.pair = pair
        self._queue: deque[tuple[Message, int, float]] = deque()
        self._unsent: deque[memoryview] = deque([memoryview(hello(greeting(exchange.token, *pair)))])
        self._unsent_bytes = 0
        self._waiting = True
        self._paused = False
        self._socket = exchange.places.new_socket(pair[0])
        state = self._socket.connect_ex(address)
        if state not in (0, errno.EINPROGRESS):
            self.close()
            raise SimulationError(f"{pair[0]} cannot connect to {pair[1]} at {address}: {os.strerror(state)}")
        self._loop.add_writer(self._socket, self._writable)

    @property
    def queued_messages(self) -> int:
        """Messages not wholly handed to the kernel."""
        return len(self._queue)

    def send(self, message: Message, payload_bytes: int, due_s: float) -> None:
        """Send ``message``, due at ``due_s``, with a payload of ``payload_bytes`` after everything sent before."""
        self._queue.append((message, payload_bytes, due_s))
        if not self._waiting:
            self._write()

    def _fill(self) -> None:
        """Cut frames off the queue, at most a burst ahead."""
        while self._queue and self._unsent_bytes < _BURST_BYTES and len(self._unsent) < _BURST_BUFFERS:
            message, left, due_s = self._queue.popleft()
            size = next(frame_sizes(left))
            self._unsent.append(memoryview(data_beginning(pack(message, last=size == left), size, due_s)))
            self._unsent.append(_ZEROS[:size])
            self._unsent_bytes += size
            if size < left:
                self._queue.appendleft((message, left - size, due_s))

    def _write(self) -> None:
        """Hand the kernel one burst; come back when it can take more."""
        self._fill()
        if self._unsent:
            try:
                sent = self._socket.sendmsg(self._unsent)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                self._lost(error)
                return
            self._exchange.sent_bytes += sent
            self._drop(sent)
        if bool(self._unsent or self._queue) != self._waiting:
            self._waiting = not self._waiting
            if self._waiting:
                self._loop.add_writer(self._socket, self._writable)
            else:
                self._loop.remove_writer(self._socket)

    def _drop(self, sent: int) -> None:
        unsent = self._unsent
        while unsent and sent >= len(unsent[0]):
            sent -= len(unsent.popleft())
        if sent:
            unsent[0] = unsent[0][sent:]
        self._unsent_bytes = sum(map(len, unsent))

    def _writable(self) -> None:
        error = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self._lost(OSError(error, os.strerror(error)))
        else:
            self._write()

    def _lost(self, error: OSError) -> None:
        self.close()
        self._exchange.lost(self.pair, f"{error.strerror or error}")

    def pause(self) -> None:
        """Hand the kernel nothing until :meth:`go_on`; what is sent meanwhile waits here."""
        if not self._paused and self._waiting:
            self._loop.remove_writer(self._socket)
        self._paused = self._waiting = True

    def go_on(self) -> None:
        """Go on with what waits."""
        if self._paused:
            self._paused = False
            self._loop.add_writer(self._socket, self._writable)

    def abort(self) -> None:
        """Close the connection as a crash does: the other end gets a reset."""
        reset_on_close(self._socket)
        self.close()

    def close(self) -> None:
        """Close the connection; what was not sent is gone."""
        if self._socket.fileno() >= 0:
            self._loop.remove_writer(self._socket)
            self._socket.close()
        self._queue.clear()
        self._waiting = True


class Inbound:
    """The receiving end of a connection: a greeting, then frames."""

    def __init__(self, exchange: Exchange, machine: str, accepted: socket.socket) -> None:
        self._exchange = exchange
        self._loop = exchange.loop
        self._machine = machine
        self._socket = accepted
        self._reader = HeaderReader(LIMITS)
        self._message: Message | None = None
        self._last = False
        self._heard_of: int | None = None
        self.pair: Pair | None = None
        self.received_bytes = 0
        self._deadline: asyncio.TimerHandle | None = self._loop.call_later(GREETING_LIMIT_S, self._stranger)
        self._loop.add_reader(accepted, self._greet)

    def _greet(self) -> None:
        exchange, reader = self._exchange, self._reader
        pair = None
        try:
            # Not a byte more: what follows may have to wait for its link to be up.
            size = self._socket.recv_into(exchange.buffer, min(reader.missing_bytes, len(exchange.buffer)))
            if not size:
                raise MalformedFrameError("a connection that ended before its greeting")
            for frame in reader.received(exchange.buffer[:size], self._loop.time()):
                pair = read_greeting(checked_greeting(frame.kind, frame.header, frame.body), exchange.token)
                exchange.greeted(self, pair, self._machine)
        except BlockingIOError:
            return
        except (OSError, MalformedFrameError):
            self._stranger()
            return
        if pair is None:
            return
        self.pair = pair
        reader.on_begun = self._begun
        self._settle()
        self._loop.remove_reader(self._socket)
        if not exchange.holds(pair):
            self._loop.add_reader(self._socket, self._readable)

    def _stranger(self) -> None:
        """Whoever this is, it is nobody of this run."""
        self.close()
        self._exchange.turned_away(self)

    def _settle(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _readable(self) -> None:
        assert self.pair is not None
        exchange = self._exchange
        try:
            size = self._socket.recv_into(exchange.buffer)
        except BlockingIOError:
            return
        except OSError as error:
            self._lost(error.strerror or str(error))
            return
        if not size:
            self._lost("closed in the middle of a frame" if self._reader.within_frame else "closed")
            return
        exchange.received_bytes += size
        self.received_bytes += size
        try:
            for frame in self._reader.received(exchange.buffer[:size], self._loop.time()):
                if frame.kind != Kind.DATA:
                    raise MalformedFrameError(f"malformed frame: one of kind {frame.kind} does not belong here")
                message, self._message = self._message, None
                if self._last:
                    assert message is not None
                    exchange.on_message(self.pair, message)
        except MalformedFrameError as error:
            exchange.malformed += 1
            self._lost(str(error))

    def _begun(self, header: bytes) -> None:
        """A frame's header is here; tell of a message of several frames when it is that of the first."""
        message, self._last = self._message, _ = unpack(header)
        if self._last:
            self._heard_of = None
        elif self._heard_of != message.serial:
            self._heard_of = message.serial
            assert self.pair is not None
            self._exchange.on_begun(self.pair, message)

    def _lost(self, reason: str) -> None:
        self.close()
        assert self.pair is not None
        self._exchange.lost(self.pair, reason)

    def pause(self) -> None:
        """Take nothing from the kernel until :meth:`go_on`."""
        self._loop.remove_reader(self._socket)

    def go_on(self) -> None:
        """Read again."""
        self._loop.add_reader(self._socket, self._readable)

    def abort(self) -> None:
        """Close the connection as a crash does: the other end gets a reset."""
        reset_on_close(self._socket)
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._settle()
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            self._socket.close()
