"""Planning a scenario from its file, and ranking plans by short emulations."""

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from emulator.predicting import predict_run
from emulator.requests import Outcome, Request
from emulator.spec import Slo
from placement.planners import KNOWN
from placement.serving.convoys import Convoys
from scenarios.errors import ScenarioError
from scenarios.loader import load_scenario
from scenarios.objectives import Objective
from scenarios.planning import best_plan, compare_planners, placement_file, plan_figures, plan_scenario
from scenarios.ranking import HEAT_S, Ranked, filled, good_share, with_plan
from scenarios.yaml_text import dump_yaml

CLOSED = (
    'workload={"kind": "closed", "initial_requests": 5, "refill": "kv-room", '
    '"lengths": {"prompt_tokens": 100, "output_tokens": 50}}'
)


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
    assert plan_figures(Ranked(plan=plan), Objective.FLOW)["flow_tokens_per_s"] == pytest.approx(
        plan.bound_tokens_per_s
    )


def test_a_written_plan_loads_as_a_placement_file(tmp_path: Path) -> None:
    plan = plan_scenario("helix-10-30b").plan
    assert plan is not None
    path = tmp_path / "placement.yaml"
    path.write_text(dump_yaml(placement_file(plan)))
    loaded = load_scenario("helix-10-30b", sets=[f"placement={{file: {path}}}"])
    assert loaded.spec.placement.ranges == plan.placement.ranges


def test_ranking_puts_the_plan_that_serves_most_first() -> None:
    ranked = best_plan("helix-10-30b", Objective.THROUGHPUT, time_limit_s=6.0, sets=["duration=250 s"])
    spec = load_scenario("helix-10-30b", sets=["duration=250 s"]).spec
    finals = [each.summary for each in ranked if each.summary is not None and each.summary["sim_s"] > HEAT_S]
    served = [summary["decode_throughput_tokens_per_s"] for summary in finals]
    assert served == sorted(served, reverse=True)
    assert all(each.prediction is not None for each in ranked)
    # A run as short as this one is emulated as it is.
    assert len(finals) > 1
    assert {summary["sim_s"] for summary in finals} == {250.0}
    rest = [
        each.prediction.decode_tokens_per_s * filled(spec, each) for each in ranked[len(finals) :] if each.prediction
    ]
    assert rest == sorted(rest, reverse=True)


def test_another_planners_best_plan_runs_beside_the_most_promising_one() -> None:
    ranked = best_plan("small-6-30b", Objective.THROUGHPUT, time_limit_s=2.0, sets=[CLOSED, "duration=60 s"])
    emulated = [each for each in ranked if each.summary is not None]
    assert len({each.plan.planner == "blocks" for each in emulated}) == 2


def test_a_loop_fills_as_fast_as_prompts_pass() -> None:
    spec = load_scenario("small-6-30b", sets=[CLOSED, "duration=100 s", "warm_up=20 s"]).spec
    plan = plan_scenario("small-6-30b", planner="petals").plan
    assert plan is not None
    seen = predict_run(with_plan(spec, plan))
    flow = plan.flow.tokens_per_s

    def share(full_s: float) -> float:
        """With as many requests in flight as take so long to come in: prompts of 100 tokens."""
        return filled(spec, Ranked(plan=plan, prediction=dataclasses.replace(seen, in_flight=full_s * flow / 100)))

    assert [share(full_s) for full_s in (0.0, 20.0)] == [1.0, 1.0]
    # Half full on average over 20 s to 60 s, where it goes from a third to full, and full for as long again.
    assert share(60.0) == pytest.approx((40 * (1 / 3 + 1) / 2 + 40) / 80)
    assert share(200.0) == pytest.approx((0.1 + 0.5) / 2)
    opened = load_scenario("small-6-30b").spec
    assert filled(opened, Ranked(plan=plan, prediction=dataclasses.replace(seen, in_flight=1e6))) == 1.0


def test_the_placement_section_names_an_objective(tmp_path: Path) -> None:
    sets = ["placement={planner: blocks, objective: latency, options: {time_limit_s: 4}}"]
    loaded = load_scenario("small-6-30b", sets=sets)
    assert loaded.plan is not None
    assert loaded.spec.placement == loaded.plan.placement == loaded.ranked[0].plan.placement
    assert loaded.resolved["placement"]["planned_by"] == {
        "planner": "blocks",
        "objective": "latency",
        "options": {"time_limit_s": 4},
    }
    path = tmp_path / "scenario.yaml"
    path.write_text(dump_yaml(loaded.resolved))
    again = load_scenario(path)
    assert again.spec == loaded.spec
    assert again.ranked == ()


