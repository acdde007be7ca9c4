"""Forwards IP packets between TUN devices through the link model: a heap of planned deliveries and nothing else.

The caller owns the descriptors and the waiting; see :mod:`netshape.kernel.keeper`.
"""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

import numpy as np

from netshape.conditions import LinkConditions
from netshape.kernel.segments import LargePacket, large_packet
from netshape.kernel.tun import HEADER, READ_BYTES
from netshape.link_model import PacketClock

BATCH = 64
"""Packets taken from one device or delivered before others have their turn."""
MAX_HELD_BYTES = 1 << 30
"""Most bytes in flight on all links together: beyond it packets are dropped, so that memory stays bounded."""
RUN_S = 0.0005
"""Longest time between the first and the last of several segments that are delivered as one packet."""
_LATENESS_KEPT = 8192

_IP = HEADER.size
_MIN_IP_BYTES = 20
_TARGET = slice(_IP + 16, _IP + 20)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkFigures:
    """What a link has carried.

    Attributes:
        source: Sending host.
        target: Receiving host.
        packets: Packets handed over to the link, as on the wire (a large TCP packet counts as its segments).
        delivered_packets: Packets delivered, doubles included.
        delivered_bytes: Their IP bytes.
        lost_packets: Packets that the loss model took.
        overflow_packets: Packets that found the queue full.
        down_packets: Packets that found the link down.
        refused_packets: Packets that the receiving device did not take, or for which there was no memory.
        in_flight_packets: Packets on their way (large ones count once).
        lateness_s_p50: Median time between planned and real delivery, of the last 8192; ``None`` before the first.
        lateness_s_p99: The same, 99th percentile.
    """

    source: str
    target: str
    packets: int
    delivered_packets: int
    delivered_bytes: int
    lost_packets: int
    overflow_packets: int
    down_packets: int
    refused_packets: int
    in_flight_packets: int
    lateness_s_p50: float | None
    lateness_s_p99: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFigures:
    """What a host has sent that no link carried.

    Attributes:
        host: The host.
        unroutable_packets: Packets to an address that no link leads to: multicast, for instance.
        missed_packets: Packets that its device dropped because the router did not take them in time: the machine could
            not keep up.
    """

    host: str
    unroutable_packets: int
    missed_packets: int


class Route:
    """One direction of a link, from a sending host's device to the receiving one's.

    Attributes:
        source: Sending host.
        target: Receiving host.
        output: Descriptor of the receiving device.
        clock: The link model.
        together_bytes: Largest packet whose segments fare alike and arrive within :data:`RUN_S`, so that it need not be
            taken apart.
    """

    __slots__ = (
        "clock",
        "delivered_bytes",
        "delivered_packets",
        "in_flight",
        "late_s",
        "output",
        "packets",
        "refused",
        "source",
        "target",
        "together_bytes",
    )

    def __init__(self, source: str, target: str, output: int, conditions: LinkConditions, seed: int) -> None:
        self.source = source
        self.target = target
        self.output = output
        self.clock = PacketClock(conditions, name=f"{source}->{target}", seed=seed)
        self.together_bytes = _together_bytes(conditions)
        self.packets = self.delivered_packets = self.delivered_bytes = self.refused = self.in_flight = 0
        self.late_s: list[float] = []

    def figures(self) -> LinkFigures:
        """What it has carried so far."""
        p50, p99 = (float(value) for value in np.percentile(self.late_s, (50, 99))) if self.late_s else (None, None)
        return LinkFigures(
            source=self.source,
            target=self.target,
            packets=self.packets,
            delivered_packets=self.delivered_packets,
            delivered_bytes=self.delivered_bytes,
            lost_packets=self.clock.lost_packets,
            overflow_packets=self.clock.overflow_packets,
            down_packets=self.clock.down_packets,
            refused_packets=self.refused,
            in_flight_packets=self.in_flight,
            lateness_s_p50=p50,
            lateness_s_p99=p99,
        )


def _together_bytes(conditions: LinkConditions) -> float:
    chances = (conditions.duplicate_probability, conditions.reorder_probability)
    if conditions.jitter is not None or conditions.loss is not None or any(chances) or not conditions.up:
        return 0.0
    return conditions.bandwidth_bytes_per_s * RUN_S


@dataclass(slots=True)
class _Delivery:
    """A packet on its way.

    Attributes:
        number: The link model's number for it (of its last segment).
        route: The link.
        packet: virtio header and IP packet.
        wire_packets: Packets on the wire.
        wire_bytes: Their IP bytes.
    """

    number: int
    route: Route
    packet: bytes
    wire_packets: int
    wire_bytes: int


