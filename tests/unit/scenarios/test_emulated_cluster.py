"""Emulated clusters on pytest's own event loop and on a virtual-time loop."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from emulator.emulation import Emulation
from emulator.errors import SimulationError
from emulator.realtime.virtual_loop import VirtualTimeLoop
from scenarios.emulated_cluster import EmulatedCluster, RequestError, Token
from scenarios.errors import ScenarioError
from scenarios.loader import load_scenario

QUIET = load_scenario("quickstart")
"""Six nodes, no two of which hold the same layers: one pipeline."""
TWO_LANES = load_scenario(
    "quickstart",
    sets=[
        "cluster.nodes.0.count=4",
        "placement={ranges: {a100-0: [0, 18], a100-1: [18, 36], a100-2: [0, 18], a100-3: [18, 36], "
        "l4-0: [36, 47], l4-1: [36, 47], t4-0: [47, 54], t4-1: [54, 60]}, allow_over_profile: true}",
    ],
)
"""Both A100s of the first half, and the L4s, stand in for each other."""
Story = Callable[[], Awaitable[Any]]


def on_virtual_loop(story: Story) -> Any:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(story())  # type: ignore[arg-type]


def on_any_loop(story: Story) -> list[Any]:
    """What a story comes to on each kind of loop."""
    return [asyncio.run(story()), on_virtual_loop(story)]  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------ requests


def test_tokens_come_one_by_one_with_their_times() -> None:
    async def story() -> list[Token]:
        async with EmulatedCluster(QUIET, workload=False) as cluster:
            await cluster.run_for("10 s")
            stream = await cluster.submit(prompt_tokens=100, output_tokens=5)
            tokens = [token async for token in stream]
            assert stream.request.ttft_s == tokens[0].time_s - 10
            assert cluster.now_s == pytest.approx(tokens[-1].time_s)
            assert (cluster.metrics.finished, cluster.metrics.in_flight) == (1, 0)
            return tokens

    first, second = on_any_loop(story)
    assert first == second
    assert [token.number for token in first] == [0, 1, 2, 3, 4]
    assert all(earlier.time_s < later.time_s for earlier, later in itertools.pairwise(first))


def test_several_clients_at_once_are_repeatable() -> None:
    async def story() -> tuple[list[Any], str]:
        heard: list[Any] = []

        async def client(cluster: EmulatedCluster, number: int) -> None:
            for turn in range(3):
                stream = await cluster.submit(prompt_tokens=50 + number, output_tokens=3 + turn)
                heard.extend([(number, turn, token) async for token in stream])
                await cluster.run_for(0.1 * number)

        async with EmulatedCluster(QUIET) as cluster:
            await asyncio.gather(*(client(cluster, number) for number in range(5)))
            return heard, cluster.metrics["event_log_sha256"]

    results = [*on_any_loop(story), *on_any_loop(story)]
    assert all(result == results[0] for result in results)
    assert len(results[0][0]) == 5 * (3 + 4 + 5)


def test_a_refused_request_says_why() -> None:
    async def story() -> None:
        async with EmulatedCluster(QUIET, workload=False) as cluster:
            stream = await cluster.submit(prompt_tokens=10_000_000, output_tokens=5)
            with pytest.raises(RequestError, match="was rejected: prompt of 10000000 tokens") as caught:
                await stream.rest()
            assert caught.value.outcome == "rejected"
            with pytest.raises(SimulationError, match="both must be at least 1"):
                await cluster.submit(prompt_tokens=0, output_tokens=5)
            assert cluster.metrics.rejected == 1

    on_any_loop(story)


def test_the_scenarios_own_workload_comes_too_unless_it_is_left_out() -> None:
    async def story() -> list[int]:
        counts = []
        for workload in (True, False):
            async with EmulatedCluster(QUIET, workload=workload) as cluster:
                await cluster.run_for("20 s")
                counts.append(cluster.metrics.submitted)
        return counts

    for busy, quiet in on_any_loop(story):
        assert busy >= 12
        assert quiet == 0


def test_watching_changes_nothing() -> None:
    """The log is that of the run without anybody who waits."""
    loaded = load_scenario("quickstart", sets=["churn={events: [{at: 20 s, crash: t4-0, for: 5 s}]}"])

    async def story() -> str:
        async with EmulatedCluster(loaded) as cluster:
            for _ in range(7):
                await cluster.run_for(loaded.spec.duration_s / 7)
            await cluster.until(lambda metrics: metrics.now_s >= loaded.spec.duration_s)
            return str(cluster.metrics["event_log_sha256"])

    alone = Emulation(EmulatedCluster(loaded).spec).run()["event_log_sha256"]
    assert on_any_loop(story) == [alone, alone]


# ------------------------------------------------------------------------------------------------ what goes wrong


def test_a_crash_is_noticed_and_the_request_goes_on_elsewhere() -> None:
    async def story() -> tuple[list[Token], float]:
        async with EmulatedCluster(TWO_LANES, workload=False) as cluster:
            stream = await cluster.submit(prompt_tokens=100, output_tokens=30)
            tokens = [await anext(stream) for _ in range(5)]
            pipeline = stream.request.pipeline
            assert pipeline is not None
            (lost,) = (node.name for node, _ in pipeline.stages if node.name.startswith("l4"))
            await cluster.crash(lost)
            crashed_s = cluster.now_s
            assert lost not in cluster.metrics.up
            assert lost in cluster.metrics.serving  # Nobody has noticed yet.
            await cluster.until(lambda metrics: lost not in metrics.serving)
            detection_s = cluster.now_s - crashed_s
            tokens += await stream.rest()
            assert cluster.metrics["churn.requests_retried"] == 1
            return tokens, detection_s

    for tokens, detection_s in on_any_loop(story):
        assert [token.number for token in tokens] == list(range(30))
        assert 4 <= detection_s <= 6  # The time-out of 5 s, from the last heartbeat on.


def test_every_way_to_break_things_and_to_mend_them() -> None:
    async def story() -> None:
        async with EmulatedCluster(TWO_LANES) as cluster:
            await cluster.drain("a100-0", notice="20 s", duration="1 min")
            await cluster.preempt({"machine": "L4", "choose": 1}, notice="3 s", duration=30)
            await cluster.straggle("t4-*", slowdown=4)
            await cluster.lose_memory("a100-1", share=0.5, duration="5 s")
            await cluster.run_for("5 s")
            assert len(cluster.metrics.up) == 7
            await cluster.straggle("t4-*", slowdown=1)
            await cluster.partition(["a100-2"], ["l4-0", "l4-1"], duration="2 s")
            await cluster.restart_coordinator(away="1 s")
            await cluster.happen(flap={"from": "a100-1", "to": "t4-0"}, period="4 s", for_="8 s")
            await cluster.until(lambda metrics: len(metrics.up) == 8, timeout="2 min")
            await cluster.region_outage("default")
            assert cluster.metrics.up == ()
            await cluster.join("*")
            await cluster.until(lambda metrics: metrics.can_serve and metrics.in_flight > 0)
            kinds = cluster.metrics["churn.kinds"]
            assert {"crash", "drain"} & set(kinds) == {"drain"}
            assert (kinds["preempt"], kinds["straggler"], kinds["region_outage"]) == (1, 2, 1)

    on_any_loop(story)


@pytest.mark.parametrize(
    ("event", "told"),
    [
        ({"crash": "a100-7"}, "no node matches this name or pattern"),
        ({"crash": "a100-0", "for_": "0 s"}, "must be greater than 0"),
        ({"crsh": "a100-0"}, "did you mean crash?"),
        ({"straggler": "a100-0"}, "this key is missing; add slowdown"),
        ({"partition": [["a100-0"], ["a100-*"]]}, "a100-0 is in group 0 and in group 1"),
    ],
)
async def test_events_that_cannot_be_are_told(event: dict[str, Any], told: str) -> None:
    async with EmulatedCluster(QUIET) as cluster:
        with pytest.raises(ScenarioError, match=told):
            await cluster.happen(**event)


async def test_what_is_down_cannot_crash_and_what_is_up_cannot_join() -> None:
    async with EmulatedCluster(QUIET) as cluster:
        with pytest.raises(SimulationError, match="join of a100-0: it is up already"):
            await cluster.join("a100-0")
        await cluster.crash("a100-0")
        with pytest.raises(SimulationError, match="crash of a100-0: it is down already"):
            await cluster.crash("a100-0")
        await cluster.join("a100-*")


# ------------------------------------------------------------------------------------------------ links


def test_links_change_and_change_back() -> None:
    async def story() -> list[float]:
        async def ttft_s() -> float:
            stream = await cluster.submit(prompt_tokens=10, output_tokens=1)
            assert len(await stream.rest()) == 1
            assert stream.request.ttft_s is not None
            return stream.request.ttft_s

        async with EmulatedCluster(QUIET, workload=False) as cluster:
            entry = next(link.wire.target for link in cluster._state.entry_links)
            link = cluster.link("coordinator", entry)
            times = [await ttft_s()]
            await link.set(latency="121 ms")
            times.append(await ttft_s())
            # A handle has one say: this replaces the latency.
            await link.set(bandwidth="1 kB/s")
            times.append(await ttft_s())
            await link.set(latency_factor=41)
            times.append(await ttft_s())
            await link.up()
            times.append(await ttft_s())
            return times

    for before, late, slow, later, after in on_any_loop(story):
        # A prompt's tokens of 2 bytes, at least, take their time at 1 kB/s.
        assert late - before == pytest.approx(0.120)
        assert slow > before + 0.01
        assert later - before == pytest.approx(0.040)
        assert after == pytest.approx(before)


def test_a_link_that_is_down_holds_everything_up_until_it_is_up() -> None:
    async def story() -> None:
        async with EmulatedCluster(QUIET, workload=False) as cluster:
            last = next(link.wire.source for link in cluster._state.links if link.node is None)
            link = cluster.link(last, "coordinator", both_ways=False)
            await link.down()
            stream = await cluster.submit(prompt_tokens=10, output_tokens=2)
            with pytest.raises(TimeoutError, match="the condition did not hold within 20 s"):
                await cluster.until(lambda metrics: metrics.finished, timeout="20 s")
            await link.up()
            tokens = await stream.rest()
            assert len(tokens) == 2
            assert tokens[0].time_s > 20

    on_any_loop(story)


async def test_links_that_cannot_be() -> None:
    async with EmulatedCluster(QUIET) as cluster:
        with pytest.raises(ScenarioError, match="no node or region matches"):
            cluster.link("a100-0", "mars")
        with pytest.raises(ScenarioError, match="no link between these ends"):
            cluster.link("a100-0", "a100-0")
        link = cluster.link("a100-0", "coordinator")
        with pytest.raises(SimulationError, match=r"bandwidth '1 s': .*data rate"):
            await link.set(bandwidth="1 s")
        with pytest.raises(SimulationError, match=r"latency '5': .*needs a unit"):
            await link.set(latency="5")


# ------------------------------------------------------------------------------------------------ time


def test_a_virtual_loops_own_time_is_the_clusters() -> None:
    async def story() -> None:
        async with EmulatedCluster(QUIET) as cluster:
            await asyncio.sleep(30)
            assert cluster.now_s == pytest.approx(30)
            assert cluster.metrics.finished > 0
            await cluster.run_for("1 min")
            assert asyncio.get_running_loop().time() == pytest.approx(90)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(cluster.run_for("10 s"), timeout=5)
            assert cluster.now_s == pytest.approx(95)

    on_virtual_loop(story)


async def test_two_clusters_on_one_loop_have_their_own_times() -> None:
    async with EmulatedCluster(QUIET) as first, EmulatedCluster(QUIET, sets=["seed=1"]) as second:
        await asyncio.gather(first.run_for("30 s"), second.run_for("60 s"))
        assert first.now_s >= 30
        assert second.now_s == 60


def test_a_condition_is_seen_at_the_very_event() -> None:
    async def story() -> float:
        async with EmulatedCluster(QUIET) as cluster:
            await cluster.until(lambda metrics: metrics.finished == 3)
            assert cluster.metrics.finished == 3
            await cluster.until(lambda metrics: metrics.finished == 3)
            return cluster.now_s

    first, second = on_any_loop(story)
    assert first == second


def test_errors_of_conditions_and_limits_reach_whoever_waits() -> None:
    async def story() -> None:
        async with EmulatedCluster(QUIET, limit="1 min") as cluster:
            with pytest.raises(ZeroDivisionError):
                await cluster.until(lambda metrics: 1 / (3 - metrics.finished) < 0)
            with pytest.raises(KeyError, match="there is no figure ttft"):
                await cluster.until(lambda metrics: metrics["ttft"])
            with pytest.raises(SimulationError, match="come to the limit of 60 s"):
                await cluster.run_for("61 s")
            with pytest.raises(SimulationError, match="come to the limit of 60 s"):
                await cluster.run_for("1 s")

    on_any_loop(story)


async def test_a_failing_test_is_told_time_and_seed() -> None:
    async def failing_test() -> None:
        async with EmulatedCluster(QUIET, workload=False) as cluster:
            await cluster.run_for("5 s")
            raise AssertionError

    with pytest.raises(AssertionError) as caught:
        await failing_test()
    assert caught.value.__notes__ == [
        "emulated cluster quickstart, seed 0, <at 5 s: 0 requests, 0 finished, 0 failed, 0 rejected, 0 in flight, "
        "0 waiting; 6 nodes up>"
    ]


def test_wrong_use_is_told() -> None:
    async def story() -> EmulatedCluster:
        with pytest.raises(SimulationError, match="it must be 'virtual' or 'real'"):
            EmulatedCluster(QUIET, clock="wall")  # type: ignore[arg-type]
        with pytest.raises(ScenarioError, match="did you mean quickstart"):
            EmulatedCluster("quikstart")
        cluster = EmulatedCluster(QUIET)
        with pytest.raises(SimulationError, match="the cluster has not been started"):
            await cluster.run_for("1 s")
        async with cluster:
            for wrong in ("5", "5 GB", -1, float("nan")):
                with pytest.raises(SimulationError):
                    await cluster.run_for(wrong)
            stream = await cluster.submit(prompt_tokens=10, output_tokens=1)
        for late in (stream.rest, lambda: cluster.run_for("1 s"), lambda: cluster.crash("a100-0")):
            with pytest.raises(SimulationError, match="the emulated cluster has ended"):
                await late()
        with pytest.raises(SimulationError, match="has run already"):
            await cluster.__aenter__()
        return cluster

    (cluster, _) = on_any_loop(story)
    with pytest.raises(SimulationError, match="started on another event loop"):
        asyncio.run(cluster.run_for("1 s"))


def test_whoever_still_waits_at_the_end_is_cancelled() -> None:
    async def story() -> asyncio.Task[None]:
        async with EmulatedCluster(QUIET) as cluster:
            waiting = asyncio.create_task(cluster.run_for("1 h"))
            await cluster.run_for("1 s")
        with pytest.raises(asyncio.CancelledError):
            await waiting
        return waiting

    assert all(task.cancelled() for task in on_any_loop(story))


def test_a_minute_costs_well_under_a_second() -> None:
    """Processor time, which a busy machine does not change; 20 minutes take about one second."""

    async def story() -> None:
        async with EmulatedCluster(QUIET) as cluster:
            await cluster.run_for("10 min")

    begun_s = time.process_time()
    on_any_loop(story)
    assert time.process_time() - begun_s < 20
