"""What goes wrong with connections: nothing hangs, what survives loses nothing, memory and descriptors come back."""

import asyncio
import os
import random
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic

import pytest
from shaped import LOOPBACK, at, collecting, run

from netshape.endpoints import open_stream, serve_streams
from netshape.frame_connection import FrameConnection
from netshape.frames import (
    HEADER,
    VERSION,
    ConnectionFailedError,
    FrameLimits,
    Kind,
    MalformedFrameError,
    PeerLostError,
    PeerSilentError,
    hello,
    packed,
)
from netshape.link_metrics import LinkMetrics
from netshape.shaped_link import ShapedLink
from netshape.slabs import MAX_SLAB_BYTES
from netshape.streams import ShapedStream

PEER = Path(__file__).parents[2] / "frame_peer.py"
ROOT = PEER.parents[1]


@asynccontextmanager
async def peer_process(port: int, mode: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A peer in its own process, which has said that it is ready; killed at the end."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(PEER), str(port), mode, env=environment, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        assert await process.stdout.readline() == b"ready\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def raw(address: object, *parts: bytes) -> socket.socket:
    """A plain socket to a server, after sending ``parts``."""
    sock = socket.socket()
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, address)
    for part in parts:
        await loop.sock_sendall(sock, part)
    return sock


async def closes(sock: socket.socket) -> None:
    """Wait until the other side has closed ``sock``."""
    loop = asyncio.get_running_loop()
    try:
        while await loop.sock_recv(sock, 1 << 16):
            pass
    except ConnectionResetError:
        pass
    sock.close()


def data(payload: bytes, planned_s: float = 0.0) -> bytes:
    return HEADER.pack(len(payload), 0, Kind.DATA, VERSION, planned_s, 0.0, 0.0) + payload


def test_a_peer_killed_in_the_middle_of_a_frame() -> None:
    async def main() -> None:
        async with collecting() as (server, collected):
            survivor = await open_stream(server.address, ShapedLink(at(1e6, 0.02)))
            async with peer_process(server.address[1], "cut") as process:
                for number in range(5):
                    await survivor.send(b"survivor %d" % number)
                process.send_signal(signal.SIGKILL)
                await process.wait()
            await collected.ended()
            for number in range(5, 10):
                await survivor.send(b"survivor %d" % number)
            await survivor.close()
            await collected.ended(2)
            (error,) = (end for end in collected.ends if end is not None)
            assert isinstance(error, PeerLostError)
            assert "in the middle of a frame (500 bytes of it)" in str(error)
            got = [message.payload for message in collected.messages]
            assert [payload for payload in got if payload.startswith(b"m")] == [b"message %d" % n for n in range(3)]
            assert [payload for payload in got if payload.startswith(b"s")] == [b"survivor %d" % n for n in range(10)]
            released = zip(collected.messages, collected.released_s, strict=True)
            assert all(time >= message.planned_s for message, time in released)
            assert (server.counts.opened, server.counts.closed, server.counts.failed) == (2, 1, 1)

    run(main)


def test_a_peer_that_stops_is_found_out_and_one_that_idles_is_not() -> None:
    async def main() -> None:
        limits = FrameLimits(heartbeat_s=0.05, silence_s=0.5)
        ours: list[ShapedStream] = []
        failed: list[ConnectionFailedError] = []

        async def flood(stream: ShapedStream) -> None:
            ours.append(stream)
            try:
                while True:
                    await stream.send(bytes(1 << 16))
                    await asyncio.sleep(0)
            except ConnectionFailedError as error:
                failed.append(error)

        async with collecting(limits=limits) as (quiet_server, collected):
            server = await serve_streams(flood, LOOPBACK, limits=limits)
            idle = await open_stream(quiet_server.address, limits=limits)
            async with peer_process(server.address[1], "idle") as process:
                await asyncio.sleep(0.8)
                assert failed == []
                process.send_signal(signal.SIGSTOP)
                while not failed:
                    await asyncio.sleep(0.01)
                assert isinstance(failed[0], PeerSilentError)
                assert "nothing from the peer for 0.5 s" in str(failed[0])
            await idle.send(b"still here after a long silence")
            await idle.close()
            await collected.ended()
            assert len(collected.messages) == 1
            await server.close()

    run(main)


def test_a_peer_that_never_greets_is_sent_away() -> None:
    async def main() -> None:
        async with collecting(limits=FrameLimits(handshake_s=0.1)) as (server, collected):
            sock = await raw(server.address)
            await closes(sock)
            half = await raw(server.address, hello(b"x")[:20])
            await closes(half)
            assert collected.streams == []
            assert (server.counts.opened, server.counts.failed, server.counts.malformed) == (2, 2, 0)

    run(main)