def test_goodput_counts_what_the_objectives_let_through() -> None:
    ranked = best_plan("small-6-30b", Objective.GOODPUT, time_limit_s=3.0)
    best = ranked[0]
    assert best.summary is not None
    assert best.prediction is not None
    assert 0 < best.summary["goodput_requests_per_s"] <= best.summary["request_throughput_per_s"]
    assert best.prediction.good_share > 0.5
    none = best_plan("small-6-30b", Objective.GOODPUT, time_limit_s=3.0, sets=["slo={tpot: 1 ms}"])
    assert none[0].summary is not None
    assert none[0].summary["goodput_requests_per_s"] == 0.0


def test_a_slowed_machine_ranks_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def once() -> list[tuple[object, ...]]:
        ranked = best_plan("small-6-30b", Objective.THROUGHPUT, time_limit_s=1.0)
        # So short a time leaves candidates out, or heats.
        return [
            (each.plan.placement, each.prediction, None if each.summary is None else _figures(each.summary))
            for each in ranked
        ]

    found = once()
    run = Convoys.run

    def slowly(convoys: Convoys, until_s: float) -> None:
        time.sleep(2e-4)
        run(convoys, until_s)

    monkeypatch.setattr(Convoys, "run", slowly)
    assert once() == found


def _figures(summary: Mapping[str, Any]) -> tuple[Any, ...]:
    return summary["sim_s"], summary["event_log_sha256"], summary["decode_throughput_tokens_per_s"]


def test_goodput_needs_objectives() -> None:
    with pytest.raises(ScenarioError, match="the scenario has no slo"):
        best_plan("helix-10-30b", Objective.GOODPUT, time_limit_s=1.0)


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ("{planner: petals, objective: throughput}", "chooses among the plans of all planners"),
        ("{ranges: {a: [0, 1]}, objective: latency}", "chooses among the plans of all planners"),
        ("{planner: blocks, objective: throughput, options: {max_depth: 3}}", "takes no option max_depth"),
        ("{planner: blocks, objective: throughput, options: {time_limit_s: 0}}", "give seconds above 0"),
        ("{planner: blocks, objective: speed}", "objective"),
    ],
)
def test_objectives_that_have_nothing_to_choose(section: str, told: str) -> None:
    with pytest.raises(ScenarioError, match=told):
        load_scenario("helix-10-30b", sets=[f"placement={section}"])


def request(
    *, adopted: int = 0, emitted: int, output: int, arrived: float, first: float | None, last: float
) -> Request:
    made = Request(0, arrived, 10, output)
    made.adopted_tokens, made.emitted_tokens = adopted, emitted
    made.first_token_s, made.last_token_s = first, last
    if emitted == output:
        made.outcome, made.end_s = Outcome.FINISHED, last
    return made


def test_goodput_of_requests_that_a_run_sees_in_part() -> None:
    seen = [
        request(emitted=101, output=101, arrived=0.0, first=1.0, last=11.0),  # first token after 1 s, 0.1 s a token
        request(adopted=50, emitted=150, output=150, arrived=0.0, first=None, last=20.0),  # 0.2 s a token
        request(emitted=31, output=500, arrived=2.0, first=5.0, last=8.0),  # after 3 s, 0.1 s a token
        request(emitted=0, output=500, arrived=2.0, first=None, last=0.0),  # waits for 18 s
        request(emitted=3, output=500, arrived=19.0, first=19.5, last=20.0),  # after 0.5 s, too short for a pace
    ]
    assert good_share(seen, Slo(ttft_s=2.0), 20.0) == 2 / 4
    assert good_share(seen, Slo(ttft_s=19.0), 20.0) == 1.0
    assert good_share(seen, Slo(tpot_s=0.15), 20.0) == 2 / 3
    assert good_share(seen, Slo(ttft_s=2.0, tpot_s=0.15), 20.0) == pytest.approx(1 / 3)
    # End to end: 11 s, 149 * 0.2 s, and 3 + 499 * 0.1 s.
    assert good_share(seen, Slo(e2e_s=12.0), 20.0) == 1 / 3
    assert good_share([], Slo(ttft_s=1.0), 20.0) == 1.0


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
        (("--time-limit", "0"), "--time-limit is 0; planning takes time"),
        (("--set", "cluster.nodes=[{name: t4, machine: T4, count: 2}]"), "error: plan: "),
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
