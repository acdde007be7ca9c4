"""Checks of what the MILP planner is given: pinned and forbidden nodes, room, links, the placement to start from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from placement.cluster import COORDINATOR, Cluster
from placement.errors import PlanError
from placement.flow import MaxFlow, build_flow_graph, max_flow
from placement.layers import LayerRange, Placement
from placement.plan import Problem
from placement.planners.milp_model import Formulation, Pair
from placement.planners.restrictions import require_possible

RangeLike = LayerRange | Sequence[int]
"""A layer range, or its start and stop."""


def layer_ranges(ranges: Mapping[str, RangeLike], what: str) -> dict[str, LayerRange]:
    """Node name -> layer range, from ranges or ``[start, stop]`` pairs.

    Raises:
        PlanError: A value is neither.
    """
    read: dict[str, LayerRange] = {}
    problems: list[str] = []
    for name, given in ranges.items():
        if isinstance(given, LayerRange):
            read[name] = given
        elif len(given) != 2 or any(isinstance(one, bool) or not isinstance(one, int) for one in given):
            problems.append(f"milp: {what} of {name} is {given!r}; write [start, stop], two whole numbers")
        else:
            read[name] = LayerRange(*given)
    if problems:
        raise PlanError(problems)
    return read


def require_solvable(problem: Problem, formulation: Formulation) -> None:
    """Check what can be known without a solver: names, pinned ranges, room, links.

    Raises:
        PlanError: With one sentence per problem; it says what is missing.
    """
    require_possible(problem, "milp", formulation.pinned, formulation.forbidden)
    problems = _no_way(problem, formulation)
    if problems:
        raise PlanError(problems)


def _no_way(problem: Problem, formulation: Formulation) -> list[str]:
    cluster, pinned, last = problem.cluster, formulation.pinned, problem.model.layers
    names = [node.name for node in formulation.members(problem)]
    linked = cluster.link
    heads = [name for name in names if linked(COORDINATOR, name) and (name not in pinned or pinned[name].start == 0)]
    tails = [name for name in names if linked(name, COORDINATOR) and (name not in pinned or pinned[name].stop == last)]
    problems = []
    if not heads:
        problems.append(
            f"milp: cluster {cluster.name} has no link {COORDINATOR} -> node for any node that may hold layer 0; "
            f"add one"
        )
    if not tails:
        problems.append(
            f"milp: cluster {cluster.name} has no link node -> {COORDINATOR} for any node that may hold layer "
            f"{last - 1}; add one"
        )
    if not problems and not _reachable(cluster, names, heads) & set(tails):
        problems.append(
            f"milp: no chain of links in cluster {cluster.name} leads from {COORDINATOR} over nodes back to it; "
            f"nodes with a link from it: {', '.join(heads)}; nodes with a link to it: {', '.join(tails)}"
        )
    return problems


def _reachable(cluster: Cluster, names: list[str], heads: list[str]) -> set[str]:
    seen, frontier = set(heads), list(heads)
    while frontier:
        source = frontier.pop()
        onward = [name for name in names if name not in seen and cluster.link(source, name) is not None]
        seen.update(onward)
        frontier += onward
    return seen


def exact_flow(
    problem: Problem, formulation: Formulation, placement: Placement, links: Sequence[Pair] | None = None
) -> MaxFlow:
    """Exact maximum flow of a placement, entering nodes past their first layer only where the formulation lets it."""
    graph = build_flow_graph(
        problem.cluster,
        problem.model,
        placement,
        problem.throughput,
        links=links,
        partial_inference=formulation.partial_inference,
    )
    return max_flow(graph)


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A placement of all nodes to begin with.

    Attributes:
        placement: A range for every node of the program.
        flow: Its exact maximum flow.
        changed: Nodes whose range had to be changed to fit the options, in file order.
    """

    placement: Placement
    flow: MaxFlow
    changed: tuple[str, ...]

    @property
    def used_links(self) -> list[Pair]:
        """Links that carry flow."""
        return [pair for pair, flow in self.flow.link_flow.items() if flow > 0]


def fit_start(problem: Problem, formulation: Formulation, given: Placement) -> Start:
    """Make a placement one of the program's: pinned nodes as pinned, no node above its maximum, no node without layers.

    Raises:
        PlanError: It names a node that does not exist, or a layer past the model's end.
    """
    problems = [
        f"milp: the start places {name}, which is no node of cluster {problem.cluster.name}; remove it"
        for name in given
        if name not in problem.cluster
    ]
    problems += [
        f"milp: the start gives {name} {held}, but {problem.model.name} has only {problem.model.layers} layers"
        for name, held in given.ranges.items()
        if held.stop > problem.model.layers
    ]
    if problems:
        raise PlanError(problems)
    ranges: dict[str, LayerRange] = {}
    for node in formulation.members(problem):
        # The program has no node without layers; one layer is the least that it can hold.
        held = formulation.pinned.get(node.name) or given.ranges.get(node.name) or LayerRange(0, 1)
        ranges[node.name] = LayerRange(held.start, min(held.stop, held.start + problem.most_layers(node)))
    placement = Placement(ranges)
    return Start(
        placement=placement,
        flow=exact_flow(problem, formulation, placement),
        changed=tuple(name for name, held in given.ranges.items() if ranges.get(name) != held),
    )
