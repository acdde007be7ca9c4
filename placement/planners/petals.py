"""Petals-style placement: nodes come one by one and help where the swarm is weakest (HELIX.md section 6)."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from placement.cluster import Node
from placement.effort import now_s
from placement.layers import LayerRange, Placement
from placement.plan import Plan, Problem, finish_plan
from placement.planners.split import require_room


def weakest_interval(load: Sequence[float], width: int) -> LayerRange:
    """First interval of ``width`` layers whose sorted throughputs are lexicographically least.

    Args:
        load: Tokens/s that each layer has so far; shape ``(layers,)``.
        width: Layers in the interval, 1 to ``len(load)``.
    """
    starts = range(len(load) - width + 1)
    start = min(starts, key=lambda start: sorted(load[start : start + width]))
    return LayerRange(start, start + width)


def join_in_order(problem: Problem, order: Sequence[Node]) -> dict[str, LayerRange]:
    """Layer ranges when nodes that hold at least one layer join in ``order``; keys in that order."""
    rates: list[list[float]] = [[] for _ in range(problem.model.layers)]
    ranges: dict[str, LayerRange] = {}
    for node in order:
        most = problem.most_layers(node)
        # fsum rounds once, so layers with the same machines tie whatever the order in which they came.
        held = weakest_interval([math.fsum(one) for one in rates], most)
        ranges[node.name] = held
        for layer in range(held.start, held.stop):
            rates[layer].append(problem.throughput.tokens_per_s(node.machine_type, most))
    return ranges


@dataclass(frozen=True, slots=True)
class PetalsPlanner:
    """Nodes in an order shuffled by the problem's seed; each takes its maximum at the weakest interval."""

    name: ClassVar[str] = "petals"

    def plan(self, problem: Problem) -> Plan:
        """Place the model.

        Raises:
            PlanError: The cluster cannot hold the model, or no chain of links leads through all layers.
        """
        started_s = now_s()
        require_room(problem, self.name)
        order = [node for node in problem.cluster.nodes if problem.most_layers(node) > 0]
        random.Random(f"{problem.seed}/planner/{self.name}").shuffle(order)
        ranges = join_in_order(problem, order)
        in_file_order = {node.name: ranges[node.name] for node in problem.cluster.nodes if node.name in ranges}
        return finish_plan(problem, Placement(in_file_order), planner=self.name, started_s=started_s)
