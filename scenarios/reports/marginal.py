"""What one more node, a faster link or a nearer region would be worth, all else equal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from emulator.spec import EmulationSpec
from placement.cluster import COORDINATOR, Cluster, Link, Network, Node
from placement.errors import PlanError
from placement.flow import MaxFlow, build_flow_graph, flow_upper_bound, max_flow
from placement.layers import LayerRange, Placement
from placement.throughput import ThroughputModel

FASTER = 1.10
NEARER_S = 0.010
FULL = 1e-9
"""Share of its capacity that a part may have left and count as used up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One change of a cluster.

    Attributes:
        name: In words.
        kind: ``node``, ``bandwidth`` or ``latency``.
        machine_type: Type of the added node; empty for links.
        spec: The scenario with the change.
        flow_tokens_per_s: Max flow then, of the placement that is.
        bound_tokens_per_s: Flow that no placement on the changed cluster can pass.
    """

    name: str
    kind: str
    machine_type: str
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
    graph = build_flow_graph(
        spec.cluster, spec.model, spec.placement, throughput, partial_inference=spec.partial_inference
    )
    cut = {(edge.kind, edge.source, edge.target): None for edge in flow.min_cut}
    full = []
    for edge in graph.edges:
        if edge.kind not in ("compute", "link") or (edge.kind, edge.source, edge.target) in cut:
            continue
        carried = flow.node_flow[edge.source] if edge.kind == "compute" else flow.link_flow[edge.source, edge.target]
        if carried >= edge.capacity_tokens_per_s * (1 - FULL):
            full.append(edge.source if edge.kind == "compute" else f"{edge.source} -> {edge.target}")
    return full


def throughput_of(spec: EmulationSpec) -> ThroughputModel:
    """Node speeds of a scenario's mix of machines; they are kept while single parts are changed."""
    return ThroughputModel(spec.model, spec.profiles, spec.cluster.machine_counts())


def changes(spec: EmulationSpec) -> Iterator[Change]:
    """One more node of each type, each region's links 10 % faster, and 10 ms nearer.

    An added node stands beside one of its type, has links like it, and takes over a range that a node holds already:
    that which raises the max flow most, the first of equals. Others keep their layers.
    """
    throughput = throughput_of(spec)
    for kind in spec.cluster.machine_counts():
        best = _one_more(spec, kind, throughput)
        if best is not None:
            yield best
    for source, target in region_pairs(spec.cluster):
        where = _between(source, target)
        faster = replace(spec, cluster=_relinked(spec.cluster, (source, target), bandwidth=FASTER))
        yield _changed(f"+10 % bandwidth {where}", "bandwidth", faster, throughput)
        nearer = replace(spec, cluster=_relinked(spec.cluster, (source, target), nearer_s=NEARER_S))
        if nearer.cluster != spec.cluster:
            yield _changed(f"-10 ms latency {where}", "latency", nearer, throughput)


def region_pairs(cluster: Cluster) -> list[tuple[str, str]]:
    """Pairs of regions between which, or within which, there are links; each pair once, both directions together."""
    found: dict[tuple[str, str], None] = {}
    for source, target in cluster.pairs():
        one, other = cluster.region_of(source), cluster.region_of(target)
        if (other, one) not in found:
            found[one, other] = None
    return list(found)


def _changed(name: str, kind: str, spec: EmulationSpec, throughput: ThroughputModel, machine: str = "") -> Change:
    flow = flow_of(spec, throughput).tokens_per_s
    return Change(
        name=name,
        kind=kind,
        machine_type=machine,
        spec=spec,
        flow_tokens_per_s=flow,
        bound_tokens_per_s=bound_of(spec, throughput),
    )


def _between(source: str, target: str) -> str:
    return f"within {source}" if source == target else f"between {source} and {target}"


def _relinked(cluster: Cluster, pair: tuple[str, str], *, bandwidth: float = 1.0, nearer_s: float = 0.0) -> Cluster:
    """The cluster with the links between two regions changed, in both directions."""

    def of(link: Link, ends: tuple[str, str]) -> Link:
        if ends not in (pair, pair[::-1]):
            return link
        return Link(link.bandwidth_bytes_per_s * bandwidth, max(0.0, link.latency_s - nearer_s))

    network = Network(
        links={
            ends: of(link, (cluster.region_of(ends[0]), cluster.region_of(ends[1])))
            for ends, link in cluster.network.links.items()
        },
        regions={ends: of(link, ends) for ends, link in cluster.network.regions.items()},
    )
    return replace(cluster, network=network)


def _one_more(spec: EmulationSpec, kind: str, throughput: ThroughputModel) -> Change | None:
    alike = [node for node in spec.cluster.nodes if node.machine_type == kind]
    ranges = dict.fromkeys(
        (held.start, held.stop)
        for name, held in spec.placement.ranges.items()
        if held.stop - held.start <= spec.profiles[kind].max_layers or spec.cluster.node(name).machine_type == kind
    )
    regions: dict[str, Node] = {}
    for node in alike:
        regions.setdefault(node.region, node)
    best: Change | None = None
    for template in regions.values():
        for start, stop in ranges:
            held = LayerRange(start, stop)
            try:
                added = with_node(spec, template, held)
                name = f"one more {kind} in {template.region}, layers {held}"
                change = _changed(name, "node", added, throughput, kind)
            except PlanError:
                # This type cannot hold so many layers.
                continue
            if best is None or change.flow_tokens_per_s > best.flow_tokens_per_s * (1 + 1e-9):
                best = change
    return best


def with_node(spec: EmulationSpec, template: Node, held: LayerRange) -> EmulationSpec:
    """The scenario with one more node like ``template`` that holds ``held``; it has the links of its region."""
    cluster = spec.cluster
    name = f"{template.name}-more"
    while name in cluster:
        name += "+"
    links: dict[tuple[str, str], Link] = dict(cluster.network.links)
    if links:
        links |= _links_like(cluster, template, name)
    grown = Cluster(
        name=cluster.name,
        nodes=(*cluster.nodes, replace(template, name=name)),
        coordinator=cluster.coordinator,
        network=Network(links=links, regions=cluster.network.regions),
    )
    return replace(spec, cluster=grown, placement=Placement({**spec.placement.ranges, name: held}))


def _links_like(cluster: Cluster, template: Node, name: str) -> Mapping[tuple[str, str], Link]:
    """Explicit links of a new node: to every other, as fast as the fastest known link between the two regions."""
    known: dict[tuple[str, str], Link] = {}
    for (source, target), link in cluster.network.links.items():
        ends = (cluster.region_of(source), cluster.region_of(target))
        if ends not in known or link.bandwidth_bytes_per_s > known[ends].bandwidth_bytes_per_s:
            known[ends] = link
    made: dict[tuple[str, str], Link] = {}
    for other in (COORDINATOR, *(node.name for node in cluster.nodes)):
        region = cluster.region_of(other)
        out, back = known.get((template.region, region)), known.get((region, template.region))
        if out is not None:
            made[name, other] = out
        if back is not None:
            made[other, name] = back
    return made
