"""When failures are noticed, by hand-worked times, and what brings machines back."""

from __future__ import annotations

import dataclasses

import pytest

from emulator.churn.spec import (
    Detection,
    InFlight,
    InFlightPolicy,
    LinkEvent,
    LinkEventKind,
    NodeEventKind,
    PartitionEvent,
)
from emulator.conditions import LinkBehaviour, NetworkConditions
from netshape.conditions import LinkConditions
from netshape.schedule import ConditionSchedule, ConditionStep
from tests.churn_runs import EVENTS, Watched, churn_spec, end, node_event, two_regions
from tests.small_runs import arrivals, constant, placed

INTERVAL_S, TIMEOUT_S = 0.5, 2.0


@pytest.mark.parametrize("at_s", [10.0, 10.1, 10.24, 10.4999])
def test_a_crash_is_noticed_a_timeout_after_the_last_heartbeat(at_s: float) -> None:
    run = Watched(churn_spec([node_event(at_s, NodeEventKind.CRASH, "d")]))
    delay = run.churn["events"][0]["detection_s"]
    assert TIMEOUT_S - INTERVAL_S - 0.05 <= delay <= TIMEOUT_S + 0.05


def test_a_machine_that_is_back_before_it_was_missed_is_known_to_have_restarted() -> None:
    run = Watched(churn_spec([node_event(10, NodeEventKind.CRASH, "b", duration_s=0.3)]))
    assert run.churn["events"][0]["detection_s"] == pytest.approx(0.3)
    assert [line["node"] for line in run.lines("serving")] == ["b"]
    assert run.churn["requests_retried"] > 0


def test_a_returning_machine_serves_when_its_layers_are_loaded() -> None:
    run = Watched(churn_spec([node_event(10, NodeEventKind.CRASH, "b", duration_s=12)]))
    (serving,) = run.lines("serving")
    # Two layers of 1 GB at 1 GB/s, after the coordinator has heard of it, 5 ms away.
    assert serving["t"] == pytest.approx(10 + 12 + 0.005 + 2.0)
    assert serving["layers"] == [0, 2]


def test_a_slow_link_deceives_the_detector_and_that_heals() -> None:
    slow = LinkEvent(
        at_s=10,
        kind=LinkEventKind.DEGRADE,
        source=end("d"),
        target=end(coordinator=True),
        both_ways=False,
        latency_factor=1000.0,
        duration_s=15,
    )
    run = Watched(churn_spec([slow]))
    assert run.churn["false_suspicions"] >= 1
    suspected, heard = run.lines("suspected"), run.lines("heard_again")
    assert [line["node"] for line in suspected] == ["d"] * len(suspected)
    assert len(heard) == len(suspected)
    assert suspected[0]["t"] == pytest.approx(10 + TIMEOUT_S, abs=INTERVAL_S + 0.05)
    # Nothing was lost but time: the machine never stopped.
    assert run.churn["kv_bytes_lost"] == 0
    assert run.churn["layers_moved"] == 0
    assert run.summary["requests"]["failed"] == 0
    last = run.churn["timeline"][-1]
    assert last["nodes_serving"] == 4


def test_a_heartbeat_queues_behind_requests() -> None:
    """On a link so slow that results take seconds to send, machines are suspected although nothing has happened."""
    quiet = churn_spec([], cluster=two_regions(), workload=constant(1, 10, 40))
    assert Watched(quiet).churn["false_suspicions"] == 0
    # Two bytes a result, twenty bytes a second: 24 requests' tokens take 2.4 s.
    cluster = two_regions(bandwidth=20.0)
    busy = churn_spec([], cluster=cluster, workload=constant(60, 10, 40), duration_s=60.0)
    assert Watched(busy).churn["false_suspicions"] > 0


def test_a_link_that_is_down_is_noticed_after_the_timeout_and_used_again_after_an_interval() -> None:
    run = Watched(churn_spec(EVENTS["link down"]))
    (lost,), (back,) = run.lines("links_lost"), run.lines("links_back")
    assert lost["t"] == pytest.approx(10 + TIMEOUT_S)
    assert back["t"] == pytest.approx(10 + 12 + INTERVAL_S)
    assert run.churn["requests_retried"] > 0


def by_schedule(*ups: tuple[float, bool]) -> Watched:
    """A run in which a schedule says when a's link to c is up."""
    cluster = two_regions()
    link = cluster.link("a", "c")
    assert link is not None
    behaviour = LinkBehaviour(
        conditions=LinkConditions(bandwidth_bytes_per_s=link.bandwidth_bytes_per_s, latency_s=link.latency_s),
        schedule=ConditionSchedule(steps=tuple(ConditionStep(time_s=at_s, changes=(("up", up),)) for at_s, up in ups)),
    )
    return Watched(churn_spec([], cluster=cluster, conditions=NetworkConditions(links={("a", "c"): behaviour})))


