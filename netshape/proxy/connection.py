"""One client's connection through a proxy: two sockets and a pipe each way."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable

from netshape.proxy.addresses import LOOPBACK, Address
from netshape.proxy.pipe import Pipe
from netshape.proxy.stages import End

READ_BYTES = 64 << 10
WRITE_BUFFER_BYTES = 64 << 10
"""Unsent bytes of a socket past which its pipe stops."""
LINGER_S = 1.0
"""How long a peer that has been told of the close may take no bytes before it is cut off."""
KEEPALIVE_S = 15
"""Silence after which a peer is asked whether it is still there, and between the three times that it is asked."""
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


def _keep_alive(sock: socket.socket) -> None:
    """Have the kernel find out that a silent peer is gone."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)


def read_buffer() -> memoryview:
    """A buffer for all sockets of one event loop: what is read is copied out before the next socket is read."""
    return memoryview(bytearray(READ_BYTES))


class Endpoint(asyncio.BufferedProtocol):
    """One peer's socket.

    Args:
        buffer: Where to read to; see :func:`read_buffer`.
        on_made: Called when the socket is connected.
        on_lost: Called with the endpoint and the error, if there was one, when it is gone.

    Attributes:
        transport: ``None`` before the socket is connected.
        inward: Pipe that takes what the peer sends.
        outward: Pipe whose bytes go to the peer.
        eof: Whether the peer has said that it sends nothing more.
        closing: Whether the peer has been told of the close; what it still sends is thrown away.
        lost: Whether the socket is gone.
    """

    def __init__(
        self,
        buffer: memoryview,
        on_made: Callable[[], None],
        on_lost: Callable[[Endpoint, Exception | None], None],
    ) -> None:
        self.transport: asyncio.Transport | None = None
        self.inward: Pipe | None = None
        self.outward: Pipe | None = None
        self.eof = self.closing = self.lost = False
        self._buffer = buffer
        self._on_made = on_made
        self._on_lost = on_lost
        self._held = False
        self._linger: asyncio.TimerHandle | None = None
        self._unsent_bytes = 0
        self._broken: OSError | None = None

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is connected; nothing is read before the pipes are open."""
        if not isinstance(transport, asyncio.Transport):
            raise AssertionError("a TCP connection has a two-way transport")
        self.transport = transport
        transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        transport.pause_reading()
        self._held = True
        _keep_alive(transport.get_extra_info("socket"))
        self._on_made()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where to read to."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes from the peer."""
        if not self.closing and self.inward is not None:
            self.inward.feed(bytes(self._buffer[:nbytes]))

    def eof_received(self) -> bool:
        """The peer sends nothing more; the socket stays open for what it is still to get."""
        self.eof = True
        if self.closing:
            return False
        if self.inward is not None:
            self.inward.feed_end(End.HALF)
        return True

    def pause_writing(self) -> None:
        """The peer reads too slowly."""
        if self.outward is not None:
            self.outward.block(True)

    def resume_writing(self) -> None:
        """The peer has caught up."""
        if self.outward is not None:
            self.outward.block(False)

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self.lost = True
        if self._linger is not None:
            self._linger.cancel()
        self._on_lost(self, exc or self._broken)

    # What the connection calls.

    def write(self, data: bytes) -> bool:
        """Send to the peer; whether it could be."""
        if self.transport is None or self.lost or self.transport.is_closing():
            return False
        self.transport.write(data)
        return True

    def hold(self, held: bool) -> None:
        """Read nothing for now, or go on reading."""
        if self.transport is None or held == self._held or self.eof or self.closing or self.lost:
            return
        self._held = held
        if held:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def end(self, how: End) -> None:
        """Tell the peer that nothing more comes."""
        if self.transport is None or self.lost:
            return
        if how is End.RESET:
            self.abort(reset=True)
        elif how is End.HALF:
            self._shut_down()
        elif not self.closing:
            self.closing = True
            if self.eof:
                self.transport.close()
            else:
                # Closing with unread bytes in the socket would reset it, and what was sent could be lost.
                self._shut_down()
                self.transport.resume_reading()
            self._wait_for_peer()

    def abort(self, *, reset: bool) -> None:
        """Close now, unsent bytes or not; with a RST if ``reset``."""
        if self.transport is None or self.lost:
            return
        if reset:
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.transport.abort()

    def _shut_down(self) -> None:
        if self.transport is None:
            return
        try:
            self.transport.write_eof()
        except OSError as error:
            # The peer has reset the connection and nobody was reading: there is nothing left to shut down.
            self._broken = error
            self.transport.abort()

    def _wait_for_peer(self) -> None:
        transport = self.transport
        if transport is None or self.lost:
            return
        loop = asyncio.get_running_loop()
        self._unsent_bytes = transport.get_write_buffer_size()
        self._linger = loop.call_later(LINGER_S, self._look_at_peer)

    def _look_at_peer(self) -> None:
        transport = self.transport
        if transport is None or self.lost:
            return
        unsent = transport.get_write_buffer_size()
        if not unsent:
            transport.close()
        elif unsent >= self._unsent_bytes:
            transport.abort()
        else:
            self._wait_for_peer()


