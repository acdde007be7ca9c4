"""COVER: every layer must have F tokens/s, whoever holds it; exact where links do not bind (PLANNER.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from placement.bounds import clip_bound, conf_lp_bound, network_bound
from placement.effort import now_s
from placement.layers import LayerRange
from placement.plan import Plan, Problem
from placement.planners.blocks import BlockSearch
from placement.planners.kinds import Kind, kinds_of
from placement.planners.linear import Maximisation
from placement.planners.patterns import slots_of
from placement.planners.petals import join_in_order
from placement.planners.progress import Progress, require_linked_room, require_positive

SCALE = 1e4
"""The upper bound becomes this figure in the programme, so that the solver's absolute tolerances mean 1e-10 of it."""

TRUST = 1e-10
"""Relative slack on the solver's bound for its tolerances."""

Choice = tuple[int, int, int]
"""(index of a kind, held layers, first layer)."""


@dataclass(frozen=True, slots=True)
class CoverPlanner:
    """The mixed-integer programme COVER, with partial inference and machines counted instead of listed.

    For kinds t, held layers k, first layers s, U any upper bound, and x whole numbers of nodes,

        max F   s.t.   sum_{t,k,s: s <= l < s+k} min(T_t(k), U) x_tks >= F   for every layer l,
                       sum_{k,s} x_tks <= N_t   for every kind t.

    By the coverage theorem (PLANNER.md, fact 1) its optimum is the greatest flow of any placement where links do not
    bind, and an upper bound on any network. Links are seen only when the placement is evaluated.

    Attributes:
        time_limit_s: Seconds after which the best plan so far is returned.
        start: Whether the programme starts from what ``blocks`` finds; otherwise it starts from nothing.
    """

    name: ClassVar[str] = "cover"
    time_limit_s: float = 30.0
    start: bool = True

    def __post_init__(self) -> None:
        require_positive(self.name, "time_limit_s", self.time_limit_s)

    def plan(self, problem: Problem) -> Plan:
        """Place the model.

        Raises:
            PlanError: The nodes that are linked with the coordinator cannot hold the model, or the placements found
                within the time limit let nothing flow.
        """
        started_s = now_s()
        names = require_linked_room(problem, self.name)
        progress = Progress(problem, self.name, self.time_limit_s, started_s)
        progress.tighten(clip_bound(problem))
        progress.offer(join_in_order(problem, [problem.cluster.node(name) for name in names]))
        progress.attempt(lambda: progress.tighten(conf_lp_bound(problem, deadline_s=progress.deadline_s)))
        if not progress.evaluate.all_wide:
            progress.attempt(
                lambda: progress.tighten(network_bound(problem, progress.bound, deadline_s=progress.deadline_s))
            )
        if self.start:
            progress.attempt(BlockSearch(progress, names).run)
        linked = set(names)
        progress.attempt(lambda: solve_cover(progress, [kind for kind in kinds_of(problem) if linked & {*kind.nodes}]))
        return progress.finish()


def solve_cover(progress: Progress, kinds: Sequence[Kind]) -> None:
    """Solve COVER from the best placement so far; keep its placement and its bound.

    Args:
        progress: Holds an upper bound; takes placement and bound.
        kinds: Counted nodes.
    """
    layers, upper = progress.problem.model.layers, progress.bound
    choices = [(slot.kind, slot.layers, start) for slot in slots_of(kinds) for start in range(layers - slot.layers + 1)]
    model = cover_model(kinds, layers, upper, choices)
    if progress.ranges:
        start = _counts(progress.ranges, kinds, choices)
        if start is not None:
            model.start_from([*start, progress.flow * SCALE / upper])
    answer = model.solve(time_limit_s=progress.left_s, relative_gap=TRUST)
    progress.interrupted = progress.interrupted or model.interrupted
    progress.tighten(answer.bound * upper / SCALE * (1 + TRUST))
    if answer.has_solution:
        times = [round(float(value)) for value in answer.columns[:-1]]
        progress.offer(_ranges(times, kinds, choices))


def cover_model(kinds: Sequence[Kind], layers: int, upper: float, choices: Sequence[Choice]) -> Maximisation:
    """The programme with a column for each choice and one for F at the end, in units of ``upper / SCALE``.

    Args:
        kinds: Counted nodes.
        layers: L.
        upper: U in tokens/s.
        choices: What a node may hold.
    """
    model = Maximisation(tolerance=1e-9)
    for _ in range(layers):
        model.add_row((), (), lower=0.0)
    for kind in kinds:
        model.add_row((), (), upper=float(kind.count))
    for index, held, start in choices:
        rate = min(kinds[index].rates[held - 1], upper) * SCALE / upper
        rows = [*range(start, start + held), layers + index]
        model.add_column(0.0, rows, [*([rate] * held), 1.0], upper=float(kinds[index].count), integer=True)
    model.add_column(1.0, range(layers), [-1.0] * layers, upper=SCALE)
    return model


def _counts(ranges: Mapping[str, LayerRange], kinds: Sequence[Kind], choices: Sequence[Choice]) -> list[float] | None:
    """Nodes per choice of a placement; ``None`` where it uses a range that is no choice."""
    place = {choice: index for index, choice in enumerate(choices)}
    counts = [0.0] * len(choices)
    for index, kind in enumerate(kinds):
        for name in kind.nodes:
            if name in ranges:
                choice = (index, len(ranges[name]), ranges[name].start)
                if choice not in place:
                    return None
                counts[place[choice]] += 1.0
    return counts


def _ranges(times: Sequence[int], kinds: Sequence[Kind], choices: Sequence[Choice]) -> dict[str, LayerRange]:
    """A placement with so many nodes per choice, nodes of a kind in file order."""
    free = [list(kind.nodes) for kind in kinds]
    return {
        free[index].pop(0): LayerRange(start, start + held)
        for (index, held, start), count in zip(choices, times, strict=True)
        for _ in range(count)
    }
