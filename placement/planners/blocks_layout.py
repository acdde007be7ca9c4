"""Lays blocks end to end on the layers of a model and names the nodes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from placement.cluster import COORDINATOR
from placement.layers import LayerRange
from placement.planners.blocks_columns import Block, make_block
from placement.planners.kinds import Kind


def trim(blocks: Sequence[Block], layers: int, kinds: Sequence[Kind]) -> list[Block]:
    """Shorten blocks until they cover exactly ``layers`` layers, always the one with the least flow."""
    fitted = list(blocks)
    for _ in range(sum(block.length for block in blocks) - layers):
        weakest = min(range(len(fitted)), key=lambda index: (fitted[index].flow, -fitted[index].length))
        block = fitted.pop(weakest)
        if block.length > 1:
            fitted.insert(weakest, make_block(block.length - 1, block.lanes, kinds))
    return fitted


def lay(blocks: Sequence[Block], kinds: Sequence[Kind]) -> list[list[dict[str, LayerRange]]]:
    """Layer ranges of each lane of each block, in order; nodes of a kind are taken in file order."""
    free = [list(kind.nodes) for kind in kinds]
    laid: list[list[dict[str, LayerRange]]] = []
    first = 0
    for block in blocks:
        lanes: list[dict[str, LayerRange]] = []
        for lane in block.lanes:
            ranges: dict[str, LayerRange] = {}
            start = first
            for kind, held in lane:
                ranges[free[kind].pop(0)] = LayerRange(start, start + held)
                start += held
            lanes.append(ranges)
        laid.append(lanes)
        first += block.length
    return laid


def ranges_of(laid: Sequence[Sequence[dict[str, LayerRange]]]) -> dict[str, LayerRange]:
    """All ranges of what :func:`lay` made."""
    return {name: held for lanes in laid for lane in lanes for name, held in lane.items()}


def links_of(laid: Sequence[Sequence[dict[str, LayerRange]]]) -> list[tuple[str, str]]:
    """The links along the lanes and from every lane of a block to every lane of the next, coordinator included."""
    links: list[tuple[str, str]] = []
    before = [COORDINATOR]
    for lanes in laid:
        names = [list(lane) for lane in lanes]
        links += [(source, lane[0]) for source in before for lane in names]
        links += [(source, target) for lane in names for source, target in itertools.pairwise(lane)]
        before = [lane[-1] for lane in names]
    return links + [(source, COORDINATOR) for source in before]
