"""Builds a lab inside the kernel: namespaces, devices, addresses, routes, settings of TCP, queueing disciplines.

For processes with a single thread: it moves between namespaces. All devices live inside the lab's namespaces, so the
machine's own network is never touched, and removing the namespaces removes everything.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute, netns
from pyroute2.netlink import NLA_F_NESTED, NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, nla
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl import RTM_NEWQDISC, RTM_NEWTCLASS
from pyroute2.netlink.rtnl.tcmsg import plugins, sched_netem, tcmsg

from netshape.kernel.errors import KernelError
from netshape.kernel.namespaces import Namespace
from netshape.kernel.probe import allowed_congestion_controls
from netshape.kernel.qdisc import ROOT, TcRequest
from netshape.kernel.syscalls import inside
from netshape.kernel.topology import Host, Link, Topology
from netshape.kernel.tun import open_tun

TUN_NAME = "tun0"
_TUN_QUEUE_PACKETS = 4096
_TUN_BURST_S = 0.00025
"""A large TCP packet takes at most this long on its link: bursts stay as short as those of a paced sender."""
_MIN_BURST_BYTES = 2 * 1500
_MAX_BURST_BYTES = 65_000
_SETTINGS = Path("/proc/sys/net")
_NETLINK_HEADER_BYTES = 16


class NetemOptions(sched_netem.options):  # type: ignore[misc]
    """netem's attributes, with those that pyroute2 leaves out."""

    nla_map = (
        ("TCA_NETEM_UNSPEC", "none"),
        ("TCA_NETEM_CORR", "netem_corr"),
        ("TCA_NETEM_DELAY_DIST", "cdata"),
        ("TCA_NETEM_REORDER", "netem_reorder"),
        ("TCA_NETEM_CORRUPT", "netem_corrupt"),
        ("TCA_NETEM_LOSS", "netem_loss"),
        ("TCA_NETEM_RATE", "netem_rate"),
    )

    class netem_loss(nla):  # type: ignore[misc]  # noqa: N801 -- named as pyroute2 names attributes
        """Loss models."""

        nla_flags = NLA_F_NESTED
        nla_map = (("NETEM_LOSS_UNSPEC", "none"), ("NETEM_LOSS_GI", "hex"), ("NETEM_LOSS_GE", "gilbert_elliott"))

        class gilbert_elliott(nla):  # type: ignore[misc]  # noqa: N801
            """``struct tc_netem_gemodel``."""

            fields = (("p", "I"), ("r", "I"), ("h", "I"), ("k1", "I"))


class TcMessage(tcmsg):  # type: ignore[misc]
    """A request to traffic control whose netem options are complete."""

    @staticmethod
    def get_options(self: Any, *_args: Any, **_keywords: Any) -> Any:
        """The class of a kind's options."""
        kind = self.get_attr("TCA_KIND")
        return NetemOptions if kind == "netem" else plugins[kind].options


def tc_bytes(request: TcRequest, card: int) -> bytes:
    """The netlink message of ``request`` for the card of that index; it replaces what is there."""
    message = TcMessage()
    message["index"] = card
    message["handle"] = request.handle
    message["parent"] = request.parent
    message["attrs"] = [["TCA_KIND", request.kind], ["TCA_OPTIONS", dict(request.options)]]
    message["header"]["type"] = RTM_NEWQDISC if request.command == "qdisc" else RTM_NEWTCLASS
    message["header"]["flags"] = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE
    message.encode()
    return bytes(message.data)


def send_tc(netlink: socket.socket, message: bytes) -> None:
    """Send a message on a plain netlink socket; pyroute2's own way takes only the options that it knows.

    Raises:
        OSError: The kernel refuses.
    """
    netlink.send(message)
    answer = netlink.recv(65_536)
    # struct nlmsghdr is followed by the error's number, negative, or 0.
    (code,) = struct.unpack_from("=i", answer, _NETLINK_HEADER_BYTES)
    if code:
        raise OSError(-code, os.strerror(-code))


@contextmanager
def told(where: str, what: str) -> Iterator[None]:
    """Turn what the kernel refuses into an error that says what to do."""
    try:
        yield
    except (NetlinkError, OSError) as error:
        number = error.code if isinstance(error, NetlinkError) else error.errno
        if number in (errno.EPERM, errno.EACCES):
            raise KernelError(f"{where}: {what}: not permitted; run as root with CAP_NET_ADMIN") from error
        rule = "not in this kernel" if number in (errno.ENOENT, errno.EOPNOTSUPP) else os.strerror(number or 0)
        raise KernelError(f"{where}: {what}: {rule}; `helixemu net doctor` shows what can be used") from error


