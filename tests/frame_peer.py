"""A peer in a process of its own, for tests that kill or stop it: ``python frame_peer.py PORT MODE``.

``cut``: greets, sends three messages that are planned 0.2 s ahead and half of a fourth, and waits.
``idle``: greets, reads what comes and sends heartbeats.
"""

from __future__ import annotations

import select
import socket
import sys
import time

from netshape.frames import HEADER, VERSION, Kind, hello, packed


def data(payload: bytes, planned_s: float) -> bytes:
    return HEADER.pack(len(payload), 0, Kind.DATA, VERSION, planned_s, 0.0, 0.0) + payload


def main() -> None:
    peer = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    peer.sendall(hello(b"peer"))
    if sys.argv[2] == "cut":
        planned = time.monotonic() + 0.2
        whole = b"".join(data(b"message %d" % number, planned) for number in range(3))
        peer.sendall(whole + data(bytes(1000), planned)[:500])
    print("ready", flush=True)
    while True:
        peer.sendall(packed(Kind.HEARTBEAT)) if sys.argv[2] == "idle" else None
        if select.select([peer], [], [], 0.05)[0] and not peer.recv(1 << 16):
            return


if __name__ == "__main__":
    main()
