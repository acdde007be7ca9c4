"""Precise timing for asyncio: a selector on a timerfd, and real-time scheduling.

Stock asyncio rounds a timeout up to a millisecond, because ``epoll_wait`` takes whole ones. :class:`TimerfdSelector`
arms a timer descriptor with an absolute time and polls without a timeout instead, which meets deadlines within 50 to
100 us on an idle machine. All times are those of ``CLOCK_MONOTONIC``, which is ``time.monotonic`` and ``loop.time``,
and one clock for all processes of a machine.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import selectors
import struct
import sys
import threading
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from netshape.errors import NetworkError

_TFD_TIMER_ABSTIME = 1
_NS_PER_S = 1_000_000_000
_MAX_ARMED_NS = 2**62
_FIRST_MARGIN_NS = 100_000
_MIN_MARGIN_NS = 10_000
_MAX_MARGIN_NS = 200_000
_MARGIN_STEP_NS = 1_000
_WATCH_EVERY = 4
"""Watching the clock takes at most one part in so many of the time."""
_WAKE_LATENCY = Path("/dev/cpu_dma_latency")

T = TypeVar("T")


class _Thread(threading.local):
    """What holds for the present thread: whether its selectors watch the clock."""

    watches = False


_THREAD = _Thread()


class _TimeSpec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _TimerSpec(ctypes.Structure):
    _fields_ = (("interval", _TimeSpec), ("value", _TimeSpec))


class Timerfd:
    """A timer descriptor of the kernel, through ``os`` where Python has it (3.13), else through the C library.

    Raises:
        OSError: There is none here.
    """

    def __init__(self) -> None:
        if hasattr(os, "timerfd_create"):
            flags = os.O_NONBLOCK | os.O_CLOEXEC  # TFD_NONBLOCK and TFD_CLOEXEC are the same bits
            self.fd = os.timerfd_create(time.CLOCK_MONOTONIC, flags=flags)
            self._settime = self._settime_os
            return
        if not sys.platform.startswith("linux"):
            raise OSError("timerfd is there on Linux only")
        self._libc = ctypes.CDLL(None, use_errno=True)
        if not hasattr(self._libc, "timerfd_create"):
            raise OSError("the C library has no timerfd_create")
        self.fd = self._libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), f"timerfd_create: {os.strerror(ctypes.get_errno())}")
        self._spec = _TimerSpec()
        self._spec_at = ctypes.byref(self._spec)
        self._settime = self._settime_libc

    def arm(self, deadline_ns: int) -> None:
        """Make the descriptor readable at ``deadline_ns``; forgets an earlier deadline."""
        self._settime(min(max(deadline_ns, 1), _MAX_ARMED_NS))

    def clear(self) -> None:
        """Make it unreadable after it has fired."""
        try:
            os.read(self.fd, 8)
        except BlockingIOError:  # armed anew since
            return

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self.fd)

    def _settime_os(self, deadline_ns: int) -> None:
        os.timerfd_settime_ns(self.fd, flags=os.TFD_TIMER_ABSTIME, initial=deadline_ns)  # type: ignore[attr-defined, unused-ignore]

    def _settime_libc(self, deadline_ns: int) -> None:
        value = self._spec.value
        value.seconds, value.nanoseconds = divmod(deadline_ns, _NS_PER_S)
        if self._libc.timerfd_settime(self.fd, _TFD_TIMER_ABSTIME, self._spec_at, None) != 0:
            raise OSError(ctypes.get_errno(), f"timerfd_settime: {os.strerror(ctypes.get_errno())}")


if sys.platform.startswith("linux"):

    class TimerfdSelector(selectors.EpollSelector):
        """An epoll selector whose timeouts are exact to the kernel's timer, not rounded to milliseconds.

        Under :func:`realtime_scheduling` it wakes as much sooner as this machine is late to wake it, and watches clock
        and sockets until the deadline; at most a quarter of the time, as a thread that never sleeps is throttled.

        Attributes:
            margin_ns: How much sooner, as learnt from the wakes so far.

        Raises:
            OSError: No timerfd here; :func:`new_event_loop` then takes the stock selector.
        """

        def __init__(self) -> None:
            super().__init__()
            try:
                self._timer = Timerfd()
            except OSError:
                super().close()
                raise
            self._timer_key = self.register(self._timer.fd, selectors.EVENT_READ)
            self.margin_ns = _FIRST_MARGIN_NS
            self._watch_from = 0

        def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            """As the base class, with ``timeout`` in seconds."""
            if timeout is None or timeout <= 0:
                return self._sockets(timeout)
            now = time.monotonic_ns()
            deadline = now + int(timeout * _NS_PER_S)
            if _THREAD.watches:
                return self._watch(now, deadline)
            self._timer.arm(deadline)
            return self._sockets(None)

        def _sockets(self, timeout: float | None) -> list[tuple[selectors.SelectorKey, int]]:
            """What is ready beside the timer."""
            events = super().select(timeout)
            for index, (key, _) in enumerate(events):
                if key is self._timer_key:
                    self._timer.clear()
                    del events[index]
                    break
            return events

        def _watch(self, now: int, deadline: int) -> list[tuple[selectors.SelectorKey, int]]:
            """Sleep until a little before ``deadline``, then watch clock and sockets until then; times in ns."""
            early = deadline - self.margin_ns
            if max(early, now) < self._watch_from:
                self._timer.arm(deadline)
                return self._sockets(None)
            if early > now:
                self._timer.arm(early)
                events = self._sockets(None)
                now = time.monotonic_ns()
                if events or now < early:
                    return events
                self._learn(now - early)
            begin, events = now, []
            while now < deadline and not events:
                events = self._sockets(0)
                now = time.monotonic_ns()
            self._watch_from = now + (now - begin) * (_WATCH_EVERY - 1)
            return events

        def _learn(self, late: int) -> None:
            """Take in that a wake came ``late`` ns late: about 9 of 10 are within the margin in the long run."""
            step = _MARGIN_STEP_NS
            margin = self.margin_ns + (10 * step if late > self.margin_ns else -step)
            self.margin_ns = min(max(margin, _MIN_MARGIN_NS), _MAX_MARGIN_NS)

        def close(self) -> None:
            """Close both descriptors."""
            super().close()
            self._timer.close()


def new_event_loop() -> asyncio.AbstractEventLoop:
    """An event loop with precise deadlines; a stock one where there is no timerfd (see :func:`timer_kind`)."""
    if sys.platform.startswith("linux"):
        with suppress(OSError):
            return asyncio.SelectorEventLoop(TimerfdSelector())
    return asyncio.SelectorEventLoop()


def timer_kind(loop: asyncio.AbstractEventLoop) -> str:
    """How ``loop`` waits for deadlines, for reports: ``timerfd``, or ``stock`` (up to 1 ms late)."""
    selector = getattr(loop, "_selector", None)
    return "timerfd" if sys.platform.startswith("linux") and isinstance(selector, TimerfdSelector) else "stock"


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run ``main`` on a loop with precise deadlines, as ``asyncio.run`` does on a stock one."""
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(main)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduling:
    """How the kernel schedules this process's thread.

    Attributes:
        realtime: Whether real-time scheduling (SCHED_FIFO) was granted.
        priority: Its priority; 0 without.
        reason: Why it was not granted; empty if it was.
        awake: Whether idle processors are kept awake.
    """

    realtime: bool
    priority: int
    reason: str = ""
    awake: bool = False


