"""Slow readers: the proxy holds a bounded number of bytes, and a reader that goes on gets them all."""

import asyncio
import hashlib
import socket
from collections.abc import AsyncIterator

import pytest

from netshape.proxy.bodies import read_new_proxy, read_new_toxic
from netshape.proxy.connection import READ_BYTES, WRITE_BUFFER_BYTES
from netshape.proxy.proxy import Proxy
from netshape.proxy.room import MOST_SHARE_BYTES, Room
from netshape.proxy.store import ProxyStore

ROOM_BYTES = 1 << 20
DATA = bytes(range(256)) * 65_536  # 16 MiB
TIMEOUT_S = 120.0


@pytest.fixture
async def store() -> AsyncIterator[ProxyStore]:
    store = ProxyStore(room=Room(ROOM_BYTES))
    yield store
    await store.close()


async def serve_data(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(DATA)
    await writer.drain()
    writer.close()


async def slow_client(proxy: Proxy) -> socket.socket:
    """A connected client with a small receive buffer that does not read."""
    host, _, port = proxy.listen.rpartition(":")
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    client.setblocking(False)
    await asyncio.get_running_loop().sock_connect(client, (host, int(port)))
    return client


async def settled(proxy: Proxy) -> int:
    """Held bytes once no more come in, and the most seen on the way."""
    most, before = 0, -1
    while before != (received := proxy.metrics["downstream"].received_bytes) or not received:
        before = received
        for _ in range(20):
            await asyncio.sleep(0.01)
            most = max(most, proxy.held_bytes)
    return most


@pytest.mark.parametrize(
    ("toxics", "most_bytes"),
    [
        ([], WRITE_BUFFER_BYTES + READ_BYTES),
        ([{"type": "latency", "attributes": {"latency": 150}}], ROOM_BYTES // 2 + WRITE_BUFFER_BYTES + 2 * READ_BYTES),
        ([{"type": "latency", "attributes": {"latency": 86_400_000}}], ROOM_BYTES // 2 + READ_BYTES),
        ([{"type": "bandwidth", "attributes": {"rate": 1000}}], WRITE_BUFFER_BYTES + 2 * READ_BYTES),
        ([{"type": "bandwidth", "attributes": {"rate": 0}}], 2 * READ_BYTES),
        ([{"type": "slicer", "attributes": {"average_size": 100, "delay": 1000}}], WRITE_BUFFER_BYTES + 2 * READ_BYTES),
    ],
)
async def test_a_client_that_does_not_read_has_few_bytes_held(
    store: ProxyStore, toxics: list[dict[str, object]], most_bytes: int
) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        server = await asyncio.start_server(serve_data, "127.0.0.1", 0)
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        proxy = await store.create(read_new_proxy({"name": "slow", "upstream": address}))
        for toxic in toxics:
            await store.add_toxic("slow", read_new_toxic(toxic))
        client = await slow_client(proxy)
        most = await settled(proxy)
        assert 0 < most <= most_bytes
        # The client wakes up, the toxics go, and every byte is there.
        proxy.remove_all_toxics()
        reader, writer = await asyncio.open_connection(sock=client)
        got = await reader.read(-1)
        writer.close()
        server.close()
    assert hashlib.sha256(got).digest() == hashlib.sha256(DATA).digest()


async def test_many_pipes_share_the_room() -> None:
    room = Room(16 << 20)
    assert room.share_bytes == 16 << 20 < MOST_SHARE_BYTES
    for _ in range(64):
        room.enter()
    assert room.share_bytes == (16 << 20) // 64
    for _ in range(10_000):
        room.enter()
    assert room.share_bytes == 64 << 10
