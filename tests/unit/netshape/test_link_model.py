import math
from typing import Any

import numpy as np
import pytest

from netshape.clock import LinkClock, NicClock
from netshape.conditions import GilbertElliottLoss, IndependentLoss, Jitter, LinkConditions
from netshape.link_model import ConditionedClock, PacketClock, stream_rate_bytes_per_s


def conditions(rate: float = 1e6, latency: float = 0.05, **more: Any) -> LinkConditions:
    return LinkConditions(bandwidth_bytes_per_s=rate, latency_s=latency, **more)


def test_a_plain_link_is_a_link_clock_to_the_last_bit() -> None:
    for card_rate in (None, 3e5, 7e6):
        plain = LinkClock(1e6, 0.05, None if card_rate is None else NicClock(card_rate))
        ours = ConditionedClock(conditions(), sender=None if card_rate is None else NicClock(card_rate))
        time = 0.0
        for step in range(200):
            time += (step * 7919 % 13) * 0.0173
            assert ours.send_run(time, 10_000 + step * 31, step % 4 + 1) == [
                plain.send(time, 10_000 + step * 31) for _ in range(step % 4 + 1)
            ]
            assert (ours.free_s, ours.pace_bytes_per_s) == (plain.free_s, plain.pace_bytes_per_s)


def test_an_unlimited_link_takes_its_latency_only() -> None:
    clock = ConditionedClock(LinkConditions(latency_s=0.01))
    assert clock.send(1.0, 1e12) == 1.01
    assert NicClock(1e6).receive([1.01], 1e5, clock.pace_bytes_per_s) == pytest.approx([1.11])


def test_overhead_takes_its_share_of_the_rate() -> None:
    clock = ConditionedClock(conditions(mtu_bytes=1000, overhead_bytes_per_packet=250))
    assert clock.send(0.0, 1e5) == pytest.approx(0.125 + 0.05)


def test_jitter_moves_arrivals_but_reorders_nothing() -> None:
    jitter = Jitter(distribution="normal", spread_s=0.01)
    clock = ConditionedClock(conditions(1e9, jitter=jitter), name="a->b", seed=3)
    times = [clock.send(float(second), 1e3) - second for second in range(2000)]
    assert np.mean(times) == pytest.approx(0.05, abs=0.001)
    assert np.std(times) == pytest.approx(0.01, rel=0.1)
    dense = [clock.send(3000 + step * 1e-4, 1e3) for step in range(2000)]
    assert dense == sorted(dense)
    assert min(time - (3000 + step * 1e-4) for step, time in enumerate(dense)) > 0


def test_draws_hang_on_seed_and_name() -> None:
    def arrivals(seed: int, name: str) -> list[float]:
        loss = GilbertElliottLoss(to_bad=0.05, to_good=0.3)
        clock = ConditionedClock(conditions(jitter=Jitter(spread_s=0.01), loss=loss), name=name, seed=seed)
        return [clock.send(float(second), 1e4) for second in range(100)]

    assert arrivals(1, "a->b") == arrivals(1, "a->b")
    assert len({tuple(arrivals(seed, name)) for seed in (1, 2) for name in ("a->b", "b->a")}) == 4


def test_a_loss_costs_whole_round_trips_and_no_bytes() -> None:
    lossy = conditions(1e12, 0.03, loss=IndependentLoss(probability=0.1))
    clock = ConditionedClock(lossy, return_latency_s=0.05)
    delays = [clock.send(second * 10.0, 1448 * 5) - second * 10.0 for second in range(3000)]
    rounds = [(delay - 0.03) / 0.08 for delay in delays]
    # The cap on the rate adds its transmission time to each.
    sending = 5 * 1448 / stream_rate_bytes_per_s(lossy, 0.08)
    assert all(abs(count - sending / 0.08 - round(count - sending / 0.08)) < 1e-6 for count in rounds)
    assert np.mean([count - sending / 0.08 > 0.5 for count in rounds]) == pytest.approx(1 - 0.9**5, abs=0.03)


