"""One run of the MILP planner: from a program and a start to a checked plan."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from placement.errors import PlanError
from placement.flow import MaxFlow
from placement.layers import Placement
from placement.plan import Plan, PlanStatus, Problem, TracePoint, finish_plan
from placement.planners.milp_inputs import Start, exact_flow
from placement.planners.milp_model import Formulation, MilpModel, Pair
from placement.planners.milp_program import Floats, Program
from placement.planners.milp_solve import Limits, Outcome, SolverResult, Watch

NAME = "milp"
SAME_FLOW = 1e-6
"""Relative difference between the program's objective and the exact flow that is put down to rounding."""


class Solve(Protocol):
    """A solver backend."""

    def __call__(self, program: Program, limits: Limits, watch: Watch, start: Floats | None = None) -> SolverResult:
        """Solve a program; see :func:`placement.planners.milp_highs.solve`."""


@dataclass(slots=True, kw_only=True)
class Search:
    """What a run works on.

    Attributes:
        problem: What is to be planned.
        formulation: Variant of the program.
        model: The program.
        start: Where to begin, if anywhere.
        said: Sentences for the user, so far.
    """

    problem: Problem
    formulation: Formulation
    model: MilpModel
    start: Start | None
    said: list[str]

    def run(
        self, backend: Solve, limits: Limits, watch: Watch, progress: Callable[[TracePoint], None] | None
    ) -> SolverResult:
        """Solve the program while ``watch`` looks on; there is nothing to do when the start reaches its target."""
        values: Floats | None = None
        if self.start is not None:
            flow = self._exact_flow(self.start.placement, links=list(self.model.links))
            values = self.model.solution(self.start.placement, flow.link_flow)
            watch.report(flow.tokens_per_s, math.inf)
        if watch.stopping:
            return self._end(watch, progress, SolverResult(outcome=Outcome.STOPPED, values=None, bound=math.inf))
        result = watch.run(lambda: backend(self.model.program, limits, watch, values), progress)
        return self._end(watch, progress, result)

    def _end(self, watch: Watch, progress: Callable[[TracePoint], None] | None, result: SolverResult) -> SolverResult:
        found = -math.inf if result.values is None else self.model.program.objective(result.values)
        watch.report(found, result.bound)
        watch.add_point()
        watch.pass_on(progress)
        return result

    def finish(self, result: SolverResult, watch: Watch, gap: float, started_s: float, ceiling: float) -> Plan:
        """The plan: the solver's placement or the start, whichever has the greater exact flow.

        The bound of a pruned program says nothing about placements that use the other links, so it is not the plan's.

        Raises:
            PlanError: Neither serves tokens.
        """
        placement, flow = self._best(result)
        if placement is None:
            raise PlanError(self._nothing_found(result, watch))
        if watch.interrupted:
            self.said.append(f"{NAME}: stopped by Ctrl-C; this is the best placement until then")
        if result.outcome is Outcome.FAILED:
            self.said.append(f"{NAME}: the solver gave up: {result.message}")
        pruned = self.formulation.max_degree is not None or self.formulation.coordinator_degree is not None
        if pruned and math.isfinite(result.bound):
            self.said.append(
                f"{NAME}: the search left pruned links out, so {result.bound:.6g} tokens/s bounds only placements "
                f"without them; the plan's bound holds for all"
            )
        bound = max(flow, ceiling if pruned else min(result.bound, ceiling))
        plan = finish_plan(
            self.problem,
            placement,
            planner=NAME,
            started_s=started_s,
            bound_tokens_per_s=bound,
            links=self._whole_links(placement),
            warnings=self.said,
            trace=watch.trace,
            status=PlanStatus.FEASIBLE,
        )
        proven = plan.gap <= gap + self._byte_slack(result) + 1e-9
        if proven:
            return dataclasses.replace(plan, status=PlanStatus.OPTIMAL)
        if self.start is not None and placement is self.start.placement:
            nothing = f"{NAME}: the solver found nothing better than the start, so this is the start"
            return dataclasses.replace(plan, warnings=(*plan.warnings, nothing))
        return plan

    def _byte_slack(self, result: SolverResult) -> float:
        """Share by which the program's optimum may exceed exact flow because a token's id costs it nothing."""
        if self.formulation.exact_bytes or result.outcome is not Outcome.OPTIMAL:
            return 0.0
        return self.problem.model.token_bytes / self.problem.model.activation_bytes

    def _best(self, result: SolverResult) -> tuple[Placement | None, float]:
        best, flow = None, 0.0
        if result.values is not None:
            found = self.model.placement(result.values)
            exact = self._exact_flow(found).tokens_per_s
            if exact > 0:
                best, flow = found, exact
                self._compare(self.model.program.objective(result.values), exact)
        start = self.start
        if start is not None and start.flow.tokens_per_s > flow * (1 + SAME_FLOW):
            best, flow = start.placement, start.flow.tokens_per_s
        return best, flow

    def _compare(self, objective: float, exact: float) -> None:
        if abs(objective - exact) <= SAME_FLOW * max(objective, exact):
            return
        if objective < exact:
            why = "it did not use all links that the placement allows"
        elif self.formulation.exact_bytes:
            why = "it counts a token at a network card by the links that it takes"
        else:
            why = "it counts activations alone, and no network card of the coordinator"
        self.said.append(
            f"{NAME}: the program's objective is {objective:.6g} tokens/s, the exact maximum flow {exact:.6g}: {why}"
        )

    def _exact_flow(self, placement: Placement, links: list[Pair] | None = None) -> MaxFlow:
        return exact_flow(self.problem, self.formulation, placement, links)

    def _whole_links(self, placement: Placement) -> list[Pair] | None:
        """Links that need no partial inference, when the plan has to do without it."""
        if self.formulation.partial_inference:
            return None
        return list(self._exact_flow(placement).link_flow)

    def _nothing_found(self, result: SolverResult, watch: Watch) -> str:
        cluster, layers = self.problem.cluster.name, self.problem.model.layers
        if watch.interrupted:
            return f"{NAME}: stopped by Ctrl-C before a placement was found that serves tokens; give it a start"
        if result.outcome is Outcome.STOPPED:
            return (
                f"{NAME}: no placement that serves tokens was found on cluster {cluster} in the time limit; raise "
                f"time_limit_s or give it a start"
            )
        if result.outcome is Outcome.FAILED:
            return f"{NAME}: the solver gave up on cluster {cluster}: {result.message}; try another solver"
        options = [
            text
            for text, given in (
                ("pinned", self.formulation.pinned),
                ("forbidden", self.formulation.forbidden),
                ("max_degree", self.formulation.max_degree),
                ("coordinator_degree", self.formulation.coordinator_degree),
                ("partial_inference off", not self.formulation.partial_inference),
            )
            if given
        ]
        under = f" under the options {', '.join(options)}" if options else ""
        return (
            f"{NAME}: no placement on cluster {cluster} serves tokens{under} (proven by the solver): no chain of links "
            f"leads over nodes that can hold all {layers} layers one after the other; add links or machines"
            + (", or relax the options" if options else "")
        )
