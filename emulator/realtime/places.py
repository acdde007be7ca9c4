"""Where machines have their sockets: all on loopback, or each in a network namespace of its own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from emulator.errors import SimulationError
from netshape.conditions import LinkConditions
from netshape.errors import NetworkError
from netshape.kernel.lab import KernelLab, check_can_build
from netshape.kernel.syscalls import inside
from netshape.kernel.topology import MAX_HOSTS, Host, Link, Topology
from netshape.sockets import SocketOptions

if TYPE_CHECKING:
    from emulator.spec import EmulationSpec

Pair = tuple[str, str]

HOST = "127.0.0.1"
SOCKETS = SocketOptions(
    send_buffer_bytes=1 << 20,
    receive_buffer_bytes=1 << 20,
    # A link that is down is not read, for as long as the scenario says: nobody is gone.
    user_timeout_s=86_400.0,
)
HEADERS_BYTES = 52
"""IPv4 and TCP headers with time stamps, which the kernel's links carry and the scenario's bandwidths do not count."""
PAYLOAD_BYTES = 1448
"""Of a packet of 1500 bytes."""
_SUBNETWORK = "10.78"


class Places(Protocol):
    """Makes the machines' sockets."""

    def new_socket(self, machine: str) -> socket.socket:
        """A non-blocking TCP socket where ``machine`` is."""
        ...

    def host(self, machine: str) -> str:
        """The address at which ``machine`` listens."""
        ...


class Loopback:
    """All machines share this one's loopback device."""

    def new_socket(self, machine: str) -> socket.socket:
        """A socket with this module's settings."""
        return tuned_socket()

    def host(self, machine: str) -> str:
        """Loopback, out of reach of others."""
        return HOST


class Namespaces:
    """Every machine is a network namespace; links between them are shaped by the kernel lab's TUN router.

    Args:
        spec: The run; links are as its network says.
        pairs: Machines that send to each other.
        dilation: Emulated seconds per second: the network runs at the same pace as the run.
    """

    def __init__(self, spec: EmulationSpec, pairs: Iterable[Pair], dilation: float) -> None:
        self._hosts = _hosts(pairs := list(pairs))
        self._lab = KernelLab(_topology(spec, pairs, self._hosts, dilation), backend="tun", seed=spec.seed)

    async def open(self) -> None:
        """Build namespaces and links.

        Raises:
            SimulationError: They cannot be built here.
        """
        try:
            await asyncio.to_thread(self._lab.open)
        except NetworkError as error:
            raise SimulationError(f"--transport namespaces: {error}") from error

    async def close(self) -> None:
        """Take them down."""
        await asyncio.to_thread(self._lab.close)

    def failure(self) -> str:
        """What is wrong with the network; empty while it works."""
        try:
            self._lab.check()
        except NetworkError as error:
            return str(error)
        return ""

    def new_socket(self, machine: str) -> socket.socket:
        """A socket in the machine's namespace: it stays there wherever it is used from."""
        with inside(self._lab.namespaces[self._hosts[machine].name].path):
            return tuned_socket()

    def host(self, machine: str) -> str:
        """The machine's address in the lab."""
        return self._hosts[machine].address


def tuned_socket() -> socket.socket:
    """A non-blocking TCP socket with this module's settings."""
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.setblocking(False)
    SOCKETS.apply(made)
    return made


def check_namespaces(spec: EmulationSpec) -> None:
    """Refuse what cannot run in namespaces, before anything is made.

    Raises:
        SimulationError: Not root, not Linux, no pyroute2, or too many machines.
    """
    machines = len(spec.placement) + 1
    if machines > MAX_HOSTS:
        raise SimulationError(
            f"--transport namespaces: {machines} machines; the kernel's network has at most {MAX_HOSTS}, "
            "use fewer nodes or --transport loopback"
        )
    try:
        check_can_build()
    except NetworkError as error:
        raise SimulationError(f"--transport namespaces: {error}") from error


def _hosts(pairs: Iterable[Pair]) -> Mapping[str, Host]:
    """Machine -> host; nodes may have names that hosts cannot."""
    machines = dict.fromkeys(end for pair in pairs for end in pair)
    return {
        machine: Host(name=f"m{index}", address=f"{_SUBNETWORK}.0.{index + 1}")
        for index, machine in enumerate(machines)
    }


def _topology(spec: EmulationSpec, pairs: list[Pair], hosts: Mapping[str, Host], dilation: float) -> Topology:
    """Links for ``pairs`` and for the acknowledgements that come back."""
    conditions: dict[Pair, LinkConditions] = {}
    for pair in pairs:
        conditions[pair] = _kernel_conditions(spec, pair, dilation)
    for source, target in pairs:
        back = target, source
        if back not in conditions:
            there = spec.cluster.link(*back) is not None
            conditions[back] = _kernel_conditions(spec, back, dilation) if there else conditions[source, target]
    links = tuple(
        Link(source=hosts[source].name, target=hosts[target].name, conditions=each)
        for (source, target), each in conditions.items()
    )
    return Topology(hosts=tuple(hosts.values()), links=links, congestion_control=SOCKETS.congestion)


def _kernel_conditions(spec: EmulationSpec, pair: Pair, dilation: float) -> LinkConditions:
    """What the kernel's link has to be, so that streams over it get what the scenario says, at the run's pace."""
    link = spec.cluster.link(*pair)
    assert link is not None
    behaviour = spec.conditions.of(spec.cluster, pair)
    given = behaviour.conditions if behaviour is not None else LinkConditions()
    payload = given.mtu_bytes or PAYLOAD_BYTES
    counted = payload + given.overhead_bytes_per_packet
    jitter = given.jitter
    return replace(
        given,
        bandwidth_bytes_per_s=link.bandwidth_bytes_per_s * dilation * (payload + HEADERS_BYTES) / counted,
        latency_s=link.latency_s / dilation,
        jitter=None if jitter is None else replace(jitter, spread_s=jitter.spread_s / dilation),
        mtu_bytes=payload + HEADERS_BYTES,
        overhead_bytes_per_packet=0,
    )