def test_a_slow_reader_holds_its_sender_back_and_memory_is_bounded() -> None:
    async def main() -> None:
        limits = FrameLimits(max_held_bytes=1 << 20)
        most = 0
        got: list[int] = []
        done = asyncio.Event()

        async def read_slowly(stream: ShapedStream) -> None:
            nonlocal most
            async for message in stream:
                most = max(most, held_bytes(stream.connection))
                got.append(int(message.payload[:6]))
                if len(got) % 50 == 0:
                    await asyncio.sleep(0.003)
            done.set()

        server = await serve_streams(read_slowly, LOOPBACK, limits=limits)
        stream = await open_stream(server.address, ShapedLink(at(latency=0.001)))
        for number in range(3000):
            await stream.send(b"%06d" % number + bytes(20_000))
        await stream.close()
        await done.wait()
        assert got == list(range(3000))
        # 60 MB were sent. The limit may be passed by what one read from the socket brings.
        assert most <= (1 << 20) + MAX_SLAB_BYTES
        await server.close()

    run(main)


def held_bytes(connection: FrameConnection) -> int:
    return connection._held.held_bytes + connection.queued_bytes


def test_a_reader_that_never_reads_stops_its_sender() -> None:
    async def main() -> None:
        limits = FrameLimits(max_held_bytes=1 << 20)
        streams: list[ShapedStream] = []

        async def ignore(stream: ShapedStream) -> None:
            streams.append(stream)
            await asyncio.sleep(60)

        server = await serve_streams(ignore, LOOPBACK, limits=limits)
        stream = await open_stream(server.address, ShapedLink(at(latency=0.001)))
        sent = 0

        async def flood() -> None:
            nonlocal sent
            while True:
                await stream.send(bytes(1 << 16))
                sent += 1 << 16

        flooding = asyncio.ensure_future(flood())
        before = -1
        while sent != before:
            before = sent
            await asyncio.sleep(0.2)
        assert held_bytes(streams[0].connection) <= (1 << 20) + MAX_SLAB_BYTES
        assert sent < 64 << 20
        flooding.cancel()
        stream.abort()
        await stream.closed()
        await server.close()

    run(main)


def test_ten_thousand_short_connections() -> None:
    async def main() -> None:
        async def echo(stream: ShapedStream) -> None:
            async for message in stream:
                await stream.send(message.payload)

        server = await serve_streams(echo, LOOPBACK)
        link = ShapedLink(at(latency=0.001))
        numbers = iter(range(10_000))
        echoed = []

        async def come_and_go() -> None:
            for number in numbers:
                stream = await open_stream(server.address, link)
                await stream.send(b"%d" % number)
                stream.finish()
                message = await stream.receive()
                assert message is not None
                echoed.append(int(message.payload))
                await stream.close()

        await asyncio.gather(*(come_and_go() for _ in range(50)))
        assert sorted(echoed) == list(range(10_000))
        while server.connections:
            await asyncio.sleep(0.001)
        assert (server.counts.opened, server.counts.closed, server.counts.failed) == (10_000, 10_000, 0)
        assert link._listeners == []
        await server.close()

    run(main, within_s=240)