def test_the_rate_of_a_lossy_stream_follows_the_square_root() -> None:
    loss = IndependentLoss(probability=0.0001)
    # MSS / RTT * sqrt(3/2) / sqrt(p): 1448 B, 100 ms, p = 1e-4 (about).
    assert stream_rate_bytes_per_s(conditions(1e9, loss=loss), 0.1) == pytest.approx(1.7734e6, rel=1e-3)
    assert stream_rate_bytes_per_s(conditions(1e5, loss=loss), 0.1) == pytest.approx(1e5 * 0.9999)
    assert stream_rate_bytes_per_s(conditions(1e9, loss=loss), 0.0) == pytest.approx(1e9 * 0.9999)
    bursts = GilbertElliottLoss(to_bad=0.0001, to_good=0.1)
    scattered = IndependentLoss(probability=bursts.mean_probability)
    rates = [stream_rate_bytes_per_s(conditions(1e9, loss=kind), 0.1) for kind in (bursts, scattered)]
    assert rates[0] / rates[1] == pytest.approx(math.sqrt(10), rel=0.01)


def test_a_steady_stream_gets_the_lossy_rate() -> None:
    lossy = conditions(1e9, 0.05, loss=IndependentLoss(probability=0.001))
    clock = ConditionedClock(lossy)
    last = clock.send_run(0.0, 1e5, 2000)[-1]
    assert 2e8 / (last - 0.05) == pytest.approx(stream_rate_bytes_per_s(lossy, 0.1), rel=0.01)


def test_a_new_rate_holds_for_the_backlog_and_what_left_keeps_its_time() -> None:
    clock = ConditionedClock(conditions(1000.0, 1.0))
    assert clock.send_run(0.0, 1000.0, 4) == [2.0, 3.0, 4.0, 5.0]
    replan = clock.set(conditions(500.0, 1.0), 1.5)
    # The second has 500 bytes left: 1 s more. The others take 2 s each.
    assert (replan.first, replan.arrivals_s) == (1, (3.5, 5.5, 7.5))
    assert clock.free_s == 6.5
    assert clock.send(2.0, 500.0) == 8.5
    assert clock.first_unsent == 1
    clock.forget_sent(6.5)
    assert (clock.first_unsent, clock.waiting_bytes) == (4, 500.0)


def test_a_shorter_latency_overtakes_nothing_and_a_longer_one_delays_the_backlog() -> None:
    clock = ConditionedClock(conditions(1000.0, 10.0))
    assert clock.send_run(0.0, 1000.0, 3) == [11.0, 12.0, 13.0]
    assert clock.set(conditions(1000.0, 0.1), 2.0).arrivals_s == (12.0,)
    assert clock.send(3.0, 1.0) == 12.0
    assert clock.send(20.0, 1000.0) == pytest.approx(21.1)
    assert clock.set(conditions(1000.0, 5.0), 20.5).arrivals_s == (26.0,)


def test_a_link_that_is_down_holds_back_and_goes_on_when_up() -> None:
    clock = ConditionedClock(conditions(1000.0, 1.0))
    clock.send_run(0.0, 1000.0, 2)
    assert clock.set(conditions(1000.0, 1.0, up=False), 0.25).arrivals_s == (math.inf, math.inf)
    assert clock.send(0.5, 1000.0) == math.inf
    assert clock.free_s == math.inf
    assert clock.set(conditions(2000.0, 1.0, up=False), 5.0).arrivals_s == (math.inf,) * 3
    replan = clock.set(conditions(2000.0, 1.0), 10.0)
    assert (replan.first, replan.arrivals_s) == (0, (11.375, 11.875, 12.375))
    assert clock.send(20.0, 2000.0) == 22.0


def test_a_change_leaves_what_was_drawn() -> None:
    loss = IndependentLoss(probability=0.5)
    clock = ConditionedClock(conditions(1e3, 0.1, loss=loss, jitter=Jitter(spread_s=0.05)), seed=5)
    before = clock.send_run(0.0, 1e3, 20)
    rate = clock.bytes_per_s
    replan = clock.set(conditions(1e3, 0.1, loss=loss, jitter=Jitter(spread_s=0.05)), rate and 0.5 / rate)
    assert replan.first == 0
    assert replan.arrivals_s == pytest.approx(before)


