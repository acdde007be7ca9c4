"""What a planner gets and what it gives: :class:`Problem`, :class:`Plan`, :class:`Planner`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol, runtime_checkable

from placement.cluster import COORDINATOR, Cluster, Node
from placement.effort import now_s
from placement.errors import PlanError
from placement.flow import MaxFlow, build_flow_graph, flow_upper_bound, max_flow, most_layers
from placement.layers import Placement, check_placement
from placement.model import ModelSpec
from placement.profile import MachineProfile
from placement.throughput import ThroughputModel

USED_SHARE = 1e-9
"""A link that carries less than this share of the flow is not used; what it carries is rounding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Place this model on this cluster.

    Attributes:
        cluster: Nodes and network.
        model: The served model.
        profiles: Machine type -> profile, for every machine type in the cluster.
        throughput: T(machine type, held layers) for this mix of machines.
        seed: The only source of a planner's random choices.
    """

    cluster: Cluster
    model: ModelSpec
    profiles: Mapping[str, MachineProfile]
    throughput: ThroughputModel
    seed: int = 0

    def most_layers(self, node: Node, *, allow_over_profile: bool = False) -> int:
        """Most layers that ``node`` can hold; see :func:`placement.flow.most_layers`."""
        return most_layers(node, self.model, self.profiles, allow_over_profile=allow_over_profile)


def problem_for(cluster: Cluster, model: ModelSpec, profiles: Mapping[str, MachineProfile], seed: int = 0) -> Problem:
    """A problem whose throughput model counts the machines of ``cluster``.

    Raises:
        PlanError: Machine types without a profile, or a profile of another model.
    """
    problems = [
        f"cluster {cluster.name}: there is no profile of {model.name} on {kind} ({count} nodes); "
        f"profiles exist for {', '.join(profiles) or 'nothing'}"
        for kind, count in cluster.machine_counts().items()
        if kind not in profiles
    ]
    problems += [
        f"profile of {profile.model} on {kind}: the problem is about {model.name}; give a profile of that model"
        for kind, profile in profiles.items()
        if profile.model != model.name
    ]
    if problems:
        raise PlanError(problems)
    throughput = ThroughputModel(model, profiles, cluster.machine_counts())
    return Problem(cluster=cluster, model=model, profiles=profiles, throughput=throughput, seed=seed)


class PlanStatus(Enum):
    """What a planner can promise about its plan."""

    OPTIMAL = "optimal"
    """Proven best, within the planner's own model and gap."""
    FEASIBLE = "feasible"
    """The best that an optimising planner found before it had to stop."""
    HEURISTIC = "heuristic"
    """Made by a rule that aims at no optimum."""


