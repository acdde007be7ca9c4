"""Links of the running cluster and the transfers on them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from simpy.events import URGENT, Event

from emulator.environment import VirtualEnvironment
from netshape.clock import LinkClock, NicClock

if TYPE_CHECKING:
    from emulator.node import GpuNode, Segment
    from emulator.requests import Attempt

CARD_BLOCK_S = 0.001
"""A receiving card takes messages of one transfer that arrive within this time in one go. Later ones come to it at
their own time: until then it is free for other links."""


class Wire:
    """One direction between two machines. All links over it, whatever layer they enter at, share its clock.

    Attributes:
        source: Sending machine, or the coordinator.
        target: Receiving machine, or the coordinator.
        clock: Its virtual clock.
        receiving_nic: Receiver's card, when cards are shared first come, first served.
        bytes_sent: Bytes of messages handed over in the window.
        messages: Messages handed over in the window.
        in_flight: What has been sent and has not arrived, in order; kept only where links and machines can fail.
        share_bytes_per_s: Its fixed share of the cards at its ends; 0 when it has none.
    """

    __slots__ = (
        "bytes_sent",
        "clock",
        "in_flight",
        "messages",
        "receiving_nic",
        "share_bytes_per_s",
        "source",
        "target",
    )

    def __init__(self, source: str, target: str, clock: LinkClock, receiving_nic: NicClock | None) -> None:
        self.source = source
        self.target = target
        self.clock = clock
        self.receiving_nic = receiving_nic
        self.bytes_sent = 0.0
        self.messages = 0
        self.in_flight: dict[Dispatch, None] = {}
        self.share_bytes_per_s = 0.0

    @property
    def name(self) -> str:
        """``source->target``."""
        return f"{self.source}->{self.target}"

    def start_window(self) -> None:
        """Forget what was measured so far."""
        self.bytes_sent = 0.0
        self.messages = 0


class EmulatedLink:
    """A way from one machine's layers to those of the next, over a wire.

    Attributes:
        index: Running number; links are made in the cluster's link order.
        name: ``source->target``.
        source: Sending node; ``None`` for the coordinator.
        node: Receiving node; ``None`` for the coordinator.
        entry_layer: First layer to run at the receiver.
        segment: Where arrivals queue at the receiver.
        wire: What carries it.
        clock: The wire's clock.
        receiving_nic: The wire's receiving card.
        bytes_per_token: Bytes that one token costs here.
    """

    __slots__ = (
        "bytes_per_token",
        "clock",
        "deliver",
        "entry_layer",
        "index",
        "name",
        "node",
        "receiving_nic",
        "segment",
        "source",
        "wire",
    )

    def __init__(
        self,
        index: int,
        source: GpuNode | None,
        node: GpuNode | None,
        entry_layer: int,
        wire: Wire,
        bytes_per_token: float,
    ) -> None:
        self.index = index
        self.name = wire.name
        self.source = source
        self.node = node
        self.entry_layer = entry_layer
        self.segment: Segment | None = None
        self.wire = wire
        self.clock = wire.clock
        self.receiving_nic = wire.receiving_nic
        self.bytes_per_token = bytes_per_token
        self.deliver: Callable[[Any], None]

    def pass_card(self, transfer: Transfer) -> None:
        """Lead ``transfer``, whose first message arrives now, through the receiver's card, if that is shared."""
        nic = self.receiving_nic
        if nic is None:
            return
        times = transfer.times
        block_end = times[0] + CARD_BLOCK_S
        if times[-1] > block_end:
            transfer.split(bisect_right(times, block_end))
        size = self.bytes_per_token
        sizes = [size * item.tokens for item in transfer.items] if transfer.prefills else size
        transfer.times = nic.receive(transfer.times, sizes, self.clock.pace_bytes_per_s)


class Dispatch(Event):
    """Messages on a wire, delivered by one event when the first arrives.

    Attributes:
        times: Arrival time of each, rising, shape ``(n,)``.
        number: Number of the first by the wire's clock, where that counts them.
        serial: Number of the first by whoever carries their bytes, in real time.
    """

    times: list[float]
    number = 0
    serial = 0


class Transfer(Dispatch):
    """What one batch sends to one next machine: one message per request, delivered by one event.

    The event happens when the first message arrives. Later messages carry their own arrival times,
    and the receiver does not touch a message before its time.

    Attributes:
        link: The link taken.
        items: Messages in sending order, shape ``(n,)``.
        times: Arrival time of each, rising, shape ``(n,)``.
        prefills: How many of them are prefills.
        tokens: Tokens of all of them.
    """

    def __init__(
        self,
        env: VirtualEnvironment,
        link: EmulatedLink,
        items: list[Attempt],
        times: list[float],
        prefills: int,
        tokens: int,
    ) -> None:
        # Event.__init__ is spelled out: this is the busiest constructor of a run.
        self.env = env
        self.callbacks = [link.deliver]
        self._ok = True
        self._value = None
        self.link = link
        self.items = items
        self.times = times
        self.prefills = prefills
        self.tokens = tokens

    def split(self, count: int) -> Transfer:
        """Keep the first ``count`` messages; the others become a transfer of their own, delivered at its time."""
        items, times = self.items[count:], self.times[count:]
        prefills = sum(1 for item in items if item.prefill) if self.prefills else 0
        tokens = sum(item.tokens for item in items)
        self.items, self.times = self.items[:count], self.times[:count]
        self.prefills -= prefills
        self.tokens -= tokens
        env = self.env
        assert isinstance(env, VirtualEnvironment)
        tail = Transfer(env, self.link, items, times, prefills, tokens)
        tail.number = self.number + count
        tail.serial = self.serial + count
        # What was handed over later may arrive at the same time, and comes after it.
        env.push(tail, times[0], URGENT)
        return tail


class VirtualNetwork:
    """Carries transfers over virtual clocks.

    Args:
        env: The event core.
        watch: Gets every transfer as it is handed to its wire.
    """

    def __init__(self, env: VirtualEnvironment, watch: Callable[[Transfer], None] | None = None) -> None:
        self._env = env
        self.watch = watch

    def transmit(self, link: EmulatedLink, ready_s: float | list[float], items: list[Attempt], prefills: int) -> None:
        """Send one message per item over ``link``, in order.

        Args:
            link: Where to send.
            ready_s: When the messages are handed over: one time for all, or, without prefills, one for each, rising.
            items: What to send, shape ``(n,)``.
            prefills: How many of them are prefills.
        """
        size = link.bytes_per_token
        count = len(items)
        send = link.clock.send
        tokens = count
        if isinstance(ready_s, list):
            times = [send(ready, size) for ready in ready_s]
        elif prefills:
            tokens = sum(item.tokens for item in items)
            times = [send(ready_s, size * item.tokens) for item in items]
        else:
            times = link.clock.send_run(ready_s, size, count)
        wire = link.wire
        wire.bytes_sent += size * tokens
        wire.messages += count
        transfer = Transfer(self._env, link, items, times, prefills, tokens)
        self.launch(transfer, times[0])
        if self.watch is not None:
            self.watch(transfer)

    def launch(self, transfer: Transfer, at_s: float) -> None:
        """Let ``transfer`` be delivered at ``at_s``."""
        self._env.push(transfer, at_s)
