"""How ``blocks`` does on clusters that nobody tuned it for: random mixes, regions and links between them.

Run with ``python -m pytest tests/benchmarks/test_planner_survey.py -m benchmark -s``.
"""

import random
import time

import pytest
from artifact import artifact_model, artifact_profiles, needs_artifact
from small_clusters import small_node

from placement.cluster import Cluster, Coordinator, Link, Network
from placement.plan import problem_for
from placement.planners import planner

KINDS = ("A100", "V100", "L4", "L4x2", "T4", "T4x2", "T4x4")
TIME_LIMIT_S = 10.0
ROOM = 1.3
"""Layers that the nodes hold at least, in models."""


def random_problem(seed):
    """16 to 60 nodes of 2 to 7 types in 1 to 4 regions, 50 Mbit/s to 5 Gbit/s apart; 70B."""
    draw = random.Random(seed)
    model, profiles = artifact_model("llama-2-70b"), artifact_profiles("llama-2-70b")
    regions = "abcd"[: draw.randint(1, 4)]
    kinds = draw.sample(KINDS, draw.randint(2, len(KINDS)))
    nodes, room, wanted = [], 0, draw.randint(16, 60)
    while len(nodes) < wanted or room < ROOM * model.layers:
        kind, region = draw.choice(kinds), draw.choice(regions)
        nodes.append(small_node(f"{kind}-{region}-{len(nodes)}".lower(), kind, region=region, nic=1e10))
        room += min(profiles[kind].max_layers, model.layers)
    links = {}
    for a in regions:
        for b in regions:
            across = Link(draw.choice([50, 100, 200, 500, 1000, 5000]) * 1.25e5, draw.choice([0.01, 0.03, 0.08]))
            links[a, b] = links.get((b, a), across) if a != b else Link(1.25e9, 0.0005)
    front = Coordinator(region=draw.choice(regions), nic_in_bytes_per_s=1e10, nic_out_bytes_per_s=1e10)
    cluster = Cluster(name=f"random-{seed}", nodes=tuple(nodes), coordinator=front, network=Network(regions=links))
    return problem_for(cluster, model, profiles)


@pytest.mark.benchmark
@needs_artifact
def test_survey():
    gaps = []
    print(f"\nseed nodes types regions {'flow':>10} {'bound':>10} {'gap':>7} {'best after':>10} {'seconds':>8} depth")
    for seed in range(24):
        problem = random_problem(seed)
        nodes = problem.cluster.nodes
        started_s = time.perf_counter()
        plan = planner("blocks", time_limit_s=TIME_LIMIT_S).plan(problem)
        seconds = time.perf_counter() - started_s
        best_s = next(
            p.seconds for p in plan.trace if p.incumbent_tokens_per_s == plan.trace[-1].incumbent_tokens_per_s
        )
        print(
            f"{seed:4} {len(nodes):5} {len(problem.cluster.machine_counts()):5} "
            f"{len({node.region for node in nodes}):7} {plan.flow.tokens_per_s:10.2f} {plan.bound_tokens_per_s:10.2f} "
            f"{plan.gap:7.2%} {best_s:10.2f} {seconds:8.2f} {plan.depth:5}",
            flush=True,
        )
        gaps.append(plan.gap)
        assert 0 < plan.flow.tokens_per_s <= plan.bound_tokens_per_s * (1 + 1e-9)
    gaps.sort()
    print(f"gap: median {gaps[len(gaps) // 2]:.2%}, greatest {gaps[-1]:.2%}")
