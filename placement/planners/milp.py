"""The published MILP as a planner (PLANNER.md, "The published MILP"), solved by Gurobi or HiGHS."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from placement.bounds import clip_bound
from placement.effort import now_s
from placement.errors import PlanError
from placement.layers import Placement
from placement.numbers import require
from placement.plan import Plan, Problem, TracePoint
from placement.planners import milp_gurobi, milp_highs, planner, takes
from placement.planners.milp_inputs import RangeLike, Start, fit_start, layer_ranges, require_solvable
from placement.planners.milp_model import Formulation, build_model
from placement.planners.milp_program import Program
from placement.planners.milp_search import Search, Solve
from placement.planners.milp_solve import Limits, Watch

SOLVERS = ("auto", "gurobi", "highs")

START_SHARE = 0.2
"""Share of the time limit that the planner of the start may take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MilpPlanner:
    """The placement of greatest flow, by mixed-integer programming.

    With ``redundant`` and ``tighten`` off the program is the published one, to the last coefficient.

    Attributes:
        solver: ``gurobi``, ``highs``, or ``auto``: Gurobi where its licence takes the program, otherwise HiGHS.
        partial_inference: Whether a request may enter a node past its first layer. Without it the plan's links are
            restricted to those that need none.
        max_degree: Prune links: each node keeps its this many fastest ones in either direction. The trace then shows
            the bound of the pruned program, the plan one that holds for all placements.
        coordinator_degree: The same for the coordinator.
        redundant: Add rows that help a relaxation; see :class:`~placement.planners.milp_model.Formulation`.
        tighten: Limit link capacities by what their ends compute. Off, a switch that is 0 within the solver's
            tolerance may let through hundreds of tokens/s on a fast link.
        switch_on_ends: Rows that some published models have; they change nothing.
        exact_bytes: Count all bytes of a token; the published program counts activations alone between nodes.
        start: What to begin with: a planner's name (``blocks`` starts best), a placement, or node name -> ``[start,
            stop]``; ``None`` for nothing. The plan is never worse than its start.
        gap: Stop when bound and flow are this close, relative to the flow.
        time_limit_s: Stop after this many seconds; ``None`` for no limit.
        stop_at_tokens_per_s: Stop when the flow reaches this.
        pinned: Node name -> the only range that it may hold, as a range or ``[start, stop]``.
        forbidden: Nodes that are to hold nothing.
        threads: Threads of the solver.
        progress: Is given every new incumbent and bound.
    """

    name: ClassVar[str] = "milp"
    solver: str = "auto"
    partial_inference: bool = True
    max_degree: int | None = None
    coordinator_degree: int | None = None
    redundant: bool = True
    tighten: bool = True
    switch_on_ends: bool = False
    exact_bytes: bool = False
    start: str | Placement | Mapping[str, RangeLike] | None = "petals"
    gap: float = 1e-4
    time_limit_s: float | None = 60.0
    stop_at_tokens_per_s: float | None = None
    pinned: Mapping[str, RangeLike] = field(default_factory=dict)
    forbidden: Sequence[str] = ()
    threads: int = 1
    progress: Callable[[TracePoint], None] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        problems: list[str] = []
        if self.solver not in SOLVERS:
            problems.append(f"milp: solver is {self.solver!r}; choose {', '.join(SOLVERS)}")
        for what in ("partial_inference", "redundant", "tighten", "switch_on_ends", "exact_bytes"):
            value = getattr(self, what)
            if not isinstance(value, bool):
                problems.append(f"milp: {what} is {value!r}; it must be true or false")
        for what in ("max_degree", "coordinator_degree", "threads"):
            value = getattr(self, what)
            whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
            if not whole and (value is not None or what == "threads"):
                problems.append(f"milp: {what} is {value!r}; it must be a whole number of at least 1")
        require(problems, "milp", "gap", self.gap, minimum=0)
        for what in ("time_limit_s", "stop_at_tokens_per_s"):
            if (value := getattr(self, what)) is not None:
                require(problems, "milp", what, value, above=0)
        if isinstance(self.forbidden, str):
            problems.append(f"milp: forbidden is {self.forbidden!r}; write a list of node names")
        if self.start == self.name:
            problems.append("milp: start is milp itself; name another planner")
        if problems:
            raise PlanError(problems)

    def plan(self, problem: Problem) -> Plan:
        """Place the model.

        Ctrl-C ends the search and gives the best placement so far.

        Raises:
            PlanError: The cluster cannot hold or serve the model under the options, Gurobi is asked for and does not
                work, or the search ended before it found a placement that serves tokens.
        """
        started_s = now_s()
        search = self.prepare(problem)
        backend, why_not = self._backend(search.model.program)
        search.said += why_not
        ceiling = clip_bound(problem)
        target = min(ceiling / (1 + self.gap), self.stop_at_tokens_per_s or math.inf)
        watch = Watch(started_s=started_s, ceiling=ceiling, target=target)
        left_s = math.inf
        if self.time_limit_s is not None:
            left_s = max(self.time_limit_s - (now_s() - started_s), 1e-3)
        limits = Limits(time_limit_s=left_s, gap=self.gap, threads=self.threads, seed=problem.seed)
        result = search.run(backend, limits, watch, self.progress)
        plan = search.finish(result, watch, self.gap, started_s, ceiling)
        return dataclasses.replace(plan, solver="gurobi" if backend is milp_gurobi.solve else "highs")

    def prepare(self, problem: Problem) -> Search:
        """Check the options against a problem, find the start and write the program.

        Raises:
            PlanError: The cluster cannot hold or serve the model under the options.
        """
        formulation = Formulation(
            partial_inference=self.partial_inference,
            max_degree=self.max_degree,
            coordinator_degree=self.coordinator_degree,
            redundant=self.redundant,
            tighten=self.tighten,
            switch_on_ends=self.switch_on_ends,
            exact_bytes=self.exact_bytes,
            pinned=layer_ranges(self.pinned, "the pinned range"),
            forbidden=tuple(self.forbidden),
        )
        require_solvable(problem, formulation)
        start, said = self._start(problem, formulation)
        model = build_model(problem, formulation, keep=[] if start is None else start.used_links)
        return Search(problem=problem, formulation=formulation, model=model, start=start, said=said)

    def _start(self, problem: Problem, formulation: Formulation) -> tuple[Start | None, list[str]]:
        if self.start is None:
            return None, []
        if isinstance(self.start, str):
            options = {}
            if self.time_limit_s is not None and takes(self.start, "time_limit_s"):
                options["time_limit_s"] = START_SHARE * self.time_limit_s
            maker = planner(self.start, **options)
            try:
                given = maker.plan(problem).placement
            except PlanError as error:
                return None, [f"milp: there is no start, because {error.problems[0]}"]
        elif isinstance(self.start, Placement):
            given = self.start
        else:
            given = Placement(layer_ranges(self.start, "the start's range"))
        start = fit_start(problem, formulation, given)
        said = []
        if start.changed:
            said.append(f"milp: the start was changed to fit limits and options at {', '.join(start.changed)}")
        if start.flow.tokens_per_s <= 0:
            return None, [*said, "milp: the start serves no tokens under these options and is not used"]
        return start, said

    def _backend(self, program: Program) -> tuple[Solve, list[str]]:
        if self.solver == "highs":
            return milp_highs.solve, []
        why_not = milp_gurobi.refusal(program.columns, program.rows)
        if why_not is None:
            return milp_gurobi.solve, []
        if self.solver == "gurobi":
            raise PlanError(
                f"milp: Gurobi does not take this model: {why_not}; set GRB_LICENSE_FILE to a licence that does, "
                f"or solver to highs or auto"
            )
        return milp_highs.solve, [f"milp: HiGHS solves this model, because Gurobi does not take it: {why_not}"]


def write_model(problem: Problem, path: str | Path, planner: MilpPlanner | None = None) -> None:
    """Write the program that a planner would solve to a file.

    Args:
        problem: What is to be planned.
        path: Where to; the suffix ``.lp`` or ``.mps`` says the format.
        planner: Options of the program; the defaults when ``None``.

    Raises:
        PlanError: The cluster cannot serve the model, another suffix, or the file cannot be written.
    """
    search = (planner or MilpPlanner()).prepare(problem)
    milp_highs.write(search.model.program, Path(path))
