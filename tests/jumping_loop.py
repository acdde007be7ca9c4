"""An event loop whose time jumps to the next timer: exact times, and no waiting. It has no sockets."""

from __future__ import annotations

import asyncio
import selectors


class _JumpingSelector(selectors.SelectSelector):
    """Never waits; says by how much time is to move on."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise AssertionError("nothing will ever happen again")
        self.now_s += max(0.0, timeout)
        return []


class JumpingLoop(asyncio.SelectorEventLoop):
    """Time begins at 0."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)
        # Rounding must not leave a timer a hair's breadth in the future.
        self._clock_resolution = 1e-9

    def time(self) -> float:
        return self._jumping.now_s
