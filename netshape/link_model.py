"""One direction of a link under conditions: when a message or a packet that is handed over now arrives.

Pure arithmetic on virtual clocks: the time is passed in, and every draw comes from a generator derived from a seed and
the link's name. So the same calls give the same times, in virtual and in real time.
"""

from __future__ import annotations

import math

from netshape.clock import NicClock
from netshape.conditions import LinkConditions
from netshape.draws import UniformDraws, deviating, drawing
from netshape.link_queue import LinkQueue, Replan
from netshape.randomness import generator

MATHIS_CONSTANT = math.sqrt(3 / 2)
"""Of a receiver that acknowledges every packet, the case of the source; see :func:`stream_rate_bytes_per_s`."""


def stream_rate_bytes_per_s(conditions: LinkConditions, round_trip_s: float) -> float:
    """Rate at which a reliable stream's bytes leave, overhead included.

    Lost packets are sent again, so of the bandwidth the share that gets through is left, and congestion control holds
    a stream with losses to ``packet / RTT * C / sqrt(p)`` with ``p`` the probability of a loss event (a burst counts
    once). Source: M. Mathis, J. Semke, J. Mahdavi, T. Ott, "The macroscopic behavior of the TCP congestion avoidance
    algorithm" (1997), equation 3.

    Args:
        conditions: Of the stream's direction.
        round_trip_s: Latency of both directions; without one there is no such cap.
    """
    rate = conditions.bandwidth_bytes_per_s
    loss = conditions.loss
    if loss is None or loss.mean_probability == 0:
        return rate
    rate *= 1 - loss.mean_probability
    if round_trip_s > 0 and loss.event_probability > 0:
        packet = conditions.packet_bytes + conditions.overhead_bytes_per_packet
        rate = min(rate, packet / round_trip_s * MATHIS_CONSTANT / math.sqrt(loss.event_probability))
    return rate


class ConditionedClock(LinkQueue):
    """One direction of a link that carries a reliable stream; stands in wherever a ``LinkClock`` does.

    Nothing is lost or reordered. Jitter moves arrivals, but none before the one of the message ahead. A lost packet
    costs its message one round trip for each time it has to be sent again, and what is behind it waits, too; the rate
    is that of :func:`stream_rate_bytes_per_s`. The queue limit is for who sends: see ``waiting_bytes``.

    Attributes:
        conditions: The ones that hold.
        name: The link's name.
        return_latency_s: Latency of the way back, for the round trip.
    """

    __slots__ = ("_jitter", "_jitter_random", "_loss", "_loss_random", "conditions", "name", "return_latency_s")

    def __init__(
        self,
        conditions: LinkConditions,
        *,
        name: str = "link",
        seed: int = 0,
        return_latency_s: float | None = None,
        sender: NicClock | None = None,
    ) -> None:
        """A clock that is free from time 0.

        Args:
            conditions: What the link is like at first.
            name: The link's name; with ``seed`` it settles every draw.
            seed: Of the scenario.
            return_latency_s: Latency of the way back; that of this way when not given.
            sender: Sending card, when it is shared.
        """
        self.conditions = conditions
        self.name = name
        self.return_latency_s = conditions.latency_s if return_latency_s is None else return_latency_s
        super().__init__(conditions, self._rate(conditions), sender)
        self._jitter_random = generator(seed, f"jitter {name}")
        self._loss_random = generator(seed, f"loss {name}")
        self._jitter = deviating(conditions.jitter, self._jitter_random)
        self._loss = drawing(conditions.loss, self._loss_random)

    @property
    def round_trip_s(self) -> float:
        """Latency of both directions."""
        return self.conditions.latency_s + self.return_latency_s

    def send(self, ready_s: float, size_bytes: float) -> float:
        """Arrival time of one message handed over at ``ready_s``; infinite while the link is down."""
        conditions = self.conditions
        delay = 0.0
        if self._jitter is not None:
            # Below -latency there is no more to take off, so that a retransmission's delay is never eaten up.
            delay = max(-self.latency_s, self._jitter())
        if self._loss is not None:
            rounds = self._loss.rounds(conditions.packets(size_bytes))
            if rounds:
                delay += rounds * self.round_trip_s
        if conditions.overhead_bytes_per_packet:
            size_bytes = conditions.wire_bytes(size_bytes)
        return self.accept(ready_s, size_bytes, delay)

    def send_run(self, ready_s: float, size_bytes: float, count: int) -> list[float]:
        """Arrival times of ``count`` messages of one size handed over together, shape ``(count,)``, rising."""
        return [self.send(ready_s, size_bytes) for _ in range(count)]

    def set(self, conditions: LinkConditions, now_s: float) -> Replan:
        """Let ``conditions`` hold from ``now_s`` on.

        Bytes sent by then keep their arrival; the backlog drains at the new rate, takes the new latency and keeps the
        jitter and retransmissions that it drew. A random process goes on where the new conditions keep it.

        Args:
            conditions: The new ones.
            now_s: When; not before the last message was handed over.

        Returns:
            The new arrivals of the backlog.
        """
        if conditions.jitter != self.conditions.jitter:
            self._jitter = deviating(conditions.jitter, self._jitter_random)
        if conditions.loss != self.conditions.loss:
            self._loss = drawing(conditions.loss, self._loss_random)
        self.conditions = conditions
        return self.change(conditions, self._rate(conditions), now_s)

    def set_return_latency(self, return_latency_s: float, now_s: float) -> Replan:
        """Take note that the way back has another latency, which settles retransmissions and the cap on the rate."""
        self.return_latency_s = return_latency_s
        return self.change(self.conditions, self._rate(self.conditions), now_s)

    def _rate(self, conditions: LinkConditions) -> float:
        return stream_rate_bytes_per_s(conditions, conditions.latency_s + self.return_latency_s)


