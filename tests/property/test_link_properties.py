"""The link model against an independent fluid oracle, and its laws."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netshape.conditions import GilbertElliottLoss, IndependentLoss, Jitter, LinkConditions, Loss
from netshape.link_model import ConditionedClock, PacketClock

Step = tuple[float, float, float]
"""Wait before it, then a size in bytes to send, or minus a rate to change to (0 for down), then a new latency."""

TIMES = st.floats(0, 2, allow_subnormal=False)
SENDS = st.tuples(TIMES, st.floats(1, 1e4), st.just(0.0))
CHANGES = st.tuples(TIMES, st.one_of(st.just(-0.0), st.floats(10, 1e5).map(lambda rate: -rate)), st.floats(0, 1))
STEPS = st.lists(st.one_of(SENDS, SENDS, CHANGES), min_size=1, max_size=30)
LOSSES = st.one_of(
    st.none(),
    st.floats(0, 0.5).map(lambda share: IndependentLoss(probability=share)),
    st.tuples(st.floats(0.001, 0.5), st.floats(0.01, 1)).map(
        lambda chain: GilbertElliottLoss(to_bad=chain[0], to_good=chain[1])
    ),
)
JITTERS = st.one_of(
    st.none(),
    st.builds(
        Jitter,
        spread_s=st.floats(0, 1),
        distribution=st.sampled_from(["uniform", "normal", "pareto"]),
        correlation=st.floats(0, 0.99),
    ),
)


def at_rate(rate: float, latency: float) -> LinkConditions:
    if rate == 0:
        return LinkConditions(latency_s=latency, up=False)
    return LinkConditions(bandwidth_bytes_per_s=rate, latency_s=latency)


def fluid_ends(sends: list[tuple[float, float]], rates: list[tuple[float, float]]) -> list[float]:
    """When each message's last byte leaves: bytes flow in order at the rate that holds at each moment."""
    ends, free = [], 0.0
    for ready, size in sends:
        time, left = max(ready, free), size
        for index, (begin, rate) in enumerate(rates):
            until = rates[index + 1][0] if index + 1 < len(rates) else math.inf
            if until <= time or left == 0:
                continue
            span = until - max(time, begin)
            if rate and left / rate <= span:
                time, left = max(time, begin) + left / rate, 0.0
                break
            left -= rate * span if rate else 0.0
            time = until
        ends.append(time)
        free = time
    return ends


@settings(deadline=None)
@given(STEPS)
def test_live_changes_drain_like_a_fluid(steps: list[Step]) -> None:
    clock = ConditionedClock(at_rate(1000.0, 0.25))
    now = 0.0
    sends: list[tuple[float, float]] = []
    rates, latencies = [(0.0, 1000.0)], [(0.0, 0.25)]
    arrivals: list[float] = []
    # At the end the link is up, or bytes would wait for ever.
    for wait, what, latency in [*steps, (0.5, -777.0, 0.125)]:
        now += wait
        if what > 0:
            sends.append((now, what))
            arrivals.append(clock.send(now, what))
            continue
        rates.append((now, -what))
        latencies.append((now, latency))
        replan = clock.set(at_rate(-what, latency), now)
        assert replan.first + len(replan.arrivals_s) == len(arrivals) == clock.accepted
        kept = arrivals[: replan.first]
        arrivals[replan.first :] = replan.arrivals_s
        assert arrivals[: replan.first] == kept
    last = 0.0
    for end, arrival in zip(fluid_ends(sends, rates), arrivals, strict=True):
        # A message takes the latency of the moment at which its last byte leaves, to rounding at the change itself.
        around = [value for begin, value in latencies if begin <= end + 1e-6]
        recent = {around[-1]} | {
            before for (begin, _), before in zip(latencies[1:], around, strict=False) if abs(begin - end) <= 1e-6
        }
        expected = [max(last, end + latency) for latency in recent]
        assert any(arrival == pytest.approx(time, rel=1e-9, abs=1e-6) for time in expected)
        assert arrival >= last
        last = arrival


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(1, 1e5)), min_size=1, max_size=40),
    st.floats(1e3, 1e8),
    st.floats(0, 0.5),
    JITTERS,
    LOSSES,
    st.integers(0, 100),
)
def test_first_in_first_out_and_never_faster_than_the_rate(
    sends: list[tuple[float, float]], rate: float, latency: float, jitter: Jitter | None, loss: Loss | None, seed: int
) -> None:
    conditions = LinkConditions(
        bandwidth_bytes_per_s=rate,
        latency_s=latency,
        jitter=jitter,
        loss=loss,
        mtu_bytes=1000,
        overhead_bytes_per_packet=40,
    )
    clock = ConditionedClock(conditions, seed=seed)
    now, last, begin, total = 0.0, 0.0, 0.0, 0.0
    for wait, size in sends:
        now += wait
        if clock.free_s <= now:
            begin, total = now, 0.0
        total += conditions.wire_bytes(size)
        arrival = clock.send(now, size)
        assert last <= arrival < math.inf
        # Conservation: since the link was last idle, at most rate * time bytes have left.
        assert clock.free_s == pytest.approx(begin + total / clock.bytes_per_s)
        assert clock.bytes_per_s <= rate
        assert arrival >= clock.free_s * (1 - 1e-12)
        if jitter is None:
            assert arrival >= (clock.free_s + latency) * (1 - 1e-12)
        last = arrival


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(1, 1e5)), min_size=1, max_size=40),
    st.floats(1e3, 1e7),
    st.floats(1, 100),
    JITTERS,
    LOSSES,
)
def test_more_bandwidth_makes_nothing_later(
    sends: list[tuple[float, float]], rate: float, more: float, jitter: Jitter | None, loss: Loss | None
) -> None:
    clocks = [
        ConditionedClock(LinkConditions(bandwidth_bytes_per_s=speed, latency_s=0.1, jitter=jitter, loss=loss))
        for speed in (rate, rate * more)
    ]
    now = 0.0
    for wait, size in sends:
        now += wait
        slow, fast = (clock.send(now, size) for clock in clocks)
        assert fast <= slow * (1 + 1e-12)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 0.1), st.floats(1, 1500)), min_size=1, max_size=60),
    st.floats(1e3, 1e6),
    st.floats(1500, 1e4),
    LOSSES,
    st.floats(0, 1),
    st.integers(0, 100),
)
def test_packets_are_delivered_dropped_or_doubled_and_all_counted(
    packets: list[tuple[float, float]], rate: float, limit: float, loss: Loss | None, doubles: float, seed: int
) -> None:
    conditions = LinkConditions(
        bandwidth_bytes_per_s=rate,
        latency_s=0.01,
        queue_limit_bytes=limit,
        loss=loss,
        duplicate_probability=doubles,
        reorder_probability=0.2,
    )
    clock = PacketClock(conditions, seed=seed)
    now, copies, dropped = 0.0, 0, 0
    for wait, size in packets:
        now += wait
        times = clock.plan_packet(now, size)
        copies += len(times)
        dropped += not times
        assert clock.waiting_bytes(now) <= limit
        assert clock.free_s <= now + limit / rate * (1 + 1e-9)
        assert all(time >= now + size / rate * (1 - 1e-12) for time in times)
    assert (clock.accepted, clock.dropped_packets) == (copies, dropped)
