import asyncio
import math
import statistics
import time
from pathlib import Path
from time import monotonic

import pytest
from shaped import LOOPBACK, at, collecting, run

from netshape.clock import NicClock
from netshape.conditions import IndependentLoss, Jitter
from netshape.endpoints import connect, listen, open_stream, serve_streams
from netshape.frame_connection import FrameConnection
from netshape.frame_handler import FrameHandler
from netshape.frames import (
    ConnectionFailedError,
    FrameLimits,
    MalformedFrameError,
    PeerLostError,
    SendQueueFullError,
)
from netshape.link_metrics import LinkMetrics
from netshape.schedule import ConditionSchedule, ConditionStep
from netshape.shaped_link import ShapedLink
from netshape.sockets import SocketOptions
from netshape.streams import ByteStream, ShapedStream


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_messages_arrive_in_order_when_planned_and_never_sooner(kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        metrics = LinkMetrics()
        address = LOOPBACK if kind == "tcp" else str(tmp_path / "sock")
        async with collecting(address, metrics_for=lambda: metrics) as (server, collected):
            link = ShapedLink(at(1e7, 0.02))
            stream = await open_stream(server.address, link, greeting=b"a->b")
            sent = []
            for number in range(40):
                begin = monotonic()
                payload = bytes([number]) * 10_000
                sent.append((begin, await stream.send(payload, b"number %d" % number)))
            await stream.close()
            await collected.ended()
        assert collected.streams[0].greeting == b"a->b"
        assert [message.payload[0] for message in collected.messages] == list(range(40))
        assert [message.header for message in collected.messages] == [b"number %d" % number for number in range(40)]
        for index, (message, released) in enumerate(zip(collected.messages, collected.released_s, strict=True)):
            begin, planned = sent[index]
            assert planned == message.planned_s
            assert begin + 10_008 / 1e7 + 0.02 <= planned <= released
            assert message.arrived_s <= released
        # 40 messages of 10 kB at 10 MB/s are 40 ms: never faster than the rate.
        assert collected.released_s[-1] - sent[0][0] >= 40 * 10_008 / 1e7 + 0.02
        report = metrics.report()
        assert report["configured_bytes_per_s"] == 1e7
        assert report["configured_latency_s"] == 0.02
        assert report["planned_bytes_per_s"] == pytest.approx(1e7, rel=0.002)
        assert statistics.median(b - a for (_, a), b in zip(sent, collected.released_s, strict=True)) < 0.05
        assert collected.ends == [None]
        assert (server.counts.opened, server.counts.closed, server.counts.failed) == (1, 1, 0)

    run(main)


def test_both_ways_are_shaped_each_by_its_own_link() -> None:
    async def main() -> None:
        async def echo(stream: ShapedStream) -> None:
            async for message in stream:
                await stream.send(message.payload)

        server = await serve_streams(echo, LOOPBACK, link_for=lambda name: ShapedLink(at(latency=float(name))))
        stream = await open_stream(server.address, ShapedLink(at(latency=0.03)), greeting=b"0.05")
        assert await stream.opened() == b""
        begin = monotonic()
        await stream.send(b"there and back")
        message = await stream.receive()
        assert message is not None
        assert message.payload == b"there and back"
        assert monotonic() - begin >= 0.08
        await stream.close()
        await server.close()

    run(main)


def test_a_sender_waits_for_its_link_and_goes_no_farther_than_the_horizon() -> None:
    async def main() -> None:
        async with collecting() as (server, collected):
            link = ShapedLink(at(1e6))
            stream = await open_stream(server.address, link)
            begin = monotonic()
            ahead = []
            for _ in range(30):
                await stream.send(bytes(5000))
                ahead.append(link.clock.free_s - monotonic())
            # 150 kB at 1 MB/s, of which the horizon and one message may be ahead.
            assert monotonic() - begin >= 0.15 - 0.02 - 0.005
            assert max(ahead) <= 0.025
            await stream.close()
            await collected.ended()
            assert len(collected.messages) == 30

    run(main)


def test_a_machine_that_wakes_senders_late_gets_a_farther_horizon_and_nothing_comes_early() -> None:
    async def main() -> None:
        async with collecting() as (server, collected):
            link = ShapedLink(at(1e6, 0.001))
            stream = await open_stream(server.address, link)
            assert link.horizon_s == 0.02
            begin = monotonic()
            called = []
            for number in range(100):
                if number == 20:
                    asyncio.get_running_loop().call_later(0.005, time.sleep, 0.06)  # a machine that is busy elsewhere
                called.append(monotonic())
                await stream.send(bytes(2000))
            assert 0.04 <= link.horizon_s <= 0.16
            await stream.close()
            await collected.ended()
            for number, (time_s, message) in enumerate(zip(called, collected.messages, strict=True)):
                assert message.planned_s >= max(time_s + 0.002, begin + (number + 1) * 0.002) + 0.001
            tight = ShapedLink(at(1e6, queue_limit_bytes=5000))
            assert tight.horizon_s == 0.005

    run(main)


def test_streams_that_share_a_link_share_its_rate() -> None:
    async def main() -> None:
        async with collecting() as (server, collected):
            link = ShapedLink(at(1e6))
            streams = [await open_stream(server.address, link) for _ in range(4)]
            begin = monotonic()

            async def fill(stream: ShapedStream) -> None:
                for _ in range(10):
                    await stream.send(bytes(5000))
                await stream.close()

            await asyncio.gather(*(fill(stream) for stream in streams))
            await collected.ended(4)
            assert max(collected.released_s) - begin >= 0.2
            assert len(collected.messages) == 40

    run(main)


def test_links_share_a_sending_and_a_receiving_card() -> None:
    async def main() -> None:
        card_in = NicClock(1e6)
        async with collecting(receiving_card=card_in) as (server, collected):
            begin = monotonic()
            streams = [await open_stream(server.address, ShapedLink(at(1e9))) for _ in range(2)]
            for stream in streams:
                for _ in range(5):
                    await stream.send(bytes(10_000))
            for stream in streams:
                await stream.close()
            await collected.ended(2)
            assert max(collected.released_s) - begin >= 0.1
            assert len(collected.messages) == 10
        card_out = NicClock(1e6)
        async with collecting() as (server, collected):
            begin = monotonic()
            streams = [await open_stream(server.address, ShapedLink(at(1e9), sending_card=card_out)) for _ in range(2)]
            for stream in streams:
                for _ in range(5):
                    await stream.send(bytes(10_000))
            for stream in streams:
                await stream.close()
            await collected.ended(2)
            assert max(collected.released_s) - begin >= 0.1

    run(main)


def test_jitter_and_loss_delay_but_keep_order_and_bytes() -> None:
    async def main() -> None:
        async with collecting() as (server, collected):
            harsh = at(1e8, 0.005, jitter=Jitter(spread_s=0.004), loss=IndependentLoss(probability=0.05))
            link = ShapedLink(harsh, name="a->b", seed=1)
            stream = await open_stream(server.address, link)
            for number in range(100):
                await stream.send(b"%d" % number)
            await stream.close()
            await collected.ended()
            assert [int(message.payload) for message in collected.messages] == list(range(100))
            planned = [message.planned_s for message in collected.messages]
            assert planned == sorted(planned)

    run(main)


def test_a_change_moves_the_backlog_and_loses_nothing() -> None:
    async def main() -> None:
        metrics = LinkMetrics()
        async with collecting(metrics_for=lambda: metrics) as (server, collected):
            link = ShapedLink(at(1e5, 0.01), horizon_s=10.0)
            stream = await open_stream(server.address, link)
            for number in range(20):
                await stream.send(b"%04d" % number * 2500)  # 0.1 s each, 2 s in all
            await asyncio.sleep(0.05)
            begin = monotonic()
            replan = link.set(at(1e7, 0.02))
            assert len(replan.arrivals_s) >= 19
            await stream.send(b"9999")
            await stream.close()
            await collected.ended()
            assert monotonic() - begin < 1.5
            numbers = [int(message.payload[:4]) for message in collected.messages]
            assert numbers == [*range(20), 9999]
            moved = [message.planned_s for message in collected.messages[-1 - len(replan.arrivals_s) : -1]]
            assert moved == list(replan.arrivals_s)
            released = collected.released_s
            assert all(time >= plan for time, plan in zip(released[-len(moved) - 1 : -1], moved, strict=True))
            assert metrics.report()["configured_bytes_per_s"] == 1e7
            assert metrics.report()["late_replans"] == 0

    run(main)


def test_a_link_goes_down_and_up_under_way() -> None:
    async def main() -> None:
        async with collecting() as (server, collected):
            link = ShapedLink(at(1e5))
            stream = await open_stream(server.address, link)
            await stream.send(bytes(100_000))  # 1 s
            link.set(at(1e5, up=False))
            waiting = asyncio.ensure_future(stream.send(b"held back"))
            await asyncio.sleep(0.05)
            assert not waiting.done()
            assert collected.messages == []
            up = monotonic()
            link.set(at(1e7))
            await waiting
            await stream.close()
            await collected.ended()
            assert [len(message.payload) for message in collected.messages] == [100_000, 9]
            assert collected.released_s[0] >= up

    run(main)


def test_a_link_follows_a_schedule() -> None:
    async def main() -> None:
        async with collecting() as (server, collected):
            link = ShapedLink(at(1e6))
            stream = await open_stream(server.address, link)
            steps = (
                ConditionStep(time_s=0.05, changes=(("up", False),)),
                ConditionStep(time_s=0.1, changes=(("up", True), ("latency_s", 0.03))),
            )
            begin = monotonic()
            following = asyncio.ensure_future(link.follow(ConditionSchedule(steps=steps)))
            await stream.send(b"before")
            await asyncio.sleep(0.06)
            await stream.send(b"while down")
            await following
            assert link.conditions == at(1e6, 0.03)
            await stream.close()
            await collected.ended()
            assert [message.payload for message in collected.messages] == [b"before", b"while down"]
            assert collected.released_s[1] - begin >= 0.13

    run(main)


def test_a_link_that_stays_down_hangs_nobody_whose_peer_is_gone() -> None:
    async def main() -> None:
        async with collecting() as (server, collected):
            link = ShapedLink(at(1e6, up=False))
            stream = await open_stream(server.address, link)
            assert await stream.send(b"never") == math.inf
            second = asyncio.ensure_future(stream.send(b"waits for the link"))
            await asyncio.sleep(0.02)
            collected.streams[0].abort()
            with pytest.raises(ConnectionFailedError):
                await second
            with pytest.raises(ConnectionFailedError):
                await stream.close()
            stranded = await open_stream(server.address, link)
            stranded.sender.send_nowait(b"stranded")
            await asyncio.sleep(0.02)
            stranded.abort()
            await collected.ended(2)
            (error,) = (end for end in collected.ends if end is not None)
            assert isinstance(error, PeerLostError)
            assert error.__notes__ == ["1 messages waited for a link that was down"]

    run(main)


def test_bytes_come_out_as_they_went_in() -> None:
    async def main() -> None:
        content = bytes(range(256)) * 2000
        got = bytearray()
        done = asyncio.Event()

        async def read(stream: ShapedStream) -> None:
            reader = ByteStream(stream)
            while data := await reader.read(10_000):
                assert len(data) <= 10_000
                got.extend(data)
            done.set()

        server = await serve_streams(read, LOOPBACK)
        writer = ByteStream(await open_stream(server.address, ShapedLink(at(1e8, 0.002))))
        buffer = bytearray(content)
        await writer.write(buffer)
        buffer[:] = bytes(len(buffer))  # what was written is ours no longer
        writer.finish()
        await done.wait()
        assert bytes(got) == content
        await writer.close()
        await server.close()

    run(main)


class Recorder(FrameHandler):
    def __init__(self) -> None:
        self.events: list[object] = []
        self.closed = asyncio.Event()
        self.keep: list[memoryview] = []

    def on_connected(self, connection: FrameConnection) -> None:
        self.connection = connection

    def on_open(self, greeting: bytes) -> None:
        self.events.append(("open", greeting))

    def on_frame(self, header: memoryview, payload: memoryview, planned_s: float, arrived_s: float) -> None:
        self.events.append((bytes(header), bytes(payload)))
        self.keep.append(payload)

    def on_batch_end(self, now_s: float) -> None:
        self.events.append("batch end")

    def on_end(self) -> None:
        self.events.append("end")

    def on_closed(self, error: ConnectionFailedError | None) -> None:
        self.events.append(("closed", error))
        self.closed.set()


def test_callbacks_with_planned_times_of_ones_own() -> None:
    async def main() -> None:
        recorder = Recorder()
        server = await listen(lambda: recorder, LOOPBACK)
        client = await connect(FrameHandler(), server.address, greeting=b"hi")
        planned = monotonic() + 0.02
        for number in range(3):
            client.send_planned(b"payload %d" % number, b"h%d" % number, planned_s=planned)
        client.send_planned(b"", planned_s=planned + 0.01)
        client.end()
        client.close()
        await recorder.closed.wait()
        assert monotonic() >= planned + 0.01
        # How many batches they come in is up to the machine; every one ends.
        assert recorder.events.count("batch end") >= 2
        assert recorder.events[-3:] == ["batch end", "end", ("closed", None)]
        assert [event for event in recorder.events if event != "batch end"] == [
            ("open", b"hi"),
            (b"h0", b"payload 0"),
            (b"h1", b"payload 1"),
            (b"h2", b"payload 2"),
            (b"", b""),
            "end",
            ("closed", None),
        ]
        with pytest.raises(ValueError, match="released"):
            bytes(recorder.keep[0])
        await server.close()

    run(main)


def test_what_cannot_be_sent_is_told_and_costs_nothing() -> None:
    async def main() -> None:
        limits = FrameLimits(max_payload_bytes=1000, max_header_bytes=10, max_unsent_bytes=100_000)
        async with collecting(limits=limits) as (server, collected):
            link = ShapedLink(at(1e6))
            stream = await open_stream(server.address, link, limits=limits)
            free = link.clock.free_s
            with pytest.raises(MalformedFrameError, match="0 \\+ 1001 bytes: at most 10 of header and 1000"):
                await stream.send(bytes(1001))
            with pytest.raises(MalformedFrameError, match="11 \\+ 1 bytes"):
                await stream.send(b"x", bytes(11))
            with pytest.raises(MalformedFrameError, match="cast the view to format B"):
                await stream.send(memoryview(bytes(80)).cast("d"))
            with pytest.raises(MalformedFrameError, match="a greeting of 11 bytes"):
                await open_stream(server.address, greeting=bytes(11), limits=limits)
            assert link.clock.free_s == free
            await stream.send(b"fine")
            stream.finish()
            with pytest.raises(ConnectionFailedError, match="nothing can be sent"):
                await stream.send(b"after the end")
            await stream.close()
            await collected.ended()
            assert [message.payload for message in collected.messages] == [b"fine"]

    run(main)


def test_sending_without_waiting_is_bounded() -> None:
    async def main() -> None:
        limits = FrameLimits(max_unsent_bytes=1 << 20, max_held_bytes=1 << 16)
        server = await serve_streams(lambda stream: asyncio.sleep(60), LOOPBACK, limits=limits)
        stream = await open_stream(server.address, limits=limits)

        def flood() -> None:
            for _ in range(10_000):
                stream.sender.send_nowait(bytes(1 << 16))

        with pytest.raises(SendQueueFullError, match="unsent; wait until writable"):
            flood()
        stream.abort()
        await stream.closed()
        await server.close()

    run(main)


def test_sockets_are_set_and_reported() -> None:
    async def main() -> None:
        options = SocketOptions(send_buffer_bytes=100_000, receive_buffer_bytes=50_000)
        async with collecting(options=options) as (server, _):
            stream = await open_stream(server.address, options=options)
            report = stream.connection.report()
            assert report["family"] == "AF_INET"
            assert report["send_buffer_bytes"] >= 100_000
            assert report["congestion"] == "reno"
            assert report["nodelay"] is True
            await stream.close()
            with pytest.raises(ValueError, match="congestion 'none-such'"):
                await open_stream(server.address, options=SocketOptions(congestion="none-such"))
            with pytest.raises(ValueError, match="send_buffer_bytes = 1: it must be"):
                SocketOptions(send_buffer_bytes=1)

    run(main)


def test_nobody_listening_is_an_os_error() -> None:
    async def main() -> None:
        async with collecting() as (server, _):
            address = server.address
        with pytest.raises(OSError, match="Connect call failed"):
            await open_stream(address)
        with pytest.raises(OSError, match="Connect call failed"):
            await open_stream(("localhost", address[1]))
        with pytest.raises(OSError, match="No such file"):
            await open_stream("/nonexistent/socket")

    run(main)
