import dataclasses
import math

import pytest
from artifact import artifact_model, artifact_profiles, needs_artifact
from small_clusters import FixedThroughput, chain_links, small_cluster, small_model, small_node, small_profile

from placement.bounds import network_bound
from placement.cluster import COORDINATOR, Cluster, Coordinator, Link, Network
from placement.errors import PlanError
from placement.flow import build_flow_graph, max_flow
from placement.layers import LayerRange, Placement
from placement.plan import PlanStatus, problem_for
from placement.planners import planner
from placement.planners.blocks import limited_to
from placement.planners.blocks_columns import BlockPricer, lane_rate, make_block, shorten
from placement.planners.blocks_front import depth_front
from placement.planners.blocks_layout import lay, links_of, ranges_of, trim
from placement.planners.blocks_master import BlockPool
from placement.planners.kinds import Kind
from placement.planners.polish import CoverageSearch, polish_flow, start_by_coverage
from placement.planners.progress import Progress, linked_nodes
from placement.planners.replicas import deal, plan_replicas

A = Kind("A", "", ("a0", "a1", "a2", "a3"), (100.0, 60.0, 30.0))
B = Kind("B", "", ("b0", "b1", "b2", "b3"), (50.0, 25.0))


def one_type(nodes, most, layers, **cluster):
    made = small_cluster([small_node(f"n{index}") for index in range(nodes)], **cluster)
    problem = problem_for(made, small_model(layers), {"M": small_profile("M", most)})
    return dataclasses.replace(problem, throughput=FixedThroughput({"M": 100.0}))


def regions(counts, crossing=12.5e6, model="llama-2-70b"):
    """``{region: {machine type: nodes}}`` with 1e9 bytes/s within a region and ``crossing`` between them."""
    nodes = tuple(
        small_node(f"{kind}-{region}-{index}".lower(), kind, region=region, nic=1e10)
        for region, kinds in counts.items()
        for kind, count in kinds.items()
        for index in range(count)
    )
    links = {(a, b): Link(1e9, 0.001) if a == b else Link(crossing, 0.05) for a in counts for b in counts}
    front = Coordinator(region=next(iter(counts)), nic_in_bytes_per_s=1e10, nic_out_bytes_per_s=1e10)
    cluster = Cluster(name="drawn", nodes=nodes, coordinator=front, network=Network(regions=links))
    return problem_for(cluster, artifact_model(model), artifact_profiles(model))


GEO = {"a": {"A100": 4}, "b": {"L4": 2, "T4": 8}, "c": {"L4": 6, "T4": 4}}
SEVEN = {"a": {"A100": 4, "V100": 6, "L4": 8, "L4x2": 4, "T4": 10, "T4x2": 6, "T4x4": 4}}


def test_a_lane_is_shortened_at_its_slowest_node():
    assert shorten(((0, 3), (1, 2)), 4, [A, B]) == ((0, 3), (1, 1))
    assert shorten(((0, 3), (1, 2)), 3, [A, B]) == ((0, 2), (1, 1))
    assert shorten(((0, 1), (1, 1)), 1, [A, B]) == ((0, 1),)


def test_a_blocks_flow_is_the_sum_of_its_lanes_slowest_nodes():
    block = make_block(4, [((0, 3), (1, 2)), ((0, 2), (0, 2))], [A, B])
    assert (block.length, block.flow, block.depth, block.usage(2)) == (4, 30 + 60, 2, [3, 1])
    assert lane_rate(((0, 1), (1, 2)), [A, B]) == 25.0


def test_priced_blocks_reach_the_flow_and_are_worth_what_they_say():
    for flow in (20.0, 60.0, 75.0, 110.0, 150.0):
        for block in BlockPricer([A, B], 12, flow).price([2.0, 1.5], 0.0, least_profit=-math.inf):
            assert block.flow >= flow
            assert all(sum(held for _, held in lane) == block.length for lane in block.lanes)


def test_blocks_that_are_too_long_together_lose_layers_where_the_flow_is_least():
    fast, slow = make_block(2, [((0, 2),)], [A, B]), make_block(2, [((1, 2),)], [A, B])
    assert [(block.length, block.flow) for block in trim([fast, slow], 3, [A, B])] == [(2, 60.0), (1, 50.0)]
    # A block of one layer goes as a whole.
    assert [(block.length, block.flow) for block in trim([fast, slow], 2, [A, B])] == [(2, 60.0)]


def test_blocks_are_laid_end_to_end_with_the_links_of_their_lanes():
    laid = lay([make_block(3, [((0, 3),), ((1, 2), (1, 1))], [A, B]), make_block(2, [((0, 2),)], [A, B])], [A, B])
    assert ranges_of(laid) == {
        "a0": LayerRange(0, 3),
        "b0": LayerRange(0, 2),
        "b1": LayerRange(2, 3),
        "a1": LayerRange(3, 5),
    }
    front = [(COORDINATOR, "a0"), (COORDINATOR, "b0"), ("b0", "b1")]
    assert links_of(laid) == [*front, ("a0", "a1"), ("b1", "a1"), ("a1", COORDINATOR)]


