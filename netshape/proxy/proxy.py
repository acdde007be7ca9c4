"""A proxy: a listening socket, an upstream, and the toxics and links between them."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from netshape.proxy.addresses import ANY_PORT, parse_address, resolve_listener, shown_address
from netshape.proxy.connection import Connection, read_buffer
from netshape.proxy.errors import ApiError, cannot_listen, toxic_exists, toxic_not_found
from netshape.proxy.flow_metrics import FlowMetrics
from netshape.proxy.links import LinksChange, ProxyLinks
from netshape.proxy.pipe import Pipe
from netshape.proxy.room import Room
from netshape.proxy.toxics.toxic import DIRECTIONS, Direction, Toxic

MAX_TOXICS = 64
BACKLOG = 1024

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the proxies of a server may take up.

    Attributes:
        max_proxies: Proxies at once.
        max_connections: Clients at once, of all proxies together; one more is turned away.
        connect_timeout_s: How long connecting to an upstream may take.
    """

    max_proxies: int = 1024
    max_connections: int = 4096
    connect_timeout_s: float = 10.0


@dataclass(slots=True, kw_only=True)
class Shared:
    """What the proxies of a server have in common.

    Attributes:
        seed: Of every random draw.
        limits: What they may take up.
        room: Memory for bytes that are held back.
        connections: Clients connected at present.
        buffer: Where all sockets read to.
    """

    seed: int = 0
    limits: Limits = field(default_factory=Limits)
    room: Room = field(default_factory=Room)
    connections: int = 0
    buffer: memoryview = field(default_factory=read_buffer)


