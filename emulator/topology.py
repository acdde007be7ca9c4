"""Who may send to whom under a placement, the max flow over it, and the rate of every link's share of its cards."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence

from emulator.spec import EdgeFlows, EmulationSpec
from placement.cluster import COORDINATOR
from placement.flow import FlowGraph, MaxFlow, build_flow_graph, max_flow, usable_links
from placement.layers import Placement
from placement.planners.balanced_flow import balanced_flow
from placement.throughput import ThroughputModel

Pair = tuple[str, str]
NO_FLOW = MaxFlow(0.0, {}, {}, ())
"""The flow of a cluster that cannot serve."""


def serving_pairs(
    spec: EmulationSpec, placement: Placement, *, closed: Collection[str] = (), blocked: Collection[Pair] = ()
) -> list[Pair]:
    """Linked pairs that lie on some way from the coordinator through all layers and back, in file order.

    Args:
        spec: The run.
        placement: Layers of the nodes that serve.
        closed: Nodes of ``placement`` that only finish what they have: nobody sends to them, they send on.
        blocked: Pairs that must not be used.
    """
    pairs = [
        (source, target)
        for source, target in usable_links(
            spec.cluster, placement, spec.model.layers, partial_inference=spec.partial_inference
        )
        if target not in closed and (source, target) not in blocked
    ]
    # What closed nodes send on has to come to its end, too.
    from_source = reachable((COORDINATOR, *closed), pairs)
    to_sink = reachable((COORDINATOR,), [(target, source) for source, target in pairs])
    return [
        (source, target)
        for source, target in pairs
        if source in from_source and source in to_sink and target in to_sink
    ]


def flow_graph(
    spec: EmulationSpec,
    throughput: ThroughputModel,
    placement: Placement,
    pairs: list[Pair],
    slowdown: Mapping[str, float],
    bandwidth: Mapping[Pair, float],
) -> FlowGraph:
    """The graph over ``pairs`` on which the max flow is solved; arguments as for :func:`solve_flow`."""
    graph = build_flow_graph(spec.cluster, spec.model, placement, throughput, links=pairs)
    if not slowdown and not bandwidth:
        return graph
    factors = {
        "compute": {(name, name): 1 / factor for name, factor in slowdown.items()},
        "link": bandwidth,
    }
    edges = tuple(
        dataclasses.replace(
            edge,
            capacity_tokens_per_s=edge.capacity_tokens_per_s
            * factors.get(edge.kind, {}).get((edge.source, edge.target), 1.0),
        )
        for edge in graph.edges
    )
    return dataclasses.replace(graph, edges=edges)


def solve_flow(
    spec: EmulationSpec,
    throughput: ThroughputModel,
    placement: Placement,
    pairs: list[Pair],
    kv_tokens: Mapping[str, float],
    *,
    balance: bool,
    slowdown: Mapping[str, float] | None = None,
    bandwidth: Mapping[Pair, float] | None = None,
) -> MaxFlow:
    """The max flow over ``pairs``; of several the most even one, if wanted.

    Args:
        spec: The run.
        throughput: Gives a node's compute capacity.
        placement: Layers of the nodes that serve.
        pairs: Pairs that may be used, in order.
        kv_tokens: Node -> tokens that its KV cache holds.
        balance: Whether to look for the most even max flow.
        slowdown: Node -> factor on its compute time, where that is not 1.
        bandwidth: Pair -> factor on its bandwidth, where that is not 1.
    """
    graph = flow_graph(spec, throughput, placement, pairs, slowdown or {}, bandwidth or {})
    flow = max_flow(graph)
    if balance and spec.scheduler.edge_flows is EdgeFlows.BALANCED:
        return balanced_flow(graph, flow, kv_tokens)
    return flow


def shared_rates(spec: EmulationSpec, pairs: list[Pair], flow: MaxFlow) -> dict[Pair, float]:
    """Fixed bytes/s of each link under :attr:`~emulator.spec.LinkSharing.SHARES`.

    The max-flow policy gives a link the part of each card that its flow is of the card's flow;
    other policies split the sending card evenly over the links that leave it.
    """
    cluster = spec.cluster

    def card(name: str, *, out: bool) -> float:
        owner = cluster.coordinator if name == COORDINATOR else cluster.node(name)
        return owner.nic_out_bytes_per_s if out else owner.nic_in_bytes_per_s

    leaving: dict[str, float] = {}
    coming: dict[str, float] = {}
    weight: dict[Pair, float] = {}
    by_flow = spec.scheduler.policy == "max-flow"
    for pair in pairs:
        size = spec.model.token_bytes if COORDINATOR in pair else spec.model.hop_bytes
        weight[pair] = flow.link_flow.get(pair, 0.0) * size if by_flow else 1.0
        leaving[pair[0]] = leaving.get(pair[0], 0.0) + weight[pair]
        coming[pair[1]] = coming.get(pair[1], 0.0) + weight[pair]
    rates: dict[Pair, float] = {}
    for pair in pairs:
        link = cluster.link(*pair)
        assert link is not None
        if not weight[pair]:
            continue
        limits = [link.bandwidth_bytes_per_s, card(pair[0], out=True) * weight[pair] / leaving[pair[0]]]
        if by_flow:
            limits.append(card(pair[1], out=False) * weight[pair] / coming[pair[1]])
        rates[pair] = max(1.0, math.floor(min(limits)) if by_flow else min(limits))
    return rates


def reachable(starts: Sequence[str], pairs: list[Pair]) -> dict[str, None]:
    """Names that can be reached from any of ``starts`` along ``pairs``; these themselves are in it."""
    following: dict[str, list[str]] = {}
    for source, target in pairs:
        following.setdefault(source, []).append(target)
    seen: dict[str, None] = dict.fromkeys(starts)
    frontier = list(starts)
    while frontier:
        for target in following.get(frontier.pop(), []):
            if target not in seen:
                seen[target] = None
                frontier.append(target)
    return seen
