import asyncio
import os
import selectors
import socket
import statistics
import time

import pytest
from shaped import run

from netshape import timing
from netshape.errors import NetworkError
from netshape.timing import DeadlineHeap, TimerfdSelector


def test_the_loop_waits_by_timerfd() -> None:
    async def main() -> str:
        return timing.timer_kind(asyncio.get_running_loop())

    assert run(main) == "timerfd"
    assert asyncio.run(main()) == "stock"


def test_a_selector_that_is_closed_leaves_no_descriptor() -> None:
    before = os.listdir("/proc/self/fd")
    TimerfdSelector().close()
    assert os.listdir("/proc/self/fd") == before


def test_the_selector_reports_sockets_only_and_waits_no_less_than_asked() -> None:
    selector = TimerfdSelector()
    ours, theirs = socket.socketpair()
    try:
        selector.register(ours, selectors.EVENT_READ, "ours")
        for timeout in (0.0, -1.0, 0.003, 0.00005):
            begin = time.monotonic()
            assert selector.select(timeout) == []
            assert time.monotonic() - begin >= timeout
        # A timer that has fired does not wake the next wait.
        selector.select(0.0001)
        theirs.send(b"x")
        assert [key.data for key, _ in selector.select(None)] == ["ours"]
        assert [key.data for key, _ in selector.select(5.0)] == ["ours"]
        ours.recv(1)
        begin = time.monotonic()
        assert selector.select(0.002) == []
        assert time.monotonic() - begin >= 0.002
    finally:
        selector.close()
        ours.close()
        theirs.close()


def test_without_a_timerfd_the_stock_selector_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_here(self: object) -> None:
        raise OSError("no timerfd here")

    monkeypatch.setattr(timing.Timerfd, "__init__", none_here)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match="no timerfd"):
        TimerfdSelector()
    assert os.listdir("/proc/self/fd") == before

    async def main() -> str:
        await asyncio.sleep(0.001)
        return timing.timer_kind(asyncio.get_running_loop())

    assert timing.run(main()) == "stock"


@pytest.mark.parametrize("spin_s", [0.0, 0.0001])
def test_deadlines_are_never_early_and_close_at_the_median(spin_s: float) -> None:
    late: list[float] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        heap = DeadlineHeap.of(loop)
        assert DeadlineHeap.of(loop) is heap
        heap.spin_s = spin_s
        done = loop.create_future()
        begin = loop.time()
        whens = [begin + 0.01 + index * 0.00137 for index in range(100)]

        def due(index: int, now: float) -> None:
            late.append(now - whens[index])
            if len(late) == len(whens):
                done.set_result(None)

        for index in reversed(range(100)):
            heap.deadline(lambda now, index=index: due(index, now)).set(whens[index])
        await done

    run(main)
    assert min(late) >= 0
    assert statistics.median(late) < 0.02  # busy machines; the benchmark prints the real figure


def test_deadlines_move_clear_and_survive_a_failing_one() -> None:
    async def main() -> tuple[list[str], list[str]]:
        loop = asyncio.get_running_loop()
        problems: list[str] = []
        loop.set_exception_handler(lambda _, context: problems.append(str(context["exception"])))
        heap = DeadlineHeap.of(loop)
        seen: list[str] = []

        def failing(now: float) -> None:
            raise ValueError("broken callback")

        def again(now: float) -> None:
            seen.append("again")
            if seen.count("again") < 3:
                repeated.set(now)

        begin = loop.time()
        repeated = heap.deadline(again)
        earlier, later, never = (heap.deadline(lambda _, name=name: seen.append(name)) for name in ("e", "l", "n"))
        heap.deadline(failing).set(begin + 0.01)
        repeated.set(begin + 0.005)
        earlier.set(begin + 5.0)
        earlier.set(begin + 0.002)
        later.set(begin + 0.001)
        later.set(begin + 0.02)
        never.set(begin + 0.003)
        never.clear()
        never.set(float("inf"))
        await asyncio.sleep(0.05)
        assert (earlier.when_s, later.when_s, never.when_s) == (None, None, None)
        return seen, problems

    assert run(main) == (["e", "again", "again", "again", "l"], ["broken callback"])


def test_real_time_scheduling_is_reported_and_undone() -> None:
    before = os.sched_getscheduler(0)
    with timing.realtime_scheduling(5) as granted:
        inside = os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK
        assert granted.realtime == (inside == os.SCHED_FIFO)
        assert granted.realtime != bool(granted.reason)
        assert granted.priority == (5 if granted.realtime else 0)
    assert os.sched_getscheduler(0) == before
    with pytest.raises(NetworkError, match="priority 0: it must be from 1 to 99"), timing.realtime_scheduling(0):
        pass
