"""A run that begins in its middle: who is in flight, and that a short one tells what a long cold one tells."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from small_runs import constant, placed, toy_cluster, toy_spec

from emulator.emulation import Emulation
from emulator.errors import SimulationError
from emulator.requests import Request
from emulator.spec import EmulationSpec, FirstToken
from emulator.warm_start import WarmStart
from emulator.workload import ClosedLoop, FixedLengths, Lengths, ListedLengths, OpenLoop, RandomArrivals, Refill
from scenarios.loader import load_scenario

TWO_LENGTHS = ListedLengths([Lengths(100, 11), Lengths(100, 101)])


def warm(spec: EmulationSpec, **changes: object) -> Emulation:
    return Emulation(dataclasses.replace(spec, warm_start=WarmStart(**changes)))  # type: ignore[arg-type]


def test_requests_are_found_by_the_time_they_stay_and_evenly_along_it() -> None:
    spec = toy_spec(
        workload=ClosedLoop(lengths=TWO_LENGTHS, initial_requests=3000, refill=Refill.CONSTANT),
        cluster=toy_cluster(kv_capacity=10**8),
        duration_s=0.001,
    )
    emulation = warm(spec)
    attempts = list(emulation.state.coordinator.in_flight())
    assert len(attempts) == 3000
    longer = [attempt for attempt in attempts if attempt.request.output_tokens == 101]
    # 10 and 100 decode iterations, equally often asked for: 10 of 11 in flight are the longer ones.
    assert len(longer) / 3000 == pytest.approx(10 / 11, abs=0.02)
    left = np.array([attempt.left for attempt in longer])
    assert left.min() >= 1
    assert left.max() <= 100
    assert left.mean() == pytest.approx(50.5, abs=2)
    assert all(each.left + each.request.emitted_tokens == each.request.output_tokens for each in attempts)


def test_kv_entries_are_in_place_and_gone_at_the_end() -> None:
    spec = toy_spec(workload=constant(4, 100, 6), duration_s=20.0, drain=True)
    emulation = warm(spec)
    node = emulation.state.nodes[0]
    assert node.kv_used == 4 * sum(attempt.context for attempt in emulation.state.coordinator.in_flight())
    assert node.kv_used > 4 * 400
    summary = emulation.run()
    assert node.kv_used == 0
    assert summary["requests"]["in_flight"] == 0
    assert summary["requests"]["finished"] == summary["requests"]["submitted"]


def test_figures_of_requests_put_in_place_cover_this_run_only() -> None:
    ended: list[Request] = []
    spec = toy_spec(workload=constant(1, 100, 51), duration_s=8.0)
    emulation = Emulation(dataclasses.replace(spec, warm_start=WarmStart(spread_s=0.0)), on_ended=ended.append)
    emulation.run()
    first = ended[0]
    assert first.adopted_tokens > 0
    assert first.ttft_s is None
    assert first.e2e_s is None
    # Alone in the cluster every token takes the same time.
    assert first.tpot_s == pytest.approx(ended[1].tpot_s, rel=1e-6)
    assert ended[1].ttft_s is not None


@pytest.mark.parametrize("first_token", list(FirstToken))
def test_a_constant_loop_stays_constant(first_token: FirstToken) -> None:
    spec = toy_spec(workload=constant(7, 50, 20), duration_s=30.0)
    emulation = warm(dataclasses.replace(spec, first_token=first_token))
    summary = emulation.run()
    # Between an end and the next arrival there is the spacing.
    assert 4 <= summary["requests"]["in_flight"] <= 7


def test_what_fits_no_pipeline_is_not_put_in_place() -> None:
    cluster = toy_cluster(kv_capacity=3000)
    loop = ClosedLoop(
        lengths=FixedLengths(prompt_tokens=100, output_tokens=50), initial_requests=1, refill=Refill.KV_ROOM
    )
    emulation = warm(toy_spec(workload=loop, cluster=cluster, duration_s=5.0))
    # 0.9 of 3,000 layer-tokens, and 4 * (100 + 0.6 * 240) expected of each.
    assert emulation.state.coordinator.in_flight_count == 2
    emulation.run()


def test_an_open_loop_must_say_how_many() -> None:
    loop = OpenLoop(source=RandomArrivals(requests_per_s=1.0, lengths=TWO_LENGTHS))
    with pytest.raises(SimulationError, match="give requests"):
        warm(toy_spec(workload=loop, duration_s=5.0))
    assert warm(toy_spec(workload=loop, duration_s=5.0), requests=9).state.coordinator.in_flight_count == 9


@pytest.mark.parametrize("changes", [{"spread_s": -1.0}, {"spread_s": float("nan")}, {"requests": -1}])
def test_values_out_of_range(changes: dict[str, float]) -> None:
    with pytest.raises(SimulationError, match="warm start"):
        WarmStart(**changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("policy", ["swarm", "random", "shortest-queue", "round-robin"])
def test_policies_that_choose_hop_by_hop_choose_whole_pipelines(policy: str) -> None:
    sets = [f"scheduler={{policy: {policy}}}", "workload.refill=constant", "workload.initial_requests=20"]
    spec = load_scenario("helix-10-30b", sets=[*sets, "duration=20 s", "warm_up=5 s"]).spec
    emulation = warm(spec)
    assert emulation.state.coordinator.in_flight_count == 20
    for attempt in emulation.state.coordinator.in_flight():
        assert attempt.pipeline is not None
        assert attempt.pipeline.links[-1].node is None
    assert emulation.run()["decode_throughput_tokens_per_s"] > 0


def test_a_short_warm_run_tells_what_a_long_cold_run_tells_and_a_short_cold_one_does_not() -> None:
    base = load_scenario("helix-42-70b").spec

    def served(duration_s: float, warm_up_s: float, warm_start: WarmStart | None) -> float:
        spec = dataclasses.replace(base, duration_s=duration_s, warm_up_s=warm_up_s, warm_start=warm_start)
        return float(Emulation(spec).run()["decode_throughput_tokens_per_s"])

    # A run of 900 s that counts from 400 s on serves 700 tokens/s.
    assert served(60.0, 20.0, WarmStart()) == pytest.approx(700, rel=0.1)
    assert served(60.0, 20.0, None) < 0.5 * 700


def test_slow_pipelines_hold_more_requests() -> None:
    cluster = toy_cluster(("slow", "quick"), kv_capacity=10**8, latency=0.0)
    spec = toy_spec(
        workload=constant(2000, 100, 50), cluster=cluster, placement=placed(slow=(0, 4), quick=(0, 4)), duration_s=0.001
    )

    def held(stays_s: dict[str, float]) -> int:
        attempts = warm(spec, stays_s=stays_s).state.coordinator.in_flight()
        return sum(1 for attempt in attempts if str(attempt.pipeline).startswith("slow"))

    assert held({}) == 1000
    assert held({"slow": 0.3, "quick": 0.1}) == pytest.approx(1500, abs=60)
