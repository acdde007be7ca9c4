"""What is told about a timeline before a run is what happens in the run."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from emulator.churn.spec import ChurnSpec, NodeEvent, NodeEventKind, NodeTarget, RecoverySpec
from emulator.emulation import Emulation
from emulator.workload import ListedArrivals, OpenLoop
from scenarios.churn_timeline import MAX_PROBLEMS, Scheduled, Timeline
from scenarios.errors import Problem
from scenarios.loader import load_scenario

SPEC = dataclasses.replace(
    load_scenario("quickstart").spec, workload=OpenLoop(source=ListedArrivals(())), warm_up_s=0.0
)
NODES = [node.name for node in SPEC.cluster.nodes[:2]]
KINDS = (NodeEventKind.CRASH, NodeEventKind.JOIN, NodeEventKind.PREEMPT, NodeEventKind.STRAGGLER)


@st.composite
def timelines(draw: st.DrawFn, kinds: tuple[NodeEventKind, ...]) -> list[NodeEvent]:
    """Events at whole seconds whose ends fall between them, so that nothing happens together."""
    times = draw(st.lists(st.integers(1, 50), min_size=1, max_size=12, unique=True))
    events: list[NodeEvent] = []
    for at_s in sorted(times):
        kind = draw(st.sampled_from(kinds))
        given: dict[str, Any] = {"slowdown": 2.0} if kind is NodeEventKind.STRAGGLER else {}
        if kind is NodeEventKind.PREEMPT:
            given["notice_s"] = draw(st.integers(0, 5)) + 0.25
        if kind is not NodeEventKind.JOIN and draw(st.booleans()):
            given["duration_s"] = draw(st.integers(0, 15)) + 0.5
        target = NodeTarget(names=(draw(st.sampled_from(NODES)),))
        events.append(NodeEvent(at_s=float(at_s), kind=kind, target=target, **given))
    return events


def told(events: list[NodeEvent], down: list[str]) -> list[float]:
    """Times of the events that cannot happen, as told before the run."""
    timeline = Timeline(SPEC.cluster)

    def scheduled(event: NodeEvent) -> Scheduled:
        return Scheduled(event, lambda value, rule, remedy: Problem("", None, "", event.at_s, rule, remedy))

    timeline.check([scheduled(event) for event in events], [], down)
    return [float(str(problem.value)) for problem in timeline.problems]


def skipped(events: list[NodeEvent], down: list[str]) -> list[float]:
    """Times of the events that had nobody to happen to in the run."""
    churn = ChurnSpec(events=tuple(events), initially_down=tuple(down), recovery=RecoverySpec(policy="none"))
    log: list[bytes] = []
    emulation = Emulation(dataclasses.replace(SPEC, churn=churn), log_sink=log.append)
    emulation.run()
    lines = [json.loads(line) for line in b"".join(log).splitlines()]
    return [line["t"] for line in lines if line.get("what") == "skipped"]


DOWN = st.lists(st.sampled_from(NODES), unique=True, max_size=2)


@settings(max_examples=40)
@given(events=timelines(KINDS[:2]), down=DOWN)
def test_crashes_and_joins_are_told_exactly(events: list[NodeEvent], down: list[str]) -> None:
    assert len(events) < MAX_PROBLEMS
    assert told(events, down) == skipped(events, down)


@settings(max_examples=40)
@given(events=timelines(KINDS), down=DOWN)
def test_whatever_is_told_is_so(events: list[NodeEvent], down: list[str]) -> None:
    """While a machine has its notice the run alone knows; nothing is told that is not so."""
    assert [at_s for at_s in told(events, down) if at_s not in skipped(events, down)] == []
