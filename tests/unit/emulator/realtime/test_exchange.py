"""Sockets between the machines of a run."""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections.abc import AsyncIterator

import pytest

from emulator.errors import SimulationError
from emulator.realtime import connections
from emulator.realtime.connections import Pair
from emulator.realtime.exchange import MAX_STRANGERS, Exchange
from emulator.realtime.messages import MAX_PAYLOAD_BYTES, TOKEN_BYTES, Message, greeting, pack
from netshape.frames import Kind, data_beginning, hello, packed

TOKEN = bytes(range(TOKEN_BYTES))
DUE_S = 1.0


def message(serial: int) -> Message:
    return Message(serial, 0, 0, 0, 1, 0, 0, 10, 0, 0, False, 0.0)


class Two:
    """Machines a and b, a connection each way, and what came of them."""

    def __init__(self) -> None:
        self.got: list[tuple[Pair, int]] = []
        self.lost: list[tuple[Pair, str]] = []
        self.exchange = Exchange(
            asyncio.get_running_loop(),
            TOKEN,
            lambda pair, message: self.got.append((pair, message.serial)),
            lambda pair, reason: self.lost.append((pair, reason)),
        )

    async def open(self) -> None:
        for machine in ("a", "b"):
            self.exchange.listen(machine)
        pairs = [("a", "b"), ("b", "a")]
        await self.exchange.connect(pairs, pairs)

    async def until(self, done: object) -> None:
        assert callable(done)
        async with asyncio.timeout(20):
            while not done():
                await asyncio.sleep(0.005)

    def stranger(self, machine: str = "b") -> socket.socket:
        return socket.create_connection(self.exchange.addresses[machine])


def was_closed(connection: socket.socket) -> bool:
    """Whether the other side has closed it; with a reset if there were bytes that it never read."""
    connection.settimeout(20)
    try:
        return connection.recv(10) == b""
    except ConnectionResetError:
        return True


@pytest.fixture
async def two() -> AsyncIterator[Two]:
    files = len(os.listdir("/proc/self/fd"))
    made = Two()
    await made.open()
    yield made
    made.exchange.close()
    await asyncio.sleep(0)
    assert len(os.listdir("/proc/self/fd")) == files, "no descriptor is left"


async def test_every_byte_of_every_message_travels_in_order(two: Two) -> None:
    sizes = [0, 1, 16_384, MAX_PAYLOAD_BYTES, MAX_PAYLOAD_BYTES + 1, 20_000_000, 3]
    for serial, size in enumerate(sizes):
        two.exchange.send(("a", "b"), message(serial), size, DUE_S)
    two.exchange.send(("b", "a"), message(99), 5, DUE_S)
    await two.until(lambda: len(two.got) == len(sizes) + 1)
    assert [serial for pair, serial in two.got if pair == ("a", "b")] == list(range(len(sizes)))
    assert two.exchange.received_bytes >= sum(sizes)
    await two.until(lambda: two.exchange.queued_messages == 0)
    assert not two.lost


async def test_a_long_message_is_told_of_once_when_it_begins(two: Two) -> None:
    begun: list[tuple[Pair, int, int]] = []
    two.exchange.on_begun = lambda pair, message: begun.append((pair, message.serial, len(two.got)))
    for serial, size in enumerate([MAX_PAYLOAD_BYTES, 3_000_000, 0, 5_000_000]):
        two.exchange.send(("a", "b"), message(serial), size, DUE_S)
    await two.until(lambda: len(two.got) == 4)
    assert begun == [(("a", "b"), 1, 1), (("a", "b"), 3, 3)]


