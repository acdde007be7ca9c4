"""Blocks: parallel lanes with a common start and end, and how many layers they can cover (PLANNER.md, BLOCKS).

A *lane* is a chain of nodes; a *block* is one to three lanes, or up to eight of one rate, over the same layers whose
slowest nodes' rates add up to the target flow F. Blocks laid end to end serve F without partial inference. For a
target F,

    max sum_B b_B z_B   s.t.   sum_B u_Bt z_B <= N_t for every kind t,   sum_B d_B z_B <= H,   z_B whole

(b layers, u nodes used, d nodes in the longest lane, H a cap on the depth) has to reach L. Instead of listing all
blocks, columns are generated: for prices m_t and h of the rows, the cheapest lane of at least b layers and at most d
nodes at rate c is a knapsack over ``kmax_t(c) = max {k: T_t(k) >= c}``, solved for all c, b and d at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from placement.effort import BLOCK_S, ELEMENT_S, spend
from placement.planners.kinds import Kind
from placement.planners.linear import Vector

LONGEST_LANE = 10
"""Most nodes in a lane of a block; longer single lanes are several blocks."""

EQUAL_LANES = (4, 5, 6, 8)
"""Numbers of lanes beyond three; all such lanes of a block have one rate, so that combinations stay few."""

LONGEST_BLOCK = 40
"""Most layers in a block."""

Lane = tuple[tuple[int, int], ...]
"""(index of a kind, held layers) of each node in turn."""


@dataclass(frozen=True, slots=True)
class Block:
    """Lanes over the same ``length`` layers.

    Attributes:
        length: Layers that it covers.
        lanes: Its lanes; each covers exactly ``length`` layers.
        flow: Sum over the lanes of the rate of their slowest node, in tokens/s.
    """

    length: int
    lanes: tuple[Lane, ...]
    flow: float

    @property
    def depth(self) -> int:
        """Nodes in the longest lane."""
        return max(len(lane) for lane in self.lanes)

    def usage(self, kinds: int) -> list[int]:
        """Nodes of each kind; shape ``(kinds,)``."""
        used = [0] * kinds
        for lane in self.lanes:
            for kind, _ in lane:
                used[kind] += 1
        return used


def lane_rate(lane: Lane, kinds: Sequence[Kind]) -> float:
    """Tokens/s of a lane's slowest node."""
    return min(kinds[kind].rates[layers - 1] for kind, layers in lane)


def shorten(lane: Lane, length: int, kinds: Sequence[Kind]) -> Lane:
    """Take layers from the slowest nodes until a lane covers ``length`` layers; nodes left with none go."""
    held = [list(slot) for slot in lane]
    for _ in range(sum(layers for _, layers in lane) - length):
        slowest = min(held, key=lambda slot: (kinds[slot[0]].rates[slot[1] - 1], -slot[1]))
        slowest[1] -= 1
        held = [slot for slot in held if slot[1] > 0]
    return tuple((kind, layers) for kind, layers in held)


def make_block(length: int, lanes: Sequence[Lane], kinds: Sequence[Kind]) -> Block:
    """A block of exactly ``length`` layers from lanes that cover at least as many."""
    fitted = tuple(shorten(lane, length, kinds) for lane in lanes)
    return Block(length, fitted, math.fsum(lane_rate(lane, kinds) for lane in fitted))


