import math
import struct

import pytest

from netshape import frames
from netshape.errors import NetworkError
from netshape.frames import HEADER, VERSION, FrameLimits, FrameReader, Kind, MalformedFrameError
from netshape.slabs import MIN_SLAB_BYTES, Slab, SlabPool

NOW = 1000.0


def data(payload: bytes, header: bytes = b"", planned: float = NOW, **wrong: float) -> bytes:
    fields = {
        "length": len(payload) + len(header),
        "header_length": len(header),
        "kind": Kind.DATA,
        "version": VERSION,
        "planned": planned,
        "handed": NOW,
        "transmission": 0.5,
        **wrong,
    }
    return HEADER.pack(*fields.values()) + header + payload


def feed(reader: FrameReader, content: bytes, pieces: int = 1 << 30) -> list[tuple[int, bytes, bytes]]:
    """Give bytes to a reader in pieces as the loop would; kind, header and payload of what came out."""
    found = []
    while content:
        buffer = reader.buffer()
        count = min(len(buffer), len(content), pieces)
        assert count > 0
        buffer[:count] = content[:count]
        content = content[count:]
        for kind, _, _, _, slab, start, split, end in reader.received(count, NOW):
            found.append((kind, bytes(slab.view[start:split]), bytes(slab.view[split:end])))
            reader.release(slab)
    return found


@pytest.mark.parametrize("pieces", [1, 7, 33, 1000, 1 << 30])
def test_frames_come_out_as_they_went_in(pieces: int) -> None:
    wanted = [(int(Kind.DATA), b"h" * (n % 5), bytes([n % 251]) * (n * 37 % 3000)) for n in range(60)]
    content = b"".join(data(payload, header) for _, header, payload in wanted)
    reader = FrameReader()
    assert feed(reader, content, pieces) == wanted
    assert reader.partial_bytes == 0
    assert feed(reader, content[:40]) == wanted[:1]
    assert reader.partial_bytes == 8


def test_a_frame_longer_than_a_slab_gets_its_room() -> None:
    payload = bytes(range(256)) * 40_000
    reader = FrameReader()
    assert feed(reader, data(b"first") + data(payload) + data(b"last"), 50_000) == [
        (2, b"", b"first"),
        (2, b"", payload),
        (2, b"", b"last"),
    ]


def test_held_frames_keep_their_bytes_while_more_comes() -> None:
    reader = FrameReader()
    held = []
    for number in range(400):
        content = data(bytes([number % 256]) * 1000)
        buffer = reader.buffer()
        first = min(len(buffer), len(content))
        buffer[:first] = content[:first]
        held += reader.received(first, NOW)
        if first < len(content):
            rest = content[first:]
            reader.buffer()[: len(rest)] = rest
            held += reader.received(len(rest), NOW)
    assert [bytes(frame[4].view[frame[6] : frame[7]]) for frame in held] == [
        bytes([number % 256]) * 1000 for number in range(400)
    ]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"version": 9}, "version 9, but only 1 is known"),
        ({"kind": 77}, "kind 77 is unknown"),
        ({"header_length": 10}, "10 bytes of header in 4 bytes"),
        ({"header_length": 200, "length": 300}, "200 bytes of header in 300 bytes; at most 100"),
        ({"length": 2001}, "2001 bytes of payload; at most 2000"),
        ({"kind": Kind.REPLAN, "length": 70_000}, "70000 bytes of payload; at most 65536"),
        ({"planned": math.nan}, "it is planned for nan"),
        ({"planned": -1.0}, "it is planned for -1.0"),
        ({"planned": NOW + 61}, "which is no time within 60 s"),
        ({"planned": -math.inf}, "it is planned for -inf"),
        ({"handed": math.nan}, "it was handed over at nan"),
        ({"handed": math.inf}, "it was handed over at inf"),
        ({"transmission": -0.1}, "takes -0.1 s"),
        ({"transmission": math.nan}, "takes nan s"),
    ],
)
def test_a_malformed_frame_is_told_and_all_after_it_ignored(wrong: dict[str, float], told: str) -> None:
    reader = FrameReader(FrameLimits(max_payload_bytes=2000, max_header_bytes=100, max_hold_s=60.0))
    assert feed(reader, data(b"good") + data(b"evil", **wrong) + data(b"after")) == [(2, b"", b"good")]
    assert isinstance(reader.problem, MalformedFrameError)
    assert told in str(reader.problem)
    assert feed(reader, data(b"after")) == []


