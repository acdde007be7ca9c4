"""Frames between machines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.errors import SimulationError
from emulator.realtime.frames import (
    MAX_PATH,
    MAX_PAYLOAD_BYTES,
    TOKEN_BYTES,
    FrameError,
    FrameParser,
    Message,
    frame_sizes,
    greeting,
    greeting_length,
    pack,
    read_greeting,
)

TOKEN = bytes(range(TOKEN_BYTES))
whole = st.integers(0, 2**32 - 1)
messages = st.builds(
    Message,
    serial=st.integers(0, 2**64 - 1),
    link=whole,
    attempt=whole,
    request=whole,
    tokens=whole,
    context=whole,
    emitted=whole,
    longest=whole,
    layer=st.integers(0, 2**16 - 1),
    hop=st.integers(0, 2**16 - 1),
    prefill=st.booleans(),
    planned_s=st.floats(0, 1e9),
    path=st.lists(whole, max_size=5).map(tuple),
)


def bytes_of(message: Message, payload_bytes: int) -> bytes:
    sizes = list(frame_sizes(payload_bytes))
    return b"".join(pack(message, size, last=place == len(sizes) - 1) + bytes(size) for place, size in enumerate(sizes))


@given(st.lists(st.tuples(messages, st.integers(0, 300)), max_size=6), st.lists(st.integers(1, 200), min_size=1))
def test_messages_come_out_as_they_went_in_whatever_pieces_they_come_in(
    sent: list[tuple[Message, int]], cuts: list[int]
) -> None:
    stream = b"".join(bytes_of(message, size) for message, size in sent)
    parser = FrameParser()
    got: list[Message] = []
    at = turn = 0
    while at < len(stream):
        size = cuts[turn % len(cuts)]
        got += parser.feed(memoryview(stream)[at : at + size])
        at, turn = at + size, turn + 1
    assert got == [message for message, _ in sent]
    assert not parser.within_frame


def test_a_long_prompt_is_cut_into_bounded_frames_and_counts_once_it_is_whole() -> None:
    message = Message(1, 2, 3, 4, 2048, 0, 0, 4000, 5, 1, True, 1.25)
    size = 2048 * 16384
    assert sum(frame_sizes(size)) == size
    assert max(frame_sizes(size)) == MAX_PAYLOAD_BYTES
    stream = bytes_of(message, size)
    begun: list[Message] = []
    parser = FrameParser(begun.append)
    assert list(parser.feed(memoryview(stream)[:100])) == []
    assert begun == [message], "its first header says that it comes"
    assert list(parser.feed(memoryview(stream)[100:-1])) == []
    assert begun == [message]
    assert parser.within_frame
    assert list(parser.feed(memoryview(stream)[-1:])) == [message]


def test_the_longest_path_fits() -> None:
    message = Message(1, 2, 3, 4, 1, 0, 0, 10, 5, 255, True, 1.25, tuple(range(MAX_PATH)))
    assert list(FrameParser().feed(memoryview(bytes_of(message, 0)))) == [message]


@given(st.binary(max_size=400))
def test_any_bytes_are_messages_or_a_frame_error(data: bytes) -> None:
    parser = FrameParser()
    try:
        list(parser.feed(memoryview(data)))
    except FrameError:
        return
    assert len(parser._head) <= 4 * MAX_PATH + 100


@pytest.mark.parametrize("payload", [MAX_PAYLOAD_BYTES + 1, 2**32 - 1])
def test_an_oversized_frame_is_refused(payload: int) -> None:
    head = pack(Message(1, 2, 3, 4, 1, 0, 0, 10, 5, 0, False, 1.0), payload, last=True)
    with pytest.raises(FrameError, match="at most"):
        list(FrameParser().feed(memoryview(head)))


@pytest.mark.parametrize("planned", [-1.0, float("nan")])
def test_an_impossible_time_is_refused(planned: float) -> None:
    head = pack(Message(1, 2, 3, 4, 1, 0, 0, 10, 5, 0, False, planned), 0, last=True)
    with pytest.raises(FrameError, match="time"):
        list(FrameParser().feed(memoryview(head)))


@given(st.text(max_size=60), st.text(max_size=60))
def test_greetings_tell_both_ends(source: str, target: str) -> None:
    try:
        data = greeting(TOKEN, source, target)
    except UnicodeEncodeError:
        return
    assert greeting_length(data) == len(data)
    assert greeting_length(data[:3]) <= len(data)
    assert read_greeting(data, TOKEN) == (source, target)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"\x16\x03\x01",
        b"helixemu\xff\xff" + bytes(40),
        b"helixemu\x01\x00" + bytes(16) + b"\xff" * 4,
    ],
)
def test_what_is_no_greeting(data: bytes) -> None:
    with pytest.raises(FrameError):
        greeting_length(data)


def test_a_greeting_of_another_run_and_one_with_bad_names() -> None:
    with pytest.raises(FrameError, match="another run"):
        read_greeting(greeting(bytes(TOKEN_BYTES), "a", "b"), TOKEN)
    with pytest.raises(FrameError, match="no text"):
        read_greeting(greeting(TOKEN, "a", "b")[:-2] + b"\xff\xff", TOKEN)
    with pytest.raises(SimulationError, match="longer than"):
        greeting(TOKEN, "a" * 1000, "b")
