"""Receive buffers that frames are held in without a copy, and their reuse."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

MIN_SLAB_BYTES = 1 << 16
MAX_SLAB_BYTES = 1 << 20
"""Greatest slab that is kept for reuse; a greater frame gets one of its own."""
POOL_BYTES = 1 << 27
"""Most bytes of free slabs that a process keeps: fresh memory costs a page fault every 4 KiB."""


class Slab:
    """A stretch of memory that received bytes go to.

    Attributes:
        view: The memory.
        size_bytes: Its size.
        holds: Frames in it that are still held.
        kept: Whether somebody outside keeps a view of it, so that it cannot be used again.
    """

    __slots__ = ("holds", "kept", "size_bytes", "view")

    def __init__(self, size_bytes: int) -> None:
        # Not a bytearray, which writes zeros first: that took longer than receiving.
        self.view = np.empty(size_bytes, np.uint8).data
        self.size_bytes = size_bytes
        self.holds = 0
        self.kept = False


class SlabPool:
    """Free slabs by size.

    Args:
        limit_bytes: Most bytes that it keeps.

    Attributes:
        free_bytes: Bytes that it keeps.
    """

    def __init__(self, limit_bytes: int = POOL_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._free: defaultdict[int, list[Slab]] = defaultdict(list)
        self.free_bytes = 0

    def take(self, size_bytes: int) -> Slab:
        """A slab of ``size_bytes``."""
        free = self._free.get(size_bytes)
        if not free:
            return Slab(size_bytes)
        self.free_bytes -= size_bytes
        return free.pop()

    def give_back(self, slab: Slab) -> None:
        """Keep a slab that nobody uses any more, if there is room."""
        size = slab.size_bytes
        if slab.kept or size > MAX_SLAB_BYTES or self.free_bytes + size > self._limit_bytes:
            return
        self._free[size].append(slab)
        self.free_bytes += size


SLABS = SlabPool()
"""The pool of this process."""
