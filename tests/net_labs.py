"""What tests of the kernel backends share: why they cannot run here, and traffic between two hosts of a lab."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from netshape.conditions import LinkConditions
from netshape.kernel.lab import KernelLab
from netshape.kernel.router import LinkFigures

TRAFFIC = str(Path(__file__).with_name("net_traffic.py"))
PORT = "5001"
PAYLOAD_SHARE = 1448 / 1500
"""TCP data in a full packet of 1500 bytes, with time stamps."""


def why_not() -> str:
    """Why kernel tests cannot run here; empty when they can."""
    if sys.platform != "linux":
        return f"network namespaces need Linux, this is {sys.platform}"
    if importlib.util.find_spec("pyroute2") is None:
        return "pyroute2 is not installed (extra [kernel])"
    if os.geteuid() != 0:
        return "network namespaces need root"
    from netshape.kernel.probe import probe

    verdict = probe().backend("tun")
    return "" if verdict.usable else verdict.reason


_reason = why_not()
needs_kernel = pytest.mark.skipif(bool(_reason), reason=_reason or "kernel backends work")


def traffic(*arguments: object) -> list[str]:
    """Command of the traffic program."""
    return [sys.executable, "-I", "-S", TRAFFIC, *map(str, arguments)]


@contextmanager
def serving(lab: KernelLab, host: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A traffic program that is ready, killed at the end if it still runs."""
    program = lab.start(host, traffic(*arguments), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        yield program
    finally:
        if program.poll() is None:
            program.kill()
        program.communicate()


def blasted(
    lab: KernelLab, source: str, target: str, count: int, size: int, gap_s: float
) -> tuple[list[int], LinkFigures]:
    """Numbers of the datagrams that came of ``count`` sent ones, in the order of arrival, and the link's figures."""
    with serving(lab, target, "collect", PORT) as collector:
        lab.run(source, traffic("blast", target, PORT, count, size, gap_s), check=True, timeout=120)
        deadline = time.monotonic() + 30
        while True:
            (figures,) = (each for each in lab.figures() if (each.source, each.target) == (source, target))
            missed = sum(each.missed_packets for each in lab.host_figures() if each.host == source)
            if figures.packets + missed >= count and figures.in_flight_packets == 0:
                break
            assert time.monotonic() < deadline, figures
            time.sleep(0.01)
        out, _ = collector.communicate()
    return [number for number, _ in json.loads(out)], figures


def tcp_rate(
    lab: KernelLab, source: str, target: str, seconds: float, warm_s: float
) -> tuple[float, list[list[float]]]:
    """Steady rate of one TCP connection in bytes/s, counted from ``warm_s`` on, and the samples behind it."""
    with serving(lab, target, "sink", PORT) as sink:
        lab.run(source, traffic("source", target, PORT, seconds), check=True, timeout=seconds + 60)
        assert sink.stdout is not None
        samples = json.loads(sink.stdout.readline())
    start = samples[0][0]
    steady = [sample for sample in samples if warm_s <= sample[0] - start <= seconds]
    (first_s, first), (last_s, last) = steady[0], steady[-1]
    return (last - first) / (last_s - first_s), samples


def round_trips(lab: KernelLab, source: str, target: str, count: int, gap_s: float = 0.005) -> list[float | None]:
    """Round trips of small datagrams in seconds, ``None`` for lost ones."""
    with serving(lab, target, "echo", PORT):
        done = lab.run(
            source, traffic("ask", target, PORT, count, gap_s), check=True, capture_output=True, text=True, timeout=300
        )
    trips: list[float | None] = json.loads(done.stdout)
    return trips


def mbit(rate: float, latency_s: float = 0.0) -> LinkConditions:
    """Conditions of ``rate`` Mbit/s."""
    return LinkConditions(bandwidth_bytes_per_s=rate * 1e6 / 8, latency_s=latency_s)
