"""The exact maximum flow of many placements of one problem, one after another.

The same flow as that of :func:`placement.flow.max_flow`, on a smaller graph: where every link from one region to
another carries more than its two ends can process, the links from all nodes that end at layer p become one vertex,
joined to the nodes that can go on at p. Only links that may bind keep an edge of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from placement.cluster import COORDINATOR, Node
from placement.edge_flows import dinic
from placement.effort import FLOW_S_PER_NODE, spend
from placement.layers import LayerRange
from placement.plan import Problem

_SOURCE, _SINK, _OUT, _IN = range(4)
_ENDLESS = 1e300


@dataclass(slots=True)
class _Arrays:
    """A growing graph as :func:`placement.edge_flows.dinic` takes it."""

    tails: list[int]
    heads: list[int]
    capacities: list[float]
    vertices: int

    def add_vertex(self) -> int:
        self.vertices += 1
        return self.vertices - 1

    def join(self, tail: int, head: int, capacity: float) -> None:
        self.tails.append(tail)
        self.heads.append(head)
        self.capacities.append(capacity)


class FastFlow:
    """Evaluates placements of one problem.

    Args:
        problem: Gives nodes, network, model and throughput.
    """

    def __init__(self, problem: Problem) -> None:
        cluster, model = problem.cluster, problem.model
        self._layers = model.layers
        self._hop, self._token = model.hop_bytes, model.token_bytes
        self._cluster = cluster
        self._nodes: dict[str, Node] = {node.name: node for node in cluster.nodes}
        self._rates = {
            node.name: [problem.throughput.tokens_per_s(node.machine_type, k) for k in range(1, most + 1)]
            for node in cluster.nodes
            if (most := problem.most_layers(node))
        }
        self._regions = {node.name: node.region for node in cluster.nodes}
        self._regions_named = list(dict.fromkeys(self._regions[name] for name in self._rates))
        self._wide = self._wide_pairs()
        card = cluster.coordinator
        self._cards = (card.nic_out_bytes_per_s / self._token, card.nic_in_bytes_per_s / self._token)
        self._starts = {name: self._coordinator_link(COORDINATOR, name) for name in self._rates}
        self._stops = {name: self._coordinator_link(name, COORDINATOR) for name in self._rates}

    @property
    def all_wide(self) -> bool:
        """Whether no link between nodes can bind under any placement."""
        return len(self._wide) == len(self._regions_named) ** 2

    def rates(self, name: str) -> list[float]:
        """T of a node that holds 1, 2, ... layers."""
        return self._rates[name]

    def node_rate(self, name: str, ranges: Mapping[str, LayerRange]) -> float:
        """Tokens/s through one node: its compute rate or one of its cards (HELIX.md section 3)."""
        held, node = ranges[name], self._nodes[name]
        rate = self._rates[name][len(held) - 1]
        into, out = node.nic_in_bytes_per_s, node.nic_out_bytes_per_s
        if min(into, out) / self._hop >= rate:
            return rate
        receives = held.start > 0 or any(self._usable(other, name, ranges) for other in ranges if other != name)
        sends = held.stop < self._layers
        return min(rate, into / (self._hop if receives else self._token), out / (self._hop if sends else self._token))

    def value(self, ranges: Mapping[str, LayerRange]) -> float:
        """Maximum flow of a placement in tokens/s; 0 where nothing flows.

        Args:
            ranges: Layer range of each node that holds layers, none past its most layers.
        """
        spend(FLOW_S_PER_NODE * len(self._nodes))
        graph = _Arrays([_SOURCE, _IN], [_OUT, _SINK], list(self._cards), 4 + 2 * len(ranges))
        entry = {name: 4 + 2 * index for index, name in enumerate(ranges)}
        hubs: dict[tuple[str, int], int] = {}
        senders: dict[int, list[str]] = {}
        for name, held in ranges.items():
            vertex = entry[name]
            graph.join(vertex, vertex + 1, self.node_rate(name, ranges))
            if held.start == 0 and self._starts[name] > 0:
                graph.join(_OUT, vertex, self._starts[name])
            if held.stop == self._layers:
                if self._stops[name] > 0:
                    graph.join(vertex + 1, _IN, self._stops[name])
                continue
            senders.setdefault(held.stop, []).append(name)
            hub = (self._regions[name], held.stop)
            if hub not in hubs:
                hubs[hub] = graph.add_vertex()
            graph.join(vertex + 1, hubs[hub], _ENDLESS)
        for done, names in senders.items():
            sources = list(dict.fromkeys(self._regions[name] for name in names))
            for target, held in ranges.items():
                if held.start <= done < held.stop:
                    self._enter(graph, target, names, {one: hubs[one, done] for one in sources}, entry)
        return dinic(graph.vertices, graph.tails, graph.heads, graph.capacities, _SOURCE, _SINK)[0]

    def _enter(
        self, graph: _Arrays, target: str, names: list[str], hubs: Mapping[str, int], entry: Mapping[str, int]
    ) -> None:
        """Edges into one node from those that end where it can go on: one for each wide region, else one for each link.

        Args:
            graph: Takes the edges.
            target: The node.
            names: Nodes that end at one layer.
            hubs: Their regions and the vertices of these at that layer.
            entry: First vertex of each node.
        """
        region = self._regions[target]
        wide = {source for source in hubs if (source, region) in self._wide}
        for source, hub in hubs.items():
            if source in wide:
                graph.join(hub, entry[target], _ENDLESS)
        for name in names if len(wide) < len(hubs) else ():
            if self._regions[name] not in wide and (link := self._cluster.link(name, target)) is not None:
                graph.join(entry[name] + 1, entry[target], link.bandwidth_bytes_per_s / self._hop)

    def _usable(self, source: str, target: str, ranges: Mapping[str, LayerRange]) -> bool:
        held = ranges[target]
        return held.start <= ranges[source].stop < held.stop and self._cluster.link(source, target) is not None

    def _coordinator_link(self, source: str, target: str) -> float:
        link = self._cluster.link(source, target)
        return 0.0 if link is None else link.bandwidth_bytes_per_s / self._token

    def _wide_pairs(self) -> set[tuple[str, str]]:
        """Ordered pairs of regions between which no link can bind."""
        members: dict[str, list[str]] = {}
        for name in self._rates:
            members.setdefault(self._regions[name], []).append(name)
        top = {name: max(rates) for name, rates in self._rates.items()}
        wide: set[tuple[str, str]] = set()
        for one, sources in members.items():
            for other, targets in members.items():
                if not self._cluster.network.links:
                    link = self._cluster.network.regions.get((one, other))
                    fast = max(top[name] for name in sources), max(top[name] for name in targets)
                    carries = link is not None and link.bandwidth_bytes_per_s / self._hop >= min(fast)
                else:
                    carries = all(self._carries(a, b, min(top[a], top[b])) for a in sources for b in targets if a != b)
                if carries:
                    wide.add((one, other))
        return wide

    def _carries(self, source: str, target: str, rate: float) -> bool:
        link = self._cluster.link(source, target)
        return link is not None and link.bandwidth_bytes_per_s / self._hop >= rate
