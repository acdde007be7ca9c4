"""What churn costs: differences that add up, against runs made here."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from emulator.emulation import Emulation
from emulator.spec import EmulationSpec
from scenarios.loader import load_scenario
from scenarios.reports.churn_cost import ChurnCost, _served, churn_cost


def spec_of(*sets: str) -> EmulationSpec:
    return load_scenario("quickstart-churn", sets=("duration=80 s", "slo={ttft: 1 s, tpot: 400 ms}", *sets)).spec


@pytest.fixture(scope="module")
def cost() -> ChurnCost:
    return churn_cost(spec_of())


def test_figures_are_those_of_two_runs(cost: ChurnCost) -> None:
    spec = spec_of()
    emulations = [Emulation(spec), Emulation(replace(spec, churn=None))]
    churning, calm = (each.run() for each in emulations)
    assert (cost.churning.keys(), len(cost.calm)) == (cost.calm.keys(), 10)
    for name in ("decode_throughput_tokens_per_s", "goodput_requests_per_s"):
        assert (cost.calm[name], cost.churning[name]) == (calm[name], churning[name])
        assert churning[name] < calm[name]
    assert cost.churning["ttft_s_p95"] == churning["ttft_s"]["p95"]
    assert cost.counts["slo_debt_s"] == churning["churn"]["slo_debt_s"] > 0
    with_it, without = (each.state.metrics.tokens for each in emulations)
    assert cost.tokens_lost == without - with_it > 0


def test_the_events_costs_add_up(cost: ChurnCost) -> None:
    """The machine's return belongs to the crash that it mends."""
    assert [event.what for event in cost.events] == ["crash of l4-0, join of l4-0"]
    assert sum(event.tokens_lost for event in cost.events) == pytest.approx(cost.tokens_lost)
    assert sum(event.slo_debt_s for event in cost.events) == cost.counts["slo_debt_s"]
    assert sum(event.requests_retried for event in cost.events) == cost.counts["requests_retried"] > 0
    assert cost.events[0].at_s == 40


def test_two_crashes_are_told_apart_and_the_longer_outage_costs_more() -> None:
    events = "[{at: 20 s, crash: l4-0, for: 2 s}, {at: 45 s, crash: t4-0, for: 20 s}]"
    with ThreadPoolExecutor(2) as pool:
        found = churn_cost(spec_of(f"churn.events={events}"), pool)
    assert [event.what for event in found.events] == ["crash of t4-0, join of t4-0", "crash of l4-0, join of l4-0"]
    assert found.events[0].tokens_lost > found.events[1].tokens_lost > 0
    assert sum(event.tokens_lost for event in found.events) == pytest.approx(found.tokens_lost)


def test_before_the_first_event_both_runs_are_the_same_and_looking_changes_nothing() -> None:
    spec = spec_of()
    churning, calm = _served(spec), _served(replace(spec, churn=None))
    before = churning.times_s < 40
    assert np.array_equal(churning.tokens[before], calm.tokens[before])
    assert churning.tokens[before][-1] > 1_000
    assert churning.summary["event_log_sha256"] == Emulation(spec).run()["event_log_sha256"]
