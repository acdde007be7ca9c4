"""A scenario's churn: reads its availability trace, finds whom its events mean, and checks the timeline."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from emulator.churn.spec import (
    ChurnEvent,
    ChurnSpec,
    CoordinatorRestartEvent,
    Delay,
    End,
    LinkEvent,
    LinkEventKind,
    NodeEvent,
    NodeEventKind,
    NodeTarget,
    PartitionEvent,
    RandomProcess,
    RegionOutageEvent,
    Together,
)
from emulator.errors import SimulationError
from placement.cluster import Cluster
from scenarios import schema_churn as schema
from scenarios.availability import Row, read_availability
from scenarios.churn_targets import Targets
from scenarios.churn_timeline import Scheduled, Timeline
from scenarios.errors import Problem, ScenarioError
from scenarios.library import suggestion
from scenarios.references import seen_from
from scenarios.schema_parts import Section
from scenarios.schema_targets import TargetSection
from scenarios.tree import Origin, Tree, TreePath, from_plain
from scenarios.validation import problem_at, schema_problems

_NODE_KINDS = {
    schema.CrashEvent: NodeEventKind.CRASH,
    schema.DrainEvent: NodeEventKind.DRAIN,
    schema.PreemptEvent: NodeEventKind.PREEMPT,
    schema.JoinEvent: NodeEventKind.JOIN,
    schema.StragglerEvent: NodeEventKind.STRAGGLER,
    schema.GpuMemoryLossEvent: NodeEventKind.GPU_MEMORY_LOSS,
}
_LINK_KINDS = {
    schema.DegradeEvent: LinkEventKind.DEGRADE,
    schema.FlapEvent: LinkEventKind.FLAP,
    schema.DownEvent: LinkEventKind.DOWN,
}


@dataclass(slots=True)
class ChurnMaker:
    """Makes the churn of one scenario.

    Attributes:
        tree: The scenario; a trace file in it becomes absolute, with its checksum.
        cluster: Its cluster.
        duration_s: Its duration.
        sources: Takes the trace file.
        notes: What is no mistake, but may surprise.
    """

    tree: Tree
    cluster: Cluster
    duration_s: float
    sources: list[Path]
    notes: list[str] = field(default_factory=list)
    _targets: Targets = field(init=False)

    def __post_init__(self) -> None:
        self._targets = Targets(self.tree, self.cluster)

    def make(self, section: schema.ChurnSection) -> ChurnSpec:
        """The emulator's churn.

        Raises:
            ScenarioError: Everything that is wrong with it.
        """
        events, processes, down = self._found(section, enumerate(section.events), enumerate(section.random))
        if self._targets.problems:
            raise ScenarioError(self._targets.problems)
        events.sort(key=lambda scheduled: scheduled.event.at_s)
        timeline = Timeline(self.cluster)
        timeline.check(events, processes, down)
        if timeline.problems:
            raise ScenarioError(timeline.problems)
        self._note_late(events)
        return ChurnSpec(
            events=tuple(scheduled.event for scheduled in events),
            processes=tuple(processes),
            initially_down=tuple(down),
            detection=section.detection.to_domain(),
            in_flight=section.in_flight.to_domain(),
            recovery=section.recovery.to_domain(),
        )

    def problems_of_parts(self) -> list[Problem]:
        """What is wrong with the parts that are in order, of a section that as a whole is not."""
        part = self.tree.at(("churn",))
        if part is None or not isinstance(part.content, dict):
            return []
        rest: dict[str, Any] = {
            key: made for key in ("trace", "initially_down") if (made := _checked(part.child(key), key)) is not None
        }
        self._found(
            schema.ChurnSection.model_construct(**rest),
            _checked_items(part.child("events"), "events"),
            _checked_items(part.child("random"), "random"),
        )
        return self._targets.problems

    def _found(
        self,
        section: schema.ChurnSection,
        given_events: Iterable[tuple[int, Section]],
        given_processes: Iterable[tuple[int, schema.RandomSection]],
    ) -> tuple[list[Scheduled], list[RandomProcess], list[str]]:
        """Events in order of the file, random failures, and machines that are down at the start."""
        made = (self._event(each, ("churn", "events", index)) for index, each in given_events)
        events = [event for event in made if event is not None]
        found = (self._process(each, ("churn", "random", index)) for index, each in given_processes)
        processes = [process for process in found if process is not None]
        patterns = self._targets.patterns(section.initially_down or (), ("churn", "initially_down"), "")
        down = list(NodeTarget(names=patterns).among(self.cluster)) if patterns else []
        down += [name for name in self._replayed(section, events) if name not in down]
        return events, processes, down

    def _note_late(self, events: list[Scheduled]) -> None:
        """Events after the end are no mistake: ``--set duration`` must be free to cut a run short."""
        late = [scheduled.event.at_s for scheduled in events if scheduled.event.at_s > self.duration_s]
        if late:
            many = f"{len(late)} events are" if len(late) > 1 else "an event is"
            self.notes.append(
                f"churn: {many} after the duration of {self.duration_s:g} s, the first at {late[0]:g} s; "
                "they do not happen"
            )

    # -- events --------------------------------------------------------------------------------

    def _event(self, section: Section, path: TreePath) -> Scheduled | None:
        try:
            event = self._event_value(section, path)
        except SimulationError as error:
            rule, _, remedy = str(error).removeprefix("churn: ").rpartition("; ")
            self._targets.problem(path, rule or str(error), remedy if rule else "change the values it names")
            return None
        if event is None:
            return None

        def problem(value: object, rule: str, remedy: str) -> Problem:
            return problem_at(self.tree, path, rule, remedy, value=value)

        return Scheduled(event, problem)

    def _event_value(self, section: Section, path: TreePath) -> ChurnEvent | None:
        if isinstance(section, tuple(_NODE_KINDS)):
            return self._node_event(section, path)
        if isinstance(section, (schema.DegradeEvent, schema.FlapEvent, schema.DownEvent)):
            return self._link_event(section, path)
        if isinstance(section, schema.PartitionEvent):
            groups = [
                self._targets.end(group, (*path, "partition", index)) for index, group in enumerate(section.partition)
            ]
            known = tuple(group for group in groups if group is not None)
            if len(known) < len(groups):
                return None
            return PartitionEvent(at_s=section.at, groups=known, duration_s=section.duration)
        if isinstance(section, schema.RegionOutageEvent):
            return self._region_outage(section, path)
        assert isinstance(section, schema.CoordinatorRestartEvent)
        return CoordinatorRestartEvent(at_s=section.at, duration_s=section.coordinator_restart)

    def _node_event(self, section: Section, path: TreePath) -> NodeEvent | None:
        kind = _NODE_KINDS[type(section)]
        target = self._targets.machines(getattr(section, kind), (*path, kind.value))
        if target is None:
            return None
        given: dict[str, float] = {}
        if isinstance(section, schema.PreemptEvent) or (isinstance(section, schema.DrainEvent) and section.notice):
            given["notice_s"] = section.notice or 0.0
        if isinstance(section, schema.StragglerEvent):
            given["slowdown"] = section.slowdown
        if isinstance(section, schema.GpuMemoryLossEvent):
            given["memory_share"] = section.share
        duration_s: float | None = getattr(section, "duration", None)
        at_s: float = section.at  # type: ignore[attr-defined]
        return NodeEvent(at_s=at_s, kind=kind, target=target, duration_s=duration_s, **given)

    def _link_event(
        self, section: schema.DegradeEvent | schema.FlapEvent | schema.DownEvent, path: TreePath
    ) -> LinkEvent | None:
        kind = _LINK_KINDS[type(section)]
        links = getattr(section, kind)
        ends = self._targets.links(links, (*path, kind.value))
        if ends is None:
            return None
        given: dict[str, float] = {}
        if isinstance(section, schema.DegradeEvent):
            given = {"bandwidth_factor": section.bandwidth, "latency_factor": section.latency}
        if isinstance(section, schema.FlapEvent):
            given = {"period_s": section.period, "down_share": section.down_share}
        return LinkEvent(
            at_s=section.at,
            kind=kind,
            source=ends[0],
            target=ends[1],
            both_ways=links.both_ways,
            duration_s=section.duration,
            **given,
        )

    def _region_outage(self, section: schema.RegionOutageEvent, path: TreePath) -> RegionOutageEvent | None:
        # The coordinator's region need not have machines; then there is nothing to lose in it.
        held = list(dict.fromkeys(node.region for node in self.cluster.nodes))
        if section.region_outage not in held:
            rule = "no node is in this region"
            self._targets.problem((*path, "region_outage"), rule, suggestion(section.region_outage, held))
            return None
        return RegionOutageEvent(at_s=section.at, region=section.region_outage, duration_s=section.duration)

    # -- random failures -------------------------------------------------------------------------

    def _process(self, section: schema.RandomSection, path: TreePath) -> RandomProcess | None:
        kinds: Mapping[NodeEventKind, TargetSection | None] = {
            NodeEventKind.CRASH: section.crash,
            NodeEventKind.PREEMPT: section.preempt,
            NodeEventKind.STRAGGLER: section.straggler,
        }
        kind, given = next((kind, each) for kind, each in kinds.items() if each is not None)
        target = self._targets.machines(given, (*path, kind.value))
        if given.choose is not None:
            rule = "a random process takes every machine that matches"
            self._targets.problem((*path, kind.value, "choose"), rule, "remove choose")
            return None
        if section.stop is not None and section.stop < section.start:
            rule = f"it stops before it starts, at {section.start:g} s"
            self._targets.problem((*path, "stop"), rule, "let it stop later")
            return None
        if target is None:
            return None
        whom, share = (Together.NOBODY, 0.0) if section.together is None else section.together.to_domain()
        optional = {"stop_s": section.stop, "notice_s": section.notice, "slowdown": section.slowdown}
        return RandomProcess(
            kind=kind,
            target=target,
            between=Delay(mean_s=section.mtbf, law=section.law, shape=section.shape or 1.0),
            repair=None
            if section.mttr is None
            else Delay(mean_s=section.mttr, law=section.repair_law, shape=section.repair_shape or 1.0),
            start_s=section.start,
            together=whom,
            share=share,
            **{key: value for key, value in optional.items() if value is not None},
        )

    # -- availability trace ----------------------------------------------------------------------

    def _replayed(self, section: schema.ChurnSection, events: list[Scheduled]) -> list[str]:
        """Add the events of the trace to ``events``; the names of machines that are down from its start on."""
        if section.trace is None:
            return []
        file, rows = self._rows(section.trace)
        names = dict.fromkeys(row.node for row in rows)
        targets = {name: NodeTarget(names=self._targets.patterns((name,), ("churn",), "")) for name in names}
        start_s, notice_s = section.trace.start, section.trace.notice
        later_down: list[str] = []
        for row in rows:
            if row.time_s == 0 and start_s == 0 and row.kind in (NodeEventKind.CRASH, NodeEventKind.JOIN):
                # What a machine is at the start is no event.
                if row.kind is NodeEventKind.CRASH:
                    later_down.append(row.node)
                continue
            given = {"notice_s": notice_s} if row.kind is NodeEventKind.PREEMPT else {}
            event = NodeEvent(at_s=start_s + row.time_s, kind=row.kind, target=targets[row.node], **given)
            events.append(Scheduled(event, partial(_row_problem, file, row.line)))
        return later_down

    def _rows(self, section: schema.AvailabilitySection) -> tuple[str, list[Row]]:
        path: TreePath = ("churn", "trace")
        part = self.tree.nearest((*path, "file"))
        file = part.origin.folder / section.file
        try:
            rows = read_availability(file, self._targets.names)
            with file.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
        except ScenarioError as error:
            self._targets.problems += [seen_from(part, problem, file) for problem in error.problems]
            return str(file), []
        except OSError as error:
            rule = f"the trace cannot be read: {error.strerror}"
            self._targets.problem(path, rule, "check the path", str(file))
            return str(file), []
        if section.sha256 is not None and section.sha256 != digest:
            rule = f"the trace {file} has changed: its SHA-256 is {digest}"
            remedy = "restore the file, or remove sha256 to accept the new one"
            self._targets.problem((*path, "sha256"), rule, remedy)
        self.sources.append(file)
        given = self.tree.at(path)
        if given is not None and not isinstance(given.content, dict):
            self.tree = self.tree.put(path, Tree({}, given.origin))
        self.tree = self.tree.put((*path, "file"), Tree(str(file.resolve()), part.origin))
        self.tree = self.tree.put((*path, "sha256"), Tree(digest, part.origin))
        return str(file), rows


def event_of(cluster: Cluster, words: Mapping[str, Any]) -> ChurnEvent:
    """One event in the words of a scenario file, without its time.

    Raises:
        ScenarioError: There is no such event, or nobody whom it means.
    """
    tree = _tree_of({"at": "0 s", **words})
    try:
        section = _adapter("events").validate_python(tree.at(("churn", "events", 0)).plain())  # type: ignore[union-attr]
    except ValidationError as error:
        raise ScenarioError(schema_problems(tree, error, ("churn", "events", 0))) from None
    maker = ChurnMaker(tree, cluster, math.inf, [])
    made = maker._event(section, ("churn", "events", 0))
    if made is None:
        raise ScenarioError(maker._targets.problems)
    timeline = Timeline(cluster)
    if isinstance(made.event, PartitionEvent):
        timeline.check([made], [], [])
    if timeline.problems:
        raise ScenarioError(timeline.problems)
    return made.event


def ends_of(cluster: Cluster, source: object, target: object, *, both_ways: bool) -> tuple[End, End]:
    """Both ends of links, in the words of a scenario file.

    Raises:
        ScenarioError: Nobody is meant, or there is no link.
    """
    event = event_of(cluster, {"down": {"from": source, "to": target, "both_ways": both_ways}})
    assert isinstance(event, LinkEvent)
    return event.source, event.target


def _tree_of(event: Mapping[str, Any]) -> Tree:
    return from_plain({"churn": {"events": [dict(event)]}}, Origin("EmulatedCluster", None, Path()))


@cache
def _adapter(key: str) -> TypeAdapter[Any]:
    """Checks one part of the section: one entry where the part is a list."""
    each: dict[str, Any] = {"events": schema.Event, "random": schema.RandomSection}
    known = schema.ChurnSection.model_fields
    return TypeAdapter(each[key] if key in each else known[key].rebuild_annotation())


def _checked(part: Tree | None, key: str) -> Any:
    """A part of the section, if it is there and in order."""
    if part is None:
        return None
    try:
        return _adapter(key).validate_python(part.plain())
    except ValidationError:
        return None  # The schema has told what is wrong with it.


def _checked_items(part: Tree | None, key: str) -> Iterator[tuple[int, Any]]:
    """Entries that are in order, with their places."""
    if part is None or not isinstance(part.content, list):
        return
    for index, item in enumerate(part.content):
        made = _checked(item, key)
        if made is not None:
            yield index, made


def _row_problem(file: str, line: int, value: object, rule: str, remedy: str) -> Problem:
    return Problem(file, line, "event", value, rule, remedy)
