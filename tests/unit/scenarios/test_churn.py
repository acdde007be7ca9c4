"""Churn sections: what they mean, and what is told when they cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from emulator.churn.spec import (
    ChurnSpec,
    CoordinatorRestartEvent,
    Delay,
    Detection,
    End,
    InFlight,
    InFlightPolicy,
    Law,
    LinkEvent,
    LinkEventKind,
    NodeEvent,
    NodeEventKind,
    NodeTarget,
    PartitionEvent,
    RandomProcess,
    RecoverySpec,
    RegionOutageEvent,
    Together,
    WeightSource,
)
from scenarios.errors import ScenarioError
from scenarios.loader import LoadedScenario, load_scenario
from scenarios.yaml_text import dump_yaml

HEAD = """\
schema_version: 1
name: churning
duration: 600 s
model: llama-1-30b
cluster:
  name: three-regions
  coordinator: {region: us, nic: 10 Gbit/s}
  nodes:
    - {name: a100, machine: A100, region: us, count: 2}
    - {name: l4, machine: L4, region: eu, count: 4}
    - {name: t4, machine: T4, region: apac, count: 2}
  network:
    regions:
      - {from: "*", to: "*", bandwidth: 1 GB/s, latency: 10 ms}
placement: {planner: petals}
workload: {kind: closed, refill: constant, initial_requests: 2, lengths: {prompt_tokens: 100, output_tokens: 10}}
churn:
"""
FIRST_LINE = HEAD.count("\n") + 1


def write(folder: Path, churn: str) -> Path:
    path = folder / "scenario.yaml"
    path.write_text(HEAD + "".join(f"  {line}\n" for line in churn.strip("\n").splitlines()))
    return path


def loaded(folder: Path, churn: str) -> LoadedScenario:
    return load_scenario(write(folder, churn))


def spec(folder: Path, churn: str) -> ChurnSpec:
    found = loaded(folder, churn).spec.churn
    assert found is not None
    return found


def problems(folder: Path, churn: str) -> list[str]:
    with pytest.raises(ScenarioError) as caught:
        loaded(folder, churn)
    assert all(problem.remedy for problem in caught.value.problems)
    return [str(problem).removeprefix(f"{folder}/") for problem in caught.value.problems]


def end(*names: str, **given: Any) -> End:
    return End(nodes=NodeTarget(names=names, **given) if names or given else None, coordinator=False)


# ------------------------------------------------------------------------------------------------ what it means


def test_every_kind_of_event(tmp_path: Path) -> None:
    events = """
events:
  - {at: 60 s, crash: a100-0, for: 2 min}
  - {at: 90 s, preempt: {region: eu, choose: 2}, notice: 30 s}
  - {at: 2 min, straggler: "t4-*", slowdown: 3, for: 1 min}
  - {at: 3 min, degrade: {from: us, to: eu}, bandwidth: 0.1, latency: 3, for: 1 min}
  - {at: 4 min, partition: [[us], [eu, t4-0]], for: 30 s}
  - {at: 5 min, region_outage: eu, for: 2 min}
  - {at: 6 min, coordinator_restart: 5 s}
  - {at: 7 min, drain: {machine: [L4, T4], nodes: ["*-1"]}, notice: 20 s}
  - {at: 7 min, join: a100-1}
  - {at: 7 min, gpu_memory_loss: [a100-0], share: 0.25}
  - {at: 8 min, flap: {from: a100-0, to: coordinator, both_ways: false}, period: 4 s, down_share: 0.25}
  - {at: 9 min, down: {from: "a100-*", to: {machine: L4}}}
