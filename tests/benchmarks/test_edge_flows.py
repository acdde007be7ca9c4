"""What the choice among maximum flows is worth: decode throughput with any of them and with the balanced one.

Run with ``python -m pytest tests/benchmarks/test_edge_flows.py -m benchmark -s``.
"""

from __future__ import annotations

import pytest

from emulator.emulation import Emulation
from scenarios.loader import load_scenario

pytestmark = pytest.mark.benchmark

CASES = [
    (scenario, planner)
    for scenario in ("helix-24-70b-offline", "helix-24-geo-70b", "helix-42-70b")
    for planner in ("petals", "swarm")
]


def served(scenario: str, planner: str, edge_flows: str) -> tuple[float, float]:
    """Max flow and decode throughput, both in tokens/s."""
    sets = [f"placement={{planner: {planner}}}", f"scheduler.edge_flows={edge_flows}"]
    loaded = load_scenario(scenario, sets=[*sets, "duration=360 s", "warm_up=60 s"])
    summary = Emulation(loaded.spec).run()
    return summary["max_flow_tokens_per_s"], summary["decode_throughput_tokens_per_s"]


def test_balanced_against_any() -> None:
    print("\nscenario, placement: max flow; decode tokens/s with any and with the balanced flow")
    for scenario, planner in CASES:
        flow, anyhow = served(scenario, planner, "any")
        same, balanced = served(scenario, planner, "balanced")
        print(f"{scenario:24s} {planner:8s} {flow:8.1f} {anyhow:8.2f} {balanced:8.2f} {balanced / anyhow - 1:+8.1%}")
        assert same == pytest.approx(flow)
