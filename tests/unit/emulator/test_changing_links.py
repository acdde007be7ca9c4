"""Links that change while a message is on them, against what one works out by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest

from emulator.churn.spec import ChurnEvent, ChurnSpec, Detection, LinkEvent, LinkEventKind
from emulator.conditions import LinkBehaviour, NetworkConditions
from emulator.emulation import Emulation
from emulator.requests import Request
from netshape.conditions import LinkConditions
from netshape.schedule import ConditionSchedule, ConditionStep
from placement.cluster import COORDINATOR, Link
from tests.churn_runs import end
from tests.small_runs import arrivals, toy_cluster, toy_spec

RATE = 100.0
"""Bytes/s to the node: a prompt of 100 tokens, 200 bytes, takes 2 s."""
LATENCY = 0.005
WAY = (COORDINATOR, "n0")


def first_token_s(events: Sequence[ChurnEvent] = (), **fields: Any) -> float:
    links = {WAY: Link(RATE, LATENCY), ("n0", COORDINATOR): Link(1e9, LATENCY)}
    spec = toy_spec(
        cluster=toy_cluster(links=links),
        workload=arrivals((0.0, 100, 1)),
        churn=ChurnSpec(events=tuple(events), detection=Detection(interval_s=20.0, timeout_s=50.0)) if events else None,
        **fields,
    )
    found: list[Request] = []
    Emulation(spec, on_ended=found.append).run()
    assert found[0].first_token_s is not None
    return found[0].first_token_s


def on_the_way(at_s: float, kind: LinkEventKind, **fields: Any) -> LinkEvent:
    return LinkEvent(at_s=at_s, kind=kind, source=end(coordinator=True), target=end("n0"), both_ways=False, **fields)


def scheduled(*steps: tuple[float, dict[str, Any]], repeat_s: float | None = None) -> NetworkConditions:
    first = LinkConditions(bandwidth_bytes_per_s=RATE, latency_s=LATENCY)
    schedule = ConditionSchedule(
        steps=tuple(ConditionStep(time_s=at_s, changes=tuple(changes.items())) for at_s, changes in steps),
        repeat_s=repeat_s,
    )
    return NetworkConditions(links={WAY: LinkBehaviour(conditions=first, schedule=schedule)})


def test_the_rest_of_a_message_is_sent_at_the_new_rate() -> None:
    plain = first_token_s()
    halved = on_the_way(1.0, LinkEventKind.DEGRADE, bandwidth_factor=0.5)
    assert first_token_s([halved]) == pytest.approx(plain + 1.0, abs=1e-9)
    back = dataclasses.replace(halved, duration_s=0.5)
    # Half a second at half the rate leaves 75 bytes.
    assert first_token_s([back]) == pytest.approx(plain + 0.25, abs=1e-9)
    assert first_token_s(conditions=scheduled((1.0, {"bandwidth_bytes_per_s": 50.0}))) == pytest.approx(
        plain + 1.0, abs=1e-9
    )


def test_a_message_waits_for_a_link_that_is_down() -> None:
    plain = first_token_s()
    down = on_the_way(1.0, LinkEventKind.DOWN, duration_s=3.0)
    assert first_token_s([down]) == pytest.approx(plain + 3.0, abs=1e-9)
    off_and_on = scheduled((1.0, {"up": False}), (4.0, {"up": True}))
    assert first_token_s(conditions=off_and_on) == pytest.approx(plain + 3.0, abs=1e-9)


def test_two_events_on_one_link_act_together() -> None:
    plain = first_token_s()
    events = [
        on_the_way(0.5, LinkEventKind.DEGRADE, bandwidth_factor=0.5, duration_s=1.0),
        on_the_way(1.0, LinkEventKind.DEGRADE, bandwidth_factor=0.5, duration_s=1.0),
    ]
    # 50 bytes, then 25 in half a second, 12.5 in another, 25 in another; the rest of 87.5 at the full rate.
    assert first_token_s(events) == pytest.approx(plain + 2.0 + 0.875 - 2.0, abs=1e-9)


def test_latency_changes_for_what_has_not_been_sent() -> None:
    plain = first_token_s()
    longer = on_the_way(1.0, LinkEventKind.DEGRADE, latency_factor=100.0)
    assert first_token_s([longer]) == pytest.approx(plain + 99 * LATENCY, abs=1e-9)
    # Sent by 2 s, so it keeps its arrival.
    late = on_the_way(2.002, LinkEventKind.DEGRADE, latency_factor=100.0)
    assert first_token_s([late]) == pytest.approx(plain, abs=1e-9)


def test_a_schedule_goes_round() -> None:
    plain = first_token_s()
    # Down for half of every second, from 0.5 s on: four halves of a second until 200 bytes are through.
    halves = scheduled((0.5, {"up": False}), (0.999999999, {"up": False}), repeat_s=1.0)
    assert first_token_s(conditions=halves) == pytest.approx(plain + 1.5, abs=1e-6)
