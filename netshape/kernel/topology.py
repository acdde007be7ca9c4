"""What a lab consists of, as values: hosts with addresses, and links of one direction each."""

from __future__ import annotations

import ipaddress
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from netshape.conditions import LinkConditions
from netshape.kernel.errors import KernelError
from netshape.kernel.namespaces import HOST_PATTERN

Backend = Literal["netem", "tun", "tbf"]

MAX_HOSTS = 250
MAX_LINKS = 10_000
MTU_BYTES = 1500
"""IP bytes of the largest packet on a link that gives none."""
MIN_MTU_BYTES, MAX_MTU_BYTES = 576, 65_535
QUEUE_PACKETS = 1000
"""Packets that may wait for a link that gives no limit; Linux's network cards and netem have the same."""
_DEFAULT_NETWORK = ipaddress.IPv4Network("10.77.0.0/24")
_MIN_BUFFER_BYTES, _MAX_BUFFER_BYTES = 4 << 20, 256 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A machine of the lab: a network namespace with an address.

    Attributes:
        name: Lower-case letters, digits and hyphens, at most 32 characters; programs in the lab find it by this name.
        address: IPv4 address, for instance ``10.77.0.1``.

    Raises:
        KernelError: A malformed name or address.
    """

    name: str
    address: str

    def __post_init__(self) -> None:
        if not HOST_PATTERN.fullmatch(self.name):
            rule = "it must be 1 to 32 lower-case letters, digits and inner hyphens"
            raise KernelError(f"host name {self.name!r}: {rule}")
        try:
            address = ipaddress.IPv4Address(self.address)
        except ValueError:
            raise KernelError(f"host {self.name}: address {self.address!r}: it must be IPv4, as 10.77.0.1") from None
        if address.is_multicast or address.is_loopback or address.is_unspecified or address.is_reserved:
            raise KernelError(f"host {self.name}: address {address}: it must be that of one machine, as 10.77.0.1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One direction between two hosts.

    Attributes:
        source: Sending host.
        target: Receiving host.
        conditions: What it is like. ``mtu_bytes`` are IP bytes here (1500 where not given), headers included; without
            a queue limit, :data:`QUEUE_PACKETS` packets of that size may wait.

    Raises:
        KernelError: A link of a host to itself, or an MTU out of range.
    """

    source: str
    target: str
    conditions: LinkConditions

    def __post_init__(self) -> None:
        if self.source == self.target:
            raise KernelError(f"link {self.name}: it must join two hosts")
        if not MIN_MTU_BYTES <= self.mtu_bytes <= MAX_MTU_BYTES:
            raise KernelError(f"link {self.name}: mtu_bytes must be from {MIN_MTU_BYTES} to {MAX_MTU_BYTES}")

    @property
    def name(self) -> str:
        """``source->target``."""
        return f"{self.source}->{self.target}"

    @property
    def mtu_bytes(self) -> int:
        """IP bytes of the largest packet."""
        return MTU_BYTES if self.conditions.mtu_bytes is None else self.conditions.mtu_bytes

    @property
    def effective(self) -> LinkConditions:
        """The conditions with this class's defaults for MTU and queue."""
        conditions = replace(self.conditions, mtu_bytes=self.mtu_bytes)
        if conditions.queue_limit_bytes < math.inf:
            return conditions
        packet = self.mtu_bytes + conditions.overhead_bytes_per_packet
        return replace(conditions, queue_limit_bytes=QUEUE_PACKETS * packet)


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """Hosts and the links between them.

    Attributes:
        hosts: At least one; names and addresses differ.
        links: At most one a direction. Hosts without a link cannot reach each other.
        congestion_control: Default of TCP in all hosts, one that the kernel allows in namespaces
            (``tcp_allowed_congestion_control``); ``None`` for the kernel's own default.
        tcp_buffer_bytes: Most bytes of a TCP socket's send and receive buffers; ``None`` for twice the largest
            bandwidth-delay product among the links, from 4 MiB to 256 MiB.

    Raises:
        KernelError: Doubled names, addresses or links, unknown hosts, or too many of them.
    """

    hosts: tuple[Host, ...]
    links: tuple[Link, ...]
    congestion_control: str | None = None
    tcp_buffer_bytes: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= len(self.hosts) <= MAX_HOSTS:
            raise KernelError(f"a topology has 1 to {MAX_HOSTS} hosts; this one has {len(self.hosts)}")
        if len(self.links) > MAX_LINKS:
            raise KernelError(f"a topology has at most {MAX_LINKS} links; this one has {len(self.links)}")
        _no_doubles("host name", [host.name for host in self.hosts])
        _no_doubles("host address", [host.address for host in self.hosts])
        _no_doubles("link", [link.name for link in self.links])
        known = {host.name for host in self.hosts}
        for link in self.links:
            for end in (link.source, link.target):
                if end not in known:
                    raise KernelError(f"link {link.name}: there is no host {end!r}; add it to hosts")
        if self.tcp_buffer_bytes is not None and not 4096 <= self.tcp_buffer_bytes <= 1 << 30:
            raise KernelError(f"tcp_buffer_bytes = {self.tcp_buffer_bytes}: it must be from 4 KiB to 1 GiB")

    @property
    def buffer_bytes(self) -> int:
        """Most bytes of a TCP socket's buffers."""
        if self.tcp_buffer_bytes is not None:
            return self.tcp_buffer_bytes
        latency = {(link.source, link.target): link.conditions.latency_s for link in self.links}
        most = 0.0
        for link in self.links:
            rate = link.conditions.bandwidth_bytes_per_s
            round_trip = link.conditions.latency_s + latency.get((link.target, link.source), 0.0)
            in_flight = rate * round_trip if rate < math.inf else math.inf
            most = max(most, in_flight + link.effective.queue_limit_bytes)
        return int(min(max(2 * most, _MIN_BUFFER_BYTES), _MAX_BUFFER_BYTES))


def full_mesh(names: Sequence[str], conditions: LinkConditions) -> Topology:
    """Hosts ``10.77.0.1`` and up, each joined to each other by the same conditions in both directions."""
    addresses = _DEFAULT_NETWORK.hosts()
    hosts = tuple(Host(name=name, address=str(address)) for name, address in zip(names, addresses, strict=False))
    links = tuple(
        Link(source=source.name, target=target.name, conditions=conditions)
        for source in hosts
        for target in hosts
        if source is not target
    )
    return Topology(hosts=hosts, links=links)


def _no_doubles(what: str, values: Sequence[str]) -> None:
    doubled = [value for value, count in Counter(values).items() if count > 1]
    if doubled:
        raise KernelError(f"{what} {doubled[0]!r} stands there more than once; each must differ")
