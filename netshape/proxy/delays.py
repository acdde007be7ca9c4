"""Stages that hold bytes back until a virtual clock of the link model says that they have arrived.

A :class:`Channel` is one clock with the stages that share it: one connection's own for a toxic, all connections of a
proxy for a link. Bytes are booked on the clock in pieces, and only a little ahead of time, so that connections take
turns and a change of the link meets little that is planned already.
"""

from __future__ import annotations

import math
from asyncio import AbstractEventLoop
from collections import deque

from netshape.clock import NicClock
from netshape.conditions import LinkConditions
from netshape.link_metrics import LinkMetrics
from netshape.link_model import ConditionedClock
from netshape.proxy.stages import Alarm, End, Place, Stage

HORIZON_S = 0.02
"""How far ahead of its clock a link is booked."""
PIECE_S = 0.005
"""Transmission time of a piece, unless a packet takes longer."""
PIECE_BYTES = 256
"""Memory that a piece takes up beside its bytes, so that many small ones count for what they cost."""


class Piece:
    """Bytes, or the end of the stream, on their way.

    Attributes:
        data: The bytes; empty for an end.
        end: How the stream ends, if this is its end.
        arrived_s: When they came to the stage.
        due_s: When they leave it.
        carded: Whether ``due_s`` counts the receiving card.
        transmission_s: Time that it took up on the link.
    """

    __slots__ = ("arrived_s", "carded", "data", "due_s", "end", "stage", "transmission_s")

    def __init__(self, stage: DelayStage, data: bytes, end: End | None, arrived_s: float) -> None:
        self.stage = stage
        self.data = data
        self.end = end
        self.arrived_s = arrived_s
        self.due_s = math.inf
        self.carded = False
        self.transmission_s = 0.0


class Channel:
    """A virtual clock and the stages that book on it, in turn.

    Args:
        loop: The event loop; its time is the clock's.
        clock: What says when bytes arrive.
        receiver: Card that they pass then, when it is shared.
        metrics: What counts deliveries; ``None`` for nothing.
    """

    def __init__(
        self,
        loop: AbstractEventLoop,
        clock: ConditionedClock,
        receiver: NicClock | None = None,
        metrics: LinkMetrics | None = None,
    ) -> None:
        self.clock = clock
        self.receiver = receiver
        self.metrics = metrics
        self._loop = loop
        self._ready_s = 0.0
        self._waiting: deque[DelayStage] = deque()
        self._planned: deque[Piece] = deque()
        self._alarm = Alarm(loop, self._book)

    @property
    def piece_bytes(self) -> float:
        """Most bytes to book at once."""
        conditions = self.clock.conditions
        packet = conditions.packet_bytes if conditions.mtu_bytes is not None or conditions.loss is not None else 1
        return max(packet, self.clock.pace_bytes_per_s * PIECE_S)

    @property
    def _horizon_s(self) -> float:
        """How far ahead to book: no more than the queue before the link holds."""
        if self.clock.bytes_per_s == math.inf:
            return HORIZON_S
        return min(HORIZON_S, self.clock.conditions.queue_limit_bytes / self.clock.bytes_per_s)

    def offer(self, stage: DelayStage) -> None:
        """``stage`` has something to book."""
        if stage not in self._waiting:
            self._waiting.append(stage)
        if not self._alarm.set:
            self._book()

    def leave(self, stage: DelayStage) -> None:
        """``stage`` has nothing to book any more."""
        if stage in self._waiting:
            self._waiting.remove(stage)

    def set(self, conditions: LinkConditions) -> None:
        """Let ``conditions`` hold from now on; bytes sent already keep their arrival."""
        replan = self.clock.set(conditions, max(self._ready_s, self._loop.time()))
        self._plan_anew(replan.first, replan.arrivals_s)

    def set_return_latency(self, return_latency_s: float) -> None:
        """The way back has another latency from now on."""
        replan = self.clock.set_return_latency(return_latency_s, max(self._ready_s, self._loop.time()))
        self._plan_anew(replan.first, replan.arrivals_s)

    def delivered(self, piece: Piece, now_s: float) -> None:
        """``piece`` has been passed on."""
        metrics = self.metrics
        if metrics is not None and piece.data:
            metrics.configured_bytes_per_s = self.clock.pace_bytes_per_s
            metrics.configured_latency_s = self.clock.latency_s
            metrics.delivered(len(piece.data), piece.arrived_s, piece.due_s, now_s, piece.transmission_s)

    def close(self) -> None:
        """Disarm."""
        self._alarm.stop()

    def _plan_anew(self, first: int, arrivals_s: tuple[float, ...]) -> None:
        self._forget_sent()
        if len(arrivals_s) != len(self._planned):
            raise AssertionError(f"{len(arrivals_s)} new arrivals for {len(self._planned)} pieces from number {first}")
        for piece, due_s in zip(self._planned, arrivals_s, strict=True):
            piece.due_s = due_s
        for piece in self._planned:
            piece.stage.arm()
        self._alarm.stop()
        self._book()

    def _book(self) -> None:
        now = self._alarm.now_s
        clock = self.clock
        horizon_s = self._horizon_s
        while self._waiting and clock.free_s - horizon_s <= now:
            stage = self._waiting.popleft()
            piece = stage.take(self.piece_bytes)
            # The link model's time never falls; a piece that waited for its turn was ready all the while.
            self._ready_s = max(self._ready_s, piece.arrived_s)
            begin_s = max(clock.free_s, self._ready_s)
            piece.due_s = clock.send(self._ready_s, len(piece.data))
            piece.transmission_s = clock.free_s - begin_s
            self._planned.append(piece)
            if stage.backlogged:
                self._waiting.append(stage)
            stage.booked(piece)
        self._forget_sent()
        if self._waiting and clock.free_s < math.inf:
            self._alarm.ring_at(clock.free_s - horizon_s)

    def _forget_sent(self) -> None:
        while len(self._planned) > self.clock.accepted - self.clock.first_unsent:
            self._planned.popleft()


