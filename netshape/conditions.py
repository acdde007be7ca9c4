"""What one direction of a link is like: rate, delay, jitter, loss and the rest, as frozen values.

The two directions of a link are two values. Rates and limits that are not given are :data:`math.inf`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from netshape.errors import NetworkError

PACKET_BYTES = 1448
"""Payload of a packet where no MTU is given: Ethernet's 1500 less IPv4 and TCP headers with time stamps."""
MAX_RATE_BYTES_PER_S = 1e15
MAX_SECONDS = 86_400.0
"""Longest latency or spread; more is a slip of a unit."""
MAX_CORRELATION = 0.999

Distribution = Literal["uniform", "normal", "pareto"]
DISTRIBUTIONS: tuple[Distribution, ...] = ("uniform", "normal", "pareto")


@dataclass(frozen=True, slots=True, kw_only=True)
class Jitter:
    """Deviation of a message's delay from the latency; a delay never falls below 0.

    Attributes:
        distribution: ``uniform`` within plus or minus the spread; ``normal`` with the spread as standard deviation;
            ``pareto``, a heavy tail (shape 3, as netem's table) shifted and scaled to mean 0 and the spread as standard
            deviation, so at least -0.58 spreads.
        spread_s: See ``distribution``.
        correlation: Of a message's jitter with that of the message before, 0 to 0.999. The distribution stays what it
            is: the correlation is that of the normal variates beneath it.

    Raises:
        NetworkError: A value out of its range.
    """

    spread_s: float
    distribution: Distribution = "uniform"
    correlation: float = 0.0

    def __post_init__(self) -> None:
        if self.distribution not in DISTRIBUTIONS:
            raise NetworkError(
                f"jitter distribution {self.distribution!r}: it must be one of {', '.join(DISTRIBUTIONS)}"
            )
        _within("jitter spread_s", self.spread_s, 0.0, MAX_SECONDS)
        _within("jitter correlation", self.correlation, 0.0, MAX_CORRELATION)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndependentLoss:
    """Every packet is lost with the same probability.

    Attributes:
        probability: Of one packet, 0 to below 1.

    Raises:
        NetworkError: A value out of its range.
    """

    probability: float

    def __post_init__(self) -> None:
        _probability("loss probability", self.probability, below_one=True)

    @property
    def mean_probability(self) -> float:
        """Share of packets lost."""
        return self.probability

    @property
    def event_probability(self) -> float:
        """Probability that a packet is lost and begins a run of lost ones."""
        return self.probability * (1 - self.probability)


@dataclass(frozen=True, slots=True, kw_only=True)
class GilbertElliottLoss:
    """Loss in bursts: a chain of a good and a bad state that takes a step per packet.

    Source: E. N. Gilbert, "Capacity of a burst-noise channel" (1960); E. O. Elliott, "Estimates of error rates for
    codes on burst-noise channels" (1963).

    Attributes:
        to_bad: Probability of a step from good to bad, above 0.
        to_good: Probability of a step from bad to good, above 0; one by it is the mean length of a bad time
            in packets.
        loss_good: Probability that a packet is lost in the good state.
        loss_bad: The same in the bad state.

    Raises:
        NetworkError: A value out of its range, or a loss of every packet.
    """

    to_bad: float
    to_good: float
    loss_good: float = 0.0
    loss_bad: float = 1.0

    def __post_init__(self) -> None:
        for name in ("to_bad", "to_good"):
            value = getattr(self, name)
            _probability(f"loss {name}", value)
            if value < 1e-9:
                raise NetworkError(
                    f"loss {name} = {value!r}: it must be at least 1e-9, or the chain never leaves a state"
                )
        _probability("loss loss_good", self.loss_good)
        _probability("loss loss_bad", self.loss_bad)
        if self.mean_probability >= 1:
            raise NetworkError("loss: every packet would be lost; take the link down (up = false) instead")

    @property
    def bad_share(self) -> float:
        """Share of packets that meet the bad state."""
        return self.to_bad / (self.to_bad + self.to_good)

    @property
    def mean_probability(self) -> float:
        """Share of packets lost."""
        return self.bad_share * self.loss_bad + (1 - self.bad_share) * self.loss_good

    @property
    def event_probability(self) -> float:
        """Probability that a packet is lost and the one before was not, so that a burst counts once."""
        after_good = self.to_bad * self.loss_bad + (1 - self.to_bad) * self.loss_good
        after_bad = self.to_good * self.loss_good + (1 - self.to_good) * self.loss_bad
        passed_good, passed_bad = (1 - self.bad_share) * (1 - self.loss_good), self.bad_share * (1 - self.loss_bad)
        return passed_good * after_good + passed_bad * after_bad


