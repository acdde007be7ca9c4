"""The HTTP API by plain calls: every endpoint, its status codes and its error bodies."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from aiohttp import ClientSession
from proxy_rig import ProxyProcess, Upstream, connect, echo, pattern, receive, receive_all, running_proxy, upstream

from netshape.proxy.api import MAX_BODY_BYTES
from netshape.proxy.proxy import MAX_TOXICS, Limits
from netshape.proxy.server import ProxyServer
from netshape.proxy.store import ProxyStore

DATA = pattern(50_000)


@pytest.fixture(scope="module")
def process() -> Iterator[ProxyProcess]:
    with running_proxy() as process:
        yield process
        code, _, complaints = process.stop()
        assert (code, complaints) == (0, "")


@pytest.fixture(scope="module")
def server() -> Iterator[Upstream]:
    with upstream(echo) as server:
        yield server


@pytest.fixture
def proxy(process: ProxyProcess, server: Upstream) -> Iterator[dict[str, Any]]:
    status, proxy = process.call("POST", "/proxies", {"name": "p", "upstream": server.address})
    assert status == 201
    yield proxy
    process.call("DELETE", "/proxies/p")


def refused(process: ProxyProcess, method: str, path: str, body: Any = None) -> tuple[int, str]:
    """Status and message of a refusal, whose body is as the API has it."""
    status, answer = process.call(method, path, body)
    assert sorted(answer) == ["error", "status"]
    assert answer["status"] == status
    return status, answer["error"]


def test_a_proxys_life(process: ProxyProcess, server: Upstream) -> None:
    assert process.call("GET", "/proxies") == (200, {})
    body = {"name": "life", "listen": "localhost:0", "upstream": server.address}
    status, made = process.call("POST", "/proxies", body)
    assert (status, sorted(made)) == (201, ["enabled", "listen", "name", "toxics", "upstream"])
    assert made["listen"].startswith("127.0.0.1:")
    assert (made["enabled"], made["toxics"]) == (True, [])
    assert process.call("GET", "/proxies/life") == (200, made)
    assert process.call("GET", "/proxies") == (200, {"life": made})
    status, off = process.call("PATCH", "/proxies/life", {"enabled": False})
    assert (status, off) == (200, {**made, "enabled": False})
    assert process.call("POST", "/proxies/life", {"enabled": True}) == (200, made)
    assert process.call("DELETE", "/proxies/life") == (204, None)
    assert refused(process, "GET", "/proxies/life") == (404, "proxy not found")


def test_fields_are_read_as_toxiproxy_reads_them(process: ProxyProcess, server: Upstream) -> None:
    body = {"NAME": "odd /näme", "Upstream": server.address, "enabled": False, "unknown": [1]}
    status, made = process.call("POST", "/proxies", body)
    assert (status, made["name"], made["enabled"], made["listen"]) == (201, "odd /näme", False, "")
    assert process.call("GET", "/proxies/odd%20%2Fn%C3%A4me")[0] == 200
    assert process.call("DELETE", "/proxies/odd%20%2Fn%C3%A4me")[0] == 204


def test_a_toxics_life(process: ProxyProcess, proxy: dict[str, Any]) -> None:
    toxics = "/proxies/p/toxics"
    assert process.call("GET", toxics) == (200, [])
    status, made = process.call("POST", toxics, {"type": "latency"})
    assert (status, made) == (
        200,
        {
            "attributes": {"latency": 0, "jitter": 0},
            "name": "latency_downstream",
            "type": "latency",
            "stream": "downstream",
            "toxicity": 1.0,
        },
    )
    assert process.call("GET", f"{toxics}/latency_downstream") == (200, made)
    # An update keeps what it does not name; name, type and direction stay in any case.
    change = {"attributes": {"jitter": 5}, "name": "other", "type": "timeout", "stream": "upstream"}
    status, changed = process.call("PATCH", f"{toxics}/latency_downstream", change)
    assert (status, changed) == (200, {**made, "attributes": {"latency": 0, "jitter": 5}})
    status, changed = process.call("POST", f"{toxics}/latency_downstream", {"toxicity": 0.25})
    assert (status, changed["toxicity"], changed["attributes"]["jitter"]) == (200, 0.25, 5)
    process.call("POST", toxics, {"type": "limit_data", "stream": "Upstream", "name": "cap"})
    shown = process.call("GET", "/proxies/p")[1]["toxics"]
    assert [(toxic["name"], toxic["stream"]) for toxic in shown] == [
        ("cap", "upstream"),
        ("latency_downstream", "downstream"),
    ]
    assert process.call("DELETE", f"{toxics}/cap") == (204, None)
    assert refused(process, "GET", f"{toxics}/cap") == (404, "toxic not found")


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "message"),
    [
        ("POST", "/proxies", {}, 400, "missing required field: name"),
        ("POST", "/proxies", {"name": "a"}, 400, "missing required field: upstream"),
        ("POST", "/proxies", {"name": "p", "upstream": "127.0.0.1:1"}, 409, "proxy already exists"),
        ("POST", "/proxies", {"name": 5, "upstream": "127.0.0.1:1"}, 400, "bad request body: name must be a string"),
        ("POST", "/proxies", b"{", 400, "bad request body: no JSON"),
        ("POST", "/proxies", b"", 400, "bad request body: EOF"),
        ("POST", "/proxies", [], 400, "bad request body: an object is expected"),
        ("POST", "/proxies", b"\xff\xfe", 400, "bad request body: no JSON"),
        ("POST", "/proxies", b'{"name": NaN}', 400, "bad request body: no JSON"),
        ("POST", "/proxies", b"[" * 100_000, 400, "bad request body: nested too deeply"),
        ("POST", "/proxies", b'{"name":' + b"9" * 10_000 + b"}", 400, "bad request body: no JSON"),
        ("POST", "/proxies", {"name": "a", "upstream": "nowhere"}, 400, "bad request body: upstream 'nowhere'"),
        ("POST", "/proxies", {"name": "a", "upstream": "h:1", "listen": "::1:5"}, 400, "bad request body: listen"),
        ("POST", "/proxies", {"name": "a", "upstream": "h:1", "listen": "h:99999"}, 400, "bad request body: listen"),
        ("PATCH", "/proxies/p", {"enabled": "no"}, 400, "bad request body: enabled must be true or false"),
        ("PATCH", "/proxies/none", {}, 404, "proxy not found"),
        ("DELETE", "/proxies/none", None, 404, "proxy not found"),
        ("GET", "/proxies/none/toxics", None, 404, "proxy not found"),
        ("POST", "/proxies/none/toxics", {"type": "latency"}, 404, "proxy not found"),
        ("POST", "/proxies/p/toxics", {}, 400, "invalid toxic type"),
        ("POST", "/proxies/p/toxics", {"type": "rain"}, 400, "invalid toxic type"),
        (
            "POST",
            "/proxies/p/toxics",
            {"type": "latency", "stream": "sideways"},
            400,
            "stream was invalid, can be either upstream or downstream",
        ),
        ("POST", "/proxies/p/toxics", {"type": "noop", "toxicity": 1.5}, 400, "bad request body: toxicity"),
        ("POST", "/proxies/p/toxics", {"type": "noop", "attributes": []}, 400, "bad request body: attributes"),
        (
            "POST",
            "/proxies/p/toxics",
            {"type": "latency", "attributes": {"latency": "5"}},
            400,
            "bad request body: attributes.latency must be a whole number",
        ),
        (
            "POST",
            "/proxies/p/toxics",
            {"type": "latency", "attributes": {"latenzy": 5}},
            400,
            "bad request body: a latency toxic has no attribute 'latenzy' (it has: latency, jitter)",
        ),
        (
            "POST",
            "/proxies/p/toxics",
            {"type": "slicer", "attributes": {"average_size": 5, "size_variation": 5}},
            400,
            "bad request body: attributes.size_variation must be less than attributes.average_size",
        ),
        ("POST", "/proxies/p/toxics", {"type": "slicer"}, 400, "bad request body: attributes.average_size"),
        ("PATCH", "/proxies/p/toxics/none", {}, 404, "toxic not found"),
        ("DELETE", "/proxies/p/toxics/none", None, 404, "toxic not found"),
        ("POST", "/populate", {}, 400, "bad request body: a list of proxies is expected"),
        ("POST", "/populate", [{"name": "x"}], 400, "missing required field: upstream at proxy 1"),
        ("GET", "/nothing", None, 404, "not found"),
        ("DELETE", "/proxies", None, 405, "method not allowed"),
    ],
)
def test_what_cannot_be_is_refused_in_the_apis_words(
    process: ProxyProcess, proxy: dict[str, Any], method: str, path: str, body: Any, status: int, message: str
) -> None:
    got, told = refused(process, method, path, body)
    assert got == status
    assert told.startswith(message)
    assert process.call("GET", "/proxies")[1] == {"p": proxy}


def test_a_second_toxic_of_a_name_is_refused(process: ProxyProcess, proxy: dict[str, Any]) -> None:
    assert process.call("POST", "/proxies/p/toxics", {"type": "latency"})[0] == 200
    again = {"type": "timeout", "name": "latency_downstream", "stream": "upstream"}
    assert refused(process, "POST", "/proxies/p/toxics", again) == (409, "toxic already exists")


def test_a_port_in_use_is_refused_as_toxiproxy_does_and_leaves_the_proxy_off(
    process: ProxyProcess, proxy: dict[str, Any], server: Upstream
) -> None:
    body = {"name": "q", "listen": proxy["listen"], "upstream": server.address}
    message = f"listen tcp {proxy['listen']}: address already in use"
    assert refused(process, "POST", "/proxies", body) == (500, message)
    assert process.call("GET", "/proxies/q")[0] == 404
    assert process.call("POST", "/proxies", {**body, "enabled": False})[0] == 201
    assert refused(process, "PATCH", "/proxies/q", {"enabled": True}) == (500, message)
    assert refused(process, "POST", "/reset") == (500, message)
    assert process.call("GET", "/proxies/q")[1]["enabled"] is False
    assert process.call("DELETE", "/proxies/q")[0] == 204


def test_an_upstream_that_is_down_ends_the_client_not_the_proxy(process: ProxyProcess, server: Upstream) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        address = f"127.0.0.1:{gone.getsockname()[1]}"
    _, made = process.call("POST", "/proxies", {"name": "down", "upstream": address})
    with connect(made["listen"]) as client:
        assert client.recv(1) == b""
    assert process.call("GET", "/proxies/down")[1]["enabled"] is True
    # It is found as soon as it is there.
    assert process.call("PATCH", "/proxies/down", {"upstream": server.address})[0] == 200
    with connect(made["listen"]) as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
    process.call("DELETE", "/proxies/down")


def test_changed_addresses_drop_connections_and_unchanged_ones_do_not(
    process: ProxyProcess, proxy: dict[str, Any]
) -> None:
    with connect(proxy["listen"]) as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        port = proxy["listen"].rpartition(":")[2]
        same = {"listen": f"localhost:{port}", "upstream": proxy["upstream"], "enabled": True}
        assert process.call("PATCH", "/proxies/p", same) == (200, proxy)
        client.sendall(b"y")
        assert client.recv(1) == b"y"
        status, moved = process.call("PATCH", "/proxies/p", {"listen": "127.0.0.1:0"})
        assert status == 200
        assert moved["listen"] != proxy["listen"]
        assert client.recv(1) == b""


def test_populate_keeps_what_is_the_same_and_replaces_what_differs(process: ProxyProcess, server: Upstream) -> None:
    bodies = [
        {"name": "a", "upstream": server.address, "listen": "127.0.0.1:0"},
        {"name": "b", "upstream": server.address, "listen": "127.0.0.1:0", "enabled": False},
    ]
    status, answer = process.call("POST", "/populate", bodies)
    assert (status, [each["name"] for each in answer["proxies"]]) == (201, ["a", "b"])
    first = answer["proxies"][0]
    process.call("POST", "/proxies/a/toxics", {"type": "latency"})
    with connect(first["listen"]) as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        bodies[0]["listen"] = first["listen"]
        status, answer = process.call("POST", "/populate", bodies)
        assert status == 201
        assert [toxic["name"] for toxic in answer["proxies"][0]["toxics"]] == ["latency_downstream"]
        client.sendall(b"y")
        assert client.recv(1) == b"y"
        bodies[0]["upstream"] = "127.0.0.1:1"
        status, answer = process.call("POST", "/populate", bodies)
        assert (status, answer["proxies"][0]["toxics"]) == (201, [])
        assert answer["proxies"][0]["listen"] == first["listen"]
        assert client.recv(1) == b""
    # One that cannot listen ends the list; those before it are there, and the answer has both.
    bodies = [
        {"name": "c", "upstream": server.address},
        {"name": "d", "upstream": server.address, "listen": first["listen"]},
        {"name": "e", "upstream": server.address},
    ]
    status, answer = process.call("POST", "/populate", bodies)
    assert (status, answer["status"], [each["name"] for each in answer["proxies"]]) == (500, 500, ["c"])
    assert "address already in use" in answer["error"]
    double = [{"name": "f", "upstream": "h:1"}] * 2
    assert refused(process, "POST", "/populate", double) == (400, "bad request body: 2 proxies are named 'f'")
    for name in "abc":
        assert process.call("DELETE", f"/proxies/{name}")[0] == 204


def test_browsers_are_refused_and_others_are_not(process: ProxyProcess) -> None:
    agent = {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64)"}
    assert process.call("GET", "/version", **agent) == (403, "User agent not allowed\n")
    assert process.call("POST", "/reset", **agent)[0] == 403
    assert process.call("GET", "/version", **{"User-Agent": "toxiproxy-cli/v2.12.0 (linux/amd64)"})[0] == 200


def test_metrics_count_bytes_by_toxiproxys_names(process: ProxyProcess, proxy: dict[str, Any]) -> None:
    with connect(proxy["listen"]) as client:
        client.sendall(DATA)
        assert receive(client, len(DATA)) == DATA
        _, text = process.call("GET", "/metrics")
    labels = f'proxy="p",listener="{proxy["listen"]}",upstream="{proxy["upstream"]}"'
    for name in ("received", "sent"):
        for direction in ("upstream", "downstream"):
            line = f'toxiproxy_proxy_{name}_bytes_total{{direction="{direction}",{labels}}} {len(DATA)}'
            assert line in text.splitlines()
    assert f"helixemu_proxy_open_connections{{{labels}}} 1" in text.splitlines()


# Each toxic once more by plain calls: what it does, and that taking it away undoes it.
EFFECTS: list[tuple[str, dict[str, int], float, int | None]] = [
    ("latency", {"latency": 150, "jitter": 20}, 0.130, None),
    ("bandwidth", {"rate": 400}, len(DATA) / 400_000, None),
    ("slow_close", {"delay": 150}, 0.150, None),
    ("slicer", {"average_size": 5_000, "size_variation": 0, "delay": 20_000}, 9 * 0.020, None),
    ("limit_data", {"bytes": 12_345}, 0.0, 12_345),
    ("timeout", {"timeout": 150}, 0.150, 0),
    ("reset_peer", {"timeout": 150}, 0.150, -1),
]


@pytest.mark.parametrize("stream", ["upstream", "downstream"])
@pytest.mark.parametrize(("kind", "attributes", "least_s", "passes"), EFFECTS)
def test_every_toxic_works_and_goes(
    process: ProxyProcess,
    proxy: dict[str, Any],
    kind: str,
    attributes: dict[str, int],
    least_s: float,
    passes: int | None,
    stream: str,
) -> None:
    body = {"type": kind, "stream": stream, "attributes": attributes}
    assert process.call("POST", "/proxies/p/toxics", body)[0] == 200
    start = time.monotonic()
    with connect(proxy["listen"]) as client:
        client.sendall(DATA)
        if passes is None:
            assert receive(client, len(DATA)) == DATA
            client.shutdown(socket.SHUT_WR)
            assert receive_all(client) == b""
        elif passes < 0:
            with pytest.raises(ConnectionResetError):
                client.recv(1)
        else:
            # Cut off on the way there, nothing comes back: the connection is closed as soon as the bytes are through.
            assert receive_all(client) == (DATA[:passes] if stream == "downstream" else b"")
    assert time.monotonic() - start >= least_s
    assert process.call("DELETE", f"/proxies/p/toxics/{kind}_{stream}")[0] == 204
    with connect(proxy["listen"]) as client:
        client.sendall(DATA)
        client.shutdown(socket.SHUT_WR)
        assert receive_all(client) == DATA


@pytest.mark.parametrize(
    ("kind", "attributes", "end"),
    [("reset_peer", {}, ConnectionResetError), ("timeout", {"timeout": 50}, None), ("limit_data", {"bytes": 0}, None)],
)
def test_toxics_that_end_connections_take_hold_of_open_ones(
    process: ProxyProcess, proxy: dict[str, Any], kind: str, attributes: dict[str, int], end: type[OSError] | None
) -> None:
    with connect(proxy["listen"]) as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        assert process.call("POST", "/proxies/p/toxics", {"type": kind, "attributes": attributes})[0] == 200
        client.sendall(b"y")
        if end is None:
            assert client.recv(1) == b""
        else:
            with pytest.raises(end):
                client.recv(1)


# Limits, in a server within this process.


@pytest.fixture
async def small() -> AsyncIterator[ProxyServer]:
    store = ProxyStore(limits=Limits(max_proxies=2))
    async with ProxyServer(store, port=0, body_timeout_s=0.2) as server:
        yield server


async def test_the_number_of_proxies_and_toxics_is_limited(small: ProxyServer) -> None:
    async with ClientSession(f"http://{small.address}") as http:
        for name in "ab":
            async with http.post("/proxies", json={"name": name, "upstream": "127.0.0.1:1"}) as answer:
                assert answer.status == 201
        for path, body in (
            ("/proxies", {"name": "c", "upstream": "h:1"}),
            ("/populate", [{"name": "c", "upstream": "h:1"}]),
        ):
            async with http.post(path, json=body) as answer:
                assert answer.status == 400
                assert "at most 2" in (await answer.json())["error"]
        for number in range(MAX_TOXICS):
            async with http.post("/proxies/a/toxics", json={"type": "noop", "name": str(number)}) as answer:
                assert answer.status == 200
        async with http.post("/proxies/a/toxics", json={"type": "noop"}) as answer:
            assert answer.status == 400


async def test_a_body_that_is_too_large_is_refused(small: ProxyServer) -> None:
    async with ClientSession(f"http://{small.address}") as http:
        async with http.post("/proxies", data=b" " * (MAX_BODY_BYTES + 1)) as answer:
            assert answer.status == 413
            assert (await answer.json())["status"] == 413
        # A megabyte that unfolds from a kilobyte is not unfolded.
        async with http.post("/proxies", data=b"\x1f\x8b\x08", headers={"Content-Encoding": "gzip"}) as answer:
            assert answer.status == 400


async def test_a_body_that_does_not_come_is_given_up(small: ProxyServer) -> None:
    host, _, port = small.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    start = time.monotonic()
    writer.write(b"POST /proxies HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
    async with asyncio.timeout(60):
        head = await reader.readuntil(b"\r\n\r\n")
        assert b" 408 " in head.splitlines()[0]
        length = next(int(line.split()[1]) for line in head.splitlines() if line.lower().startswith(b"content-length"))
        answer = json.loads(await reader.readexactly(length))
    writer.close()
    assert answer["status"] == 408
    assert time.monotonic() - start >= 0.2
