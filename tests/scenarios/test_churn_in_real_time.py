"""Churn over real sockets: the same course of events as in virtual time, while connections are cut and stopped."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import socket
from typing import Any

import pytest

from emulator.churn.spec import InFlightPolicy
from emulator.emulation import Emulation
from emulator.realtime.emulation import RealTime, RealTimeEmulation
from emulator.spec import EmulationSpec
from tests.churn_runs import EVENTS, churn_spec

DOZEN = [
    ("crash", "reroute", InFlightPolicy.RETRY),
    ("crash", "standby", InFlightPolicy.REPLICATE),
    ("crash for good", "replan", InFlightPolicy.RETRY),
    ("crash for good", "none", InFlightPolicy.FAIL),
    ("drain", "reroute", InFlightPolicy.RETRY),
    ("preempt", "standby", InFlightPolicy.RETRY),
    ("join", "replan", InFlightPolicy.REPLICATE),
    ("straggler", "reroute", InFlightPolicy.RETRY),
    ("link degrade", "reroute", InFlightPolicy.RETRY),
    ("link flap", "none", InFlightPolicy.RETRY),
    ("link down", "reroute", InFlightPolicy.REPLICATE),
    ("partition", "reroute", InFlightPolicy.RETRY),
    ("region_outage", "replan", InFlightPolicy.RETRY),
    ("everything down", "reroute", InFlightPolicy.RETRY),
    ("coordinator restart", "reroute", InFlightPolicy.RETRY),
]
DILATION = 20.0
LIMIT_S = 60.0


async def over_sockets(spec: EmulationSpec, watch: Any = None) -> dict[str, Any]:
    async with asyncio.timeout(LIMIT_S):
        emulation = RealTimeEmulation(spec, real_time=RealTime(dilation=DILATION))
        if watch is not None:
            watch(emulation)
        return await emulation.run_on_loop()


@pytest.mark.parametrize(("name", "recovery", "in_flight"), DOZEN)
async def test_the_same_events_over_sockets(name: str, recovery: str, in_flight: InFlightPolicy) -> None:
    spec = dataclasses.replace(churn_spec(EVENTS[name], recovery=recovery, in_flight=in_flight), duration_s=30.0)
    expected = Emulation(spec).run()
    before = len(os.listdir("/proc/self/fd"))
    found = await over_sockets(spec)
    assert found["real_time"]["error"] is None
    assert not found["interrupted"]
    assert found["event_log_sha256"] == expected["event_log_sha256"]
    assert found["requests"] == expected["requests"]
    assert found["churn"]["events"] == expected["churn"]["events"]
    assert found["real_time"]["received_bytes"] > 0
    assert len(os.listdir("/proc/self/fd")) <= before


async def test_a_crash_closes_the_machines_sockets_and_a_return_opens_them() -> None:
    spec = dataclasses.replace(churn_spec(EVENTS["crash"]), duration_s=30.0)
    seen: dict[float, tuple[bool, int]] = {}

    def watch(emulation: RealTimeEmulation) -> None:
        addresses: list[tuple[str, int]] = []

        def look(_event: object) -> None:
            exchange = emulation.exchange
            ways = sum(1 for pair in exchange.open_ways() if "a" in pair)
            if not addresses:
                addresses.append(exchange.addresses["a"])
            seen[emulation.env.now] = listens(addresses[0]), ways

        for at_s in (9.0, 11.0, 29.0):
            emulation.env.call_at(at_s, look)

    await over_sockets(spec, watch)
    assert seen[9.0][0] is True
    assert seen[9.0][1] > 0
    assert seen[11.0] == (False, 0)
    assert seen[29.0][1] > 0


def listens(address: tuple[str, int]) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(address) == 0


async def test_a_partition_stops_bytes() -> None:
    # Without rerouting the far side goes on being sent to, for want of anybody else.
    spec = dataclasses.replace(churn_spec(EVENTS["partition"], recovery="reroute"), duration_s=30.0)
    received: dict[float, int] = {}

    def watch(emulation: RealTimeEmulation) -> None:
        def look(_event: object) -> None:
            received[emulation.env.now] = sum(
                count
                for (source, target), count in emulation.exchange.received_by_way().items()
                if (source in "bdt") != (target in "bdt")
            )

        # The events before the partition are all done; those in flight have arrived within 10 ms.
        for at_s in (5.0, 9.0, 10.2, 21.9, 29.0):
            emulation.env.call_at(at_s, look)

    await over_sockets(spec, watch)
    assert received[9.0] > received[5.0]
    assert received[21.9] == received[10.2]
    assert received[29.0] > received[21.9]