@dataclass(frozen=True, slots=True)
class TracePoint:
    """What a planner knew at one moment.

    Attributes:
        seconds: Time since planning began.
        incumbent_tokens_per_s: Best flow found so far; 0 while there is none.
        bound_tokens_per_s: Least upper bound proven so far.
    """

    seconds: float
    incumbent_tokens_per_s: float
    bound_tokens_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A planner's output.

    Attributes:
        placement: Layer range of each node; checked.
        planner: Name of the planner.
        status: What it promises.
        flow: Exact maximum flow of the placement over ``links``.
        bound_tokens_per_s: Upper bound on the flow of any placement.
        depth: Nodes on the longest chain of links that carry flow.
        seconds: Time that planning took; it does not count when plans are compared.
        links: The only ``(source, target)`` pairs that may be used, in order; every usable one when ``None``.
        allow_over_profile: Whether nodes may hold more layers than their profile's maximum.
        unused: Nodes that hold no layers, in file order.
        warnings: One sentence for each thing that the user should know about this plan.
        trace: How flow and bound came together; it holds times, so it does not count when plans are compared.
        solver: Solver that the planner used; empty for a rule without one.
    """

    placement: Placement
    planner: str
    status: PlanStatus
    flow: MaxFlow
    bound_tokens_per_s: float
    depth: int
    seconds: float = field(compare=False)
    links: tuple[tuple[str, str], ...] | None = None
    allow_over_profile: bool = False
    unused: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    trace: tuple[TracePoint, ...] = field(default=(), compare=False)
    solver: str = ""

    @property
    def gap(self) -> float:
        """Distance of the bound from the flow, as a share of the flow: 0 is proven optimal."""
        if self.flow.tokens_per_s == 0:
            return 0.0 if self.bound_tokens_per_s == 0 else math.inf
        return max(0.0, self.bound_tokens_per_s / self.flow.tokens_per_s - 1.0)


@runtime_checkable
class Planner(Protocol):
    """Anything with a name that turns a problem into a plan."""

    @property
    def name(self) -> str:
        """Name under which the plan is reported."""

    def plan(self, problem: Problem) -> Plan:
        """Place the model.

        Raises:
            PlanError: The cluster cannot hold or serve the model; it says what is missing and how much.
        """


def finish_plan(
    problem: Problem,
    ranges: Placement,
    *,
    planner: str,
    started_s: float,
    status: PlanStatus = PlanStatus.HEURISTIC,
    bound_tokens_per_s: float | None = None,
    links: Sequence[tuple[str, str]] | None = None,
    allow_over_profile: bool = False,
    warnings: Sequence[str] = (),
    trace: Sequence[TracePoint] = (),
    solver: str = "",
) -> Plan:
    """Check a placement, compute its exact flow and make the plan; every planner ends with this.

    Args:
        problem: What was to be planned.
        ranges: The placement.
        planner: Name of the planner.
        started_s: :func:`placement.effort.now_s` at the planner's start.
        status: What the planner promises.
        bound_tokens_per_s: Its own upper bound; the lesser of it and :func:`placement.flow.flow_upper_bound` counts.
        links: The only pairs that may be used.
        allow_over_profile: Accept more layers than the profile's maximum where the memory holds them.
        warnings: Sentences for the user.
        trace: How flow and bound came together.
        solver: Solver that was used, if any.

    Raises:
        PlanError: The placement is invalid, or nothing flows over ``links``.
    """
    cluster, model = problem.cluster, problem.model
    check_placement(ranges, cluster, model, problem.profiles, allow_over_profile=allow_over_profile)
    flow = max_flow(build_flow_graph(cluster, model, ranges, problem.throughput, links=links))
    if flow.tokens_per_s <= 0:
        stops = ", ".join(f"{edge.kind} {edge.source} -> {edge.target}" for edge in flow.min_cut)
        why = (
            f"these parts carry nothing: {stops}" if stops else "no chain of the plan's links leads through all layers"
        )
        raise PlanError(f"{planner}: the placement on cluster {cluster.name} serves no tokens: {why}")
    bound = flow_upper_bound(
        cluster, model, problem.profiles, problem.throughput, allow_over_profile=allow_over_profile
    )
    unused = tuple(node.name for node in cluster.nodes if node.name not in ranges)
    said = list(warnings)
    if unused:
        said.append(f"{planner}: {len(unused)} of {len(cluster.nodes)} nodes hold no layers: {', '.join(unused)}")
    return Plan(
        placement=ranges,
        planner=planner,
        status=status,
        flow=flow,
        bound_tokens_per_s=bound if bound_tokens_per_s is None else min(bound, bound_tokens_per_s),
        depth=used_depth(ranges, flow),
        seconds=now_s() - started_s,
        links=None if links is None else tuple(links),
        allow_over_profile=allow_over_profile,
        unused=unused,
        warnings=tuple(said),
        trace=tuple(trace),
        solver=solver,
    )


def used_depth(ranges: Placement, flow: MaxFlow) -> int:
    """Nodes on the longest chain of links that carry flow; 0 when nothing flows."""
    least = USED_SHARE * flow.tokens_per_s
    before: dict[str, list[str]] = {name: [] for name in [*ranges, COORDINATOR]}
    for (source, target), amount in flow.link_flow.items():
        if amount > least:
            before[target].append(source)
    depth = {COORDINATOR: 0}
    # Along a usable link the range's end rises, so this order has every source before its targets.
    for name in sorted(ranges, key=lambda name: ranges[name].stop):
        depth[name] = 1 + max((depth[source] for source in before[name]), default=-1)
    return max((depth[source] for source in before[COORDINATOR]), default=0)
