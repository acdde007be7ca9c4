"""Planning while something runs: nodes went, nodes came, and every layer that moves costs something.

:func:`surviving_flow` is the quick answer: the flow that the present placement still has on the nodes that are left.
:func:`replan` looks for a better placement, and weighs its flow against the layers that nodes would have to load.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from placement.bounds import clip_bound
from placement.effort import now_s
from placement.errors import PlanError
from placement.flow import MaxFlow, build_flow_graph, max_flow
from placement.layers import LayerRange, Placement
from placement.model import ModelSpec
from placement.numbers import require
from placement.plan import Plan, PlanStatus, Problem, finish_plan
from placement.planners.balanced_flow import balanced_flow
from placement.planners.blocks import BlocksPlanner
from placement.planners.matching import common_layers, keep_in_place, reorder
from placement.planners.polish import polish_flow
from placement.planners.progress import PROVEN, Progress, require_linked_room, require_positive
from placement.planners.repair import fitting, repair
from placement.planners.restrictions import require_possible
from placement.planners.split import describe

NAME = "replan"

FRESH_SHARE = 0.4
"""Part of the budget that goes into a plan that knows nothing of the present one."""

ORDER_SHARE = 0.1
"""Part of the budget that goes into the order of its stretches."""

FLOW_STEPS_PER_NODE = 100
"""Local search that is left when there is time: much less than for a plan from nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replan:
    """What :func:`replan` found.

    Attributes:
        plan: The new plan; nodes that are gone or forbidden are among its ``unused`` ones if the cluster has them.
        moved: Node -> ranges of the layers that it has to load, for every node with any, in file order.
        charge_tokens_per_s: What these layers cost, as the caller prices them.
        kept_flow_tokens_per_s: Flow of the present placement on the nodes that are left; 0 where it serves nothing.
        gone: Nodes of the present placement that may hold nothing any more, in its order.
    """

    plan: Plan
    moved: Mapping[str, tuple[LayerRange, ...]]
    charge_tokens_per_s: float
    kept_flow_tokens_per_s: float
    gone: tuple[str, ...]

    @property
    def worth_tokens_per_s(self) -> float:
        """The objective: flow less the charge. Keeping everything has ``kept_flow_tokens_per_s``."""
        return self.plan.flow.tokens_per_s - self.charge_tokens_per_s

    @property
    def layers_moved(self) -> int:
        """Layers to load, summed over the nodes."""
        return sum(len(held) for ranges in self.moved.values() for held in ranges)

    def load_bytes(self, model: ModelSpec) -> dict[str, float]:
        """Bytes of weights that each node with layers to load has to read."""
        return {name: sum(map(len, ranges)) * model.layer_bytes for name, ranges in self.moved.items()}


def layers_to_load(placement: Placement, loaded: Placement) -> dict[str, tuple[LayerRange, ...]]:
    """Layers of ``placement`` that its nodes do not hold under ``loaded``: one or two ranges for each such node."""
    found: dict[str, tuple[LayerRange, ...]] = {}
    for name, held in placement.ranges.items():
        before = loaded.ranges.get(name)
        if before is None or before.stop <= held.start or held.stop <= before.start:
            found[name] = (held,)
            continue
        ends = [(held.start, before.start), (before.stop, held.stop)]
        pieces = tuple(LayerRange(start, stop) for start, stop in ends if start < stop)
        if pieces:
            found[name] = pieces
    return found


def cost_over_horizon(problem: Problem, current: Placement, horizon_s: float) -> dict[str, float]:
    """A price for :func:`replan`: tokens that a node does not process while it loads a layer, spread over a horizon.

    A node reads a layer in ``layer_bytes / disk_bytes_per_s`` seconds and processes T(k) tokens/s otherwise, with k
    the layers that it holds now, or its most layers if it holds none. Over ``horizon_s`` seconds that is worth
    ``T(k) * layer_bytes / disk_bytes_per_s / horizon_s`` tokens/s a layer.

    Args:
        problem: Gives nodes, model and throughput.
        current: What the nodes hold now.
        horizon_s: Seconds for which the new placement is expected to last.

    Raises:
        PlanError: The horizon is not positive.
    """
    require_positive(NAME, "horizon_s", horizon_s)
    costs: dict[str, float] = {}
    for node in problem.cluster.nodes:
        held = current.ranges.get(node.name)
        k = problem.most_layers(node) if held is None else len(held)
        rate = problem.throughput.tokens_per_s(node.machine_type, k) if k else 0.0
        costs[node.name] = rate * problem.model.layer_bytes / node.disk_bytes_per_s / horizon_s
    return costs


