import dataclasses
import itertools

import pytest
from artifact import artifact_model, artifact_profiles, needs_artifact
from small_clusters import FixedThroughput, small_cluster, small_model, small_node, small_profile

from placement.bounds import conf_lp_bound
from placement.errors import PlanError
from placement.plan import PlanStatus, problem_for
from placement.planners import planner


class RisingThroughput:
    """Machine type -> tokens/s for 1, 2, ... layers."""

    def __init__(self, rates):
        self._rates = rates

    def tokens_per_s(self, machine_type, layers):
        return self._rates[machine_type][layers - 1]


def tiny(layers, **rates_of):
    """Nodes n0, n1, ... with the given rates for 1, 2, ... layers; links limit nothing."""
    nodes = [small_node(name, name) for name in rates_of]
    profiles = {name: small_profile(name, len(rates)) for name, rates in rates_of.items()}
    problem = problem_for(small_cluster(nodes), small_model(layers), profiles)
    return dataclasses.replace(problem, throughput=RisingThroughput(rates_of))


def best_coverage(layers, rates):
    """Greatest least coverage over all layouts, by trying them all (fact 1 of PLANNER.md)."""
    options = [
        [(start, start + held, rate) for held, rate in enumerate(node, 1) for start in range(layers - held + 1)]
        for node in rates
    ]
    return max(
        min(sum(rate for start, stop, rate in layout if start <= layer < stop) for layer in range(layers))
        for layout in itertools.product(*options)
    )


@pytest.mark.parametrize("start", [True, False])
@pytest.mark.parametrize(
    ("layers", "rates"),
    [
        (3, [(90.0, 50.0), (80.0, 30.0), (20.0,)]),
        (4, [(100.0, 60.0, 30.0), (100.0, 60.0, 30.0), (40.0, 25.0)]),
        (5, [(70.0, 40.0, 25.0), (70.0, 40.0, 25.0), (70.0, 40.0, 25.0), (55.0, 10.0)]),
        # Partial inference pays: two that overlap in the middle share its layers.
        (4, [(9.0, 9.0, 5.0), (9.0, 9.0, 5.0), (3.0, 3.0)]),
    ],
)
def test_it_equals_brute_force_on_tiny_clusters(layers, rates, start):
    problem = tiny(layers, **{f"n{index}": node for index, node in enumerate(rates)})
    plan = planner("cover", start=start).plan(problem)
    assert plan.flow.tokens_per_s == pytest.approx(best_coverage(layers, rates), rel=1e-9)
    assert plan.status is PlanStatus.OPTIMAL
    assert plan.gap <= 1e-9


def test_without_room_it_says_what_is_missing():
    with pytest.raises(PlanError, match=r"cover: small has 9 layers, .* at most 4 .*; 5 layers \(5.0 GB"):
        planner("cover").plan(tiny(9, n0=(5.0, 5.0), n1=(5.0, 5.0)))


@pytest.mark.parametrize("limit", [0, -1, float("nan"), float("inf"), "x", True])
@pytest.mark.parametrize("name", ["cover", "blocks"])
def test_a_time_limit_must_be_positive(name, limit):
    with pytest.raises(PlanError, match=f"{name}: time_limit_s is .*; it must be a number of seconds greater than 0"):
        planner(name, time_limit_s=limit)


def test_a_tiny_time_limit_gives_a_feasible_plan():
    plan = planner("cover", time_limit_s=1e-9).plan(tiny(4, n0=(9.0, 9.0, 5.0), n1=(9.0, 9.0, 5.0), n2=(3.0, 3.0)))
    assert plan.status is PlanStatus.FEASIBLE
    assert 0 < plan.flow.tokens_per_s <= plan.bound_tokens_per_s


def test_where_links_bind_the_bound_holds_and_nothing_is_called_optimal_that_is_not():
    nodes = [small_node(f"n{index}") for index in range(4)]
    problem = problem_for(small_cluster(nodes, bandwidth=1000.0), small_model(8), {"M": small_profile("M", 4)})
    problem = dataclasses.replace(problem, throughput=FixedThroughput({"M": 100.0}))
    plan = planner("cover").plan(problem)
    # Two stages of two nodes: four links of 10 tokens/s.
    assert plan.flow.tokens_per_s == pytest.approx(40.0)
    assert (plan.status, plan.bound_tokens_per_s) == (PlanStatus.FEASIBLE, pytest.approx(200.0))


@needs_artifact
def test_the_published_24_nodes_are_proven_without_a_start():
    counts = {"A100": 4, "L4": 8, "T4": 12}
    nodes = [small_node(f"{one}{index}", one) for one, count in counts.items() for index in range(count)]
    problem = problem_for(small_cluster(nodes), artifact_model("llama-2-70b"), artifact_profiles("llama-2-70b"))
    plan = planner("cover", start=False).plan(problem)
    assert (plan.status, plan.planner) == (PlanStatus.OPTIMAL, "cover")
    assert plan.flow.tokens_per_s == pytest.approx(2045.641, abs=1e-3)
    assert plan.bound_tokens_per_s == pytest.approx(conf_lp_bound(problem), rel=1e-9)
    assert [point.incumbent_tokens_per_s for point in plan.trace] == sorted(
        point.incumbent_tokens_per_s for point in plan.trace
    )
