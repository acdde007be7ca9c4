"""Runs whose nodes live in processes of their own."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from random_runs import random_spec
from small_runs import constant, placed, toy_cluster, toy_spec

from emulator.emulation import Emulation
from emulator.errors import SimulationError
from emulator.realtime import distributed
from emulator.realtime.distributed import DistributedEmulation, node_groups
from emulator.realtime.emulation import RealTime
from emulator.realtime.network import TimeMode
from emulator.requests import Request
from emulator.spec import EmulationSpec, LogLevel, SchedulerSpec, WhenFull
from emulator.warm_start import WarmStart
from emulator.workload import ClosedLoop, FixedLengths, Refill


def chain_spec(**changes: Any) -> EmulationSpec:
    """Four nodes in a row, and links so slow that a message is never late on a machine that breathes."""
    fields: dict[str, Any] = {
        "cluster": toy_cluster(("n0", "n1", "n2", "n3"), bandwidth=1e7, latency=0.05),
        "placement": placed(n0=(0, 1), n1=(1, 2), n2=(2, 3), n3=(3, 4)),
        "workload": constant(8),
        "duration_s": 2.0,
        "drain": True,
        **changes,
    }
    return toy_spec(**fields)


def children() -> list[int]:
    """Processes that this one has started and that still are."""
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    files, before = len(os.listdir("/proc/self/fd")), children()
    yield
    assert children() == before, "no process is left"
    assert len(os.listdir("/proc/self/fd")) <= files, "no descriptor is left"


def run(spec: EmulationSpec, **settings: Any) -> tuple[dict[str, Any], list[Request]]:
    ended: list[Request] = []

    async def main() -> dict[str, Any]:
        real_time = RealTime(**{"workers": 2, **settings})
        return await DistributedEmulation(spec, real_time=real_time, on_ended=ended.append).run_on_loop()

    return asyncio.run(main()), ended


def check_books(summary: dict[str, Any], ended: list[Request]) -> None:
    counts = summary["requests"]
    assert counts["submitted"] == counts["finished"] + counts["rejected"] + counts["failed"] + counts["in_flight"]
    assert counts["submitted"] == len(ended)
    for request in ended:
        if request.outcome == "finished":
            assert request.emitted_tokens == request.output_tokens


def test_processes_serve_what_one_serves() -> None:
    spec = chain_spec()
    expected = Emulation(spec).run()
    found, ended = run(spec)
    check_books(found, ended)
    assert found["interrupted"] is False
    assert found["requests"]["in_flight"] == 0
    figures = found["real_time"]
    assert figures["workers"] == 2
    assert figures["error"] is None
    if figures["causality_violations"] == 0:
        # Every message was there before its receiver passed its time, so nothing can differ.
        for key in ("requests", "decode_latency_s", "ttft_s", "links"):
            assert found[key] == expected[key]
        for key in ("utilisation", "batches", "mean_batch"):
            assert [node[key] for node in found["nodes"].values()] == [node[key] for node in expected["nodes"].values()]
    else:
        assert figures["late_frames"] > 0
    assert figures["received_bytes"] > sum(link["bytes"] for link in found["links"].values()) > 0


def test_processes_in_observed_time() -> None:
    spec = chain_spec()
    expected = Emulation(spec).run()
    found, ended = run(spec, mode=TimeMode.OBSERVED)
    check_books(found, ended)
    assert found["requests"]["in_flight"] == 0
    # A message never counts before its planned time, and a decode iteration here takes five of 50 ms each.
    assert found["decode_latency_s"]["min"] >= 5 * 0.05
    assert found["decode_latency_s"]["min"] >= expected["decode_latency_s"]["min"] - 0.01


@pytest.mark.parametrize("policy", ["max-flow", "random"])
def test_policies_that_choose_hop_by_hop(policy: str) -> None:
    spec = random_spec(3, policy, drain=True, duration_s=2.0)
    found, ended = run(spec, workers=3, dilation=2.0)
    check_books(found, ended)
    assert found["requests"]["finished"] == found["requests"]["submitted"] > 10
    for request in ended:
        assert request.pipeline is not None
        assert request.pipeline.stages[-1].layers.stop == spec.model.layers


@pytest.mark.parametrize("when_full", list(WhenFull))
@pytest.mark.parametrize("seed", [6])
def test_full_caches_are_told_to_the_coordinator(when_full: WhenFull, seed: int) -> None:
    spec = random_spec(
        seed,
        "round-robin",
        in_flight=8,
        kv_tokens=(150, 300),
        when_full=when_full,
        duration_s=2.0,
        drain=True,
    )
    found, ended = run(spec, dilation=2.0)
    check_books(found, ended)
    assert found["requests"]["in_flight"] == 0
    counts = found["requests"]
    if when_full is WhenFull.PREEMPT:
        assert found["preemptions"] > 0
    if when_full is WhenFull.REJECT:
        assert counts["rejected"] + counts["failed"] > 0
    assert all(0 <= node["kv_peak"] <= 1 for node in found["nodes"].values())


def test_the_event_log_has_what_nodes_write() -> None:
    lines: list[bytes] = []

    async def main() -> dict[str, Any]:
        spec = chain_spec(duration_s=1.0, drain=False, log_level=LogLevel.HOPS)
        return await DistributedEmulation(
            spec, real_time=RealTime(workers=2), log_sink=lambda chunk: lines.append(chunk)
        ).run_on_loop()

    summary = asyncio.run(main())
    text = b"".join(lines).decode()
    assert summary["event_log_lines"] == text.count("\n")
    for node in ("n0", "n1", "n2", "n3"):
        assert f'"event":"batch","node":"{node}"' in text
    assert '"event":"transfer","link":"n1->n2"' in text
    assert '"event":"transfer","link":"coordinator->n0"' in text


def test_a_worker_that_is_killed_ends_the_run_with_what_there_is() -> None:
    async def main() -> dict[str, Any]:
        emulation = DistributedEmulation(chain_spec(duration_s=60.0), real_time=RealTime(workers=2))
        task = asyncio.ensure_future(emulation.run_on_loop())
        async with asyncio.timeout(60):
            while emulation.env.now < 0.7:
                await asyncio.sleep(0.05)
            victim = next(worker for worker in emulation._workers if "n2" in worker.nodes)
            victim.process.send_signal(signal.SIGKILL)
            return await task

    found = asyncio.run(main())
    assert found["interrupted"] is True
    assert found["real_time"]["error"] == "worker 2 (n2, n3) was killed by signal 9"
    assert 0.5 < found["sim_s"] < 55
    assert found["requests"]["submitted"] == found["requests"]["in_flight"] + found["requests"]["finished"] > 0
    assert found["nodes"]["n0"]["batches"] > 0, "the other worker's figures are there"


def test_a_worker_that_fails_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # A policy that the parent can import and the worker cannot.
    monkeypatch.syspath_prepend(str(tmp_path))
    module = tmp_path / "gone_policy.py"
    module.write_text(
        "from emulator.schedulers.round_robin import RoundRobinPolicy\n"
        "class Mine(RoundRobinPolicy):\n"
        "    name = 'mine'\n"
    )
    spec = chain_spec(scheduler=SchedulerSpec(policy="gone_policy:Mine"))
    Emulation(spec).run()
    module.unlink()
    with pytest.raises(SimulationError, match=r"worker \d \(n\d, n\d\) ended with code 1: .*gone_policy"):
        run(spec)


def test_strangers_on_the_control_socket_are_turned_away() -> None:
    async def main() -> dict[str, Any]:
        emulation = DistributedEmulation(chain_spec(duration_s=1.0, drain=False), real_time=RealTime(workers=2))
        task = asyncio.ensure_future(emulation.run_on_loop())
        async with asyncio.timeout(60):
            while emulation._control is None:
                await asyncio.sleep(0.01)
            address = emulation._control.sockets[0].getsockname()
            writers = []
            for said in (b"GET / HTTP/1.1\r\n\r\n", b'{"kind": "hello", "index": 1, "token": "0"}\n', b"[1]\n", b""):
                _, writer = await asyncio.open_connection(*address)
                writer.write(said)
                if not said:
                    writer.close()
                writers.append(writer)
            found = await task
            for writer in writers:
                writer.close()
            return found

    found = asyncio.run(main())
    assert found["interrupted"] is False
    assert found["real_time"]["strangers_turned_away"] == 4


def test_a_worker_that_stands_still_does_not_hang_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "END_LIMIT_S", 1.0)

    async def main() -> dict[str, Any]:
        emulation = DistributedEmulation(chain_spec(duration_s=2.0, drain=False), real_time=RealTime(workers=2))
        task = asyncio.ensure_future(emulation.run_on_loop())
        async with asyncio.timeout(60):
            while emulation.env.now < 0.5:
                await asyncio.sleep(0.05)
            emulation._workers[1].process.send_signal(signal.SIGSTOP)
            return await task

    found = asyncio.run(main())
    assert found["interrupted"] is True
    assert found["real_time"]["error"] == "worker 2 (n2, n3) gave no figures within 1 s"


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import asyncio, sys\n"
        "from scenarios.loader import load_scenario\n"
        "from emulator.realtime.distributed import DistributedEmulation\n"
        "from emulator.realtime.emulation import RealTime\n"
        "async def main():\n"
        "    run = DistributedEmulation(load_scenario('quickstart').spec, real_time=RealTime(workers=2))\n"
        "    task = asyncio.ensure_future(run.run_on_loop())\n"
        "    while run.env.now < 0.5:\n"
        "        await asyncio.sleep(0.05)\n"
        "    print('running', *(worker.process.pid for worker in run._workers), flush=True)\n"
        "    await task\n"
        "asyncio.run(main())\n"
    )
    root = str(Path(__file__).resolve().parents[4])
    environment = {**os.environ, "PYTHONPATH": root}
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        line = next(line for line in parent.stdout if line.startswith("running"))
        workers = [int(pid) for pid in line.split()[1:]]
        parent.kill()
    deadline = time.monotonic() + 60
    while any(runs(pid) for pid in workers):
        assert time.monotonic() < deadline, "a worker outlives its parent"
        time.sleep(0.1)


def runs(pid: int) -> bool:
    """Whether the process runs; one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_ctrl_c_stops_the_workers() -> None:
    async def main() -> dict[str, Any]:
        emulation = DistributedEmulation(chain_spec(duration_s=600.0), real_time=RealTime(workers=2))
        task = asyncio.ensure_future(emulation.run_on_loop())
        async with asyncio.timeout(60):
            while emulation.env.now < 0.5:
                await asyncio.sleep(0.05)
            os.kill(os.getpid(), signal.SIGINT)
            return await task

    found = asyncio.run(main())
    assert found["interrupted"] is True
    assert found["real_time"]["error"] is None
    assert found["nodes"]["n0"]["batches"] > 0


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"scheduler": SchedulerSpec(policy="swarm")}, "scheduler policy swarm looks at all nodes"),
        ({"scheduler": SchedulerSpec(policy="shortest-queue")}, "leave --workers out"),
        ({"warm_start": WarmStart()}, "warm start"),
        (
            {
                "scheduler": SchedulerSpec(policy="random"),
                "workload": ClosedLoop(
                    lengths=FixedLengths(prompt_tokens=10, output_tokens=5), initial_requests=2, refill=Refill.KV_ROOM
                ),
            },
            "refill kv-room",
        ),
    ],
)
def test_what_needs_one_process_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(SimulationError, match=told):
        run(chain_spec(**changes))


@pytest.mark.parametrize("workers", [-1, 65])
def test_impossible_numbers_of_workers(workers: int) -> None:
    with pytest.raises(SimulationError, match="workers"):
        RealTime(workers=workers)


def test_groups_are_even_and_hold_neighbouring_layers() -> None:
    nodes = list(Emulation(chain_spec()).state.nodes)
    assert list(node_groups(nodes, 1)) == [("n0", "n1", "n2", "n3")]
    assert list(node_groups(nodes, 2)) == [("n0", "n1"), ("n2", "n3")]
    assert list(node_groups(nodes, 3)) == [("n0",), ("n1",), ("n2", "n3")]
    assert list(node_groups(nodes, 9)) == [("n0",), ("n1",), ("n2",), ("n3",)]