def test_a_pool_keeps_to_counts_ends_and_depth():
    pool = BlockPool([A, B], 8, for_region=True)
    wide = pool.reach(50.0, math.inf, ends=(1, 2))
    assert wide is not None
    assert len(wide[-1].lanes) >= 2
    assert all(sum(block.usage(2)[kind] for block in wide) <= 4 for kind in (0, 1))
    deep, shallow = (pool.reach(50.0, math.inf, max_depth=cap) for cap in (8, 2))
    # Eight nodes in a row are more than the eight layers; at most two at a time are two pairs of A with three layers.
    assert sum(block.length for block in deep) >= 8
    assert sum(block.length for block in shallow) == 6
    assert pool.reach(50.0, math.inf, max_depth=2, needed=7) is None


def test_equal_machines_are_proven_optimal():
    plan = planner("blocks").plan(one_type(4, 4, 8))
    assert (plan.flow.tokens_per_s, plan.status, plan.depth, plan.planner) == (200.0, PlanStatus.OPTIMAL, 2, "blocks")
    assert plan.gap <= 1e-9
    assert plan.trace[-1].incumbent_tokens_per_s == 200.0


def test_the_depth_cap_holds():
    problem = dataclasses.replace(one_type(6, 4, 8), throughput=FixedThroughput({"M": 100.0}))
    assert [planner("blocks", max_depth=cap).plan(problem).depth for cap in (2, 3)] == [2, 2]
    with pytest.raises(PlanError, match=r"at most 1 nodes on a path .* set max_depth to 2 or more"):
        planner("blocks", max_depth=1).plan(problem)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"time_limit_s": 0}, "time_limit_s is 0"),
        ({"max_depth": 0}, "max_depth is 0"),
        ({"max_depth": -2}, "is -2"),
        ({"round_trip_s": 0}, "round_trip_s is 0"),
    ],
)
def test_options_that_cannot_be_are_told(options, says):
    with pytest.raises(PlanError, match=says):
        planner("blocks", **options)


@needs_artifact
def test_a_plan_for_a_round_trip_keeps_room_for_requests():
    problem = regions({"a": {"A100": 2, "V100": 6, "L4": 8, "T4x2": 12}})
    plain = planner("blocks", max_depth=14).plan(problem)
    roomy = planner("blocks", max_depth=14, round_trip_s=1.6).plan(problem)

    def with_room(plan):
        """Max flow of the requests that fit the KV caches."""
        throughput = limited_to(problem, 1.6).throughput
        return max_flow(build_flow_graph(problem.cluster, problem.model, plan.placement, throughput)).tokens_per_s

    assert with_room(roomy) > 1.05 * with_room(plain)
    # What it says of itself is under the problem's own rates.
    exact = max_flow(build_flow_graph(problem.cluster, problem.model, roomy.placement, problem.throughput))
    assert with_room(roomy) <= roomy.flow.tokens_per_s == pytest.approx(exact.tokens_per_s)
    assert roomy.flow.tokens_per_s < plain.flow.tokens_per_s <= roomy.bound_tokens_per_s
    assert roomy.trace[-1].incumbent_tokens_per_s == pytest.approx(roomy.flow.tokens_per_s)
    assert max(plain.depth, roomy.depth) <= 14


def test_what_is_missing_is_named():
    with pytest.raises(PlanError, match=r"9 layers, .* at most 8 .* 1 layers \(1.0 GB"):
        planner("blocks").plan(one_type(2, 4, 9))
    cut_off = one_type(3, 4, 9, links=chain_links("n0", "n1"))
    assert linked_nodes(cut_off.cluster) == ["n0", "n1"]
    with pytest.raises(PlanError, match=r"links join .* at most 8 \(2 M x 4 layers\); 1 layers .* from n2"):
        planner("blocks").plan(cut_off)


def test_links_one_by_one_are_obeyed():
    problem = one_type(4, 4, 8, links=chain_links("n2", "n0", rate=1e12) | chain_links("n3", "n1", rate=5000.0))
    plan = planner("blocks").plan(problem)
    # 100 tokens/s through n2 -> n0, 5,000 bytes/s / 100 bytes a token through n3 -> n1.
    assert plan.flow.tokens_per_s == pytest.approx(150.0)
    assert plan.status is PlanStatus.FEASIBLE


