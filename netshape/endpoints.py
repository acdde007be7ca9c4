"""Opening shaped connections and serving them, on TCP and Unix sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netshape.clock import NicClock
from netshape.frame_connection import FrameConnection
from netshape.frame_handler import FrameHandler
from netshape.frames import DEFAULT_LIMITS, ConnectionFailedError, FrameLimits, MalformedFrameError
from netshape.link_metrics import LinkMetrics
from netshape.shaped_link import ShapedLink
from netshape.sockets import DEFAULT_OPTIONS, Address, SocketOptions
from netshape.streams import ShapedStream

BACKLOG = 1024
"""Connections that may wait to be accepted."""


@dataclass(slots=True)
class ServerCounts:
    """Connections of a server.

    Attributes:
        opened: Accepted.
        closed: Closed in order.
        failed: Closed otherwise.
        malformed: Of these, closed for malformed frames.
    """

    opened: int = 0
    closed: int = 0
    failed: int = 0
    malformed: int = 0


class FrameServer:
    """A listening socket and its connections.

    Attributes:
        address: Where it listens; with the port that was chosen for port 0.
        counts: Connections so far.
        connections: Those that are open, or still hold what is to be delivered, in the order of arrival.
    """

    def __init__(self, server: asyncio.Server, address: Address, counts: ServerCounts) -> None:
        self._server = server
        self.address = address
        self.counts = counts
        self.connections: dict[FrameConnection, None] = {}

    async def close(self) -> None:
        """Stop listening, and close all connections at once."""
        self._server.close()
        for connection in list(self.connections):
            connection.abort()
        while self.connections:
            await asyncio.sleep(0)
        await self._server.wait_closed()
        if isinstance(self.address, str):
            Path(self.address).unlink(missing_ok=True)


class _Watched(FrameConnection):
    """A server's connection, which counts itself."""

    def __init__(self, handler: FrameHandler, server_at: Callable[[], FrameServer], **options: Any) -> None:
        super().__init__(handler, **options)
        self._server_at = server_at

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        server = self._server_at()
        server.counts.opened += 1
        server.connections[self] = None
        super().connection_made(transport)

    def finished(self) -> None:
        server = self._server_at()
        del server.connections[self]
        if self.error is None:
            server.counts.closed += 1
        else:
            server.counts.failed += 1
            server.counts.malformed += isinstance(self.error, MalformedFrameError)


async def connect(
    handler: FrameHandler,
    address: Address,
    *,
    greeting: bytes = b"",
    limits: FrameLimits = DEFAULT_LIMITS,
    options: SocketOptions = DEFAULT_OPTIONS,
    metrics: LinkMetrics | None = None,
    receiving_card: NicClock | None = None,
) -> FrameConnection:
    """Open a connection.

    Args:
        handler: What is called.
        address: Host and port, or path of a Unix socket.
        greeting: Sent to the peer first.
        limits: What to take.
        options: Of the socket.
        metrics: What counts deliveries.
        receiving_card: Receiving network card, when it is shared.

    Raises:
        OSError: Nobody listens there.
        NetworkError: Options that the system does not know.
    """
    loop = asyncio.get_running_loop()
    sock = await _connected(address, options)

    def protocol() -> FrameConnection:
        return FrameConnection(
            handler, greeting=greeting, limits=limits, metrics=metrics, receiving_card=receiving_card
        )

    try:
        if sock.family == socket.AF_UNIX:
            _, connection = await loop.create_unix_connection(protocol, sock=sock)
        else:
            _, connection = await loop.create_connection(protocol, sock=sock)
    except BaseException:
        sock.close()
        raise
    return connection


