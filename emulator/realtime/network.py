"""The network of a run in real time: virtual clocks plan every message, sockets carry its bytes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from enum import StrEnum
from typing import TYPE_CHECKING

from simpy.events import Event

from emulator.churn.network import ChurningNetwork
from emulator.links import EmulatedLink, Transfer, VirtualNetwork
from emulator.realtime.aio_environment import AioEnvironment
from emulator.realtime.attempts import Attempts
from emulator.realtime.connections import Pair
from emulator.realtime.exchange import Exchange
from emulator.realtime.gate import ArrivalGate
from emulator.realtime.messages import Message
from emulator.realtime.meter import Meter
from netshape.frames import MalformedFrameError

if TYPE_CHECKING:
    from emulator.cluster import ClusterState
    from emulator.requests import Attempt


class TimeMode(StrEnum):
    """Which time a message's arrival has in the emulation."""

    LOGICAL = "logical"
    """The planned one, whenever its bytes come; events keep the order of virtual time."""
    OBSERVED = "observed"
    """The one at which its receiver had it."""


class SocketCarrier:
    """Sends every message's bytes to its receiver's socket.

    The links' clocks say when a message is due, as in virtual time. Its bytes leave at once and are usually early:
    the receiver holds the message until its time. In logical time a message that is late holds up everything in its
    process that is planned for its time or later, so that the order of events is that of virtual time. In observed
    time nobody waits: a message counts from when it is there.

    With one process and logical time nothing of the run's course depends on it: it only watches what is sent.
    Otherwise a :class:`SocketNetwork` asks it to deliver.

    A receiver in another process gets a message from its header alone. Nothing says there that a message is on its way
    before its first bytes come; from then on events wait for it in logical time. One that begins to come after an event
    of its time or later is a causality violation, and is counted.

    Args:
        env: Events of this process.
        exchange: Its sockets.
        mode: Whose time counts.
        layers: Of the model.
        meter: Counts.
        here: Names of the machines of this process; all when not given.
        attempts: Attempts by number; needed when there are others.
        holds: Whether receivers hold messages until their planned time; not where the network itself takes its time.
    """

    def __init__(
        self,
        env: AioEnvironment,
        exchange: Exchange,
        mode: TimeMode,
        layers: int,
        meter: Meter,
        *,
        here: Iterable[str] | None = None,
        attempts: Attempts | None = None,
        holds: bool = True,
    ) -> None:
        self._holds = holds
        self._env = env
        self._exchange = exchange
        self._layers = layers
        self._meter = meter
        self._here = None if here is None else dict.fromkeys(here)
        self._attempts = attempts
        self._links: dict[int, EmulatedLink] = {}
        self._serial = self._heard_of = 0
        self._gate = ArrivalGate()
        self._on_way: dict[int, tuple[EmulatedLink, Attempt]] = {}
        self._observed = mode is TimeMode.OBSERVED
        if not self._observed:
            env.gate = self._gate
        exchange.on_message = self._received
        exchange.on_begun = self._begun
        self._begun_afar: dict[tuple[Pair, int], int] = {}

    # -- sending -------------------------------------------------------------------------------

    def attach(self, state: ClusterState) -> None:
        """Carry what the cluster sends from now on."""
        self._links = {link.index: link for link in state.links}
        if self._observed or self._here is not None:
            state.carry_by(SocketNetwork(self._env, self))
            return
        network, before = state.network, state.network.watch
        if isinstance(network, ChurningNetwork):
            network.observer = self

        def watch(transfer: Transfer) -> None:
            self.planned(transfer)
            if before is not None:
                before(transfer)

        network.watch = watch

    def planned(self, transfer: Transfer) -> None:
        """``transfer`` will be delivered at its time; send its bytes, without which nothing may pass that time."""
        wire = transfer.link.wire
        pair = wire.source, wire.target
        transfer.serial = self._serial + 1
        for item, planned_s in zip(transfer.items, transfer.times, strict=True):
            self._serial += 1
            if self._exchange.reaches(pair):
                self._gate.expect(self._serial, planned_s, pair)
                self._send(transfer.link, item, planned_s)

    def launch(self, transfer: Transfer) -> None:
        """Send ``transfer`` to its receiver, and see that it is delivered there."""
        link = transfer.link
        if self._here is not None and link.wire.target not in self._here:
            self._send_away(transfer)
        elif self._observed:
            for item, planned_s in zip(transfer.items, transfer.times, strict=True):
                self._serial += 1
                self._on_way[self._serial] = link, item
                self._send(link, item, planned_s)
        else:
            self._env.push(transfer, transfer.times[0])
            self.planned(transfer)

    def _send_away(self, transfer: Transfer) -> None:
        """To another process, which sees nothing but the messages' headers."""
        link, attempts = transfer.link, self._attempts
        assert attempts is not None
        for item, planned_s in zip(transfer.items, transfer.times, strict=True):
            self._serial += 1
            links = item.path() if item.pipeline is None else item.pipeline.links
            self._send(link, item, planned_s, attempts.number_of(item), tuple(each.index for each in links))
        attempts.left(transfer.items)

    def _send(
        self, link: EmulatedLink, item: Attempt, planned_s: float, attempt: int = 0, path: tuple[int, ...] = ()
    ) -> None:
        request = item.request
        message = Message(
            serial=self._serial,
            link=link.index,
            attempt=attempt,
            request=request.number,
            tokens=item.tokens,
            context=item.context,
            emitted=request.emitted_tokens,
            longest=request.prompt_tokens + request.output_tokens,
            layer=self._layers if link.node is None else link.entry_layer,
            hop=item.hop,
            prefill=item.prefill,
            planned_s=planned_s,
            path=path,
        )
        payload_bytes = round(link.bytes_per_token * item.tokens)
        self._exchange.send((link.wire.source, link.wire.target), message, payload_bytes, self._env.due_at(planned_s))

    # -- churn, with one process and logical time ----------------------------------------------

    def machine_stopped(self, name: str) -> None:
        """Its sockets are closed at once; what was in them is lost, and nobody waits for it."""
        self._exchange.take_down(name)
        self._gate.give_up(lambda _planned_s, pair: name in pair)
        self._env.recheck()

    def machine_started(self, name: str) -> None:
        """It can be connected to again."""
        self._exchange.bring_up(name)

    def wire_changed(self, pair: Pair, up: bool) -> None:
        """Bytes stop where they are, or go on."""
        if up:
            self._exchange.let_go(pair)
            return
        self._exchange.hold(pair)
        # What had left before still arrives by the plan, though its bytes may be in a socket that nobody reads now.
        self._gate.give_up(lambda planned_s, held: held == pair and planned_s < math.inf)
        self._env.recheck()

    def moved(self, transfer: Transfer) -> None:
        """``transfer`` has other times than it was sent with."""
        for offset, planned_s in enumerate(transfer.times):
            self._gate.moved(transfer.serial + offset, planned_s)

    # -- receiving -----------------------------------------------------------------------------

    def _begun(self, pair: Pair, message: Message) -> None:
        """A long message has begun to come; from another process that is the first that is heard of it."""
        if self._here is not None and pair[0] not in self._here and not self._observed:
            # Numbers below 0, for serials are the senders' own.
            self._heard_of += 1
            self._begun_afar[pair, message.serial] = -self._heard_of
            self._gate.expect(-self._heard_of, message.planned_s, pair)

    def _received(self, pair: Pair, message: Message) -> None:
        env, planned_s = self._env, message.planned_s
        late_s = (env.clock_s() - planned_s) / env.dilation
        if late_s > 0:
            self._meter.late_frames += 1
        if self._here is not None and pair[0] not in self._here:
            self._received_from_afar(pair, message, late_s)
        elif self._observed:
            self._hold(*self._on_way.pop(message.serial), message)
        else:
            self._meter.let_through(late_s)
            self._gate.arrived(message.serial)
            env.recheck()

    def _received_from_afar(self, pair: Pair, message: Message, late_s: float) -> None:
        assert self._attempts is not None
        env = self._env
        try:
            link = self._links[message.link]
            path = tuple(self._links[index] for index in message.path)
        except KeyError as error:
            raise MalformedFrameError(
                f"malformed frame: a message over link {error.args[0]}, which there is not"
            ) from None
        if (link.wire.source, link.wire.target) != pair:
            raise MalformedFrameError(
                f"malformed frame: a message over {link.name} on the connection {pair[0]}->{pair[1]}"
            )
        begun = self._begun_afar.pop((pair, message.serial), None)
        if begun is not None:
            self._gate.arrived(begun)
            env.recheck()
        attempt = self._attempts.arrived(message, path)
        if attempt is None:
            return
        if self._observed:
            self._hold(link, attempt, message)
            return
        self._meter.let_through(late_s)
        if message.planned_s < env.now:
            self._meter.causality_violations += 1
        self._deliver(link, attempt, message, message.planned_s)

    def _hold(self, link: EmulatedLink, attempt: Attempt, message: Message) -> None:
        """Keep a message until its planned time, in observed time."""
        # In the heap of all other events, and in order: a link's messages are planned one after the other.
        env = self._env
        at_s = message.planned_s if self._holds else env.clock_s()
        env.call_at(max(at_s, env.now), self._let_through, (link, attempt, message))

    def _let_through(self, event: Event) -> None:
        assert isinstance(event.value, tuple)
        link, attempt, message = event.value
        env = self._env
        at_s = max(env.clock_s(), env.now)
        self._meter.let_through((at_s - message.planned_s) / env.dilation)
        self._deliver(link, attempt, message, at_s)

    def _deliver(self, link: EmulatedLink, attempt: Attempt, message: Message, at_s: float) -> None:
        env = self._env
        transfer = Transfer(env, link, [attempt], [at_s], int(message.prefill), message.tokens)
        env.push(transfer, max(at_s, env.now))


class SocketNetwork(VirtualNetwork):
    """Virtual clocks plan; a :class:`SocketCarrier` delivers."""

    def __init__(self, env: AioEnvironment, carrier: SocketCarrier) -> None:
        super().__init__(env)
        self._carrier = carrier

    def launch(self, transfer: Transfer, at_s: float) -> None:
        """Send the bytes of ``transfer`` off."""
        self._carrier.launch(transfer)
