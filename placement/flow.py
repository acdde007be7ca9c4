"""The flow graph of a placement, its maximum flow and minimum cut, and a bound on both (HELIX.md section 3)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from placement.cluster import COORDINATOR, Cluster, Node
from placement.edge_flows import by_networkx, dinic
from placement.errors import PlanError
from placement.layers import Placement
from placement.model import ModelSpec
from placement.profile import MachineProfile
from placement.throughput import ThroughputModel

SOURCE, SINK = 0, 1
"""Indices of the two coordinator vertices in :attr:`FlowGraph.vertices`."""

CHECK_TOLERANCE = 1e-9
"""Relative difference that :func:`check_flow` puts down to rounding."""

CUT_TOLERANCE = 1e-12
"""Residual capacity below this share of the flow counts as none when the cut is read off."""

EdgeKind = Literal["compute", "nic-in", "nic-out", "link"]
Backend = Literal["dinic", "networkx"]
_BACKENDS = {"dinic": dinic, "networkx": by_networkx}


@dataclass(frozen=True, slots=True)
class FlowEdge:
    """One edge of the flow graph.

    Attributes:
        kind: What limits it: a node's compute rate, a network card, or a link.
        source: Node name or :data:`~placement.cluster.COORDINATOR`.
        target: The same name as ``source`` unless the edge is a link.
        tail: Index of the vertex that it leaves.
        head: Index of the vertex that it enters.
        capacity_tokens_per_s: Most tokens/s that it carries.
    """

    kind: EdgeKind
    source: str
    target: str
    tail: int
    head: int
    capacity_tokens_per_s: float


@dataclass(frozen=True, slots=True)
class FlowGraph:
    """Tokens/s that can pass every part of a cluster under one placement.

    Attributes:
        vertices: Their names: ``source``, ``sink``, the coordinator's two network sides, then
            ``in``, ``start``, ``end``, ``out`` of each node in file order.
        nodes: Names of the nodes that hold layers, in file order.
        edges: Network cards and compute first, then the usable links in link order.
    """

    vertices: tuple[str, ...]
    nodes: tuple[str, ...]
    edges: tuple[FlowEdge, ...]

    def links(self) -> Iterator[FlowEdge]:
        """The edges that are links, in link order."""
        return (edge for edge in self.edges if edge.kind == "link")


@dataclass(frozen=True, slots=True)
class CutEdge:
    """One edge of a minimum cut: a part of the cluster whose speed-up could raise the flow.

    Attributes:
        kind: ``compute``, ``nic-in``, ``nic-out`` or ``link``.
        source: Node name or :data:`~placement.cluster.COORDINATOR`.
        target: The same name as ``source`` unless the edge is a link.
        capacity_tokens_per_s: Its capacity, which the flow uses up.
    """

    kind: EdgeKind
    source: str
    target: str
    capacity_tokens_per_s: float


@dataclass(frozen=True, slots=True)
class MaxFlow:
    """A maximum flow and a minimum cut that proves it.

    Attributes:
        tokens_per_s: Value of the flow.
        link_flow: ``(source, target)`` of every usable link -> tokens/s on it, zeros included, in link order.
        node_flow: Name of every node that holds layers -> tokens/s through it, in file order.
        min_cut: Edges of the minimum cut nearest to the source, in graph order; their capacities add up to the
            flow. That cut does not depend on the algorithm, even where several maximum flows exist.
    """

    tokens_per_s: float
    link_flow: Mapping[tuple[str, str], float]
    node_flow: Mapping[str, float]
    min_cut: tuple[CutEdge, ...]


def build_flow_graph(
    cluster: Cluster,
    model: ModelSpec,
    placement: Placement,
    throughput: ThroughputModel,
    *,
    links: Sequence[tuple[str, str]] | None = None,
    partial_inference: bool = True,
) -> FlowGraph:
    """Build the flow graph (HELIX.md section 3).

    A capacity in bytes/s becomes tokens/s by dividing by the bytes of a token there: ``model.token_bytes`` where
    one end is the coordinator, ``model.hop_bytes`` between nodes. A network card counts ``hop_bytes`` unless every
    usable link at it leads to the coordinator.

    Args:
        cluster: Nodes and network.
        model: The served model.
        placement: Layer range of each node.
        throughput: Gives a node's compute capacity T(machine type, held layers) in tokens/s.
        links: Use only these ``(source, target)`` pairs, in this order; every linked pair when ``None``.
        partial_inference: Whether a request may enter a node past its first layer.

    Raises:
        PlanError: The placement names an unknown node or a layer past the model's end, or ``links`` names a pair
            that the cluster does not link.
    """
    for name in placement:
        cluster.node(name)
        if placement[name].stop > model.layers:
            raise PlanError(f"flow graph: {name} holds {placement[name]}, but {model.name} has {model.layers} layers")
    nodes = [node for node in cluster.nodes if node.name in placement]
    names = [node.name for node in nodes]
    candidates = _candidates(names, placement, model.layers, partial_inference)
    pairs = _ordered_pairs(cluster, candidates, links)
    vertices = ["source", "sink", f"{COORDINATOR} out", f"{COORDINATOR} in"]
    vertices += [f"{name} {side}" for name in names for side in ("in", "start", "end", "out")]
    edges = _coordinator_edges(cluster, model) + _node_edges(nodes, pairs, model, placement, throughput)
    first = {name: 4 + 4 * index for index, name in enumerate(names)}
    for source, target in pairs:
        tail = 2 if source == COORDINATOR else first[source] + 3
        head = 3 if target == COORDINATOR else first[target]
        link = cluster.link(source, target)
        assert link is not None, "_ordered_pairs yields linked pairs only"
        unit = model.token_bytes if COORDINATOR in (source, target) else model.hop_bytes
        edges.append(FlowEdge("link", source, target, tail, head, link.bandwidth_bytes_per_s / unit))
    return FlowGraph(tuple(vertices), tuple(names), tuple(edges))


def usable_links(
    cluster: Cluster, placement: Placement, layers: int, *, partial_inference: bool = True
) -> list[tuple[str, str]]:
    """All linked ``(source, target)`` pairs whose layer ranges fit, in the order of :meth:`Cluster.pairs`.

    Args:
        cluster: Nodes and network.
        placement: Layers of each node; those it does not name are left out.
        layers: Layers in the model.
        partial_inference: Whether a request may enter a node past its first layer.
    """
    names = [node.name for node in cluster.nodes if node.name in placement]
    return _ordered_pairs(cluster, _candidates(names, placement, layers, partial_inference), None)


def _candidates(
    names: list[str], placement: Placement, layers: int, partial_inference: bool
) -> dict[tuple[str, str], None]:
    """All pairs whose layer ranges fit, source order then target order; found by layer, not by trying all pairs."""
    entered_at: list[list[str]] = [[] for _ in range(layers)]
    for name in names:
        held = placement[name]
        for layer in range(held.start, held.stop if partial_inference else held.start + 1):
            entered_at[layer].append(name)
    # Only ranges that start at 0 can hold layer 0, so the coordinator needs no case of its own.
    pairs = dict.fromkeys((COORDINATOR, target) for target in entered_at[0])
    for name in names:
        done = placement[name].stop
        for target in entered_at[done] if done < layers else (COORDINATOR,):
            pairs[name, target] = None
    return pairs


def _ordered_pairs(
    cluster: Cluster, candidates: dict[tuple[str, str], None], links: Sequence[tuple[str, str]] | None
) -> list[tuple[str, str]]:
    """The candidates that are linked: as ``links`` orders them, else in the order of ``Cluster.pairs``."""
    if links is not None:
        chosen = dict.fromkeys(links)
        missing = [pair for pair in chosen if cluster.link(*pair) is None]
        if missing:
            raise PlanError(
                [
                    f"flow graph: cluster {cluster.name} has no link {a} -> {b}; add it or do not ask for it"
                    for a, b in missing
                ]
            )
        return [pair for pair in chosen if pair in candidates]
    explicit = cluster.network.links
    pairs = [pair for pair in explicit if pair in candidates]
    if cluster.network.regions:
        pairs += [pair for pair in candidates if pair not in explicit and cluster.link(*pair) is not None]
    return pairs


def _coordinator_edges(cluster: Cluster, model: ModelSpec) -> list[FlowEdge]:
    card = cluster.coordinator
    out = card.nic_out_bytes_per_s / model.token_bytes
    into = card.nic_in_bytes_per_s / model.token_bytes
    return [
        FlowEdge("nic-out", COORDINATOR, COORDINATOR, SOURCE, 2, out),
        FlowEdge("nic-in", COORDINATOR, COORDINATOR, 3, SINK, into),
    ]


def _node_edges(
    nodes: list[Node],
    pairs: list[tuple[str, str]],
    model: ModelSpec,
    placement: Placement,
    throughput: ThroughputModel,
) -> list[FlowEdge]:
    """``in -> start -> end -> out`` of each node."""
    sends_activations = {source for source, target in pairs if COORDINATOR not in (source, target)}
    receives_activations = {target for source, target in pairs if COORDINATOR not in (source, target)}
    edges: list[FlowEdge] = []
    for index, node in enumerate(nodes):
        name, first = node.name, 4 + 4 * index
        into = node.nic_in_bytes_per_s / (model.hop_bytes if name in receives_activations else model.token_bytes)
        out = node.nic_out_bytes_per_s / (model.hop_bytes if name in sends_activations else model.token_bytes)
        rate = throughput.tokens_per_s(node.machine_type, len(placement[name]))
        edges.append(FlowEdge("nic-in", name, name, first, first + 1, into))
        edges.append(FlowEdge("compute", name, name, first + 1, first + 2, rate))
        edges.append(FlowEdge("nic-out", name, name, first + 2, first + 3, out))
    return edges


def max_flow(graph: FlowGraph, backend: Backend = "dinic") -> MaxFlow:
    """Maximum flow from the coordinator through the nodes back to it.

    Args:
        graph: What :func:`build_flow_graph` made.
        backend: ``dinic`` is fast and always gives the same edge flows; ``networkx`` is the slow reference, which
            calculates in exact whole numbers.

    Raises:
        PlanError: There is no such backend.
    """
    if backend not in _BACKENDS:
        raise PlanError(f"max flow: there is no backend {backend!r}; choose {' or '.join(_BACKENDS)}")
    flows = _BACKENDS[backend](
        len(graph.vertices),
        [edge.tail for edge in graph.edges],
        [edge.head for edge in graph.edges],
        [edge.capacity_tokens_per_s for edge in graph.edges],
        SOURCE,
        SINK,
    )
    return MaxFlow(
        tokens_per_s=sum(flow for edge, flow in zip(graph.edges, flows, strict=True) if edge.tail == SOURCE),
        link_flow={
            (edge.source, edge.target): flow
            for edge, flow in zip(graph.edges, flows, strict=True)
            if edge.kind == "link"
        },
        node_flow={edge.source: flow for edge, flow in zip(graph.edges, flows, strict=True) if edge.kind == "compute"},
        min_cut=_min_cut(graph, flows),
    )


def _min_cut(graph: FlowGraph, flows: list[float]) -> tuple[CutEdge, ...]:
    """Edges that leave the set of vertices reachable from the source in the residual graph."""
    value = sum(flow for edge, flow in zip(graph.edges, flows, strict=True) if edge.tail == SOURCE)
    tolerance = CUT_TOLERANCE * value
    onward: list[list[int]] = [[] for _ in graph.vertices]
    for edge, flow in zip(graph.edges, flows, strict=True):
        if edge.capacity_tokens_per_s - flow > tolerance:
            onward[edge.tail].append(edge.head)
        if flow > tolerance:
            onward[edge.head].append(edge.tail)
    reached = _reachable(onward)
    return tuple(
        CutEdge(edge.kind, edge.source, edge.target, edge.capacity_tokens_per_s)
        for edge in graph.edges
        if reached[edge.tail] and not reached[edge.head]
    )


def _reachable(onward: list[list[int]]) -> list[bool]:
    reached = [False] * len(onward)
    reached[SOURCE] = True
    frontier = [SOURCE]
    while frontier:
        for vertex in onward[frontier.pop()]:
            if not reached[vertex]:
                reached[vertex] = True
                frontier.append(vertex)
    return reached


def check_flow(graph: FlowGraph, flow: MaxFlow, tolerance: float = CHECK_TOLERANCE) -> None:
    """Check that a flow is one, and that its cut proves that it is the greatest.

    Flow in equals flow out at every node, nothing is negative or above its capacity, the value is what the
    coordinator sends and receives, the cut parts source from sink, and its capacity is the value.

    Args:
        graph: What the flow was found on.
        flow: What to check.
        tolerance: Relative difference that is rounding.

    Raises:
        PlanError: With one sentence per violation.
    """
    problems: list[str] = []
    links = [(edge.source, edge.target) for edge in graph.links()]
    if sorted(links) != sorted(flow.link_flow) or sorted(graph.nodes) != sorted(flow.node_flow):
        raise PlanError("flow check: the flow names other links or nodes than the graph; it belongs to another graph")
    slack = tolerance * max(abs(flow.tokens_per_s), *(abs(one) for one in flow.node_flow.values()), 0.0)
    sent = dict.fromkeys([COORDINATOR, *graph.nodes], 0.0)
    received = dict.fromkeys([COORDINATOR, *graph.nodes], 0.0)
    for (source, target), amount in flow.link_flow.items():
        sent[source] += amount
        received[target] += amount
    for name in [COORDINATOR, *graph.nodes]:
        through = flow.tokens_per_s if name == COORDINATOR else flow.node_flow[name]
        for verb, amount in (("receives", received[name]), ("sends", sent[name])):
            if not abs(amount - through) <= slack:
                problems.append(f"flow check: {name} {verb} {amount!r} tokens/s, but {through!r} pass through it")
    for edge in graph.edges:
        amounts = {"nic-in": received, "nic-out": sent, "compute": flow.node_flow}
        amount = flow.link_flow[edge.source, edge.target] if edge.kind == "link" else amounts[edge.kind][edge.source]
        if not -slack <= amount <= edge.capacity_tokens_per_s + slack:
            problems.append(
                f"flow check: {edge.kind} {edge.source} -> {edge.target} carries {amount!r} tokens/s, "
                f"outside 0 to {edge.capacity_tokens_per_s!r}"
            )
    problems += _cut_problems(graph, flow, slack)
    if problems:
        raise PlanError(problems)


def _cut_problems(graph: FlowGraph, flow: MaxFlow, slack: float) -> list[str]:
    problems: list[str] = []
    capacity = sum(edge.capacity_tokens_per_s for edge in flow.min_cut)
    if not abs(capacity - flow.tokens_per_s) <= slack:
        problems.append(f"flow check: the cut's capacity is {capacity!r}, but the flow is {flow.tokens_per_s!r}")
    cut = set(flow.min_cut)
    onward: list[list[int]] = [[] for _ in graph.vertices]
    for edge in graph.edges:
        as_cut = CutEdge(edge.kind, edge.source, edge.target, edge.capacity_tokens_per_s)
        if as_cut in cut:
            cut.remove(as_cut)
        elif edge.capacity_tokens_per_s > 0:
            onward[edge.tail].append(edge.head)
    if cut:
        problems.append("flow check: the cut has edges that the graph does not have, or not with that capacity")
    if _reachable(onward)[SINK]:
        problems.append("flow check: the cut leaves a way from the coordinator back to it")
    return problems


def most_layers(
    node: Node, model: ModelSpec, profiles: Mapping[str, MachineProfile], *, allow_over_profile: bool = False
) -> int:
    """Most layers that ``node`` can hold: by profile and memory, or by memory alone; at most the whole model.

    Raises:
        PlanError: There is no profile for the node's machine type.
    """
    if node.machine_type not in profiles:
        raise PlanError(
            f"node {node.name} is a {node.machine_type}, for which there is no profile of {model.name}; add one"
        )
    by_memory = min(model.layers, int(node.vram_bytes // model.layer_bytes))
    return by_memory if allow_over_profile else min(by_memory, profiles[node.machine_type].max_layers)


def flow_upper_bound(
    cluster: Cluster,
    model: ModelSpec,
    profiles: Mapping[str, MachineProfile],
    throughput: ThroughputModel,
    *,
    allow_over_profile: bool = False,
) -> float:
    """Tokens/s that no placement on this cluster exceeds, found as if the network were instantaneous.

    A token needs ``model.layers`` layer executions, and a node with k layers gives it at most k, at T(k) tokens/s:
    ``sum over nodes of max over k of k * T(machine type, k) / layers``.

    Args:
        cluster: Nodes; the network does not count.
        model: The served model.
        profiles: Machine type -> profile.
        throughput: T.
        allow_over_profile: Count k up to what the memory holds instead of the profile's maximum.

    Raises:
        PlanError: A machine type has no profile.
    """
    total = 0.0
    for node in cluster.nodes:
        most = most_layers(node, model, profiles, allow_over_profile=allow_over_profile)
        total += max((k * throughput.tokens_per_s(node.machine_type, k) for k in range(1, most + 1)), default=0.0)
    return total / model.layers
