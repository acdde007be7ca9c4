"""Sockets of a run: every machine listens, and every way between two machines is a connection."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from emulator.errors import SimulationError
from emulator.realtime.connections import Address, Inbound, Outbound, Pair
from emulator.realtime.messages import MAX_PAYLOAD_BYTES, TOKEN_BYTES, Message
from emulator.realtime.places import Loopback, Places
from netshape.frames import MalformedFrameError
from netshape.sockets import socket_report

BACKLOG = 1024
MAX_STRANGERS = 64
"""Connections to one machine that may be about to greet; further ones are closed at once."""
_RESERVED_FILES = 64


class Exchange:
    """All sockets of the machines that live in this process.

    Args:
        loop: Drives them.
        token: Shared by the processes of one run; whoever does not know it is turned away.
        on_message: Gets each message, with the machines it came from and to, when its last byte is here.
        on_lost: Gets the two machines and a reason when a connection of the run ends before :meth:`close`.

    Attributes:
        on_begun: Gets each message of several frames when its first header is here; may be set.
        places: Where machines have their sockets; loopback unless set before the first one is made.
        addresses: Where every machine listens, those of other processes included once they are known.
        strangers: Connections that were turned away.
        malformed: Connections of the run that were closed for bytes that are no frame.
        sent_bytes: Bytes handed to the kernel, headers included.
        received_bytes: Bytes taken from it.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        token: bytes,
        on_message: Callable[[Pair, Message], None],
        on_lost: Callable[[Pair, str], None],
    ) -> None:
        assert len(token) == TOKEN_BYTES
        self.loop = loop
        self.token = token
        self.on_message = on_message
        self.on_begun: Callable[[Pair, Message], None] = lambda *_: None
        self.places: Places = Loopback()
        self._on_lost = on_lost
        self.buffer = memoryview(bytearray(MAX_PAYLOAD_BYTES))
        self.addresses: dict[str, Address] = {}
        self._listening: dict[str, socket.socket] = {}
        self._outbound: dict[Pair, Outbound] = {}
        self._inbound: dict[Pair, Inbound] = {}
        self._strange: dict[Inbound, None] = {}
        self._expected: dict[Pair, None] = {}
        self._complete: asyncio.Future[None] | None = None
        self._closed = False
        self._down: dict[str, None] = {}
        self._held: dict[Pair, None] = {}
        self.strangers = self.malformed = 0
        self.sent_bytes = self.received_bytes = 0

    # -- opening -------------------------------------------------------------------------------

    def listen(self, machine: str) -> None:
        """Open the socket of ``machine``, on a port of the kernel's choice."""
        listening = self.places.new_socket(machine)
        self._listening[machine] = listening
        listening.bind((self.places.host(machine), 0))
        listening.listen(BACKLOG)
        self.addresses[machine] = listening.getsockname()
        self.loop.add_reader(listening, self._accept, machine, listening)

    async def connect(self, outgoing: Iterable[Pair], incoming: Iterable[Pair], limit_s: float = 30.0) -> None:
        """Open the ``outgoing`` connections and wait until the ``incoming`` ones are here.

        Raises:
            SimulationError: They do not come within ``limit_s``.
        """
        self._expected = {pair: None for pair in incoming if pair not in self._inbound}
        for pair in outgoing:
            self._outbound_for(pair)
        if not self._expected:
            return
        self._complete = self.loop.create_future()
        try:
            await asyncio.wait_for(self._complete, limit_s)
        except TimeoutError:
            missing = ", ".join(f"{source}->{target}" for source, target in list(self._expected)[:5])
            raise SimulationError(
                f"{len(self._expected)} connections between nodes were not made within {limit_s:g} s ({missing}); "
                "is the machine overloaded?"
            ) from None

    def _accept(self, machine: str, listening: socket.socket) -> None:
        for _ in range(BACKLOG):
            try:
                accepted, _ = listening.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    # The kernel keeps the connection waiting; a later call may have room for it.
                    return
                continue
            accepted.setblocking(False)
            if len(self._strange) - len(self._expected) >= MAX_STRANGERS:
                accepted.close()
                self.strangers += 1
                continue
            self._strange[Inbound(self, machine, accepted)] = None

    def greeted(self, inbound: Inbound, pair: Pair, machine: str) -> None:
        """``inbound`` says who it is.

        Raises:
            MalformedFrameError: It cannot be.
        """
        if pair[1] != machine or pair in self._inbound:
            raise MalformedFrameError("malformed frame: a greeting for another machine, or a second one")
        del self._strange[inbound]
        self._inbound[pair] = inbound
        self._expected.pop(pair, None)
        if not self._expected and self._complete is not None and not self._complete.done():
            self._complete.set_result(None)

    def turned_away(self, inbound: Inbound) -> None:
        """``inbound`` is not of this run."""
        self._strange.pop(inbound, None)
        self.strangers += 1

    # -- running -------------------------------------------------------------------------------

    def send(self, pair: Pair, message: Message, payload_bytes: int, due_s: float) -> None:
        """Send from ``pair[0]`` to ``pair[1]``; a connection that is not open yet is opened.

        Args:
            pair: Sender and receiver.
            message: What is sent.
            payload_bytes: How many bytes it has.
            due_s: When it is due, on CLOCK_MONOTONIC; infinite while the link is down.
        """
        self._outbound_for(pair).send(message, payload_bytes, due_s)

    def _outbound_for(self, pair: Pair) -> Outbound:
        outbound = self._outbound.get(pair)
        if outbound is None:
            if pair[1] not in self.addresses:
                self.listen(pair[1])  # A machine that has joined.
            outbound = self._outbound[pair] = Outbound(self, pair, self.addresses[pair[1]])
            if pair in self._held:
                outbound.pause()
        return outbound

    # -- churn ---------------------------------------------------------------------------------

    def open_ways(self) -> list[Pair]:
        """Pairs with a connection whose receiving end is open."""
        return list(self._inbound)

    def received_by_way(self) -> dict[Pair, int]:
        """Pair -> bytes received on its present connection."""
        return {pair: inbound.received_bytes for pair, inbound in self._inbound.items()}

    def reaches(self, pair: Pair) -> bool:
        """Whether both machines are up; between others nothing can be sent."""
        return pair[0] not in self._down and pair[1] not in self._down

    def take_down(self, machine: str) -> None:
        """Close every socket of ``machine`` as a crash does; what is in them is lost."""
        self._down[machine] = None
        listening = self._listening.pop(machine, None)
        if listening is not None:
            self.loop.remove_reader(listening)
            listening.close()
        self.addresses.pop(machine, None)
        ends: tuple[dict[Pair, Outbound] | dict[Pair, Inbound], ...] = (self._outbound, self._inbound)
        for connections in ends:
            for pair in [pair for pair in connections if machine in pair]:
                connections.pop(pair).abort()

    def bring_up(self, machine: str) -> None:
        """Let ``machine`` listen again; connections are made when something is to be sent."""
        self._down.pop(machine, None)

    def hold(self, pair: Pair) -> None:
        """Let nothing pass from ``pair[0]`` to ``pair[1]`` until :meth:`let_go`: neither end touches its socket."""
        self._held[pair] = None
        for end in (self._outbound.get(pair), self._inbound.get(pair)):
            if end is not None:
                end.pause()

    def holds(self, pair: Pair) -> bool:
        """Whether nothing may pass from ``pair[0]`` to ``pair[1]``."""
        return pair in self._held

    def let_go(self, pair: Pair) -> None:
        """Let bytes pass again."""
        self._held.pop(pair, None)
        for end in (self._outbound.get(pair), self._inbound.get(pair)):
            if end is not None:
                end.go_on()

    def lost(self, pair: Pair, reason: str) -> None:
        """A connection of the run has ended."""
        if not self._closed:
            self._on_lost(pair, reason)

    @property
    def queued_messages(self) -> int:
        """Messages that wait for the kernel to take them."""
        return sum(outbound.queued_messages for outbound in self._outbound.values())

    def settings(self) -> Mapping[str, Any]:
        """What the kernel made of the settings, on one of the sockets."""
        for listening in self._listening.values():
            return {**socket_report(listening), "frame_bytes": MAX_PAYLOAD_BYTES}
        return {}

    def close(self) -> None:
        """Close everything."""
        self._closed = True
        for listening in self._listening.values():
            self.loop.remove_reader(listening)
            listening.close()
        ends: list[Outbound | Inbound] = [*self._outbound.values(), *self._inbound.values(), *self._strange]
        for end in ends:
            end.close()
        self._strange.clear()


def need_files(count: int) -> None:
    """Make sure that ``count`` more files can be open, raising this process' limit if need be.

    Raises:
        SimulationError: The hard limit is too low.
    """
    in_use = len(os.listdir("/proc/self/fd"))
    need = in_use + count + _RESERVED_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or need <= soft:
        return
    if hard != resource.RLIM_INFINITY and need > hard:
        raise SimulationError(
            f"the run needs {count} sockets, but this process may open only {hard} files in all; "
            "raise the limit (ulimit -Hn), use fewer nodes, or spread them with --workers"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (need, hard))