class BlockPricer:
    """Finds the blocks that are worth most under given prices, for one target flow."""

    def __init__(
        self, kinds: Sequence[Kind], layers: int, flow: float, *, max_depth: int | None = None, most_lanes: int = 3
    ) -> None:
        self.kinds = kinds
        self.flow = flow
        self._longest = min(LONGEST_LANE, max_depth or LONGEST_LANE)
        self._width = min(layers, LONGEST_BLOCK)
        rates = sorted({rate for kind in kinds for rate in kind.rates if rate > 0})
        self._rates = rates
        self._most = np.array([[kind.layers_at(rate) for kind in kinds] for rate in rates], np.int64)
        lanes = {count: self._combinations(count) for count in range(1, most_lanes + 1)}
        lanes |= {count: self._equal(count) for count in EQUAL_LANES}
        self._by_count = {count: np.array(found, np.int64).reshape(-1, count) for count, found in lanes.items()}

    def _equal(self, count: int) -> list[tuple[int, ...]]:
        """The least rate (as index) that reaches the flow in this many lanes."""
        need = int(np.searchsorted(self._rates, self.flow / count * (1 - 1e-12)))
        return [(need,) * count] if need < len(self._rates) else []

    def _combinations(self, count: int) -> list[tuple[int, ...]]:
        """Falling rates (as indices) whose sum reaches the flow only with the last, which is the least that does."""
        rates = self._rates
        found: list[tuple[int, ...]] = []

        def extend(chosen: tuple[int, ...], rest: float) -> None:
            need = int(np.searchsorted(rates, rest * (1 - 1e-12)))
            last = chosen[-1] if chosen else len(rates) - 1
            if len(chosen) == count - 1:
                if need <= last:
                    found.append((*chosen, need))
                return
            # A lane that reaches the rest alone leaves nothing for further lanes; the last one must not exceed it.
            for index in range(min(last, need - 1), -1, -1):
                if rates[index] * (count - len(chosen)) < rest * (1 - 1e-12):
                    break
                extend((*chosen, index), rest - rates[index])

        extend((), self.flow)
        return found

    def price(self, prices: Vector, depth_price: float, *, least_profit: float = 1e-6, most: int = 40) -> list[Block]:
        """The best blocks: ``b - sum_t m_t u_t - h d`` above ``least_profit``, at most one for each set of rates.

        Args:
            prices: m; shape ``(kinds,)``.
            depth_price: h.
            least_profit: Blocks worth less are left out.
            most: Most blocks to return, best first.
        """
        costs, choices = self._cheapest_lanes(prices)
        found: list[tuple[float, tuple[int, ...], int, int]] = []
        lengths = np.arange(self._width + 1, dtype=np.float64)
        for combos in self._by_count.values():
            if not len(combos):
                continue
            # price[combination, b]; one depth at a time keeps the arrays small.
            best = np.full(len(combos), -np.inf)
            worth = np.full(len(combos), -np.inf)
            where = np.zeros((len(combos), 2), np.int64)
            for depth in range(1, self._longest + 1):
                price = depth_price * depth + costs[depth][combos].sum(axis=1)
                # By ratio, not by difference: several blocks in a row are worth more, but no better, than one.
                ratio = lengths / np.maximum(price, 1e-9)
                spend(4 * ELEMENT_S * ratio.size)
                longest = ratio.argmax(axis=1)
                value = ratio[np.arange(len(combos)), longest]
                better = value > best + 1e-9
                best[better] = value[better]
                worth[better] = (longest - price[np.arange(len(combos)), longest])[better]
                where[better] = np.column_stack((np.full(int(better.sum()), depth), longest[better]))
            for index in np.flatnonzero(worth > least_profit):
                depth, length = where[index]
                found.append((float(worth[index]), tuple(int(one) for one in combos[index]), int(depth), int(length)))
        found.sort(key=lambda item: (-item[0], item[1]))
        return [self._block(choices, *item[1:]) for item in found[:most]]

    def by_length(self, prices: Vector, *, least_profit: float, most: int = 400) -> list[Block]:
        """Blocks of two lanes or more, the best for each set of rates and each length, that the nodes suffice for.

        Args:
            prices: m; shape ``(kinds,)``.
            least_profit: Blocks worth less, as in :meth:`price`, are left out.
            most: Most blocks to return, best first.
        """
        costs, choices = self._cheapest_lanes(prices)
        found: list[tuple[float, tuple[int, ...], int]] = []
        for count, combos in self._by_count.items():
            if count > 1 and len(combos):
                profit = np.arange(self._width + 1) - costs[self._longest][combos].sum(axis=1)
                profit[:, 0] = -np.inf
                for index, length in np.argwhere(profit > least_profit):
                    found.append((float(profit[index, length]), tuple(int(one) for one in combos[index]), int(length)))
        found.sort(key=lambda item: (-item[0], item[2], item[1]))
        blocks = (self._block(choices, rates, self._longest, length) for _, rates, length in found[: 4 * most])
        counts = [kind.count for kind in self.kinds]
        fitting = [
            block
            for block in blocks
            if all(used <= count for used, count in zip(block.usage(len(counts)), counts, strict=True))
        ]
        return fitting[:most]

    def _cheapest_lanes(self, prices: Vector) -> tuple[list[Vector], list[npt.NDArray[np.int64]]]:
        """``cost[d][c, b]``: least price of at most d nodes that cover b layers at rate c, and the last kind taken."""
        shape = (len(self._rates), self._width + 1)
        cost = np.full(shape, np.inf)
        cost[:, 0] = 0.0
        costs, choices = [cost], [np.full(shape, -1, np.int64)]
        rows = np.arange(len(self._rates))[:, None]
        backs = [np.maximum(np.arange(shape[1])[None, :] - self._most[:, [kind]], 0) for kind in range(len(self.kinds))]
        for _ in range(self._longest):
            before, cost = costs[-1], costs[-1].copy()
            choice = np.full(shape, -1, np.int64)
            for kind in range(len(self.kinds)):
                offer = prices[kind] + before[rows, backs[kind]]
                better = (offer < cost - 1e-12) & (self._most[:, [kind]] > 0)
                cost[better] = offer[better]
                choice[better] = kind
            costs.append(cost)
            choices.append(choice)
        spend(4 * ELEMENT_S * self._longest * len(self.kinds) * cost.size)
        return costs, choices

    def _block(self, choices: list[npt.NDArray[np.int64]], rates: tuple[int, ...], depth: int, length: int) -> Block:
        spend(BLOCK_S)
        lanes: list[Lane] = []
        for rate in rates:
            lane: list[tuple[int, int]] = []
            rest = length
            for level in range(depth, 0, -1):
                kind = int(choices[level][rate, rest])
                if kind >= 0 and rest > 0:
                    lane.append((kind, int(self._most[rate, kind])))
                    rest = max(0, rest - lane[-1][1])
            lanes.append(tuple(lane))
        return make_block(length, lanes, self.kinds)
