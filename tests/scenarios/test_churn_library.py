"""Library scenarios in which something goes wrong: what they expect holds, and they repeat to the byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from emulator.emulation import Emulation
from scenarios.cli_test import run_one
from scenarios.expect import outcomes
from scenarios.library import library_names
from scenarios.loader import LoadedScenario, load_scenario
from scenarios.runner import run_scenario

CHURNING = (
    "lose-one-a100-24",
    "partition-geo",
    "quickstart-churn",
    "region-outage-geo",
    "slow-link-false-suspicion",
    "spot-churn-24",
)


def test_these_are_the_ones_with_churn() -> None:
    assert tuple(name for name in library_names("scenario") if load_scenario(name).spec.churn) == CHURNING


def logged(loaded: LoadedScenario) -> tuple[dict[str, Any], bytes]:
    """Summary and event log of a run."""
    pieces: list[bytes] = []
    summary = Emulation(loaded.spec, log_sink=pieces.append).run()
    return summary, b"".join(pieces)


@pytest.mark.parametrize("name", CHURNING)
def test_what_it_expects_holds_and_the_same_seed_gives_the_same_log(name: str) -> None:
    loaded = load_scenario(name)
    summary, log = logged(loaded)
    assert [str(outcome) for outcome in outcomes(loaded.expectations, summary) if not outcome.met] == []
    # A shorter run, past the first events, what is noticed of them and the plan that is made, is its beginning.
    shorter, beginning = logged(load_scenario(name, sets=[f"duration={min(330, loaded.spec.duration_s)} s"]))
    assert shorter["churn"]["incidents"] > 0 or shorter["churn"]["false_suspicions"] > 0
    assert log.startswith(beginning)


@pytest.mark.parametrize("override", ["none", "reroute", "standby"])
def test_other_policies_survive_a_lost_a100_too(override: str) -> None:
    assert run_one("lose-one-a100-24", [override], ["duration=300 s"]).failure == ""


def test_a_run_leaves_a_scenario_that_repeats_it(tmp_path: Path) -> None:
    (tmp_path / "went.csv").write_text("time_s,node,event\n20,t4-0,preempt\n60,t4-0,up\n")
    sets = [
        "churn.trace={file: went.csv, notice: 5 s}".replace("went.csv", str(tmp_path / "went.csv")),
        "churn.random=[{straggler: {machine: L4}, mtbf: 1 min, mttr: 10 s}]",
        "seed=7",
    ]
    first = run_scenario(load_scenario("quickstart-churn", sets=sets), out=tmp_path / "run")
    again = Emulation(load_scenario(tmp_path / "run" / "scenario.yaml").spec).run()
    assert first["churn"]["kinds"].keys() >= {"crash", "join", "preempt", "straggler"}
    assert again["event_log_sha256"] == first["event_log_sha256"]
    assert run_one(str(tmp_path / "run" / "scenario.yaml")).error == ""
