"""Replanning on clusters whose figures can be worked out by hand, and on the artifact's."""

import math

import pytest
from small_clusters import FixedThroughput, chain_links, ranges, small_cluster, small_model, small_node, small_profile

from placement.cluster import COORDINATOR, Cluster, Coordinator, Link, Network
from placement.errors import PlanError
from placement.layers import LayerRange
from placement.plan import PlanStatus, Problem, problem_for
from placement.planners.matching import keep_in_place, kept_layers, reorder
from placement.replanning import cost_over_horizon, layers_to_load, replan, surviving_flow


def even_problem(count, layers, *, most=2, links=None, rate=100.0):
    """``count`` equal nodes n0, n1, ... of ``most`` layers and ``rate`` tokens/s, whatever they hold."""
    nodes = [small_node(f"n{index}") for index in range(count)]
    return Problem(
        cluster=small_cluster(nodes, links=links),
        model=small_model(layers),
        profiles={"M": small_profile("M", most)},
        throughput=FixedThroughput({"M": rate}),
    )


def test_layers_to_load_are_those_that_were_not_held():
    before = ranges(a=(2, 6), b=(0, 4), c=(0, 4), d=(3, 5), f=(0, 9))
    after = ranges(a=(0, 8), b=(2, 6), c=(5, 7), d=(3, 5), e=(1, 2), f=(3, 4))
    assert layers_to_load(after, before) == {
        "a": (LayerRange(0, 2), LayerRange(6, 8)),
        "b": (LayerRange(4, 6),),
        "c": (LayerRange(5, 7),),
        "e": (LayerRange(1, 2),),
    }


def test_what_serves_best_stays_as_it_is():
    problem = even_problem(2, 4)
    found = replan(problem, ranges(n1=(0, 2), n0=(2, 4)))
    assert found.plan.placement.ranges == ranges(n1=(0, 2), n0=(2, 4)).ranges
    assert (found.layers_moved, dict(found.moved), found.gone) == (0, {}, ())
    assert found.plan.status is PlanStatus.OPTIMAL
    assert found.worth_tokens_per_s == found.kept_flow_tokens_per_s == found.plan.flow.tokens_per_s == 100.0


def test_the_idle_node_takes_the_place_of_the_one_that_went():
    problem = even_problem(3, 4)
    current = ranges(n0=(0, 2), n1=(2, 4))
    found = replan(problem, current, forbidden=["n1"], move_cost=1.0)
    assert found.plan.placement.ranges == ranges(n0=(0, 2), n2=(2, 4)).ranges
    assert found.kept_flow_tokens_per_s == 0.0
    assert dict(found.moved) == {"n2": (LayerRange(2, 4),)}
    assert found.load_bytes(problem.model) == {"n2": 2e9}
    assert (found.charge_tokens_per_s, found.worth_tokens_per_s, found.gone) == (2.0, 98.0, ("n1",))


def test_a_node_that_the_cluster_no_longer_has_is_gone():
    found = replan(even_problem(2, 4), ranges(n0=(0, 2), lost=(2, 4)))
    assert found.gone == ("lost",)
    assert found.plan.placement.ranges == ranges(n0=(0, 2), n1=(2, 4)).ranges


@pytest.mark.parametrize(("cost", "moved"), [(0.0, 4), (24.9, 4), (25.1, 0)])
def test_nodes_that_joined_are_used_when_they_are_worth_their_layers(cost, moved):
    # Two more nodes double the flow of 100 tokens/s for four layers: they may cost 25 tokens/s each.
    found = replan(even_problem(4, 4), ranges(n0=(0, 2), n1=(2, 4)), move_cost=cost)
    assert found.layers_moved == moved
    assert found.plan.flow.tokens_per_s == (200.0 if moved else 100.0)


def test_the_price_may_differ_from_node_to_node():
    current = ranges(n0=(0, 2), n1=(2, 4))
    found = replan(even_problem(4, 4), current, forbidden=["n0"], move_cost={"n1": 5.0, "n2": 5.0, "n3": 1.0})
    assert dict(found.moved) == {"n3": (LayerRange(0, 2),)}
    assert found.charge_tokens_per_s == 2.0


def test_pinned_nodes_hold_what_they_are_pinned_to():
    found = replan(even_problem(3, 4), ranges(n0=(0, 2), n1=(2, 4)), pinned={"n0": LayerRange(2, 4)})
    assert found.plan.placement["n0"] == LayerRange(2, 4)
    assert found.plan.flow.tokens_per_s == 100.0


def test_a_present_placement_beyond_the_profile_may_stay():
    problem = even_problem(2, 4, most=1, rate=10.0)
    current = ranges(n0=(0, 2), n1=(2, 4))
    with pytest.raises(PlanError, match=r"2 layers \(2.0 GB of weights\) are missing"):
        replan(problem, ranges(n0=(0, 1)))
    with pytest.raises(PlanError, match="are missing"):
        replan(problem, current)
    wider = even_problem(8, 4, most=1, rate=10.0)
    found = replan(wider, current, move_cost=100.0)
    assert found.plan.placement.ranges == current.ranges
    assert found.plan.allow_over_profile
    found = replan(wider, current)
    assert found.plan.placement.ranges != current.ranges


