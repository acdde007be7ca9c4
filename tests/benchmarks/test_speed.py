"""How fast the emulator is. Prints figures, asserts none that depend on the machine.

Run with ``python -m pytest tests/benchmarks/test_speed.py -m benchmark -s``.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from artifact import ARTIFACT, needs_artifact

from scenarios.helix_import import import_helix_artifact

pytestmark = pytest.mark.benchmark

MEASURED_RUN = """
import json, resource, sys
from scenarios.loader import load_scenario
from emulator.emulation import Emulation
loaded = load_scenario(sys.argv[1], sets=sys.argv[2:])
emulation = Emulation(loaded.spec)
summary = emulation.run()
window = summary["window_s"]
hops = sum(node["batches"] * node["mean_batch"] for node in summary["nodes"].values())
print(json.dumps({
    "sim_s": summary["sim_s"], "cpu_s": summary["cpu_s"], "decode": summary["decode_throughput_tokens_per_s"],
    "in_flight": summary["requests"]["in_flight"], "window_s": window, "hops": hops,
    "batches": sum(node["batches"] for node in summary["nodes"].values()),
    "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
}))
"""


def measured(scenario: str | Path, *sets: str) -> dict[str, float]:
    """Figures of one run in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED_RUN, str(scenario), *sets], capture_output=True, text=True, check=True
    )
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


@needs_artifact
def test_24_nodes_offline_max_flow(tmp_path: Path) -> None:
    layout = ARTIFACT / "single_cluster/layout_llama70b/ilp"
    imported = import_helix_artifact(
        model="llama-2-70b",
        cluster=ARTIFACT / "single_cluster/config/cluster24.ini",
        machines=ARTIFACT / "single_cluster/config/machine_profiles.ini",
        placement=layout / "ilp_sol.ini",
        links=layout / "simulator_cluster.ini",
        profiles=ARTIFACT / "profiles",
        scheduler="max-flow",
        offline=20,
        trace=ARTIFACT / "traces/offline_seed0.csv",
        out=tmp_path / "run",
    )
    best = min((measured(imported.scenario) for _ in range(3)), key=lambda figures: figures["cpu_s"])
    print(
        f"\n24 nodes, LLaMA-2-70B, offline, max-flow: {best['sim_s']:.0f} s emulated in {best['cpu_s']:.2f} CPU s: "
        f"{best['sim_s'] / best['cpu_s']:.0f} emulated s per CPU s, {best['decode']:.2f} decode tokens/s, "
        f"peak memory {best['peak_mb']:.0f} MB, best of 3"
    )
    assert best["decode"] == pytest.approx(252.1, rel=0.01)


def swarm_like(folder: Path, nodes: int) -> Path:
    """A cluster of A100s in 5 stages of 16 layers, as wide as ``nodes`` allows, ten requests in flight a node."""
    scenario = {
        "schema_version": 1,
        "name": f"wide-{nodes}",
        "duration": "60 s",
        "warm_up": "10 s",
        "model": "llama-2-70b",
        "cluster": {
            "name": f"wide-{nodes}",
            "coordinator": {"nic": "100 Gbit/s"},
            "nodes": [{"name": "gpu", "machine": "A100", "count": nodes}],
            "network": {"regions": [{"from": "*", "to": "*", "bandwidth": "10 Gbit/s", "latency": "1 ms"}]},
        },
        "placement": {"planner": "swarm", "options": {"stages": 8}},
        "scheduler": {"policy": "round-robin"},
        "workload": {
            "kind": "closed",
            "refill": "constant",
            "initial_requests": 10 * nodes,
            "spacing": "1 ms",
            "lengths": {"library": "azure-conversation"},
        },
    }
    path = folder / f"wide-{nodes}.yaml"
    path.write_text(json.dumps(scenario), encoding="utf-8")
    return path


@pytest.mark.parametrize("policy", ["round-robin", "max-flow"])
def test_cost_of_a_hop_from_25_to_200_nodes(tmp_path: Path, policy: str) -> None:
    print(f"\n{policy}: nodes, requests in flight, request-hops, batches, CPU s, us per hop, us per batch, peak MB")
    for nodes in (25, 50, 100, 200):
        figures = measured(swarm_like(tmp_path, nodes), f"scheduler.policy={policy}")
        # Hops are counted in the window only; CPU time covers the whole run.
        share = figures["window_s"] / figures["sim_s"]
        print(
            f"{nodes:5d} {figures['in_flight']:6.0f} {figures['hops']:10.0f} {figures['batches']:8.0f} "
            f"{figures['cpu_s']:7.2f} {1e6 * figures['cpu_s'] * share / figures['hops']:6.2f} "
            f"{1e6 * figures['cpu_s'] * share / figures['batches']:6.1f} {figures['peak_mb']:6.0f}"
        )
        assert figures["in_flight"] == 10 * nodes