async def test_many_messages_wait_without_taking_memory(two: Two) -> None:
    for serial in range(200):
        two.exchange.send(("a", "b"), message(serial), 33_000_000, DUE_S)
    outbound = two.exchange._outbound["a", "b"]
    assert outbound.queued_messages > 100
    assert sum(map(len, outbound._unsent)) <= 2 * MAX_PAYLOAD_BYTES


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        random.Random(1).randbytes(4096),
        hello(greeting(bytes(TOKEN_BYTES), "a", "b")),
        hello(greeting(TOKEN, "a", "c")),
        hello(greeting(TOKEN, "a", "b")),  # There is one already.
        hello(greeting(TOKEN, "a", "b"))[:-1] + b"?",  # Another clock.
        hello(b"short"),
        data_beginning(pack(message(1), last=True), 10, DUE_S) + bytes(10),
    ],
)
async def test_a_stranger_is_turned_away_and_nobody_else_notices(two: Two, said: bytes) -> None:
    with two.stranger() as stranger:
        stranger.sendall(said)
        await two.until(lambda: two.exchange.strangers == 1)
        assert was_closed(stranger)
    two.exchange.send(("a", "b"), message(7), 1000, DUE_S)
    await two.until(lambda: two.got)
    assert two.got == [(("a", "b"), 7)]
    assert not two.lost


async def test_a_silent_stranger_is_turned_away_in_time(monkeypatch: pytest.MonkeyPatch, two: Two) -> None:
    monkeypatch.setattr(connections, "GREETING_LIMIT_S", 0.05)
    with two.stranger() as silent, two.stranger() as half:
        half.sendall(b"helix")
        await two.until(lambda: two.exchange.strangers == 2)
        assert was_closed(silent)


async def test_a_crowd_of_strangers_is_bounded(two: Two) -> None:
    crowd = [two.stranger() for _ in range(MAX_STRANGERS + 20)]
    await two.until(lambda: two.exchange.strangers >= 20)
    assert len(two.exchange._strange) <= MAX_STRANGERS
    two.exchange.send(("a", "b"), message(7), 1000, DUE_S)
    await two.until(lambda: two.got)
    for each in crowd:
        each.close()
    await two.until(lambda: two.exchange.strangers == len(crowd))


async def test_a_peer_that_goes_away_is_told(two: Two) -> None:
    two.exchange._outbound["a", "b"]._socket.shutdown(socket.SHUT_RDWR)
    await two.until(lambda: two.lost)
    assert two.lost[0][0] == ("a", "b")


async def test_a_peer_that_goes_away_within_a_frame(two: Two) -> None:
    outbound = two.exchange._outbound["a", "b"]._socket
    outbound.send(data_beginning(pack(message(1), last=True), 1000, DUE_S) + bytes(10))
    outbound.shutdown(socket.SHUT_RDWR)
    await two.until(lambda: two.lost)
    assert two.lost[0] == (("a", "b"), "closed in the middle of a frame")


@pytest.mark.parametrize(
    ("nonsense", "told"),
    [
        (b"\x00" + b"\xff" * 100, "version 255"),
        (packed(Kind.HEARTBEAT), "kind 5 does not belong here"),
        (data_beginning(b"short", 0, DUE_S), "a header of 5 bytes"),
        (data_beginning(pack(message(1), last=True), MAX_PAYLOAD_BYTES + 1, DUE_S), "at most 262144"),
    ],
)
async def test_a_peer_that_sends_nonsense_is_lost_and_counted(two: Two, nonsense: bytes, told: str) -> None:
    two.exchange._outbound["a", "b"]._socket.send(nonsense)
    await two.until(lambda: two.lost)
    assert two.exchange.malformed == 1
    assert two.lost[0][0] == ("a", "b")
    assert told in two.lost[0][1]
    assert not two.got


async def test_a_peer_that_never_comes() -> None:
    two = Two()
    two.exchange.listen("a")
    with pytest.raises(SimulationError, match="b->a"):
        await two.exchange.connect([], [("b", "a")], limit_s=0.05)
    two.exchange.close()


async def test_settings_are_what_the_kernel_says(two: Two) -> None:
    settings = two.exchange.settings()
    assert settings["send_buffer_bytes"] > 0
    assert settings["congestion"] == "reno"
    assert settings["nodelay"] is True
