"""The questions against brute force, and what points hold."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from study_runs import PRICES, TINY, HereExecutor, tiny_study

from scenarios.api import run
from scenarios.studies.errors import StudyError
from scenarios.studies.min_cost import Knowledge
from scenarios.studies.study import Study, StudyResult

LOAD = "workload.synthetic.requests_per_s"
BANDWIDTH = "cluster.network.regions.0.bandwidth"


def answered(**keys: Any) -> StudyResult:
    return Study(tiny_study(**keys)).run(HereExecutor())


def test_a_sweeps_points_are_the_runs_of_its_scenarios() -> None:
    result = answered(axes={"load": {"path": LOAD, "values": [0.5, 1.5]}}, seeds=2, figures=["nodes.*.utilisation"])
    table = result.table
    assert table.select("load", "seed").rows() == [(0.5, 0), (0.5, 1), (1.5, 0), (1.5, 1)]
    assert table["point"].n_unique() == 4
    for row in result.rows:
        scenario = {**TINY, "seed": row["seed"]}
        lengths = TINY["workload"]["synthetic"]["lengths"]
        scenario["workload"] = {"kind": "open", "synthetic": {"requests_per_s": row["load"], "lengths": lengths}}
        alone = run(scenario)
        assert row["event_log_sha256"] == alone["event_log_sha256"]
        for name in ("decode_throughput_tokens_per_s", "ttft_s.p99", "requests.finished", "nodes.a100-0.utilisation"):
            assert row[name] == alone[name]
    assert not any(name.startswith("run.") for name in table.columns)
    for answer, load in zip(result.answers, (0.5, 1.5), strict=True):
        assert answer["load"] == load
        values = table.filter(table["load"] == load)["ttft_s.p50"]
        assert answer["ttft_s.p50"] == pytest.approx(values.mean())
        assert answer["ttft_s.p50.low"] <= answer["ttft_s.p50"] <= answer["ttft_s.p50.high"]
    frame = table.to_pandas()
    assert frame.columns.tolist() == table.columns
    assert frame["ttft_s.p50"].tolist() == table["ttft_s.p50"].to_list()


def test_quantities_have_a_column_in_si_units_beside_them() -> None:
    result = answered(axes={"bandwidth": {"path": BANDWIDTH, "values": ["80 Mbit/s", "1 GB/s"]}})
    assert result.table["bandwidth_bytes_per_s"].to_list() == [1e7, 1e9]


def test_node_counts_change_one_group_and_nought_removes_it() -> None:
    result = answered(axes={"t4": {"nodes": "T4", "values": [0, 1, 3]}}, figures=["nodes.*.utilisation"])
    failed, one, three = result.rows
    assert failed["status"] == "failed"
    assert "60 layers" in failed["error"]
    assert "nodes.t4-0.utilisation" in one
    assert {f"nodes.t4-{index}.utilisation" for index in range(3)} <= set(three)
    assert result.failed == 1
    assert result.answers[0]["decode_throughput_tokens_per_s"] is None


def test_an_unknown_group_of_nodes_is_told() -> None:
    with pytest.raises(Exception, match="no group of nodes is called so; name one group: a100, l4, t4"):
        answered(axes={"h": {"nodes": "H100", "values": [1, 2]}})


def test_variants_change_several_fields_and_are_called_by_their_names() -> None:
    variants = {"calm": {LOAD: 0.5}, "busy": {LOAD: 2.0, "scheduler.policy": "swarm"}}
    result = answered(axes={"day": {"variants": variants}})
    assert [row["day"] for row in result.rows] == ["calm", "busy"]
    assert result.rows[0]["requests.submitted"] < result.rows[1]["requests.submitted"]


def test_costs_are_those_of_nodes_and_of_bytes_that_leave_a_region() -> None:
    prices = {**PRICES, "spot": ["t4-*"], "egress_per_gb": 10.0}
    geo = {**TINY, "cluster": "small-6-geo"}
    row = answered(scenario=geo, prices=prices).rows[0]
    alone = run(geo)
    regions = {"a100": "a", "l4": "b", "t4": "c", "coordinator": "a"}
    crossing = sum(
        figures["bytes"]
        for link, figures in alone.summary["links"].items()
        if len(dict.fromkeys(regions[end.split("-")[0]] for end in link.split("->"))) == 2
    )
    assert crossing > 0
    per_h = 2 * 3 + 2 * 1 + 2 * 0.2 + crossing / 1e9 / 18 * 3600 * 10
    assert row["cost_per_h"] == pytest.approx(per_h)
    tokens = alone["decode_throughput_tokens_per_s"] * 3600 / 1e6
    assert row["cost_per_million_decode_tokens"] == pytest.approx(per_h / tokens)


def test_a_missing_price_fails_the_point_and_says_so() -> None:
    row = answered(prices={"nodes": {"A100": 1, "L4": 1}}).rows[0]
    assert row["status"] == "failed"
    assert "no price of T4" in row["error"]


def test_attainment_counts_who_waits_too_long_though_nobody_answered_them() -> None:
    calm, flooded = answered(axes={"load": {"path": LOAD, "values": [0.5, 60.0]}}).rows
    assert calm["slo_attainment"] == 1.0
    # Of those that finish, most may be good; of those that were asked, few are.
    assert flooded["slo_attainment"] < 0.5


def test_comparison_pairs_seeds_with_the_baseline_of_the_same_other_axes() -> None:
    result = answered(
        axes={"planner": ["petals", "uniform"], "load": {"path": LOAD, "values": [1, 3]}},
        seeds=3,
        question={"kind": "compare", "baseline": {"planner": "petals"}, "figures": ["ttft_s.mean"]},
    )
    value = {(row["planner"], row["load"], row["seed"]): row["ttft_s.mean"] for row in result.rows}
    for answer in result.answers:
        key = answer["planner"], answer["load"]
        differences = [value[(*key, seed)] - value["petals", key[1], seed] for seed in range(3)]
        assert answer["ttft_s.mean.difference"] == pytest.approx(sum(differences) / 3)
        assert answer["baseline"] == (answer["planner"] == "petals")
        if answer["baseline"]:
            assert answer["ttft_s.mean.difference.low"] == answer["ttft_s.mean.difference.high"] == 0


# ------------------------------------------------------------------------------------------------- max_rate


def test_max_rate_is_that_of_brute_force() -> None:
    result = answered(seeds=[1, 4], question={"kind": "max_rate", "from": 1, "to": 64, "tolerance": 0.05})
    [answer] = result.answers
    tried = {row["rate"]: row["slo_attainment"] for row in result.rows if row["seed"] == 1}
    grid = [1.04**step for step in range(50, 80)]
    sweep = answered(axes={"load": {"path": LOAD, "values": grid}}, seeds=[1])
    met = [row["load"] for row in sweep.rows if row["slo_attainment"] >= 0.9]
    missed = [row["load"] for row in sweep.rows if row["slo_attainment"] < 0.9]
    greatest = max(rate for rate, share in tried.items() if share >= 0.9)
    # On a cluster whose attainment falls with the rate, there is one border, and bisection finds it.
    assert max(met) < min(missed)
    assert max(met) / 1.05 <= greatest <= min(missed)
    assert len(tried) < 20
    assert answer["max_rate.min"] <= answer["max_rate"] <= answer["max_rate.max"]
    assert answer["max_rate.low"] < answer["max_rate"] < answer["max_rate.high"]
    assert answer["bounds"] == ""


def test_a_range_that_is_too_narrow_is_told() -> None:
    low, high = (
        answered(question={"kind": "max_rate", "from": start, "to": stop}).answers[0]
        for start, stop in ((50, 60), (0.1, 0.2))
    )
    assert (low["max_rate"], low["bounds"], low["points"]) == (0.0, "1 seeds below 50", 1)
    assert (high["max_rate"], high["bounds"], high["points"]) == (0.2, "1 seeds above 0.2", 2)


def test_a_condition_on_a_figure_that_does_not_exist_stops_the_study() -> None:
    with pytest.raises(StudyError, match=r"no figure ttft_s\.p98; did you mean ttft_s"):
        answered(question={"kind": "max_rate", "from": 1, "to": 2, "meets": {"ttft_s.p98": "<= 2 s"}})


def test_a_cell_whose_placement_fails_answers_with_its_error() -> None:
    axes = {"t4": {"nodes": "T4", "values": [0, 2]}}
    bad, good = answered(axes=axes, question={"kind": "max_rate", "from": 1, "to": 4, "tolerance": 1}).answers
    assert "60 layers" in bad["error"]
    assert good["error"] is None


# ------------------------------------------------------------------------------------------------- min_cost

CATALOGUE = {
    "a": {"machine": "A100", "at_most": 3},
    "l": {"machine": "L4", "at_most": 3},
    "t": {"machine": "T4", "at_most": 4},
}


def min_cost(load: float, **question: Any) -> StudyResult:
    asked = {"kind": "min_cost", "catalogue": CATALOGUE, **question}
    return answered(set={LOAD: load}, prices=PRICES, question=asked)


@pytest.mark.parametrize("load", [0.5, 3.0])
def test_min_cost_is_that_of_brute_force(load: float) -> None:
    """Against every cluster of the catalogue, planned and run."""
    good: dict[tuple[int, ...], float] = {}
    groups = ("A100", "L4", "T4")
    for counts in itertools.product(range(4), range(4), range(5)):
        layers = sum(count * most for count, most in zip(counts, (18, 11, 7), strict=True))
        if layers < 60:
            continue
        nodes = [
            {"name": name, "machine": machine, "count": count}
            for name, machine, count in zip("alt", groups, counts, strict=True)
            if count
        ]
        lengths = TINY["workload"]["synthetic"]["lengths"]
        cluster = {
            "coordinator": {"nic": "10 Gbit/s"},
            "nodes": nodes,
            "network": {"regions": [{"from": "*", "to": "*", "bandwidth": "10 Gbit/s", "latency": "1 ms"}]},
        }
        workload = {"kind": "open", "synthetic": {"requests_per_s": load, "lengths": lengths}}
        row = Study(tiny_study(scenario={**TINY, "cluster": cluster, "workload": workload})).run(HereExecutor()).rows[0]
        if row["status"] == "ok" and row["slo_attainment"] is not None and row["slo_attainment"] >= 0.9:
            good[counts] = counts[0] * 3 + counts[1] * 1 + counts[2] * 0.5
    own = answered(
        scenario={**TINY, "cluster": cluster},
        set={LOAD: load},
        prices=PRICES,
        question={"kind": "min_cost", "catalogue": CATALOGUE},
    )
    [answer] = own.answers
    assert answer["status"] == "cheapest"
    assert answer["cost_per_h"] == min(good.values())
    assert good[answer["a"], answer["l"], answer["t"]] == answer["cost_per_h"]
    assert answer["clusters"] < 40


def test_a_catalogue_that_is_not_enough_is_told_after_one_cluster() -> None:
    [answer] = min_cost(500.0).answers
    assert answer["status"] == "none meets the conditions"
    assert (answer["cost_per_h"], answer["a"], answer["clusters"]) == (None, None, 1)


def test_a_search_that_is_cut_short_says_so_and_repeats() -> None:
    first, second = (min_cost(0.5, clusters=3) for _ in range(2))
    assert first.answers == second.answers
    assert first.answers[0]["status"] == "best found"
    assert first.answers[0]["clusters"] == 3


def test_an_offer_without_a_price_stops_the_study_before_it_runs() -> None:
    executor = HereExecutor()
    spot = {"a": {"machine": "A100", "at_most": 3, "spot": True}}
    study = Study(tiny_study(prices=PRICES, question={"kind": "min_cost", "catalogue": spot}))
    with pytest.raises(StudyError, match="no spot price of A100"):
        study.run(executor)
    assert executor.calls == 0


def test_what_follows_from_what_was_tried() -> None:
    known = Knowledge(prices=(3.0, 1.0), monotone=True)
    known.learn((1, 2), good=False)
    known.learn((2, 2), good=True)
    assert known.verdict((1, 1)) is False
    assert known.verdict((0, 0)) is False
    assert known.verdict((2, 1)) is None
    assert known.worthwhile((0, 7))
    assert not known.worthwhile((0, 8))
    assert not Knowledge(prices=(1.0,), monotone=False, tried={(2,): False}).verdict((1,))
    assert Knowledge(prices=(1.0,), monotone=False, tried={(2,): False}).verdict((1,)) is None


# ---------------------------------------------------------------------------------------------- traces travel


def test_traces_travel_with_their_points(tmp_path: Path) -> None:
    trace = tmp_path / "arrivals.csv"
    trace.write_text("arrival_s,prompt_tokens,output_tokens\n1,100,5\n2,100,7\n3,80,9\n")
    scenario = {**TINY, "warm_up": "0 s", "workload": {"kind": "open", "trace": {"file": str(trace)}}}

    class Elsewhere(HereExecutor):
        """Another machine: it does not have the file."""

        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            hidden = trace.rename(tmp_path / "hidden.csv")
            try:
                return super().submit(fn, *args, **kwargs)
            finally:
                hidden.rename(trace)

    study = Study(tiny_study(scenario=scenario, axes={"planner": ["petals"]}))
    rows = study.run(Elsewhere()).rows
    assert [(row["status"], row["requests.submitted"]) for row in rows] == [("ok", 3)]
    before = rows[0]["point"]
    trace.write_text("arrival_s,prompt_tokens,output_tokens\n1,100,5\n")
    after = Study(tiny_study(scenario=scenario, axes={"planner": ["petals"]})).run(HereExecutor()).rows[0]
    assert after["point"] != before, "another trace is another point"
    assert after["requests.submitted"] == 1


def test_churn_of_offers_that_are_not_bought_does_not_happen() -> None:
    """Spot nodes are cheap and always away; whoever has none of them is not disturbed."""
    catalogue = {
        "own": {"machine": "A100", "at_most": 4},
        "cheap": {"machine": "A100", "at_most": 4, "spot": True},
    }
    churn = {"random": [{"preempt": "cheap-*", "mtbf": "3 s", "mttr": "60 s", "notice": "0 s"}]}
    result = answered(
        set={"duration": "60 s"},
        prices={"nodes": {"A100": {"on_demand": 3, "spot": 1}}},
        axes={"market": {"variants": {"calm": {}, "churn": {"churn": churn}}}},
        question={"kind": "min_cost", "catalogue": catalogue, "clusters": 30},
    )
    calm, stormy = result.answers
    assert (calm["own"], calm["cheap"], calm["status"]) == (0, 4, "cheapest")
    assert (stormy["own"], stormy["cheap"], stormy["status"]) == (4, 0, "cheapest")
    assert stormy["cost_per_h"] == 3 * calm["cost_per_h"] == 12
    # What never fails is tried second, however few clusters there may be.
    question = {"kind": "min_cost", "catalogue": catalogue, "clusters": 2}
    prices = {"nodes": {"A100": {"on_demand": 3, "spot": 1}}}
    [hurried] = answered(set={"duration": "60 s", "churn": churn}, prices=prices, question=question).answers
    assert (hurried["own"], hurried["cheap"], hurried["clusters"]) == (4, 0, 2)
    # With both kinds, the churn of those that are there does happen.
    mixed = [row for row in result.rows if row["market"] == "churn" and row["cheap"]]
    assert any(row.get("churn.incidents") for row in mixed)
