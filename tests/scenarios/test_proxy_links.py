"""Links behind a proxy: our own conditions, shared by all its connections, with real sockets."""

from __future__ import annotations

import hashlib
import itertools
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from proxy_rig import (
    TIMEOUT_S,
    ProxyProcess,
    Upstream,
    connect,
    echo,
    pattern,
    receive,
    receive_all,
    running_proxy,
    upstream,
)

from netshape.conditions import IndependentLoss, LinkConditions
from netshape.link_model import stream_rate_bytes_per_s

DATA = pattern(200_000)
MB_PER_S = "8 Mbit/s"


@pytest.fixture(scope="module")
def process() -> Iterator[ProxyProcess]:
    with running_proxy("--seed", "4") as process:
        yield process
        code, _, complaints = process.stop()
        assert (code, complaints) == (0, "")


@pytest.fixture(scope="module")
def server() -> Iterator[Upstream]:
    with upstream(echo) as server:
        yield server


def made(process: ProxyProcess, server: Upstream, links: dict[str, Any]) -> str:
    process.call("DELETE", "/proxies/linked")
    status, proxy = process.call("POST", "/proxies", {"name": "linked", "upstream": server.address, "links": links})
    assert status == 201, proxy
    assert proxy["links"] == links
    return str(proxy["listen"])


def exchange(listen: str, data: bytes = DATA) -> float:
    """Seconds for ``data`` to come back whole, end of stream included."""
    start = time.monotonic()
    with connect(listen) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        assert receive_all(client) == data
    return time.monotonic() - start


def at_once(count: int, listens: list[str]) -> float:
    """Seconds for ``count`` exchanges at once at each address."""
    start = time.monotonic()
    failures: list[BaseException] = []

    def one(listen: str) -> None:
        try:
            exchange(listen)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=one, args=(listen,), daemon=True) for listen in listens for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_S)
    assert failures == []
    assert not any(thread.is_alive() for thread in threads)
    return time.monotonic() - start


def figure(process: ProxyProcess, name: str, direction: str) -> float:
    _, text = process.call("GET", "/metrics")
    found = [line for line in text.splitlines() if line.startswith(f'helixemu_link_{name}{{direction="{direction}"')]
    assert len(found) == 1
    return float(found[0].rpartition(" ")[2])


def test_each_direction_has_its_own_latency(process: ProxyProcess, server: Upstream) -> None:
    listen = made(process, server, {"upstream": {"latency": "120 ms"}, "downstream": {"latency": "60 ms"}})
    with connect(listen) as client:
        for _ in range(3):
            start = time.monotonic()
            client.sendall(b"ping")
            assert receive(client, 4) == b"ping"
            assert time.monotonic() - start >= 0.180


def test_all_connections_share_the_bandwidth(process: ProxyProcess, server: Upstream) -> None:
    listen = made(process, server, {"downstream": {"bandwidth": MB_PER_S}})
    assert at_once(4, [listen]) >= 4 * len(DATA) / 1e6
    assert figure(process, "configured_bytes_per_s", "downstream") == 1e6
    assert figure(process, "delivered_bytes_per_s", "downstream") > 0


def test_jitter_moves_bytes_but_keeps_their_order(process: ProxyProcess, server: Upstream) -> None:
    jitter = {"spread": "20 ms", "distribution": "pareto", "correlation": 0.3}
    listen = made(process, server, {"upstream": {"latency": "30 ms", "jitter": jitter, "bandwidth": "80 Mbit/s"}})
    assert at_once(3, [listen]) >= 0.030 - 0.58 * 0.020


def test_loss_slows_a_stream_and_loses_nothing(process: ProxyProcess, server: Upstream) -> None:
    conditions = LinkConditions(latency_s=0.02, loss=IndependentLoss(probability=0.05))
    listen = made(process, server, {"downstream": {"latency": "20 ms", "loss": {"probability": 0.05}}})
    rate = stream_rate_bytes_per_s(conditions, 0.02)
    assert exchange(listen) >= len(DATA) / rate