""".replace("  - {at: 7 min, join: a100-1}\n", "")
    us = End(nodes=NodeTarget(regions=("us",)), coordinator=True)
    eu = End(nodes=NodeTarget(regions=("eu",)))
    assert spec(tmp_path, events).events == (
        NodeEvent(at_s=60, kind=NodeEventKind.CRASH, target=NodeTarget(names=("a100-0",)), duration_s=120),
        NodeEvent(at_s=90, kind=NodeEventKind.PREEMPT, target=NodeTarget(regions=("eu",), choose=2), notice_s=30),
        NodeEvent(
            at_s=120, kind=NodeEventKind.STRAGGLER, target=NodeTarget(names=("t4-*",)), slowdown=3, duration_s=60
        ),
        LinkEvent(
            at_s=180,
            kind=LinkEventKind.DEGRADE,
            source=us,
            target=eu,
            bandwidth_factor=0.1,
            latency_factor=3,
            duration_s=60,
        ),
        # A group of a region and a node is spelled out.
        PartitionEvent(at_s=240, groups=(us, end("l4-0", "l4-1", "l4-2", "l4-3", "t4-0")), duration_s=30),
        RegionOutageEvent(at_s=300, region="eu", duration_s=120),
        CoordinatorRestartEvent(at_s=360, duration_s=5),
        NodeEvent(
            at_s=420,
            kind=NodeEventKind.DRAIN,
            target=NodeTarget(names=("*-1",), machine_types=("L4", "T4")),
            notice_s=20,
        ),
        NodeEvent(
            at_s=420, kind=NodeEventKind.GPU_MEMORY_LOSS, target=NodeTarget(names=("a100-0",)), memory_share=0.25
        ),
        LinkEvent(
            at_s=480,
            kind=LinkEventKind.FLAP,
            source=end("a100-0"),
            target=End(coordinator=True),
            both_ways=False,
            period_s=4,
            down_share=0.25,
        ),
        LinkEvent(at_s=540, kind=LinkEventKind.DOWN, source=end("a100-*"), target=end(machine_types=("L4",))),
    )


def test_the_rest_of_the_section(tmp_path: Path) -> None:
    found = spec(
        tmp_path,
        """
random:
  - {crash: {machine: T4}, mtbf: 30 min, mttr: 5 min, law: weibull, shape: 0.8, together: {region: 0.2}}
  - {preempt: "l4-*", mtbf: 1 h, notice: 2 min, start: 10 s, stop: 5 min, together: {everybody: 1}}
  - {straggler: {region: us}, mtbf: 1 h, mttr: 1 min, slowdown: 4, repair_law: weibull, repair_shape: 2}
initially_down: ["l4-[01]", t4-0]
detection: {interval: 500 ms, timeout: 2 s, heartbeat: 1 kB}
in_flight: {policy: replicate, max_retries: 5, deadline: 5 min}
recovery: {policy: standby, weights: peer, drain: 10 s}
""",
    )
    assert found == ChurnSpec(
        processes=(
            RandomProcess(
                kind=NodeEventKind.CRASH,
                target=NodeTarget(machine_types=("T4",)),
                between=Delay(mean_s=1800, law=Law.WEIBULL, shape=0.8),
                repair=Delay(mean_s=300),
                together=Together.REGION,
                share=0.2,
            ),
            RandomProcess(
                kind=NodeEventKind.PREEMPT,
                target=NodeTarget(names=("l4-*",)),
                between=Delay(mean_s=3600),
                repair=None,
                start_s=10,
                stop_s=300,
                together=Together.ALL,
                share=1,
                notice_s=120,
            ),
            RandomProcess(
                kind=NodeEventKind.STRAGGLER,
                target=NodeTarget(regions=("us",)),
                between=Delay(mean_s=3600),
                repair=Delay(mean_s=60, law=Law.WEIBULL, shape=2),
                slowdown=4,
            ),
        ),
        initially_down=("l4-0", "l4-1", "t4-0"),
        detection=Detection(interval_s=0.5, timeout_s=2, heartbeat_bytes=1000),
        in_flight=InFlight(policy=InFlightPolicy.REPLICATE, max_retries=5, deadline_s=300),
        recovery=RecoverySpec(policy="standby", weights=WeightSource.PEER, drain_s=10),
    )


def test_without_the_section_nothing_can_change(tmp_path: Path) -> None:
    path = tmp_path / "calm.yaml"
    path.write_text(HEAD.removesuffix("churn:\n"))
    assert load_scenario(path).spec.churn is None


def test_an_empty_section_is_churn_by_defaults(tmp_path: Path) -> None:
    assert spec(tmp_path, "events: []") == ChurnSpec()


def test_events_may_stand_in_any_order(tmp_path: Path) -> None:
    found = spec(tmp_path, "events:\n  - {at: 2 min, join: a100-0}\n  - {at: 60 s, crash: a100-0}")
    assert [event.at_s for event in found.events] == [60, 120]


def test_a_name_of_a_node_is_no_pattern(tmp_path: Path) -> None:
    path = write(tmp_path, "events:\n  - {at: 1 s, crash: 'a[1]'}")
    both = "{name: 'a[1]', machine: A100, region: us}\n    - {name: a1, machine: A100, region: us}"
    path.write_text(path.read_text().replace("{name: a100, machine: A100, region: us, count: 2}", both))
    found = load_scenario(path).spec
    assert found.churn is not None
    (event,) = found.churn.events
    assert isinstance(event, NodeEvent)
    assert event.target.among(found.cluster) == ("a[1]",)


def test_the_section_may_be_a_file_of_its_own_and_changed_from_outside(tmp_path: Path) -> None:
    (tmp_path / "storm.yaml").write_text(
        "schema_version: 1\nkind: churn\nevents:\n  - {at: 10 s, crash: a100-0}\ntrace: went.csv\n"
    )
    (tmp_path / "went.csv").write_text("time_s,node,event\n5,l4-0,down\n")
    path = tmp_path / "scenario.yaml"
    path.write_text(HEAD.removesuffix("\n") + " storm.yaml\n")
    changed = load_scenario(path, sets=["churn.events.0.crash=a100-1", "churn.recovery.policy=none"])
    assert changed.spec.churn is not None
    assert [str(event.target) for event in changed.spec.churn.events if isinstance(event, NodeEvent)] == [
        "l4-0",
        "a100-1",
    ]
    assert changed.spec.churn.recovery.policy == "none"


def test_a_resolved_scenario_loads_to_the_same_churn_from_anywhere(tmp_path: Path) -> None:
    (tmp_path / "went.csv").write_text("time_s,node,event\n0,t4-0,down\n5,l4-0,preempt\n50,t4-0,up\n")
    first = loaded(
        tmp_path,
        """
