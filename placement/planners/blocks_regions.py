"""Blocks over slow links: which regions in which order, and how many lanes meet where the layers cross over.

A block lies within one region and every region is visited at most once, so regions share no nodes and each one's
longest stretch of layers is found alone, for each number of lanes at its two ends. Where n lanes end before a crossing
and m begin after it, n m pairs of nodes share the crossing, so links of B tokens/s carry n m B.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from placement.cluster import COORDINATOR
from placement.plan import Problem
from placement.planners.blocks_columns import Block, Lane
from placement.planners.blocks_master import BlockPool
from placement.planners.kinds import Kind

LANES = (1, 2, 3, 4, 5, 6, 8)
"""Numbers of lanes that may meet at a crossing."""

PAIRINGS = 2
"""Pairs of numbers of lanes that are tried at a crossing: those with the fewest lanes, and the most even ones; only the
first of them where the depth is capped, as every depth is tried with each."""

MOST_ORDERS = 400
"""Orders of regions that are tried for one target."""

MOST_CANDIDATES = 4
"""Best orders that are returned for one target."""

Ends = tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Route:
    """Stretches of blocks through regions in turn."""

    stops: tuple[tuple[str, Sequence[Block]], ...] = ()
    length: int = 0
    depth: int = 0

    def then(self, region: str, blocks: Sequence[Block]) -> _Route:
        """This route with one more region."""
        return _Route(
            (*self.stops, (region, blocks)),
            self.length + sum(block.length for block in blocks),
            self.depth + sum(block.depth for block in blocks),
        )


@dataclass(slots=True)
class RegionPools:
    """Blocks of each region, and orders of regions that reach all layers.

    Attributes:
        problem: Gives the links between regions.
        kinds: Counted nodes by region.
        max_depth: Most nodes on a path; none when ``None``.
    """

    problem: Problem
    kinds: Sequence[Kind]
    max_depth: int | None = None
    _members: dict[str, list[int]] = field(init=False, default_factory=dict)
    _pools: dict[str, BlockPool] = field(init=False, default_factory=dict)
    _links: dict[tuple[str, str], float] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        for index, kind in enumerate(self.kinds):
            self._members.setdefault(kind.region, []).append(index)
        for region, members in self._members.items():
            kinds = [self.kinds[index] for index in members]
            self._pools[region] = BlockPool(
                kinds, self.problem.model.layers, self.max_depth, self.problem.seed, for_region=True
            )
        for one, other in itertools.permutations(self._members, 2):
            self._links[one, other] = self._slowest(one, other)

    def _slowest(self, one: str, other: str) -> float:
        """Tokens/s of the slowest link from one region to another; 0 where one is missing."""
        if not self.problem.cluster.network.links:
            only = self.problem.cluster.network.regions.get((one, other))
            return 0.0 if only is None else only.bandwidth_bytes_per_s / self.problem.model.hop_bytes
        links = [
            self.problem.cluster.link(source, target)
            for a in self._members[one]
            for b in self._members[other]
            for source in self.kinds[a].nodes
            for target in self.kinds[b].nodes
        ]
        return min(0.0 if link is None else link.bandwidth_bytes_per_s / self.problem.model.hop_bytes for link in links)

    def covers(self, flow: float, deadline_s: float) -> Iterator[list[Block]]:
        """Blocks in order that cover all layers at ``flow`` tokens/s if the crossings carry it; best first."""
        layers = self.problem.model.layers
        most = {region: pool.most_layers(flow, deadline_s) for region, pool in self._pools.items()}
        spare = math.fsum(most.values()) - layers
        if spare < -1e-6:
            return
        entering, leaving = self._useful_lanes(flow)
        # A stretch so short that the other regions cannot make up for it is of no use.
        stretches = {
            region: self._stretches(
                region,
                flow,
                max(1, math.ceil(most[region] - spare - 1e-6)),
                deadline_s,
                list(itertools.product(entering[region], leaving[region])),
            )
            for region in self._members
        }
        found: list[_Route] = []
        for order in itertools.islice(self._orders(), MOST_ORDERS):
            route = self._best_route(order, stretches, flow)
            if route is not None and route.length >= layers:
                found.append(route)
        found.sort(key=lambda route: (-route.length, route.depth, len(route.stops)))
        for route in found[:MOST_CANDIDATES]:
            yield [block for region, stretch in route.stops for block in self._named(region, stretch)]

    def _useful_lanes(self, flow: float) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
        """Numbers of lanes with which a region may begin and end: 1, and the few that some crossing needs."""
        entering: dict[str, set[int]] = {region: {1} for region in self._members}
        leaving: dict[str, set[int]] = {region: {1} for region in self._members}
        for (one, other), link in self._links.items():
            if link <= 0:
                continue
            pairs = math.ceil(flow / link * (1 - 1e-9))
            enough = [(n, m) for n in LANES for m in LANES if n * m >= pairs]
            for lanes in sorted(enough, key=lambda lanes: (sum(lanes), abs(lanes[0] - lanes[1])))[
                : PAIRINGS if self.max_depth is None else 1
            ]:
                leaving[one].add(lanes[0])
                entering[other].add(lanes[1])
        return {one: sorted(lanes) for one, lanes in entering.items()}, {
            one: sorted(lanes) for one, lanes in leaving.items()
        }

    def _stretches(
        self, region: str, flow: float, needed: int, deadline_s: float, ends: Sequence[Ends]
    ) -> dict[Ends, list[list[Block]]]:
        """A region's longest stretches by lanes at their ends; with a cap on the depth, of every useful depth."""
        found: dict[Ends, list[list[Block]]] = {}
        for first, last in ends:
            if (last, first) in found:
                found[first, last] = [blocks[::-1] for blocks in found[last, first]]
                continue
            cap, choices = self.max_depth, list[list[Block]]()
            while cap is None or cap > 0:
                blocks = self._pools[region].reach(flow, deadline_s, ends=(first, last), max_depth=cap, needed=needed)
                if not blocks:
                    break
                choices.append(blocks)
                if self.max_depth is None:
                    break
                cap = sum(block.depth for block in blocks) - 1
            found[first, last] = choices
        return found

    def _orders(self) -> Iterator[tuple[str, ...]]:
        reachable = [region for region in self._members if self._at_coordinator(region)]
        for count in range(len(self._members), 0, -1):
            for order in itertools.permutations(self._members, count):
                if order[0] in reachable and order[-1] in reachable:
                    yield order

    def _at_coordinator(self, region: str) -> bool:
        name = self.kinds[self._members[region][0]].nodes[0]
        cluster = self.problem.cluster
        return cluster.link(COORDINATOR, name) is not None and cluster.link(name, COORDINATOR) is not None

    def _best_route(
        self, order: tuple[str, ...], stretches: dict[str, dict[Ends, list[list[Block]]]], flow: float
    ) -> _Route | None:
        """The route that reaches most layers; dynamic programme along the order, by lanes at the end and depth."""
        states: dict[Ends, _Route] = {(0, 0): _Route()}
        for place, region in enumerate(order):
            link = self._links[order[place - 1], region] if place else 0.0
            onward: dict[Ends, _Route] = {}
            for (lanes, _), before in states.items():
                for (first, last), choices in stretches[region].items():
                    fits = first == 1 if place == 0 else lanes * first * link >= flow * (1 - 1e-9)
                    for blocks in choices if fits else ():
                        after = before.then(region, blocks)
                        key = (last, after.depth if self.max_depth is not None else 0)
                        if (self.max_depth is None or after.depth <= self.max_depth) and (
                            key not in onward or after.length > onward[key].length
                        ):
                            onward[key] = after
            states = onward
        return max(states.values(), key=lambda route: (route.length, -route.depth), default=None)

    def _named(self, region: str, blocks: Sequence[Block]) -> list[Block]:
        """A region's blocks with kinds counted over all regions."""
        members = self._members[region]

        def rename(lane: Lane) -> Lane:
            return tuple((members[kind], held) for kind, held in lane)

        return [Block(block.length, tuple(rename(lane) for lane in block.lanes), block.flow) for block in blocks]
