"""Nodes that must hold a given range and nodes that must hold nothing: whether a plan can exist under them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from placement.errors import PlanError
from placement.layers import LayerRange
from placement.plan import Problem
from placement.planners.split import describe


def require_possible(
    problem: Problem, planner: str, pinned: Mapping[str, LayerRange], forbidden: Collection[str]
) -> None:
    """Check names, pinned ranges and room.

    Args:
        problem: What is to be planned.
        planner: Begins the sentences.
        pinned: Node name -> the only range that it may hold.
        forbidden: Nodes that are to hold nothing.

    Raises:
        PlanError: With one sentence per problem; it says what is missing and how much.
    """
    problems = _wrong_nodes(problem, planner, pinned, forbidden) or _too_little_room(
        problem, planner, pinned, forbidden
    )
    if problems:
        raise PlanError(problems)


def _wrong_nodes(
    problem: Problem, planner: str, pinned: Mapping[str, LayerRange], forbidden: Collection[str]
) -> list[str]:
    cluster, model = problem.cluster, problem.model
    problems = [
        f"{planner}: {what} node {name} is no node of cluster {cluster.name}; remove it"
        for what, names in (("pinned", pinned), ("forbidden", forbidden))
        for name in names
        if name not in cluster
    ]
    for name, held in pinned.items():
        if name not in cluster:
            continue
        most = problem.most_layers(cluster.node(name))
        if name in forbidden:
            problems.append(f"{planner}: node {name} is both pinned to {held} and forbidden; choose one")
        if held.stop > model.layers:
            problems.append(
                f"{planner}: node {name} is pinned to {held}, but {model.name} has only {model.layers} layers"
            )
        if len(held) > most:
            problems.append(
                f"{planner}: node {name} ({cluster.node(name).machine_type}) cannot hold its pinned range {held}: "
                f"{len(held)} layers, but at most {most} fit; {len(held) - most} layers "
                f"({(len(held) - most) * model.layer_bytes / 1e9:.1f} GB of weights) are too many"
            )
    return problems


def _too_little_room(
    problem: Problem, planner: str, pinned: Mapping[str, LayerRange], forbidden: Collection[str]
) -> list[str]:
    model = problem.model
    held = {layer for one in pinned.values() for layer in range(one.start, one.stop)}
    free = [
        node
        for node in problem.cluster.nodes
        if node.name not in pinned and node.name not in forbidden and problem.most_layers(node) > 0
    ]
    needed, room = model.layers - len(held), sum(problem.most_layers(node) for node in free)
    if room >= needed:
        return []
    whose = f" that pinned nodes do not hold ({needed} of {model.layers})" if pinned else ""
    without = f" without {', '.join(forbidden)}" if forbidden else ""
    able = describe(problem, free) if free else "no free nodes"
    return [
        f"{planner}: {model.name} has {needed} layers{whose}, but cluster {problem.cluster.name}{without} holds at "
        f"most {room} ({able}); {needed - room} layers ({(needed - room) * model.layer_bytes / 1e9:.1f} GB of "
        f"weights) are missing, so add machines, free some, or take a smaller model"
    ]
