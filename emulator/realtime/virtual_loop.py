"""An asyncio event loop in virtual time: nothing sleeps, the clock jumps to the next timer."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from typing import Any, NoReturn

_RESOLUTION_S = 1e-9


class VirtualTimeLoop(asyncio.BaseEventLoop):
    """Runs coroutines at once and the same way every time.

    ``loop.time()`` starts at 0 and moves only when nothing is left to do at the present time; then it jumps to
    the next timer. There are no sockets, pipes, child processes, threads or signals: whatever comes from outside
    would come at no certain time, so asking for it is an error.

    Use it as ``asyncio.Runner(loop_factory=VirtualTimeLoop)``.
    """

    # BaseEventLoop's own.
    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]
    _stopping: bool

    def __init__(self) -> None:
        super().__init__()
        self._now_s = 0.0
        self._selector = _JumpingSelector(self)
        self._clock_resolution = _RESOLUTION_S

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now_s

    def advance_to(self, when_s: float) -> bool:
        """Move the clock to ``when_s`` now, if that changes nobody's order.

        Lets a callback that has the next thing to do go on without a turn of the loop.

        Returns:
            Whether the clock stands at ``when_s`` or later; ``False`` when a ready callback or an earlier timer is
            first in line.
        """
        if when_s <= self._now_s:
            return True
        if self._ready or self._stopping:
            return False
        if self._scheduled and self._scheduled[0].when() <= when_s:
            return False
        self._jump(when_s)
        return True

    def _jump(self, when_s: float) -> None:
        self._now_s = when_s
        # A timer must count as due at its own time however coarse floats are there.
        self._clock_resolution = max(_RESOLUTION_S, 2 * math.ulp(when_s))

    def _jump_to_next_timer(self) -> None:
        if not self._scheduled:
            raise RuntimeError(
                "every coroutine waits, and no timer is set that could wake one: "
                "on a VirtualTimeLoop nothing comes from outside"
            )
        self._jump(max(self._now_s, self._scheduled[0].when()))

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> NoReturn:  # type: ignore[override]
        """Not on this loop: a thread takes real time, and ends at no certain point of virtual time."""
        raise RuntimeError("a VirtualTimeLoop has no threads: they would end at no certain virtual time")

    def close(self) -> None:
        """Close the loop."""
        if not self.is_closed():
            super().close()

    # What BaseEventLoop asks of a real selector loop.

    def _process_events(self, event_list: list[Any]) -> None:
        assert not event_list

    def _write_to_self(self) -> None:
        """Nobody sleeps in a selector who would have to be woken."""


class _JumpingSelector:
    """Stands where the event loop would sleep."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        """Jump instead of sleeping; ``timeout`` is 0 while callbacks are ready."""
        if timeout is None or timeout > 0:
            self._loop._jump_to_next_timer()
        return []