class DelayStage(Stage):
    """Holds bytes until they are due on a channel, in the order in which they came.

    Args:
        place: The pipe around it.
        channel: The channel that it books on.
    """

    def __init__(self, place: Place, channel: Channel) -> None:
        super().__init__(place)
        self.channel = channel
        self._held_bytes = 0
        self._backlog: deque[Piece] = deque()
        self._flight: deque[Piece] = deque()
        self._alarm = Alarm(place.loop, self._deliver)

    @property
    def held_bytes(self) -> int:
        """Bytes booked or waiting to be."""
        return self._held_bytes

    @property
    def full(self) -> bool:
        """Whether bytes wait to be booked, or the pipe's share of the memory is used up."""
        return bool(self._backlog) or self._held_bytes + PIECE_BYTES * len(self._flight) >= self.place.share_bytes

    @property
    def backlogged(self) -> bool:
        """Whether something waits to be booked."""
        return bool(self._backlog)

    def receive(self, data: bytes) -> None:
        """Bytes to hold."""
        self._held_bytes += len(data)
        self._backlog.append(Piece(self, data, None, self.place.loop.time()))
        self.channel.offer(self)

    def end(self, how: End) -> None:
        """The end of the stream takes its time as bytes do."""
        self._backlog.append(Piece(self, b"", how, self.place.loop.time()))
        self.channel.offer(self)

    def take(self, most_bytes: float) -> Piece:
        """The next piece to book."""
        first = self._backlog[0]
        if len(first.data) <= most_bytes:
            return self._backlog.popleft()
        size = int(most_bytes)
        piece = Piece(self, first.data[:size], None, first.arrived_s)
        first.data = first.data[size:]
        return piece

    def booked(self, piece: Piece) -> None:
        """``piece`` has got its time."""
        self._flight.append(piece)
        if len(self._flight) == 1:
            self.arm()
        if not self._backlog:
            self.place.moved()

    def arm(self) -> None:
        """Wake when the first piece is due."""
        if not self._flight or self._flight[0].due_s == math.inf:
            self._alarm.stop()
        else:
            self._alarm.ring_at(self._flight[0].due_s)

    def replace(self, channel: Channel) -> None:
        """Book everything held anew on another channel, as of when it came."""
        self.channel.leave(self)
        self.channel.close()
        self.channel = channel
        self._alarm.stop()
        self._backlog.extendleft(reversed(self._flight))
        self._flight.clear()
        if self._backlog:
            channel.offer(self)

    def release(self) -> None:
        """Pass on everything held, at once."""
        pieces = [*self._flight, *self._backlog]
        self.close()
        for piece in pieces:
            self._pass(piece)

    def close(self) -> None:
        """Forget everything held."""
        self.channel.leave(self)
        self._alarm.stop()
        self._flight.clear()
        self._backlog.clear()
        self._held_bytes = 0

    def _deliver(self) -> None:
        now = self._alarm.now_s
        while self._flight and self._flight[0].due_s <= now:
            piece = self._flight[0]
            if self._waits_for_card(piece, now):
                break
            self._flight.popleft()
            self._held_bytes -= len(piece.data)
            self.place.late(now - piece.due_s)
            self.channel.delivered(piece, now)
            self._pass(piece)
            # The channel may remember the piece a while longer.
            piece.data = b""
        self.arm()
        self.place.moved()

    def _waits_for_card(self, piece: Piece, now: float) -> bool:
        receiver = self.channel.receiver
        if receiver is None or piece.carded:
            return False
        piece.carded = True
        (piece.due_s,) = receiver.receive([piece.due_s], len(piece.data), self.channel.clock.pace_bytes_per_s)
        return piece.due_s > now

    def _pass(self, piece: Piece) -> None:
        if piece.data:
            self.next.receive(piece.data)
        if piece.end is not None:
            self.next.end(piece.end)
