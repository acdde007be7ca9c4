"""Random (cluster, placement) pairs of the library's kinds, with a workload each, for the ranking model."""

from __future__ import annotations

import dataclasses
import random
import statistics
from collections.abc import Mapping, Sequence
from functools import cache

from emulator.spec import EmulationSpec
from placement.cluster import Cluster, Coordinator, Link, Network, Node
from placement.errors import PlanError
from placement.layers import LayerRange, Placement, check_placement
from placement.plan import Plan, Problem, problem_for
from placement.planners import planner
from scenarios.loader import load_scenario

KINDS = ("one region", "regions", "seven types", "small")
SEVEN = ("A100", "V100", "L4", "L4x2", "T4", "T4x2", "T4x4")
TRIES = 50


@cache
def library(name: str) -> EmulationSpec:
    return load_scenario(name).spec


@cache
def templates() -> Mapping[str, Node]:
    return {node.machine_type: node for node in library("helix-42-70b").cluster.nodes}


def counts_of(rng: random.Random, kind: str) -> dict[str, int]:
    """Machine type -> number of nodes."""
    if kind == "small":
        return {"L4": rng.randint(2, 6), "T4": rng.randint(3, 8)} | ({"V100": 2} if rng.random() < 0.3 else {})
    if kind == "seven types":
        return {name: rng.randint(2, 8) for name in SEVEN}
    return {"A100": rng.randint(2, 6), "L4": rng.randint(4, 10), "T4": rng.randint(6, 14)}


def random_cluster(rng: random.Random, kind: str) -> Cluster:
    """One region with fast links, or two or three with slow ones between them."""
    regions = "abc"[: rng.randint(2, 3)] if kind == "regions" else "a"
    nodes: list[Node] = []
    for machine, count in counts_of(rng, kind).items():
        home = rng.choice(regions)
        for index in range(count):
            region = rng.choice(regions) if rng.random() < 0.4 else home
            nodes.append(dataclasses.replace(templates()[machine], name=f"{machine.lower()}-{index}", region=region))
    inside = Link(rng.choice((1e9, 1.25e8)), rng.choice((0.0005, 0.001)))
    far = Link(rng.choice((6.25e6, 12.5e6, 25e6, 62.5e6)), rng.uniform(0.01, 0.06))
    links = {(a, b): inside if a == b else far for a in regions for b in regions}
    front = Coordinator(region="a", nic_in_bytes_per_s=1e10, nic_out_bytes_per_s=1e10)
    return Cluster(name=kind, nodes=tuple(nodes), coordinator=front, network=Network(regions=links))


ANY = ("petals", "petals", "swarm", "uniform", "blocks", "blocks", "shallow", "shallow", "cover")
BY_RULE = ("petals", "swarm", "uniform")
"""Planners without a time limit, whose plans depend on the seed alone."""


def random_plan(rng: random.Random, problem: Problem, planners: Sequence[str]) -> Plan:
    """A plan of some planner; shallow is ``blocks`` with a cap on the depth."""
    choice = rng.choice(planners)
    if choice == "shallow":
        deep = planner("blocks", time_limit_s=2.0).plan(problem)
        return planner("blocks", time_limit_s=2.0, max_depth=rng.randint(deep.depth // 2, deep.depth)).plan(problem)
    return planner(choice, **({"time_limit_s": 3.0} if choice in ("blocks", "cover") else {})).plan(problem)


def shaken(rng: random.Random, problem: Problem, placement: Placement) -> Placement:
    """The placement with a few ranges cut or moved by a layer or two, as long as it can serve the model."""
    held = dict(placement.ranges)
    for _ in range(rng.randint(1, 6)):
        name = rng.choice(list(held))
        start, stop = held[name].start + rng.randint(0, 2), held[name].stop - rng.randint(0, 2)
        if start >= stop:
            continue
        changed = Placement({**held, name: LayerRange(start, stop)})
        try:
            check_placement(changed, problem.cluster, problem.model, problem.profiles)
        except PlanError:
            continue
        held = dict(changed.ranges)
    return Placement(held)


def random_pair(seed: int, kind: str | None = None, planners: Sequence[str] = ANY) -> EmulationSpec:
    """A cluster of ``kind`` (or any), a placement on it, and the library's closed loop that fills the KV caches."""
    rng = random.Random(seed)
    kind = kind or rng.choice(KINDS)
    base = library("helix-10-30b" if kind == "small" else "helix-24-70b-offline")
    for _ in range(TRIES):
        cluster = random_cluster(rng, kind)
        problem = problem_for(cluster, base.model, base.profiles, rng.randint(0, 10**6))
        try:
            plan = random_plan(rng, problem, planners)
        except PlanError:
            continue
        placement = plan.placement
        if plan.links is not None:
            cluster = cluster.reduced_to(plan.links)
        elif rng.random() < 0.3:
            placement = shaken(rng, problem, placement)
        return dataclasses.replace(
            base, name=f"{kind} {seed} {plan.planner}", seed=seed, cluster=cluster, placement=placement
        )
    raise AssertionError(f"seed {seed}: no plan in {TRIES} clusters")


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's rank correlation of two lists without ties."""

    def ranks(values: Sequence[float]) -> list[float]:
        order = sorted(range(len(values)), key=values.__getitem__)
        placed = [0.0] * len(values)
        for rank, index in enumerate(order):
            placed[index] = float(rank)
        return placed

    return statistics.correlation(ranks(first), ranks(second))
