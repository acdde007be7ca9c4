"""Replan: a new placement for those who are left, and for those who have come."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from emulator.churn.machines import Machine, Role
from emulator.churn.recovery.policy import RecoveryPolicy
from emulator.predicting import BRIEF, predict_run
from placement.effort import counted
from placement.errors import PlanError
from placement.layers import Placement
from placement.plan import problem_for
from placement.replanning import cost_over_horizon, replan

if TYPE_CHECKING:
    from emulator.churn.control import ChurnControl
    from emulator.spec import EmulationSpec
    from placement.cluster import Cluster
    from placement.replanning import Replan

LEAST_GAIN = 1.05
"""The serving model is 3 % off in the median, so less is no gain that one can count on."""


class Replanned(RecoveryPolicy):
    """Routes over those who are left at once, and plans meanwhile; then layers move to where the plan wants them.

    Planning takes ``budget_s`` of emulated time, and that much work (:mod:`placement.effort`), so that a run repeats on
    any machine. What changes meanwhile is planned for again when it is over.

    The plan with the greatest flow need not serve more than what is there: it may have longer pipelines, or the load
    may be no more than what is left carries. With ``objective: throughput`` layers move only where the serving model
    (:mod:`placement.serving`) expects more decode throughput of it.

    Options:
        budget_s: Seconds for planning.
        horizon_s: Seconds for which a placement is expected to last: the price of a layer that moves is the tokens
            that its node does not process while loading it, spread over this time.
        objective: ``flow`` or ``throughput``.
    """

    name = "replan"
    known_options: ClassVar[Mapping[str, object]] = {"budget_s": 2.0, "horizon_s": 600.0, "objective": "flow"}

    def __init__(self, control: ChurnControl, options: Mapping[str, object]) -> None:
        super().__init__(control, options)
        self._budget_s = self.positive("budget_s")
        self._horizon_s = self.positive("horizon_s")
        self._by_throughput = self.one_of("objective", ("flow", "throughput")) == "throughput"
        self._planning = self._stale = False

    def lost(self, machine: Machine) -> None:
        """Plan for those who are left."""
        self._plan_soon()

    def joined(self, machine: Machine) -> None:
        """Plan with the new one, which takes its old layers up meanwhile."""
        self.take_up_again(machine)
        self._plan_soon()

    def changed(self) -> None:
        """Plan for the changed network."""
        self._plan_soon()

    def _plan_soon(self) -> None:
        if self._planning:
            self._stale = True
            return
        self._planning = True
        self.control.later(self._budget_s, self._planned)

    def _planned(self) -> None:
        self._planning = False
        if self._stale:
            self._stale = False
            self._plan_soon()
            return
        control = self.control
        spec = control.state.spec
        present = {
            machine.name: machine.node.held if machine.node is not None else machine.goal
            for machine in control.machines.values()
            if machine.role is not Role.GONE and not machine.suspected and not machine.leaving
        }
        out = [name for name in control.machines if name not in present]
        current = Placement({name: held for name, held in present.items() if held is not None})
        try:
            problem = problem_for(spec.cluster.without(out), spec.model, spec.profiles, spec.seed)
            with counted():
                found = replan(
                    problem,
                    current,
                    budget_s=self._budget_s,
                    move_cost=cost_over_horizon(problem, current, self._horizon_s),
                )
        except PlanError as error:
            control.log("no_plan", reason=str(error).splitlines()[0])
            return
        ranges = found.plan.placement.ranges
        if found.moved and self._by_throughput and not self._worth_moving(spec, problem.cluster, current, found):
            return
        control.log(
            "planned",
            flow_tokens_per_s=round(found.plan.flow.tokens_per_s, 6),
            kept_flow_tokens_per_s=round(found.kept_flow_tokens_per_s, 6),
            layers_moved=found.layers_moved,
            nodes=len(found.moved),
        )
        newest = max(
            (machine.incident for machine in control.machines.values() if machine.incident is not None),
            key=lambda incident: incident.number,
            default=None,
        )
        for name in found.moved:
            control.machines[name].incident = newest
        control.assign({name: ranges[name] for name in ranges if ranges[name] != present.get(name)})

    def _worth_moving(self, spec: EmulationSpec, cluster: Cluster, current: Placement, found: Replan) -> bool:
        """Whether the plan is expected to serve more than what is there, by more than the model is off."""
        if found.kept_flow_tokens_per_s <= 0:
            return True
        calm = dataclasses.replace(spec, cluster=cluster, churn=None)
        kept, planned = (
            predict_run(dataclasses.replace(calm, placement=placement), BRIEF).decode_tokens_per_s
            for placement in (current, found.plan.placement)
        )
        if planned > kept * LEAST_GAIN:
            return True
        self.control.log("kept", predicted_tokens_per_s=round(kept, 6), planned_tokens_per_s=round(planned, 6))
        return False
