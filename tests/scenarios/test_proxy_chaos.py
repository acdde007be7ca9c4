"""Clients of every temper, every toxic, links and restarts at once; then all is accounted for."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import struct

from netshape.conditions import IndependentLoss, Jitter, LinkConditions
from netshape.proxy.bodies import ProxyBody, read_new_proxy, read_new_toxic
from netshape.proxy.links import Link, LinksChange
from netshape.proxy.proxy import Limits
from netshape.proxy.store import ProxyStore
from netshape.proxy.toxics import TOXICS

SECONDS = 3.0
CLIENTS = 24
_RESET = struct.pack("ii", 1, 0)


def attributes(kind: str, draw: random.Random) -> dict[str, int]:
    sizes = {
        "average_size": draw.randrange(50, 5000),
        "size_variation": draw.randrange(50),
        "delay": draw.randrange(2000),
    }
    return {
        "latency": {"latency": draw.randrange(100), "jitter": draw.randrange(100)},
        "bandwidth": {"rate": draw.choice([0, 1, 50, 5000])},
        "slow_close": {"delay": draw.randrange(300)},
        "timeout": {"timeout": draw.choice([0, 1, 200])},
        "reset_peer": {"timeout": draw.choice([0, 1, 200])},
        "slicer": sizes,
        "limit_data": {"bytes": draw.randrange(100_000)},
        "noop": {},
    }[kind]


class Chaos:
    """A store, an upstream, clients and somebody who changes everything."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.store = ProxyStore(seed=seed, limits=Limits(max_connections=100, connect_timeout_s=1.0))
        self.visits = 0
        self.changes = 0
        self.over = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                if self.draw.random() < 0.2:
                    await writer.drain()
                if self.draw.random() < 0.01:
                    self.reset(writer)
        writer.close()

    def reset(self, writer: asyncio.StreamWriter) -> None:
        sock = writer.get_extra_info("socket")
        if not writer.transport.is_closing() and sock.fileno() >= 0:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        writer.transport.abort()

    async def client(self) -> None:
        while not self.over:
            listen = self.store.get("chaos").listen
            host, _, port = listen.rpartition(":")
            try:
                reader, writer = await asyncio.open_connection(host, int(port))
            except OSError:
                await asyncio.sleep(0.01)
                continue
            with contextlib.suppress(OSError, TimeoutError):
                await self.visit(reader, writer)
            if self.draw.random() < 0.3:
                self.reset(writer)
            writer.close()
            self.visits += 1

    async def visit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(self.draw.random()):
            for _ in range(self.draw.randrange(8)):
                writer.write(bytes(self.draw.randrange(1, 60_000)))
                if self.draw.random() < 0.5:
                    await writer.drain()
                if self.draw.random() < 0.5:
                    await reader.read(30_000)
            if self.draw.random() < 0.5:
                writer.write_eof()
                while await reader.read(65536):
                    continue

    async def change(self) -> None:
        draw, proxy = self.draw, self.store.get("chaos")
        act = draw.randrange(12)
        names = [toxic.name for toxic in proxy.toxics]
        if act < 5 and len(names) < 5:
            kind = draw.choice(list(TOXICS))
            body = {
                "type": kind,
                "name": str(self.changes),
                "stream": draw.choice(["upstream", "downstream"]),
                "toxicity": draw.choice([0.3, 1.0]),
                "attributes": attributes(kind, draw),
            }
            await self.store.add_toxic("chaos", read_new_toxic(body))
        elif act < 8 and names:
            await self.store.remove_toxic("chaos", draw.choice(names))
        elif act == 8:
            conditions = LinkConditions(
                bandwidth_bytes_per_s=draw.choice([1e4, 1e6, 1e8]),
                latency_s=draw.choice([0.0, 0.02]),
                jitter=draw.choice([None, Jitter(spread_s=0.01)]),
                loss=draw.choice([None, IndependentLoss(probability=0.01)]),
                up=draw.random() < 0.8,
            )
            link = draw.choice([None, Link(conditions=conditions)])
            proxy.change_links(LinksChange(links={draw.choice(["upstream", "downstream"]): link}))
        elif act == 9:
            await self.store.update("chaos", ProxyBody(enabled=False))
            await self.store.update("chaos", ProxyBody(enabled=True))
        elif act == 10:
            await self.store.reset()
        self.changes += 1


async def test_after_chaos_everything_is_accounted_for() -> None:
    def complain(loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        complaints.append(context)

    complaints: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(complain)
    chaos = Chaos(11)
    before = len(os.listdir("/proc/self/fd"))
    async with asyncio.timeout(120):
        server = await asyncio.start_server(chaos.serve, "127.0.0.1", 0)
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        proxy = await chaos.store.create(read_new_proxy({"name": "chaos", "upstream": address}))
        clients = [asyncio.create_task(chaos.client()) for _ in range(CLIENTS)]
        end = asyncio.get_running_loop().time() + SECONDS
        while asyncio.get_running_loop().time() < end:
            await chaos.change()
            await asyncio.sleep(0.01)
        chaos.over = True
        await chaos.store.reset()
        proxy.change_links(LinksChange(links={"upstream": None, "downstream": None}))
        await asyncio.gather(*clients)
        # Without toxics and links every connection whose client is gone ends by itself.
        while proxy.open_connections:
            await asyncio.sleep(0.01)
        assert proxy.held_bytes == 0
        assert chaos.store.idle
        for direction in ("upstream", "downstream"):
            metrics = proxy.metrics[direction]
            assert metrics.received_bytes == metrics.sent_bytes + metrics.dropped_bytes
        await chaos.store.close()
        server.close()
        while len(os.listdir("/proc/self/fd")) > before:
            await asyncio.sleep(0.01)
    assert complaints == []
    assert chaos.changes > 20
    assert chaos.visits > CLIENTS
