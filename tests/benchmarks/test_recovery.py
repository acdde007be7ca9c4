"""Recovery policies side by side: goodput during and after a loss, recovery time, tokens lost; cost of re-solving.

Run with ``python -m pytest tests/benchmarks/test_recovery.py -m benchmark -s``.
"""

from __future__ import annotations

import dataclasses
import json
import time
from typing import Any

import pytest

from emulator.churn.recovery import RECOVERY_NAMES
from emulator.churn.spec import (
    ChurnEvent,
    ChurnSpec,
    InFlight,
    NodeEvent,
    NodeEventKind,
    NodeTarget,
    RecoverySpec,
    RegionOutageEvent,
    WeightSource,
)
from emulator.emulation import Emulation
from emulator.spec import EmulationSpec
from scenarios.loader import load_scenario

pytestmark = pytest.mark.benchmark

LOSS_S = 600.0
DURATION_S = 1500.0
LENGTHS = "lengths: {library: azure-conversation}"
TWICE = {
    **{f"a100-{index}": [11 * index, 11 * index + 11] for index in range(4)},
    **{f"l4-c-{index}": [44 + 6 * index, 50 + 6 * index] for index in range(6)},
    **{f"t4-b-{index}": [44 + 4 * index, 48 + 4 * index] for index in range(8)},
    "l4-b-0": [76, 80],
}
"""Layers 44 to 80 are held in region b and in region c; four T4 and one L4 hold nothing."""
CASES: dict[str, tuple[str, tuple[str, ...], ChurnEvent]] = {
    "24 nodes, blocks, lose one A100": (
        "helix-24-70b-online",
        ("placement={planner: blocks, options: {max_depth: 12}}",),
        NodeEvent(at_s=LOSS_S, kind=NodeEventKind.CRASH, target=NodeTarget(names=("a100-0",))),
    ),
    "24 nodes, swarm, lose one A100": (
        "helix-24-70b-online",
        ("placement={planner: swarm}", f"workload.synthetic={{requests_per_s: 0.25, {LENGTHS}}}"),
        NodeEvent(at_s=LOSS_S, kind=NodeEventKind.CRASH, target=NodeTarget(names=("a100-0",))),
    ),
    "3 regions, half held twice, lose region b": (
        "helix-24-geo-70b",
        (
            f"placement={{ranges: {json.dumps(TWICE)}}}",
            f"workload={{kind: open, synthetic: {{requests_per_s: 0.08, {LENGTHS}}}}}",
        ),
        RegionOutageEvent(at_s=LOSS_S, region="b"),
    ),
}


def spec_of(scenario: str, sets: tuple[str, ...]) -> EmulationSpec:
    times = (f"duration={DURATION_S:g} s", "warm_up=60 s", "slo={ttft: 30 s, tpot: 2 s}", "drain=false")
    return load_scenario(scenario, sets=[*sets, *times]).spec


def rate(timeline: list[dict[str, Any]], begin_s: float, end_s: float) -> float:
    """Mean throughput between two times, in tokens/s."""
    found = [entry["throughput_tokens_per_s"] for entry in timeline if begin_s < entry["t_s"] <= end_s]
    return sum(found) / len(found)


@pytest.mark.parametrize("case", CASES)
def test_recovery_policies(case: str) -> None:
    scenario, sets, event = CASES[case]
    spec = spec_of(scenario, sets)
    print(f"\n{case}: {spec.name}, {len(spec.placement)} nodes hold layers; loss at {LOSS_S:g} s of {DURATION_S:g} s")
    print(
        "policy     tokens/s before, first 2 min, next 2 min, last 5 min | goodput req/s | recovery s | recomputed | "
        "retried failed rejected waiting | layers moved | max flow after"
    )
    for name in RECOVERY_NAMES:
        churn = ChurnSpec(
            events=(event,),
            in_flight=InFlight(max_retries=10),
            recovery=RecoverySpec(policy=name, weights=WeightSource.FASTEST),
        )
        summary = Emulation(dataclasses.replace(spec, churn=churn)).run()
        report = summary["churn"]
        line = report["timeline"]
        one = report["events"][0]
        counts = summary["requests"]
        recovery = "never" if one["recovery_s"] is None else f"{one['recovery_s']:.0f}"
        print(
            f"{name:10s} {rate(line, LOSS_S - 300, LOSS_S):8.1f} {rate(line, LOSS_S, LOSS_S + 120):8.1f} "
            f"{rate(line, LOSS_S + 120, LOSS_S + 240):8.1f} {rate(line, DURATION_S - 300, DURATION_S):8.1f} | "
            f"{summary['goodput_requests_per_s']:6.3f} | {recovery:>6s} | {report['tokens_recomputed']:7d} | "
            f"{report['requests_retried']:4d} {counts['failed']:4d} {counts['rejected']:4d} {counts['waiting']:4d} | "
            f"{report['layers_moved']:3d} | {line[-1]['max_flow_tokens_per_s']:8.1f}"
        )
        assert counts["submitted"] == sum(counts[key] for key in ("finished", "rejected", "failed", "in_flight"))


@pytest.mark.parametrize(("nodes", "repeats"), [(24, 20), (200, 5)])
def test_cost_of_routing_anew(nodes: int, repeats: int) -> None:
    sets = [
        f"cluster.nodes=[{{name: gpu, machine: A100, count: {nodes}}}]",
        "placement={planner: swarm, options: {stages: 8}}",
    ]
    spec = dataclasses.replace(load_scenario("helix-24-70b-offline", sets=sets).spec, churn=ChurnSpec())
    state = Emulation(spec).state
    serving = list(state.nodes)
    spent = []
    for turn in range(repeats):
        left = [node for index, node in enumerate(serving) if index != turn % len(serving)]
        begin = time.process_time()
        state.rewire(left, slowdown={}, bandwidth={})
        spent.append(time.process_time() - begin)
    print(
        f"\n{nodes} nodes, {len(state.links)} links: routing anew (pairs, max flow, balance, links, policy) "
        f"{1e3 * sorted(spent)[len(spent) // 2]:.1f} CPU ms, median of {repeats}"
    )
    assert state.can_serve
