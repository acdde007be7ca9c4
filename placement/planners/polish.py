"""Local search that improves a placement: on the coverage of the layers, or on the exact maximum flow.

*Coverage* (links that do not bind, PLANNER.md fact 1): the flow is the least, over the layers, of the sum of T_g(k_g)
over the nodes that hold the layer. For a target F a node with range [s, s+k) takes ``sum_{s<=l<s+k} min(T(k), need_l)``
off what the layers lack; nodes in turn draw new ranges, better ones with greater probability (heat-bath sampling under
falling temperature), until no layer lacks anything, and F rises.

*Flow* (any network): simulated annealing on the exact maximum flow. Moves whose coverage lies below what would be
accepted cannot be accepted and cost no flow.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from placement.layers import LayerRange
from placement.planners.fast_flow import FastFlow
from placement.planners.progress import Progress

Floats = npt.NDArray[np.float64]

RAISE = 1.0005
"""Factor by which a target lies above the best flow so far."""

START_SHARES = (1.0, 0.99, 0.98, 0.97, 0.96, 0.94, 0.92)
START_SWEEPS = 2

HOMEWARD = 0.1
"""Share of moves that send a node back to where it was, where there is such a place."""

HOTTEST = (0.01, 0.003, 0.03)
"""First temperatures of the rounds of the coverage search, in shares of the target."""


class CoverageSearch:
    """Heat-bath search for a placement whose every layer has the target's tokens/s.

    Args:
        names: Nodes that may hold layers.
        evaluate: Gives their rates.
        layers: L.
        seed: Of the random draws.
    """

    def __init__(self, names: Sequence[str], evaluate: FastFlow, layers: int, seed: int) -> None:
        self._names = list(names)
        self._layers = layers
        self._rng = np.random.default_rng((seed, 2))
        shapes: dict[tuple[float, ...], int] = {}
        self._kind = [shapes.setdefault(tuple(evaluate.rates(name)), len(shapes)) for name in self._names]
        self._rates = [np.array(rates) for rates in shapes]
        self._options = [self._ranges(len(rates)) for rates in self._rates]
        self._held = np.zeros((len(self._names), 2), np.int64)
        self._cover = np.zeros(layers)

    def _ranges(self, most: int) -> npt.NDArray[np.int64]:
        """All (held - 1, start, stop) of a node; shape ``(options, 3)``."""
        return np.array(
            [(k - 1, s, s + k) for k in range(1, most + 1) for s in range(self._layers - k + 1)], dtype=np.int64
        )

    def new_layers(self, index: int, held: LayerRange | None) -> Floats:
        """Layers of each range that a node could draw which ``held`` does not have; shape ``(options,)``."""
        lengths, starts, stops = self._options[self._kind[index]].T.astype(np.float64)
        if held is None:
            return np.asarray(lengths + 1)
        common = np.minimum(stops, held.stop) - np.maximum(starts, held.start)
        return np.asarray(lengths + 1 - np.maximum(common, 0))

    def start_from(self, ranges: Mapping[str, LayerRange]) -> None:
        """Begin with a placement; other nodes hold nothing."""
        self._held[:] = 0
        self._cover[:] = 0.0
        for index, name in enumerate(self._names):
            if name in ranges:
                self._put(index, ranges[name].start, ranges[name].stop, 1.0)
                self._held[index] = ranges[name].start, ranges[name].stop

    @property
    def coverage(self) -> float:
        """Least tokens/s of a layer."""
        return float(self._cover.min())

    def ranges(self) -> dict[str, LayerRange]:
        """The present placement."""
        return {
            name: LayerRange(int(start), int(stop))
            for name, (start, stop) in zip(self._names, self._held, strict=True)
            if stop > start
        }

    def _put(self, index: int, start: int, stop: int, sign: float) -> None:
        if stop > start:
            self._cover[start:stop] += sign * self._rates[self._kind[index]][stop - start - 1]

    def step(self, index: int, target: float, temperature: float, penalty: Floats | float = 0.0) -> None:
        """Let one node draw a new range.

        Args:
            index: Of the node.
            target: F in tokens/s.
            temperature: In shares of the target; 0 takes the best range.
            penalty: What to take off each range's gain, in tokens/s summed over layers; shape ``(options,)``.
        """
        start, stop = self._held[index]
        self._put(index, start, stop, -1.0)
        kind = self._kind[index]
        need = np.maximum(target - self._cover, 0.0)
        taken = np.zeros((len(self._rates[kind]), self._layers + 1))
        np.cumsum(np.minimum(need[None, :], self._rates[kind][:, None]), axis=1, out=taken[:, 1:])
        held, starts, stops = self._options[kind].T
        worth = taken[held, stops] - taken[held, starts] - penalty
        noise = self._rng.gumbel(size=len(worth)) * (temperature * target) if temperature > 0 else 0.0
        _, start, stop = self._options[kind][int((worth + noise).argmax())]
        self._put(index, start, stop, 1.0)
        self._held[index] = start, stop

    def sweep(self, target: float, temperature: float) -> bool:
        """Let every node draw once, in random order; ends once nothing is lacking; says whether that was so."""
        for index in self._rng.permutation(len(self._names)):
            self.step(int(index), target, temperature)
            if self._cover.min() >= target:
                # Sums of additions and subtractions drift; the exact flow decides in the end.
                return True
        return False


def start_by_coverage(progress: Progress, names: Sequence[str]) -> None:
    """Greedy placements for targets from the bound downward; with hundreds of nodes they come within percents of it.

    Args:
        progress: Holds a bound; takes the placements.
        names: Nodes that may hold layers.
    """
    search = CoverageSearch(names, progress.evaluate, progress.problem.model.layers, progress.problem.seed)
    best = 0.0
    for share in START_SHARES:
        for _ in range(START_SWEEPS):
            if progress.left_s <= 0:
                return
            search.sweep(share * progress.bound, 0.0)
            if search.coverage > best:
                best = search.coverage
                progress.offer(search.ranges())


def polish_coverage(progress: Progress, names: Sequence[str], *, sweeps: int) -> None:
    """Raise the best flow by coverage, in rounds of falling temperature that each start from the best placement.

    Args:
        progress: Holds the best placement; takes better ones.
        names: Nodes that may hold layers.
        sweeps: Sweeps over all nodes in one round; after one round at each of :data:`HOTTEST` without gain it ends.
    """
    search = CoverageSearch(names, progress.evaluate, progress.problem.model.layers, progress.problem.seed)
    idle = 0
    while idle < len(HOTTEST) and not progress.over:
        before = progress.flow
        search.start_from(progress.ranges)
        target = min(progress.flow * RAISE, progress.bound)
        for index in range(sweeps):
            if progress.left_s <= 0:
                return
            if search.sweep(target, HOTTEST[idle] * (1 - index / sweeps) ** 2):
                progress.offer(search.ranges())
                target = min(max(progress.flow, search.coverage) * RAISE, progress.bound)
        idle = 0 if progress.flow > before else idle + 1


class FlowSearch:
    """Simulated annealing on the exact maximum flow, less what the progress charges, under any network.

    Args:
        progress: Holds the best placement; takes better ones.
        names: Nodes whose ranges may change.
        home: Where moves may send nodes back to; those that it does not name may also be left without layers. No such
            moves when ``None``.
    """

    def __init__(self, progress: Progress, names: Sequence[str], home: Mapping[str, LayerRange] | None = None) -> None:
        self._progress = progress
        self._home = home
        self._names = list(names)
        self._free = frozenset(names)
        self._evaluate = progress.evaluate
        self._layers = progress.problem.model.layers
        self._random = random.Random(f"{progress.problem.seed}/planner/polish")

    def run(self, steps: int, *, hottest: float = 0.02) -> None:
        """Anneal from the best placement so far.

        Args:
            steps: Moves that are tried.
            hottest: First temperature, as a share of the flow.
        """
        progress = self._progress
        ranges, worth = dict(progress.ranges), progress.worth
        for step in range(steps):
            if progress.over:
                return
            temperature = hottest * progress.flow * (1 - step / steps)
            least = worth + temperature * math.log(1 - self._random.random())
            moved = self._move(ranges)
            if moved is None:
                continue
            charge = progress.charge(moved)
            if self._coverage(moved) - charge < least:
                continue
            value = progress.offer(moved)
            if value - charge >= least and value > 0:
                ranges, worth = moved, value - charge

    def _coverage(self, ranges: Mapping[str, LayerRange]) -> float:
        """Least tokens/s of a layer: an upper bound on the flow."""
        change = [0.0] * (self._layers + 1)
        for name, held in ranges.items():
            rate = self._evaluate.rates(name)[len(held) - 1]
            change[held.start] += rate
            change[held.stop] -= rate
        least = total = change[0]
        for layer in range(1, self._layers):
            total += change[layer]
            least = min(least, total)
        return least * (1 + 1e-12) + 1e-9

    def _move(self, ranges: Mapping[str, LayerRange]) -> dict[str, LayerRange] | None:
        """Another placement near this one; ``None`` where the drawn move is not possible."""
        name = self._random.choice(self._names)
        if self._home is not None and self._random.random() < HOMEWARD:
            return self._send_home(ranges, name, self._home)
        draw = self._random.random()
        held = ranges.get(name)
        if held is None or draw < 0.15:
            start = self._random.randrange(self._layers)
            return self._with(ranges, {name: (start, start + self._random.randint(1, len(self._evaluate.rates(name))))})
        if draw < 0.35:
            return self._swap(ranges, name)
        if draw < 0.65:
            return self._shift_boundary(ranges, name)
        by = self._random.choice((-2, -1, 1, 2))
        if draw < 0.8:
            return self._with(ranges, {name: (held.start + by, held.stop + by)})
        if draw < 0.9:
            return self._with(ranges, {name: (held.start + by, held.stop)})
        return self._with(ranges, {name: (held.start, held.stop + by)})

    def _send_home(
        self, ranges: Mapping[str, LayerRange], name: str, home: Mapping[str, LayerRange]
    ) -> dict[str, LayerRange] | None:
        if ranges.get(name) == home.get(name):
            return None
        if name in home:
            return self._with(ranges, {name: (home[name].start, home[name].stop)})
        return {one: held for one, held in ranges.items() if one != name}

    def _swap(self, ranges: Mapping[str, LayerRange], name: str) -> dict[str, LayerRange] | None:
        other = self._random.choice(self._names)
        mine, theirs = ranges[name], ranges.get(other)
        if theirs is None or mine == theirs:
            return None
        return self._with(ranges, {name: (theirs.start, theirs.stop), other: (mine.start, mine.stop)})

    def _shift_boundary(self, ranges: Mapping[str, LayerRange], name: str) -> dict[str, LayerRange] | None:
        """Move the end of a node together with the starts and ends of all that meet it there, or of one of them."""
        at = ranges[name].stop
        by = self._random.choice((-1, 1))
        others = [
            one for one, held in ranges.items() if at in (held.start, held.stop) and one != name and one in self._free
        ]
        if self._random.random() < 0.5 and others:
            others = [self._random.choice(others)]
        moved = {
            one: (held.start + by * (held.start == at), held.stop + by * (held.stop == at))
            for one in [name, *others]
            for held in [ranges[one]]
        }
        return self._with(ranges, moved)

    def _with(
        self, ranges: Mapping[str, LayerRange], moved: Mapping[str, tuple[int, int]]
    ) -> dict[str, LayerRange] | None:
        result = dict(ranges)
        for name, (start, stop) in moved.items():
            if start == stop and self._home is not None:
                del result[name]
                continue
            if not 0 <= start < stop <= self._layers or stop - start > len(self._evaluate.rates(name)):
                return None
            result[name] = LayerRange(start, stop)
        return result


def polish_flow(
    progress: Progress,
    names: Sequence[str],
    *,
    steps: int,
    idle_rounds: int = 2,
    home: Mapping[str, LayerRange] | None = None,
) -> None:
    """Anneal on the exact flow in rounds of ``steps`` moves until ``idle_rounds`` in a row bring nothing.

    Args:
        progress: Holds the best placement; takes better ones.
        names: Nodes that may hold layers.
        steps: Moves in one round.
        idle_rounds: Rounds without gain after which it ends.
        home: See :class:`FlowSearch`.
    """
    search = FlowSearch(progress, names, home)
    idle = 0
    while idle < idle_rounds and not progress.over:
        before = progress.worth
        search.run(steps, hottest=(0.02, 0.06)[idle % 2])
        idle = 0 if progress.worth > before + 1e-9 * progress.flow else idle + 1
