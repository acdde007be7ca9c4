"""What shaping costs: messages/s and Gbit/s per core of the shaped path against unshaped asyncio.

Run with ``python -m pytest tests/benchmarks/test_shaping_capacity.py -m benchmark -s``. Sender and receiver share one
process and one event loop, so a figure per CPU second is one per core and holds both ends. The unshaped path is a raw
``asyncio.Protocol`` (and, beside it, a ``BufferedProtocol`` that copies nothing) with frames of a length and a payload,
the same socket buffers and the same back pressure. The two take turns in the same run.
"""

from __future__ import annotations

import asyncio
import statistics
import struct
from collections.abc import Awaitable, Callable
from time import monotonic, process_time
from typing import Any

import pytest

from netshape import timing
from netshape.conditions import LinkConditions
from netshape.endpoints import FrameServer, listen, open_stream
from netshape.frame_handler import FrameHandler
from netshape.link_metrics import LinkMetrics
from netshape.shaped_link import ShapedLink
from netshape.sockets import DEFAULT_OPTIONS
from netshape.streams import ShapedStream

pytestmark = pytest.mark.benchmark

ROUNDS = 7
LENGTH = struct.Struct("<I")
WRITE_HIGH_BYTES = 1 << 20


class Counter:
    """Counts messages of all receivers, and tells when the last is there."""

    def __init__(self, wanted: int) -> None:
        self.left = wanted
        self.all: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def count(self, payload: bytes | memoryview) -> None:
        self.left -= 1
        if not self.left:
            self.all.set_result(None)


class PlainReceiver(asyncio.Protocol):
    def __init__(self, counter: Counter) -> None:
        self.counter = counter
        self.buffer = bytearray()

    def data_received(self, data: bytes) -> None:
        buffer = self.buffer
        buffer += data
        start, end = 0, len(buffer)
        while end - start >= LENGTH.size:
            (length,) = LENGTH.unpack_from(buffer, start)
            if end - start - LENGTH.size < length:
                break
            start += LENGTH.size
            self.counter.count(bytes(memoryview(buffer)[start : start + length]))
            start += length
        del buffer[:start]


class BufferedReceiver(asyncio.BufferedProtocol):
    def __init__(self, counter: Counter) -> None:
        self.counter = counter
        self.view = memoryview(bytearray(1 << 20))
        self.start = self.end = 0

    def get_buffer(self, sizehint: int) -> memoryview:
        begun = self.end - self.start
        if not begun:
            self.start = self.end = 0
        elif len(self.view) - self.end < 1 << 16:
            self.view[:begun] = bytes(self.view[self.start : self.end])
            self.start, self.end = 0, begun
        return self.view[self.end :]

    def buffer_updated(self, nbytes: int) -> None:
        self.end += nbytes
        start = self.start
        while self.end - start >= LENGTH.size:
            (length,) = LENGTH.unpack_from(self.view, start)
            if self.end - start - LENGTH.size < length:
                break
            start += LENGTH.size
            self.counter.count(self.view[start : start + length])
            start += length
        self.start = start


class PlainSender(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES)
        self.writable = asyncio.Event()
        self.writable.set()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    async def send(self, payload: bytes) -> None:
        if not self.writable.is_set():
            await self.writable.wait()
        self.transport.write(LENGTH.pack(len(payload)) + payload)


class ShapedReceiver(FrameHandler):
    def __init__(self, counter: Counter) -> None:
        self.counter = counter

    def on_frame(self, header: memoryview, payload: memoryview, planned_s: float, arrived_s: float) -> None:
        self.counter.count(payload)


async def timed(sends: list[Callable[[bytes], Awaitable[Any]]], payload: bytes, count: int, counter: Counter) -> float:
    """CPU seconds until ``count`` messages by each sender have been received."""

    async def fill(send: Callable[[bytes], Awaitable[Any]]) -> None:
        for _ in range(count):
            await send(payload)

    cpu = process_time()
    await asyncio.gather(*(fill(send) for send in sends))
    await counter.all
    return process_time() - cpu


async def unshaped(receiver: type, links: int, payload: bytes, count: int) -> float:
    loop = asyncio.get_running_loop()
    counter = Counter(links * count)
    server = await loop.create_server(lambda: receiver(counter), "127.0.0.1", 0, backlog=1024)
    DEFAULT_OPTIONS.apply(server.sockets[0])
    senders: list[PlainSender] = []
    for _ in range(links):
        transport, sender = await loop.create_connection(PlainSender, *server.sockets[0].getsockname())
        DEFAULT_OPTIONS.apply(transport.get_extra_info("socket"))
        senders.append(sender)
    taken = await timed([sender.send for sender in senders], payload, count, counter)
    for sender in senders:
        sender.transport.close()
    server.close()
    return taken


