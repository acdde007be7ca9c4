"""What may go wrong around the proxy, with real sockets: nothing hangs, nothing leaks, surviving streams stay whole."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from proxy_rig import (
    TIMEOUT_S,
    ProxyProcess,
    connect,
    echo,
    pattern,
    receive,
    receive_all,
    reset,
    running_proxy,
    upstream,
    wait_until,
)

DATA = pattern(1_000_000)
SHORT_CONNECTIONS = 10_000
AT_ONCE = 64


@pytest.fixture(scope="module")
def process() -> Iterator[ProxyProcess]:
    with running_proxy("--seed", "3", "--max-connections", "1000") as process:
        yield process
        # After all that it ends in order, and has had nothing to complain about.
        code, _, complaints = process.stop()
        assert (code, complaints) == (0, "")


def made(process: ProxyProcess, name: str, address: str) -> str:
    """A fresh proxy; where it listens."""
    process.call("DELETE", f"/proxies/{name}")
    status, proxy = process.call("POST", "/proxies", {"name": name, "upstream": address})
    assert status == 201, proxy
    return str(proxy["listen"])


def figure(process: ProxyProcess, name: str, proxy: str) -> float:
    """One of the proxy's figures in /metrics, summed over directions."""
    _, text = process.call("GET", "/metrics")
    lines = [line for line in text.splitlines() if line.startswith(f"{name}{{") and f'proxy="{proxy}"' in line]
    assert lines
    return sum(float(line.rpartition(" ")[2]) for line in lines)


async def test_ten_thousand_short_connections_leave_no_descriptor(process: ProxyProcess) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(4096):
                writer.write(data)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=1024)
    port = server.sockets[0].getsockname()[1]
    listen = await asyncio.to_thread(made, process, "short", f"127.0.0.1:{port}")
    host, _, listen_port = listen.rpartition(":")
    before = await asyncio.to_thread(process.descriptors)
    done = 0

    async def visit(number: int) -> None:
        nonlocal done
        reader, writer = await asyncio.open_connection(host, int(listen_port))
        # Four ways to end: after an answer with an orderly close, with a half-close first, with a RST, and at once.
        way = number // AT_ONCE % 4
        if way < 3:
            word = number.to_bytes(8, "big")
            writer.write(word)
            assert await reader.readexactly(8) == word
        if way == 1:
            writer.write_eof()
            assert await reader.read() == b""
        if way == 2:
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        writer.close()
        done += 1

    async def visitor(first: int) -> None:
        for number in range(first, SHORT_CONNECTIONS, AT_ONCE):
            await visit(number)

    async with asyncio.timeout(300):
        await asyncio.gather(*(visitor(first) for first in range(AT_ONCE)))
    assert done == SHORT_CONNECTIONS
    gone = await asyncio.to_thread(wait_until, lambda: figure(process, "helixemu_proxy_open_connections", "short") == 0)
    assert gone
    assert await asyncio.to_thread(figure, process, "helixemu_proxy_accepted_connections_total", "short") == done
    assert await asyncio.to_thread(wait_until, lambda: process.descriptors() <= before)
    server.close()


def test_a_half_close_goes_through_and_the_answer_comes_back(process: ProxyProcess) -> None:
    def answer_after_the_end(sock: socket.socket) -> None:
        heard = receive_all(sock)
        sock.sendall(hashlib.sha256(heard).digest() + DATA)

    with upstream(answer_after_the_end) as server, connect(made(process, "half", server.address)) as client:
        client.sendall(DATA)
        client.shutdown(socket.SHUT_WR)
        assert receive_all(client) == hashlib.sha256(DATA).digest() + DATA
    assert wait_until(lambda: figure(process, "helixemu_proxy_open_connections", "half") == 0)


def test_the_servers_end_goes_through_and_the_client_may_go_on(process: ProxyProcess) -> None:
    heard: list[bytes] = []

    def end_then_listen(sock: socket.socket) -> None:
        sock.shutdown(socket.SHUT_WR)
        heard.append(receive_all(sock))

    with upstream(end_then_listen) as server, connect(made(process, "half", server.address)) as client:
        assert client.recv(1) == b""
        client.sendall(DATA)
        client.shutdown(socket.SHUT_WR)
        assert wait_until(lambda: bool(heard))
    assert heard == [DATA]


PEER = """
import socket, sys
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
sock, _ = listener.accept()
while True:
    sock.sendall(bytes(65536))
"""


