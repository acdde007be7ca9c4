"""Fuzzed frames: whatever comes, the reader and a real server keep their word."""

from __future__ import annotations

import asyncio
import math
import socket

from hypothesis import example, given, settings
from hypothesis import strategies as st
from shaped import at, collecting, run

from netshape.endpoints import open_stream
from netshape.frames import (
    CONTROL_BYTES,
    HEADER,
    VERSION,
    FrameLimits,
    FrameReader,
    Kind,
    MalformedFrameError,
    hello,
    packed,
)
from netshape.header_reader import HeaderReader
from netshape.shaped_link import ShapedLink
from netshape.slabs import MIN_SLAB_BYTES

LIMITS = FrameLimits(max_payload_bytes=1 << 20, max_header_bytes=64)
# What is held for long would be waited for.
SERVER_LIMITS = FrameLimits(max_payload_bytes=1 << 20, max_header_bytes=64, max_hold_s=0.02)
TIMES = st.one_of(st.floats(), st.just(0.0), st.just(math.inf), st.floats(0, 1e4))
HEADERS = st.builds(
    HEADER.pack,
    st.one_of(st.integers(0, 200), st.integers(0, 2**32 - 1)),
    st.one_of(st.integers(0, 70), st.integers(0, 2**16 - 1)),
    st.integers(0, 8),
    st.sampled_from([VERSION, VERSION, VERSION, 0, 255]),
    TIMES,
    TIMES,
    TIMES,
)
GOOD = st.tuples(st.binary(max_size=64), st.binary(max_size=3000)).map(
    lambda parts: (
        HEADER.pack(len(parts[0]) + len(parts[1]), len(parts[0]), Kind.DATA, VERSION, 0.0, 0.0, 0.0)
        + parts[0]
        + parts[1]
    )
)
CONTROL = st.sampled_from([packed(Kind.HEARTBEAT), packed(Kind.END), packed(Kind.REPLAN, bytes(12)), hello(b"again")])
STREAMS = st.lists(st.one_of(GOOD, HEADERS, CONTROL, st.binary(max_size=100)), max_size=12).map(b"".join)


@given(STREAMS, st.lists(st.integers(1, 5000), min_size=1, max_size=5))
@settings(max_examples=300, deadline=None)
def test_the_reader_takes_frames_within_its_limits_or_none(content: bytes, pieces: list[int]) -> None:
    reader = FrameReader(LIMITS)
    taken = 0
    turn = 0
    while content[taken:] and reader.problem is None:
        buffer = reader.buffer()
        # A frame that is announced gets its room, and no more than the limits allow.
        assert 0 < len(buffer) <= (1 << 21) + MIN_SLAB_BYTES
        count = min(len(buffer), len(content) - taken, pieces[turn % len(pieces)])
        turn += 1
        buffer[:count] = content[taken : taken + count]
        taken += count
        for kind, planned, handed, transmission, slab, start, split, end in reader.received(count, 100.0):
            assert kind in set(Kind)
            assert planned == math.inf or 0 <= planned <= 100 + LIMITS.max_hold_s
            assert 0 <= handed <= 100 + LIMITS.max_hold_s
            assert 0 <= transmission <= LIMITS.max_hold_s
            assert split - start <= LIMITS.max_header_bytes
            assert end - split <= LIMITS.max_payload_bytes
            assert bytes(slab.view[start:end]) in content
            reader.release(slab)


@given(STREAMS, st.lists(st.integers(1, 5000), min_size=1, max_size=5))
@example(packed(Kind.HELLO, bytes(1))[:-1], [1])
@settings(max_examples=300, deadline=None)
def test_a_reader_of_headers_finds_what_the_other_finds(content: bytes, pieces: list[int]) -> None:
    whole, wanted = FrameReader(LIMITS), []
    taken = 0
    while taken < len(content) and whole.problem is None:
        buffer = whole.buffer()
        count = min(len(buffer), len(content) - taken)
        buffer[:count] = content[taken : taken + count]
        taken += count
        for kind, planned, _, _, slab, start, split, end in whole.received(count, 100.0):
            body = b"" if kind == Kind.DATA else bytes(slab.view[split:end])
            wanted.append((kind, planned, bytes(slab.view[start:split]), body, end - split))
            whole.release(slab)
    reader, found, begun, problem = HeaderReader(LIMITS), [], list[bytes](), ""
    reader.on_begun = begun.append
    at = turn = 0
    try:
        while at < len(content):
            part = content[at : at + pieces[turn % len(pieces)]]
            at, turn = at + len(part), turn + 1
            found += reader.received(memoryview(part), 100.0)
            # Nothing but headers and the bodies of control frames is kept.
            assert len(reader._head) <= LIMITS.max_header_bytes + CONTROL_BYTES
    except MalformedFrameError as error:
        problem = str(error)
    assert [tuple(frame) for frame in found] == wanted
    assert problem == str(whole.problem or "")
    if not problem:
        assert reader.within_frame == bool(whole.partial_bytes)
    headers = [frame.header for frame in found if frame.kind == Kind.DATA]
    assert begun[: len(headers)] == headers
    assert len(begun) <= len(headers) + 1


@given(st.lists(st.tuples(st.booleans(), STREAMS), min_size=5, max_size=5))
@settings(max_examples=25, deadline=None)
def test_a_server_outlives_whatever_comes(attacks: list[tuple[bool, bytes]]) -> None:
    async def main() -> None:
        async with collecting(limits=SERVER_LIMITS) as (server, collected):
            survivor = await open_stream(server.address, ShapedLink(at(1e8, 0.0005)), greeting=b"survivor")
            loop = asyncio.get_running_loop()
            for number, (greets, content) in enumerate(attacks):
                sock = socket.socket()
                sock.setblocking(False)
                await loop.sock_connect(sock, server.address)
                await survivor.send(b"%d" % number)
                try:
                    await loop.sock_sendall(sock, (hello(b"attacker") if greets else b"") + content)
                except ConnectionError:
                    pass
                finally:
                    sock.close()
            await survivor.send(b"last")
            await survivor.close()
            while server.connections:
                await asyncio.sleep(0.001)
            (ours,) = (stream for stream in collected.streams if stream.greeting == b"survivor")
            await collected.ended(len(collected.streams))
            assert ours.connection.error is None
            got = [message.payload for message in collected.messages]
            wanted = [b"%d" % number for number in range(len(attacks))] + [b"last"]
            assert [payload for payload in got if payload in wanted][-1:] == [b"last"]
            assert server.counts.opened == server.counts.closed + server.counts.failed == len(attacks) + 1

    run(main)
