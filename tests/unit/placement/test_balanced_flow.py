"""The most even maximum flow."""

import pytest
from small_clusters import FixedThroughput, chain_links, ranges, small_cluster, small_model, small_node

from placement.cluster import COORDINATOR
from placement.flow import build_flow_graph, check_flow, max_flow
from placement.planners.balanced_flow import MOST_EDGES, balanced_flow


def twins(capacity: dict[str, float], *, rate: float = 1e12):
    """n0 feeds two equal nodes that can each carry everything."""
    cluster = small_cluster([small_node("n0", "slow"), small_node("a"), small_node("b")], bandwidth=rate)
    graph = build_flow_graph(
        cluster, small_model(2), ranges(n0=(0, 1), a=(1, 2), b=(1, 2)), FixedThroughput({"slow": 100.0, "M": 500.0})
    )
    flow = max_flow(graph)
    return flow, balanced_flow(graph, flow, {"n0": 1000.0, **capacity})


def test_twins_share_the_flow_evenly() -> None:
    flow, balanced = twins({"a": 1000.0, "b": 1000.0})
    assert sorted((flow.node_flow["a"], flow.node_flow["b"])) == pytest.approx([0.0, 100.0])
    assert balanced.node_flow["a"] == pytest.approx(50.0)
    assert balanced.node_flow["b"] == pytest.approx(50.0)
    assert balanced.link_flow["n0", "a"] == pytest.approx(50.0)
    assert balanced.tokens_per_s == flow.tokens_per_s
    assert balanced.min_cut == flow.min_cut


def test_the_larger_kv_cache_takes_more() -> None:
    _, balanced = twins({"a": 9000.0, "b": 1000.0})
    assert balanced.node_flow["a"] > balanced.node_flow["b"] > 0
    assert sum(balanced.node_flow[name] for name in "ab") == pytest.approx(100.0)


def test_a_unique_flow_is_left_alone_to_the_last_bit() -> None:
    links = chain_links("a", "b", rate=3333.3)
    cluster = small_cluster([small_node("a"), small_node("b")], links=links)
    graph = build_flow_graph(cluster, small_model(2), ranges(a=(0, 1), b=(1, 2)), FixedThroughput({"M": 77.7}))
    flow = max_flow(graph)
    assert balanced_flow(graph, flow, {"a": 10.0, "b": 20.0}) is flow
    assert flow.link_flow[COORDINATOR, "a"] == flow.tokens_per_s


def test_large_graphs_get_the_mean_of_many_flows_which_is_a_flow_and_nearly_even() -> None:
    stages = 3
    names = [[f"s{stage}n{number}" for number in range(16)] for stage in range(stages)]
    cluster = small_cluster([small_node(name) for stage in names for name in stage])
    placement = ranges(**{name: (index, index + 1) for index, stage in enumerate(names) for name in stage})
    graph = build_flow_graph(cluster, small_model(stages), placement, FixedThroughput({"M": 10.0}))
    assert len(graph.edges) > MOST_EDGES
    flow = max_flow(graph)
    balanced = balanced_flow(graph, flow, dict.fromkeys(graph.nodes, 1.0))
    check_flow(graph, balanced)
    assert balanced == balanced_flow(graph, flow, dict.fromkeys(graph.nodes, 1.0))
    between = [amount for (a, b), amount in balanced.link_flow.items() if COORDINATOR not in (a, b)]
    arbitrary = [amount for (a, b), amount in flow.link_flow.items() if COORDINATOR not in (a, b)]
    assert sum(amount > 0 for amount in between) > 2 * sum(amount > 0 for amount in arbitrary)
    assert max(between) < max(arbitrary)