def test_a_schedule_takes_the_link_down_and_up_again(process: ProxyProcess, server: Upstream) -> None:
    steps = [{"at": "0.6 s", "up": True}]
    start = time.monotonic()
    listen = made(process, server, {"upstream": {"up": False, "schedule": {"steps": steps}}})
    exchange(listen)
    assert time.monotonic() - start >= 0.6


def test_a_trace_in_a_file_and_cards_that_two_proxies_share(tmp_path: Path, server: Upstream) -> None:
    (tmp_path / "trace.csv").write_text("time_s,latency_ms\n0,150\n5,0\n")
    (tmp_path / "proxies.yaml").write_text(
        f"""
        cards:
          edge: {{sending: {MB_PER_S}}}
          core: {{receiving: {MB_PER_S}}}
        proxies:
          - name: traced
            upstream: {server.address}
            links:
              upstream: {{schedule: {{trace: trace.csv}}}}
          - name: sends-a
            upstream: {server.address}
            links: {{client_card: edge, upstream: {{latency: 1 ms}}}}
          - name: sends-b
            upstream: {server.address}
            links: {{client_card: edge}}
          - name: gets-a
            upstream: {server.address}
            links: {{server_card: core}}
          - name: gets-b
            upstream: {server.address}
            links: {{server_card: core}}
        """
    )
    with running_proxy("--config", str(tmp_path / "proxies.yaml")) as own:
        _, proxies = own.call("GET", "/proxies")
        assert proxies["traced"]["links"] == {"upstream": {"schedule": {"trace": "trace.csv"}}}
        assert proxies["sends-b"]["links"] == {"client_card": "edge"}
        assert exchange(proxies["traced"]["listen"], b"x") >= 0.150
        for pair in ("sends", "gets"):
            listens = [proxies[f"{pair}-{each}"]["listen"] for each in "ab"]
            assert at_once(1, listens) >= 2 * len(DATA) / 1e6


def test_links_that_change_under_load_lose_and_swap_nothing(process: ProxyProcess, server: Upstream) -> None:
    listen = made(process, server, {"upstream": {"bandwidth": "160 Mbit/s"}})
    block = pattern(1_000_000)
    changed = threading.Event()
    sent: list[str] = []
    echoed: list[str] = []

    def send(client: socket.socket, digest: Any) -> None:
        # However fast the links are at times, there is traffic until the last change.
        for number in itertools.count():
            if changed.is_set():
                break
            numbered = number.to_bytes(8, "big") + block
            client.sendall(numbered)
            digest.update(numbered)
        client.shutdown(socket.SHUT_WR)

    def stream() -> None:
        with connect(listen) as client:
            digest = hashlib.sha256()
            sender = threading.Thread(target=send, args=(client, digest), daemon=True)
            sender.start()
            received = hashlib.sha256()
            while piece := client.recv(1 << 18):
                received.update(piece)
            sender.join(TIMEOUT_S)
            sent.append(digest.hexdigest())
            echoed.append(received.hexdigest())

    threads = [threading.Thread(target=stream, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    changes = [
        {"upstream": {"bandwidth": "40 Mbit/s", "latency": "15 ms"}},
        {"downstream": {"latency": "25 ms", "jitter": {"spread": "10 ms"}}},
        {"upstream": {"up": False}},
        {"upstream": {"bandwidth": "240 Mbit/s", "latency": "5 ms"}, "downstream": None},
        {"upstream": None},
        {"upstream": {"bandwidth": "400 Mbit/s", "mtu": "1448 B", "overhead": "52 B"}},
        {"downstream": {"bandwidth": "300 Mbit/s", "loss": {"probability": 0.001}}},
    ]
    for change in 2 * changes:
        assert process.call("PATCH", "/proxies/linked", {"links": change})[0] == 200
        time.sleep(0.02)
    process.call("PATCH", "/proxies/linked", {"links": {"upstream": None, "downstream": None}})
    changed.set()
    for thread in threads:
        thread.join(TIMEOUT_S)
    assert len(echoed) == 3
    assert echoed == sent
