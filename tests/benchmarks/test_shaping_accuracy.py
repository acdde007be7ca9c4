"""How exactly links are shaped: a table of configured against delivered bandwidth and latency.

Run with ``python -m pytest tests/benchmarks/test_shaping_accuracy.py -m benchmark -s``. Sender and receiver are two
processes, each with one event loop on a timerfd. The table is printed with stock scheduling, and, where that is
permitted, with real-time scheduling (SCHED_FIFO; idle processors are kept awake, and the clock is watched before a
deadline). Both take two and a half minutes.

Bandwidth is measured over 2 s of back-to-back messages, from the time at which the first one is to be delivered to the
delivery of the last; latency with messages that find the link idle. On a machine that others use, too, cells miss their
target; so only the lower bounds are asserted.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from time import monotonic, process_time
from typing import Any

import pytest

from netshape import timing
from netshape.conditions import LinkConditions
from netshape.endpoints import listen, open_stream
from netshape.frame_connection import FrameConnection
from netshape.frame_handler import FrameHandler
from netshape.link_metrics import DurationHistogram, LinkMetrics
from netshape.shaped_link import ShapedLink

pytestmark = pytest.mark.benchmark

BANDWIDTHS_MBIT = (10, 100, 1000, 5000)
LATENCIES_MS = (0.1, 1, 20, 50, 150)
BUSY_S = 2.0
PROBES = 200
PROBE_BYTES = 1024
THROUGHPUT_TARGET = 0.005
LATENCY_TARGETS_S = {"stock": 150e-6, "real-time": 50e-6}


def message_bytes(mbit: int) -> int:
    """Size of the messages: enough of them for a rate, not so many that Python's time per message counts."""
    return 1 << 12 if mbit < 100 else 1 << 14 if mbit < 5000 else 1 << 16


class Receiver(FrameHandler):
    """Measures one connection: the rate of its messages and, by the greeting, the lateness of probes."""

    def __init__(self) -> None:
        self.first_s = self.last_s = 0.0
        self.bytes = 0
        self.early = 0
        self.late = DurationHistogram()

    def on_connected(self, connection: FrameConnection) -> None:
        self.connection = connection

    def on_frame(self, header: memoryview, payload: memoryview, planned_s: float, arrived_s: float) -> None:
        now = self.last_s = monotonic()
        self.early += now < planned_s
        self.late.add(max(0.0, now - planned_s))
        if self.first_s:
            self.bytes += len(payload)
        else:
            self.first_s = planned_s

    def on_end(self) -> None:
        result = {
            "bytes_per_s": self.bytes / (self.last_s - self.first_s),
            "late": self.late.report(),
            "early": self.early,
            "cpu_s": process_time(),
            "wall_s": monotonic(),
        }
        self.connection.send_planned(json.dumps(result).encode(), planned_s=monotonic())
        self.connection.end()


async def serve() -> None:
    """The receiving process: tell the port, and run until the parent closes the pipe."""
    server = await listen(Receiver, ("127.0.0.1", 0))
    print(server.address[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await server.close()


def scheduled(scheduling: str) -> AbstractContextManager[timing.Scheduling | None]:
    return timing.realtime_scheduling() if scheduling == "real-time" else nullcontext()


async def cell(address: Any, mbit: int, latency_s: float) -> dict[str, Any]:
    """One cell of the table: a busy connection, then an idle one with probes."""
    conditions = LinkConditions(bandwidth_bytes_per_s=mbit * 125_000, latency_s=latency_s)
    payload = bytes(message_bytes(mbit))
    stream = await open_stream(address, ShapedLink(conditions), metrics=LinkMetrics())
    begin, cpu = monotonic(), process_time()
    sent = 0
    while monotonic() - begin < BUSY_S:
        await stream.send(payload)
        sent += len(payload)
    cpu = (process_time() - cpu) / (monotonic() - begin)
    stream.finish()
    busy = await stream.receive()
    assert busy is not None
    # Lower bound: bytes take their time at the rate, and the latency.
    assert monotonic() - begin >= sent / conditions.bandwidth_bytes_per_s + latency_s
    sockets = stream.connection.report()
    await stream.close()
    stream = await open_stream(address, ShapedLink(conditions))
    for _ in range(PROBES):
        await stream.send(bytes(PROBE_BYTES))
        await asyncio.sleep(0.004 if mbit > 10 else 0.006)
    stream.finish()
    probes = await stream.receive()
    assert probes is not None
    await stream.close()
    found = {"busy": json.loads(busy.payload), "probes": json.loads(probes.payload), "cpu": cpu, "sockets": sockets}
    assert found["busy"]["early"] == found["probes"]["early"] == 0
    return found


def row(mbit: int, latency_ms: float, found: dict[str, Any], target_s: float) -> str:
    delivered = found["busy"]["bytes_per_s"] * 8e-6
    error = delivered / mbit - 1
    late = {name: value * 1e6 for name, value in found["probes"]["late"].items()}
    loaded = found["busy"]["late"]["p50"] * 1e6
    missed = ("" if abs(error) <= THROUGHPUT_TARGET else " rate") + ("" if late["p50"] <= target_s * 1e6 else " p50")
    lateness = f"+{late['p50']:6.0f} {late['p95']:6.0f} {late['p99']:6.0f} {late['max']:7.0f} us"
    return (
        f"{mbit:6d} Mbit/s {delivered:9.2f} {error:+8.3%}  {latency_ms:6.1f} ms  {lateness}  {loaded:6.0f} us  "
        f"{found['cpu']:5.0%}  {missed or ' ok'}"
    )


async def table(address: Any, scheduling: str) -> None:
    target_s = LATENCY_TARGETS_S[scheduling]
    print("  configured  delivered    error  latency    late: p50    p95    p99     max  busy p50  sender  targets")
    found = None
    for mbit in BANDWIDTHS_MBIT:
        for latency_ms in LATENCIES_MS:
            found = await cell(address, mbit, latency_ms / 1000)
            print(row(mbit, latency_ms, found, target_s))
    assert found is not None
    print(f"sockets: {found['sockets']}; timer: {timing.timer_kind(asyncio.get_running_loop())}")


@pytest.mark.parametrize("scheduling", LATENCY_TARGETS_S)
def test_configured_against_delivered(scheduling: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, __file__, scheduling]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdout is not None
        address = ("127.0.0.1", int(child.stdout.readline()))
        with scheduled(scheduling) as granted:
            if granted is not None and not granted.realtime:
                child.communicate()
                pytest.skip(f"real-time scheduling is not permitted: {granted.reason}")
            awake = "" if granted is None else f", idle processors {'kept awake' if granted.awake else 'as they are'}"
            load = f"load {os.getloadavg()[0]:.1f}, {socket.gethostname()}"
            print(f"\n{scheduling} scheduling{awake}, two processes, {load}")
            timing.run(table(address, scheduling))
        child.communicate()


if __name__ == "__main__":
    with scheduled(sys.argv[1]):
        timing.run(serve())