async def listen(
    handler_for: Callable[[], FrameHandler],
    address: Address,
    *,
    greeting: bytes = b"",
    limits: FrameLimits = DEFAULT_LIMITS,
    options: SocketOptions = DEFAULT_OPTIONS,
    metrics_for: Callable[[], LinkMetrics] = LinkMetrics,
    receiving_card: NicClock | None = None,
) -> FrameServer:
    """Serve connections.

    Args:
        handler_for: Makes the handler of a new connection.
        address: Host and port (0 for any free one), or path of a Unix socket, which must not exist.
        greeting: Sent to every peer first.
        limits: What to take.
        options: Of the sockets.
        metrics_for: Makes what counts the deliveries of a new connection.
        receiving_card: Receiving network card that all connections share, if any.

    Raises:
        OSError: The address is taken or not ours.
        NetworkError: Options that the system does not know.
    """
    loop = asyncio.get_running_loop()
    sock = _listening(address, options)
    holder: list[FrameServer] = []

    def protocol() -> FrameConnection:
        return _Watched(
            handler_for(),
            lambda: holder[0],
            greeting=greeting,
            limits=limits,
            metrics=metrics_for(),
            receiving_card=receiving_card,
        )

    try:
        if sock.family == socket.AF_UNIX:
            server = await loop.create_unix_server(protocol, sock=sock, backlog=BACKLOG, start_serving=False)
        else:
            server = await loop.create_server(protocol, sock=sock, backlog=BACKLOG, start_serving=False)
    except BaseException:
        sock.close()
        raise
    bound = address if isinstance(address, str) else (address[0], sock.getsockname()[1])
    holder.append(FrameServer(server, bound, ServerCounts()))
    await server.start_serving()
    return holder[0]


async def open_stream(
    address: Address,
    link: ShapedLink | None = None,
    *,
    greeting: bytes = b"",
    limits: FrameLimits = DEFAULT_LIMITS,
    options: SocketOptions = DEFAULT_OPTIONS,
    metrics: LinkMetrics | None = None,
    receiving_card: NicClock | None = None,
) -> ShapedStream:
    """Open a stream whose messages go over ``link``, or unshaped without one.

    Arguments and errors are those of :func:`connect`.
    """
    stream = ShapedStream(lambda _: link)
    await connect(
        stream,
        address,
        greeting=greeting,
        limits=limits,
        options=options,
        metrics=metrics,
        receiving_card=receiving_card,
    )
    return stream


async def serve_streams(
    on_stream: Callable[[ShapedStream], Awaitable[None]],
    address: Address,
    *,
    link_for: Callable[[bytes], ShapedLink | None] = lambda _: None,
    greeting: bytes = b"",
    limits: FrameLimits = DEFAULT_LIMITS,
    options: SocketOptions = DEFAULT_OPTIONS,
    metrics_for: Callable[[], LinkMetrics] = LinkMetrics,
    receiving_card: NicClock | None = None,
) -> FrameServer:
    """Serve streams.

    Args:
        on_stream: Run as a task for every stream, once its peer's greeting is there; the stream is closed after it.
        address: As for :func:`listen`.
        link_for: Makes or picks the link that a new stream's own messages go over, from its peer's greeting.
        greeting: Sent to every peer first.
        limits: What to take.
        options: Of the sockets.
        metrics_for: Makes what counts the deliveries of a new stream.
        receiving_card: Receiving network card that all streams share, if any.

    Raises:
        OSError: The address is taken or not ours.
    """
    return await listen(
        lambda: _ServedStream(on_stream, link_for),
        address,
        greeting=greeting,
        limits=limits,
        options=options,
        metrics_for=metrics_for,
        receiving_card=receiving_card,
    )


class _ServedStream(ShapedStream):
    """A stream that runs a task when it opens."""

    def __init__(
        self, on_stream: Callable[[ShapedStream], Awaitable[None]], link_for: Callable[[bytes], ShapedLink | None]
    ) -> None:
        super().__init__(link_for, by_greeting=True)
        self._on_stream = on_stream
        self._task: asyncio.Task[None] | None = None

    def on_open(self, greeting: bytes) -> None:
        super().on_open(greeting)
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        try:
            await self._on_stream(self)
        except BaseException:
            self.abort()
            raise
        with suppress(ConnectionFailedError):  # reported to whoever received; there is nothing left to close
            await self.close()


async def _connected(address: Address, options: SocketOptions) -> socket.socket:
    loop = asyncio.get_running_loop()
    if isinstance(address, str):
        places: list[tuple[int, Any]] = [(socket.AF_UNIX, address)]
    else:
        # An address in digits is spared the trip to the thread that resolves names.
        try:
            found = socket.getaddrinfo(*address, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        except socket.gaierror:
            found = await loop.getaddrinfo(*address, type=socket.SOCK_STREAM)
        places = [(family, place) for family, _, _, _, place in found]
    problem: OSError | None = None
    for family, place in places:
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            options.apply(sock)
            await loop.sock_connect(sock, place)
        except OSError as error:
            sock.close()
            problem = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    assert problem is not None
    raise problem


def _listening(address: Address, options: SocketOptions) -> socket.socket:
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        options.apply(sock)
        sock.bind(address)
    except BaseException:
        sock.close()
        raise
    return sock
