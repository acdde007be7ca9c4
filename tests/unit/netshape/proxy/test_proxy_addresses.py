"""Addresses in Toxiproxy's form."""

import asyncio
import socket

import pytest

from netshape.proxy.addresses import Address, parse_address, resolve_listener
from netshape.proxy.errors import ApiError


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:80", "127.0.0.1", 80),
        ("localhost:0", "localhost", 0),
        (":5", "", 5),
        ("[::1]:8080", "::1", 8080),
        ("[::]:65535", "::", 65535),
    ],
)
def test_an_address_reads_and_writes_the_same(text: str, host: str, port: int) -> None:
    address = parse_address(text, "listen")
    assert address == Address(host, port)
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "80",
        "host",
        "host:",
        "host:x",
        "host:-1",
        "host:65536",
        "::1:80",
        "a b:1",
        "ü:1",
        "u@h:1",
        "h/x:1",
        "h:１",
        "x" * 400 + ":1",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ApiError, match="bad request body: listen") as caught:
        parse_address(text, "listen")
    assert caught.value.status == 400


def test_no_host_means_the_loopback_interface_and_a_name_its_ipv4_address() -> None:
    for text in (":7", "localhost:7", "127.0.0.1:7"):
        assert asyncio.run(resolve_listener(parse_address(text, "listen"))) == (socket.AF_INET, ("127.0.0.1", 7))
