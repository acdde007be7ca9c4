"""Many nodes as several equal clusters: each distinct mix of machines is planned once (PLANNER.md, Results)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from placement.cluster import Cluster, Node
from placement.layers import LayerRange
from placement.plan import Plan, Problem


def deal(problem: Problem, names: Sequence[str], replica_nodes: int) -> list[list[Node]]:
    """Share nodes out to replicas of about ``replica_nodes`` nodes, each machine type of a region evenly.

    A region whose nodes cannot hold the model twice over shares its replicas with the next ones, so that replicas keep
    to the fast links within a region where that is possible.

    Args:
        problem: Gives nodes and memory.
        names: Nodes that take part.
        replica_nodes: Size to aim at.

    Returns:
        Nodes of each replica, in file order; one replica where no more can hold the model.
    """
    groups: list[list[Node]] = [[]]
    regions: dict[str, list[Node]] = {}
    for name in names:
        node = problem.cluster.node(name)
        regions.setdefault(node.region, []).append(node)
    for members in regions.values():
        groups[-1] += members
        if _room(problem, groups[-1]) >= 2 * problem.model.layers:
            groups.append([])
    if not groups[-1]:
        groups.pop()
    elif len(groups) > 1:
        last = groups.pop()
        groups[-1] += last
    return [replica for group in groups for replica in _deal_evenly(problem, group, replica_nodes)]


def _room(problem: Problem, nodes: Sequence[Node]) -> int:
    return sum(problem.most_layers(node) for node in nodes)


def _deal_evenly(problem: Problem, nodes: Sequence[Node], replica_nodes: int) -> list[list[Node]]:
    for count in range(max(1, round(len(nodes) / replica_nodes)), 0, -1):
        replicas: list[list[Node]] = [[] for _ in range(count)]
        kinds: dict[tuple[object, ...], list[Node]] = {}
        for node in nodes:
            kinds.setdefault(_kind(problem, node), []).append(node)
        place = 0
        for members in kinds.values():
            for node in members:
                replicas[place % count].append(node)
                place += 1
        if all(_room(problem, replica) >= problem.model.layers for replica in replicas):
            break
    order = {node.name: index for index, node in enumerate(problem.cluster.nodes)}
    return [sorted(replica, key=lambda node: order[node.name]) for replica in replicas]


def _kind(problem: Problem, node: Node) -> tuple[object, ...]:
    cards = (node.nic_in_bytes_per_s, node.nic_out_bytes_per_s)
    return (node.machine_type, problem.most_layers(node), node.region, *cards)


def plan_replicas(
    problem: Problem, replicas: Sequence[Sequence[Node]], plan_one: Callable[[Problem, float], Plan]
) -> tuple[dict[str, LayerRange], list[tuple[str, str]]]:
    """Plan each distinct mix once and give its ranges to all replicas of that mix.

    Args:
        problem: The whole problem; every replica keeps its throughput model.
        replicas: Nodes of each, as :func:`deal` makes them.
        plan_one: Plans the sub-problem that it gets, within the share of the time that it gets (0 to 1).

    Returns:
        Ranges of all nodes, and the links that carry the plans' flows; none lead from one replica to another.

    Raises:
        PlanError: A replica cannot be planned.
    """
    mixes: dict[tuple[object, ...], list[list[Node]]] = {}
    for replica in replicas:
        # Nodes of one kind are interchangeable, so replicas are alike when they are in the same order of kinds.
        ordered = sorted(replica, key=lambda node: tuple(map(str, _kind(problem, node))))
        mixes.setdefault(tuple(_kind(problem, node) for node in ordered), []).append(ordered)
    ranges: dict[str, LayerRange] = {}
    links: list[tuple[str, str]] = []
    for alike in mixes.values():
        pattern = alike[0]
        part = Cluster(
            name=f"{problem.cluster.name} ({len(pattern)} nodes)",
            nodes=tuple(pattern),
            coordinator=problem.cluster.coordinator,
            network=dataclasses.replace(problem.cluster.network, links={}),
        )
        plan = plan_one(dataclasses.replace(problem, cluster=part), 1 / len(mixes))
        used = plan.links or [pair for pair, flow in plan.flow.link_flow.items() if flow > 0]
        for replica in alike:
            name_of = {mine.name: theirs.name for mine, theirs in zip(pattern, replica, strict=True)}
            ranges |= {name_of[name]: held for name, held in plan.placement.ranges.items()}
            links += [(name_of.get(source, source), name_of.get(target, target)) for source, target in used]
    return ranges, links
