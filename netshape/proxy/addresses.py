"""Addresses as Toxiproxy writes them: ``host:port``, ``[::1]:port``, ``:port``."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass
from typing import Any

from netshape.proxy.errors import ApiError, bad_body
from netshape.proxy.toxics.toxic import shown

LOOPBACK = "127.0.0.1"
ANY_PORT = ":0"
"""Where a proxy listens that was given no address."""
MAX_PORT = 65_535
MAX_ADDRESS_CHARACTERS = 300
RESOLVE_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Address:
    """Host and port; the host may be a name.

    Attributes:
        host: Name or number; empty where none was given.
        port: 0 for any.
    """

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str, field: str) -> Address:
    """An address from its text.

    Args:
        text: ``host:port``; a numeric IPv6 host stands in brackets.
        field: What it is of, for errors.

    Raises:
        ApiError: It is no such text.
    """
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise bad_body(f"{field} {shown(text)}: an IPv6 address must stand in brackets, [::1]:8080")
    if not colon or len(text) > MAX_ADDRESS_CHARACTERS or not port.isascii() or not port.isdigit():
        raise bad_body(f"{field} {shown(text)}: it must be host:port, for instance 127.0.0.1:8080")
    if int(port) > MAX_PORT:
        raise bad_body(f"{field} {shown(text)}: a port is at most {MAX_PORT}")
    if not host.isascii() or not host.isprintable() or any(c in " /?#@" for c in host):
        raise bad_body(f"{field} {shown(text)}: that is no name of a host")
    return Address(host, int(port))


async def resolve_listener(address: Address) -> tuple[int, Any]:
    """Address family and socket address to listen at; without a host, on the loopback interface only.

    Raises:
        ApiError: The name cannot be resolved.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(RESOLVE_TIMEOUT_S):
            found = await loop.getaddrinfo(
                address.host or LOOPBACK, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
    except (OSError, UnicodeError) as error:
        raise ApiError(500, f"listen tcp {address}: lookup {address.host}: {error}") from error
    except TimeoutError as error:
        raise ApiError(500, f"listen tcp {address}: lookup {address.host}: timed out") from error
    # IPv4 first, as a name such as localhost has both and clients try that one more often.
    found.sort(key=lambda entry: entry[0] != socket.AF_INET)
    family, _, _, _, where = found[0]
    return int(family), where


def shown_address(where: Any) -> str:
    """A socket's address in Toxiproxy's form."""
    return str(Address(where[0], where[1]))
