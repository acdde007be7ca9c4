"""Checks a timeline of churn before anything runs: events that cannot happen because of those before them.

Only what is certain is told. Whether a machine is up is unknown from the moment that a random choice may have met it,
while it drains, and always if it fails at random; an event on such a machine is left to the run.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from emulator.churn.spec import (
    ChurnEvent,
    CoordinatorRestartEvent,
    NodeEvent,
    NodeEventKind,
    NodeTarget,
    PartitionEvent,
    RandomProcess,
    RegionOutageEvent,
)
from placement.cluster import Cluster
from scenarios.errors import Problem

MAX_PROBLEMS = 20
"""A timeline is looked at until so many problems are found; most follow from the first."""


@dataclass(frozen=True, slots=True)
class Scheduled:
    """An event and the place that it comes from.

    Attributes:
        event: The event.
        problem: Makes a problem with it from a value, a rule and a remedy.
    """

    event: ChurnEvent
    problem: Callable[[object, str, str], Problem]


@dataclass(slots=True)
class Timeline:
    """Walks over scheduled events in order of time.

    Attributes:
        cluster: The machines.
        problems: What cannot happen.
    """

    cluster: Cluster
    problems: list[Problem] = field(default_factory=list)
    _up: dict[str, bool | None] = field(init=False)
    _changed_s: dict[str, float] = field(init=False, default_factory=dict)
    _version: dict[str, int] = field(init=False)
    _to_come: list[tuple[float, int, str, int, bool | None]] = field(init=False, default_factory=list)
    _pushed: int = field(init=False, default=0)
    _random: dict[str, None] = field(init=False, default_factory=dict)
    _leaves_s: dict[tuple[str, int], float] = field(init=False, default_factory=dict)
    _matched: dict[NodeTarget, tuple[str, ...]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._up = {node.name: True for node in self.cluster.nodes}
        self._version = dict.fromkeys(self._up, 0)

    def check(
        self, events: Sequence[Scheduled], processes: Sequence[RandomProcess], initially_down: Sequence[str]
    ) -> None:
        """Note every event that cannot happen.

        Args:
            events: In order of time.
            processes: Random failures.
            initially_down: Names of machines that are down at the start.
        """
        for name in initially_down:
            self._up[name] = False
        for process in processes:
            if process.kind is not NodeEventKind.STRAGGLER:
                self._random.update(dict.fromkeys(process.target.among(self.cluster)))
        partitioned_s = away_s = -math.inf
        for scheduled in events:
            if len(self.problems) >= MAX_PROBLEMS:
                return
            event = scheduled.event
            self._pass(event.at_s)
            if isinstance(event, NodeEvent):
                self._machines(event, scheduled)
            elif isinstance(event, RegionOutageEvent):
                target = NodeTarget(regions=(event.region,))
                crash = NodeEvent(at_s=event.at_s, kind=NodeEventKind.CRASH, target=target, duration_s=event.duration_s)
                self._machines(crash, scheduled)
            elif isinstance(event, PartitionEvent):
                if event.at_s < partitioned_s:
                    rule = f"another partition is still there {_until(partitioned_s)}; partitions must not overlap"
                    remedy = "give the earlier one a shorter for, or make one partition of both"
                    self.problems.append(scheduled.problem(f"{event.at_s:g} s", rule, remedy))
                partitioned_s = max(partitioned_s, _end_s(event.at_s, event.duration_s))
                self._groups(event, scheduled)
            elif isinstance(event, CoordinatorRestartEvent):
                if event.at_s < away_s:
                    rule = f"the coordinator is still away {_until(away_s)}"
                    self.problems.append(scheduled.problem(f"{event.at_s:g} s", rule, "restart it later"))
                away_s = max(away_s, _end_s(event.at_s, event.duration_s))

    # -- machines --------------------------------------------------------------------------------

    def _machines(self, event: NodeEvent, scheduled: Scheduled) -> None:
        matched = self._matched.get(event.target)
        if matched is None:
            # A trace repeats its few targets for every row.
            matched = self._matched[event.target] = event.target.among(self.cluster)
        joins = event.kind is NodeEventKind.JOIN
        # Unknown is neither: whoever may be up or down counts as able.
        fit = [name for name in matched if self._known(name, event.at_s) is not joins]
        needed = event.target.choose or 1
        if len(fit) < needed:
            self._impossible(event, matched, fit, scheduled)
            return
        if event.target.choose is not None and event.target.choose < len(matched):
            for name in fit:
                self._set(name, event.at_s, None)
            return
        for name in fit:
            self._happens(event, name)

    def _impossible(self, event: NodeEvent, matched: Sequence[str], fit: Sequence[str], scheduled: Scheduled) -> None:
        joins = event.kind is NodeEventKind.JOIN
        state = "up" if joins else "down"
        at = f"at {event.at_s:g} s"
        remedy = "let it crash or drain before, or list it under initially_down" if joins else "let it join before"
        if event.target.choose is not None:
            rule = f"{event.kind} chooses {event.target.choose}, but only {len(fit)} of {len(matched)} can: {at} the "
            rule += f"others are {state}"
        elif len(matched) == 1:
            rule = f"{event.kind} of {matched[0]}, which is {state} {at}"
        else:
            rule = f"{event.kind} of {len(matched)} nodes, all of which are {state} {at}"
        self.problems.append(scheduled.problem(str(event.target), rule, remedy))

    def _known(self, name: str, now_s: float) -> bool | None:
        """Whether a machine is up, as far as that is certain; not at the very time of a change."""
        if name in self._random or self._changed_s.get(name) == now_s:
            return None
        return self._up[name]

    def _happens(self, event: NodeEvent, name: str) -> None:
        now_s, kind = event.at_s, event.kind
        if kind in (NodeEventKind.STRAGGLER, NodeEventKind.GPU_MEMORY_LOSS):
            return
        leaves_s = self._leaves_s.get((name, self._version[name]), -math.inf)
        if self._known(name, now_s) is None or (now_s < leaves_s and kind is not NodeEventKind.CRASH):
            # What comes of it, and of what was to come, depends on what is not known.
            self._set(name, now_s, None)
        elif kind is NodeEventKind.JOIN:
            self._set(name, now_s, True)
        elif kind is NodeEventKind.CRASH:
            self._set(name, now_s, False)
            if event.duration_s is not None:
                self._later(now_s + event.duration_s, name, True)
        elif kind is NodeEventKind.PREEMPT:
            # It stays, though without new work, until its notice is over.
            self._set(name, now_s, True)
            self._leaves_s[name, self._version[name]] = now_s + event.notice_s
            self._later(now_s + event.notice_s, name, False)
            if event.duration_s is not None:
                self._later(now_s + event.notice_s + event.duration_s, name, True)
        else:
            self._drains(event, name)

    def _drains(self, event: NodeEvent, name: str) -> None:
        # It leaves as soon as it has finished, and has left when the notice is over.
        self._set(name, event.at_s, None)
        if event.notice_s < math.inf:
            self._later(event.at_s + event.notice_s, name, False)
        if event.duration_s is not None:
            # It comes back if it has left by then.
            self._later(event.at_s + event.duration_s, name, True if event.duration_s > event.notice_s else None)

    def _set(self, name: str, now_s: float, up: bool | None) -> None:
        self._up[name] = up
        self._version[name] += 1
        self._changed_s[name] = now_s

    def _later(self, at_s: float, name: str, up: bool | None) -> None:
        """A change to come, unless something else happens to the machine before."""
        self._pushed += 1
        heapq.heappush(self._to_come, (at_s, self._pushed, name, self._version[name], up))

    def _pass(self, now_s: float) -> None:
        while self._to_come and self._to_come[0][0] <= now_s:
            at_s, _, name, version, up = heapq.heappop(self._to_come)
            if version == self._version[name]:
                self._up[name] = up
                self._changed_s[name] = at_s

    # -- groups ----------------------------------------------------------------------------------

    def _groups(self, event: PartitionEvent, scheduled: Scheduled) -> None:
        group_of: dict[str, int] = {}
        for index, group in enumerate(event.groups):
            for member in group.members(self.cluster):
                other = group_of.setdefault(member, index)
                if other != index:
                    rule = f"{member} is in group {other} and in group {index}; a partition's groups share nobody"
                    self.problems.append(scheduled.problem(member, rule, "take it out of one of them"))
                    return


def _end_s(at_s: float, duration_s: float | None) -> float:
    return math.inf if duration_s is None else at_s + duration_s


def _until(end_s: float) -> str:
    return "for good" if end_s == math.inf else f"until {end_s:g} s"
