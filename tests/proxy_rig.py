"""A real `helixemu proxy` process, and servers and clients to put around it. Everything stays on 127.0.0.1."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

TIMEOUT_S = 60.0
"""For what happens at once on an idle machine."""
ROOT = Path(__file__).parent.parent
READY = re.compile(r"Toxiproxy API at http://127\.0\.0\.1:(\d+), (\d+) prox(?:y|ies)")


class ProxyProcess:
    """A running `helixemu proxy`."""

    def __init__(self, *arguments: str) -> None:
        if "--max-connections" not in arguments:
            # Fewer descriptors than a plain container allows, so that no warning comes.
            arguments += ("--max-connections", "256")
        # A file, as a pipe that nobody reads would stop the process when it is full.
        self._stderr = tempfile.TemporaryFile("w+")  # noqa: SIM115 - close() closes it
        self.process = subprocess.Popen(
            [sys.executable, "-m", "scenarios.cli", "proxy", "--port", "0", *arguments],
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], TIMEOUT_S)
        line = self.process.stdout.readline() if ready else ""
        found = READY.match(line)
        if found is None:
            self.process.kill()
            complaints = self._complaints()
            self.close()
            raise AssertionError(f"no readiness line but {line!r}: {complaints}")
        self.port = int(found[1])
        self.started_with = int(found[2])

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """One request; the answer's status and its JSON (or text, or None)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)
        try:
            data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
            connection.request(method, path, body=data, headers=headers)
            answer = connection.getresponse()
            text = answer.read().decode()
        finally:
            connection.close()
        if not text:
            return answer.status, None
        kind = answer.headers.get_content_type()
        return answer.status, json.loads(text) if kind == "application/json" else text

    def descriptors(self) -> int:
        """Open file descriptors of the process."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def peak_bytes(self) -> int:
        """Peak resident memory of the process."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]

    def stop(self, number: int = signal.SIGINT) -> tuple[int, str, str]:
        """Signal it; exit code, standard output and error."""
        self.process.send_signal(number)
        out, _ = self.process.communicate(timeout=TIMEOUT_S)
        return self.process.returncode, out, self._complaints()

    def _complaints(self) -> str:
        self._stderr.seek(0)
        return self._stderr.read()

    def close(self) -> None:
        """End it if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate(timeout=TIMEOUT_S)
        self._stderr.close()


@contextlib.contextmanager
def running_proxy(*arguments: str) -> Iterator[ProxyProcess]:
    """A `helixemu proxy` that is ended at the end of the block."""
    process = ProxyProcess(*arguments)
    try:
        yield process
    finally:
        process.close()


class Upstream:
    """A TCP server with a thread per connection; ``serve`` gets each connection's socket."""

    def __init__(self, serve: Callable[[socket.socket], None]) -> None:
        self._serve = serve
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self.accepted = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            sock.settimeout(TIMEOUT_S)
            threading.Thread(target=self._run, args=(sock,), daemon=True).start()

    def _run(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(ConnectionError, TimeoutError):
            self._serve(sock)

    def close(self) -> None:
        """Stop listening."""
        # shutdown() wakes the thread in accept(); close() alone would not.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def echo(sock: socket.socket) -> None:
    """Send back what comes until the client has said everything."""
    while data := sock.recv(65536):
        sock.sendall(data)


@contextlib.contextmanager
def upstream(serve: Callable[[socket.socket], None] = echo) -> Iterator[Upstream]:
    """A server for the length of the block."""
    server = Upstream(serve)
    try:
        yield server
    finally:
        server.close()


def connect(listen: str) -> socket.socket:
    """A client's socket."""
    host, _, port = listen.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=TIMEOUT_S)


def receive_all(sock: socket.socket) -> bytes:
    """Everything up to the end of the stream."""
    parts = []
    while data := sock.recv(65536):
        parts.append(data)
    return b"".join(parts)


def receive(sock: socket.socket, count: int) -> bytes:
    """So many bytes, fewer only at the end of the stream."""
    parts = []
    while count > 0 and (data := sock.recv(min(count, 65536))):
        parts.append(data)
        count -= len(data)
    return b"".join(parts)


def reset(sock: socket.socket) -> None:
    """Close with a RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def wait_until(true: Callable[[], bool], timeout_s: float = TIMEOUT_S) -> bool:
    """Whether a condition comes true in time."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if true():
            return True
        time.sleep(0.01)
    return true()


def pattern(count: int) -> bytes:
    """Bytes among which a loss or a swap shows."""
    return b"".join(number.to_bytes(4, "big") for number in range(count // 4 + 1))[:count]