def surviving_flow(
    problem: Problem,
    current: Placement,
    gone: Collection[str] = (),
    *,
    kv_capacity: Mapping[str, float] | None = None,
) -> MaxFlow:
    """Maximum flow of the present placement on the nodes that are left; 0 tokens/s where they serve nothing.

    It takes a millisecond for 24 nodes, and some 60 for 200 (``tests/benchmarks/test_replanning_speed.py``).

    Args:
        problem: The cluster may or may not still have the nodes that are gone.
        current: The present placement.
        gone: Nodes that serve nothing.
        kv_capacity: Node -> tokens that its KV cache holds; with it the flow is the balanced one
            (:func:`placement.planners.balanced_flow.balanced_flow`).
    """
    lost = frozenset(gone)
    left = {name: held for name, held in current.ranges.items() if name in problem.cluster and name not in lost}
    graph = build_flow_graph(problem.cluster, problem.model, Placement(left), problem.throughput)
    flow = max_flow(graph)
    return flow if kv_capacity is None else balanced_flow(graph, flow, kv_capacity)


def replan(
    problem: Problem,
    current: Placement,
    *,
    budget_s: float = 2.0,
    move_cost: float | Mapping[str, float] = 0.0,
    forbidden: Sequence[str] = (),
    pinned: Mapping[str, LayerRange] | None = None,
) -> Replan:
    """Plan from the present placement.

    The objective is the exact maximum flow less ``move_cost`` for every layer that a node has to load. The result is
    never worse than to keep everything, where that still serves and fits the pins. Layers that a node gives up cost
    nothing. Among equals fewer layers move, as far as found.

    Args:
        problem: The cluster as it is now. Nodes that ``current`` does not know have joined; nodes of ``current`` that
            the cluster does not have are gone. (T depends on the mix of machines: give the problem the throughput
            model with which the flows are to be compared.)
        current: What the nodes hold now.
        budget_s: Seconds for the whole call.
        move_cost: Tokens/s of flow that a new placement has to gain for every layer that a node loads; one figure, or
            one for each node (0 for those not named). :func:`cost_over_horizon` derives it from disk speeds.
        forbidden: Nodes that are to hold nothing: gone for a while, drained, not trusted.
        pinned: Node -> the only range that it may hold.

    Raises:
        PlanError: The nodes that are left cannot hold or serve the model; it says what is missing and how much.
    """
    started_s = now_s()
    require_positive(NAME, "budget_s", budget_s)
    price = _prices(problem, move_cost)
    pins = dict(pinned or {})
    require_possible(problem, NAME, pins, forbidden)
    barred = frozenset(forbidden)
    present = {node.name for node in problem.cluster.nodes if node.name not in barred}
    kept = Placement({name: held for name, held in current.ranges.items() if name in present})
    search = _Search(
        dataclasses.replace(problem, cluster=problem.cluster.without(barred)), kept, pins, price, budget_s, started_s
    )
    chosen, over_profile = search.run()
    progress = search.progress
    plan = finish_plan(
        problem,
        chosen,
        planner=NAME,
        started_s=started_s,
        status=PlanStatus.FEASIBLE,
        bound_tokens_per_s=math.inf if over_profile else max(progress.bound, progress.flow),
        allow_over_profile=over_profile,
        warnings=[f"{NAME}: interrupted; this is the best so far"] if progress.interrupted else (),
        trace=progress.trace,
        solver="highs",
    )
    charge = search.charge(chosen.ranges)
    # The bound is one on the flow: it proves the objective only where nothing is charged.
    if charge == 0 and plan.gap <= PROVEN:
        plan = dataclasses.replace(plan, status=PlanStatus.OPTIMAL)
    return Replan(
        plan=plan,
        moved=layers_to_load(chosen, kept),
        charge_tokens_per_s=charge,
        kept_flow_tokens_per_s=search.kept_flow,
        gone=tuple(name for name in current if name not in present),
    )


def _prices(problem: Problem, move_cost: float | Mapping[str, float]) -> dict[str, float]:
    """Tokens/s for each layer that a node loads; by node name."""
    names = [node.name for node in problem.cluster.nodes]
    prices = dict(move_cost) if isinstance(move_cost, Mapping) else dict.fromkeys(names, move_cost)
    problems: list[str] = []
    for name, price in prices.items():
        require(problems, f"{NAME}: node {name}", "move_cost in tokens/s a layer", price, minimum=0)
    if problems:
        raise PlanError(problems)
    return prices


