"""SimPy on the asyncio loop."""

from __future__ import annotations

import asyncio
import itertools
import math
import threading
import time
from collections.abc import Generator
from typing import Any

import pytest
from simpy.events import Event

from emulator.errors import SimulationError
from emulator.realtime.aio_environment import EVENTS_PER_TURN, AioEnvironment
from emulator.realtime.gate import ArrivalGate
from emulator.realtime.virtual_loop import VirtualTimeLoop


def wall_environment(dilation: float = 1.0) -> AioEnvironment:
    return AioEnvironment(asyncio.get_running_loop(), dilation=dilation)


async def test_events_are_never_early() -> None:
    env = wall_environment()
    loop = asyncio.get_running_loop()
    env.begin(loop.time() + 0.01)
    early: list[float] = []
    for number in range(50):
        env.call_at(number * 0.002, lambda _event: early.append(env.due_at(env.now) - loop.time()))
    assert await env.advance(0.1)
    assert len(early) == 50
    # The loop counts a timer as due one tick of its clock ahead.
    assert max(early) <= 1e-6
    assert env.lateness_s.summary()["count"] == 50


@pytest.mark.parametrize(("dilation", "least_s"), [(0.5, 0.2), (2.0, 0.05)])
async def test_dilation_is_emulated_seconds_per_second_of_the_wall(dilation: float, least_s: float) -> None:
    env = wall_environment(dilation)
    before = time.monotonic()
    assert await env.advance(0.1)
    assert time.monotonic() - before >= least_s - 1e-6
    assert env.now == 0.1


@pytest.mark.parametrize("dilation", [0.0, -1.0, math.inf, math.nan])
async def test_impossible_dilation(dilation: float) -> None:
    with pytest.raises(SimulationError, match="dilation"):
        wall_environment(dilation)


async def test_an_event_from_another_coroutine_comes_before_the_one_that_was_next() -> None:
    env = wall_environment()
    seen: list[str] = []
    env.call_at(0.2, lambda _event: seen.append("planned"))
    task = asyncio.ensure_future(env.advance(0.2))
    await asyncio.sleep(0.02)
    event = Event(env)
    event.callbacks.append(lambda _event: seen.append("urgent"))  # type: ignore[union-attr]
    event.succeed()
    env.trigger_late(Event(env), 0.1, 0.0).callbacks.append(lambda _event: seen.append("late"))  # type: ignore[union-attr]
    await asyncio.sleep(0.02)
    assert seen == ["urgent"]
    assert await task
    assert seen == ["urgent", "late", "planned"]


async def test_other_callbacks_get_their_turn_among_many_events() -> None:
    env = wall_environment()
    env.begin(asyncio.get_running_loop().time())
    turns: list[int] = []

    async def count() -> None:
        while not task.done():
            turns.append(env.events)
            await asyncio.sleep(0)

    for _ in range(10 * EVENTS_PER_TURN):
        env.call_at(0.0, lambda _event: None)
    task = asyncio.ensure_future(env.advance(0.0))
    await count()
    assert env.events == 10 * EVENTS_PER_TURN
    steps = [after - before for before, after in itertools.pairwise(turns)]
    assert max(steps) <= EVENTS_PER_TURN


async def test_interrupt_from_a_thread_ends_it_between_events() -> None:
    env = wall_environment()
    env.call_at(1000.0, lambda _event: None)
    timer = threading.Timer(0.05, env.interrupt)
    timer.start()
    try:
        assert await asyncio.wait_for(env.advance(1000.0), 20) is False
    finally:
        timer.join()
    assert env.now < 1000.0
    assert await env.advance(env.now), "it can go on"


async def test_whatever_a_process_raises_comes_out() -> None:
    env = wall_environment()

    def process() -> Generator[Event, Any, None]:
        yield env.timeout(0.01)
        raise ValueError("broken")

    env.process(process())
    with pytest.raises(ValueError, match="broken"):
        await env.advance(1.0)


async def test_fail_ends_a_wait_at_once_even_behind_a_closed_gate() -> None:
    env = wall_environment()
    gate = ArrivalGate()
    env.gate = gate
    gate.expect(1, 0.001, ("a", "b"))
    task = asyncio.ensure_future(env.advance(1000.0))
    await asyncio.sleep(0.03)
    env.fail(SimulationError("a peer is gone"))
    with pytest.raises(SimulationError, match="a peer is gone"):
        await asyncio.wait_for(task, 20)


async def test_stop_is_asked_after_every_event() -> None:
    env = wall_environment(1000.0)
    seen: list[float] = []
    for at in range(10):
        env.call_at(float(at), lambda _event: seen.append(env.now))
    assert await env.advance(100.0, stop=lambda: len(seen) >= 4)
    assert seen == [0.0, 1.0, 2.0, 3.0]
    assert env.now == 3.0


async def test_nothing_passes_a_message_that_is_not_here() -> None:
    env = wall_environment()
    gate = ArrivalGate()
    env.gate = gate
    seen: list[float] = []
    for at in (0.01, 0.02, 0.03):
        env.call_at(at, lambda _event: seen.append(env.now))
    gate.expect(1, 0.02, ("a", "b"))
    gate.expect(2, 0.025, ("a", "b"))
    task = asyncio.ensure_future(env.advance(0.05))
    await asyncio.sleep(0.1)
    assert seen == [0.01], "what is planned for the message's time waits as well"
    gate.arrived(1)
    env.recheck()
    await asyncio.sleep(0.05)
    assert seen == [0.01, 0.02]
    gate.arrived(2)
    env.recheck()
    assert await asyncio.wait_for(task, 20)
    assert seen == [0.01, 0.02, 0.03]
    assert env.lateness_s.summary()["max"] >= 0.05


def test_a_million_events_of_virtual_time_take_few_turns_of_the_loop() -> None:
    async def main() -> tuple[int, int]:
        loop = asyncio.get_running_loop()
        env = AioEnvironment(loop)
        turns = 0
        loop_run_once = loop._run_once  # type: ignore[attr-defined]

        def counted() -> None:
            nonlocal turns
            turns += 1
            loop_run_once()

        loop._run_once = counted  # type: ignore[attr-defined]

        def process() -> Generator[Event, Any, None]:
            for _ in range(20_000):
                yield env.timeout(0.5)

        env.process(process())
        assert await env.advance(10_000.0)
        return env.events, turns

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        events, turns = runner.run(main())
    assert events >= 20_000
    assert turns < events / EVENTS_PER_TURN + 10