class Proxy:
    """One proxy. Times and bytes are counted from its creation, through every restart.

    Args:
        name: Its name.
        listen: Address to listen at, as the user wrote it.
        upstream: Address to connect to.
        shared: What it has in common with the others.

    Attributes:
        listen: The address; the actual one once it has listened.
        enabled: Whether it listens.
        accepted: Clients accepted so far.
        refused: Clients turned away for want of room.
        upstream_failures: Clients whose upstream could not be reached.

    Raises:
        ApiError: An address that is none.
    """

    def __init__(self, name: str, listen: str, upstream: str, shared: Shared) -> None:
        self.name = name
        self.listen = listen
        self.upstream = upstream
        self.enabled = False
        self.accepted = self.refused = self.upstream_failures = 0
        self.metrics: dict[Direction, FlowMetrics] = {direction: FlowMetrics() for direction in DIRECTIONS}
        self.links = ProxyLinks(name, shared.seed)
        self._shared = shared
        self._listen_at = parse_address(listen or ANY_PORT, "listen")
        self._upstream_at = parse_address(upstream, "upstream")
        self._toxics: dict[str, Toxic] = {}
        self._server: asyncio.Server | None = None
        self._connections: dict[int, Connection] = {}
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def toxics(self) -> list[Toxic]:
        """Toxics, those upstream first, each direction in the order in which bytes meet them."""
        return [toxic for direction in DIRECTIONS for toxic in self._stream(direction)]

    @property
    def open_connections(self) -> int:
        """Clients connected at present."""
        return len(self._connections)

    @property
    def held_bytes(self) -> int:
        """Bytes on their way through the proxy, in stages and write buffers."""
        return sum(connection.held_bytes for connection in self._connections.values())

    def shown(self) -> dict[str, Any]:
        """The proxy as the API shows it."""
        shown: dict[str, Any] = {
            "name": self.name,
            "listen": self.listen,
            "upstream": self.upstream,
            "enabled": self.enabled,
            "toxics": [toxic.shown() for toxic in self.toxics],
        }
        if self.links.shown:
            shown["links"] = self.links.shown
        return shown

    # Life.

    async def start(self) -> None:
        """Listen.

        Raises:
            ApiError: The address cannot be listened at.
        """
        if self.enabled:
            return
        family, where = await resolve_listener(self._listen_at)
        try:
            listener = _listening_socket(family, where)
        except OSError as error:
            raise cannot_listen(str(self._listen_at), error) from error
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._accept, sock=listener, backlog=BACKLOG)
        self.listen = shown_address(listener.getsockname())
        self._listen_at = parse_address(self.listen, "listen")
        self.enabled = True
        log.info("proxy %s listens at %s for %s", self.name, self.listen, self.upstream)

    async def stop(self) -> None:
        """Stop listening and drop all connections; returns when their sockets are closed."""
        if not self.enabled:
            return
        self.enabled = False
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in list(self._connections.values()):
            connection.abort()
        await self._idle.wait()
        log.info("proxy %s stopped", self.name)

    async def update(self, *, listen: str, upstream: str, enabled: bool) -> None:
        """Change the addresses, which drops all connections, and start or stop.

        Raises:
            ApiError: An address that is none, or one that cannot be listened at; the proxy is stopped then.
        """
        listen_at, upstream_at = parse_address(listen or ANY_PORT, "listen"), parse_address(upstream, "upstream")
        if not await self.has_addresses(listen, upstream):
            await self.stop()
            self.listen, self.upstream = listen, upstream
            self._listen_at, self._upstream_at = listen_at, upstream_at
        if enabled:
            await self.start()
        else:
            await self.stop()

    async def close(self) -> None:
        """Stop for good."""
        await self.stop()
        self.links.close()

    async def has_addresses(self, listen: str, upstream: str) -> bool:
        """Whether these are its addresses, however the listening one is written."""
        if upstream != self.upstream:
            return False
        if listen == self.listen:
            return True
        listen_at = parse_address(listen or ANY_PORT, "listen")
        return await resolve_listener(self._listen_at) == await resolve_listener(listen_at)

    # Toxics.

    def toxic(self, name: str) -> Toxic:
        """The toxic of a name.

        Raises:
            ApiError: There is none.
        """
        if name not in self._toxics:
            raise toxic_not_found()
        return self._toxics[name]

    def add_toxic(self, toxic: Toxic) -> None:
        """Put a toxic at the end of its direction, on open connections too.

        Raises:
            ApiError: The name is taken, or there are too many.
        """
        if toxic.name in self._toxics:
            raise toxic_exists()
        if len(self._toxics) >= MAX_TOXICS:
            raise ApiError(400, f"proxy {self.name} has {MAX_TOXICS} toxics already, which is the most")
        self._toxics[toxic.name] = toxic
        self._for_pipes(toxic.stream, lambda pipe: pipe.add(toxic))

    def update_toxic(self, toxic: Toxic) -> None:
        """Let the toxic of the same name have other attributes or another toxicity, on open connections too."""
        self._toxics[toxic.name] = toxic
        self._for_pipes(toxic.stream, lambda pipe: pipe.update(toxic))

    def remove_toxic(self, name: str) -> None:
        """Take a toxic away, on open connections too.

        Raises:
            ApiError: There is none of the name.
        """
        toxic = self.toxic(name)
        del self._toxics[name]
        self._for_pipes(toxic.stream, lambda pipe: pipe.remove(name))

    def remove_all_toxics(self) -> None:
        """Take all toxics away."""
        for name in list(self._toxics):
            self.remove_toxic(name)

    def change_links(self, change: LinksChange) -> None:
        """Let the directions go through other links from now on; open connections too.

        What is under way on a link whose conditions change keeps its order and loses nothing.
        """
        for direction in self.links.change(change):
            self._for_pipes(direction, partial(Pipe.set_link, link=self.links.channel(direction)))

    def _stream(self, direction: Direction) -> tuple[Toxic, ...]:
        return tuple(toxic for toxic in self._toxics.values() if toxic.stream == direction)

    def _for_pipes(self, direction: Direction, act: Callable[[Pipe], None]) -> None:
        index = DIRECTIONS.index(direction)
        for connection in list(self._connections.values()):
            if connection.pipes is not None:
                act(connection.pipes[index])

    # Connections.

    def _accept(self) -> asyncio.BaseProtocol:
        if not self.enabled or self._shared.connections >= self._shared.limits.max_connections:
            self.refused += 1
            return _TurnAway()
        self.accepted += 1
        self._shared.connections += 1
        self._idle.clear()
        connection = Connection(
            number=self.accepted,
            buffer=self._shared.buffer,
            upstream=self._upstream_at,
            connect_timeout_s=self._shared.limits.connect_timeout_s,
            open_pipes=self._open_pipes,
            on_gone=self._forget,
            on_failure=self._count_failure,
        )
        self._connections[connection.number] = connection
        return connection.client

    def _open_pipes(self, number: int) -> tuple[Pipe, Pipe]:
        up, down = (
            Pipe(
                name=f"proxy {self.name} connection {number} {direction}",
                seed=self._shared.seed,
                room=self._shared.room,
                metrics=self.metrics[direction],
                toxics=self._stream(direction),
                link=self.links.channel(direction),
            )
            for direction in DIRECTIONS
        )
        return up, down

    def _forget(self, number: int) -> None:
        del self._connections[number]
        self._shared.connections -= 1
        if not self._connections:
            self._idle.set()

    def _count_failure(self, reason: str) -> None:
        self.upstream_failures += 1
        log.info("proxy %s cannot connect to %s: %s", self.name, self.upstream, reason)


def _listening_socket(family: int, where: Any) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # [::] takes IPv4 too, as in Go.
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(where)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


class _TurnAway(asyncio.Protocol):
    """A client for which there is no room."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport):
            transport.abort()