def test_another_way_back_settles_retransmissions() -> None:
    lossy = conditions(1e9, 0.05, loss=IndependentLoss(probability=0.01))
    clock = ConditionedClock(lossy, return_latency_s=0.01)
    assert clock.bytes_per_s == stream_rate_bytes_per_s(lossy, 0.06)
    clock.set_return_latency(0.15, 0.0)
    assert (clock.bytes_per_s, clock.round_trip_s) == (stream_rate_bytes_per_s(lossy, 0.2), 0.2)


def test_packets_are_dropped_at_the_tail_of_a_full_queue() -> None:
    clock = PacketClock(conditions(1000.0, 1.0, queue_limit_bytes=2500.0))
    assert [clock.plan_packet(0.0, 1000.0) for _ in range(3)] == [(2.0,), (3.0,), ()]
    assert clock.plan_packet(0.0, 500.0) == (3.5,)
    assert clock.waiting_bytes(1.0) == 1500.0
    assert clock.plan_packet(1.0, 1000.0) == (4.5,)
    assert (clock.overflow_packets, clock.dropped_packets, clock.accepted) == (1, 1, 4)


def test_packets_are_lost_at_the_loss_rate_and_cost_no_bandwidth() -> None:
    clock = PacketClock(conditions(1e3, 0.0, loss=IndependentLoss(probability=0.25)), seed=2)
    times = [clock.plan_packet(0.0, 1.0) for _ in range(20_000)]
    through = sum(len(time) for time in times)
    assert through == pytest.approx(15_000, rel=0.03)
    assert clock.lost_packets == 20_000 - through
    assert clock.free_s == pytest.approx(through / 1e3)


def test_doubles_follow_their_packet_and_take_bandwidth() -> None:
    clock = PacketClock(conditions(1e3, 0.5, duplicate_probability=0.3), seed=2)
    times = [clock.plan_packet(0.0, 1.0) for _ in range(10_000)]
    assert all(time[1] - time[0] == pytest.approx(1e-3) for time in times if len(time) == 2)
    assert sum(len(time) == 2 for time in times) == pytest.approx(3000, rel=0.06)
    assert clock.free_s == pytest.approx(sum(len(time) for time in times) / 1e3)


def test_some_packets_overtake_and_the_others_stay_in_order() -> None:
    mixed = conditions(1e6, 0.1, reorder_probability=0.2, jitter=Jitter(spread_s=0.01))
    clock = PacketClock(mixed, seed=4)
    times = [clock.plan_packet(step * 0.002, 100.0)[0] for step in range(5000)]
    early = [time - step * 0.002 < 0.05 for step, time in enumerate(times)]
    assert sum(early) == pytest.approx(1000, rel=0.12)
    in_order = [time for time, overtook in zip(times, early, strict=True) if not overtook]
    assert in_order == sorted(in_order)


def test_packets_that_wait_outlast_a_link_that_goes_down() -> None:
    clock = PacketClock(conditions(1000.0, 1.0))
    assert [clock.plan_packet(0.0, 1000.0), clock.plan_packet(0.0, 1000.0)] == [(2.0,), (3.0,)]
    assert clock.set(conditions(1000.0, 1.0, up=False), 0.5).arrivals_s == (math.inf, math.inf)
    assert clock.plan_packet(0.6, 10.0) == ()
    replan = clock.set(conditions(500.0, 1.0), 2.0)
    assert (replan.first, replan.arrivals_s) == (0, (4.0, 6.0))
    assert clock.down_packets == 1


def test_packets_share_a_sending_card() -> None:
    card = NicClock(1000.0)
    clocks = [PacketClock(conditions(1e9, 0.0), sender=card) for _ in range(2)]
    assert [clock.plan_packet(0.0, 500.0)[0] for clock in clocks] == pytest.approx([0.5, 1.0])
