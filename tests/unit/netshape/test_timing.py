import asyncio
import os
import selectors
import socket
import time

import pytest
from shaped import run

from netshape import timing
from netshape.errors import NetworkError
from netshape.timing import TimerfdSelector


def test_the_loop_waits_by_timerfd() -> None:
    async def main() -> str:
        return timing.timer_kind(asyncio.get_running_loop())

    assert run(main) == "timerfd"
    assert asyncio.run(main()) == "stock"


def test_a_selector_that_is_closed_leaves_no_descriptor() -> None:
    before = os.listdir("/proc/self/fd")
    TimerfdSelector().close()
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize("watches", [False, True])
def test_the_selector_reports_sockets_only_and_waits_no_less_than_asked(
    watches: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing._THREAD, "watches", watches)
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


def test_the_margin_follows_how_late_wakes_are() -> None:
    selector = TimerfdSelector()
    try:
        for _ in range(500):
            selector._learn(60_000)
        assert 55_000 < selector.margin_ns < 75_000
        for _ in range(500):
            selector._learn(0)
        assert selector.margin_ns == 10_000
        for _ in range(500):
            selector._learn(10_000_000)
        assert selector.margin_ns == 200_000
    finally:
        selector.close()


def test_watching_the_clock_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing._THREAD, "watches", True)
    selector = TimerfdSelector()
    polls: list[float | None] = []
    sockets = selector._sockets

    def counting(timeout: float | None) -> list[tuple[selectors.SelectorKey, int]]:
        polls.append(timeout)
        return sockets(timeout)

    monkeypatch.setattr(selector, "_sockets", counting)
    try:
        selector.select(0.00009)  # within the margin: watched to its end
        assert set(polls) == {0}
        watched_until = selector._watch_from
        polls.clear()
        selector._watch_from += 10**9  # as after a long time of watching
        selector.select(0.00009)
        assert polls == [None]
        assert selector._watch_from == watched_until + 10**9
    finally:
        selector.close()


def test_real_time_scheduling_is_reported_and_undone() -> None:
    before = os.sched_getscheduler(0)
    with timing.realtime_scheduling(5) as granted:
        inside = os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK
        assert granted.realtime == (inside == os.SCHED_FIFO)
        assert granted.realtime != bool(granted.reason)
        assert granted.priority == (5 if granted.realtime else 0)
        assert granted.awake == keeps_awake()
        assert timing._THREAD.watches == granted.realtime
        with timing.realtime_scheduling(6, awake=False) as inner:
            assert not inner.awake
            assert not timing._THREAD.watches
        assert timing._THREAD.watches == granted.realtime
    assert os.sched_getscheduler(0) == before
    assert not keeps_awake()
    assert not timing._THREAD.watches
    with pytest.raises(NetworkError, match="priority 0: it must be from 1 to 99"), timing.realtime_scheduling(0):
        pass


def keeps_awake() -> bool:
    """Whether this process holds the kernel's request for processors that do not halt."""
    return any(os.readlink(f"/proc/self/fd/{fd}") == "/dev/cpu_dma_latency" for fd in open_descriptors())


def open_descriptors() -> list[str]:
    return [fd for fd in os.listdir("/proc/self/fd") if os.path.islink(f"/proc/self/fd/{fd}")]
