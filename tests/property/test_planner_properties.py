"""What must hold for the plan of every heuristic on every cluster with all links."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_clusters import small_cluster, small_model, small_node, small_profile

from placement.errors import PlanError
from placement.flow import build_flow_graph, check_flow
from placement.layers import check_placement
from placement.plan import problem_for
from placement.planners import planner

KINDS = {"S": (1, 1.0), "M": (3, 2.0), "L": (5, 7.0)}
"""Machine type -> most layers, speed."""


def plan_or_error(maker, problem):
    try:
        return maker.plan(problem)
    except PlanError as error:
        return error


@pytest.mark.parametrize("name", ["petals", "separate", "swarm", "uniform"])
@given(
    kinds=st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=12),
    layers=st.integers(1, 9),
    seed=st.integers(0, 3),
    bandwidth=st.sampled_from([1e3, 1e6, 1e12]),
)
def test_a_plan_is_valid_or_the_error_is_right(name, kinds, layers, seed, bandwidth):
    nodes = [small_node(f"n{index}", kind, nic=1e6) for index, kind in enumerate(kinds)]
    profiles = {kind: small_profile(kind, most, speed=speed) for kind, (most, speed) in KINDS.items()}
    problem = problem_for(small_cluster(nodes, bandwidth=bandwidth), small_model(layers), profiles, seed)
    room = {kind: sum(problem.most_layers(node) for node in nodes if node.machine_type == kind) for kind in KINDS}
    plan = plan_or_error(planner(name), problem)
    if isinstance(plan, PlanError):
        # Petals and uniform find a placement wherever there is room; swarm needs a node for each stage as well.
        enough = max(room.values()) if name == "separate" else sum(room.values())
        assert enough < layers or name == "swarm"
        assert "missing" in str(plan)
        return
    check_placement(plan.placement, problem.cluster, problem.model, profiles)
    graph = build_flow_graph(problem.cluster, problem.model, plan.placement, problem.throughput, links=plan.links)
    check_flow(graph, plan.flow)
    assert 0 < plan.flow.tokens_per_s <= plan.bound_tokens_per_s * (1 + 1e-9)
    assert 1 <= plan.depth <= len(plan.placement)
    assert sorted([*plan.placement, *plan.unused]) == sorted(node.name for node in nodes)
    assert planner(name).plan(problem) == plan
