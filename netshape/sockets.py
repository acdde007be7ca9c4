"""Addresses and options of the sockets under shaped connections, set explicitly and read back for reports."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Any

from netshape.errors import NetworkError

Address = tuple[str, int] | str
"""Host and port of a TCP socket, or path of a Unix socket."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketOptions:
    """What a socket is set to; the kernel may grant less, which :func:`socket_report` shows.

    Attributes:
        send_buffer_bytes: Send buffer (the kernel doubles it for its own needs). The buffers must outlast the time
            that a busy machine takes to give the other process its turn, some ms.
        receive_buffer_bytes: Receive buffer.
        congestion: TCP congestion control, or ``None`` to leave the system's. Reno is in every kernel, and does not
            pace, as some others do.
        user_timeout_s: How long TCP waits for acknowledgements before it gives the connection up.
    """

    send_buffer_bytes: int = 1 << 22
    receive_buffer_bytes: int = 1 << 22
    congestion: str | None = "reno"
    user_timeout_s: float = 20.0

    def __post_init__(self) -> None:
        for name in ("send_buffer_bytes", "receive_buffer_bytes"):
            if not 4096 <= getattr(self, name) <= 1 << 30:
                raise NetworkError(f"{name} = {getattr(self, name)!r}: it must be from 4096 to {1 << 30}")
        if not 0.001 <= self.user_timeout_s <= 86_400:
            raise NetworkError(f"user_timeout_s = {self.user_timeout_s!r}: it must be from 0.001 to 86400")

    def apply(self, sock: socket.socket) -> None:
        """Set them on ``sock``; on a listening socket they hold for what it accepts.

        Raises:
            NetworkError: The system does not know the congestion control.
        """
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.send_buffer_bytes)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.receive_buffer_bytes)
        if sock.family not in (socket.AF_INET, socket.AF_INET6):
            return
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(self.user_timeout_s * 1000))
        if self.congestion is not None and hasattr(socket, "TCP_CONGESTION"):
            try:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, self.congestion.encode())
            except OSError as error:
                known = "sysctl net.ipv4.tcp_available_congestion_control"
                raise NetworkError(f"congestion {self.congestion!r}: {error.strerror}; see {known}") from error


DEFAULT_OPTIONS = SocketOptions()


def socket_report(sock: Any) -> dict[str, Any]:
    """What the kernel granted a socket, as a plain dictionary.

    Args:
        sock: A socket, or what a transport gives as one.
    """
    report: dict[str, Any] = {
        "family": socket.AddressFamily(sock.family).name,
        "send_buffer_bytes": sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF),
        "receive_buffer_bytes": sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF),
    }
    if sock.family in (socket.AF_INET, socket.AF_INET6) and hasattr(socket, "TCP_CONGESTION"):
        name = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
        report["congestion"] = name.split(b"\x00")[0].decode("ascii", "replace")
        report["nodelay"] = bool(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
    return report
