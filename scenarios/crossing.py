"""From checked sections to the emulator's values, with the checks that need several sections."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from emulator.churn.recovery import RECOVERY_NAMES, recovery_class
from emulator.churn.spec import ChurnSpec
from emulator.conditions import NetworkConditions
from emulator.emulation import Emulation
from emulator.errors import SimulationError
from emulator.schedulers import POLICY_NAMES, policy_class
from emulator.schedulers.policy import checked_options
from emulator.spec import EmulationSpec
from emulator.workload import Workload
from netshape.errors import NetworkError
from placement.cluster import Cluster
from placement.errors import PlanError
from placement.model import ModelSpec
from placement.plan import Plan
from placement.profile import MachineProfile
from scenarios.churn import ChurnMaker
from scenarios.cluster_checks import cluster_problems
from scenarios.errors import Problem, ScenarioError
from scenarios.expect import Expectation, read_expectations
from scenarios.library import suggestion
from scenarios.objectives import Objective
from scenarios.placing import Placed, coverage_problems, place, placed_by, plan_problems
from scenarios.ranking import RANKING_LIMIT_S, Ranked, rank_plans
from scenarios.schema import PlacementSection, SchedulerSection
from scenarios.schema_churn import RecoverySection
from scenarios.schema_cluster import ClusterSection
from scenarios.schema_profile import ModelSection, ProfileSection
from scenarios.tree import Tree, TreePath, from_plain
from scenarios.validation import problem_at
from scenarios.workloads import WorkloadMaker

PolicyT = TypeVar("PolicyT")


@dataclass(slots=True)
class Crossing:
    """Carries one scenario over; a section that is not in order is left out, the others are still checked.

    Attributes:
        tree: The scenario, references replaced; afterwards also the placement and the traces.
        sections: Top-level key -> checked section, as far as they are in order.
        problems: What is wrong.
        sources: Trace files that were read.
        plan: What the scenario's planner made, if it has one.
        notes: What is no mistake, but may surprise.
        expectations: What the scenario expects of its figures.
        ranked: The plans that it was chosen from, best first, if an objective chose it.
    """

    tree: Tree
    sections: Mapping[str, Any]
    problems: list[Problem]
    sources: list[Path] = field(default_factory=list)
    plan: Plan | None = None
    notes: list[str] = field(default_factory=list)
    expectations: list[Expectation] = field(default_factory=list)
    ranked: tuple[Ranked, ...] = ()

    def spec(self) -> EmulationSpec | None:
        """What the emulator needs; ``None`` when there are problems."""
        model = self._model()
        profiles = self._profiles(model)
        cluster = self._cluster()
        placed = self._placed(model, profiles, cluster)
        workload = self._workload()
        churn = self._churn(cluster)
        conditions = self._conditions()
        self._check_scheduler()
        self._check_times()
        spec = None
        try:
            if not self.problems and model and profiles is not None and placed and workload:
                spec = self._assembled(model, profiles, placed, workload, conditions, churn)
                spec = spec if placed.placement.ranges else self._ranked(spec)
                self._try_recovery(spec)
            self.expectations, found = read_expectations(self.tree, spec)
            self.problems += found
        except SimulationError as error:
            self._simulation_problem((), error)
        return None if self.problems else spec

    def _ranked(self, spec: EmulationSpec) -> EmulationSpec | None:
        """The run on the plan that is best for the scenario's objective while nothing fails."""
        section: PlacementSection = self.sections["placement"]
        path: TreePath = ("placement", "objective")
        if section.objective is Objective.GOODPUT and not spec.slo.given:
            rule = "goodput needs latency objectives, and the scenario has no slo"
            self.problems.append(problem_at(self.tree, path, rule, "add slo, or choose another objective"))
            return None
        limit_s = section.options.get("time_limit_s", RANKING_LIMIT_S)
        assert isinstance(limit_s, int | float)
        calm = dataclasses.replace(spec, churn=None)
        try:
            self.ranked = tuple(rank_plans(calm, section.objective, time_limit_s=float(limit_s)))
        except PlanError as error:
            self.problems += plan_problems(error, self.tree, ("placement", "planner"))
            return None
        self.plan = self.ranked[0].plan
        placed = placed_by(self.plan, section, self.tree, spec.cluster)
        self._put_placement(placed)
        return dataclasses.replace(spec, placement=placed.placement, cluster=placed.cluster)

    def _put_placement(self, placed: Placed) -> None:
        origin = self.tree.nearest(("placement",)).origin
        self.tree = self.tree.put(("placement",), from_plain(placed.resolved, origin))

    def _try_recovery(self, spec: EmulationSpec | None) -> None:
        """Whether a recovery policy takes the values of its options, which it alone knows."""
        if spec is not None and spec.churn is not None and spec.churn.recovery.options:
            try:
                Emulation(spec)
            except SimulationError as error:
                self._simulation_problem(("churn", "recovery", "options"), error)

    def _assembled(
        self,
        model: ModelSpec,
        profiles: Mapping[str, MachineProfile],
        placed: Placed,
        workload: Workload,
        conditions: NetworkConditions,
        churn: ChurnSpec | None,
    ) -> EmulationSpec:
        at = self.sections
        return EmulationSpec(
            name=at["name"],
            seed=at["seed"],
            duration_s=at["duration"],
            warm_up_s=at["warm_up"],
            model=model,
            profiles=profiles,
            cluster=placed.cluster,
            placement=placed.placement,
            scheduler=at["scheduler"].to_domain(),
            workload=workload,
            partial_inference=at["placement"].partial_inference,
            sharing=at["network"].sharing,
            when_full=at["kv_cache"].when_full,
            when_no_route=at["admission"].when_no_route,
            admission_queue_limit=at["admission"].queue_limit,
            first_token=at["counting"].first_token,
            host_cost=at["host_cost"].to_domain(),
            slo=at["slo"].to_domain(),
            log_level=at["output"].event_log,
            conditions=conditions,
            churn=churn,
            drain=at["drain"],
        )

    def _model(self) -> ModelSpec | None:
        section: ModelSection | None = self.sections.get("model")
        if section is None:
            return None
        try:
            return section.to_domain()
        except PlanError as error:
            self.problems += plan_problems(error, self.tree, ("model",))
        return None

    def _profiles(self, model: ModelSpec | None) -> dict[str, MachineProfile] | None:
        listed: tuple[ProfileSection, ...] | None = self.sections.get("profiles")
        if listed is None or model is None:
            return None
        profiles: dict[str, MachineProfile] = {}
        before = len(self.problems)
        for index, section in enumerate(listed):
            path: TreePath = ("profiles", index)
            if section.model != model.name:
                rule = f"this is a profile of another model; the scenario serves {model.name}"
                self.problems.append(problem_at(self.tree, (*path, "model"), rule, f"name a profile of {model.name}"))
                continue
            try:
                profiles[section.machine] = section.to_domain()
            except PlanError as error:
                self.problems += plan_problems(error, self.tree, path)
        return profiles if len(self.problems) == before else None

    def _cluster(self) -> Cluster | None:
        section: ClusterSection | None = self.sections.get("cluster")
        if section is None:
            return None
        found = list(cluster_problems(section, self.tree))
        self.problems += found
        if found or any(group.machine not in section.machines for group in section.nodes):
            return None
        try:
            return section.to_domain()
        except PlanError as error:
            self.problems += plan_problems(error, self.tree, ("cluster",))
        return None

    def _conditions(self) -> NetworkConditions:
        section: ClusterSection | None = self.sections.get("cluster")
        if section is None:
            return NetworkConditions()
        network: TreePath = ("cluster", "network")
        folders: dict[tuple[str, int], Path] = {}
        for kind, entries in (("regions", section.network.regions), ("links", section.network.links)):
            for index, entry in enumerate(entries):
                if entry.schedule is not None and entry.schedule.trace is not None:
                    path = (*network, kind, index, "schedule", "trace")
                    origin = self.tree.nearest(path).origin
                    file = (origin.folder / entry.schedule.trace).resolve()
                    folders[kind, index] = origin.folder
                    self.tree = self.tree.put(path, from_plain(str(file), origin))
                    self.sources.append(file)
        try:
            return section.network.conditions(section.regions(), lambda kind, index: folders.get((kind, index), Path()))
        except NetworkError as error:
            rule, _, remedy = str(error).rpartition("; ")
            self.problems.append(problem_at(self.tree, network, rule or str(error), remedy or "correct it"))
        return NetworkConditions()

    def _placed(
        self, model: ModelSpec | None, profiles: dict[str, MachineProfile] | None, cluster: Cluster | None
    ) -> Placed | None:
        section: PlacementSection | None = self.sections.get("placement")
        usable = cluster is not None and profiles is not None and model is not None
        usable = usable and self._check_machines(self.sections["cluster"], profiles or {}, model)
        if section is None or model is None:
            return None
        try:
            if not usable or cluster is None or profiles is None:
                self.problems += coverage_problems(section, self.tree, model)
                return None
            placed = place(section, self.tree, cluster, model, profiles, int(self.sections.get("seed", 0)))
        except ScenarioError as error:
            self.problems += error.problems
            return None
        self.plan = placed.plan
        if placed.placement.ranges:
            self._put_placement(placed)
        return placed

    def _check_machines(
        self, section: ClusterSection, profiles: Mapping[str, MachineProfile], model: ModelSpec | None
    ) -> bool:
        """Whether there is a profile for every machine type."""
        name = model.name if model is not None else "the model"
        good = True
        for index, group in enumerate(section.nodes):
            if group.machine not in profiles:
                good = False
                rule = f"there is no profile of {name} on this machine type"
                remedy = f"{suggestion(group.machine, list(profiles))} or list a profile file under profiles"
                self.problems.append(problem_at(self.tree, ("cluster", "nodes", index, "machine"), rule, remedy))
        return good

    def _workload(self) -> Workload | None:
        section = self.sections.get("workload")
        if section is None:
            return None
        maker = WorkloadMaker(self.tree, self.sources)
        try:
            workload = maker.make(section)
        except ScenarioError as error:
            self.problems += error.problems
            return None
        self.tree = maker.tree
        return workload

    def _churn(self, cluster: Cluster | None) -> ChurnSpec | None:
        if cluster is None:
            return None
        maker = ChurnMaker(self.tree, cluster, self.sections.get("duration", math.inf), self.sources, self.notes)
        section = self.sections.get("churn")
        if section is None:
            self.problems += maker.problems_of_parts()
            return None
        self._check_recovery(section.recovery)
        try:
            churn = maker.make(section)
        except ScenarioError as error:
            self.problems += error.problems
            return None
        self.tree = maker.tree
        return churn

    def _check_recovery(self, section: RecoverySection) -> None:
        path: TreePath = ("churn", "recovery")
        policy = self._policy(section.policy, RECOVERY_NAMES, recovery_class, (*path, "policy"))
        if policy is None:
            return
        for option in section.options:
            if option not in policy.known_options:
                rule = f"the recovery policy {section.policy} has no such option"
                remedy = suggestion(option, tuple(policy.known_options))
                self.problems.append(problem_at(self.tree, (*path, "options", option), rule, remedy))

    def _check_scheduler(self) -> None:
        section: SchedulerSection | None = self.sections.get("scheduler")
        if section is None:
            return
        policy = self._policy(section.policy, POLICY_NAMES, policy_class, ("scheduler", "policy"))
        if policy is not None and section.policy in POLICY_NAMES:
            try:
                checked_options(policy.name, policy.default_options, section.options)
            except SimulationError as error:
                self._simulation_problem(("scheduler", "options"), error, "correct or remove the option")

    def _policy(
        self, name: str, known: tuple[str, ...], load: Callable[[str], type[PolicyT]], path: TreePath
    ) -> type[PolicyT] | None:
        """The class of a policy by its name, or ``module:Class``; ``None``, and a problem, when there is none."""
        if name not in known and ":" not in name:
            remedy = f"{suggestion(name, known)} (one of your own is module:Class)"
            self.problems.append(problem_at(self.tree, path, "there is no such policy", remedy))
            return None
        try:
            return load(name)
        except SimulationError as error:
            self._simulation_problem(path, error, "correct module:Class")
        except Exception as error:  # The module of somebody's own policy may raise anything.
            rule = f"it cannot be loaded: {type(error).__name__}: {error}"
            self.problems.append(problem_at(self.tree, path, rule, "correct the module"))
        return None

    def _check_times(self) -> None:
        duration, warm_up = self.sections.get("duration"), self.sections.get("warm_up")
        if duration is not None and warm_up is not None and not warm_up < duration:
            rule = f"the warm-up takes the whole duration of {duration:g} s"
            self.problems.append(problem_at(self.tree, ("warm_up",), rule, "leave time to measure"))

    def _simulation_problem(self, path: TreePath, error: SimulationError, remedy: str = "") -> None:
        rule, _, told = str(error).rpartition("; ")
        if remedy or not rule:
            rule, told = str(error), remedy or "change the values it names"
        self.problems.append(problem_at(self.tree, path, rule, told))