class Wiring:
    """The namespaces of one lab, with a netlink socket in each.

    Attributes:
        namespaces: Host -> its namespace.
        tuns: Host -> descriptor of its TUN device, with backend tun.
        cards: Link's name -> host, index of the card that sends on it; with the other backends.
    """

    def __init__(self, topology: Topology, namespaces: Mapping[str, Namespace]) -> None:
        self._topology = topology
        self._hosts = {host.name: host for host in topology.hosts}
        self._sockets: dict[str, IPRoute] = {}
        self._traffic_control: dict[str, socket.socket] = {}
        self._stack = ExitStack()
        self.namespaces = namespaces
        self.tuns: dict[str, int] = {}
        self.cards: dict[str, int] = {}
        # Only the machine's own namespace shows this list.
        self._allowed = allowed_congestion_controls()

    def congestion_control(self) -> str:
        """The default of TCP that holds in the hosts."""
        path = _SETTINGS / "ipv4/tcp_congestion_control"
        with inside(next(iter(self.namespaces.values())).path):
            return path.read_text(encoding="ascii").strip()

    def close(self) -> None:
        """Give all descriptors back; the namespaces stay."""
        self._stack.close()

    def make_hosts(self) -> None:
        """Make the namespaces, with loopback up and TCP set."""
        for host in self._topology.hosts:
            namespace = self.namespaces[host.name]
            with told(f"host {host.name}", "network namespace"):
                netns.create(namespace.name)
                with inside(namespace.path):
                    netlink = IPRoute()
                    traffic_control = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
            self._stack.callback(netlink.close)
            self._stack.callback(traffic_control.close)
            self._sockets[host.name] = netlink
            self._traffic_control[host.name] = traffic_control
            with told(f"host {host.name}", "loopback"):
                netlink.link("set", index=netlink.link_lookup(ifname="lo")[0], state="up")
            self._in(host.name, self._set_ip)

    def wire_tuns(self) -> None:
        """A TUN device in each host, with routes to the targets of its links."""
        for host in self._topology.hosts:
            descriptor = open_tun(self.namespaces[host.name].path, TUN_NAME)
            self._stack.callback(os.close, descriptor)
            self.tuns[host.name] = descriptor
            links = [link for link in self._topology.links if link.source == host.name]
            mtu = max((link.mtu_bytes for link in links), default=1500)
            netlink = self._sockets[host.name]
            with told(f"host {host.name}", TUN_NAME):
                card = netlink.link_lookup(ifname=TUN_NAME)[0]
                netlink.link(
                    "set",
                    index=card,
                    mtu=mtu,
                    txqlen=_TUN_QUEUE_PACKETS,
                    gso_max_size=burst_bytes(links),
                )
                self._in(host.name, _without_ipv6, TUN_NAME)
                netlink.link("set", index=card, state="up")
                netlink.addr("add", index=card, address=host.address, prefixlen=32)
            for link in links:
                self._route(host, link, card)

    def missed_packets(self, host: str) -> int:
        """Packets that a host's TUN device dropped, because nobody took them in time."""
        netlink = self._sockets[host]
        with told(f"host {host}", TUN_NAME):
            card = netlink.get_links(netlink.link_lookup(ifname=TUN_NAME)[0])[0]
        dropped: int = card.get_attr("IFLA_STATS64")["tx_dropped"]
        return dropped

    def wire_pairs(self, requests: Callable[[Link], tuple[TcRequest, ...]]) -> None:
        """A pair of virtual Ethernet cards for each two linked hosts, with each direction's queueing disciplines."""
        position = {host.name: index for index, host in enumerate(self._topology.hosts)}
        pairs: dict[tuple[str, str], list[Link]] = {}
        for link in self._topology.links:
            first, second = sorted((link.source, link.target), key=position.__getitem__)
            pairs.setdefault((first, second), []).append(link)
        for (first, second), links in pairs.items():
            names = {first: f"veth{position[second]}", second: f"veth{position[first]}"}
            with told(f"hosts {first} and {second}", "veth"):
                cards = self._make_pair(names, max(link.mtu_bytes for link in links))
            for link in links:
                self.cards[link.name] = cards[link.source]
                self._route(self._hosts[link.source], link, cards[link.source])
                self._send(link, requests(link))

    def shape(self, link: Link, requests: tuple[TcRequest, ...]) -> None:
        """Give the card that sends on ``link`` these queueing disciplines in place of those that it has."""
        netlink, card = self._sockets[link.source], self.cards[link.name]
        with told(f"link {link.name}", "queueing discipline"):
            if any(found["parent"] == ROOT and found["handle"] for found in netlink.get_qdiscs(card)):
                netlink.tc("del", index=card, parent=ROOT)
        self._send(link, requests)

    def _send(self, link: Link, requests: tuple[TcRequest, ...]) -> None:
        card = self.cards[link.name]
        for request in requests:
            with told(f"link {link.name}", request.kind):
                send_tc(self._traffic_control[link.source], tc_bytes(request, card))

    def _make_pair(self, names: Mapping[str, str], mtu: int) -> dict[str, int]:
        """Make and configure the two cards of a pair; host -> index of its card.

        Args:
            names: Host -> name of its card, of both hosts.
            mtu: IP bytes of the largest packet.
        """
        first, second = names
        descriptor = os.open(self.namespaces[second].path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            peer = {"ifname": names[second], "net_ns_fd": descriptor}
            self._sockets[first].link("add", ifname=names[first], kind="veth", peer=peer)
        finally:
            os.close(descriptor)
        found = {host: self._sockets[host].link("get", ifname=name)[0] for host, name in names.items()}
        for host, other in ((first, second), (second, first)):
            netlink, card = self._sockets[host], found[host]["index"]
            self._in(host, _without_ipv6, names[host])
            netlink.link("set", index=card, mtu=mtu, state="up")
            netlink.addr("add", index=card, address=self._hosts[host].address, prefixlen=32)
            # Known beforehand, so that no question for it waits in the shaped queue.
            address = found[other].get_attr("IFLA_ADDRESS")
            netlink.neigh("add", ifindex=card, dst=self._hosts[other].address, lladdr=address, state="permanent")
        return {host: each["index"] for host, each in found.items()}

    def _route(self, host: Host, link: Link, card: int) -> None:
        target = self._hosts[link.target]
        with told(f"link {link.name}", "route"):
            self._sockets[host.name].route(
                "add",
                dst=f"{target.address}/32",
                oif=card,
                scope="link",
                prefsrc=host.address,
                metrics={"mtu": link.mtu_bytes},
            )

    def _set_ip(self) -> None:
        topology = self._topology
        if topology.congestion_control is not None:
            if topology.congestion_control not in self._allowed:
                raise KernelError(
                    f"congestion_control {topology.congestion_control!r}: this kernel allows "
                    f"{', '.join(self._allowed)} in namespaces; use one of them, or let programs choose per socket"
                )
            _write("ipv4/tcp_congestion_control", topology.congestion_control)
        most = topology.buffer_bytes
        _write("ipv4/tcp_rmem", f"4096 131072 {most}")
        _write("ipv4/tcp_wmem", f"4096 16384 {most}")
        # A link may have one direction only: packets come from where no route leads.
        for cards in ("all", "default"):
            _write(f"ipv4/conf/{cards}/rp_filter", "0")
        # What one connection learned of a path must not change the next one.
        _write("ipv4/tcp_no_metrics_save", "1")

    def _in(self, host: str, action: Callable[..., None], *arguments: str) -> None:
        with told(f"host {host}", "settings"), inside(self.namespaces[host].path):
            action(*arguments)


def burst_bytes(links: list[Link]) -> int:
    """Most bytes that TCP may hand over in one packet, given the slowest of a host's links."""
    slowest = min((link.conditions.bandwidth_bytes_per_s for link in links), default=0.0)
    return int(min(max(slowest * _TUN_BURST_S, _MIN_BURST_BYTES), _MAX_BURST_BYTES))


def hosts_file(topology: Topology) -> str:
    """``/etc/hosts`` for programs in the lab."""
    lines = ["127.0.0.1 localhost", *(f"{host.address} {host.name}" for host in topology.hosts)]
    return "\n".join(lines) + "\n"


def _write(setting: str, value: str) -> None:
    """Set a kernel setting of the present namespace."""
    (_SETTINGS / setting).write_text(value, encoding="ascii")


def _without_ipv6(card: str) -> None:
    """Keep a card's own questions for IPv6 neighbours and routers off the links; some kernels have no IPv6."""
    if (_SETTINGS / "ipv6/conf" / card).exists():
        _write(f"ipv6/conf/{card}/disable_ipv6", "1")
