"""What the proxy costs: throughput, round trips and connections through it, beside the same without it."""

from __future__ import annotations

import socket
import statistics
import threading
import time
from typing import Any

import pytest
from proxy_rig import connect, receive, running_proxy, upstream
from rich.console import Console
from rich.table import Table

pytestmark = pytest.mark.benchmark
MEGABYTES = 200
ROUND_TRIPS = 300
CONNECTIONS = 500


def serve(sock: socket.socket) -> None:
    """As many bytes as the first eight say, or an echo of one byte at a time."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    count = int.from_bytes(receive(sock, 8), "big")
    block = bytes(1 << 16)
    while count > 0:
        sock.sendall(block[:count])
        count -= len(block)
    while data := sock.recv(1):
        sock.sendall(data)


def megabytes_per_s(listen: str, megabytes: float) -> float:
    count = int(megabytes * 1e6)
    buffer = bytearray(1 << 18)
    with connect(listen) as client:
        start = time.perf_counter()
        client.sendall(count.to_bytes(8, "big"))
        left = count
        while left > 0:
            got = client.recv_into(buffer)
            assert got
            left -= got
        return megabytes / (time.perf_counter() - start)


def round_trips_ms(listen: str, count: int) -> list[float]:
    with connect(listen) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.sendall(bytes(8))
        times = []
        for _ in range(count):
            start = time.perf_counter()
            client.sendall(b"x")
            assert client.recv(1) == b"x"
            times.append(1000 * (time.perf_counter() - start))
    return times


def connections_per_s(listen: str) -> float:
    def some() -> None:
        for _ in range(CONNECTIONS // 4):
            round_trips_ms(listen, 1)

    threads = [threading.Thread(target=some) for _ in range(4)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return CONNECTIONS / (time.perf_counter() - start)


def test_what_the_proxy_costs() -> None:
    table = Table("through", "MB/s", "configured", "RTT p50 ms", "p99", "configured", "connections/s")
    cases: list[tuple[str, dict[str, Any], list[dict[str, Any]], float, float]] = [
        ("the proxy", {}, [], float("inf"), 0),
        ("latency toxic 5 ms", {}, [{"type": "latency", "attributes": {"latency": 5}}], float("inf"), 5),
        ("bandwidth toxic 10 MB/s", {}, [{"type": "bandwidth", "attributes": {"rate": 10_000}}], 10, 0),
        ("bandwidth toxic 100 MB/s", {}, [{"type": "bandwidth", "attributes": {"rate": 100_000}}], 100, 0),
        ("link 100 Mbit/s, 20 ms", {"downstream": {"bandwidth": "100 Mbit/s", "latency": "20 ms"}}, [], 12.5, 20),
        ("link 1 Gbit/s, 1 ms", {"downstream": {"bandwidth": "1 Gbit/s", "latency": "1 ms"}}, [], 125, 1),
    ]
    with upstream(serve) as server, running_proxy("--max-connections", "1000") as process:
        rows = [("nothing", server.address, float("inf"), 0.0)]
        for number, (name, links, toxics, rate, latency_ms) in enumerate(cases):
            body = {"name": str(number), "upstream": server.address, "links": links}
            _, proxy = process.call("POST", "/proxies", body)
            for toxic in toxics:
                process.call("POST", f"/proxies/{number}/toxics", toxic)
            rows.append((name, proxy["listen"], rate, latency_ms))
        for name, listen, rate, latency_ms in rows:
            speed = megabytes_per_s(listen, min(MEGABYTES, 2 * rate))
            trips = sorted(round_trips_ms(listen, ROUND_TRIPS if latency_ms < 10 else 50))
            table.add_row(
                name,
                f"{speed:.1f}",
                "-" if rate == float("inf") else f"{rate:g}",
                f"{statistics.median(trips):.3f}",
                f"{trips[int(0.99 * len(trips))]:.3f}",
                f"{latency_ms:g}",
                f"{connections_per_s(listen):.0f}" if latency_ms == 0 and rate == float("inf") else "-",
            )
            assert speed <= rate * 1.001
    Console(width=120).print(table)
