"""The loop whose clock jumps."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from emulator.realtime.virtual_loop import VirtualTimeLoop

T = TypeVar("T")


def run(main: Callable[[], Awaitable[T]]) -> T:
    async def awaited() -> T:
        return await main()

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(awaited())


def test_an_hour_takes_no_time_and_ends_at_the_hour() -> None:
    async def main() -> float:
        await asyncio.sleep(3600)
        return asyncio.get_running_loop().time()

    before = time.perf_counter()
    assert run(main) == 3600.0
    assert time.perf_counter() - before < 60


def test_timers_fire_in_order_at_their_times() -> None:
    async def main() -> list[tuple[float, str]]:
        loop = asyncio.get_running_loop()
        seen: list[tuple[float, str]] = []

        async def tick(name: str, every_s: float, count: int) -> None:
            for _ in range(count):
                await asyncio.sleep(every_s)
                seen.append((loop.time(), name))

        await asyncio.gather(tick("a", 0.5, 4), tick("b", 0.75, 2), tick("c", 1e6, 1))
        return seen

    expected = [(0.5, "a"), (0.75, "b"), (1.0, "a"), (1.5, "b"), (1.5, "a"), (2.0, "a"), (1e6, "c")]
    assert run(main) == expected
    assert run(main) == run(main)


def test_a_timeout_and_what_it_guards() -> None:
    async def main() -> str:
        try:
            async with asyncio.timeout(5):
                await asyncio.sleep(6)
        except TimeoutError:
            return f"timeout at {asyncio.get_running_loop().time():g}"
        return "none"

    assert run(main) == "timeout at 5"


def test_timers_far_away_where_floats_are_coarse() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        for _ in range(20):
            await asyncio.sleep(1e9 / 3)
            await asyncio.sleep(1e-9)
        return loop.time()

    assert run(main) == pytest.approx(20e9 / 3)


def test_waiting_for_nothing_is_an_error_not_a_hang() -> None:
    async def main() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(RuntimeError, match="every coroutine waits"):
        run(main)


def test_threads_are_refused() -> None:
    async def main() -> None:
        await asyncio.to_thread(time.sleep, 0.01)

    with pytest.raises(RuntimeError, match="no threads"):
        run(main)


def test_sockets_are_refused() -> None:
    async def main() -> None:
        await asyncio.open_connection("127.0.0.1", 9)

    with pytest.raises((NotImplementedError, RuntimeError)):
        run(main)


def test_the_clock_is_advanced_only_when_nobody_is_before() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        loop.call_at(2.0, lambda: None)
        assert loop.advance_to(1.5)
        assert loop.time() == 1.5
        assert not loop.advance_to(2.0), "a timer is set for then"
        assert not loop.advance_to(2.5)
        loop.call_soon(lambda: None)
        assert not loop.advance_to(1.7), "a callback is ready now"
        assert loop.advance_to(1.0), "the clock is past that"
        assert loop.time() == 1.5

    run(main)
