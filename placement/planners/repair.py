"""Mends a placement that lost nodes, or takes in nodes that joined, while few layers move."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from placement.layers import LayerRange
from placement.plan import Problem
from placement.planners.polish import CoverageSearch
from placement.planners.progress import Progress

SHARES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.35, 0.2)
"""Targets that are tried, in shares of the bound."""

STICKINESS = (0.0, 0.3, 1.0)
"""What a layer that has to be loaded counts against a gain, in shares of the target."""


def repair(
    progress: Progress, names: Sequence[str], start: Mapping[str, LayerRange], loaded: Mapping[str, LayerRange]
) -> None:
    """Let nodes choose the ranges that the layers lack most, those without a range first.

    Args:
        progress: Holds a bound; takes the placements.
        names: Nodes whose ranges may change; others keep that of ``start``.
        start: Where to begin.
        loaded: Ranges whose layers are loaded.
    """
    held = [name for name in start if name not in set(names)]
    search = CoverageSearch([*names, *held], progress.evaluate, progress.problem.model.layers, progress.problem.seed)
    order = sorted(range(len(names)), key=lambda index: names[index] in start)
    new = [search.new_layers(index, loaded.get(names[index])) for index in range(len(names))]
    idle = [index for index in order if names[index] not in start]
    for share in SHARES:
        for stickiness in STICKINESS:
            if progress.left_s <= 0:
                return
            target = share * progress.bound
            dear = np.float64(stickiness * target)
            search.start_from(start)
            for index in idle:
                search.step(index, target, 0.0, dear * new[index])
            _offer(progress, search)
            for index in order:
                if progress.left_s <= 0:
                    return
                search.step(index, target, 0.0, dear * new[index])
                if search.coverage >= target:
                    break
            _offer(progress, search)


def _offer(progress: Progress, search: CoverageSearch) -> None:
    ranges = search.ranges()
    # The coverage is an upper bound on the flow, so what cannot win costs no flow.
    if search.coverage * (1 + 1e-9) - progress.charge(ranges) > progress.worth:
        progress.offer(ranges)


def fitting(
    problem: Problem, ranges: Mapping[str, LayerRange], members: Collection[str], pinned: Mapping[str, LayerRange]
) -> dict[str, LayerRange]:
    """A placement with pinned nodes as pinned, no node but ``members``, and none above its most layers."""
    fitted: dict[str, LayerRange] = {}
    for node in problem.cluster.nodes:
        held = pinned.get(node.name) or ranges.get(node.name)
        if held is not None and node.name in members:
            most = problem.most_layers(node)
            fitted[node.name] = LayerRange(held.start, min(held.stop, held.start + most))
    return fitted
