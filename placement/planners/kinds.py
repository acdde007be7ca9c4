"""Nodes that are interchangeable, counted instead of listed; what bounds and planners calculate with."""

from __future__ import annotations

from dataclasses import dataclass

from placement.cluster import Node
from placement.plan import Problem


@dataclass(frozen=True, slots=True)
class Kind:
    """Nodes of one machine type with the same memory and network cards.

    Attributes:
        machine_type: Their machine type.
        region: Their region; empty where regions do not count.
        nodes: Their names in file order.
        rates: Tokens/s of one that holds 1, 2, ... layers; never more than T(machine type, k), nor than its network
            cards carry. Shape ``(most layers,)``.
    """

    machine_type: str
    region: str
    nodes: tuple[str, ...]
    rates: tuple[float, ...]

    @property
    def count(self) -> int:
        """Number of nodes."""
        return len(self.nodes)

    @property
    def most_layers(self) -> int:
        """Most layers that one of them holds."""
        return len(self.rates)

    def layers_at(self, rate: float) -> int:
        """Most layers that one of them holds at ``rate`` tokens/s or more: ``max {k: T(k) >= rate}``; 0 for none."""
        return max((k for k, at in enumerate(self.rates, start=1) if at >= rate), default=0)


def node_rate(problem: Problem, node: Node, layers: int) -> float:
    """Tokens/s that no placement exceeds on a node that holds ``layers`` layers.

    ``min(T(k), nic / bytes)``: all tokens pass both cards, each at ``token_bytes`` or more. A node that holds only
    part of the model receives activations (if its range starts past layer 0) or sends them (if it ends before the
    last one), so one of its cards counts ``hop_bytes`` (HELIX.md section 3).
    """
    model = problem.model
    cards = (node.nic_in_bytes_per_s, node.nic_out_bytes_per_s)
    rate = min(problem.throughput.tokens_per_s(node.machine_type, layers), min(cards) / model.token_bytes)
    return min(rate, max(cards) / model.hop_bytes) if layers < model.layers else rate


def kinds_of(problem: Problem, *, by_region: bool = False) -> tuple[Kind, ...]:
    """Group the nodes that can hold a layer, in file order of first appearance.

    Args:
        problem: Gives nodes, model and throughput.
        by_region: Whether nodes of different regions differ.
    """
    groups: dict[tuple[object, ...], list[Node]] = {}
    for node in problem.cluster.nodes:
        most = problem.most_layers(node)
        if most > 0:
            cards = (node.nic_in_bytes_per_s, node.nic_out_bytes_per_s)
            key = (node.machine_type, most, *cards, node.region if by_region else "")
            groups.setdefault(key, []).append(node)
    return tuple(
        Kind(
            machine_type=nodes[0].machine_type,
            region=nodes[0].region if by_region else "",
            nodes=tuple(node.name for node in nodes),
            rates=tuple(node_rate(problem, nodes[0], layers) for layers in range(1, problem.most_layers(nodes[0]) + 1)),
        )
        for nodes in groups.values()
    )
