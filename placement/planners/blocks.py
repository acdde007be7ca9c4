"""BLOCKS: parallel lanes laid end to end, found by column generation, then polished (PLANNER.md)."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from placement.bounds import clip_bound, conf_lp_bound, network_bound
from placement.effort import now_s
from placement.errors import PlanError
from placement.plan import Plan, Problem
from placement.planners.blocks_columns import Block
from placement.planners.blocks_layout import lay, links_of, ranges_of, trim
from placement.planners.blocks_master import BlockPool
from placement.planners.blocks_regions import RegionPools
from placement.planners.kinds import Kind, kinds_of
from placement.planners.petals import join_in_order
from placement.planners.polish import polish_coverage, polish_flow, start_by_coverage
from placement.planners.progress import Progress, require_linked_room, require_positive
from placement.planners.replicas import deal, plan_replicas
from placement.throughput import KvLimitedThroughput

BISECTION = 1e-4
"""Relative width at which the search for the greatest target ends."""

MOST_BISECTIONS = 4
"""Bisections in a row, of which each but the last finds more than the one before."""

SWEEPS_PER_NODE = 7
"""Sweeps of one round of the coverage search; so its time goes with the square of the number of nodes."""

FLOW_STEPS_PER_NODE = 250
"""Moves of one round of the flow search."""

START_ORDERS = 3

LARGE = 50
"""Nodes above which a cluster may be split into replicas."""

REPLICA_NODES = (42, 24, 12, 6)
REPLICA_SHARE = 0.7
"""Share of the time that is left which the replicas get; less where the cluster is then searched as a whole."""

WHOLE_SHARE = 0.6


@dataclass(frozen=True, slots=True)
class BlocksPlanner:
    """The greatest flow for which blocks cover all layers, raised further by local search, with a proven bound.

    Without a time limit in the way, the same problem and seed give the same plan.

    Attributes:
        time_limit_s: Seconds after which the best plan so far is returned.
        max_depth: Most nodes on a path; as many as it takes when ``None``.
        polish: Whether local search follows; not with ``max_depth``, which it would not keep.
        ceiling_tokens_per_s: A flow that need not be passed, for instance that of a deeper plan; it is no bound.
        precision: Relative width at which the search for the greatest target ends.
        round_trip_s: Plan for the greatest flow of which the requests in the nodes' KV caches can make use when an
            iteration takes so many seconds from the coordinator back to it
            (:class:`placement.throughput.KvLimitedThroughput`); for the greatest max flow when ``None``.
    """

    name: ClassVar[str] = "blocks"
    time_limit_s: float = 30.0
    max_depth: int | None = None
    polish: bool = True
    ceiling_tokens_per_s: float = math.inf
    precision: float = BISECTION
    round_trip_s: float | None = None

    def __post_init__(self) -> None:
        require_positive(self.name, "time_limit_s", self.time_limit_s)
        require_positive(self.name, "precision", self.precision, "flows")
        if self.max_depth is not None:
            require_positive(self.name, "max_depth", self.max_depth, "nodes")
        if self.round_trip_s is not None:
            require_positive(self.name, "round_trip_s", self.round_trip_s)

    def plan(self, problem: Problem) -> Plan:
        """Place the model.

        Raises:
            PlanError: The nodes that are linked with the coordinator cannot hold the model, or no placement within
                ``max_depth`` or the time limit was found.
        """
        started_s = now_s()
        if self.round_trip_s is None:
            return self._finish(*self._search(problem, started_s))
        limited, search = self._search(limited_to(problem, self.round_trip_s), started_s)
        # Flow, depth and bound are those of the problem's own rates, and so are errors.
        progress = Progress(problem, self.name, self.time_limit_s, started_s)
        progress.interrupted = limited.interrupted
        progress.tighten(clip_bound(problem))
        if limited.ranges:
            progress.offer(limited.ranges)
        return self._finish(progress, search)

    def _search(self, problem: Problem, started_s: float) -> tuple[Progress, BlockSearch]:
        names = require_linked_room(problem, self.name)
        progress = Progress(problem, self.name, self.time_limit_s, started_s)
        progress.tighten(clip_bound(problem))
        search = BlockSearch(progress, names, self.max_depth, self.ceiling_tokens_per_s, self.precision)
        if self.max_depth is None:
            progress.attempt(lambda: _start(progress, names))
        progress.attempt(lambda: progress.tighten(conf_lp_bound(problem, deadline_s=progress.deadline_s)))
        if not progress.evaluate.all_wide:
            progress.attempt(
                lambda: progress.tighten(network_bound(problem, progress.bound, deadline_s=progress.deadline_s))
            )
        if self.max_depth is None and progress.evaluate.all_wide:
            progress.attempt(lambda: start_by_coverage(progress, names))
        if self._in_replicas(progress, names):
            progress.attempt(lambda: self._replicate(progress, names, search))
            if self.max_depth is None:
                until_s = now_s() + WHOLE_SHARE * progress.left_s
                progress.attempt(lambda: search.run(until_s))
        else:
            progress.attempt(search.run)
        if self.polish and self.max_depth is None:
            progress.attempt(lambda: _polish(progress, names))
        return progress, search

    def _in_replicas(self, progress: Progress, names: Sequence[str]) -> bool:
        """Whether to split the cluster: it is large, and chains are to be short or links are slow."""
        alike = not progress.problem.cluster.network.links
        return len(names) > LARGE and alike and (self.max_depth is not None or not progress.evaluate.all_wide)

    def _replicate(self, progress: Progress, names: Sequence[str], search: BlockSearch) -> None:
        """Replicas of several sizes: large ones leave the least over, small ones have short chains."""

        def plan_one(part: Problem, share: float) -> Plan:
            part_of_all = REPLICA_SHARE if self.max_depth is not None else 1 - REPLICA_SHARE
            left_s = max(progress.left_s * share * part_of_all, 1e-3)
            return BlocksPlanner(time_limit_s=left_s, max_depth=self.max_depth, polish=self.polish).plan(part)

        tried: list[int] = []
        for size in REPLICA_NODES if self.max_depth is not None else REPLICA_NODES[:1]:
            replicas = deal(progress.problem, names, size)
            if len(replicas) in tried or progress.over:
                continue
            tried.append(len(replicas))
            if len(replicas) == 1:
                search.run()
                continue
            try:
                ranges, links = plan_replicas(progress.problem, replicas, plan_one)
            except PlanError:
                # Not within this depth, or not in this time; another size may do.
                continue
            before = progress.flow
            if progress.offer(ranges) > before:
                search.links = links

    def _finish(self, progress: Progress, search: BlockSearch) -> Plan:
        if self.max_depth is None:
            return progress.finish()
        if not progress.ranges:
            raise PlanError(self._too_deep(progress.problem))
        plan = progress.finish()
        # Partial inference can join the lanes of a block to chains longer than any of them; then only lanes are used.
        return plan if plan.depth <= self.max_depth else progress.finish(links=search.links)

    def _too_deep(self, problem: Problem) -> str:
        nodes = least_depth(problem)
        return (
            f"{self.name}: no placement with at most {self.max_depth} nodes on a path was found; the {nodes} largest "
            f"nodes are the least that hold all {problem.model.layers} layers, so set max_depth to {nodes} or more"
        )


def limited_to(problem: Problem, round_trip_s: float) -> Problem:
    """The problem with nodes no faster than what their KV caches hold can use in such a round trip."""
    own = problem.throughput
    limited = KvLimitedThroughput(
        own.model,
        own.profiles,
        own.machine_counts,
        own.prompt_tokens,
        own.output_tokens,
        round_trip_s=round_trip_s,
    )
    return dataclasses.replace(problem, throughput=limited)


def least_depth(problem: Problem) -> int:
    """Fewest nodes on a path: as many of the largest nodes as hold all layers; they must be able to."""
    most = sorted((problem.most_layers(node) for node in problem.cluster.nodes), reverse=True)
    held = nodes = 0
    while held < problem.model.layers:
        held, nodes = held + most[nodes], nodes + 1
    return nodes


def _start(progress: Progress, names: Sequence[str]) -> None:
    """Placements by the rule of Petals, so that there is something to return under any network."""
    problem = progress.problem
    nodes = [problem.cluster.node(name) for name in names]
    draw = random.Random(f"{problem.seed}/planner/blocks")
    for _ in range(START_ORDERS):
        draw.shuffle(nodes)
        progress.offer(join_in_order(problem, nodes))


def _polish(progress: Progress, names: Sequence[str]) -> None:
    if not progress.ranges:
        return
    if progress.evaluate.all_wide:
        polish_coverage(progress, names, sweeps=SWEEPS_PER_NODE * min(len(names), 100))
    else:
        polish_flow(progress, names, steps=FLOW_STEPS_PER_NODE * len(names))


class BlockSearch:
    """Bisection on the target flow.

    Args:
        progress: Takes the placements.
        names: Nodes that may hold layers.
        max_depth: Most nodes on a path; none when ``None``.
        ceiling: Flow in tokens/s above which not to search.
        precision: Relative width at which the search ends.
    """

    def __init__(
        self,
        progress: Progress,
        names: Sequence[str],
        max_depth: int | None = None,
        ceiling: float = math.inf,
        precision: float = BISECTION,
    ) -> None:
        problem = progress.problem
        self._precision = precision
        self._ceiling = ceiling
        self._max_depth = max_depth
        self._progress = progress
        self._layers = problem.model.layers
        self._until_s = progress.deadline_s
        self.links: list[tuple[str, str]] = []
        by_region = not progress.evaluate.all_wide
        linked = set(names)
        self._kinds: list[Kind] = [
            Kind(kind.machine_type, kind.region, tuple(name for name in kind.nodes if name in linked), kind.rates)
            for kind in kinds_of(problem, by_region=by_region)
            if any(name in linked for name in kind.nodes)
        ]
        self._regions = RegionPools(problem, self._kinds, max_depth) if by_region else None
        self._pool = BlockPool(self._kinds, self._layers, max_depth, problem.seed, floor=self._layers * (1 - 1e-9))

    def run(self, until_s: float = math.inf) -> None:
        """Try the bound itself, then bisect between the best flow and the bound.

        A target that is missed may still be in reach: the programme in whole numbers is ended early, and has the
        columns of the targets before. So the bisection is begun again until it finds nothing more, except where the
        depth is capped and the bound is far away.

        Args:
            until_s: ``now_s()`` at which to stop, if that is before the end of all planning.
        """
        progress = self._progress
        self._until_s = min(until_s, progress.deadline_s)
        for _ in range(1 if self._max_depth is not None else MOST_BISECTIONS):
            before = progress.flow
            self._bisect()
            if progress.flow <= before * (1 + self._precision):
                break

    def _bisect(self) -> None:
        progress = self._progress
        low, high = progress.flow, min(progress.bound, self._ceiling)
        target = high * (1 - 1e-10)
        while not progress.over and now_s() < self._until_s and high > max(low * (1 + self._precision), 1e-9):
            reached = self._try(target)
            low = max(low, reached)
            if reached < target * (1 - 1e-9):
                high = target
            target = (low + high) / 2

    def _try(self, target: float) -> float:
        """Greatest flow of the placements for one target."""
        best = 0.0
        for blocks in self._covers(target):
            fitted = trim(blocks, self._layers, self._kinds)
            laid = lay(fitted, self._kinds)
            before = self._progress.flow
            best = max(best, self._progress.offer(ranges_of(laid)))
            if self._progress.flow > before:
                self.links = links_of(laid)
            if best >= target * (1 - 1e-9):
                break
        return best

    def _covers(self, target: float) -> Iterator[list[Block]]:
        deadline_s = self._until_s
        if self._regions is not None:
            yield from self._regions.covers(target, deadline_s)
            return
        blocks = self._pool.reach(target, deadline_s, needed=self._layers)
        if blocks is not None:
            yield blocks
