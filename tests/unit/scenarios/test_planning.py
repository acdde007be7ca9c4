"""Planning a scenario from its file, and ranking plans by short emulations."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from placement.planners import KNOWN
from scenarios.errors import ScenarioError
from scenarios.loader import load_scenario
from scenarios.planning import Objective, best_plan, compare_planners, placement_file, plan_figures, plan_scenario
from scenarios.yaml_text import dump_yaml


def cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "scenarios.cli", *arguments], capture_output=True, text=True, check=False
    )


def test_a_plan_replaces_what_the_scenario_says_and_comes_with_its_proof() -> None:
    loaded = plan_scenario("helix-24-70b-offline")
    plan = loaded.plan
    assert plan is not None
    assert plan.planner == "blocks"
    assert plan.status.value == "optimal"
    assert plan.gap < 1e-9
    assert loaded.spec.placement == plan.placement
    assert plan_figures(plan, Objective.FLOW)["flow_tokens_per_s"] == pytest.approx(plan.bound_tokens_per_s)


def test_a_written_plan_loads_as_a_placement_file(tmp_path: Path) -> None:
    plan = plan_scenario("helix-10-30b").plan
    assert plan is not None
    path = tmp_path / "placement.yaml"
    path.write_text(dump_yaml(placement_file(plan)))
    loaded = load_scenario("helix-10-30b", sets=[f"placement={{file: {path}}}"])
    assert loaded.spec.placement.ranges == plan.placement.ranges


def test_ranking_puts_the_plan_that_serves_most_first_and_beats_the_greatest_flow() -> None:
    ranked = best_plan("helix-10-30b", Objective.THROUGHPUT, time_limit_s=5.0)
    finals = [each for each in ranked if each.summary is not None and each.summary["sim_s"] > 200]
    served = [each.summary["decode_throughput_tokens_per_s"] for each in finals if each.summary is not None]
    assert len(served) == 3
    assert served == sorted(served, reverse=True)


def test_goodput_needs_objectives() -> None:
    with pytest.raises(ScenarioError, match="the scenario has no slo"):
        best_plan("helix-10-30b", Objective.GOODPUT, time_limit_s=1.0)


def test_the_command_prints_json_alone_and_writes_the_placement(tmp_path: Path) -> None:
    out = tmp_path / "p.yaml"
    done = cli("plan", "helix-10-30b", "--objective", "flow", "--out", str(out), "--json", "-")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    keys = ("planner", "solver", "status", "flow_tokens_per_s", "bound_tokens_per_s", "gap", "depth", "seconds")
    assert all(key in figures for key in keys)
    assert figures["placement"] == yaml.safe_load(out.read_text())["ranges"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--time-limit", "0s"), "planning takes time"),
        (("--planner", "block"), "did you mean blocks"),
        (("--time-limit", "soon"), "time-limit"),
        (("--planner", "petals", "--objective", "throughput"), "aims at flow"),
    ],
)
def test_bad_input_ends_with_code_2_and_no_traceback(arguments: tuple[str, ...], told: str) -> None:
    done = cli("plan", "helix-10-30b", *arguments)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_the_comparison_has_every_planner_or_says_why_not() -> None:
    ranked, failures = compare_planners("helix-10-30b", time_limit_s=2.0)
    assert sorted([each.plan.planner for each in ranked] + [line.split(":")[0] for line in failures]) == sorted(KNOWN)
    flows = {each.plan.planner: each.plan.flow.tokens_per_s for each in ranked}
    assert flows["blocks"] == pytest.approx(max(flows.values()))
    assert all(each.summary is not None for each in ranked)
