"""Prints what the planners reach: ``python -m pytest tests/benchmarks/test_planner_table.py -m benchmark -s``."""

import time

import pytest
from artifact import artifact_model, artifact_profiles, needs_artifact
from small_clusters import small_node

from placement.cluster import Cluster, Coordinator, Link, Network
from placement.plan import problem_for
from placement.planners import planner

SEVEN = {"A100": 4, "V100": 6, "L4": 8, "L4x2": 4, "T4": 10, "T4x2": 6, "T4x4": 4}
CLUSTERS = {
    "24 nodes, one region": ("llama-2-70b", {"a": {"A100": 4, "L4": 8, "T4": 12}}),
    "24 nodes, 3 regions": ("llama-2-70b", {"a": {"A100": 4}, "b": {"L4": 2, "T4": 8}, "c": {"L4": 6, "T4": 4}}),
    "42 nodes, 7 types": ("llama-2-70b", {"a": SEVEN}),
    "10 nodes, 30B": ("llama-1-30b", {"a": {"T4": 6, "L4": 4}}),
    "101 nodes, 7 types": ("llama-2-70b", {"a": {kind: round(2.4 * count) for kind, count in SEVEN.items()}}),
    "303 nodes, 7 types": ("llama-2-70b", {"a": {kind: round(7.2 * count) for kind, count in SEVEN.items()}}),
    "1,008 nodes, 7 types": ("llama-2-70b", {"a": {kind: 24 * count for kind, count in SEVEN.items()}}),
}
HEURISTICS = ("petals", "swarm")


def make_problem(model, counts):
    """Profiles of the artifact; 1e10 bytes/s cards, 1e9 bytes/s in a region and 100 Mbit/s between regions."""
    nodes = tuple(
        small_node(f"{kind}-{region}-{index}".lower(), kind, region=region, nic=1e10)
        for region, kinds in counts.items()
        for kind, count in kinds.items()
        for index in range(count)
    )
    links = {(a, b): Link(1e9, 0.001) if a == b else Link(12.5e6, 0.05) for a in counts for b in counts}
    front = Coordinator(region="a", nic_in_bytes_per_s=1e10, nic_out_bytes_per_s=1e10)
    cluster = Cluster(name="table", nodes=nodes, coordinator=front, network=Network(regions=links))
    return problem_for(cluster, artifact_model(model), artifact_profiles(model))


@pytest.mark.benchmark
@needs_artifact
@pytest.mark.parametrize("cluster", CLUSTERS)
def test_planner_table(cluster):
    problem = make_problem(*CLUSTERS[cluster])
    print(f"\n{cluster}\n{'planner':8} {'status':10} {'seconds':>8} {'flow':>11} {'bound':>11} {'gap':>7} {'depth':>5}")
    for name in ("blocks", "cover", *HEURISTICS):
        options = {} if name in HEURISTICS else {"time_limit_s": 30.0}
        started_s = time.perf_counter()
        plan = planner(name, **options).plan(problem)
        print(
            f"{name:8} {plan.status.value:10} {time.perf_counter() - started_s:8.2f} {plan.flow.tokens_per_s:11.2f} "
            f"{plan.bound_tokens_per_s:11.2f} {plan.gap:7.2%} {plan.depth:5}"
        )
        if plan.trace:
            best_s = next(
                p.seconds for p in plan.trace if p.incumbent_tokens_per_s == plan.trace[-1].incumbent_tokens_per_s
            )
            print(f"{'':8} best plan after {best_s:.2f} s")
        assert 0 < plan.flow.tokens_per_s <= plan.bound_tokens_per_s * (1 + 1e-9)