async def shaped_streams(
    links: int, counter: Counter, conditions: LinkConditions, metrics: LinkMetrics
) -> tuple[FrameServer, list[ShapedStream]]:
    server = await listen(lambda: ShapedReceiver(counter), ("127.0.0.1", 0), metrics_for=lambda: metrics)
    links_made = [ShapedLink(conditions, name=f"link {index}") for index in range(links)]
    return server, [await open_stream(server.address, link) for link in links_made]


async def shaped(conditions: LinkConditions, links: int, payload: bytes, count: int) -> float:
    counter = Counter(links * count)
    server, streams = await shaped_streams(links, counter, conditions, LinkMetrics())
    taken = await timed([stream.send for stream in streams], payload, count, counter)
    for stream in streams:
        stream.abort()
    await server.close()
    return taken


# As fast as it goes, yet every message is planned, held for its latency and released by the timer.
FAST = LinkConditions(bandwidth_bytes_per_s=1e13, latency_s=0.001)
PATHS: dict[str, Callable[[int, bytes, int], Any]] = {
    "unshaped Protocol": lambda *run: unshaped(PlainReceiver, *run),
    "unshaped BufferedProtocol": lambda *run: unshaped(BufferedReceiver, *run),
    "shaped": lambda *run: shaped(FAST, *run),
}


@pytest.mark.parametrize(
    ("links", "size", "count"), [(1, 1 << 10, 20_000), (1, 1 << 14, 10_000), (1, 1 << 18, 1000), (600, 1 << 14, 100)]
)
def test_shaped_against_unshaped(links: int, size: int, count: int) -> None:
    payload = bytes(size)
    taken: dict[str, list[float]] = {name: [] for name in PATHS}
    for _ in range(ROUNDS):
        for name, path in PATHS.items():
            taken[name].append(timing.run(path(links, payload, count)))
    print(f"\n{links} links, messages of {size} bytes, {links * count} a round, median of {ROUNDS} rounds")
    messages = {name: links * count / statistics.median(times) for name, times in taken.items()}
    for name, rate in messages.items():
        shares = ", ".join(f"{rate / messages[other]:.0%} of {other}" for other in PATHS if other != name)
        print(f"  {name:26s} {rate:9.0f} messages/s {rate * size * 8e-9:7.2f} Gbit/s per core; {shares}")
    # A wide margin for machines that others use; the target for 16 KiB is 80 %.
    assert messages["shaped"] > 0.25 * messages["unshaped Protocol"]


@pytest.mark.parametrize(("mbit", "size"), [(0.25, 1 << 10), (1.0, 1 << 12), (2.0, 1 << 14), (2.0, 1 << 12)])
def test_600_links_at_their_rate(mbit: float, size: int) -> None:
    """600 links, each kept busy at its rate, in one loop: what they deliver, how late, at how much of a core.

    With real-time scheduling where it is permitted, or the figures would be those of the machine's other jobs.
    """
    links, seconds = 600, 4.0
    conditions = LinkConditions(bandwidth_bytes_per_s=mbit * 125_000, latency_s=0.02)
    count = int(seconds * conditions.bandwidth_bytes_per_s / size)

    async def main() -> tuple[float, float, LinkMetrics]:
        counter, metrics = Counter(links * count), LinkMetrics()
        server, streams = await shaped_streams(links, counter, conditions, metrics)
        begin = monotonic()
        cpu = await timed([stream.send for stream in streams], bytes(size), count, counter)
        wall = monotonic() - begin
        for stream in streams:
            stream.abort()
        await server.close()
        return cpu, wall, metrics

    with timing.realtime_scheduling() as scheduling:
        cpu, wall, metrics = timing.run(main())
    ideal = count * size / conditions.bandwidth_bytes_per_s + conditions.latency_s
    assert wall >= ideal
    late = {name: f"{value * 1e3:.2f}" for name, value in metrics.lateness.report().items()}
    total = links * mbit / 1000
    kind = "real-time" if scheduling.realtime else f"stock ({scheduling.reason})"
    print(
        f"\n{kind} scheduling, 600 links of {mbit} Mbit/s ({total:.2f} Gbit/s), messages of {size} bytes: "
        f"{links * count / wall:.0f} messages/s, {ideal / wall - 1:+.2%} of the ideal rate, "
        f"{cpu / wall:.0%} of a core, late by ms {late}"
    )
