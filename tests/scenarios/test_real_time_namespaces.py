"""Runs in real time whose machines are network namespaces, with links shaped packet by packet."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from net_labs import needs_kernel
from small_runs import constant, placed, toy_cluster, toy_spec

from emulator.conditions import LinkBehaviour, NetworkConditions
from emulator.emulation import Emulation
from emulator.errors import SimulationError
from emulator.realtime.emulation import RealTime, RealTimeEmulation, Transport, check_real_time
from emulator.realtime.network import TimeMode
from emulator.realtime.places import Namespaces
from emulator.spec import EmulationSpec
from netshape.conditions import Jitter, LinkConditions
from netshape.schedule import ConditionSchedule, ConditionStep

LATENCY = 0.02
IN_NAMESPACES = {"transport": Transport.NAMESPACES}


def chain_spec(**changes: Any) -> EmulationSpec:
    """Three nodes in a row, 8 Mbit/s and 20 ms between them."""
    fields: dict[str, Any] = {
        "cluster": toy_cluster(("N0", "n1", "n2"), bandwidth=1e6, latency=LATENCY),
        "placement": placed(N0=(0, 2), n1=(2, 3), n2=(3, 4)),
        "workload": constant(2, prompt=200, output=10),
        "duration_s": 5.0,
        **changes,
    }
    return toy_spec(**fields)


def namespaces() -> list[str]:
    """Those that this process has made."""
    return [path.name for path in Path("/run/netns").glob(f"helixemu-{os.getpid()}-*")]


@pytest.fixture
def nothing_left() -> Iterator[None]:
    files = len(os.listdir("/proc/self/fd"))
    yield
    assert not namespaces()
    assert len(os.listdir("/proc/self/fd")) <= files


def run(spec: EmulationSpec, **settings: Any) -> dict[str, Any]:
    async def main() -> dict[str, Any]:
        return await RealTimeEmulation(spec, real_time=RealTime(**IN_NAMESPACES, **settings)).run_on_loop()

    return asyncio.run(main())


@needs_kernel
@pytest.mark.usefixtures("nothing_left")
def test_messages_take_the_time_that_the_kernels_network_takes() -> None:
    spec = chain_spec()
    expected = Emulation(spec).run()
    found = run(spec, mode=TimeMode.OBSERVED, priority=10)
    assert found["interrupted"] is False
    assert found["requests"]["finished"] > 0
    # Four links of 20 ms and four layers of 10 ms: no kernel makes that shorter.
    assert found["decode_latency_s"]["min"] >= 4 * LATENCY + 0.04
    figures = found["real_time"]
    assert figures["transport"] == "namespaces"
    assert figures["sockets"]["congestion"] == "reno"
    off = found["decode_latency_s"]["p50"] / expected["decode_latency_s"]["p50"] - 1
    if abs(off) > 0.05 and not figures["kept_up"]:
        pytest.skip(f"token latency p50 {off:+.1%}: {figures['warning']}")
    assert abs(off) <= 0.05
    # A prompt of 200 tokens has 200 kB to send between nodes; TCP takes its time to get up to speed.
    assert found["prefill_latency_s"]["min"] >= expected["prefill_latency_s"]["min"] * 0.98


@needs_kernel
@pytest.mark.usefixtures("nothing_left")
def test_in_logical_time_the_log_is_that_of_virtual_time() -> None:
    spec = chain_spec(duration_s=3.0)
    found = run(spec, dilation=0.8)
    assert found["event_log_sha256"] == Emulation(spec).run()["event_log_sha256"]
    assert found["real_time"]["causality_violations"] == 0


@needs_kernel
@pytest.mark.usefixtures("nothing_left")
def test_a_network_that_dies_ends_the_run() -> None:
    async def main() -> dict[str, Any]:
        emulation = RealTimeEmulation(
            chain_spec(duration_s=60.0), real_time=RealTime(mode=TimeMode.OBSERVED, **IN_NAMESPACES)
        )
        task = asyncio.ensure_future(emulation.run_on_loop())
        async with asyncio.timeout(60):
            while emulation.env.now < 0.5:
                await asyncio.sleep(0.05)
            assert emulation._namespaces is not None
            keeper = emulation._namespaces._lab._keeper
            assert keeper is not None
            keeper.send_signal(signal.SIGKILL)
            return await task

    found = asyncio.run(main())
    assert found["interrupted"] is True
    assert "lab" in found["real_time"]["error"] or "connection" in found["real_time"]["error"]
    assert 0.3 < found["sim_s"] < 50


def test_the_network_has_the_runs_pace_and_ways_back() -> None:
    jitter = LinkConditions(bandwidth_bytes_per_s=1e6, latency_s=LATENCY, jitter=Jitter(spread_s=0.004), mtu_bytes=948)
    conditions = NetworkConditions(links={("N0", "n1"): LinkBehaviour(conditions=jitter)})
    pairs = [("coordinator", "N0"), ("N0", "n1"), ("n1", "coordinator")]
    topology = Namespaces(chain_spec(conditions=conditions), pairs, dilation=0.5)._lab.topology
    assert [host.name for host in topology.hosts] == ["m0", "m1", "m2"]
    links = {link.name: link.conditions for link in topology.links}
    assert sorted(links) == ["m0->m1", "m0->m2", "m1->m0", "m1->m2", "m2->m0", "m2->m1"]
    plain, shaken = links["m0->m1"], links["m1->m2"]
    # At half speed 1 MB an emulated second is half of that a second, and 20 ms are 40; headers come on top.
    assert plain.bandwidth_bytes_per_s == pytest.approx(0.5e6 * 1500 / 1448)
    assert plain.latency_s == 2 * LATENCY
    assert shaken.jitter == Jitter(spread_s=0.008)
    assert shaken.bandwidth_bytes_per_s == pytest.approx(0.5e6 * 1000 / 948)
    assert shaken.mtu_bytes == 1000


SCHEDULED = NetworkConditions(
    links={
        ("N0", "n1"): LinkBehaviour(
            conditions=LinkConditions(bandwidth_bytes_per_s=1e6, latency_s=LATENCY),
            schedule=ConditionSchedule(steps=(ConditionStep(time_s=1.0, changes=(("latency_s", 0.1),)),)),
        )
    }
)


@needs_kernel
@pytest.mark.parametrize(
    ("changes", "settings", "told"),
    [
        ({}, {"workers": 2}, "leave --workers out"),
        ({"conditions": SCHEDULED}, {}, "use --transport loopback"),
    ],
)
def test_what_namespaces_cannot_have(changes: dict[str, Any], settings: dict[str, Any], told: str) -> None:
    with pytest.raises(SimulationError, match=told):
        check_real_time(chain_spec(**changes), RealTime(**IN_NAMESPACES, **settings))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may build namespaces")
def test_without_root_namespaces_are_refused_clearly() -> None:
    with pytest.raises(SimulationError, match=r"--transport namespaces: .*root"):
        check_real_time(chain_spec(), RealTime(**IN_NAMESPACES))
