"""The router between datagram sockets that stand where TUN devices would, so that no root is needed."""

import math
import select
import socket
import struct
import time
from collections.abc import Iterator

import pytest

from netshape.conditions import IndependentLoss, LinkConditions
from netshape.kernel.router import BATCH, PacketRouter, Route
from netshape.kernel.tun import GSO_NONE, GSO_TCP4, HEADER, NEEDS_CHECKSUM

A, B = bytes([10, 77, 0, 1]), bytes([10, 77, 0, 2])
PLAIN_HEADER = HEADER.pack(0, GSO_NONE, 0, 0, 0, 0)


def packet(number: int, size: int = 100, target: bytes = B, version: int = 4) -> bytes:
    ip = struct.pack("!BBHIBBH", version << 4 | 5, 0, size, 0, 64, 17, 0) + A + target
    return PLAIN_HEADER + ip + struct.pack("!I", number) + bytes(size - 24)


def large(segments: int, segment: int = 1448) -> bytes:
    data = bytes(segments * segment)
    ip = struct.pack("!BBHIBBH", 0x45, 0, 52 + len(data), 0, 64, 6, 0) + A + B
    tcp = struct.pack("!HHIIBBHHH", 1, 2, 0, 0, 8 << 4, 0x10, 0, 0, 0) + bytes(12)
    return HEADER.pack(NEEDS_CHECKSUM, GSO_TCP4, 52, segment, 20, 16) + ip + tcp + data