def test_what_waits_for_a_down_link_has_no_time() -> None:
    assert feed(FrameReader(), data(b"x", planned=math.inf)) == [(2, b"", b"x")]


def test_a_replan_of_many_messages_takes_several_frames() -> None:
    times = [NOW + index for index in range(20_000)]
    got: list[float] = []
    reader = FrameReader()
    for frame in frames.replan_frames(7, times):
        ((kind, _, payload),) = feed(reader, frame)
        assert kind == Kind.REPLAN
        first, part = frames.read_replan(memoryview(payload), NOW + 1e6)
        assert first == 7 + len(got)
        got += part
    assert got == times


@pytest.mark.parametrize(
    ("payload", "told"),
    [
        (b"", "a replan of 0 bytes"),
        (struct.pack("<QI", 0, 2) + bytes(8), "a replan of 2 times in 20 bytes"),
        (struct.pack("<QId", 0, 1, math.nan), "for what is no time"),
        (struct.pack("<QId", 0, 1, 1e9), "for what is no time"),
    ],
)
def test_a_malformed_replan_is_told(payload: bytes, told: str) -> None:
    with pytest.raises(MalformedFrameError, match=told):
        frames.read_replan(memoryview(payload), NOW)


@pytest.mark.parametrize("payload", [b"", struct.pack("<dd", 0.0, 1.0), struct.pack("<dd", math.nan, 1.0), bytes(17)])
def test_malformed_conditions_are_told(payload: bytes) -> None:
    with pytest.raises(MalformedFrameError, match="malformed frame: conditions of"):
        frames.read_conditions(memoryview(payload))


def test_a_greeting_names_the_clock() -> None:
    ((kind, header, payload),) = feed(FrameReader(), frames.hello(b"link a->b"))
    assert frames.checked_greeting(kind, memoryview(header), memoryview(payload)) == b"link a->b"
    for wrong, told in [
        (payload[:-1], "a hello of 31 bytes"),
        (b"x" + payload[1:], "another protocol"),
        (payload[:-1] + bytes([payload[-1] ^ 1]), "another clock"),
    ]:
        with pytest.raises(MalformedFrameError, match=told):
            frames.checked_greeting(kind, memoryview(header), memoryview(wrong))
    with pytest.raises(MalformedFrameError, match="must be a hello, not kind 2"):
        frames.checked_greeting(Kind.DATA, memoryview(header), memoryview(payload))


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_payload_bytes", 0), ("max_payload_bytes", 1 << 33), ("max_header_bytes", 1 << 16), ("silence_s", 0.0)],
)
def test_limits_out_of_range_are_told(name: str, value: float) -> None:
    with pytest.raises(NetworkError, match=f"{name} = {value}: it must be"):
        FrameLimits(**{name: value})  # type: ignore[arg-type]


def test_the_pool_keeps_slabs_up_to_its_limit() -> None:
    pool = SlabPool(3 * MIN_SLAB_BYTES)
    slabs = [pool.take(MIN_SLAB_BYTES) for _ in range(5)]
    slabs[0].kept = True
    for slab in slabs:
        pool.give_back(slab)
    assert pool.free_bytes == 3 * MIN_SLAB_BYTES
    assert [pool.take(MIN_SLAB_BYTES) in slabs[1:4] for _ in range(4)] == [True, True, True, False]
    pool.give_back(Slab(1 << 23))
    assert pool.free_bytes == 0