def test_an_interrupt_returns_the_best_so_far(monkeypatch):
    def interrupted(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(BlockPool, "reach", interrupted)
    plan = planner("blocks").plan(one_type(7, 4, 9))
    assert plan.status is PlanStatus.FEASIBLE
    assert "interrupted" in plan.warnings[0]


def test_a_spent_time_limit_names_itself():
    plan_or_error = None
    try:
        plan_or_error = planner("blocks", time_limit_s=1e-9).plan(one_type(4, 4, 8))
    except PlanError as error:
        plan_or_error = error
    assert "time" in str(plan_or_error) or plan_or_error.status is PlanStatus.FEASIBLE


def test_the_coverage_search_fills_every_layer():
    progress = Progress(one_type(6, 3, 6), "blocks", 30.0, 0.0)
    progress.deadline_s = math.inf
    progress.tighten(300.0)
    start_by_coverage(progress, [f"n{index}" for index in range(6)])
    assert progress.flow == 300.0
    search = CoverageSearch(["n0", "n1"], progress.evaluate, 6, 0)
    search.start_from({"n0": LayerRange(0, 3), "n1": LayerRange(3, 6)})
    assert (search.coverage, len(search.ranges())) == (100.0, 2)


def test_the_flow_search_never_loses_what_it_had():
    problem = one_type(5, 3, 6, bandwidth=6000.0)
    progress = Progress(problem, "blocks", 30.0, 0.0)
    progress.deadline_s = math.inf
    start = {"n0": LayerRange(0, 3), "n1": LayerRange(3, 6), "n2": LayerRange(0, 2)}
    before = progress.offer(start)
    polish_flow(progress, [f"n{index}" for index in range(5)], steps=300)
    assert before == 60.0
    assert progress.flow > before
    assert progress.flow == pytest.approx(progress.evaluate.value(progress.ranges))


@needs_artifact
def test_three_regions_are_proven_optimal_by_the_network_bound():
    problem = regions(GEO)
    plan = planner("blocks").plan(problem)
    assert plan.flow.tokens_per_s == pytest.approx(1754.3819, abs=1e-3)
    assert plan.status is PlanStatus.OPTIMAL
    # The links that carry 763 tokens/s each force two nodes on some layer; faster ones do not.
    assert network_bound(problem, 2045.641) == pytest.approx(1754.3819, abs=1e-3)
    assert network_bound(regions(GEO, crossing=1e9), 2045.641) == 2045.641
    # 180 pairs of nodes in different regions at 2 tokens/s each, in both directions: no region holds the model alone.
    assert network_bound(regions(GEO, crossing=2 * 16386.0), 2045.641) == pytest.approx(2 * 2 * 180)


@needs_artifact
def test_seven_types_come_within_two_percent_of_the_bound():
    problem = regions(SEVEN)
    plan = planner("blocks", polish=False).plan(problem)
    assert plan.flow.tokens_per_s > 5900
    assert plan.gap < 0.02
    graph = build_flow_graph(problem.cluster, problem.model, plan.placement, problem.throughput)
    assert max_flow(graph).tokens_per_s == plan.flow.tokens_per_s


@needs_artifact
def test_the_depth_front_of_the_24_nodes():
    front = depth_front(regions({"a": {"A100": 4, "L4": 8, "T4": 12}}))
    found = {plan.depth: round(plan.flow.tokens_per_s) for plan in front}
    assert found[24] == 2046
    for depth, flow in {9: 952, 10: 1063, 12: 1393, 14: 1516, 16: 1754}.items():
        assert max(value for at, value in found.items() if at <= depth) >= flow


def test_replicas_are_dealt_evenly_and_keep_to_regions():
    nodes = [small_node(f"{region}{index}", region=region) for region in "xy" for index in range(6)]
    links = {(a, b): Link(1e12, 0.001) for a in "xy" for b in "xy"}
    cluster = dataclasses.replace(small_cluster(nodes), network=Network(regions=links))
    problem = dataclasses.replace(one_type(12, 4, 8), cluster=cluster)
    names = [node.name for node in nodes]
    dealt = [[node.name for node in replica] for replica in deal(problem, names, 3)]
    assert dealt == [["x0", "x2", "x4"], ["x1", "x3", "x5"], ["y0", "y2", "y4"], ["y1", "y3", "y5"]]
    # A replica has to hold the model: six nodes of four layers cannot make six replicas of eight.
    assert [len(replica) for replica in deal(problem, names, 1)] == [2] * 6


def test_each_mix_is_planned_once():
    problem = one_type(7, 4, 8)
    asked = []

    def plan_one(part, share):
        asked.append((len(part.cluster.nodes), share))
        return planner("blocks").plan(part)

    replicas = deal(problem, [f"n{index}" for index in range(7)], 2)
    ranges, links = plan_replicas(problem, replicas, plan_one)
    assert sorted(len(replica) for replica in replicas) == [2, 2, 3]
    assert asked == [(3, 0.5), (2, 0.5)]
    graph = build_flow_graph(problem.cluster, problem.model, Placement(ranges), problem.throughput, links=links)
    assert max_flow(graph).tokens_per_s == pytest.approx(300.0)
    place = {node.name: index for index, replica in enumerate(replicas) for node in replica}
    assert all(COORDINATOR in pair or place[pair[0]] == place[pair[1]] for pair in links)


def test_large_clusters_keep_the_depth_cap():
    plan = planner("blocks", max_depth=2).plan(one_type(60, 4, 8))
    assert plan.depth == 2
    assert plan.flow.tokens_per_s == pytest.approx(60 * 100 * 4 / 8, rel=0.15)
