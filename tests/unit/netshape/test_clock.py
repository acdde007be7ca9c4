import pytest
from hypothesis import given
from hypothesis import strategies as st

from netshape.clock import LinkClock, NicClock


def test_a_message_takes_its_transmission_time_and_the_latency() -> None:
    link = LinkClock(1e6, 0.05)
    assert link.send(2.0, 1e5) == pytest.approx(2.0 + 0.1 + 0.05)
    assert link.free_s == pytest.approx(2.1)


def test_messages_queue_for_the_link_but_share_its_latency() -> None:
    link = LinkClock(1e6, 1.0)
    assert link.send_run(0.0, 1e6, 3) == pytest.approx([2.0, 3.0, 4.0])
    assert link.send(0.5, 1e6) == pytest.approx(5.0)
    assert link.send(10.0, 1e6) == pytest.approx(12.0)


def test_the_slowest_of_card_and_link_sets_the_pace_and_is_paid_once() -> None:
    fast_card = LinkClock(1e6, 0.0, NicClock(1e7))
    assert fast_card.send_run(0.0, 1e6, 2) == pytest.approx([1.0, 2.0])
    slow_card = LinkClock(1e7, 0.0, NicClock(1e6))
    assert slow_card.send_run(0.0, 1e6, 2) == pytest.approx([1.0, 2.0])


def test_links_behind_one_card_share_it() -> None:
    card = NicClock(1e6)
    first, second = LinkClock(1e7, 0.0, card), LinkClock(1e7, 0.0, card)
    assert first.send(0.0, 1e6) == pytest.approx(1.0)
    assert second.send(0.0, 1e6) == pytest.approx(2.0)


def test_an_idle_receiving_card_adds_nothing_and_a_busy_one_queues() -> None:
    card = NicClock(1e6)
    assert card.receive([5.0, 6.0], 1e6, 1e6) == [5.0, 6.0]
    assert card.receive([6.1], 1e6, 1e6) == pytest.approx([7.0])
    assert card.receive([6.2, 6.3], [1e6, 5e5], 1e6) == pytest.approx([8.0, 8.5])


def test_a_card_slower_than_the_wire_takes_its_own_time() -> None:
    # The first byte comes 0.1 s before the last one at 5.0; the card needs 1 s from there.
    assert NicClock(1e6).receive([5.0], 1e6, 1e7) == pytest.approx([5.9])
    assert NicClock(1e6).receive([5.0, 5.1], 1e6, 1e7) == pytest.approx([5.9, 6.9])
    assert NicClock(1e6).receive([5.0, 5.1], [1e6, 1e6], 1e7) == pytest.approx([5.9, 6.9])


def test_messages_that_come_in_a_bunch_queue_for_the_receiving_card() -> None:
    card = NicClock(1e6)
    assert card.receive([1.0, 5.0, 5.1], 1e6, 1e7) == pytest.approx([1.9, 5.9, 6.9])


SENDS = st.lists(st.tuples(st.floats(0, 10), st.floats(1, 1e6), st.integers(1, 5)), min_size=1, max_size=20).map(
    lambda sends: sorted(sends)
)


@given(SENDS, st.floats(1e3, 1e7), st.floats(0, 1), st.none() | st.floats(1e3, 1e7))
def test_arrivals_are_in_order_and_never_early(
    sends: list[tuple[float, float, int]], rate: float, latency: float, card: float | None
) -> None:
    link = LinkClock(rate, latency, None if card is None else NicClock(card))
    slowest = rate if card is None else min(rate, card)
    last, total = 0.0, 0.0
    for ready, size, count in sends:
        times = link.send_run(ready, size, count)
        assert len(times) == count
        for index, time in enumerate(times):
            total += size
            assert time >= last
            assert time >= (ready + (index + 1) * size / slowest + latency) * (1 - 1e-9)
            last = time
    # All bytes have passed the slowest stage, starting no earlier than the first was ready.
    assert last >= (sends[0][0] + total / slowest + latency) * (1 - 1e-9)


@given(SENDS, st.floats(1e3, 1e7))
def test_a_run_is_the_same_as_its_messages(sends: list[tuple[float, float, int]], rate: float) -> None:
    together, one_by_one = LinkClock(rate, 0.01), LinkClock(rate, 0.01)
    for ready, size, count in sends:
        assert together.send_run(ready, size, count) == [one_by_one.send(ready, size) for _ in range(count)]


@given(
    st.lists(st.tuples(st.floats(0.0, 1.0), st.floats(0.001, 1000.0)), min_size=1, max_size=30).map(sorted),
    st.booleans(),
    st.floats(0.0, 2.0),
    st.floats(100.0, 1e5),
)
def test_a_receiving_card_never_passes_more_than_its_rate(
    handed_over: list[tuple[float, float]], alike: bool, free_s: float, wire: float
) -> None:
    sizes = [handed_over[0][1] if alike else size for _, size in handed_over]
    link, card = LinkClock(wire, 0.0), NicClock(1000.0)
    times = [link.send(ready, size) for (ready, _), size in zip(handed_over, sizes, strict=True)]
    card.free_s = last = free_s
    passed = card.receive(times, sizes[0] if alike else sizes, wire)
    for arrived, size, through in zip(times, sizes, passed, strict=True):
        # From its first byte, or when the card is free, until the card has passed it; never before its last byte.
        begin = max(last, arrived - size / wire)
        assert through == pytest.approx(max(arrived, begin + size / 1000.0))
        last = through
    assert card.free_s == passed[-1]
