"""Runs on a loop, on a virtual-time loop, and over sockets by the wall clock."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any

import pytest
from random_runs import random_spec
from small_runs import constant, placed, toy_cluster, toy_spec

from emulator.churn.spec import ChurnSpec, NodeEvent, NodeEventKind, NodeTarget
from emulator.conditions import LinkBehaviour, NetworkConditions
from emulator.emulation import Emulation
from emulator.errors import SimulationError
from emulator.realtime.emulation import AioEmulation, RealTime, RealTimeEmulation
from emulator.realtime.network import TimeMode
from emulator.realtime.virtual_loop import VirtualTimeLoop
from emulator.requests import Request
from emulator.spec import EmulationSpec, LogLevel
from emulator.warm_start import WarmStart
from netshape.conditions import LinkConditions
from netshape.schedule import ConditionSchedule, ConditionStep

POLICIES = ("max-flow", "swarm", "random", "shortest-queue", "round-robin")


def chain_spec(**changes: Any) -> EmulationSpec:
    """Three nodes in a row and eight requests in flight."""
    fields: dict[str, Any] = {
        "cluster": toy_cluster(("n0", "n1", "n2"), bandwidth=1e7, latency=0.005),
        "placement": placed(n0=(0, 2), n1=(2, 3), n2=(3, 4)),
        "workload": constant(8),
        "duration_s": 2.0,
        "log_level": LogLevel.HOPS,
        **changes,
    }
    return toy_spec(**fields)


def at_once(spec: EmulationSpec) -> dict[str, Any]:
    async def main() -> dict[str, Any]:
        return await AioEmulation(spec).run_on_loop()

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main())


async def in_real_time(spec: EmulationSpec, **settings: Any) -> dict[str, Any]:
    files = len(os.listdir("/proc/self/fd"))
    summary = await RealTimeEmulation(spec, real_time=RealTime(**settings)).run_on_loop()
    await asyncio.sleep(0)
    assert len(os.listdir("/proc/self/fd")) == files, "no descriptor is left"
    return summary


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("seed", range(4))
def test_a_virtual_time_loop_gives_the_same_log(policy: str, seed: int) -> None:
    spec = random_spec(seed, policy, log_level=LogLevel.HOPS, drain=bool(seed % 2))
    expected = Emulation(spec).run()
    found = at_once(spec)
    for key in ("event_log_sha256", "event_log_lines", "sim_s", "requests", "decode_latency_s", "nodes", "links"):
        assert found[key] == expected[key]


@pytest.mark.parametrize("policy", POLICIES)
async def test_in_logical_time_sockets_change_nothing(policy: str) -> None:
    spec = random_spec(7, policy, log_level=LogLevel.HOPS, drain=True, warm_up_s=0.5)
    expected = Emulation(spec).run()
    found = await in_real_time(spec, dilation=4.0)
    for key in ("event_log_sha256", "event_log_lines", "sim_s", "requests", "decode_latency_s", "nodes", "links"):
        assert found[key] == expected[key]
    assert found["real_time"]["causality_violations"] == 0
    assert found["interrupted"] is False


async def test_every_hop_carries_its_real_number_of_bytes() -> None:
    spec = chain_spec(drain=True)
    summary = await in_real_time(spec, dilation=2.0)
    payload = sum(link["bytes"] for link in summary["links"].values())
    frames = sum(link["messages"] for link in summary["links"].values())
    figures = summary["real_time"]
    # All that was sent came; headers of about 60 bytes are on top.
    assert payload + 30 * frames < figures["received_bytes"] < payload + 100 * frames + 10_000
    assert figures["received_bytes"] <= figures["sent_bytes"]
    assert figures["frame_lateness_s"]["count"] == frames


async def test_observed_time_is_never_ahead_of_the_plan() -> None:
    ended: list[Request] = []
    spec = chain_spec(workload=constant(1, prompt=50, output=5), drain=True, warm_up_s=0.0)
    alone = Emulation(spec).run()
    files = len(os.listdir("/proc/self/fd"))
    emulation = RealTimeEmulation(spec, real_time=RealTime(mode=TimeMode.OBSERVED), on_ended=ended.append)
    summary = await emulation.run_on_loop()
    assert len(os.listdir("/proc/self/fd")) == files
    # With one request at a time nothing depends on order, so every latency is the planned one or more.
    assert summary["requests"]["finished"] > 1
    for key in ("min", "p50"):
        assert summary["decode_latency_s"][key] >= alone["decode_latency_s"][key] - 1e-9
        assert summary["ttft_s"][key] >= alone["ttft_s"][key] - 1e-9
    assert summary["real_time"]["frame_lateness_s"]["mean"] > 0
    assert summary["requests"]["submitted"] == len(ended)
    assert all(request.emitted_tokens == request.output_tokens for request in ended)


async def test_a_request_waits_for_bytes_that_are_late() -> None:
    """A socket that stands still for a while delays the clock, not the order."""
    spec = chain_spec(duration_s=1.0)
    expected = Emulation(spec).run()
    emulation = RealTimeEmulation(spec)
    task = asyncio.ensure_future(emulation.run_on_loop())
    await asyncio.sleep(0.4)
    inbound = emulation.exchange._inbound["n0", "n1"]
    loop = asyncio.get_running_loop()
    loop.remove_reader(inbound._socket)
    await asyncio.sleep(0.3)
    stood_at = emulation.env.now
    await asyncio.sleep(0.1)
    assert emulation.env.now == stood_at
    loop.add_reader(inbound._socket, inbound._readable)
    found = await task
    assert found["event_log_sha256"] == expected["event_log_sha256"]
    figures = found["real_time"]
    assert figures["late_frames"] > 0
    assert figures["frame_lateness_s"]["max"] > 0.2
    assert figures["event_lateness_s"]["max"] > 0.2
    assert figures["kept_up"] is False
    assert "--dilation 0.5" in figures["warning"]


async def test_a_stranger_at_a_nodes_port_changes_nothing() -> None:
    spec = chain_spec(duration_s=1.0)
    expected = Emulation(spec).run()
    emulation = RealTimeEmulation(spec)
    task = asyncio.ensure_future(emulation.run_on_loop())
    await asyncio.sleep(0.2)
    with socket.create_connection(emulation.exchange.addresses["n1"]) as stranger:
        stranger.sendall(b"\x00" * 5000)
        found = await task
    assert found["event_log_sha256"] == expected["event_log_sha256"]
    assert found["real_time"]["strangers_turned_away"] == 1
    assert found["interrupted"] is False


async def test_a_connection_that_breaks_ends_the_run_with_what_there_is() -> None:
    spec = chain_spec(duration_s=30.0)
    files = len(os.listdir("/proc/self/fd"))
    emulation = RealTimeEmulation(spec)
    task = asyncio.ensure_future(emulation.run_on_loop())
    # Connections and a few messages first, however long they take.
    while emulation.state.env.now < 0.3 and not task.done():
        await asyncio.sleep(0.02)
    emulation.exchange._outbound["n1", "n2"]._socket.shutdown(socket.SHUT_RDWR)
    found = await asyncio.wait_for(task, 20)
    assert found["interrupted"] is True
    assert "n1->n2 was lost" in found["real_time"]["error"]
    assert 0.3 <= found["sim_s"] < 30
    assert found["requests"]["submitted"] == found["requests"]["in_flight"] + found["requests"]["finished"] > 0
    assert len(os.listdir("/proc/self/fd")) == files


async def test_a_run_behind_its_clock_says_so() -> None:
    # An emulated second in a millisecond of the wall is more than any machine can do here.
    summary = await in_real_time(chain_spec(duration_s=20.0, warm_up_s=0.0), dilation=1000.0)
    figures = summary["real_time"]
    assert summary["sim_s"] == 20.0
    assert figures["kept_up"] is False
    assert "did not keep up" in figures["warning"]
    assert figures["dilation_achieved"] < 1000.0


@pytest.mark.parametrize("dilation", [0.0, 1e-4, 1e4, float("nan")])
def test_an_impossible_dilation_is_refused(dilation: float) -> None:
    with pytest.raises(SimulationError, match="dilation"):
        RealTime(dilation=dilation)


CRASH = ChurnSpec(
    events=(NodeEvent(at_s=0.8, kind=NodeEventKind.CRASH, target=NodeTarget(names=("n1",)), duration_s=0.5),)
)
SLOWER = NetworkConditions(
    regions={
        ("default", "default"): LinkBehaviour(
            conditions=LinkConditions(bandwidth_bytes_per_s=1e7, latency_s=0.005),
            schedule=ConditionSchedule(
                steps=(
                    ConditionStep(time_s=0.7, changes=(("bandwidth_bytes_per_s", 1e5), ("latency_s", 0.02))),
                    ConditionStep(time_s=1.2, changes=(("up", False),)),
                    ConditionStep(time_s=1.5, changes=(("up", True),)),
                )
            ),
        )
    }
)


async def test_a_warm_start_in_real_time() -> None:
    spec = chain_spec(duration_s=1.0, warm_start=WarmStart(spread_s=0.1))
    found = await in_real_time(spec, dilation=2.0)
    assert found["event_log_sha256"] == Emulation(spec).run()["event_log_sha256"]


async def test_a_defect_ends_the_run_and_is_told() -> None:
    emulation = RealTimeEmulation(chain_spec(duration_s=30.0))

    def broken(*_arguments: object) -> None:
        raise ZeroDivisionError("a defect")

    task = asyncio.ensure_future(emulation.run_on_loop())
    await asyncio.sleep(0.3)
    emulation.exchange.on_message = broken
    with pytest.raises(ZeroDivisionError, match="a defect"):
        await asyncio.wait_for(task, 20)


@pytest.mark.parametrize("changes", [{"churn": CRASH}, {"conditions": SLOWER}], ids=["churn", "schedule"])
async def test_what_goes_wrong_in_virtual_time_goes_wrong_in_logical_time(changes: dict[str, Any]) -> None:
    spec = chain_spec(duration_s=2.5, drain=True, **changes)
    expected = Emulation(spec).run()
    assert expected["event_log_sha256"] != Emulation(chain_spec(duration_s=2.5, drain=True)).run()["event_log_sha256"]
    found = await in_real_time(spec, dilation=4.0)
    assert found["event_log_sha256"] == expected["event_log_sha256"]
    assert found["requests"] == expected["requests"]


@pytest.mark.parametrize("changes", [{"churn": CRASH}, {"conditions": SLOWER}], ids=["churn", "schedule"])
@pytest.mark.parametrize("settings", [{"mode": TimeMode.OBSERVED}, {"workers": 2}], ids=["observed", "workers"])
async def test_changes_need_logical_time_and_one_process(changes: dict[str, Any], settings: dict[str, Any]) -> None:
    with pytest.raises(SimulationError, match=r"--mode logical|leave --workers out"):
        RealTimeEmulation(chain_spec(**changes), real_time=RealTime(**settings))


async def test_priority_is_asked_for_and_reported() -> None:
    before = os.sched_getscheduler(0)
    found = await in_real_time(chain_spec(duration_s=0.5), priority=5)
    assert os.sched_getscheduler(0) == before
    assert found["real_time"]["scheduling"].startswith(("real time, priority 5", "as other programs: "))
