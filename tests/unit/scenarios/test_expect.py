"""Expectations: what can be expected, when it is met, and what is told when it cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scenarios.errors import ScenarioError
from scenarios.expect import MAX_EXPECTATIONS, command_line, outcomes, read_expectations, report
from scenarios.loader import load_scenario
from scenarios.tree import Origin, from_plain

HEAD = """\
schema_version: 1
name: expecting
duration: 30 s
model: llama-1-30b
cluster: small-6
placement: {planner: uniform}
workload: {kind: closed, refill: constant, initial_requests: 2, lengths: {prompt_tokens: 100, output_tokens: 10}}
"""
FIRST_LINE = HEAD.count("\n") + 2
SUMMARY: dict[str, Any] = {
    "requests": {"failed": 0, "finished": 12},
    "goodput_requests_per_s": 1.25,
    "ttft_s": {"count": 12, "p99": 1.5, "p50": None},
    "interrupted": False,
    "scenario": "expecting",
    "nodes": {"a.b": {"utilisation": 0.5}, "c": {"utilisation": 0.75}},
    "links": {"a->b": {"bytes": 2048}},
    "churn": {"events": [{"recovery_s": 5.0}, {"recovery_s": None}], "recovery_s_max": 5.0},
}


def read(expect: Any) -> list[Any]:
    tree = from_plain({"expect": expect}, Origin("scenario.yaml", 1, Path()))
    expectations, problems = read_expectations(tree, None)
    assert problems == []
    return outcomes(expectations, SUMMARY)


def problems(folder: Path, expect: str, before: str = "") -> list[str]:
    path = folder / "scenario.yaml"
    path.write_text(f"{HEAD}{before}expect:\n  {expect}\n")
    with pytest.raises(ScenarioError) as caught:
        load_scenario(path)
    assert all(problem.remedy for problem in caught.value.problems)
    return [str(problem).removeprefix(f"{path}:") for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("figure", "met", "unmet"),
    [
        ("requests.failed", 0, 1),
        ("requests.failed", "0", "1"),
        ("requests.failed", "= 0", "> 0"),
        ("requests.failed", "!= 1", "!= 0"),
        ("requests.finished", ">= 12", "> 12"),
        ("requests.finished", ["> 1", "< 20"], ["> 1", "< 12"]),
        ("goodput_requests_per_s", "<= 1.25", "< 1.25"),
        ("goodput_requests_per_s", ">= 1 requests/s", ">= 2 requests/s"),
        ("ttft_s.p99", "== 1500 ms", "== 1500 s"),
        ("ttft_s.p99", "< 0.1 min", "< 1 s"),
        ("ttft_s.p99", "> -1 s", "< -1 s"),
        ("ttft_s.count", "12", "13"),
        ("interrupted", False, True),
        ("interrupted", "false", "true"),
        ("interrupted", "!= true", "!= false"),
        ("scenario", "expecting", "excepting"),
        ("scenario", "!= other", "!= expecting"),
        ("nodes.a.b.utilisation", "50 %", "5 %"),
        ("nodes.*.utilisation", ">= 0.5", ">= 0.6"),
        ("links.a->b.bytes", "2 KiB", "2 kB"),
        ("churn.events.0.recovery_s", "<= 5 s", "<= 4 s"),
        ("churn.recovery_s_max", "<= 20 s", "<= 2 s"),
        # Nothing measured meets no comparison; it can only be asked for itself.
        ("ttft_s.p50", "null", "< 100 s"),
        ("ttft_s.p50", None, 0),
        ("churn.events.*.recovery_s", ["!= 1"], "<= 20 s"),
        # Another kind of value is never equal.
        ("requests.failed", "!= false", False),
        ("interrupted", "!= 0", 0),
        ("scenario", "!= 1", "> 1"),
    ],
)
def test_conditions(figure: str, met: Any, unmet: Any) -> None:
    assert all(outcome.met for outcome in read({figure: met}))
    assert not all(outcome.met for outcome in read({figure: unmet}))


def test_paths_may_be_nested_in_any_way() -> None:
    found = read({"requests": {"failed": 0, "finished": [">= 1", 12]}, "churn": {"events.0": {"recovery_s": 5}}})
    assert [(outcome.figure, outcome.met) for outcome in found] == [
        ("requests.failed", True),
        ("requests.finished", True),
        ("requests.finished", True),
        ("churn.events.0.recovery_s", True),
    ]


def test_a_star_tells_every_figure() -> None:
    assert [str(outcome) for outcome in read({"nodes.*.utilisation": "<= 60 %"})] == [
        "nodes.a.b.utilisation: expected <= 60 %, got 0.5",
        "nodes.c.utilisation: expected <= 60 %, got 0.75",
    ]


@pytest.mark.parametrize(
    ("expect", "told"),
    [
        ({"ttft_s.p99": "<= 1 s"}, "ttft_s.p99: expected <= 1 s, got 1.5 s"),
        ({"goodput_requests_per_s": ">= 2"}, "goodput_requests_per_s: expected >= 2, got 1.25 requests/s"),
        ({"links.a->b.bytes": 1}, "links.a->b.bytes: expected 1, got 2048 B"),
        ({"interrupted": True}, "interrupted: expected true, got false"),
        ({"scenario": "x"}, 'scenario: expected x, got "expecting"'),
        ({"ttft_s.p50": "<= 1 s"}, "ttft_s.p50: expected <= 1 s, got none: nothing was measured"),
        ({"churn.events.7.recovery_s": 0}, "churn.events.7.recovery_s: expected 0, got nothing: this run has no such"),
        ({"links.*.x": 0}, "links.*.x: expected 0, got nothing"),
    ],
)
def test_what_a_failure_says(expect: Any, told: str) -> None:
    (outcome,) = read(expect)
    assert not outcome.met
    assert str(outcome).startswith(told)


def test_a_report_names_seed_and_command() -> None:
    failed = [outcome for outcome in read({"requests": {"failed": 1, "finished": 12}}) if not outcome.met]
    command = command_line("my files/a.yaml", ["busy"], ["seed=7", "slo={e2e: 1 s}"])
    assert report(failed, 7, command) == (
        "requests.failed: expected 1, got 0\n"
        "seed 7; the same again: helixemu test 'my files/a.yaml' --override busy --set seed=7 --set 'slo={e2e: 1 s}'"
    )


@pytest.mark.parametrize(
    ("expect", "told"),
    [
        (
            "requests.faild: 0",
            "expect.requests.faild: 0: a run of this scenario has no such figure; did you mean requests.failed?",
        ),
        ("requests: {faild: 0}", "expect.requests.faild: 0: a run of this scenario has no such figure"),
        ("requests: 0", "there are several figures below this name; name one, for instance requests.submitted"),
        ("requests.failed.x: 0", "no such figure"),
        ("nodes.a100-7.utilisation: 0", "did you mean nodes.a100-"),
        ("goodput_requests_per_s: '> 1'", "goodput needs latency objectives; add slo"),
        ("churn.recovery_s_max: '< 20 s'", "nothing can go wrong in it; add churn"),
        ("ttft_s.p99: '<= 20 tokens'", '"tokens" is no unit of a duration'),
        ("ttft_s.p99: '<= soon'", "a number belongs behind the operator"),
        ("ttft_s.p99: ''", "the condition is empty"),
        ("ttft_s.p99: '>='", "the condition is empty"),
        ("requests.failed: 0 s", '"s" is no unit of requests.failed; it takes no unit, or %'),
        ("decode_throughput_tokens_per_s: 3 s", "it takes tokens/s, or no unit"),
        ("requests.failed: [[0]]", "a list holds conditions, not lists or mappings"),
        (f"requests.failed: '{'0' * 300}'", "it is longer than 200 characters"),
    ],
)
def test_expectations_that_cannot_be(expect: str, told: str, tmp_path: Path) -> None:
    (found,) = problems(tmp_path, expect)
    assert told in found
    assert found.startswith(f"{FIRST_LINE}: expect.")


def test_expect_must_be_a_mapping(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, "- 1")
    assert "a mapping belongs here" in found


def test_expectations_are_told_beside_other_problems(tmp_path: Path) -> None:
    found = problems(tmp_path, "ttft_s.p99: '< 2 GB'", before="scheduler: {policy: max-flaw}\n")
    assert len(found) == 2


def test_their_number_is_bounded(tmp_path: Path) -> None:
    lines = "\n  ".join(f"nodes.n{index}.utilisation: 0" for index in range(2 * MAX_EXPECTATIONS))
    found = problems(tmp_path, lines)
    assert len(found) == MAX_EXPECTATIONS + 1
    assert any("more than 1,000 conditions" in each for each in found)


def test_known_figures_go_with_the_scenario(tmp_path: Path) -> None:
    path = tmp_path / "scenario.yaml"
    path.write_text(
        f"{HEAD}slo: {{ttft: 1 s}}\nexpect: {{goodput_requests_per_s: '> 0', nodes.*.kv_peak: '< 90 %', "
        "min_cut.0.capacity_tokens_per_s: '> 0', 'links.coordinator->a100-0.bytes': '> 1 kB'}\n"
    )
    loaded = load_scenario(path)
    assert [each.figure for each in loaded.expectations] == [
        "goodput_requests_per_s",
        "nodes.*.kv_peak",
        "min_cut.0.capacity_tokens_per_s",
        "links.coordinator->a100-0.bytes",
    ]
    assert load_scenario(path, sets=["expect.requests.failed=0"]).expectations[-1].figure == "requests.failed"


@given(
    st.recursive(
        st.one_of(
            st.none(), st.booleans(), st.floats(), st.integers(), st.text(max_size=12), st.sampled_from(["> 1 s"])
        ),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["requests", "*", "0", "churn.x", "a"]), inner)
        ),
        max_leaves=8,
    )
)
def test_whatever_is_expected_is_read_or_told(expect: Any) -> None:
    tree = from_plain({"expect": {"ttft_s": expect}}, Origin("scenario.yaml", 1, Path()))
    expectations, found = read_expectations(tree, None)
    assert all(problem.rule and problem.remedy for problem in found)
    assert all(str(outcome) for outcome in outcomes(expectations, SUMMARY))
