"""The coverage theorem, the bounds that rest on it, and the planners that may not pass them (PLANNER.md, facts)."""

import dataclasses
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_clusters import small_model, small_node, small_profile

from placement.bounds import clip_bound, conf_lp_bound, network_bound
from placement.cluster import COORDINATOR, Cluster, Coordinator, Link, Network
from placement.errors import PlanError
from placement.flow import build_flow_graph, check_flow, max_flow
from placement.layers import LayerRange, Placement, check_placement
from placement.plan import PlanStatus, problem_for
from placement.planners import planner
from placement.planners.blocks_front import depth_front
from placement.planners.fast_flow import FastFlow

WIDE = 1e12


class Rates:
    """Machine type -> tokens/s for 1, 2, ... layers."""

    def __init__(self, rates):
        self._rates = rates

    def tokens_per_s(self, machine_type, layers):
        return self._rates[machine_type][layers - 1]


@st.composite
def problems(draw, *, most_nodes=7, layers=(1, 7), regions=2, cards=(WIDE, 3000.0)):
    """Random rates, counts, regions and links; 100 bytes a token between nodes, 2 with the coordinator."""
    layers = draw(st.integers(*layers))
    types = {
        f"t{index}": sorted(draw(st.lists(st.integers(1, 60), min_size=1, max_size=min(4, layers))), reverse=True)
        for index in range(draw(st.integers(1, 3)))
    }
    names = [f"r{index}" for index in range(draw(st.integers(1, regions)))]
    nodes = [
        small_node(
            f"n{index}",
            draw(st.sampled_from(sorted(types))),
            region=draw(st.sampled_from(names)),
            nic=draw(st.sampled_from(cards)),
        )
        for index in range(draw(st.integers(1, most_nodes)))
    ]
    between = {
        (one, other): Link(WIDE if one == other else draw(st.sampled_from([200.0, 1500.0, 4000.0, WIDE])), 0.01)
        for one, other in itertools.product(names, repeat=2)
    }
    cluster = Cluster(
        name="drawn",
        nodes=tuple(nodes),
        coordinator=Coordinator(region=names[0], nic_in_bytes_per_s=WIDE, nic_out_bytes_per_s=WIDE),
        network=Network(regions=between),
    )
    profiles = {name: small_profile(name, len(rates)) for name, rates in types.items()}
    problem = problem_for(cluster, small_model(layers), profiles, draw(st.integers(0, 2)))
    return dataclasses.replace(problem, throughput=Rates(types))


def draw_layout(data, problem):
    """A range for each node; flow is not promised."""
    layers, ranges = problem.model.layers, {}
    for node in problem.cluster.nodes:
        held = data.draw(st.integers(1, min(layers, problem.most_layers(node))))
        start = data.draw(st.integers(0, layers - held))
        ranges[node.name] = LayerRange(start, start + held)
    return ranges


def exact_flow(problem, ranges):
    return max_flow(
        build_flow_graph(problem.cluster, problem.model, Placement(ranges), problem.throughput)
    ).tokens_per_s


def least_coverage(problem, ranges):
    rate = problem.throughput.tokens_per_s
    return min(
        sum(rate(problem.cluster.node(name).machine_type, len(held)) for name, held in ranges.items() if layer in held)
        for layer in range(problem.model.layers)
    )


def every_bound(problem):
    conf = conf_lp_bound(problem)
    return {"clip": clip_bound(problem), "conf-lp": conf, "network": network_bound(problem, conf)}


@settings(deadline=None)
@given(problem=problems(regions=1, cards=(WIDE,), most_nodes=9, layers=(1, 12)), data=st.data())
def test_where_links_do_not_bind_the_flow_is_the_least_coverage_of_a_layer(problem, data):
    ranges = draw_layout(data, problem)
    assert exact_flow(problem, ranges) == pytest.approx(least_coverage(problem, ranges), rel=1e-9, abs=1e-9)


@settings(deadline=None)
@given(problem=problems(), data=st.data())
def test_no_placement_passes_coverage_or_a_bound_and_the_fast_flow_is_the_exact_one(problem, data):
    ranges = draw_layout(data, problem)
    flow = exact_flow(problem, ranges)
    assert flow <= least_coverage(problem, ranges) * (1 + 1e-9)
    assert FastFlow(problem).value(ranges) == pytest.approx(flow, rel=1e-9, abs=1e-9)
    for name, bound in every_bound(problem).items():
        assert flow <= bound * (1 + 1e-9), name


@settings(deadline=None, max_examples=12)
@given(problem=problems(most_nodes=4, layers=(2, 4)))
def test_no_placement_at_all_passes_a_bound(problem):
    layers = problem.model.layers
    options = [
        [
            LayerRange(start, start + held)
            for held in range(1, min(layers, problem.most_layers(node)) + 1)
            for start in range(layers - held + 1)
        ]
        for node in problem.cluster.nodes
    ]
    names = [node.name for node in problem.cluster.nodes]
    evaluate = FastFlow(problem).value
    best = max(evaluate(dict(zip(names, layout, strict=True))) for layout in itertools.product(*options))
    for name, bound in every_bound(problem).items():
        assert best <= bound * (1 + 1e-9), name
    for name in ("blocks", "cover"):
        try:
            plan = planner(name).plan(problem)
        except PlanError:
            assert best == 0
            continue
        assert plan.flow.tokens_per_s <= best * (1 + 1e-9)
        if plan.status is PlanStatus.OPTIMAL:
            assert plan.flow.tokens_per_s == pytest.approx(best, rel=1e-8)


@settings(deadline=None, max_examples=20)
@pytest.mark.parametrize("name", ["blocks", "cover"])
@given(problem=problems())
def test_a_plan_is_valid_below_its_bound_and_the_same_again(name, problem):
    missing = problem.model.layers - sum(problem.most_layers(node) for node in problem.cluster.nodes)
    if missing > 0:
        with pytest.raises(PlanError, match=f"; {missing} layers .* missing"):
            planner(name).plan(problem)
        return
    plan = planner(name).plan(problem)
    check_placement(plan.placement, problem.cluster, problem.model, problem.profiles)
    graph = build_flow_graph(problem.cluster, problem.model, plan.placement, problem.throughput, links=plan.links)
    check_flow(graph, plan.flow)
    bounds = every_bound(problem)
    assert plan.flow.tokens_per_s <= min(bounds.values()) * (1 + 1e-9)
    assert plan.bound_tokens_per_s <= bounds["conf-lp"] * (1 + 1e-9)
    assert (plan.status is PlanStatus.OPTIMAL) == (plan.gap <= 1.0000001e-9)
    assert planner(name).plan(problem) == plan
    assert COORDINATOR not in plan.placement


@settings(deadline=None, max_examples=10)
@given(problem=problems(regions=1, cards=(WIDE,)))
def test_the_depth_front_rises(problem):
    try:
        front = depth_front(problem)
    except PlanError:
        return
    depths = [plan.depth for plan in front]
    flows = [plan.flow.tokens_per_s for plan in front]
    assert depths == sorted(set(depths))
    assert flows == sorted(set(flows))
    for plan in front:
        assert planner("blocks", max_depth=plan.depth).plan(problem).depth <= plan.depth