def test_a_link_that_a_schedule_takes_down_is_noticed_like_any_other() -> None:
    event, schedule = Watched(churn_spec(EVENTS["link down"])), by_schedule((10.0, False), (22.0, True))
    for what in ("link_down", "links_lost", "links_up", "links_back"):
        (one,), (other,) = event.lines(what), schedule.lines(what)
        assert other["t"] == one["t"]
        assert other["links"] == one["links"] == 1
    assert schedule.churn["requests_retried"] == event.churn["requests_retried"] > 0
    assert schedule.churn["events"][0]["detection_s"] == event.churn["events"][0]["detection_s"]
    assert schedule.summary["decode_throughput_tokens_per_s"] == event.summary["decode_throughput_tokens_per_s"]
    # For good, and from the beginning.
    gone, never = by_schedule((10.0, False)), by_schedule((0.0, False))
    assert [run.lines("links_lost")[0]["t"] for run in (gone, never)] == pytest.approx([10 + TIMEOUT_S, TIMEOUT_S])
    for run in (gone, never):
        assert run.lines("links_back") == []
        assert run.churn["requests_retried"] > 0
        assert run.summary["requests"]["finished"] > 0.5 * event.summary["requests"]["finished"]


def test_a_link_that_is_down_again_when_it_would_be_missed_is_not_lost() -> None:
    ups = [(10.0 + 1.5 * number + offset, up) for number in range(8) for offset, up in ((0.0, False), (0.75, True))]
    run = by_schedule(*ups)
    assert len(run.lines("link_down")) == 8
    assert run.lines("links_lost") == run.lines("links_back") == []
    assert run.churn["requests_retried"] == 0


def test_a_short_interruption_of_a_link_costs_nobody_its_pipeline() -> None:
    event = dataclasses.replace(EVENTS["link down"][0], duration_s=TIMEOUT_S / 2)
    run = Watched(churn_spec([event]))
    assert run.lines("links_lost") == []
    assert run.churn["requests_retried"] == 0
    assert run.summary["requests"]["failed"] == 0


def test_a_partition_takes_the_far_side_for_dead_and_welcomes_it_back() -> None:
    run = Watched(churn_spec(EVENTS["partition"], recovery="reroute"))
    assert {line["node"] for line in run.lines("suspected")} == {"b", "d", "t"}
    assert {line["node"] for line in run.lines("heard_again")} == {"b", "d", "t"}
    assert run.churn["timeline"][-1]["nodes_serving"] == 4
    assert run.summary["requests"]["failed"] == 0


def test_detection_can_be_slow_or_fast() -> None:
    delays = {}
    for timeout_s in (1.0, 4.0):
        churn = {"detection": Detection(interval_s=0.25, timeout_s=timeout_s), "in_flight": InFlight()}
        run = Watched(churn_spec([node_event(10, NodeEventKind.CRASH, "b")], churn=churn))
        delays[timeout_s] = run.churn["events"][0]["detection_s"]
    assert delays[1.0] < 1.1
    assert 3.7 < delays[4.0] < 4.1


def test_the_coordinator_forgets_what_was_in_flight_unless_it_is_replicated() -> None:
    for policy, retried in ((InFlightPolicy.RETRY, 8), (InFlightPolicy.REPLICATE, 0)):
        run = Watched(churn_spec(EVENTS["coordinator restart"], in_flight=policy))
        assert run.churn["requests_retried"] == retried
        down, up = run.lines("coordinator_down"), run.lines("coordinator_up")
        assert (down[0]["t"], up[0]["t"]) == (10, 15)
        idle = [entry for entry in run.churn["timeline"] if 11 < entry["t_s"] < 15]
        assert all(entry["throughput_tokens_per_s"] == 0 for entry in idle)
        assert run.summary["requests"]["failed"] == 0


@pytest.mark.parametrize("in_flight", [InFlightPolicy.FAIL, InFlightPolicy.RETRY])
def test_what_a_partition_costs_is_told_of_the_partition(in_flight: InFlightPolicy) -> None:
    # The joins came before, and have nothing to do with it.
    joins = [node_event(2, NodeEventKind.CRASH, name, duration_s=1) for name in ("b", "d")]
    run = Watched(churn_spec([*joins, *EVENTS["partition"]], recovery="reroute", in_flight=in_flight))
    partition = next(event for event in run.churn["events"] if event["kind"] == "partition")
    blamed = [line.get("incident") for line in run.lines("suspected")]
    assert blamed
    assert set(blamed) == {partition["incident"]}
    figure = "requests_failed" if in_flight is InFlightPolicy.FAIL else "requests_retried"
    assert partition[figure] > 0
    assert sum(event[figure] for event in run.churn["events"]) == run.churn[figure]


def test_a_link_that_was_slow_long_ago_is_not_to_blame() -> None:
    blip = LinkEvent(at_s=1, kind=LinkEventKind.DOWN, source=end("d"), target=end(coordinator=True), duration_s=0.5)
    slow, load = two_regions(bandwidth=20.0), constant(60, 10, 40)
    run = Watched(churn_spec([blip], cluster=slow, workload=load, duration_s=60.0))
    late = [line for line in run.lines("suspected") if line["t"] > 5]
    assert late
    assert all("incident" not in line for line in late)


def test_nothing_has_recovered_while_nothing_can_be_served() -> None:
    groups = (end("a", "c", coordinator=True), end("b", "d"))
    halves = placed(a=(0, 2), b=(2, 4))
    cut = PartitionEvent(at_s=20, groups=groups, duration_s=6)
    # Ten prompts a second; those that come while the cluster is cut wait.
    load = arrivals(*((0.1 * number, 100, 2) for number in range(400)))
    run = Watched(churn_spec([cut], placement=halves, recovery="reroute", workload=load))
    (event,) = run.churn["events"]
    (back,) = (line["t"] for line in run.lines("max_flow") if line["t"] > 23 and line["tokens_per_s"] > 0)
    # The backlog makes up for what was not served, but it began to be served only then.
    assert event["recovery_s"] == pytest.approx(back - 20)