@pytest.mark.parametrize("seed", [1, 2])
def test_live_changes_under_load_lose_and_reorder_nothing(seed: int) -> None:
    async def main() -> None:
        rng = random.Random(seed)
        got: dict[bytes, list[int]] = {}
        early: list[float] = []
        done = asyncio.Semaphore(0)
        metrics: list[LinkMetrics] = []

        async def take(stream: ShapedStream) -> None:
            numbers = got.setdefault(stream.greeting, [])
            async for message in stream:
                numbers.append(int(message.header))
                early.append(monotonic() - message.planned_s)
                assert len(message.payload) == int(message.header) * 37 % 20_000
            done.release()

        def counted() -> LinkMetrics:
            metrics.append(LinkMetrics())
            return metrics[-1]

        server = await serve_streams(take, LOOPBACK, metrics_for=counted)
        links = [ShapedLink(at(2e6, 0.005), name=f"link {index}", seed=seed) for index in range(3)]
        # Two streams share the first link.
        streams = [await open_stream(server.address, links[index // 2], greeting=b"%d" % index) for index in range(4)]

        async def fill(stream: ShapedStream) -> None:
            for number in range(300):
                await stream.send(bytes(number * 37 % 20_000), b"%d" % number)
            await stream.close()

        moved = 0

        async def change() -> None:
            nonlocal moved
            while True:
                await asyncio.sleep(rng.uniform(0, 0.01))
                link = rng.choice(links)
                replan = link.set(
                    at(rng.choice([2e5, 1e6, 2e7, 1e9]), rng.choice([0.0, 0.001, 0.02]), up=rng.random() < 0.8)
                )
                moved += len(replan.arrivals_s)

        changing = asyncio.ensure_future(change())
        await asyncio.sleep(0)
        filling = asyncio.gather(*(fill(stream) for stream in streams))
        await asyncio.wait([filling], timeout=3.0)
        changing.cancel()
        for link in links:
            link.set(at(1e8, 0.001))
        await filling
        for _ in streams:
            await done.acquire()
        assert got == {b"%d" % index: list(range(300)) for index in range(4)}
        assert min(early) >= 0
        assert moved > 0
        assert sum(metric.messages for metric in metrics) == 1200
        await server.close()

    run(main, within_s=60)


MALFORMED = {
    "no hello": [b"GET / HTTP/1.1\r\nHost: 127.0.0.1:8474\r\nAccept: */*\r\n\r\n"],
    "data before hello": [data(b"x")],
    "two hellos": [hello(b""), hello(b"")],
    "data after the end": [hello(b""), packed(Kind.END), data(b"x")],
    "two ends": [hello(b""), packed(Kind.END), packed(Kind.END)],
    "a gigabyte": [hello(b""), HEADER.pack(1 << 30, 0, Kind.DATA, VERSION, 0.0, 0.0, 0.0)],
    "far ahead": [hello(b""), data(b"x", 1e9)],
    "a bad replan": [hello(b""), packed(Kind.REPLAN, b"xyz")],
    "bad conditions": [hello(b""), packed(Kind.CONDITIONS, b"xyz")],
    "zeros": [hello(b""), bytes(100)],
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_frames_close_their_connection_only(case: str) -> None:
    async def main() -> None:
        async with collecting() as (server, collected):
            survivor = await open_stream(server.address, ShapedLink(at(1e6, 0.005)))
            await survivor.send(b"before")
            whole = b"".join(MALFORMED[case])
            for pieces in ([whole], [whole[:10], whole[10:]]):
                sock = await raw(server.address, *pieces)
                await asyncio.wait_for(closes(sock), 5)
            await survivor.send(b"after")
            await survivor.close()
            opened = whole.startswith(hello(b""))
            await collected.ended(3 if opened else 1)
            assert [message.payload for message in collected.messages] == [b"before", b"after"]
            errors = [end for end in collected.ends if end is not None]
            # Who has read to the peer's end has read all; what comes after it is counted, but is not for the reader.
            assert len(errors) == (2 if opened and "end" not in case else 0)
            assert all(isinstance(error, MalformedFrameError) for error in errors)
            assert (server.counts.opened, server.counts.failed, server.counts.malformed) == (3, 2, 2)

    run(main)


def test_what_came_in_order_before_a_malformed_frame_is_delivered_in_time() -> None:
    async def main() -> None:
        metrics = LinkMetrics()
        async with collecting(metrics_for=lambda: metrics) as (server, collected):
            planned = monotonic() + 0.1
            sock = await raw(server.address, hello(b""), data(b"good", planned) + bytes(40))
            await closes(sock)
            await collected.ended()
            assert [message.payload for message in collected.messages] == [b"good"]
            assert collected.released_s[0] >= planned
            assert isinstance(collected.ends[0], MalformedFrameError)
            assert metrics.report()["malformed_frames"] == 1

    run(main)


def test_a_handler_that_fails_ends_its_connection_and_is_reported() -> None:
    async def main() -> None:
        problems: list[str] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: problems.append(str(context["exception"])))

        async def fail(stream: ShapedStream) -> None:
            raise ValueError("broken server")

        server = await serve_streams(fail, LOOPBACK)
        stream = await open_stream(server.address)
        with pytest.raises(PeerLostError, match="without an end frame"):
            await stream.receive()

        async def send_on() -> None:
            while True:
                await stream.send(b"x")

        with pytest.raises(ConnectionFailedError):
            await send_on()
        while server.connections:
            await asyncio.sleep(0.001)
        await server.close()

    run(main)


def test_a_server_that_closes_drops_what_is_held_for_later() -> None:
    async def main() -> None:
        async with collecting() as (server, collected):
            sock = await raw(server.address, hello(b""), data(b"in half an hour", monotonic() + 1800))
            while not collected.streams:
                await asyncio.sleep(0.001)
            sock.close()
            await asyncio.sleep(0.02)
            assert len(server.connections) == 1
        await collected.ended()
        assert server.connections == {}
        assert server.counts.failed == 1
        assert collected.messages == []

    run(main)


def test_a_flood_for_a_link_that_is_down_is_cut_off() -> None:
    async def main() -> None:
        limits = FrameLimits(max_held_bytes=1 << 16)
        async with collecting(limits=limits) as (server, collected):
            sock = await raw(server.address, hello(b""))
            loop = asyncio.get_running_loop()
            frame = data(bytes(1 << 15), float("inf"))

            async def flood() -> None:
                while True:
                    await loop.sock_sendall(sock, frame)

            with pytest.raises((ConnectionResetError, BrokenPipeError)):
                await flood()
            sock.close()
            await collected.ended()
            assert "more of them wait for a link than may be held" in str(collected.ends[0])

    run(main)
