"""Kernel backends: configured against delivered, for unmodified programs in network namespaces.

    sudo .venv/bin/python -m pytest tests/benchmarks/test_kernel_backends.py -m benchmark -s

Rates are those of one TCP connection (cubic) in its steady state, against the link's rate less headers; the queue holds
what is on its way in one and a half round trips. Round trips are those of small datagrams between programs with
real-time scheduling; what these need without any link between them (a plain veth pair) is printed, too.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from net_labs import PAYLOAD_SHARE, blasted, mbit, needs_kernel, round_trips, tcp_rate

from netshape.conditions import LinkConditions
from netshape.kernel.lab import KernelLab
from netshape.kernel.topology import full_mesh

pytestmark = [pytest.mark.benchmark, needs_kernel]

RATES = (10, 100, 1000)
LATENCIES_S = (0.0001, 0.001, 0.02, 0.05, 0.15)
STEADY_S = 5.0
TBF_RATES = (10, 100, 1000, 10_000)
ETHERNET_SHARE = 1448 / 1514
TRIPS = 200


def cpu_s(lab: KernelLab) -> float:
    """CPU time that the process behind a lab has used."""
    keeper = lab._keeper
    assert keeper is not None
    fields = Path(f"/proc/{keeper.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def trip_errors_us(trips: list[float | None], configured_s: float) -> tuple[float, float, float]:
    """Least, median and 99th percentile of round trips less the configured one, in us."""
    errors = [(trip - configured_s) * 1e6 for trip in trips if trip is not None]
    assert len(errors) == len(trips)
    return min(errors), float(np.percentile(errors, 50)), float(np.percentile(errors, 99))


def test_tun_router_configured_against_delivered() -> None:
    with KernelLab(full_mesh(["a", "b"], LinkConditions()), backend="tbf") as lab:
        bare = trip_errors_us(round_trips(lab, "a", "b", TRIPS), 0.0)
    print(f"\nno link (veth): round trip p50 {bare[1]:.0f} us, p99 {bare[2]:.0f} us")
    print("TUN router")
    print(" Mbit/s  latency ms  delivered Mbit/s  error %   RTT error us: least    p50    p99   CPU %  late p50 us")
    for rate in RATES:
        for latency in LATENCIES_S:
            # TCP needs a queue of about what is on its way, or it is its own sawtooth that one measures.
            queue = max(1.5e6, rate * 1e6 / 8 * 3 * latency)
            with KernelLab(full_mesh(["a", "b"], replace(mbit(rate, latency), queue_limit_bytes=queue))) as lab:
                least, p50, p99 = trip_errors_us(round_trips(lab, "a", "b", TRIPS), 2 * latency)
                warm = 2.0 + 60 * latency
                before = cpu_s(lab)
                delivered, _ = tcp_rate(lab, "a", "b", warm + STEADY_S, warm)
                cpu = (cpu_s(lab) - before) / (warm + STEADY_S)
                late = lab.figures()[0].lateness_s_p50
            assert least >= 0
            assert late is not None
            wire = delivered * 8 / 1e6 / PAYLOAD_SHARE
            print(
                f"{rate:7} {latency * 1e3:11.1f} {wire:17.2f} {100 * (wire / rate - 1):+8.3f} "
                f"{least:21.0f} {p50:6.0f} {p99:6.0f} {100 * cpu:7.0f} {late * 1e6:12.0f}",
                flush=True,
            )


def test_tbf_configured_against_delivered() -> None:
    print("\ntbf (rates with Ethernet headers)")
    print(" Mbit/s  delivered Mbit/s  error %")
    for rate in TBF_RATES:
        with KernelLab(full_mesh(["a", "b"], mbit(rate)), backend="tbf") as lab:
            delivered, _ = tcp_rate(lab, "a", "b", 2.0 + STEADY_S, 2.0)
        wire = delivered * 8 / 1e6 / ETHERNET_SHARE
        print(f"{rate:7} {wire:17.2f} {100 * (wire / rate - 1):+8.3f}", flush=True)


def test_capacity_of_the_router() -> None:
    print("\nTUN router without a rate: what one process carries")
    with KernelLab(full_mesh(["a", "b"], LinkConditions(latency_s=0.001))) as lab:
        before = cpu_s(lab)
        delivered, _ = tcp_rate(lab, "a", "b", 6.0, 1.0)
        print(f"one TCP connection: {delivered * 8 / 1e9:.2f} Gbit/s, CPU {(cpu_s(lab) - before) / 6:.0%}")
    for size in (64, 1472, 8972):
        conditions = LinkConditions(latency_s=0.001, mtu_bytes=9000, queue_limit_bytes=1e9)
        with KernelLab(full_mesh(["a", "b"], conditions)) as lab:
            before = cpu_s(lab)
            _, figures = blasted(lab, "a", "b", 100_000, size, 0.0)
            used = cpu_s(lab) - before
        rate = figures.delivered_packets / used
        print(
            f"datagrams of {size} bytes: {used / figures.delivered_packets * 1e6:.1f} us of CPU each, so "
            f"{rate:,.0f}/s or {rate * (size + 28) * 8 / 1e9:.2f} Gbit/s a core"
        )