class _Search:
    """One run of :func:`replan`.

    Args:
        problem: Without the nodes that may hold nothing.
        kept: The present placement on the nodes that are left.
        pinned: Node -> the only range that it may hold.
        price: Tokens/s for each layer that a node loads.
        budget_s: Seconds for the whole call.
        started_s: :func:`placement.effort.now_s` at its start.
    """

    def __init__(
        self,
        problem: Problem,
        kept: Placement,
        pinned: Mapping[str, LayerRange],
        price: Mapping[str, float],
        budget_s: float,
        started_s: float,
    ) -> None:
        self._problem, self._kept, self._pinned, self._price = problem, kept, pinned, price
        self._members = require_linked_room(problem, NAME)
        self._movable = [name for name in self._members if name not in pinned]
        self.progress = Progress(problem, NAME, budget_s, started_s, self.charge)
        self.kept_flow = surviving_flow(problem, kept).tokens_per_s

    def charge(self, ranges: Mapping[str, LayerRange]) -> float:
        """What the layers that have to be loaded cost, in tokens/s."""
        before = self._kept.ranges
        return math.fsum(
            self._price.get(name, 0.0) * (len(held) - common_layers(held, before.get(name)))
            for name, held in ranges.items()
        )

    def run(self) -> tuple[Placement, bool]:
        """The best placement, and whether it goes beyond the profiles' most layers, as only the present one may."""
        progress = self.progress
        progress.tighten(clip_bound(self._problem))
        start = fitting(self._problem, self._kept.ranges, {*self._members, *self._pinned}, self._pinned)
        progress.offer(start)
        for work in (lambda: self._mend(start), self._renew, self._polish):
            progress.attempt(work)
        if self._may_keep() and self.kept_flow >= progress.worth * (1 - PROVEN):
            return self._in_file_order(self._kept.ranges), self._over_profile()
        if not progress.ranges:
            raise PlanError(self._nothing_found())
        best = keep_in_place(self._problem, progress.ranges, self._kept.ranges, self._pinned)
        if progress.evaluate.value(best) - self.charge(best) >= progress.worth:
            return self._in_file_order(best), False
        return self._in_file_order(progress.ranges), False

    def _mend(self, start: Mapping[str, LayerRange]) -> None:
        repair(self.progress, self._movable, start, self._kept.ranges)

    def _renew(self) -> None:
        """A plan from nothing, put onto the nodes so that as many layers as possible stay."""
        progress, before = self.progress, self._kept.ranges
        try:
            fresh = BlocksPlanner(time_limit_s=FRESH_SHARE * progress.left_s).plan(self._problem)
        except PlanError:
            # None was found in this time; what the other parts of the search find counts.
            return
        progress.tighten(fresh.bound_tokens_per_s)
        ranges = fitting(self._problem, fresh.placement.ranges, {*self._members, *self._pinned}, self._pinned)
        until_s = now_s() + ORDER_SHARE * progress.left_s
        for candidate in (
            ranges,
            reorder(self._problem, ranges, before, self._pinned, lambda: now_s() > until_s),
        ):
            progress.offer(keep_in_place(self._problem, candidate, before, self._pinned))
        if self._pinned:
            repair(progress, self._movable, ranges, before)

    def _polish(self) -> None:
        if self.progress.ranges and self._movable:
            steps = FLOW_STEPS_PER_NODE * len(self._movable)
            polish_flow(self.progress, self._movable, steps=steps, home=self._kept.ranges)

    def _may_keep(self) -> bool:
        return self.kept_flow > 0 and all(self._kept.ranges.get(name) == held for name, held in self._pinned.items())

    def _over_profile(self) -> bool:
        return any(
            len(held) > self._problem.most_layers(self._problem.cluster.node(name))
            for name, held in self._kept.ranges.items()
        )

    def _in_file_order(self, ranges: Mapping[str, LayerRange]) -> Placement:
        return Placement({node.name: ranges[node.name] for node in self._problem.cluster.nodes if node.name in ranges})

    def _nothing_found(self) -> str:
        problem = self._problem
        pins = f" with {len(self._pinned)} pinned nodes" if self._pinned else ""
        return (
            f"{NAME}: no placement with a chain of links through all {problem.model.layers} layers was found on the "
            f"nodes that are left of cluster {problem.cluster.name} ({describe(problem, problem.cluster.nodes)}){pins} "
            f"within {now_s() - self.progress.started_s:.1f} s; add nodes or links, or allow more time"
        )