class Wire:
    """One route between two pairs of sockets."""

    def __init__(self, conditions: LinkConditions) -> None:
        kinds = (socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sender, self._input = socket.socketpair(*kinds)
        self._output, self.receiver = socket.socketpair(*kinds)
        for each in (self.sender, self._input, self._output, self.receiver):
            each.setblocking(False)
        self.device = self._input.fileno()
        self.route = Route("a", "b", self._output.fileno(), conditions, 7)
        self.router = PacketRouter({self.device: {B: self.route}})

    def close(self) -> None:
        for each in (self.sender, self._input, self._output, self.receiver):
            each.close()

    def pass_on(self, seconds: float = 5.0) -> list[tuple[float, bytes]]:
        """Take what was sent, deliver all that is planned, and return it with the times of delivery."""
        self.router.take(self.device)
        return self.deliver(seconds)

    def deliver(self, seconds: float = 5.0) -> list[tuple[float, bytes]]:
        got: list[tuple[float, bytes]] = []
        end = time.monotonic() + seconds
        while self.router.next_s < math.inf and time.monotonic() < end:
            select.select([], [], [], max(0.0, self.router.next_s - time.monotonic()))
            self.router.deliver()
            got += self.received()
        return got

    def received(self) -> list[tuple[float, bytes]]:
        got = []
        while select.select([self.receiver], [], [], 0)[0]:
            got.append((time.monotonic(), self.receiver.recv(70_000)))
        return got


@pytest.fixture
def wires() -> Iterator[list[Wire]]:
    made: list[Wire] = []
    yield made
    for wire in made:
        wire.close()


def test_packets_arrive_whole_in_order_and_never_early(wires: list[Wire]) -> None:
    conditions = LinkConditions(bandwidth_bytes_per_s=100_000.0, latency_s=0.02)
    wires.append(wire := Wire(conditions))
    sent = [packet(number, 500) for number in range(10)]
    start = time.monotonic()
    for each in sent:
        wire.sender.send(each)
    got = wire.pass_on()
    assert [each for _, each in got] == sent
    for index, (arrived, _) in enumerate(got):
        assert arrived - start >= 0.02 + (index + 1) * 500 / 100_000
    figures = wire.route.figures()
    assert (figures.packets, figures.delivered_packets, figures.delivered_bytes) == (10, 10, 5000)
    assert figures.in_flight_packets == wire.router.held_bytes == 0
    assert figures.lateness_s_p50 is not None
    assert figures.lateness_s_p50 >= 0


def test_what_no_link_is_meant_for_is_counted_and_dropped(wires: list[Wire]) -> None:
    wires.append(wire := Wire(LinkConditions()))
    strange = (
        packet(1, target=bytes([224, 0, 0, 251])),
        packet(2, version=6),
        packet(4, target=A),
        b"",
        b"x",
        bytes(29),
    )
    for each in (*strange, packet(3)):
        wire.sender.send(each)
    assert [each for _, each in wire.pass_on()] == [packet(3)]
    assert wire.router.unroutable[wire.device] == len(strange)


def test_a_device_has_its_turn_and_then_others(wires: list[Wire]) -> None:
    wires.append(wire := Wire(LinkConditions(latency_s=10.0)))
    buffered = 0
    try:
        for number in range(BATCH + 5):
            wire.sender.send(packet(number, 40))
            buffered += 1
            if buffered % 8 == 0:
                # A socket pair holds few datagrams; a TUN device's queue is longer.
                wire.router.take(wire.device)
    except BlockingIOError:
        pytest.fail("the socket pair is full")
    wire.router.take(wire.device)
    assert wire.route.figures().in_flight_packets == BATCH + 5
    assert wire.deliver(0.0) == []


def test_a_live_change_holds_for_what_waits_and_not_for_what_is_sent(wires: list[Wire]) -> None:
    slow = LinkConditions(bandwidth_bytes_per_s=1000.0, latency_s=0.05)
    wires.append(wire := Wire(slow))
    for number in range(4):
        wire.sender.send(packet(number, 1000))
    start = time.monotonic()
    wire.router.take(wire.device)
    wire.router.change(wire.route, LinkConditions(bandwidth_bytes_per_s=1e6, latency_s=0.05))
    got = wire.deliver()
    assert [each for _, each in got] == [packet(number, 1000) for number in range(4)]
    # 4 s at the old rate, 4 ms at the new one.
    assert 0.05 <= got[-1][0] - start < 2.0


def test_a_link_that_goes_down_holds_what_waits_and_drops_what_comes(wires: list[Wire]) -> None:
    wires.append(wire := Wire(LinkConditions(bandwidth_bytes_per_s=1000.0)))
    wire.sender.send(packet(1, 1000))
    wire.router.take(wire.device)
    wire.router.change(wire.route, LinkConditions(bandwidth_bytes_per_s=1000.0, up=False))
    wire.sender.send(packet(2, 1000))
    wire.router.take(wire.device)
    assert wire.router.next_s == math.inf
    assert wire.route.figures().down_packets == 1
    wire.router.change(wire.route, LinkConditions(bandwidth_bytes_per_s=1e6))
    assert [each for _, each in wire.deliver()] == [packet(1, 1000)]


def test_a_full_queue_drops(wires: list[Wire]) -> None:
    wires.append(wire := Wire(LinkConditions(bandwidth_bytes_per_s=10_000.0, queue_limit_bytes=2500.0)))
    for number in range(5):
        wire.sender.send(packet(number, 1000))
    assert [each for _, each in wire.pass_on()] == [packet(0, 1000), packet(1, 1000)]
    assert wire.route.figures().overflow_packets == 3


def test_a_large_packet_stays_whole_where_nothing_tears_it_apart(wires: list[Wire]) -> None:
    wires.append(wire := Wire(LinkConditions(bandwidth_bytes_per_s=125e6)))
    wire.sender.send(large(10))
    assert [each for _, each in wire.pass_on()] == [large(10)]
    figures = wire.route.figures()
    assert (figures.packets, figures.delivered_packets, figures.delivered_bytes) == (10, 10, 15_000)


def test_losses_take_single_segments_of_a_large_packet(wires: list[Wire]) -> None:
    wires.append(wire := Wire(LinkConditions(bandwidth_bytes_per_s=125e6, loss=IndependentLoss(probability=0.2))))
    for _ in range(20):
        wire.sender.send(large(40))
        wire.router.take(wire.device)
        got = wire.deliver()
        carried = sum((len(each) - HEADER.size - 52) // 1448 for _, each in got)
        assert carried + wire.route.clock.lost_packets == wire.route.packets
        wire.route.clock.lost_packets = wire.route.packets = 0
        lost = 40 - carried
        # Runs between the lost ones stay together.
        assert len(got) <= lost + 1


def test_a_slow_link_delivers_a_large_packet_bit_by_bit(wires: list[Wire]) -> None:
    wires.append(wire := Wire(LinkConditions(bandwidth_bytes_per_s=1.5e6)))
    wire.sender.send(large(20))
    start = time.monotonic()
    got = wire.pass_on()
    assert len(got) == 20
    for index, (arrived, _) in enumerate(got):
        assert arrived - start >= (index + 1) * 0.001


def test_doubles_and_a_receiver_that_takes_nothing(wires: list[Wire]) -> None:
    wires.append(wire := Wire(LinkConditions(duplicate_probability=1.0)))
    wire.sender.send(packet(1))
    assert [each for _, each in wire.pass_on()] == [packet(1), packet(1)]
    wire.receiver.close()
    wire.sender.send(packet(2))
    wire.router.take(wire.device)
    wire.router.deliver()
    assert wire.route.figures().refused_packets == 2
    assert wire.router.held_bytes == 0


def test_memory_is_bounded(wires: list[Wire], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("netshape.kernel.router.MAX_HELD_BYTES", 5000)
    wires.append(wire := Wire(LinkConditions(latency_s=100.0)))
    for number in range(8):
        wire.sender.send(packet(number, 1000))
    wire.router.take(wire.device)
    assert wire.router.held_bytes <= 5000
    assert wire.route.figures().refused_packets == 4