class PacketClock:
    """One direction of a link that carries packets, which may be dropped, doubled and overtaken.

    A packet is lost before it is queued, and dropped when it does not fit into the queue or the link is down. A double
    is a packet of its own right behind. One that overtakes leaves out the latency, as netem's does. Jitter alone
    reorders nothing: real queues are first in, first out.

    Attributes:
        conditions: The ones that hold.
        name: The link's name.
        lost_packets: Packets that the loss model took.
        overflow_packets: Packets that found the queue full.
        down_packets: Packets that found the link down.
    """

    __slots__ = (
        "_jitter",
        "_jitter_random",
        "_loss",
        "_loss_random",
        "_queue",
        "_uniform",
        "conditions",
        "down_packets",
        "lost_packets",
        "name",
        "overflow_packets",
    )

    def __init__(
        self, conditions: LinkConditions, *, name: str = "link", seed: int = 0, sender: NicClock | None = None
    ) -> None:
        """A clock that is free from time 0; arguments as for :class:`ConditionedClock`."""
        self.conditions = conditions
        self.name = name
        self.lost_packets = self.overflow_packets = self.down_packets = 0
        self._queue = LinkQueue(conditions, conditions.bandwidth_bytes_per_s, sender)
        self._jitter_random = generator(seed, f"jitter {name}")
        self._loss_random = generator(seed, f"loss {name}")
        self._uniform = UniformDraws(generator(seed, f"packets {name}"))
        self._jitter = deviating(conditions.jitter, self._jitter_random)
        self._loss = drawing(conditions.loss, self._loss_random)

    @property
    def free_s(self) -> float:
        """Time at which all packets accepted so far have been sent; infinite while the link is down and some wait."""
        return self._queue.free_s

    @property
    def accepted(self) -> int:
        """Packets accepted so far, doubles included; the number of the next one."""
        return self._queue.accepted

    @property
    def first_unsent(self) -> int:
        """Number of the oldest packet that a change could plan anew."""
        return self._queue.first_unsent

    @property
    def dropped_packets(self) -> int:
        """Packets dropped for any reason."""
        return self.lost_packets + self.overflow_packets + self.down_packets

    def waiting_bytes(self, now_s: float) -> float:
        """Bytes that wait at ``now_s``; a packet counts until its last byte is sent."""
        self._queue.forget_sent(now_s)
        return self._queue.waiting_bytes

    def plan_packet(self, now_s: float, size_bytes: float) -> tuple[float, ...]:
        """Deliveries of a packet that is handed over now.

        Args:
            now_s: Now; never less than in an earlier call.
            size_bytes: Bytes of the packet; the overhead of a packet comes on top.

        Returns:
            One time per copy; empty when it is dropped.
        """
        conditions = self.conditions
        if not conditions.up:
            self.down_packets += 1
            return ()
        if self._loss is not None and self._loss.lost():
            self.lost_packets += 1
            return ()
        first = self._copy(now_s, size_bytes)
        if not first:
            self.overflow_packets += 1
        elif conditions.duplicate_probability and self._uniform() < conditions.duplicate_probability:
            return first + self._copy(now_s, size_bytes)
        return first

    def set(self, conditions: LinkConditions, now_s: float) -> Replan:
        """Let ``conditions`` hold from ``now_s`` on; as :meth:`ConditionedClock.set`.

        Packets that wait when the link goes down wait until it is up again.
        """
        if conditions.jitter != self.conditions.jitter:
            self._jitter = deviating(conditions.jitter, self._jitter_random)
        if conditions.loss != self.conditions.loss:
            self._loss = drawing(conditions.loss, self._loss_random)
        self.conditions = conditions
        return self._queue.change(conditions, conditions.bandwidth_bytes_per_s, now_s)

    def _copy(self, now_s: float, size_bytes: float) -> tuple[float, ...]:
        """Queue one copy; empty when there is no room."""
        conditions = self.conditions
        wire = conditions.wire_bytes(size_bytes)
        if self.waiting_bytes(now_s) + wire > conditions.queue_limit_bytes:
            return ()
        delay = 0.0 if self._jitter is None else self._jitter()
        overtakes = bool(conditions.reorder_probability) and self._uniform() < conditions.reorder_probability
        return (self._queue.accept(now_s, wire, delay, overtakes=overtakes),)
