"""What one more node, a faster link or a nearer machine would be worth, all else equal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from emulator.spec import EmulationSpec
from placement.cluster import Cluster, Link, Network
from placement.flow import MaxFlow, build_flow_graph, flow_upper_bound, max_flow
from placement.throughput import ThroughputModel

FASTER = 1.10
NEARER_S = 0.010
FULL = 1e-9
"""Share of its capacity that a part may have left and count as used up."""
LINKS = 10
"""So many links are looked at one by one unless told otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One change of a cluster.

    Attributes:
        name: In words.
        kind: ``node``, ``replan`` (the same nodes, placed anew), ``bandwidth`` or ``latency``.
        scope: ``cluster``, ``regions`` (all links between two, or within one) or ``link`` (one direction between two
            machines).
        machine_type: Type of the added node; empty for links.
        replanned: Whether others than an added node may hold other layers than before.
        layers_moved: Layers that nodes have to load, summed over them.
        load_s: Seconds until the slowest of them has read its layers from disk.
        spec: The scenario with the change.
        flow_tokens_per_s: Max flow then.
        bound_tokens_per_s: Flow that no placement on the changed cluster can pass.
    """

    name: str
    kind: str
    scope: str
    machine_type: str = ""
    replanned: bool = False
    layers_moved: int = 0
    load_s: float = 0.0
    spec: EmulationSpec
    flow_tokens_per_s: float
    bound_tokens_per_s: float


def flow_of(spec: EmulationSpec, throughput: ThroughputModel) -> MaxFlow:
    """Max flow of a scenario's placement, with node speeds by ``throughput``."""
    graph = build_flow_graph(
        spec.cluster, spec.model, spec.placement, throughput, partial_inference=spec.partial_inference
    )
    return max_flow(graph)


def bound_of(spec: EmulationSpec, throughput: ThroughputModel) -> float:
    """Flow that no placement on a scenario's machines can pass, whatever its network."""
    return flow_upper_bound(spec.cluster, spec.model, spec.profiles, throughput)


def full_parts(spec: EmulationSpec, throughput: ThroughputModel, flow: MaxFlow) -> list[str]:
    """Nodes and links beside the minimum cut that are used up: they can be why more at the cut brings nothing."""
    cut = {(edge.kind, edge.source, edge.target): None for edge in flow.min_cut}
    return [
        source if kind == "compute" else f"{source} -> {target}"
        for kind, source, target in used_up(spec, throughput, flow)
        if (kind, source, target) not in cut
    ]


def used_up(spec: EmulationSpec, throughput: ThroughputModel, flow: MaxFlow) -> dict[tuple[str, str, str], None]:
    """Nodes (``compute``) and links that the flow uses up: kind, source and target, in graph order."""
    graph = build_flow_graph(
        spec.cluster, spec.model, spec.placement, throughput, partial_inference=spec.partial_inference
    )
    full: dict[tuple[str, str, str], None] = {}
    for edge in graph.edges:
        if edge.kind not in ("compute", "link"):
            continue
        carried = flow.node_flow[edge.source] if edge.kind == "compute" else flow.link_flow[edge.source, edge.target]
        if carried >= edge.capacity_tokens_per_s * (1 - FULL):
            full[edge.kind, edge.source, edge.target] = None
    return full


def throughput_of(spec: EmulationSpec) -> ThroughputModel:
    """Node speeds of a scenario's mix of machines; they are kept while single parts are changed."""
    return ThroughputModel(spec.model, spec.profiles, spec.cluster.machine_counts())


def network_changes(spec: EmulationSpec, links: int = LINKS) -> Iterator[Change]:
    """Links 10 % faster, and 10 ms nearer: those between two regions together, and some of them one by one.

    No latency falls below 0: where there are less than 10 ms, all of it goes.

    Args:
        spec: The scenario.
        links: So many single links, those of :func:`links_that_matter`.
    """
    throughput = throughput_of(spec)
    bound = bound_of(spec, throughput)
    todo: list[tuple[str, str, list[tuple[str, str]]]] = []
    by_regions: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for source, target in spec.cluster.pairs():
        one, other = spec.cluster.region_of(source), spec.cluster.region_of(target)
        by_regions.setdefault((other, one) if (other, one) in by_regions else (one, other), []).append((source, target))
    for (one, other), pairs in by_regions.items():
        where = f"within {one}" if one == other else f"between {one} and {other}"
        todo.append(("regions", where, pairs))
    if links:
        flow = flow_of(spec, throughput)
        matter = links_that_matter(spec, throughput, flow)[:links]
        todo += [("link", f"{source} -> {target}", [(source, target)]) for source, target in matter]
    for scope, where, pairs in todo:
        for kind, name, cluster in _relinked(spec.cluster, where, pairs):
            changed = replace(spec, cluster=cluster)
            yield Change(
                name=name,
                kind=kind,
                scope=scope,
                spec=changed,
                flow_tokens_per_s=flow_of(changed, throughput).tokens_per_s,
                bound_tokens_per_s=bound,
            )


def links_that_matter(spec: EmulationSpec, throughput: ThroughputModel, flow: MaxFlow) -> list[tuple[str, str]]:
    """Links that carry flow: those that it uses up first, then by the tokens that are under way on them.

    By Little's law these are the flow times the time that a token takes: sending it, and the latency.
    """
    full = used_up(spec, throughput, flow)
    graph = build_flow_graph(
        spec.cluster, spec.model, spec.placement, throughput, partial_inference=spec.partial_inference
    )
    ranked: list[tuple[bool, float, tuple[str, str]]] = []
    for edge in graph.links():
        pair = (edge.source, edge.target)
        carried = flow.link_flow[pair]
        if carried <= FULL * flow.tokens_per_s:
            continue
        link = spec.cluster.link(*pair)
        assert link is not None, "the flow graph has linked pairs only"
        under_way = carried * (link.latency_s + 1 / edge.capacity_tokens_per_s)
        ranked.append((("link", *pair) not in full, -under_way, pair))
    # A stable sort: equals stay in link order.
    return [pair for _, _, pair in sorted(ranked, key=lambda one: one[:2])]


def _relinked(cluster: Cluster, where: str, pairs: list[tuple[str, str]]) -> Iterator[tuple[str, str, Cluster]]:
    """Kind, name and cluster of each change of some links."""
    before = {pair: link for pair in pairs if (link := cluster.link(*pair)) is not None}
    faster = {pair: Link(link.bandwidth_bytes_per_s * FASTER, link.latency_s) for pair, link in before.items()}
    yield "bandwidth", f"+10 % bandwidth {where}", _with_links(cluster, faster)
    gained = [min(NEARER_S, link.latency_s) for link in before.values()]
    if max(gained) > 0:
        nearer = {
            pair: Link(link.bandwidth_bytes_per_s, max(0.0, link.latency_s - NEARER_S)) for pair, link in before.items()
        }
        least = f"-{1e3 * max(gained):g} ms"
        capped = " (all there is)" if max(gained) < NEARER_S else ""
        yield "latency", f"{least} latency {where}{capped}", _with_links(cluster, nearer)


def _with_links(cluster: Cluster, links: dict[tuple[str, str], Link]) -> Cluster:
    """The cluster with some of its links changed; all in the order that they had, which breaks ties."""
    every = {pair: links.get(pair) or cluster.link(*pair) for pair in cluster.pairs()}
    known = {pair: link for pair, link in every.items() if link is not None}
    return replace(cluster, network=Network(links=known, regions={}))
