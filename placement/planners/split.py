"""Splitting layers and nodes evenly, and saying what is missing; shared by the heuristic planners."""

from __future__ import annotations

from collections.abc import Sequence

from placement.cluster import Node
from placement.errors import PlanError
from placement.layers import LayerRange
from placement.plan import Problem


def even_shares(total: int, maxima: Sequence[int]) -> list[int]:
    """Split ``total`` into shares as equal as their maxima allow; the odd ones go to the last.

    Args:
        total: What to split, at most ``sum(maxima)``.
        maxima: Greatest value of each share; shape ``(n,)``.

    Returns:
        The shares; shape ``(n,)``, sum ``total``.
    """
    assert total <= sum(maxima), "callers check that there is room"
    shares = [0] * len(maxima)
    for _ in range(total):
        open_shares = [index for index, most in enumerate(maxima) if shares[index] < most]
        least = min(shares[index] for index in open_shares)
        shares[max(index for index in open_shares if shares[index] == least)] += 1
    return shares


def chain_ranges(nodes: Sequence[Node], shares: Sequence[int]) -> dict[str, LayerRange]:
    """Consecutive ranges of the given lengths, one a node; nodes with no share are left out."""
    ranges: dict[str, LayerRange] = {}
    start = 0
    for node, share in zip(nodes, shares, strict=True):
        if share > 0:
            ranges[node.name] = LayerRange(start, start + share)
            start += share
    return ranges


def groups_that_hold(needed: int, maxima: Sequence[int]) -> list[range]:
    """Cut a sequence into as many consecutive groups as possible whose maxima add up to ``needed`` each.

    The groups cover the whole sequence and have as equal sums as their number and the order allow without search.

    Returns:
        Index range of each group; empty when all together are too few.
    """
    # left[i]: how many groups the elements from i on still make.
    left = [_count_groups(needed, maxima[index:]) for index in range(len(maxima) + 1)]
    if left[0] == 0:
        return []
    groups: list[range] = []
    start, held = 0, 0
    for index, most in enumerate(maxima):
        held += most
        missing = left[0] - len(groups) - 1
        fair = sum(maxima[start:]) / (missing + 1)
        following = maxima[index + 1] if index + 1 < len(maxima) else 0
        full = held >= needed and held + following / 2 >= fair
        if missing > 0 and held >= needed and (full or left[min(index + 2, len(maxima))] < missing):
            groups.append(range(start, index + 1))
            start, held = index + 1, 0
    return [*groups, range(start, len(maxima))]


def _count_groups(needed: int, maxima: Sequence[int]) -> int:
    groups = held = 0
    for most in maxima:
        held += most
        if held >= needed:
            groups, held = groups + 1, 0
    return groups


def describe(problem: Problem, nodes: Sequence[Node], *, allow_over_profile: bool = False) -> str:
    """Who holds how much, for messages: ``4 A100 x 12, 8 L4 x 7 layers``."""
    counts: dict[tuple[str, int], int] = {}
    for node in nodes:
        key = (node.machine_type, problem.most_layers(node, allow_over_profile=allow_over_profile))
        counts[key] = counts.get(key, 0) + 1
    return ", ".join(f"{count} {kind} x {most}" for (kind, most), count in counts.items()) + " layers"


def require_room(problem: Problem, planner: str) -> None:
    """Check that all nodes together can hold the model.

    Raises:
        PlanError: They cannot; it says how many layers and bytes are missing.
    """
    cluster, model = problem.cluster, problem.model
    room = sum(problem.most_layers(node) for node in cluster.nodes)
    if room < model.layers:
        missing = model.layers - room
        raise PlanError(
            f"{planner}: {model.name} has {model.layers} layers, but cluster {cluster.name} holds at most {room} "
            f"({describe(problem, cluster.nodes)}); {missing} layers ({missing * model.layer_bytes / 1e9:.1f} GB of "
            f"weights) are missing, so add machines or take a smaller model"
        )
