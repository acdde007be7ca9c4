"""Shaped streams of messages and of bytes over TCP or Unix sockets.

A :class:`ShapedStream` plans every message on its link, sends it at once with the planned time, and its peer releases
it then. The sender waits while the link is a horizon behind (20 ms), and while the socket takes no more.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

from netshape.frame_connection import FrameConnection
from netshape.frame_handler import FrameHandler
from netshape.frames import ConnectionFailedError
from netshape.shaped_link import ShapedLink
from netshape.shaped_sender import ShapedSender

CHUNK_BYTES = 1 << 16
"""Most bytes of a byte stream that travel as one message."""


class Message(NamedTuple):
    """A message as received.

    Attributes:
        header: The application's header.
        payload: The payload.
        planned_s: When it was to be delivered, on CLOCK_MONOTONIC.
        arrived_s: When it came to this process.
    """

    header: bytes
    payload: bytes
    planned_s: float
    arrived_s: float


class ShapedStream(FrameHandler):
    """Messages both ways: ``await stream.send(payload)`` and ``async for message in stream``.

    Made by :func:`netshape.endpoints.open_stream` and :func:`netshape.endpoints.serve_streams`. What is received waits
    in memory until it is read; past ``max_held_bytes`` the socket is not read any more, which holds the peer back.

    Args:
        link_for: Picks the link that messages are sent over, once: by the peer's greeting if ``by_greeting``, else with
            an empty one when the connection is made.
        by_greeting: See there. Until the greeting is there, nothing can be sent.

    Attributes:
        greeting: What the peer sent when the connection was made.
        connection: The connection below.
    """

    def __init__(self, link_for: Callable[[bytes], ShapedLink | None], *, by_greeting: bool = False) -> None:
        self.greeting = b""
        self.connection: FrameConnection
        self._link_for = link_for
        self._by_greeting = by_greeting
        self._sender: ShapedSender | None = None
        self._messages: deque[Message] = deque()
        self._ended = False
        self._closed = asyncio.Event()
        self._opened: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._error: ConnectionFailedError | None = None
        self._reader: asyncio.Future[None] | None = None

    @property
    def sender(self) -> ShapedSender:
        """The sending half.

        Raises:
            ConnectionFailedError: The peer's greeting, on which it hangs, is not there yet.
        """
        if self._sender is None:
            raise ConnectionFailedError("the peer has not greeted yet: await opened() first")
        return self._sender

    @property
    def link(self) -> ShapedLink | None:
        """The link that messages are sent over."""
        return self.sender.link

    async def opened(self) -> bytes:
        """Wait for the peer's greeting.

        Raises:
            ConnectionFailedError: The connection failed before.
        """
        return await asyncio.shield(self._opened)

    def send(self, payload: bytes | bytearray | memoryview, header: bytes = b"") -> Coroutine[Any, Any, float]:
        """Send a message once there is room; to be awaited.

        Args:
            payload: Its bytes; may be changed again after the call unless it is ``bytes``.
            header: The application's header, opaque.

        Returns:
            When it is to be delivered, on CLOCK_MONOTONIC; infinite while the link is down.

        Raises:
            ConnectionFailedError: The connection is closed, or the message too long.
        """
        return self.sender.send(payload, header)

    async def receive(self) -> Message | None:
        """The next message, at its planned time; ``None`` after the peer's last one.

        Raises:
            ConnectionFailedError: The connection failed; every message that came before has been received.
        """
        while not self._messages:
            if self._ended:
                return None
            if self._closed.is_set():
                if self._error is not None:
                    raise self._error
                return None
            if self._reader is not None:
                raise RuntimeError("another task is receiving from this stream already")
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        message = self._messages.popleft()
        self.connection.took(len(message.payload) + len(message.header))
        return message

    def __aiter__(self) -> ShapedStream:
        return self

    async def __anext__(self) -> Message:
        message = await self.receive()
        if message is None:
            raise StopAsyncIteration
        return message

    def finish(self) -> None:
        """Send no more; receiving goes on."""
        self.connection.end()

    async def close(self) -> None:
        """Send the end, wait until all that was sent has left, and close.

        Raises:
            ConnectionFailedError: The connection had failed.
        """
        self.connection.end()
        if self._sender is not None:
            await self._sender.sent()
        self.connection.close()
        await self._closed.wait()
        if self._error is not None:
            raise self._error

    async def closed(self) -> None:
        """Wait until the connection is closed."""
        await self._closed.wait()

    def abort(self) -> None:
        """Close at once; what is unsent or unread is lost."""
        self.connection.abort()

    # What the connection calls.

    def on_connected(self, connection: FrameConnection) -> None:
        """Take the connection."""
        self.connection = connection
        if not self._by_greeting:
            self._sender = ShapedSender(connection, self._link_for(b""))

    def on_open(self, greeting: bytes) -> None:
        """Take the greeting."""
        self.greeting = greeting
        if self._by_greeting:
            self._sender = ShapedSender(self.connection, self._link_for(greeting))
        if not self._opened.done():
            self._opened.set_result(greeting)

    def on_frame(self, header: memoryview, payload: memoryview, planned_s: float, arrived_s: float) -> None:
        """Queue a message that is due."""
        self._messages.append(Message(bytes(header), bytes(payload), planned_s, arrived_s))
        self.connection.queued_bytes += len(header) + len(payload)

    def on_batch_end(self, now_s: float) -> None:
        """Wake the reader."""
        self._wake()

    def on_end(self) -> None:
        """There is nothing to receive any more."""
        self._ended = True
        self._wake()

    def on_writable(self, writable: bool) -> None:
        """Let the sender go on, or not."""
        if self._sender is not None:
            self._sender.set_writable(writable)

    def on_closed(self, error: ConnectionFailedError | None) -> None:
        """The connection is gone."""
        self._error = error
        self._closed.set()
        if self._sender is not None:
            self._sender.stop()
        if not self._opened.done():
            self._opened.set_exception(error or ConnectionFailedError("the connection was closed before a greeting"))
            self._opened.exception()  # whoever waits gets it; nobody has to
        self._wake()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


class ByteStream:
    """Bytes both ways over a shaped stream; where one write ends and the next begins is not kept.

    Args:
        stream: The stream below, not read by anybody else.
    """

    def __init__(self, stream: ShapedStream) -> None:
        self.stream = stream
        self._rest = b""

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send ``data``; returns when all of it is on its way.

        Raises:
            ConnectionFailedError: The connection is closed.
        """
        view = memoryview(data).cast("B")
        for begin in range(0, len(view), CHUNK_BYTES):
            await self.stream.send(view[begin : begin + CHUNK_BYTES])

    async def read(self, most_bytes: int = CHUNK_BYTES) -> bytes:
        """At least 1 and at most ``most_bytes`` bytes; none after the peer's last one.

        Raises:
            ConnectionFailedError: The connection failed; every byte that came before has been read.
        """
        while not self._rest:
            message = await self.stream.receive()
            if message is None:
                return b""
            self._rest = message.payload
        data, self._rest = self._rest[:most_bytes], self._rest[most_bytes:]
        return data

    def finish(self) -> None:
        """Send no more; reading goes on."""
        self.stream.finish()

    async def close(self) -> None:
        """As :meth:`ShapedStream.close`."""
        await self.stream.close()
