"""Ten thousand malformed, mutated and merely odd HTTP bodies: only 2xx and 4xx, and the server lives."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import ClientSession, TCPConnector
from proxy_rig import ProxyProcess, echo, running_proxy, upstream, wait_until

SEED = 20_240
BODIES = 10_000
AT_ONCE = 4
MOST_GROWTH_BYTES = 100 << 20
TYPES = ["latency", "bandwidth", "slow_close", "timeout", "reset_peer", "slicer", "limit_data", "noop", "rain", ""]
NAMES = ["a", "b", "c", "d", "e", "f", "d e", "/", "ü", "\u0000", "a" * 300, "", "..", "%2F", "\ud800"]
ADDRESSES = [
    "127.0.0.1:0",
    "127.0.0.1",
    ":0",
    "",
    "[::1]:0",
    "::1:0",
    "127.0.0.1:99999",
    "127.0.0.1:-1",
    "@:1",
    "127.0.0.1:１",
]
KEYS = ["name", "listen", "upstream", "enabled", "toxics", "links", "type", "stream", "toxicity", "attributes", "NAME"]
ATTRIBUTES = {
    "latency": ["latency", "jitter"],
    "bandwidth": ["rate"],
    "slow_close": ["delay"],
    "timeout": ["timeout"],
    "reset_peer": ["timeout"],
    "slicer": ["average_size", "size_variation", "delay"],
    "limit_data": ["bytes"],
    "noop": [],
}
ODD = [
    None,
    True,
    False,
    0,
    -1,
    1,
    1.5,
    1e308,
    -1e-9,
    2**63,
    2**64,
    10**30,
    "",
    "1",
    "null",
    [],
    {},
    [[]],
    "\ud800",
    "x" * 5000,
]


class Fuzzer:
    """Requests drawn from a seed."""

    def __init__(self, seed: int, upstream_address: str) -> None:
        self._draw = random.Random(seed)
        self._upstream = upstream_address

    def request(self) -> tuple[str, str, bytes]:
        """Method, path and body."""
        draw = self._draw
        name = quote(draw.choice(NAMES[:7]), safe="")
        path, value = draw.choice(
            [
                ("/proxies", self._proxy()),
                ("/populate", [self._proxy() for _ in range(draw.randrange(4))]),
                (f"/proxies/{name}", self._proxy()),
                (f"/proxies/{name}/toxics", self._toxic()),
                (f"/proxies/{name}/toxics/{quote(draw.choice(TYPES), safe='')}_downstream", self._toxic()),
            ]
        )
        method = "POST" if path in ("/proxies", "/populate") or draw.random() < 0.5 else "PATCH"
        if draw.random() < 0.05:
            method = draw.choice(["DELETE", "GET", "PUT", "OPTIONS"])
        return method, path, self._bytes(value)

    def _bytes(self, value: Any) -> bytes:
        draw = self._draw
        if draw.random() < 0.05:
            return draw.randbytes(draw.randrange(200))
        body = bytearray(json.dumps(value, ensure_ascii=draw.random() < 0.9).encode("utf-8", "surrogatepass"))
        if draw.random() < 0.25:
            for _ in range(draw.randrange(1, 5)):
                at = draw.randrange(len(body) + 1)
                change = draw.randrange(4)
                if change == 0:
                    del body[at:]
                elif change == 1:
                    body[at:at] = draw.randbytes(3)
                elif change == 2:
                    body[at : at + 1] = draw.choice([b"[", b"{", b'"', b",", b"1e999", b"NaN", b"\x00", b"\xff"])
                else:
                    body[at:at] = body[: draw.randrange(len(body) + 1)]
        if draw.random() < 0.01:
            return draw.choice([b"[", b'{"name":']) * draw.randrange(1, 50_000)
        if draw.random() < 0.003:
            return bytes(body) + b" " * (1 << 20)
        return bytes(body)

    def _value(self, depth: int = 0) -> Any:
        draw = self._draw
        if depth < 3 and draw.random() < 0.2:
            if draw.random() < 0.5:
                return [self._value(depth + 1) for _ in range(draw.randrange(4))]
            return {draw.choice(KEYS): self._value(depth + 1) for _ in range(draw.randrange(4))}
        return draw.choice(ODD)

    def _or_odd(self, value: Any, odd: float = 0.05) -> Any:
        return self._value() if self._draw.random() < odd else value

    def _proxy(self) -> Any:
        draw = self._draw
        body = {
            "name": self._or_odd(draw.choice(NAMES)),
            "listen": self._or_odd(draw.choice(ADDRESSES) if draw.random() < 0.2 else "127.0.0.1:0"),
            "upstream": self._or_odd(draw.choice(ADDRESSES) if draw.random() < 0.2 else self._upstream),
            "enabled": self._or_odd(draw.random() < 0.7),
        }
        if draw.random() < 0.3:
            body["links"] = self._or_odd(self._links())
        return self._or_odd({key: value for key, value in body.items() if draw.random() < 0.97})

    def _links(self) -> Any:
        draw = self._draw
        link = {"latency": "5 ms", "bandwidth": "10 Mbit/s", "jitter": {"spread": "1 ms"}, "loss": {"probability": 0.1}}
        link["schedule"] = {"steps": [{"at": "1 s", "up": False}], "repeat": draw.choice(["2 s", "1 ns", "0 s"])}
        some = {key: self._or_odd(value) for key, value in link.items() if draw.random() < 0.4}
        return {draw.choice(["upstream", "downstream", "client_card", "x"]): self._or_odd(some)}

    def _toxic(self) -> Any:
        draw = self._draw
        kind = draw.choice(TYPES)
        known = ATTRIBUTES.get(kind, ["x"]) if draw.random() < 0.9 else ["x"]
        body = {
            "type": self._or_odd(kind),
            "stream": self._or_odd(draw.choice(["upstream", "downstream", "UPSTREAM", "x"])),
            "toxicity": self._or_odd(draw.random()),
            "attributes": self._or_odd({name: self._or_odd(draw.randrange(1 << 20)) for name in known}),
        }
        if draw.random() < 0.3:
            body["name"] = self._or_odd(draw.choice(NAMES))
        return self._or_odd({key: value for key, value in body.items() if draw.random() < 0.97})


@pytest.fixture
def process() -> Any:
    with running_proxy("--seed", "5") as process:
        yield process


async def test_ten_thousand_fuzzed_bodies(process: ProxyProcess) -> None:
    with upstream(echo) as server:
        fuzzer = Fuzzer(SEED, server.address)
        statuses: Counter[int] = Counter()
        descriptors, peak = process.descriptors(), process.peak_bytes()
        left = BODIES

        async def send(http: ClientSession) -> None:
            nonlocal left
            while left > 0:
                left -= 1
                method, path, body = fuzzer.request()
                async with http.request(method, path, data=body) as answer:
                    text = await answer.text()
                    statuses[answer.status] += 1
                    assert 200 <= answer.status < 300 or 400 <= answer.status < 500, (method, path, body, text)
                    if answer.status >= 400 and method != "HEAD":
                        told = json.loads(text)
                        assert told["status"] == answer.status, (method, path, body, text)
                        assert told["error"]

        async with (
            asyncio.timeout(240),
            ClientSession(f"http://127.0.0.1:{process.port}", connector=TCPConnector(limit=AT_ONCE)) as http,
        ):
            await asyncio.gather(*(send(http) for _ in range(AT_ONCE)))
            async with http.get("/proxies") as answer:
                proxies = await answer.json()
            assert proxies
            for name in proxies:
                async with http.delete(f"/proxies/{quote(name, safe='')}") as answer:
                    assert answer.status == 204
    assert sum(statuses.values()) == BODIES
    # The drawing is no use unless a good part gets through to where it can do harm.
    assert statuses[200] > BODIES / 50
    assert statuses[201] > BODIES / 50
    assert statuses[413] > 0
    assert process.peak_bytes() - peak < MOST_GROWTH_BYTES
    assert wait_until(lambda: process.descriptors() <= descriptors)
    code, _, complaints = process.stop()
    assert (code, complaints) == (0, "")


async def test_what_is_no_http_at_all_does_no_harm(process: ProxyProcess) -> None:
    draw = random.Random(SEED)
    starts = [b"", b"GET ", b"POST /proxies HTTP/1.1\r\n", b"POST /proxies HTTP/1.1\r\nContent-Length: -5\r\n\r\n"]
    starts += [
        b"POST /proxies HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"\x16\x03\x01\x02\x00",
    ]
    descriptors = process.descriptors()
    async with asyncio.timeout(60):
        for _ in range(300):
            reader, writer = await asyncio.open_connection("127.0.0.1", process.port)
            writer.write(draw.choice(starts) + draw.randbytes(draw.randrange(300)) + b"\r\n\r\n")
            writer.write_eof()
            first = (await reader.read()).split(b"\r\n", 1)[0]
            assert not first or first.split(b" ")[1][:1] in b"24"
            writer.close()
    assert process.call("GET", "/version")[0] == 200
    assert wait_until(lambda: process.descriptors() <= descriptors)
    code, _, complaints = process.stop()
    assert (code, complaints) == (0, "")
