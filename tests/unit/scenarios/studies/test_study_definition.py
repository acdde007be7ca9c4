from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from study_runs import PRICES, tiny_study

from scenarios.errors import ScenarioError
from scenarios.studies.definition import define_plain
from scenarios.studies.study import Study

BANDWIDTH = "cluster.network.regions.0.bandwidth"


def labels(**keys: Any) -> list[tuple[Any, ...]]:
    return [tuple(cell.labels.values()) for cell in define_plain(tiny_study(**keys)).cells]


def test_a_grid_is_all_combinations_last_axis_fastest() -> None:
    axes = {"planner": ["petals", "swarm"], "load": {"path": "workload.synthetic.requests_per_s", "values": [1, 2]}}
    assert labels(axes=axes) == [("petals", 1), ("petals", 2), ("swarm", 1), ("swarm", 2)]


def test_a_list_takes_values_together() -> None:
    axes = {"planner": ["petals", "swarm"], "load": {"path": "workload.synthetic.requests_per_s", "values": [1, 2]}}
    assert labels(axes=axes, sample="list") == [("petals", 1), ("swarm", 2)]
    with pytest.raises(ScenarioError, match="equally many values"):
        labels(axes={"planner": ["petals"], "load": axes["load"]}, sample="list")


def test_ranges_are_spaced_linearly_or_in_logarithms_and_keep_their_unit() -> None:
    span = {"from": "10 Mbit/s", "to": "10 Gbit/s", "steps": 4, "scale": "log"}
    found = labels(axes={"bandwidth": {"path": BANDWIDTH, "range": span}})
    assert found == [("10 Mbit/s",), ("100 Mbit/s",), ("1000 Mbit/s",), ("10000 Mbit/s",)]
    found = labels(axes={"t4": {"nodes": "T4", "range": {"from": 1, "to": 5, "steps": 3}}})
    assert found == [(1,), (3,), (5,)]


def test_constraints_leave_cells_out_and_compare_quantities_in_si_units() -> None:
    axes = {
        "bandwidth": {"path": BANDWIDTH, "values": ["8 Mbit/s", "80 Mbit/s"]},
        "t4": {"nodes": "T4", "values": [1, 2]},
    }
    assert labels(axes=axes, constraints=["bandwidth > 1e6 or t4 > 1"]) == [
        ("8 Mbit/s", 2),
        ("80 Mbit/s", 1),
        ("80 Mbit/s", 2),
    ]


def test_a_latin_hypercube_has_one_value_in_each_part_and_repeats() -> None:
    axes = {
        "load": {"path": "workload.synthetic.requests_per_s", "range": {"from": 1, "to": 3}},
        "bandwidth": {"path": BANDWIDTH, "range": {"from": "1 MB/s", "to": "1000 MB/s", "scale": "log"}},
    }
    sample = {"kind": "latin-hypercube", "points": 20, "seed": 4}
    found = labels(axes=axes, sample=sample)
    assert found == labels(axes=axes, sample=sample)
    assert found != labels(axes=axes, sample={**sample, "seed": 5})
    loads = sorted(load for load, _ in found)
    assert [int((load - 1) / 2 * 20) for load in loads] == list(range(20))
    rates = sorted(float(text.split()[0]) for _, text in found)
    # Evenly spaced in logarithms: each value is 1000**(1/20) times the one before, give or take its place in its part.
    assert all(second / first < 1000 ** (2 / 20) for first, second in pairwise(rates))


def test_a_random_sample_draws_until_the_constraints_are_met() -> None:
    axes = {name: {"nodes": name.upper(), "range": {"from": 0, "to": 9}} for name in ("l4", "t4")}
    found = labels(axes=axes, sample={"kind": "random", "points": 50}, constraints=["l4 + t4 == 9"])
    assert len(found) == 50
    assert all(l4 + t4 == 9 for l4, t4 in found)
    with pytest.raises(ScenarioError, match="no cell"):
        labels(axes=axes, sample={"kind": "random", "points": 5}, constraints=["l4 > 9"])


def test_seeds_count_from_the_scenarios_own() -> None:
    assert define_plain(tiny_study(seeds=3, set={"seed": 7})).seeds == (7, 8, 9)
    assert define_plain(tiny_study(seeds=[3, 1])).seeds == (3, 1)
    assert define_plain(tiny_study(axes={"seed": [3, 1]})).seeds is None


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"axes": {"bandwidth": ["1 Mbit/s"]}}, "does not say what it changes"),
        ({"axes": {"status": ["x"]}}, "column of this name"),
        ({"axes": {"t4": {"nodes": "T4", "values": [1.5]}}}, "number of nodes"),
        ({"axes": {"t4": {"nodes": "T4", "path": "seed", "values": [1]}}}, "one of path, paths and nodes"),
        (
            {"axes": {"b": {"path": BANDWIDTH, "range": {"from": "1 Mbit/s", "to": "2 s", "steps": 2}}}},
            "different things",
        ),
        ({"axes": {"b": {"path": BANDWIDTH, "range": {"from": "1 Mbit/s", "to": "2 Mbit/s"}}}}, "add steps"),
        ({"axes": {"b": {"path": BANDWIDTH, "range": {"from": "2 kB/s", "to": "1 kB/s", "steps": 2}}}}, "not below"),
        ({"constraints": ["x > 1"]}, "x is no axis"),
        ({"seeds": 2, "axes": {"seed": [1, 2]}}, "axis already"),
        ({"seeds": [1, 1]}, "twice"),
        ({"question": {"kind": "min_cost", "catalogue": {"t4": {"machine": "T4", "at_most": 2}}}}, "needs prices"),
        ({"question": {"kind": "max_rate", "from": 2, "to": 1}}, "not below"),
        (
            {"question": {"kind": "max_rate", "from": 1, "to": 2, "meets": {"ttft_s.p99": "<= 3 GB"}}},
            "a duration belongs here",
        ),
        ({"question": {"kind": "compare", "baseline": {"planner": "x"}}}, "no axis"),
        ({"question": {"kind": "best"}}, "question"),
        ({"scenario": "quickstrat"}, "quickstart"),
        ({"colour": 1}, "no such key"),
        ({"sample": {"kind": "random"}}, "needs points"),
        ({"set": {"duration.x": 1}}, "one value"),
        ({"prices": {"nodes": {"A100": -1}}}, "prices.nodes.A100"),
    ],
)
def test_mistakes_are_told_with_rule_and_remedy(keys: dict[str, Any], told: str) -> None:
    with pytest.raises(ScenarioError, match=told):
        define_plain(tiny_study(**keys))


def test_a_scenario_that_is_wrong_in_every_cell_is_told_before_anything_runs() -> None:
    study = Study(tiny_study(set={"workload.synthetic.requests_per_second": 1}))
    with pytest.raises(ScenarioError, match="requests_per_s"):
        study.run(executor=None, processes=1)


def test_prices_may_be_numbers_or_have_a_spot_price() -> None:
    prices = define_plain(tiny_study(prices=PRICES)).section.prices
    assert prices is not None
    assert (prices.nodes["A100"].on_demand, prices.nodes["T4"].spot, prices.nodes["L4"].spot) == (3, 0.2, None)
