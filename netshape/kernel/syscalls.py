"""System calls that Python 3.11's standard library lacks."""

from __future__ import annotations

import ctypes
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000
MNT_DETACH = 2
OWN_NAMESPACE = Path("/proc/self/ns/net")

_ABSOLUTE = 1
"""TFD_TIMER_ABSTIME."""
_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    """Leave shared namespaces for new ones; a process with threads moves only the calling thread.

    Raises:
        OSError: Not permitted, or not in this kernel.
    """
    _checked(_libc.unshare(flags), "unshare")


def set_network_namespace(descriptor: int) -> None:
    """Move the calling thread to the network namespace behind ``descriptor``.

    Raises:
        OSError: Not permitted, or no network namespace.
    """
    _checked(_libc.setns(descriptor, CLONE_NEWNET), "setns")


def unmount(path: Path) -> None:
    """Detach whatever is mounted on ``path``.

    Raises:
        OSError: Nothing mounted there, or not permitted.
    """
    _checked(_libc.umount2(os.fsencode(path), MNT_DETACH), f"umount {path}")


@contextmanager
def inside(path: Path) -> Iterator[None]:
    """Run a block inside the network namespace at ``path``; for processes with a single thread only.

    What is opened inside (sockets, TUN devices) stays in that namespace for ever.
    """
    home = os.open(OWN_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)
    try:
        there = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            set_network_namespace(there)
        finally:
            os.close(there)
        try:
            yield
        finally:
            set_network_namespace(home)
    finally:
        os.close(home)


class Timer:
    """A timer that makes its descriptor readable at a time of :func:`time.monotonic`, to the nanosecond's rounding.

    ``select`` and ``epoll`` alone round their timeouts up to whole milliseconds.

    Attributes:
        descriptor: For ``epoll``; readable from the armed time on, until the timer is armed again.
    """

    __slots__ = ("_armed_s", "_setting", "descriptor")

    def __init__(self) -> None:
        self.descriptor = _libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self.descriptor < 0:
            number = ctypes.get_errno()
            raise OSError(number, f"timerfd: {os.strerror(number)}")
        self._setting = (ctypes.c_long * 4)()
        self._armed_s = math.inf

    def arm(self, time_s: float) -> None:
        """Make it ready at ``time_s``, at once when that is past, never when it is infinite."""
        if time_s == self._armed_s:
            return
        self._armed_s = time_s
        setting = self._setting
        # All zeros would disarm it; 1 ns after boot is past.
        nanoseconds = 0 if time_s == math.inf else max(1, math.ceil(time_s * 1e9))
        setting[2], setting[3] = divmod(nanoseconds, 1_000_000_000)
        _checked(_libc.timerfd_settime(self.descriptor, _ABSOLUTE, setting, None), "timerfd")

    def disarm(self) -> None:
        """Never make it ready."""
        self.arm(math.inf)

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self.descriptor)