def test_what_is_missing_is_said():
    problem = even_problem(3, 6)
    with pytest.raises(PlanError, match=r"replan: small has 6 layers, .* without n1, n2 holds at most 2 .* 4 layers"):
        replan(problem, ranges(), forbidden=["n1", "n2"])
    with pytest.raises(PlanError, match=r"without n0, n1, n2 holds at most 0 \(no free nodes\); 6 layers"):
        replan(problem, ranges(), forbidden=["n0", "n1", "n2"])
    with pytest.raises(PlanError, match=r"n0 \(M\) cannot hold its pinned range \[0, 3\): 3 layers, but at most 2 fit"):
        replan(problem, ranges(), pinned={"n0": LayerRange(0, 3)})
    with pytest.raises(PlanError, match="node n0 is both pinned"):
        replan(problem, ranges(), pinned={"n0": LayerRange(0, 2)}, forbidden=["n0"])
    with pytest.raises(PlanError, match="forbidden node x is no node of cluster little"):
        replan(problem, ranges(), forbidden=["x"])
    with pytest.raises(
        PlanError, match=r"has 4 layers that pinned nodes do not hold \(4 of 6\), .* at most 2 .* 2 layers"
    ):
        replan(problem, ranges(), pinned={name: LayerRange(0, 2) for name in ("n0", "n1")})


def test_nodes_without_links_are_missing():
    problem = even_problem(3, 6, links=chain_links("n0", "n1"))
    with pytest.raises(PlanError, match=r"2 layers \(2.0 GB of weights\) are missing, so add links to and from n2"):
        replan(problem, ranges(n0=(0, 2), n1=(2, 4)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget_s": 0.0}, "budget_s is 0.0; it must be a number of seconds greater than 0"),
        ({"move_cost": -1.0}, "node n0: move_cost in tokens/s a layer is -1; it must be at least 0"),
        ({"move_cost": {"n1": math.nan}}, "node n1: move_cost in tokens/s a layer is nan"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(PlanError, match=message):
        replan(even_problem(2, 4), ranges(n0=(0, 2), n1=(2, 4)), **options)


def test_the_flow_of_the_survivors():
    problem = even_problem(4, 4)
    current = ranges(n0=(0, 2), n1=(2, 4), n2=(2, 4), n3=(0, 2))
    assert surviving_flow(problem, current).tokens_per_s == 200.0
    left = surviving_flow(problem, current, ["n1"], kv_capacity={"n0": 1.0, "n2": 1.0, "n3": 1.0})
    assert left.tokens_per_s == 100.0
    # The balanced flow halves what the single second half lets through.
    assert left.node_flow == pytest.approx({"n0": 50.0, "n2": 100.0, "n3": 50.0}, rel=1e-4)
    assert surviving_flow(problem, current, ["n1", "n2"]).tokens_per_s == 0.0
    assert surviving_flow(problem, current, list(current)).tokens_per_s == 0.0


def test_cost_over_a_horizon():
    # A 1 GB layer takes 1 s from a 1 GB/s disk, in which the node would have processed 100 tokens; over 50 s: 2 a s.
    assert cost_over_horizon(even_problem(2, 4), ranges(n0=(0, 2)), 50.0) == {"n0": 2.0, "n1": 2.0}
    with pytest.raises(PlanError, match="horizon_s is 0"):
        cost_over_horizon(even_problem(2, 4), ranges(), 0)


def test_stretches_change_places_for_layers_that_stay():
    problem = even_problem(3, 6)
    before = ranges(n0=(0, 2), n1=(2, 4), n2=(4, 6)).ranges
    # The middle node is another one: no dealing out among equals helps the fixed ones, but the order does.
    machines = {"n0": "A", "n1": "B", "n2": "C"}
    nodes = [small_node(name, kind) for name, kind in machines.items()]
    profiles = {kind: small_profile(kind, 2) for kind in machines.values()}
    problem = problem_for(small_cluster(nodes), small_model(6), profiles)
    turned = ranges(n2=(0, 2), n0=(2, 4), n1=(4, 6)).ranges
    assert kept_layers(keep_in_place(problem, turned, before), before) == 0
    ordered = reorder(problem, turned, before, (), lambda: False)
    assert ordered == before


def test_links_given_one_by_one_are_kept_in_mind():
    # All three are needed, but n2 is linked with the coordinator only.
    links = chain_links("n0", "n1") | {(COORDINATOR, "n2"): 1e12, ("n2", COORDINATOR): 1e12}
    with pytest.raises(PlanError, match="no placement with a chain of links"):
        replan(even_problem(3, 6, links=links), ranges(n0=(0, 2), n1=(2, 4)), budget_s=0.2)


def test_slow_links_between_regions_count():
    nodes = [small_node(f"{region}{index}", region=region) for region in "ab" for index in range(2)]
    slow, fast = Link(1e3, 0.05), Link(1e12, 0.001)
    network = Network(regions={(x, y): fast if x == y else slow for x in "ab" for y in "ab"})
    cluster = Cluster(
        name="two",
        nodes=tuple(nodes),
        coordinator=Coordinator(region="a", nic_in_bytes_per_s=1e12, nic_out_bytes_per_s=1e12),
        network=network,
    )
    problem = Problem(
        cluster=cluster,
        model=small_model(4),
        profiles={"M": small_profile("M", 2)},
        throughput=FixedThroughput({"M": 100.0}),
    )
    # 1,000 bytes/s are 10 tokens/s across; within a region a chain of two has 100.
    crossing = ranges(a0=(0, 2), b0=(2, 4))
    found = replan(problem, crossing)
    assert found.kept_flow_tokens_per_s == pytest.approx(10.0)
    assert found.plan.flow.tokens_per_s == pytest.approx(200.0)