def test_a_server_killed_amid_its_stream_ends_its_client_and_no_other(process: ProxyProcess) -> None:
    peer = subprocess.Popen([sys.executable, "-c", PEER], stdout=subprocess.PIPE, text=True)
    try:
        assert peer.stdout is not None
        listen = made(process, "killed", f"127.0.0.1:{int(peer.stdout.readline())}")
        with upstream(echo) as server, connect(made(process, "other", server.address)) as other:
            other.sendall(b"before")
            assert receive(other, 6) == b"before"
            with connect(listen) as client:
                assert receive(client, 1_000_000) == bytes(1_000_000)
                peer.send_signal(signal.SIGKILL)
                with contextlib.suppress(ConnectionResetError):
                    assert receive_all(client).strip(b"\0") == b""
            other.sendall(DATA)
            assert receive(other, len(DATA)) == DATA
        # Whoever comes now finds no upstream and is shown out.
        with connect(listen) as late, contextlib.suppress(ConnectionResetError):
            assert late.recv(1) == b""
        assert wait_until(lambda: figure(process, "helixemu_proxy_open_connections", "killed") == 0)
        assert figure(process, "helixemu_proxy_upstream_failures_total", "killed") == 1
    finally:
        peer.kill()
        peer.communicate(timeout=TIMEOUT_S)


def test_a_client_that_resets_amid_its_stream_resets_its_server(process: ProxyProcess) -> None:
    ends: list[str] = []

    def read_to_the_end(sock: socket.socket) -> None:
        try:
            receive_all(sock)
            ends.append("end")
        except ConnectionResetError:
            ends.append("reset")

    with upstream(read_to_the_end) as server:
        client = connect(made(process, "reset", server.address))
        client.sendall(DATA)
        reset(client)
        assert wait_until(lambda: bool(ends))
    assert ends == ["reset"]
    assert wait_until(lambda: figure(process, "helixemu_proxy_open_connections", "reset") == 0)


def test_a_half_open_connection_is_found_out_by_the_next_bytes(process: ProxyProcess) -> None:
    speak: list[bool] = []
    ends: list[type[BaseException] | None] = []

    def speak_later(sock: socket.socket) -> None:
        sock.sendall(b"hello")
        wait_until(lambda: bool(speak))
        try:
            while True:
                sock.sendall(bytes(65536))
        except OSError as error:
            ends.append(type(error))

    with upstream(speak_later) as server:
        client = connect(made(process, "halfopen", server.address))
        assert receive(client, 5) == b"hello"
        repair = getattr(socket, "TCP_REPAIR", 19)
        try:
            # A socket closed under repair is gone without a word to its peer, as after a power cut.
            client.setsockopt(socket.IPPROTO_TCP, repair, 1)
        except PermissionError:
            client.close()
            pytest.skip("TCP_REPAIR needs CAP_NET_ADMIN")
        client.close()
        time.sleep(0.2)
        assert figure(process, "helixemu_proxy_open_connections", "halfopen") == 1
        speak.append(True)
        assert wait_until(lambda: bool(ends))
    assert wait_until(lambda: figure(process, "helixemu_proxy_open_connections", "halfopen") == 0)


def test_a_peer_that_stops_answering_keeps_only_its_own_connection_waiting(process: ProxyProcess) -> None:
    over = threading.Event()
    with upstream(lambda sock: over.wait(TIMEOUT_S)) as silent, upstream(echo) as server:
        stuck = connect(made(process, "stuck", silent.address))
        stuck.settimeout(0.5)
        with contextlib.suppress(TimeoutError):
            while True:
                stuck.sendall(DATA)
        with connect(made(process, "free", server.address)) as client:
            client.sendall(DATA)
            client.shutdown(socket.SHUT_WR)
            assert receive_all(client) == DATA
        assert figure(process, "helixemu_proxy_open_connections", "stuck") == 1
        assert process.call("DELETE", "/proxies/stuck")[0] == 204
        stuck.settimeout(TIMEOUT_S)
        with contextlib.suppress(ConnectionResetError):
            assert stuck.recv(1) == b""
        stuck.close()
        over.set()


