"""What machines say to each other within frames."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.errors import SimulationError
from emulator.realtime.messages import (
    LIMITS,
    MAX_PATH,
    MAX_PAYLOAD_BYTES,
    TOKEN_BYTES,
    Message,
    frame_sizes,
    greeting,
    pack,
    read_greeting,
    unpack,
)
from netshape.frames import MalformedFrameError

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
    planned_s=st.one_of(st.floats(0, 1e9), st.just(float("inf"))),
    path=st.lists(whole, max_size=5).map(tuple),
)


@given(messages, st.booleans())
def test_a_header_says_all_of_a_message(message: Message, last: bool) -> None:
    assert unpack(pack(message, last=last)) == (message, last)


def test_a_long_prompt_is_cut_into_bounded_frames() -> None:
    size = 2048 * 16384
    assert sum(frame_sizes(size)) == size
    assert max(frame_sizes(size)) == MAX_PAYLOAD_BYTES
    assert list(frame_sizes(0)) == [0]


def test_the_longest_path_and_the_longest_names_fit() -> None:
    message = Message(1, 2, 3, 4, 1, 0, 0, 10, 5, 255, True, 1.25, tuple(range(MAX_PATH)))
    header = pack(message, last=True)
    assert len(header) <= LIMITS.max_header_bytes
    assert unpack(header) == (message, True)
    assert len(greeting(TOKEN, "a" * 512, "b" * 512)) <= LIMITS.max_header_bytes


@given(st.binary(max_size=200))
def test_any_header_is_a_messages_or_malformed(data: bytes) -> None:
    try:
        message, last = unpack(data)
    except MalformedFrameError:
        return
    assert pack(message, last=last) == data


@pytest.mark.parametrize("planned", [-1.0, float("nan")])
def test_an_impossible_time_is_refused(planned: float) -> None:
    header = pack(Message(1, 2, 3, 4, 1, 0, 0, 10, 5, 0, False, planned), last=True)
    with pytest.raises(MalformedFrameError, match="emulated time"):
        unpack(header)


@given(st.text(max_size=60), st.text(max_size=60))
def test_greetings_tell_both_ends(source: str, target: str) -> None:
    try:
        data = greeting(TOKEN, source, target)
    except UnicodeEncodeError:
        return
    assert read_greeting(data, TOKEN) == (source, target)


def test_what_is_no_greeting_of_this_run() -> None:
    with pytest.raises(MalformedFrameError, match="another run"):
        read_greeting(greeting(bytes(TOKEN_BYTES), "a", "b"), TOKEN)
    with pytest.raises(MalformedFrameError, match="no text"):
        read_greeting(greeting(TOKEN, "a", "b")[:-2] + b"\xff\xff", TOKEN)
    with pytest.raises(MalformedFrameError, match="of 17 bytes"):
        read_greeting(TOKEN + b"\x01", TOKEN)
    with pytest.raises(MalformedFrameError, match="no text"):
        read_greeting(TOKEN + struct.pack("<H", 60_000) + b"\xff", TOKEN)
    with pytest.raises(SimulationError, match="longer than"):
        greeting(TOKEN, "a" * 1000, "b")
