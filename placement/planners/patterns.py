"""Which machines, at how many layers each, serve one layer at F tokens/s: a covering knapsack (PLANNER.md, CONF-LP)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from placement.effort import spend
from placement.planners.kinds import Kind

GRID = 2000
"""Steps into which the knapsack divides the greatest F."""

SEARCH_LIMIT = 20_000
"""Nodes of one exact search before it gives up."""

LEVEL_S, STEP_S = 5e-6, 1e-6
"""What a grid step and a node of an exact search cost where time is measured by work."""


@dataclass(frozen=True, slots=True)
class Slot:
    """One node of a kind that holds ``layers`` layers, as it counts for one of them.

    Attributes:
        kind: Index of the kind.
        layers: Layers that the node holds; a single layer uses ``1 / layers`` of it.
        rate: Its tokens/s.
    """

    kind: int
    layers: int
    rate: float


Pattern = tuple[tuple[int, float], ...]
"""(index of a kind, nodes of it that one layer uses), sorted."""


def slots_of(kinds: Sequence[Kind]) -> list[Slot]:
    """Every slot with a positive rate that no other of its kind beats in both rate and layers."""
    slots: list[Slot] = []
    for index, kind in enumerate(kinds):
        best = 0.0
        for layers in range(kind.most_layers, 0, -1):
            rate = kind.rates[layers - 1]
            if rate > best:
                slots.append(Slot(index, layers, rate))
                best = rate
    return slots


def pattern_of(slots: Sequence[Slot]) -> Pattern:
    """Nodes of each kind that one layer uses when these slots serve it."""
    use: dict[int, float] = {}
    for slot in slots:
        use[slot.kind] = use.get(slot.kind, 0.0) + 1.0 / slot.layers
    return tuple(sorted(use.items()))


class GridKnapsack:
    """Cheapest slots that cover every F up to ``most``, with rates rounded up to a grid.

    Rounding up makes every true pattern a pattern of the grid, so its least cost is never above the true one.
    """

    def __init__(self, slots: Sequence[Slot], most: float, grid: int = GRID) -> None:
        self._slots = slots
        self._step = most / grid
        self._weights = np.array([min(grid, int(np.ceil(slot.rate / self._step * (1 - 1e-12)))) for slot in slots])
        # Shifted by the greatest weight, so that covering a negative rest is an index, too, and costs nothing.
        self._offset = int(self._weights.max(initial=0))
        self._cost: npt.NDArray[np.float64] = np.zeros(self._offset + grid + 1)
        self._items: npt.NDArray[np.float64] = np.zeros(len(slots))

    def level(self, flow: float) -> int:
        """Grid steps that cover ``flow``; never too many."""
        return min(len(self._cost) - 1 - self._offset, max(1, int(np.floor(flow / self._step * (1 - 1e-12)))))

    def price(self, prices: Sequence[float], top: int) -> npt.NDArray[np.float64]:
        """Least cost of covering 0 .. ``top`` grid steps when a kind t node costs ``prices[t]``; shape (top + 1,)."""
        items = self._items = np.array([prices[slot.kind] / slot.layers for slot in self._slots])
        offset, cost = self._offset, self._cost
        back = offset - self._weights
        for level in range(1, top + 1):
            cost[offset + level] = (items + cost[back + level]).min()
        spend(LEVEL_S * top)
        return cost[offset : offset + top + 1]

    def cheapest(self, level: int) -> list[list[Slot]]:
        """For each slot the cheapest pattern with it that covers ``level`` steps, under the last prices."""
        found: list[list[Slot]] = []
        for first in range(len(self._slots)):
            chosen, rest = [self._slots[first]], level - int(self._weights[first])
            while rest > 0:
                options = self._items + self._cost[self._offset - self._weights + rest]
                best = int(options.argmin())
                chosen.append(self._slots[best])
                rest -= int(self._weights[best])
            found.append(chosen)
        return found


def exact_cheapest(
    slots: Sequence[Slot], prices: Sequence[float], flow: float, *, fewest: int = 1
) -> tuple[float, list[Slot]] | None:
    """The cheapest slots, ``fewest`` at least, whose rates add up to ``flow`` or more, without rounding.

    Depth-first over slots in the order of cost per rate; a branch ends where its cost plus the rest at the best
    remaining cost per rate is no better than the best so far.

    Returns:
        Cost and slots, or ``None`` after :data:`SEARCH_LIMIT` branches.
    """
    useful = [(prices[slot.kind] / slot.layers, slot) for slot in _by_flow(slots, flow)]
    order = sorted(
        ((price / min(slot.rate, flow), price, slot) for price, slot in useful), key=lambda item: (item[0], -item[1])
    )
    best, best_slots = float("inf"), list[Slot]()
    stack: list[tuple[int, float, float, tuple[Slot, ...]]] = [(0, 0.0, 0.0, ())]
    for branches in range(SEARCH_LIMIT):
        if not stack:
            spend(STEP_S * branches)
            return best, best_slots
        index, cost, covered, chosen = stack.pop()
        if covered >= flow and len(chosen) >= fewest:
            if cost < best:
                best, best_slots = cost, list(chosen)
            continue
        if index == len(order) or cost + max(0.0, flow - covered) * order[index][0] >= best:
            continue
        _, price, slot = order[index]
        stack.append((index + 1, cost, covered, chosen))
        if cost + price < best:
            stack.append((index, cost + price, covered + slot.rate, (*chosen, slot)))
    spend(STEP_S * SEARCH_LIMIT)
    return None


def _by_flow(slots: Sequence[Slot], flow: float) -> list[Slot]:
    """Slots that can be useful at ``flow``: of those that reach it alone, only the one with most layers of its kind."""
    most: dict[int, int] = {}
    for slot in slots:
        if slot.rate >= flow:
            most[slot.kind] = max(most.get(slot.kind, 0), slot.layers)
    return [slot for slot in slots if slot.rate < flow or most[slot.kind] == slot.layers]