Loss = IndependentLoss | GilbertElliottLoss


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkConditions:
    """One direction of a link.

    Attributes:
        bandwidth_bytes_per_s: Rate at which bytes leave, overhead included; infinite when not limited.
        latency_s: One-way propagation delay.
        jitter: Deviation from it; ``None`` for none.
        loss: Loss of packets; ``None`` for none. On a reliable stream a loss is a retransmission's delay and a cap on
            the rate, never lost bytes.
        duplicate_probability: That a packet comes twice; packet backends only.
        reorder_probability: That a packet overtakes, by leaving out the latency; packet backends only.
        queue_limit_bytes: Bytes that may wait for the link, overhead included. A packet beyond them is dropped; the
            sender of a stream waits.
        mtu_bytes: Most payload bytes that one packet carries; ``None`` where packets play no part
            (losses then count packets of :data:`PACKET_BYTES`).
        overhead_bytes_per_packet: Bytes that a packet takes up on the link beside its payload; needs ``mtu_bytes``.
        up: Whether bytes move at all. What is accepted while a stream's link is down waits; packets are dropped.

    Raises:
        NetworkError: A value out of its range, or overhead without an MTU.
    """

    bandwidth_bytes_per_s: float = math.inf
    latency_s: float = 0.0
    jitter: Jitter | None = None
    loss: Loss | None = None
    duplicate_probability: float = 0.0
    reorder_probability: float = 0.0
    queue_limit_bytes: float = math.inf
    mtu_bytes: int | None = None
    overhead_bytes_per_packet: float = 0.0
    up: bool = True

    def __post_init__(self) -> None:
        _positive("bandwidth_bytes_per_s", self.bandwidth_bytes_per_s, MAX_RATE_BYTES_PER_S)
        _within("latency_s", self.latency_s, 0.0, MAX_SECONDS)
        _probability("duplicate_probability", self.duplicate_probability)
        _probability("reorder_probability", self.reorder_probability)
        _positive("queue_limit_bytes", self.queue_limit_bytes, math.inf)
        if self.mtu_bytes is not None:
            _within("mtu_bytes", self.mtu_bytes, 1, 1 << 30)
            if self.mtu_bytes != int(self.mtu_bytes):
                raise NetworkError(f"mtu_bytes = {self.mtu_bytes!r}: it must be a whole number")
        _within("overhead_bytes_per_packet", self.overhead_bytes_per_packet, 0.0, 1e9)
        if self.overhead_bytes_per_packet and self.mtu_bytes is None:
            raise NetworkError("overhead_bytes_per_packet needs mtu_bytes: give the payload bytes of a packet, too")

    @property
    def packet_bytes(self) -> int:
        """Most payload bytes of a packet."""
        return PACKET_BYTES if self.mtu_bytes is None else self.mtu_bytes

    def packets(self, size_bytes: float) -> int:
        """Packets that a message of ``size_bytes`` takes, at least 1."""
        return max(1, math.ceil(size_bytes / self.packet_bytes))

    def wire_bytes(self, size_bytes: float) -> float:
        """Bytes that a message of ``size_bytes`` takes up on the link."""
        if not self.overhead_bytes_per_packet:
            return size_bytes
        return size_bytes + self.packets(size_bytes) * self.overhead_bytes_per_packet


def _within(name: str, value: float, least: float, most: float) -> None:
    _number(name, value)
    if not least <= value <= most:
        raise NetworkError(f"{name} = {value!r}: it must be from {least:g} to {most:g}")


def _positive(name: str, value: float, most: float) -> None:
    """Above 0 and at most ``most``, or infinite for no limit."""
    _number(name, value)
    if not (0 < value <= most or value == math.inf):
        raise NetworkError(f"{name} = {value!r}: it must be above 0, at most {most:g}, or infinite for no limit")


def _probability(name: str, value: float, *, below_one: bool = False) -> None:
    _number(name, value)
    if not 0 <= value <= 1 or (below_one and value == 1):
        range_text = "from 0 to below 1" if below_one else "from 0 to 1"
        raise NetworkError(f"{name} = {value!r}: it must be a probability {range_text}")


def _number(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise NetworkError(f"{name} = {value!r}: it must be a number")