events:
  - {at: 60 s, crash: a100-0, for: 2 min}
  - {at: 4 min, partition: [[us], [eu, t4-0]], for: 30 s}
random:
  - {crash: {machine: T4}, mtbf: 30 min, mttr: 5 min}
trace: {file: went.csv, notice: 3 s}
""",
    )
    (tmp_path / "elsewhere").mkdir()
    again = tmp_path / "elsewhere" / "scenario.yaml"
    again.write_text(dump_yaml(first.resolved))
    assert load_scenario(again).spec == first.spec
    assert (tmp_path / "went.csv") in first.sources
    (tmp_path / "went.csv").write_text("time_s,node,event\n")
    with pytest.raises(ScenarioError, match="has changed"):
        load_scenario(again)


def test_events_after_the_end_are_noted_but_no_mistake(tmp_path: Path) -> None:
    notes = loaded(tmp_path, "events:\n  - {at: 601 s, crash: a100-0}\n  - {at: 602 s, crash: a100-1}").notes
    assert notes == ("churn: 2 events are after the duration of 600 s, the first at 601 s; they do not happen",)
    assert loaded(tmp_path, "events:\n  - {at: 600 s, crash: a100-0}").notes == ()


# --------------------------------------------------------------------------------------------- an availability trace


def test_a_trace_is_replayed_beside_the_events(tmp_path: Path) -> None:
    (tmp_path / "went.csv").write_text(
        "node,time_s,event,reason\nl4-0,100,DOWN,price\nl4-0,200.5,up,\na100-0,0,up,\nt4-0,0,down,\nt4-0,3,join,\n"
        '"t4-1",4,preempt,\n'
    )
    found = spec(tmp_path, "events:\n  - {at: 100 s, crash: l4-1}\ntrace: {file: went.csv, notice: 1 min}")
    assert found.initially_down == ("t4-0",)
    kinds = [(event.at_s, str(event.target), str(event.kind)) for event in found.events if isinstance(event, NodeEvent)]
    assert kinds == [
        (3, "t4-0", "join"),
        (4, "t4-1", "preempt"),
        (100, "l4-1", "crash"),
        (100, "l4-0", "crash"),
        (200.5, "l4-0", "join"),
    ]
    assert isinstance(found.events[1], NodeEvent)
    assert found.events[1].notice_s == 60


def test_a_trace_may_begin_later(tmp_path: Path) -> None:
    (tmp_path / "went.csv").write_text("time_s,node,event\n0,l4-0,down\n")
    found = spec(tmp_path, "trace: {file: went.csv, start: 1 min}")
    assert ([event.at_s for event in found.events], found.initially_down) == ([60], ())


def test_rows_that_cannot_happen_are_told_with_their_line(tmp_path: Path) -> None:
    (tmp_path / "went.csv").write_text("time_s,node,event\n\n9,l4-0,up\n10,l4-1,down\n20,l4-1,down\n")
    assert problems(tmp_path, "trace: went.csv") == [
        'went.csv:3: event: "l4-0": join of l4-0, which is up at 9 s; let it crash or drain before, or list it under '
        "initially_down",
        'went.csv:5: event: "l4-1": crash of l4-1, which is down at 20 s; let it join before',
    ]


# ------------------------------------------------------------------------------------------------------ what is told

TWICE = "  - {at: 10 s, crash: a100-0}\n  "
BAD_EVENTS = [
    ("- {at: 60 s, crash: a100-2}", 'crash: "a100-2": no node matches this name or pattern; did you mean a100-'),
    ("- {at: 60 s, crash: 'h100-*'}", "no node matches this name or pattern"),
    ("- {at: 60 s, crash: [a100-0, b]}", 'crash.1: "b": no node matches'),
    ("- {at: 60 s, crash: {nodes: [a100-0, b]}}", 'crash.nodes.1: "b": no node matches'),
    ("- {at: 60 s, crash: {region: eu-west}}", 'crash.region: "eu-west": no node matches this region'),
    ("- {at: 60 s, crash: {machine: A10}}", "no node matches this machine type; did you mean A100?"),
    ("- {at: 60 s, crash: {machine: A100, region: eu}}", "no node meets all of its conditions"),
    ("- {at: 60 s, crash: {}}", "it names nobody"),
    ("- {at: 60 s, crash: {machine: A100, choose: 3}}", "only 2 nodes match; choose at most 2"),
    ("- {at: 60 s, crash: {machine: A100, choose: 0}}", "it must be at least 1"),
    ("- {at: -1 s, crash: a100-0}", "a duration must not be negative"),
    ("- {at: 60, crash: a100-0}", "it is a bare number, but a duration needs a unit"),
    ("- {at: 60 s, crash: a100-0, for: 0 s}", "must be greater than 0"),
    ("- {at: 60 s}", "an event is a mapping that says when and what"),
    ("- crash", "an event is a mapping that says when and what"),
    ("- {at: 60 s, crsh: a100-0}", "there is no such key; did you mean crash?"),
    ("- {at: 60 s, crash: a100-0, join: a100-1}", 'join: "a100-1": there is no such key'),
    ("- {at: 60 s, preempt: a100-0}", "this key is missing; add notice"),
    ("- {at: 60 s, straggler: a100-0, slowdown: 0}", "it must be greater than 0"),
    ("- {at: 60 s, gpu_memory_loss: a100-0, share: 1}", "it must be less than 1"),
    ("- {at: 60 s, degrade: {from: us, to: eu}}", "it changes nothing"),
    ("- {at: 60 s, degrade: {from: us, to: mars}, latency: 2}", 'degrade.to: "mars": no node or region matches'),
    ("- {at: 60 s, down: {from: us}}", "this key is missing; add to (Receiving end"),
    ("- {at: 60 s, down: {from: a100-0, to: a100-0}}", "the cluster has no link between these ends"),
    ("- {at: 60 s, flap: {from: us, to: eu}, down_share: 1}", "it must be less than 1"),
    ("- {at: 60 s, partition: [[us]]}", "fewer than 2 entries"),
    ("- {at: 60 s, partition: [[us], [a100-1, eu]]}", "a100-1 is in group 0 and in group 1"),
    ("- {at: 60 s, partition: [us, coordinator]}", "coordinator is in group 0 and in group 1"),
    ("- {at: 60 s, region_outage: mars}", "no node is in this region"),
    ("- {at: 60 s, coordinator_restart: 0 s}", "must be greater than 0"),
    # The timeline.
    ("- {at: 60 s, join: a100-0}", "join of a100-0, which is up at 60 s"),
    ("- {at: 60 s, join: 'a100-*'}", "join of 2 nodes, all of which are up at 60 s"),
    (f"{TWICE}- {{at: 20 s, crash: a100-0}}", "crash of a100-0, which is down at 20 s; let it join before"),
    (f"{TWICE}- {{at: 20 s, straggler: a100-0, slowdown: 2}}", "straggler of a100-0, which is down at 20 s"),
    (f"{TWICE}- {{at: 20 s, preempt: a100-0, notice: 1 s}}", "preempt of a100-0, which is down at 20 s"),
    (f"{TWICE}- {{at: 20 s, crash: {{machine: A100, choose: 2}}}}", "crash chooses 2, but only 1 of 2 can"),
    ("- {at: 5 s, region_outage: eu}\n  - {at: 6 s, region_outage: eu}", "crash of 4 nodes, all of which are down"),
    ("- {at: 5 s, crash: a100-0, for: 5 s}\n  - {at: 11 s, join: a100-0}", "which is up at 11 s"),
    ("- {at: 5 s, preempt: a100-0, notice: 2 s}\n  - {at: 8 s, crash: a100-0}", "which is down at 8 s"),
    ("- {at: 5 s, preempt: a100-0, notice: 2 s, for: 3 s}\n  - {at: 11 s, join: a100-0}", "which is up at 11 s"),
    ("- {at: 5 s, drain: a100-0, notice: 2 s, for: 3 s}\n  - {at: 9 s, join: a100-0}", "which is up at 9 s"),
    ("- {at: 5 s, drain: a100-0, notice: 2 s, for: 3 s}\n  - {at: 7.5 s, crash: a100-0}", "is down at 7.5 s"),
    (
        "- {at: 5 s, partition: [us, eu], for: 10 s}\n  - {at: 14 s, partition: [us, apac], for: 1 s}",
        "another partition is still there until 15 s",
    ),
    ("- {at: 5 s, partition: [us, eu]}\n  - {at: 14 s, partition: [us, apac]}", "is still there for good"),
    ("- {at: 5 s, coordinator_restart: 5 s}\n  - {at: 9 s, coordinator_restart: 5 s}", "still away until 10 s"),
]


@pytest.mark.parametrize(("events", "told"), BAD_EVENTS, ids=[told[:40] for _, told in BAD_EVENTS])
def test_events_that_cannot_be(events: str, told: str, tmp_path: Path) -> None:
    found = problems(tmp_path, f"events:\n  {events.strip()}")
    assert any(told in each for each in found), found
    line = FIRST_LINE + 1 + events.strip().count("\n  -")
    assert all(each.startswith(f"scenario.yaml:{line}: churn.events.") for each in found), found


@pytest.mark.parametrize(
    "events",
    [
        "- {at: 5 s, crash: a100-0, for: 5 s}\n  - {at: 10 s, join: a100-0}",  # both at once: left to the run
        "- {at: 5 s, crash: a100-0}\n  - {at: 9 s, join: 'a100-*'}",  # one of them can
        "- {at: 5 s, crash: {machine: A100, choose: 1}}\n  - {at: 9 s, join: a100-0}",
        "- {at: 5 s, crash: {machine: A100, choose: 1}}\n  - {at: 9 s, crash: a100-0}",
        "- {at: 5 s, drain: a100-0}\n  - {at: 9 s, join: a100-0}",
        "- {at: 5 s, preempt: a100-0, notice: 30 s}\n  - {at: 9 s, crash: a100-0}\n  - {at: 10 s, join: a100-0}",
        "- {at: 5 s, drain: a100-0, notice: 9 s, for: 3 s}\n  - {at: 15 s, join: a100-0}",
        # It is back from the first preemption before the second one's notice is over.
        "- {at: 5 s, preempt: a100-0, notice: 2 s, for: 2 s}\n  - {at: 6 s, preempt: a100-0, notice: 1 min}\n"
        "  - {at: 70 s, crash: a100-0}",
        "- {at: 5 s, partition: [us, eu], for: 9 s}\n  - {at: 14 s, partition: [us, apac]}",
        "- {at: 5 s, crash: a100-0, for: 9 s}\n  - {at: 8 s, join: a100-0}\n  - {at: 9 s, crash: a100-0}",
    ],
)
def test_events_that_may_be(events: str, tmp_path: Path) -> None:
    assert spec(tmp_path, f"events:\n  {events}").events


def test_what_fails_at_random_is_neither_up_nor_down(tmp_path: Path) -> None:
    events = "events:\n  - {at: 5 s, join: a100-0}\n  - {at: 6 s, crash: a100-0}\n  - {at: 7 s, crash: a100-0}\n"
    assert len(problems(tmp_path, events)) == 2
    assert spec(tmp_path, f"{events}random:\n  - {{crash: 'a100-*', mtbf: 1 h}}").processes
    # Stragglers stay up.
    assert len(problems(tmp_path, f"{events}random:\n  - {{straggler: 'a100-*', mtbf: 1 h}}")) == 2


@pytest.mark.parametrize(
    ("churn", "told"),
    [
        (
            "random: [{crash: a100-0, preempt: a100-1, mtbf: 1 s}]",
            "it needs exactly one of crash, preempt or straggler",
        ),
        ("random: [{mtbf: 1 s}]", "it has none of them"),
        ("random: [{crash: a100-0}]", "this key is missing; add mtbf"),
        ("random: [{crash: a100-0, mtbf: 1 s, law: weibull}]", "a Weibull law needs it"),
        ("random: [{crash: a100-0, mtbf: 1 s, shape: 2}]", "shape belongs to a Weibull law"),
        ("random: [{crash: a100-0, mtbf: 1 s, law: wible}]", "did you mean weibull?"),
        ("random: [{crash: a100-0, mtbf: 1 s, notice: 1 s}]", "notice belongs to preempt"),
        ("random: [{crash: a100-0, mtbf: 1 s, together: {region: 2}}]", "it must be at most 1"),
        ("random: [{crash: a100-0, mtbf: 1 s, together: {}}]", "it needs exactly one of region, machine or everybody"),
        ("random: [{crash: {machine: A100, choose: 1}, mtbf: 1 s}]", "a random process takes every machine"),
        ("random: [{crash: h100, mtbf: 1 s}]", "no node matches"),
        ("random: [{crash: a100-0, mtbf: 1 s, start: 5 s, stop: 4 s}]", "it stops before it starts"),
        ("initially_down: [a100-0, 'b*']", 'churn.initially_down.1: "b*": no node matches'),
        ("detection: {interval: 5 s, timeout: 5 s}", "not above the interval"),
        ("in_flight: {policy: retri}", "did you mean retry?"),
        ("in_flight: {max_retries: -1}", "it must be at least 0"),
        ("recovery: {policy: re-plan}", "there is no such policy; did you mean replan?"),
        ("recovery: {policy: 'no_such_module:Recovery'}", "no_such_module"),
        ("recovery: {policy: replan, options: {budget: 2}}", "has no such option; did you mean budget_s?"),
        ("recovery: {policy: replan, options: {budget_s: -2}}", "budget_s is -2; it must be a number above 0"),
        ("recovery: {policy: standby, options: {spares: [h100-0]}}", "spare 'h100-0' is no node of the cluster"),
        ("recovery: {weights: cloud}", "it must be one of disk, peer, fastest"),
        ("trace: nowhere.csv", "there is no such file"),
        ("trace: {start: 1 s}", "this key is missing; add file"),
        ("event: []", "there is no such key; did you mean events?"),
        ("events: {at: 1 s}", "a list belongs here"),
    ],
)
def test_other_parts_that_cannot_be(churn: str, told: str, tmp_path: Path) -> None:
    found = problems(tmp_path, churn)
    assert any(told in each for each in found), found
    assert all(each.startswith(f"scenario.yaml:{FIRST_LINE}: ") for each in found), found


def test_one_bad_part_does_not_hide_what_is_wrong_with_the_others(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        """
events:
  - {at: 1 s, crash: nobody}
  - {at: -1 s, crash: a100-0}
random:
  - {crash: nobody, mtbf: 1 s}
  - {crash: a100-0, mtbf: 0 s}
initially_down: nobody
trace: nowhere.csv
in_flight: {policy: x}
""",
    )
    assert [int(each.split(":")[1]) - FIRST_LINE for each in found] == [1, 2, 4, 5, 6, 7, 8]


def test_a_name_of_a_node_and_of_a_region_must_be_told_apart(tmp_path: Path) -> None:
    path = write(tmp_path, "events:\n  - {at: 1 s, down: {from: us, to: a100-0}}")
    path.write_text(path.read_text().replace("region: us", "region: a100-0").replace("from: us", "from: 'l4-*'"))
    with pytest.raises(ScenarioError, match="both a node and a region have this name"):
        load_scenario(path)
    path.write_text(path.read_text().replace("to: a100-0}", "to: {region: a100-0}}"))
    churn = load_scenario(path).spec.churn
    assert churn is not None
    assert isinstance(churn.events[0], LinkEvent)
    assert churn.events[0].target == End(nodes=NodeTarget(regions=("a100-0",)), coordinator=True)