def test_an_upstream_that_never_answers_the_connect_is_given_up(process: ProxyProcess) -> None:
    # A listener whose backlog is full drops further connection requests, and the client's kernel asks on and on.
    with running_proxy("--connect-timeout", "0.3") as own, socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = f"127.0.0.1:{full.getsockname()[1]}"
        crowd = [socket.socket() for _ in range(4)]
        for each in crowd:
            each.setblocking(False)
            each.connect_ex(full.getsockname())
        time.sleep(0.1)
        start = time.monotonic()
        with connect(made(own, "deaf", address)) as client, contextlib.suppress(ConnectionResetError):
            assert client.recv(1) == b""
        assert time.monotonic() - start >= 0.3
        assert wait_until(lambda: figure(own, "helixemu_proxy_upstream_failures_total", "deaf") == 1)
        assert figure(own, "helixemu_proxy_open_connections", "deaf") == 0
        for each in crowd:
            each.close()


def test_one_client_too_many_is_turned_away(process: ProxyProcess) -> None:
    with running_proxy("--max-connections", "2") as own, upstream(echo) as server:
        listen = made(own, "full", server.address)
        with connect(listen) as first, connect(listen) as second:
            for client in (first, second):
                client.sendall(b"x")
                assert client.recv(1) == b"x"
            with connect(listen) as third, contextlib.suppress(ConnectionResetError):
                assert third.recv(1) == b""
            assert figure(own, "helixemu_proxy_refused_connections_total", "full") == 1
        assert wait_until(lambda: figure(own, "helixemu_proxy_open_connections", "full") == 0)
        with connect(listen) as again:
            again.sendall(b"x")
            assert again.recv(1) == b"x"


CHANGES = 300
KINDS: dict[str, Callable[[random.Random], dict[str, int]]] = {
    "latency": lambda draw: {"latency": draw.randrange(40), "jitter": draw.randrange(20)},
    "bandwidth": lambda draw: {"rate": draw.randrange(2_000, 50_000)},
    "slicer": lambda draw: {"average_size": draw.randrange(500, 9_000), "size_variation": 400, "delay": 20},
    "slow_close": lambda draw: {"delay": draw.randrange(50)},
    "limit_data": lambda draw: {"bytes": 1 << 40},
    "noop": lambda draw: {},
}


class Stream(threading.Thread):
    """A client that sends random bytes until it is told to stop, and hashes what goes out and what comes back."""

    def __init__(self, listen: str, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self.listen = listen
        self.stop = stop
        self.sent, self.heard = hashlib.sha256(), hashlib.sha256()
        self.sent_bytes = self.heard_bytes = 0
        self.start()

    def run(self) -> None:
        with connect(self.listen) as client:
            listener = threading.Thread(target=self.hear, args=(client,), daemon=True)
            listener.start()
            while not self.stop.is_set():
                data = os.urandom(50_000)
                client.sendall(data)
                self.sent.update(data)
                self.sent_bytes += len(data)
            client.shutdown(socket.SHUT_WR)
            listener.join(TIMEOUT_S)

    def hear(self, client: socket.socket) -> None:
        while data := client.recv(65536):
            self.heard.update(data)
            self.heard_bytes += len(data)


def test_toxics_that_change_under_load_lose_and_swap_nothing(process: ProxyProcess) -> None:
    draw = random.Random(5)
    stop = threading.Event()
    counts = dict.fromkeys(("add", "change", "remove"), 0)
    with upstream(echo) as server:
        listen = made(process, "load", server.address)
        streams = [Stream(listen, stop) for _ in range(4)]
        on: set[str] = set()
        for _ in range(CHANGES):
            kind, way = draw.choice(list(KINDS)), draw.choice(["upstream", "downstream"])
            name = f"{kind}_{way}"
            toxicity = draw.choice([0.0, 0.5, 1.0])
            body = {"type": kind, "stream": way, "toxicity": toxicity, "attributes": KINDS[kind](draw)}
            if name not in on:
                assert process.call("POST", "/proxies/load/toxics", body)[0] == 200
                on.add(name)
                counts["add"] += 1
            elif draw.random() < 0.5:
                assert process.call("PATCH", f"/proxies/load/toxics/{name}", body)[0] == 200
                counts["change"] += 1
            else:
                assert process.call("DELETE", f"/proxies/load/toxics/{name}")[0] == 204
                on.remove(name)
                counts["remove"] += 1
        stop.set()
        assert process.call("POST", "/reset")[0] == 204
        for stream in streams:
            stream.join(TIMEOUT_S)
            assert not stream.is_alive()
            assert stream.heard_bytes == stream.sent_bytes > 0
            assert stream.heard.digest() == stream.sent.digest()
    assert min(counts.values()) > CHANGES / 6, counts
    assert figure(process, "toxiproxy_proxy_dropped_bytes_total", "load") == 0
