"""Traffic for tests of the kernel backends: a program of its own, run by path inside a host of a lab.

``sink PORT`` reads one TCP connection and prints ``[[seconds, bytes so far], ...]`` at its end; ``source HOST PORT
SECONDS`` fills one; ``echo PORT`` returns UDP datagrams; ``ask HOST PORT COUNT GAP_S`` prints each one's round trip in
seconds, null for a lost one; ``blast HOST PORT COUNT BYTES GAP_S`` sends numbered datagrams; ``collect PORT`` prints
``[[number, seconds], ...]`` of those that have come when its standard input ends.
"""

import contextlib
import json
import os
import select
import socket
import struct
import sys
import time

CHUNK = 1 << 20
NUMBER = struct.Struct("!Q")


def sink(port: str) -> None:
    with socket.create_server(("0.0.0.0", int(port))) as server:
        print("ready", flush=True)
        connection, _ = server.accept()
        with connection:
            total, samples = 0, [[time.monotonic(), 0]]
            buffer = bytearray(CHUNK)
            while count := connection.recv_into(buffer):
                total += count
                now = time.monotonic()
                if now - samples[-1][0] > 0.005:
                    samples.append([now, total])
            samples.append([time.monotonic(), total])
    print(json.dumps(samples), flush=True)


def source(host: str, port: str, seconds: str, congestion_control: str = "cubic") -> None:
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        # As root one may choose what is not allowed as a namespace's default.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion_control.encode())
        data = bytes(1 << 17)
        end = time.monotonic() + float(seconds)
        while time.monotonic() < end:
            connection.sendall(data)


def steady() -> None:
    """Ask for real-time scheduling, so that it is the link that one measures and not who else uses the machine."""
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(5))


def echo(port: str) -> None:
    steady()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("0.0.0.0", int(port)))
        print("ready", flush=True)
        while True:
            data, peer = server.recvfrom(65_536)
            server.sendto(data, peer)


def ask(host: str, port: str, count: str, gap_s: str) -> None:
    steady()
    trips: list[float | None] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect((host, int(port)))
        client.settimeout(2.0)
        for number in range(int(count)):
            sent = time.monotonic()
            client.send(NUMBER.pack(number))
            try:
                while NUMBER.unpack(client.recv(64))[0] != number:
                    pass
                trips.append(time.monotonic() - sent)
            except TimeoutError:
                trips.append(None)
            time.sleep(float(gap_s))
    print(json.dumps(trips), flush=True)


def blast(host: str, port: str, count: str, size: str, gap_s: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect((host, int(port)))
        rest = bytes(int(size) - NUMBER.size)
        due = time.monotonic()
        for number in range(int(count)):
            client.send(NUMBER.pack(number) + rest)
            due += float(gap_s)
            if (wait := due - time.monotonic()) > 0:
                time.sleep(wait)


def collect(port: str) -> None:
    got = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        server.bind(("0.0.0.0", int(port)))
        print("ready", flush=True)
        ended = False
        while not ended:
            ended = sys.stdin in select.select([server, sys.stdin], [], [])[0]
            while select.select([server], [], [], 0)[0]:
                got.append([NUMBER.unpack_from(server.recv(65_536))[0], time.monotonic()])
    print(json.dumps(got), flush=True)


if __name__ == "__main__":
    {each.__name__: each for each in (sink, source, echo, ask, blast, collect)}[sys.argv[1]](*sys.argv[2:])
