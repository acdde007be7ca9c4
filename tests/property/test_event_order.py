"""SimPy on an asyncio loop does the same things in the same order as in virtual time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Generator
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from simpy.events import Event

from emulator.environment import VirtualEnvironment
from emulator.realtime.aio_environment import AioEnvironment
from emulator.realtime.virtual_loop import VirtualTimeLoop

UNTIL_S = 3.0
Log = list[tuple[float, str]]


class RandomProgram:
    """Processes and callbacks that use every way into the event queue; what they do depends on ``seed`` alone."""

    def __init__(self, env: VirtualEnvironment, seed: int) -> None:
        self.env = env
        self.log: Log = []
        self.left = 200
        self.waiting: list[Event] = []
        rng = random.Random(seed)
        for number in range(rng.randint(1, 5)):
            env.process(self.process(f"p{number}", random.Random(f"{seed}/{number}")))
        for number in range(rng.randint(0, 3)):
            self.call(f"c{number}", random.Random(f"{seed}/c{number}"))

    def delay(self, rng: random.Random) -> float:
        """Often one that others have, too, or none."""
        return rng.choice([0.0, 0.25, 0.5, rng.random()])

    def process(self, name: str, rng: random.Random) -> Generator[Event, Any, None]:
        while self.left > 0:
            self.left -= 1
            self.log.append((self.env.now, name))
            way = rng.randrange(6)
            if way == 0:
                yield self.env.timeout(self.delay(rng))
            elif way == 1:
                yield self.env.trigger_late(Event(self.env), self.env.now + self.delay(rng), rng.random())
            elif way == 2:
                event = Event(self.env)
                self.waiting.append(event)
                yield event | self.env.timeout(self.delay(rng) + 0.1)
            elif way == 3 and self.waiting:
                event = self.waiting.pop(rng.randrange(len(self.waiting)))
                if not event.triggered:
                    event.succeed()
                yield self.env.timeout(self.delay(rng))
            elif way == 4:
                self.call(f"{name}'", rng)
                yield self.env.timeout(self.delay(rng))
            else:
                child = self.env.process(self.child(f"{name}+", rng))
                yield child

    def child(self, name: str, rng: random.Random) -> Generator[Event, Any, None]:
        self.log.append((self.env.now, name))
        yield self.env.timeout(self.delay(rng))

    def call(self, name: str, rng: random.Random) -> None:
        self.env.call_at(self.env.now + self.delay(rng), lambda _event: self.log.append((self.env.now, name)))


def in_virtual_time(seed: int) -> Log:
    program = RandomProgram(VirtualEnvironment(), seed)
    program.env.run_to(UNTIL_S)
    return program.log


def on_loop(seed: int, make_loop: Callable[[], asyncio.AbstractEventLoop] | None, dilation: float) -> Log:
    async def run() -> Log:
        env = AioEnvironment(asyncio.get_running_loop(), dilation=dilation)
        program = RandomProgram(env, seed)
        for part in (0.3, 0.5, 1.0):
            assert await env.advance(UNTIL_S * part)
            assert env.now == UNTIL_S * part
        return program.log

    with asyncio.Runner(loop_factory=make_loop) as runner:
        return runner.run(run())


@given(st.integers(0, 10**9), st.sampled_from([0.5, 1.0, 3.0]))
@settings(max_examples=60, deadline=None)
def test_order_on_a_virtual_time_loop(seed: int, dilation: float) -> None:
    assert on_loop(seed, VirtualTimeLoop, dilation) == in_virtual_time(seed)


@given(st.integers(0, 10**9))
@settings(max_examples=15, deadline=None)
def test_order_on_the_wall_clock(seed: int) -> None:
    assert on_loop(seed, None, 100.0) == in_virtual_time(seed)
