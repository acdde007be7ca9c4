"""Uniform placement: the simplest baseline, blind to the speed of machines and links."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from placement.effort import now_s
from placement.layers import LayerRange, Placement
from placement.plan import Plan, Problem, finish_plan
from placement.planners.split import chain_ranges, even_shares, groups_that_hold, require_room


@dataclass(frozen=True, slots=True)
class UniformPlanner:
    """Nodes in file order form as many pipelines as they can hold, each with layers split evenly.

    Requests may still cross from one pipeline to another wherever the ranges fit.
    """

    name: ClassVar[str] = "uniform"

    def plan(self, problem: Problem) -> Plan:
        """Place the model.

        Raises:
            PlanError: The cluster cannot hold the model, or no chain of links leads through all layers.
        """
        started_s = now_s()
        require_room(problem, self.name)
        nodes = problem.cluster.nodes
        maxima = [problem.most_layers(node) for node in nodes]
        ranges: dict[str, LayerRange] = {}
        for group in groups_that_hold(problem.model.layers, maxima):
            shares = even_shares(problem.model.layers, [maxima[index] for index in group])
            ranges |= chain_ranges([nodes[index] for index in group], shares)
        return finish_plan(problem, Placement(ranges), planner=self.name, started_s=started_s)
