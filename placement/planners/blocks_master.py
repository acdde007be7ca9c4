"""Chooses blocks so that they cover as many layers as possible at a target flow (PLANNER.md, BLOCKS)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from placement.effort import BLOCK_S, now_s, spend
from placement.planners.blocks_columns import Block, BlockPricer
from placement.planners.kinds import Kind
from placement.planners.linear import Maximisation, Vector

ROUNDS = 40
"""Most rounds of column generation for one target."""

PERTURBATIONS = 4
"""Rounds that look for further columns under disturbed prices, for the sake of the whole-number solution."""

LEAST_PROFIT = -4.0
"""Layers that several lanes at a crossing may cost more than the prices say."""

WHOLE_LAYERS = 0.99
"""A solution whose bound is less than a layer above it is the best there is: blocks have whole numbers of layers."""

NODE_LIMIT = 2_000
"""Branch-and-bound nodes for one target."""


@dataclass(slots=True)
class BlockPool:
    """All blocks made so far; a block made for one flow serves every lesser one.

    Attributes:
        kinds: Counted nodes.
        layers: L.
        max_depth: H, the most nodes on a path; none when ``None``.
        seed: Of the disturbed prices.
        for_region: Whether the layers may be only a stretch in one region of several.
        floor: Layers below which the linear relaxation is not worth more columns.
    """

    kinds: Sequence[Kind]
    layers: int
    max_depth: int | None = None
    seed: int = 0
    for_region: bool = False
    floor: float = 0.0
    _made_for: tuple[float, float] = field(init=False, default=(0.0, 0.0))
    _blocks: dict[tuple[object, ...], Block] = field(init=False, default_factory=dict)

    def reach(
        self,
        flow: float,
        deadline_s: float,
        *,
        ends: tuple[int, int] = (1, 1),
        max_depth: int | None = None,
        needed: int = 1,
        time_limit_s: float = 3.0,
    ) -> list[Block] | None:
        """Blocks of at least ``flow`` tokens/s that cover as many layers as found, until there are L.

        Args:
            flow: Target F in tokens/s.
            deadline_s: :func:`placement.effort.now_s` at which to give up.
            ends: Fewest lanes of the first and of the last block.
            max_depth: A tighter cap on the depth than the pool's.
            needed: Fewest layers.
            time_limit_s: Most seconds for the whole-number programme.

        Returns:
            The blocks, first and last in their places; ``None`` where there are none.
        """
        if self.most_layers(flow, deadline_s) < needed * (1 - 1e-9):
            return None
        usable = self._usable(flow)
        left = min(time_limit_s, deadline_s - now_s())
        if left <= 0 or not usable:
            return None
        master = self._master(usable, max_depth, ends=ends)
        answer = master.solve(
            time_limit_s=left, node_limit=NODE_LIMIT, target=float(self.layers), absolute_gap=WHOLE_LAYERS
        )
        if not answer.has_solution or answer.value < needed - 0.5:
            return None
        chosen = [
            block for block, times in zip(usable, answer.columns, strict=True) for _ in range(round(float(times)))
        ]
        return _with_ends(chosen, ends) if chosen else None

    def most_layers(self, flow: float, deadline_s: float) -> float:
        """Layers that the linear relaxation covers; makes the columns for ``flow``, once."""
        if self._made_for[0] != flow:
            pricer = BlockPricer(self.kinds, self.layers, flow, max_depth=self.max_depth)
            prices, reached = self._generate(pricer, self.max_depth, deadline_s)
            if prices is not None and reached > self.floor:
                self._diversify(pricer, prices, max(0.0, reached - self.layers) + 0.5, deadline_s)
            self._made_for = (flow, reached)
        return self._made_for[1]

    def _diversify(self, pricer: BlockPricer, prices: Vector, slack: float, deadline_s: float) -> None:
        """Add blocks that the linear programme can do without, but a whole-number solution may need."""
        if self.for_region:
            self._add(pricer.by_length(prices[:-1], least_profit=LEAST_PROFIT))
            for cap in self._shallower():
                self._generate(pricer, cap, deadline_s)
        rng = np.random.default_rng((self.seed, 1))
        for _ in range(PERTURBATIONS):
            disturbed = prices * rng.uniform(0.9, 1.1, len(prices))
            self._add(pricer.price(disturbed[:-1], float(disturbed[-1]), least_profit=-slack))

    def _shallower(self) -> list[int]:
        """Depths at which a region of several has to have columns, too, when the depth is capped."""
        if self.max_depth is None:
            return []
        nodes = min(self.max_depth, sum(kind.count for kind in self.kinds))
        return sorted({max(1, round(nodes * share)) for share in (0.4, 0.6, 0.8)})

    def _usable(self, flow: float) -> list[Block]:
        return [block for block in self._blocks.values() if block.flow >= flow * (1 - 1e-12)]

    def _add(self, blocks: Sequence[Block]) -> list[Block]:
        new: list[Block] = []
        for block in blocks:
            key = (block.length, *sorted(block.lanes))
            if key not in self._blocks:
                self._blocks[key] = block
                new.append(block)
        return new

    def _generate(self, pricer: BlockPricer, max_depth: int | None, deadline_s: float) -> tuple[Vector | None, float]:
        """Solve the linear relaxation by column generation: prices of the rows (depth last) and layers covered."""
        if not self._usable(pricer.flow):
            # What CLIP says a node is worth.
            worth = [max(k * min(rate / pricer.flow, 1.0) for k, rate in enumerate(one.rates, 1)) for one in self.kinds]
            self._add(pricer.price(np.array(worth), 0.0, least_profit=-np.inf))
        master = self._master(self._usable(pricer.flow), max_depth, ends=None)
        prices, reached = None, 0.0
        for _ in range(ROUNDS):
            answer = master.solve(time_limit_s=deadline_s - now_s())
            if not answer.has_solution:
                return None, 0.0
            prices, reached = answer.duals.clip(min=0.0), answer.value
            new = self._add(pricer.price(prices[:-1], float(prices[-1])))
            if not new or now_s() >= deadline_s:
                break
            for block in new:
                self._add_column(master, block, integer=False)
        return prices, reached

    def _master(self, blocks: Sequence[Block], max_depth: int | None, *, ends: tuple[int, int] | None) -> Maximisation:
        """The programme over these blocks: in whole numbers with ``ends``, without them its linear relaxation."""
        master = Maximisation()
        for kind in self.kinds:
            master.add_row((), (), upper=kind.count)
        master.add_row((), (), upper=float(max_depth or self.max_depth or 10 * self.layers))
        for block in blocks:
            self._add_column(master, block, integer=ends is not None)
        few, many = sorted(ends or (1, 1))
        for lanes, times in ((many, 1), (few, 2)):
            if lanes > 1:
                wide = [index for index, block in enumerate(blocks) if len(block.lanes) >= lanes]
                master.add_row(wide, [1.0] * len(wide), lower=times)
        return master

    def _add_column(self, master: Maximisation, block: Block, *, integer: bool) -> None:
        spend(BLOCK_S)
        usage = block.usage(len(self.kinds))
        rows = [kind for kind, used in enumerate(usage) if used]
        values = [float(usage[kind]) for kind in rows]
        most = min(self.kinds[kind].count // usage[kind] for kind in rows)
        upper = {"upper": float(most)} if integer else {}
        master.add_column(
            float(block.length), [*rows, len(usage)], [*values, float(block.depth)], integer=integer, **upper
        )


def _with_ends(blocks: list[Block], ends: tuple[int, int]) -> list[Block]:
    """Put blocks with enough lanes first and last."""
    rest = sorted(blocks, key=lambda block: len(block.lanes))
    taken: dict[int, Block] = {}
    for place in sorted((0, 1), key=lambda place: ends[place], reverse=True):
        if ends[place] > 1:
            taken[place] = rest.pop(next(i for i, block in enumerate(rest) if len(block.lanes) >= ends[place]))
    return [*([taken[0]] if 0 in taken else []), *rest, *([taken[1]] if 1 in taken else [])]
