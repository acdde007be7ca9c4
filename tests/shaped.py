"""Real shaped connections for tests: servers that collect what comes, and the count of open descriptors."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any, TypeVar

from netshape import timing
from netshape.conditions import LinkConditions
from netshape.endpoints import FrameServer, serve_streams
from netshape.frames import ConnectionFailedError
from netshape.streams import Message, ShapedStream

T = TypeVar("T")
LOOPBACK = ("127.0.0.1", 0)


def run(main: Callable[[], Awaitable[T]], within_s: float = 30.0) -> T:
    """Run ``main`` on a precise loop and check that it neither hangs nor leaves a descriptor."""

    async def bounded() -> T:
        return await asyncio.wait_for(main(), within_s)

    before = open_descriptors()
    result = timing.run(bounded())
    if open_descriptors() != before:
        gc.collect()  # what an earlier test left to it; costs much in a big process
    assert open_descriptors() <= before
    return result


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


class Collected:
    """What a server's streams received."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.released_s: list[float] = []
        self.ends: list[ConnectionFailedError | None] = []
        self.streams: list[ShapedStream] = []
        self.changed = asyncio.Event()

    async def take(self, stream: ShapedStream) -> None:
        self.streams.append(stream)
        error = None
        try:
            async for message in stream:
                self.released_s.append(monotonic())
                self.messages.append(message)
        except ConnectionFailedError as failed:
            error = failed
        self.ends.append(error)
        self.changed.set()

    async def ended(self, count: int = 1) -> None:
        while len(self.ends) < count:
            self.changed.clear()
            await self.changed.wait()


@asynccontextmanager
async def collecting(address: Any = LOOPBACK, **options: Any) -> AsyncIterator[tuple[FrameServer, Collected]]:
    collected = Collected()
    server = await serve_streams(collected.take, address, **options)
    try:
        yield server, collected
    finally:
        await server.close()


def at(rate: float = float("inf"), latency: float = 0.0, **more: Any) -> LinkConditions:
    return LinkConditions(bandwidth_bytes_per_s=rate, latency_s=latency, **more)
