"""Memory that the pipes of a proxy server share."""

from __future__ import annotations

MAX_BYTES = 256 << 20
LEAST_SHARE_BYTES = 64 << 10
MOST_SHARE_BYTES = 32 << 20


class Room:
    """Bytes that stages may hold, shared evenly by the pipes that are open.

    A pipe needs rate times delay: 32 MiB carry 1 Gbit/s over 250 ms. Past ``max_bytes / 64 KiB`` pipes each keeps the
    least share.

    Args:
        max_bytes: For all pipes together.

    Attributes:
        pipes: Pipes that are open.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self.pipes = 0

    @property
    def share_bytes(self) -> int:
        """What a stage of one pipe may hold before its sender has to wait."""
        return max(LEAST_SHARE_BYTES, min(MOST_SHARE_BYTES, self._max_bytes // max(1, self.pipes)))

    def enter(self) -> None:
        """A pipe opens."""
        self.pipes += 1

    def leave(self) -> None:
        """A pipe closes."""
        self.pipes -= 1