@contextmanager
def realtime_scheduling(priority: int = 10, *, awake: bool = True) -> Iterator[Scheduling]:
    """Ask for SCHED_FIFO for this thread within the block; say whether it was granted, and go back after it.

    Children do not inherit it. A thread that never waits would hold its core, so this is for loops that do.

    An idle virtual processor takes 40 to 120 us to wake up. So, where real-time scheduling is granted, idle processors
    are kept awake (``/dev/cpu_dma_latency``): they poll for work instead of halting, all of the machine's, which takes
    nothing from its other programs, but power, and from a virtual machine's host the processors. Selectors of this
    thread watch the clock before a deadline, see :class:`TimerfdSelector`.

    Args:
        priority: 1 to 99.
        awake: Whether to do the latter two.

    Raises:
        NetworkError: A priority out of its range.
    """
    if not 1 <= priority <= 99:
        raise NetworkError(f"real-time priority {priority!r}: it must be from 1 to 99")
    if not hasattr(os, "sched_setscheduler"):
        yield Scheduling(realtime=False, priority=0, reason="this system has no SCHED_FIFO")
        return
    before, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(priority))
    except OSError as error:
        yield Scheduling(realtime=False, priority=0, reason=error.strerror or str(error))
        return
    watched = _THREAD.watches
    _THREAD.watches = awake
    held = _keep_awake() if awake else None
    try:
        yield Scheduling(realtime=True, priority=priority, awake=held is not None)
    finally:
        if held is not None:
            os.close(held)
        _THREAD.watches = watched
        os.sched_setscheduler(0, before, parameters)


def _keep_awake() -> int | None:
    """A descriptor that keeps idle processors from halting while it is open; ``None`` where that cannot be had."""
    try:
        held = os.open(_WAKE_LATENCY, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:  # no such device, or not ours: Scheduling.awake says so
        return None
    try:
        os.write(held, struct.pack("i", 0))
    except OSError:
        os.close(held)
        return None
    return held
