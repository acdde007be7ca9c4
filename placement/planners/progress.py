"""The best placement so far, the least bound so far, and how much time is left; shared by the optimising planners."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

from placement.cluster import COORDINATOR, Cluster
from placement.effort import now_s
from placement.errors import PlanError
from placement.layers import LayerRange, Placement
from placement.plan import Plan, PlanStatus, Problem, TracePoint, finish_plan
from placement.planners.fast_flow import FastFlow
from placement.planners.split import describe, require_room

PROVEN = 1e-9
"""A flow within this share of the bound is optimal; the rest is rounding."""


def require_positive(planner: str, what: str, value: float, unit: str = "seconds") -> None:
    """Check an option that limits a planner.

    Raises:
        PlanError: It is no finite number greater than 0.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise PlanError(f"{planner}: {what} is {value!r}; it must be a number of {unit} greater than 0")


def linked_nodes(cluster: Cluster) -> list[str]:
    """Nodes on some chain of links from the coordinator and back to it, in file order."""
    if not cluster.network.links:
        # By region: all nodes of a region have the same links.
        regions = list(dict.fromkeys(node.region for node in cluster.nodes))
        home, matrix = cluster.coordinator.region, cluster.network.regions
        onward = {one: [other for other in regions if (one, other) in matrix] for one in regions}
        ahead = _reached([region for region in regions if (home, region) in matrix], onward)
        backward = {one: [other for other in regions if (other, one) in matrix] for one in regions}
        behind = _reached([region for region in regions if (region, home) in matrix], backward)
        return [node.name for node in cluster.nodes if node.region in ahead and node.region in behind]
    follow: dict[str, list[str]] = {name: [] for name in [COORDINATOR, *(node.name for node in cluster.nodes)]}
    precede: dict[str, list[str]] = {name: [] for name in follow}
    for source, target in cluster.pairs():
        follow[source].append(target)
        precede[target].append(source)
    ahead, behind = _reached(follow[COORDINATOR], follow), _reached(precede[COORDINATOR], precede)
    return [node.name for node in cluster.nodes if node.name in ahead and node.name in behind]


def _reached(first: list[str], onward: Mapping[str, list[str]]) -> set[str]:
    seen, frontier = set(first), list(first)
    while frontier:
        for name in onward[frontier.pop()]:
            if name not in seen:
                seen.add(name)
                frontier.append(name)
    return seen


def require_linked_room(problem: Problem, planner: str) -> list[str]:
    """Nodes that can take part, when they can hold the model.

    Raises:
        PlanError: All nodes together, or all that are linked with the coordinator, cannot hold the model; it says
            how many layers and bytes are missing.
    """
    require_room(problem, planner)
    model, cluster = problem.model, problem.cluster
    linked = linked_nodes(cluster)
    nodes = [cluster.node(name) for name in linked]
    missing = model.layers - sum(problem.most_layers(node) for node in nodes)
    if missing > 0:
        apart = [node.name for node in cluster.nodes if node.name not in linked]
        raise PlanError(
            f"{planner}: {model.name} has {model.layers} layers, but the nodes of cluster {cluster.name} that links "
            f"join with the coordinator in both directions hold at most {model.layers - missing} "
            f"({describe(problem, nodes) if nodes else 'there are none'}); {missing} layers "
            f"({missing * model.layer_bytes / 1e9:.1f} GB of weights) are missing, so add links to and from "
            f"{', '.join(apart[:5])}{' and others' if len(apart) > 5 else ''}"
        )
    return [node.name for node in nodes if problem.most_layers(node) > 0]


def _free(_: Mapping[str, LayerRange]) -> float:
    return 0.0


class Progress:
    """What one run of a planner knows.

    Args:
        problem: What is to be placed.
        planner: Name of the planner.
        time_limit_s: Seconds that it has.
        started_s: :func:`placement.effort.now_s` at its start.
        charge: Tokens/s to take off a placement's flow when placements are compared, at least 0; nothing when ``None``.
    """

    def __init__(
        self,
        problem: Problem,
        planner: str,
        time_limit_s: float,
        started_s: float,
        charge: Callable[[Mapping[str, LayerRange]], float] | None = None,
    ) -> None:
        self.problem = problem
        self.planner = planner
        self.started_s = started_s
        self.charge = charge or _free
        self.deadline_s = started_s + time_limit_s
        self.evaluate = FastFlow(problem)
        self.ranges: dict[str, LayerRange] = {}
        self.flow = 0.0
        self.worth = -math.inf
        self.bound = math.inf
        self.trace: list[TracePoint] = []
        self.interrupted = False

    @property
    def left_s(self) -> float:
        """Seconds left; negative past the deadline."""
        return self.deadline_s - now_s()

    @property
    def proven(self) -> bool:
        """Whether nothing better than the best so far exists."""
        return self.worth >= self.bound * (1 - PROVEN)

    @property
    def over(self) -> bool:
        """Whether to stop: proven, or out of time."""
        return self.proven or self.left_s <= 0

    def offer(self, ranges: Mapping[str, LayerRange], flow: float | None = None) -> float:
        """Keep a placement if something flows and it is the best so far; returns its exact flow in tokens/s."""
        value = self.evaluate.value(ranges) if flow is None else flow
        worth = value - self.charge(ranges)
        if value > 0 and worth > self.worth:
            self.flow, self.worth, self.ranges = value, worth, dict(ranges)
            self._record()
        return value

    def tighten(self, bound: float) -> None:
        """Keep an upper bound in tokens/s if it is the least so far."""
        if bound < self.bound:
            self.bound = bound
            self._record()

    def attempt(self, work: Callable[[], None]) -> None:
        """Do a part of the planning; a keyboard interrupt ends it, and the best so far stays."""
        if self.interrupted or self.over:
            return
        try:
            work()
        except KeyboardInterrupt:
            self.interrupted = True

    def finish(self, *, links: list[tuple[str, str]] | None = None, warnings: tuple[str, ...] = ()) -> Plan:
        """The best placement as a checked plan: optimal when its flow is the bound.

        Raises:
            PlanError: There is none.
        """
        problem = self.problem
        if not self.ranges:
            raise PlanError(
                f"{self.planner}: no placement with a chain of links through all {problem.model.layers} layers was "
                f"found on cluster {problem.cluster.name} ({describe(problem, problem.cluster.nodes)}) within "
                f"{now_s() - self.started_s:.1f} s; add links between nodes or allow more time"
            )
        in_file_order = {
            node.name: self.ranges[node.name] for node in problem.cluster.nodes if node.name in self.ranges
        }
        said = [*warnings, *([f"{self.planner}: interrupted; this is the best so far"] if self.interrupted else [])]
        plan = finish_plan(
            problem,
            Placement(in_file_order),
            planner=self.planner,
            started_s=self.started_s,
            status=PlanStatus.FEASIBLE,
            # A flow that is the bound up to rounding must not lie above it.
            bound_tokens_per_s=max(self.bound, self.flow),
            links=links,
            warnings=said,
            trace=self.trace,
            solver="highs",
        )
        # By the plan's own flow, which ``links`` may make less than the best so far.
        return dataclasses.replace(plan, status=PlanStatus.OPTIMAL) if plan.gap <= PROVEN else plan

    def _record(self) -> None:
        self.trace.append(TracePoint(now_s() - self.started_s, self.flow, self.bound))
