"""The network of a run in real time: virtual clocks plan every message, sockets carry its bytes."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from simpy.events import Event

from emulator.links import EmulatedLink, Transfer, VirtualNetwork
from emulator.realtime.aio_environment import AioEnvironment
from emulator.realtime.exchange import Exchange, Pair
from emulator.realtime.frames import Message
from emulator.realtime.gate import ArrivalGate
from emulator.realtime.meter import Meter

if TYPE_CHECKING:
    from emulator.requests import Attempt


class TimeMode(StrEnum):
    """Which time a message's arrival has in the emulation."""

    LOGICAL = "logical"
    """The planned one, whenever its bytes come; events keep the order of virtual time."""
    OBSERVED = "observed"
    """The one at which its receiver had it."""


class SocketNetwork(VirtualNetwork):
    """Sends every message's bytes to its receiver's socket; sender and receiver are nodes of this process.

    The links' clocks say when a message is due, as in virtual time. Its bytes leave at once and are usually early:
    the receiver holds the message until its time. In logical time a message that is late holds up everything planned
    for its time or later, so that the order of events is that of virtual time. In observed time nobody waits: a
    message counts from when it is there.
    """

    def __init__(self, env: AioEnvironment, exchange: Exchange, mode: TimeMode, layers: int, meter: Meter) -> None:
        super().__init__(env)
        self._env: AioEnvironment = env
        self._exchange = exchange
        self._layers = layers
        self._meter = meter
        self._serial = 0
        self._gate = ArrivalGate()
        self._on_way: dict[int, tuple[EmulatedLink, Attempt]] = {}
        self._observed = mode is TimeMode.OBSERVED
        if not self._observed:
            env.gate = self._gate
        exchange.on_message = self._received

    def launch(self, transfer: Transfer, at_s: float) -> None:
        """Send the bytes of ``transfer`` off; in logical time its event is planned as well."""
        if not self._observed:
            self._env.push(transfer, at_s)
        link = transfer.link
        pair = link.wire.source, link.wire.target
        for item, planned_s in zip(transfer.items, transfer.times, strict=True):
            self._serial += 1
            if self._observed:
                self._on_way[self._serial] = link, item
            else:
                self._gate.expect(self._serial, planned_s)
            message = message_of(self._serial, link, item, planned_s, self._layers)
            self._exchange.send(pair, message, payload_bytes(link, item))

    def _received(self, _pair: Pair, message: Message) -> None:
        env, planned_s = self._env, message.planned_s
        late_s = (env.clock_s() - planned_s) / env.dilation
        if late_s > 0:
            self._meter.late_frames += 1
        if self._observed:
            # In a heap with all other events, and in order: a link's messages are planned one after the other.
            env.call_at(max(planned_s, env.now), self._let_through, message)
        else:
            self._meter.let_through(late_s)
            self._gate.arrived(message.serial)
            env.recheck()

    def _let_through(self, event: Event) -> None:
        message = event.value
        assert isinstance(message, Message)
        env = self._env
        link, item = self._on_way.pop(message.serial)
        at_s = max(env.clock_s(), env.now)
        self._meter.let_through((at_s - message.planned_s) / env.dilation)
        env.push(Transfer(env, link, [item], [at_s], int(message.prefill), message.tokens), at_s)


def payload_bytes(link: EmulatedLink, item: Attempt) -> int:
    """Bytes that ``item`` sends over ``link`` in this iteration."""
    return round(link.bytes_per_token * item.tokens)


def message_of(serial: int, link: EmulatedLink, item: Attempt, planned_s: float, layers: int) -> Message:
    """What the header of ``item`` says on ``link``."""
    return Message(
        serial=serial,
        link=link.index,
        attempt=0,
        request=item.request.number,
        tokens=item.tokens,
        context=item.context,
        emitted=item.request.emitted_tokens,
        longest=item.request.prompt_tokens + item.request.output_tokens,
        layer=layers if link.node is None else link.entry_layer,
        hop=item.hop,
        prefill=item.prefill,
        planned_s=planned_s,
    )
