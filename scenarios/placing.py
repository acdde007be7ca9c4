"""A scenario's placement: planned, or as written; checked against model, cluster and profiles."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from placement.cluster import COORDINATOR, Cluster
from placement.errors import PlanError
from placement.layers import LayerRange, Placement, check_placement
from placement.model import ModelSpec
from placement.plan import Plan, problem_for
from placement.planners import planner
from placement.profile import MachineProfile
from placement.throughput import ThroughputModel
from scenarios.errors import Problem, ScenarioError
from scenarios.objectives import Objective
from scenarios.schema import PlacementSection
from scenarios.tree import Plain, Tree, TreePath
from scenarios.validation import problem_at


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A placement that works.

    Attributes:
        placement: Who holds which layers.
        cluster: The cluster, its network reduced to the pairs that may be used if those are given.
        resolved: The placement section that gives the same again without a planner.
        plan: The plan, when a planner made it.
    """

    placement: Placement
    cluster: Cluster
    resolved: dict[str, Plain]
    plan: Plan | None = None


def plan_problems(error: PlanError, tree: Tree, path: TreePath) -> Iterator[Problem]:
    """The sentences of a domain error as problems, as close to the place as they tell."""
    for sentence in error.problems:
        rule, _, remedy = sentence.removeprefix("placement: ").rpartition("; ")
        named = re.match(r"placement: (\S+) (?:holds|is|\()", sentence)
        at = ("placement", "ranges", named[1]) if named else path
        ranges = tree.at(("placement", "ranges"))
        if tree.at(at) is None:
            at = path
        elif named is None and path == ("placement",) and ranges is not None:
            at = ("placement", "ranges")
        yield problem_at(tree, at, rule or remedy, remedy if rule else "change the values it names")


def place(
    section: PlacementSection,
    tree: Tree,
    cluster: Cluster,
    model: ModelSpec,
    profiles: Mapping[str, MachineProfile],
    seed: int,
) -> Placed:
    """The placement of a scenario; an empty one where its objective is still to rank plans.

    Args:
        section: What the scenario says about it.
        tree: The scenario.
        cluster: Nodes and network.
        model: The served model.
        profiles: Machine type -> profile, for every machine type of the cluster.
        seed: The planner's seed.

    Raises:
        ScenarioError: The planner does not exist or fails, or the placement cannot serve the model.
    """
    problems = list(_throughput_problems(tree, cluster, model, profiles))
    if problems:
        raise ScenarioError(problems)
    if section.objective is not Objective.FLOW:
        # Ranking plans takes the whole run; see scenarios.crossing.
        return Placed(placement=Placement({}), cluster=cluster, resolved={})
    if section.planner is not None:
        return _planned(section, tree, cluster, model, profiles, seed)
    placement = written_ranges(section, tree)
    pairs = section.links
    reduced = _reduced(cluster, pairs, tree)
    try:
        check_placement(placement, reduced, model, profiles, allow_over_profile=section.allow_over_profile)
    except PlanError as error:
        raise ScenarioError(plan_problems(error, tree, ("placement",))) from None
    if not section.partial_inference and not _reaches_end_whole(placement, reduced, model):
        rule = (
            "without partial inference no chain of links leads through all layers: no range starts where another ends"
        )
        raise ScenarioError(
            problem_at(tree, ("placement", "partial_inference"), rule, "change ranges, or set partial_inference: true")
        )
    return Placed(placement=placement, cluster=reduced, resolved=_resolved(section, tree, placement, pairs))


def written_ranges(section: PlacementSection, tree: Tree) -> Placement:
    """The ranges of a section that has no planner.

    Raises:
        ScenarioError: Empty ranges, a range that is none, or a file where the ranges should be.
    """
    if section.ranges is None:
        rule = "a placement file has ranges itself, it cannot name another file"
        raise ScenarioError(problem_at(tree, ("placement", "file"), rule, "name the file with the ranges"))
    problems: list[Problem] = []
    ranges: dict[str, LayerRange] = {}
    for name, (start, stop) in section.ranges.items():
        if start >= stop:
            rule = f"the range [{start}, {stop}) is empty; start must be less than stop (the layer after the last)"
            problems.append(problem_at(tree, ("placement", "ranges", name), rule, "correct it, or remove the node"))
        else:
            ranges[name] = LayerRange(start, stop)
    if not section.ranges:
        problems.append(problem_at(tree, ("placement", "ranges"), "no node holds any layer", "add node: [start, stop]"))
    if problems:
        raise ScenarioError(problems)
    return Placement(ranges)