class Connection:
    """A client, its upstream and the pipes between them.

    Args:
        number: Of the connection within the proxy, from 1.
        buffer: Where its sockets read to.
        upstream: Where to connect to.
        connect_timeout_s: How long that may take.
        open_pipes: Makes the pipes upstream and downstream of a connection by its number.
        on_gone: Told when both sockets are gone.
        on_failure: Told when the upstream cannot be reached.
    """

    def __init__(
        self,
        *,
        number: int,
        buffer: memoryview,
        upstream: Address,
        connect_timeout_s: float,
        open_pipes: Callable[[int], tuple[Pipe, Pipe]],
        on_gone: Callable[[int], None],
        on_failure: Callable[[str], None],
    ) -> None:
        self.number = number
        self.client = Endpoint(buffer, self._client_made, self._lost)
        self.server = Endpoint(buffer, lambda: None, self._lost)
        self.pipes: tuple[Pipe, Pipe] | None = None
        self._upstream = upstream
        self._connect_timeout_s = connect_timeout_s
        self._open_pipes = open_pipes
        self._on_gone = on_gone
        self._on_failure = on_failure
        self._connecting: asyncio.Task[None] | None = None
        self._aborted = self._gone = False

    @property
    def held_bytes(self) -> int:
        """Bytes inside the pipes and in the sockets' write buffers."""
        held = sum(pipe.held_bytes for pipe in self.pipes) if self.pipes is not None else 0
        for endpoint in (self.client, self.server):
            if endpoint.transport is not None and not endpoint.lost:
                held += endpoint.transport.get_write_buffer_size()
        return held

    def abort(self, *, reset: bool = False) -> None:
        """Close both sockets now."""
        self._aborted = True
        if self._connecting is not None:
            self._connecting.cancel()
        for pipe in self.pipes or ():
            pipe.close()
        self.client.abort(reset=reset)
        self.server.abort(reset=reset)

    def _client_made(self) -> None:
        if self._aborted:
            self.client.abort(reset=False)
            return
        self._connecting = asyncio.get_running_loop().create_task(self._connect(), name=f"connect {self.number}")

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                await loop.create_connection(lambda: self.server, self._upstream.host or LOOPBACK, self._upstream.port)
        except (OSError, UnicodeError, TimeoutError) as error:
            self._on_failure(str(error) or type(error).__name__)
            self.client.abort(reset=False)
            return
        finally:
            self._connecting = None
        if self.client.lost:
            self.server.abort(reset=False)
            return
        self._open()

    def _open(self) -> None:
        up, down = self.pipes = self._open_pipes(self.number)
        self.client.inward = self.server.outward = up
        self.server.inward = self.client.outward = down
        up.connect(self.server.write, lambda how: self._ended(up, self.client, self.server, how), self.client.hold)
        down.connect(self.client.write, lambda how: self._ended(down, self.server, self.client, how), self.server.hold)

    def _ended(self, pipe: Pipe, near: Endpoint, far: Endpoint, how: End) -> None:
        """The stream from ``near`` to ``far`` has come to its end at ``far``."""
        if how is End.RESET:
            self.abort(reset=True)
            return
        back = far.inward
        if back is None:
            raise AssertionError("a pipe ended that was never open")
        if how is End.CLOSE:
            far.end(End.CLOSE)
            back.feed_end(End.CLOSE)
        elif back.ended is None:
            far.end(End.HALF)
        else:
            far.end(End.CLOSE)
            near.end(End.CLOSE)

    def _lost(self, endpoint: Endpoint, error: Exception | None) -> None:
        other = self.server if endpoint is self.client else self.client
        if endpoint.outward is not None:
            endpoint.outward.close()
        if error is not None and not endpoint.closing and endpoint.inward is not None:
            # What came before the reset goes on first.
            endpoint.inward.feed_end(End.RESET)
        if not self._gone and (other.lost or other.transport is None):
            self._gone = True
            for pipe in self.pipes or ():
                pipe.close()
            self._on_gone(self.number)
