"""From the names in a churn section to machines, ends of links and groups of this cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from glob import escape

from emulator.churn.spec import End, NodeTarget
from placement.cluster import COORDINATOR, Cluster
from scenarios.errors import Problem
from scenarios.library import suggestion
from scenarios.schema_targets import EndSection, LinksSection, TargetSection
from scenarios.tree import Tree, TreePath
from scenarios.validation import problem_at


@dataclass(slots=True)
class Targets:
    """Finds whom a churn section means, and notes names that mean nobody.

    Attributes:
        tree: The scenario.
        cluster: Its cluster.
        problems: What is wrong so far.
    """

    tree: Tree
    cluster: Cluster
    problems: list[Problem] = field(default_factory=list)
    names: dict[str, None] = field(init=False)
    regions: dict[str, None] = field(init=False)
    machine_types: dict[str, None] = field(init=False)

    def __post_init__(self) -> None:
        nodes = self.cluster.nodes
        self.names = {node.name: None for node in nodes}
        self.regions = {node.region: None for node in nodes} | {self.cluster.coordinator.region: None}
        self.machine_types = {node.machine_type: None for node in nodes}

    def problem(self, path: TreePath, rule: str, remedy: str, value: object = None) -> None:
        """Note a problem with what is at ``path``."""
        self.problems.append(problem_at(self.tree, path, rule, remedy, value=value))

    def machines(self, section: TargetSection, path: TreePath) -> NodeTarget | None:
        """The machines that a target means; ``None``, and problems, where a name means nobody."""
        before = len(self.problems)
        target = NodeTarget(
            names=self.patterns(section.nodes or (), path, "nodes"),
            regions=self._known(section.region or (), self.regions, path, "region"),
            machine_types=self._known(section.machine or (), self.machine_types, path, "machine"),
            choose=section.choose,
        )
        if len(self.problems) > before:
            return None
        matched = len(target.among(self.cluster))
        if not matched:
            self.problem(path, "no node meets all of its conditions", "drop a condition, or correct it", str(target))
            return None
        if section.choose is not None and section.choose > matched:
            rule = f"only {matched} nodes match"
            self.problem((*path, "choose"), rule, f"choose at most {matched}", section.choose)
            return None
        return target

    def patterns(self, given: Sequence[str], path: TreePath, key: str) -> tuple[str, ...]:
        """Names and patterns of nodes, each of which must match one."""
        for index, pattern in enumerate(given):
            if pattern not in self.names and not any(fnmatchcase(name, pattern) for name in self.names):
                self._unknown(path, key, index, pattern, "node", list(self.names))
        return tuple(escape(each) if each in self.names else each for each in given)

    def _known(self, given: Sequence[str], known: dict[str, None], path: TreePath, key: str) -> tuple[str, ...]:
        what = {"region": "region", "machine": "machine type"}[key]
        for index, name in enumerate(given):
            if name not in known:
                self._unknown(path, key, index, name, what, list(known))
        return tuple(given)

    def _unknown(self, path: TreePath, key: str, index: int, name: str, what: str, known: list[str]) -> None:
        rule = f"no node matches this {what if what != 'node' else 'name or pattern'}"
        self.problem(self._place(path, key, index), rule, suggestion(name, known), name)

    def _place(self, path: TreePath, key: str, index: int) -> TreePath:
        """Where a name stands: below its key or, in the shorter form, without it; in a list or alone."""
        part = self.tree.at(path)
        at = path if part is None or not isinstance(part.content, dict) else (*path, key)
        inner = self.tree.at(at)
        return (*at, index) if inner is not None and isinstance(inner.content, list) else at

    # -- ends of links ---------------------------------------------------------------------------

    def end(self, section: EndSection, path: TreePath) -> End | None:
        """The end that a section means; ``None``, and problems, where a name means nobody."""
        before = len(self.problems)
        names = list(self.patterns(section.nodes or (), path, "nodes"))
        regions = list(self._known(section.region or (), self.regions, path, "region"))
        machines = self._known(section.machine or (), self.machine_types, path, "machine")
        coordinator = section.coordinator
        for index, name in enumerate(section.named or ()):
            coordinator |= self._sort(name, self._place(path, "named", index), names, regions)
        coordinator |= self.cluster.coordinator.region in regions
        if len(self.problems) > before:
            return None
        return End(nodes=self._joined(names, regions, machines), coordinator=coordinator)

    def _sort(self, name: str, place: TreePath, names: list[str], regions: list[str]) -> bool:
        """Put what ``name`` may mean with its like; whether it means the coordinator."""
        is_region = name in self.regions
        if is_region and name in self.names:
            rule = "both a node and a region have this name"
            self.problem(place, rule, f"write {{nodes: {name}}} or {{region: {name}}}", name)
        elif is_region:
            regions.append(name)
        elif name in self.names:
            names.append(escape(name))
        elif name == COORDINATOR:
            return True
        else:
            matched = any(fnmatchcase(each, name) for each in self.names)
            of_coordinator = fnmatchcase(COORDINATOR, name)
            if matched:
                names.append(name)
            if not matched and not of_coordinator:
                known = [*self.names, *self.regions, COORDINATOR]
                self.problem(place, "no node or region matches this name or pattern", suggestion(name, known), name)
            return of_coordinator
        return False

    def _joined(self, names: list[str], regions: list[str], machines: tuple[str, ...]) -> NodeTarget | None:
        """One target for all who meet one of the conditions; ``None`` for nobody but, perhaps, the coordinator."""
        parts = [
            part
            for part in (
                NodeTarget(names=tuple(names)) if names else None,
                NodeTarget(regions=tuple(regions)) if regions else None,
                NodeTarget(machine_types=machines) if machines else None,
            )
            if part is not None
        ]
        if len(parts) <= 1:
            return parts[0] if parts else None
        members = (node.name for node in self.cluster.nodes if any(part.matches(node) for part in parts))
        return NodeTarget(names=tuple(escape(name) for name in members))

    def links(self, section: LinksSection, path: TreePath) -> tuple[End, End] | None:
        """Both ends of links, between which there must be one."""
        source, target = self.end(section.source, (*path, "from")), self.end(section.target, (*path, "to"))
        if source is None or target is None:
            return None
        sources, targets = source.members(self.cluster), target.members(self.cluster)
        for one in sources:
            for other in targets:
                if one != other and (
                    self.cluster.link(one, other) is not None
                    or (section.both_ways and self.cluster.link(other, one) is not None)
                ):
                    return source, target
        self.problem(path, "the cluster has no link between these ends", "name ends that are linked", _told(section))
        return None


def _told(section: LinksSection) -> str:
    return " -> ".join(
        ", ".join(end.named or end.nodes or end.region or end.machine or (COORDINATOR,))
        for end in (section.source, section.target)
    )