class PacketRouter:
    """Takes packets from devices, plans their deliveries, and delivers them when they are due.

    Attributes:
        unroutable: Packets that no link is meant for (multicast, IPv6, unknown addresses), by sending device.
        held_bytes: Bytes in flight.
    """

    def __init__(self, routes: Mapping[int, Mapping[bytes, Route]]) -> None:
        """A router with nothing in flight.

        Args:
            routes: Sending device's descriptor -> receiving host's address, 4 bytes -> route.
        """
        self._routes = routes
        self._heap: list[tuple[float, int, _Delivery]] = []
        self._count = 0
        self.unroutable: Counter[int] = Counter()
        self.held_bytes = 0

    @property
    def next_s(self) -> float:
        """When the next delivery is due; infinite when none is planned."""
        return self._heap[0][0] if self._heap else math.inf

    def take(self, device: int) -> None:
        """Take up to :data:`BATCH` packets that wait in a sending device."""
        routes = self._routes[device]
        for _ in range(BATCH):
            try:
                packet = os.read(device, READ_BYTES)
            except BlockingIOError:
                return
            # A program with a packet socket may send anything, also what is no packet.
            whole = len(packet) >= _IP + _MIN_IP_BYTES
            route = routes.get(packet[_TARGET]) if whole and packet[_IP] >> 4 == 4 else None
            if route is None:
                self.unroutable[device] += 1
            else:
                self._accept(route, packet, time.monotonic())

    def deliver(self) -> None:
        """Deliver what is due, up to :data:`BATCH` packets."""
        heap = self._heap
        now = time.monotonic()
        for _ in range(BATCH):
            if not heap or heap[0][0] > now:
                return
            due, _, delivery = heappop(heap)
            route = delivery.route
            self.held_bytes -= len(delivery.packet)
            route.in_flight -= 1
            late_s = time.monotonic() - due
            try:
                os.write(route.output, delivery.packet)
            except OSError:
                # Its queue is full, it is down, or the packet is malformed: as a real card, it drops and counts.
                route.refused += delivery.wire_packets
                continue
            route.delivered_packets += delivery.wire_packets
            route.delivered_bytes += delivery.wire_bytes
            if len(route.late_s) >= _LATENESS_KEPT:
                del route.late_s[: _LATENESS_KEPT // 2]
            route.late_s.append(late_s)

    def change(self, route: Route, conditions: LinkConditions) -> None:
        """Let ``conditions`` hold from now on; packets already sent keep their time, waiting ones are planned anew."""
        replan = route.clock.set(conditions, time.monotonic())
        route.together_bytes = _together_bytes(conditions)
        first, arrivals = replan.first, replan.arrivals_s
        for index, (_, count, delivery) in enumerate(self._heap):
            if delivery.route is route and delivery.number >= first:
                self._heap[index] = (arrivals[delivery.number - first], count, delivery)
        heapify(self._heap)

    def _accept(self, route: Route, packet: bytes, now: float) -> None:
        clock = route.clock
        large = large_packet(packet)
        if large is None:
            route.packets += 1
            size = len(packet) - _IP
            number = clock.accepted
            for copy, due in enumerate(clock.plan_packet(now, size)):
                self._hold(due, _Delivery(number + copy, route, packet, 1, size))
            return
        route.packets += large.count
        conditions = clock.conditions
        size = large.wire_bytes
        waiting = clock.waiting_bytes(now) + conditions.wire_bytes(size)
        if size <= route.together_bytes and waiting <= conditions.queue_limit_bytes:
            number = clock.accepted
            for due in clock.plan_packet(now, size):
                self._hold(due, _Delivery(number, route, packet, large.count, size))
        else:
            self._accept_segments(route, large, now)

    def _accept_segments(self, route: Route, large: LargePacket, now: float) -> None:
        """Plan each segment alone, and hold neighbours that arrive together as one packet."""
        clock = route.clock
        run: list[int] = []
        run_number = 0
        begin = end = 0.0
        for index in range(large.count):
            number = clock.accepted
            times = clock.plan_packet(now, large.segment_wire_bytes(index))
            together = run and times and times[0] >= end and times[0] - begin <= RUN_S
            if run and not together:
                self._hold_run(end, run_number, route, large, run)
                run = []
            if times:
                if not run:
                    begin = times[0]
                run.append(index)
                run_number, end = number, times[0]
            for copy, due in enumerate(times[1:], start=1):
                self._hold_run(due, number + copy, route, large, [index])
        if run:
            self._hold_run(end, run_number, route, large, run)

    def _hold_run(self, due: float, number: int, route: Route, large: LargePacket, run: Sequence[int]) -> None:
        size = sum(large.segment_wire_bytes(index) for index in run)
        packet = large.run(run[0], run[-1] + 1)
        self._hold(due, _Delivery(number, route, packet, len(run), size))

    def _hold(self, due: float, delivery: _Delivery) -> None:
        if self.held_bytes + len(delivery.packet) > MAX_HELD_BYTES:
            delivery.route.refused += delivery.wire_packets
            return
        self.held_bytes += len(delivery.packet)
        delivery.route.in_flight += 1
        self._count += 1
        heappush(self._heap, (due, self._count, delivery))
