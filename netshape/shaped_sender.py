"""The sending half of a shaped stream: plans messages on a link and gives them to a connection."""

from __future__ import annotations

import asyncio
from collections import deque
from time import monotonic

from netshape.frame_connection import FrameConnection
from netshape.frames import conditions_frame
from netshape.link_queue import Replan
from netshape.send_turns import TURN_S, SendTurns
from netshape.shaped_link import ShapedLink

IDLE_SENDS = 4
"""A sender whose messages find the link idle so often on end is held back by nothing but the processor."""
FORGET_AFTER = 16
"""Messages of which the numbers are kept without a look at whether they have left the link."""


class ShapedSender:
    """The sending half: plans messages on a link and gives them to a connection.

    A message counts as handed over when :meth:`send` was called, also when it had to wait for room on the link; but not
    before the socket took more.

    Args:
        connection: Where they go.
        link: Where they are planned; ``None`` to deliver as soon as they arrive.
    """

    def __init__(self, connection: FrameConnection, link: ShapedLink | None) -> None:
        self.connection = connection
        self.link = link
        # Number on the link and on the connection of what a change of the link may concern.
        self._numbers: deque[tuple[int, int]] = deque()
        self._turn_s = 0.0
        self._idle_sends = 0
        self._turns = SendTurns.of(asyncio.get_running_loop())
        self._busy_until_s = 0.0
        self._writable = asyncio.Event()
        self._writable.set()
        if link is not None:
            link.listen(self._replan)
            self._tell_conditions()

    def send_nowait(
        self, payload: bytes | bytearray | memoryview, header: bytes = b"", size_bytes: float = -1
    ) -> float:
        """Send a message without waiting for room on the link or the socket.

        Args:
            payload: Its bytes; may be changed again after the call unless it is ``bytes``.
            header: The application's header, opaque.
            size_bytes: Bytes that it counts on the link; those of header and payload when below 0.

        Returns:
            When it is to be delivered; infinite while the link is down.

        Raises:
            ConnectionFailedError: The connection is closed, or the message too long.
            SendQueueFullError: Too much is unsent.
        """
        return self._send(payload, header, size_bytes, monotonic())

    def _send(self, payload: bytes | bytearray | memoryview, header: bytes, size_bytes: float, now: float) -> float:
        """Send a message that is handed over at ``now``."""
        link, connection = self.link, self.connection
        connection.check(payload, header)
        if link is None:
            connection.push(payload, header, now, now, 0.0)
            return now
        clock, numbers = link.clock, self._numbers
        number = clock.accepted
        planned, transmission = link.plan(size_bytes if size_bytes >= 0 else len(payload) + len(header), now)
        numbers.append((number, connection.sent))
        if len(numbers) > FORGET_AFTER:
            first = clock.first_unsent
            while numbers and numbers[0][0] < first:
                numbers.popleft()
        connection.push(payload, header, planned, now, transmission)
        return planned

    async def send(self, payload: bytes | bytearray | memoryview, header: bytes = b"", size_bytes: float = -1) -> float:
        """As :meth:`send_nowait`, once the link and the socket have room; others have their turn now and then."""
        link, connection = self.link, self.connection
        ready = now = monotonic()
        yielded = False
        while not connection.closed:
            if not connection.writable:
                await self._writable.wait()
                ready = monotonic()
            elif link is not None and link.clock.free_s - now > link.horizon_s:
                await link.room(self._gone)
                # Until the link could have sent a full horizon, this sender is taken to send all it can.
                self._busy_until_s = monotonic() + link.horizon_s
            elif yielded or not await self._gave_way(now):
                break
            yielded = True
            now = self._turn_s = monotonic()
        if link is not None and self._busy_until_s and link.clock.free_s < monotonic() < self._busy_until_s:
            self._busy_until_s = 0.0
            link.ran_dry()
        return self._send(payload, header, size_bytes, ready)

    async def _gave_way(self, now: float) -> bool:
        """Let others go on if it is their turn, and say whether it was."""
        if self.link is not None and self.link.clock.free_s > now:
            self._idle_sends = 0
        else:
            self._idle_sends += 1
        if self._idle_sends > IDLE_SENDS:
            if not self._turns.over(now):
                return False
            await self._turns.next()
        else:
            # Its link bounds how long this one keeps the loop, and would run dry in a queue behind all the others.
            if now - self._turn_s <= TURN_S:
                return False
            await asyncio.sleep(0)
        return True

    async def sent(self) -> None:
        """Wait until nothing sent here can be concerned by a change of the link, and the socket has taken it."""
        if self.link is not None and not self.connection.lost:
            await self.link.sent(self._gone)
        while not self.connection.writable:
            await self._writable.wait()

    def set_writable(self, writable: bool) -> None:
        """The socket takes more, or no more for now."""
        if writable:
            self._writable.set()
        else:
            self._writable.clear()

    def stop(self) -> None:
        """The connection is gone."""
        if self.link is not None:
            self.link.unlisten(self._replan)
            self.link.wake()
        self._numbers.clear()
        self._writable.set()

    def _gone(self) -> bool:
        return self.connection.lost or self.connection.error is not None

    def _replan(self, replan: Replan) -> None:
        """Tell the peer the new times of this connection's part of the backlog."""
        numbers = self._numbers
        while numbers and numbers[0][0] < replan.first:
            numbers.popleft()
        if numbers:
            times = [replan.arrivals_s[number - replan.first] for number, _ in numbers]
            self.connection.replan(numbers[0][1], times)
        self._tell_conditions()

    def _tell_conditions(self) -> None:
        if self.link is not None:
            self.connection.send_control(conditions_frame(self.link.clock.bytes_per_s, self.link.conditions.latency_s))
