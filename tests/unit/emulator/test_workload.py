"""Lengths, arrivals, and the feeders that turn them into requests."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from small_runs import arrivals, constant, toy_cluster, toy_profile, toy_spec

from emulator.emulation import Emulation
from emulator.errors import SimulationError
from emulator.requests import Request
from emulator.spec import SchedulerSpec, WhenFull, WhenNoRoute
from emulator.workload import (
    Arrival,
    ClosedLoop,
    FixedLengths,
    Lengths,
    ListedArrivals,
    ListedLengths,
    OpenLoop,
    QuantileLengths,
    RandomArrivals,
    Refill,
)

FIXED = FixedLengths(prompt_tokens=100, output_tokens=3)


def submitted(emulation: Emulation) -> list[Request]:
    """Runs, and returns every request in order of arrival."""
    ended: list[Request] = []
    emulation._on_ended = emulation.state.coordinator.on_ended = ended.append
    emulation.run()
    return sorted(ended, key=lambda request: request.number)


# -- sources -----------------------------------------------------------------------------------


def test_listed_lengths_start_over() -> None:
    source = ListedLengths([Lengths(1, 2), Lengths(3, 4)])
    assert list(itertools.islice(source.draws(0), 5)) == [(1, 2), (3, 4), (1, 2), (3, 4), (1, 2)]


def test_quantile_lengths_follow_their_tables() -> None:
    source = QuantileLengths(
        prompt_quantiles=[10, 20, 100], bin_edges=[20.0], output_quantiles=[[1, 3], [50, 60]], scale=1.0
    )
    drawn = list(itertools.islice(source.draws(3), 4000))
    prompts = np.array([one.prompt_tokens for one in drawn])
    assert prompts.min() >= 10
    assert prompts.max() <= 100
    assert np.median(prompts) == pytest.approx(20, abs=1)
    assert {one.output_tokens for one in drawn if one.prompt_tokens < 20} == {1, 2, 3}
    assert all(50 <= one.output_tokens <= 60 for one in drawn if one.prompt_tokens > 20)


def test_quantile_lengths_are_scaled_and_never_below_one() -> None:
    source = QuantileLengths(prompt_quantiles=[10, 100], bin_edges=[], output_quantiles=[[1, 1]], scale=0.1)
    drawn = list(itertools.islice(source.draws(3), 500))
    assert {one.output_tokens for one in drawn} == {1}
    assert {one.prompt_tokens for one in drawn} == set(range(1, 11))


def test_draws_depend_on_the_seed_alone() -> None:
    source = QuantileLengths(prompt_quantiles=[10, 1000], bin_edges=[], output_quantiles=[[1, 500]])
    open_loop = RandomArrivals(requests_per_s=2.0, burstiness=3.0, lengths=source)
    first, again = (
        list(itertools.islice(open_loop.arrivals(1), 300)),
        list(itertools.islice(open_loop.arrivals(1), 300)),
    )
    other = list(itertools.islice(open_loop.arrivals(2), 300))
    assert first == again
    assert [one.at_s for one in first] != [one.at_s for one in other]
    assert [one.prompt_tokens for one in first] != [one.prompt_tokens for one in other]


def test_lengths_do_not_depend_on_the_arrivals_rate() -> None:
    source = QuantileLengths(prompt_quantiles=[10, 1000], bin_edges=[], output_quantiles=[[1, 500]])
    slow, fast = (RandomArrivals(requests_per_s=rate, lengths=source).arrivals(5) for rate in (1.0, 10.0))
    for _ in range(300):
        assert next(slow)[1:] == next(fast)[1:]


@pytest.mark.parametrize("rate", [0.0, -1.0, math.nan, math.inf])
def test_a_rate_that_makes_no_sense(rate: float) -> None:
    with pytest.raises(SimulationError, match="rate is"):
        RandomArrivals(requests_per_s=rate, lengths=FIXED)


@pytest.mark.parametrize("burstiness", [0.0, -1.0, math.nan])
def test_a_burstiness_that_makes_no_sense(burstiness: float) -> None:
    with pytest.raises(SimulationError, match="burstiness is"):
        RandomArrivals(requests_per_s=1.0, lengths=FIXED, burstiness=burstiness)


@pytest.mark.parametrize("times", [(1.0, 0.5), (-1.0,), (0.0, math.nan)])
def test_arrivals_out_of_order(times: tuple[float, ...]) -> None:
    with pytest.raises(SimulationError, match="sort by time"):
        ListedArrivals([Arrival(time, 1, 1) for time in times])


def test_no_lengths_at_all() -> None:
    with pytest.raises(SimulationError, match="is empty"):
        ListedLengths([])


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("initial_requests", 0, "at least 1 initial request"),
        ("spacing_s", -0.1, "spacing is"),
        ("spacing_s", math.nan, "spacing is"),
        ("feed_high_water_mark", 0.0, "feed high-water mark is"),
        ("feed_high_water_mark", 1.1, "feed high-water mark is"),
    ],
)
def test_a_closed_loop_that_makes_no_sense(field: str, value: float, message: str) -> None:
    fields = {"initial_requests": 1, "refill": Refill.CONSTANT, "lengths": FIXED, field: value}
    with pytest.raises(SimulationError, match=message):
        ClosedLoop(**fields)  # type: ignore[arg-type]


# -- open loop ---------------------------------------------------------------------------------


def test_an_open_loop_submits_at_the_times_given_whatever_the_cluster_does() -> None:
    times = [0.0, 0.25, 0.25, 0.3, 59.0, 60.0, 60.5]
    requests = submitted(Emulation(toy_spec(workload=arrivals(*((time, 500, 400) for time in times)))))
    # What comes after the end does not come.
    assert [request.arrival_s for request in requests] == times[:-1]


def test_an_endless_open_loop_stops_when_the_run_drains() -> None:
    source = RandomArrivals(requests_per_s=3.0, lengths=FIXED)
    requests = submitted(Emulation(toy_spec(workload=OpenLoop(source=source), duration_s=20.0, drain=True)))
    expected = [one.at_s for one in itertools.takewhile(lambda one: one.at_s <= 20.0, source.arrivals(0))]
    assert [request.arrival_s for request in requests] == expected


# -- closed loop -------------------------------------------------------------------------------


def test_a_constant_number_in_flight() -> None:
    emulation = Emulation(toy_spec(workload=constant(3, prompt=100, output=5), duration_s=20.0))
    requests = submitted(emulation)
    assert [request.arrival_s for request in requests[:3]] == pytest.approx([0.0, 0.1, 0.2])
    ends = sorted(request.end_s for request in requests if request.end_s is not None)
    assert len(ends) > 20
    # Every later request comes 0.1 s after another one's end.
    assert [request.arrival_s for request in requests[3:]] == pytest.approx(
        [end + 0.1 for end in ends if end + 0.1 <= 20.0]
    )


@pytest.mark.parametrize("when_no_route", list(WhenNoRoute))
def test_a_constant_loop_does_not_lose_its_place_to_refusals(when_no_route: WhenNoRoute) -> None:
    """Every second prompt is too long; the loop goes on with the next one after a pause."""
    lengths = ListedLengths([Lengths(100, 3), Lengths(5000, 3)])
    workload = ClosedLoop(lengths=lengths, initial_requests=2, refill=Refill.CONSTANT, spacing_s=0.0)
    spec = toy_spec(
        profiles={"gpu": toy_profile(max_prompts=1)},
        scheduler=SchedulerSpec(policy="round-robin"),
        when_no_route=when_no_route,
        workload=workload,
        duration_s=20.0,
    )
    requests = submitted(Emulation(spec))
    late = [request for request in requests if request.arrival_s > 15.0]
    assert sum(str(request.outcome) == "finished" for request in late) > 5
    assert sum(str(request.outcome) == "rejected" for request in late) > 5


def test_a_loop_of_nothing_but_refusals_ends_in_time() -> None:
    workload = ClosedLoop(
        lengths=FixedLengths(prompt_tokens=100_000, output_tokens=1),
        initial_requests=2,
        refill=Refill.CONSTANT,
        spacing_s=0.0,
    )
    summary = Emulation(toy_spec(workload=workload, duration_s=5.0)).run()
    assert summary["requests"]["rejected"] == summary["requests"]["submitted"] == 2 * 51


@pytest.mark.parametrize("when_full", [WhenFull.REJECT])
def test_a_constant_loop_does_not_lose_its_place_to_a_full_cache(when_full: WhenFull) -> None:
    spec = toy_spec(
        cluster=toy_cluster(kv_capacity=4 * 130),
        scheduler=SchedulerSpec(policy="round-robin"),
        workload=constant(4, prompt=100, output=5),
        when_full=when_full,
        duration_s=20.0,
    )
    requests = submitted(Emulation(spec))
    assert {str(request.outcome) for request in requests if request.arrival_s > 15.0} >= {"finished", "rejected"}


def kv_room(initial: int, mark: float) -> ClosedLoop:
    return ClosedLoop(
        lengths=FixedLengths(prompt_tokens=100, output_tokens=50),
        initial_requests=initial,
        refill=Refill.KV_ROOM,
        feed_high_water_mark=mark,
    )


@pytest.mark.parametrize("mark", [0.3, 0.6])
def test_a_kv_room_loop_feeds_while_the_fullest_layer_has_room(mark: float) -> None:
    """A request is expected to need 244 of 10,000 tokens; it is fed up to the first one above the mark."""
    spec = toy_spec(
        cluster=toy_cluster(kv_capacity=4 * 10_000),
        scheduler=SchedulerSpec(policy="max-flow"),
        workload=kv_room(3, mark),
        duration_s=60.0,
    )
    emulation = Emulation(spec)
    most = 0
    while emulation.env.peek() <= 60.0:
        emulation.env.step()
        most = max(most, emulation.state.coordinator.in_flight_count)
    extra = int(100 + 0.6 * 240)
    full = math.floor(mark * 10_000 / extra) + 1
    # Requests that were on their way when the mark was passed come too.
    assert full <= most <= full + 5


def test_a_kv_room_loop_uses_the_cache_itself_for_policies_that_expect_nothing() -> None:
    spec = toy_spec(
        cluster=toy_cluster(kv_capacity=4 * 2_000),
        scheduler=SchedulerSpec(policy="round-robin"),
        workload=kv_room(3, 0.5),
        duration_s=60.0,
    )
    emulation = Emulation(spec)
    emulation.run()
    (node,) = emulation.state.nodes
    assert emulation.state.kv_bottleneck() == pytest.approx(node.kv_used / node.kv_capacity)
    # It went on past its first three requests and stopped with what was then on its way.
    assert node.kv_peak / node.kv_capacity > 0.5
    assert emulation.state.coordinator.open_requests < emulation.state.metrics.submitted
