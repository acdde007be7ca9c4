"""SWARM-style placement: equal stages, each served by several nodes (HELIX.md section 6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from placement.cluster import Node
from placement.effort import now_s
from placement.errors import PlanError
from placement.layers import LayerRange, Placement
from placement.plan import Plan, Problem, finish_plan
from placement.planners.split import describe, even_shares, require_room


@dataclass(frozen=True, slots=True)
class SwarmPlanner:
    """Equal stages; nodes in falling order of throughput join the stage with the least.

    Attributes:
        stages: Number of stages; when ``None``, as few as the smallest machine allows. Stages differ by at most one
            layer. Machines that cannot hold the longest stage stay out.
    """

    name: ClassVar[str] = "swarm"
    stages: int | None = None

    def __post_init__(self) -> None:
        wrong_type = isinstance(self.stages, bool) or not isinstance(self.stages, int | None)
        if wrong_type or (self.stages is not None and self.stages < 1):
            raise PlanError(f"swarm: stages is {self.stages!r}; it must be a whole number of at least 1")

    def plan(self, problem: Problem) -> Plan:
        """Place the model.

        Raises:
            PlanError: The cluster cannot hold the model, there are more stages than layers or than nodes that can
                hold one, or no chain of links leads through all stages.
        """
        started_s = now_s()
        require_room(problem, self.name)
        stages = self._stage_ranges(problem)
        longest = max(len(stage) for stage in stages)
        able = [node for node in problem.cluster.nodes if problem.most_layers(node) >= longest]
        self._require_nodes(problem, able, len(stages), longest)
        rate = problem.throughput.tokens_per_s
        # Of equally fast nodes the later in the file comes first, as in the reference.
        order = sorted(enumerate(able), key=lambda item: (rate(item[1].machine_type, longest), item[0]), reverse=True)
        load = [0.0] * len(stages)
        members: list[int] = [0] * len(stages)
        joined: dict[str, LayerRange] = {}
        for _, node in order:
            # Counting members as well keeps machines whose rate is zero from all joining one stage.
            weakest = min(range(len(stages)), key=lambda stage: (load[stage], members[stage], stage))
            joined[node.name] = stages[weakest]
            load[weakest] += rate(node.machine_type, len(stages[weakest]))
            members[weakest] += 1
        in_file_order = {node.name: joined[node.name] for node in able}
        return finish_plan(problem, Placement(in_file_order), planner=self.name, started_s=started_s)

    def _stage_ranges(self, problem: Problem) -> list[LayerRange]:
        layers = problem.model.layers
        smallest = min(most for node in problem.cluster.nodes if (most := problem.most_layers(node)) > 0)
        count = self.stages if self.stages is not None else -(-layers // smallest)
        if count > layers:
            raise PlanError(
                f"swarm: {count} stages are asked for, but {problem.model.name} has only {layers} layers; ask for fewer"
            )
        ranges: list[LayerRange] = []
        start = 0
        for share in even_shares(layers, [layers] * count):
            ranges.append(LayerRange(start, start + share))
            start += share
        return ranges

    def _require_nodes(self, problem: Problem, able: list[Node], stages: int, longest: int) -> None:
        if len(able) < stages:
            raise PlanError(
                f"swarm: {stages} stages of up to {longest} layers need {stages} nodes that hold {longest} layers, but "
                f"cluster {problem.cluster.name} has {len(able)} such nodes "
                f"({describe(problem, problem.cluster.nodes)}); {stages - len(able)} nodes are missing, so "
                f"add machines or set another number of stages"
            )