def coverage_problems(section: PlacementSection, tree: Tree, model: ModelSpec) -> Iterator[Problem]:
    """What can be said about ranges while the cluster or the profiles are not in order."""
    if section.ranges is None:
        return
    try:
        placement = written_ranges(section, tree)
    except ScenarioError as error:
        yield from error.problems
        return
    reached = 0
    for held in sorted(placement.ranges.values()):
        if held.start > reached:
            rule = f"no node holds layers [{reached}, {held.start})"
            yield problem_at(tree, ("placement", "ranges"), rule, "every layer needs a node")
        reached = max(reached, held.stop)
    if reached < model.layers:
        rule = f"no node holds layers [{reached}, {model.layers})"
        yield problem_at(tree, ("placement", "ranges"), rule, "every layer needs a node")
    for name, held in placement.ranges.items():
        if held.stop > model.layers:
            rule = f"{name} holds {held}, but {model.name} has only {model.layers} layers"
            yield problem_at(tree, ("placement", "ranges", name), rule, "end it at the last layer")


def _throughput_problems(
    tree: Tree, cluster: Cluster, model: ModelSpec, profiles: Mapping[str, MachineProfile]
) -> Iterator[Problem]:
    """Profiles for which the node throughput formula has no answer; planners and schedulers live by it."""
    try:
        throughput = ThroughputModel(model, profiles, cluster.machine_counts())
        for kind in cluster.machine_counts():
            for layers in range(1, min(profiles[kind].max_layers, model.layers) + 1):
                speed = throughput.tokens_per_s(kind, layers)
                if not (math.isfinite(speed) and speed > 0):
                    raise ZeroDivisionError(f"{speed:g} tokens/s")
    except (ArithmeticError, ValueError):
        rule = f"the profiles of {', '.join(cluster.machine_counts())} give no node throughput"
        remedy = "check their latency tables and KV blocks: times above 0 and rising, no figure far from the others"
        yield problem_at(tree, ("profiles",), rule, remedy)


def _planned(
    section: PlacementSection,
    tree: Tree,
    cluster: Cluster,
    model: ModelSpec,
    profiles: Mapping[str, MachineProfile],
    seed: int,
) -> Placed:
    path: TreePath = ("placement", "planner")
    name = section.planner or ""
    own = ":" in name
    try:
        made = planner(name, **section.options)
        plan: Plan = made.plan(problem_for(cluster, model, profiles, seed))
    except PlanError as error:
        raise ScenarioError(plan_problems(error, tree, path)) from None
    except Exception as error:
        # Foreign code may raise anything; a fault of a shipped planner must not be hidden.
        if not own:
            raise
        rule = f"this planner failed: {type(error).__name__}: {error}"
        raise ScenarioError(problem_at(tree, path, rule, "correct the planner or its options")) from error
    return placed_by(plan, section, tree, cluster)


def placed_by(plan: Plan, section: PlacementSection, tree: Tree, cluster: Cluster) -> Placed:
    """What a plan makes of a section that names a planner."""
    allow = section.allow_over_profile or plan.allow_over_profile
    resolved = _resolved(section, tree, plan.placement, plan.links, allow_over_profile=allow)
    reduced = _reduced(cluster, plan.links, tree)
    return Placed(placement=plan.placement, cluster=reduced, resolved=resolved, plan=plan)


def _resolved(
    section: PlacementSection,
    tree: Tree,
    placement: Placement,
    links: tuple[tuple[str, str], ...] | None,
    *,
    allow_over_profile: bool | None = None,
) -> dict[str, Plain]:
    part = tree.child("placement")
    written = part.plain() if part is not None else {}
    resolved: dict[str, Plain] = dict(written) if isinstance(written, dict) else {}
    if section.planner is not None:
        options = resolved.pop("options", {})
        record: dict[str, Plain] = {"planner": resolved.pop("planner"), "options": options}
        if "objective" in resolved:
            record["objective"] = resolved.pop("objective")
        resolved["planned_by"] = record
    resolved["ranges"] = {name: [held.start, held.stop] for name, held in placement.ranges.items()}
    if links is not None:
        resolved["links"] = [list(pair) for pair in links]
    if allow_over_profile:
        resolved["allow_over_profile"] = True
    return resolved


def _reduced(cluster: Cluster, links: tuple[tuple[str, str], ...] | None, tree: Tree) -> Cluster:
    """The cluster with no link but those between the given pairs."""
    if links is None:
        return cluster
    problems: list[Problem] = []
    for index, pair in enumerate(links):
        lost = [end for end in pair if end != COORDINATOR and end not in cluster]
        if lost or cluster.link(*pair) is None:
            rule = f"{lost[0]} is no node of the cluster" if lost else f"the cluster has no link {pair[0]} -> {pair[1]}"
            problems.append(problem_at(tree, ("placement", "links", index), rule, "correct or remove the pair"))
    if problems:
        raise ScenarioError(problems)
    return cluster.reduced_to(links)


def _reaches_end_whole(placement: Placement, cluster: Cluster, model: ModelSpec) -> bool:
    """Whether a chain of whole ranges leads from the coordinator back to it."""
    frontier, seen = [COORDINATOR], {COORDINATOR}
    while frontier:
        source = frontier.pop()
        for target in (*placement, COORDINATOR):
            usable = placement.usable(source, target, model.layers, partial_inference=False)
            if not usable or cluster.link(source, target) is None:
                continue
            if target == COORDINATOR:
                return True
            if target not in seen:
                seen.add(target)
                frontier.append(target)
    return False
