"""What a connection of frames calls as things happen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from netshape.frames import ConnectionFailedError

if TYPE_CHECKING:
    from netshape.frame_connection import FrameConnection


class FrameHandler:
    """What a connection calls; the defaults do nothing."""

    def on_connected(self, connection: FrameConnection) -> None:
        """The socket is there; what is sent from now on goes behind our greeting."""

    def on_open(self, greeting: bytes) -> None:
        """The peer is there and sent ``greeting``."""

    def on_frame(self, header: memoryview, payload: memoryview, planned_s: float, arrived_s: float) -> None:
        """A message is due; both views are good during the call only: copy what is to be kept."""

    def on_batch_end(self, now_s: float) -> None:
        """All that was due at once has been handed to :meth:`on_frame`."""

    def on_end(self) -> None:
        """The peer has sent its last message, and it has been delivered."""

    def on_writable(self, writable: bool) -> None:
        """The socket takes more, or no more for now."""

    def on_closed(self, error: ConnectionFailedError | None) -> None:
        """The connection is closed and everything that came has been delivered; ``None`` for an end in order."""
