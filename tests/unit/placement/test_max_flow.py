import dataclasses

import pytest
from artifact import (
    ARTIFACT,
    artifact_model,
    artifact_profiles,
    needs_artifact,
    read_cluster,
    read_placement,
)
from small_clusters import (
    FAST,
    FixedThroughput,
    chain_links,
    ranges,
    small_cluster,
    small_model,
    small_node,
    small_profile,
)

from placement.cluster import COORDINATOR, Link, Network
from placement.edge_flows import by_networkx, dinic
from placement.errors import PlanError
from placement.flow import CutEdge, MaxFlow, build_flow_graph, check_flow, flow_upper_bound, max_flow, most_layers
from placement.layers import LayerRange, Placement
from placement.throughput import ThroughputModel

BACKENDS = ["dinic", "networkx"]


def graph_of(cluster, placement, rates, layers=4, **options):
    return build_flow_graph(cluster, small_model(layers), placement, FixedThroughput(rates), **options)


@pytest.mark.parametrize("solver", [dinic, by_networkx])
def test_a_flow_that_has_to_be_rerouted(solver):
    # The shortest way 0-1-2-5 comes first and blocks both longer ones, 0-1-3-4-5 and 0-6-7-2-5, until 1-2 is freed.
    pairs = [(0, 1), (1, 2), (2, 5), (1, 3), (3, 4), (4, 5), (0, 6), (6, 7), (7, 2)]
    tails, heads = zip(*pairs, strict=True)
    flows = dict(zip(pairs, solver(8, tails, heads, [1.0] * 9, 0, 5), strict=True))
    assert flows == {pair: 0.0 if pair == (1, 2) else 1.0 for pair in pairs}


@pytest.mark.parametrize("solver", [dinic, by_networkx])
def test_nothing_flows_to_a_sink_out_of_reach(solver):
    assert solver(3, [0], [1], [5.0], 0, 2) == [0.0]
    assert solver(2, [0], [1], [0.0], 0, 1) == [0.0]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("change", "expected", "cut"),
    [
        ({}, 50.0, ("compute", "b", "b")),
        ({"coordinator_nic": 60.0}, 30.0, ("nic-out", COORDINATOR, COORDINATOR)),
        # 2 bytes a token from the coordinator, 100 between the nodes.
        ({"rates": {(COORDINATOR, "a"): 20.0}}, 10.0, ("link", COORDINATOR, "a")),
        ({"rates": {("a", "b"): 2000.0}}, 20.0, ("link", "a", "b")),
        ({"rates": {("b", COORDINATOR): 8.0}}, 4.0, ("link", "b", COORDINATOR)),
        # a receives from the coordinator only and sends activations; b is the other way round.
        ({"nic": {"a": 1000.0}}, 10.0, ("nic-out", "a", "a")),
        ({"nic": {"b": 1500.0}}, 15.0, ("nic-in", "b", "b")),
    ],
)
def test_each_part_of_a_chain_can_be_the_bottleneck(backend, change, expected, cut):
    nodes = [small_node(name, name.upper(), nic=change.get("nic", {}).get(name, FAST)) for name in "ab"]
    links = chain_links("a", "b") | change.get("rates", {})
    cluster = small_cluster(nodes, links=links, coordinator_nic=change.get("coordinator_nic", FAST))
    graph = graph_of(cluster, ranges(a=(0, 2), b=(2, 4)), {"A": 70.0, "B": 50.0})
    flow = max_flow(graph, backend)
    check_flow(graph, flow)
    assert flow.tokens_per_s == expected
    assert flow.min_cut == (CutEdge(*cut, expected),)
    assert flow.node_flow == {"a": expected, "b": expected}
    assert flow.link_flow == dict.fromkeys(links, expected)


def test_partial_inference_opens_the_link_into_the_middle_of_a_range():
    cluster = small_cluster([small_node("a", "A"), small_node("b", "B")])
    placement = ranges(a=(0, 3), b=(1, 4))
    assert max_flow(graph_of(cluster, placement, {"A": 3.0, "B": 5.0})).tokens_per_s == 3.0
    strict = graph_of(cluster, placement, {"A": 3.0, "B": 5.0}, partial_inference=False)
    assert max_flow(strict) == MaxFlow(
        tokens_per_s=0.0,
        link_flow={(COORDINATOR, "a"): 0.0, ("b", COORDINATOR): 0.0},
        node_flow={"a": 0.0, "b": 0.0},
        min_cut=(),
    )


def test_links_keep_file_order_and_matrix_links_follow_in_node_order():
    nodes = [small_node(name) for name in "abc"]
    placement = ranges(c=(2, 4), b=(0, 2), a=(0, 2))
    explicit = {("b", "c"): FAST, ("a", "b"): FAST, (COORDINATOR, "b"): FAST}
    region = small_cluster(nodes)
    both = Network(links={pair: Link(rate, 0.0) for pair, rate in explicit.items()}, regions=region.network.regions)

    def order(cluster, **options):
        return [(edge.source, edge.target) for edge in graph_of(cluster, placement, {"M": 1.0}, **options).links()]

    assert order(region) == [(COORDINATOR, "a"), (COORDINATOR, "b"), ("a", "c"), ("b", "c"), ("c", COORDINATOR)]
    assert order(small_cluster(nodes, links=explicit)) == [("b", "c"), (COORDINATOR, "b")]
    assert order(dataclasses.replace(region, network=both)) == [
        ("b", "c"),
        (COORDINATOR, "b"),
        (COORDINATOR, "a"),
        ("a", "c"),
        ("c", COORDINATOR),
    ]
    asked = [("c", COORDINATOR), ("a", "b"), ("a", "c"), ("a", "c")]
    assert order(region, links=asked) == [("c", COORDINATOR), ("a", "c")]


def test_candidate_links_are_those_that_the_placement_calls_usable():
    nodes = [small_node(f"n{index}") for index in range(12)]
    placement = Placement({f"n{index}": LayerRange(index % 5, index % 5 + 1 + index % 3) for index in range(12)})
    cluster = small_cluster(nodes)
    graph = graph_of(cluster, placement, {"M": 1.0}, layers=7)
    expected = [pair for pair in cluster.pairs() if placement.usable(*pair, 7)]
    assert [(edge.source, edge.target) for edge in graph.links()] == expected
    assert len(expected) > 10


@pytest.mark.parametrize(
    ("placement", "options", "says"),
    [
        (ranges(ghost=(0, 4)), {}, "no node ghost"),
        (ranges(a=(0, 5)), {}, r"a holds \[0, 5\), but small has 4 layers"),
        (ranges(a=(0, 4)), {"links": [(COORDINATOR, "b")]}, "no link coordinator -> b"),
    ],
)
def test_graphs_that_cannot_be_built(placement, options, says):
    cluster = small_cluster([small_node("a"), small_node("b")], links=chain_links("a"))
    with pytest.raises(PlanError, match=says):
        graph_of(cluster, placement, {"M": 1.0}, **options)


def test_unknown_backend_names_the_known_ones():
    graph = graph_of(small_cluster([small_node("a")]), ranges(a=(0, 4)), {"M": 1.0})
    with pytest.raises(PlanError, match="no backend 'simplex'; choose dinic or networkx"):
        max_flow(graph, "simplex")


def test_the_validator_finds_what_is_wrong():
    cluster = small_cluster([small_node("a", "A"), small_node("b", "B")])
    graph = graph_of(cluster, ranges(a=(0, 2), b=(2, 4)), {"A": 3.0, "B": 5.0})
    good = max_flow(graph)
    check_flow(graph, good)
    doubled = {pair: 2 * amount for pair, amount in good.link_flow.items()}
    wrong = {
        "carries 6.0 tokens/s, outside 0 to 3.0": {
            "link_flow": doubled,
            "node_flow": {"a": 6.0, "b": 6.0},
            "tokens_per_s": 6.0,
        },
        "a sends 1.0 tokens/s, but 3.0 pass": {"link_flow": {**good.link_flow, ("a", "b"): 1.0}},
        "coordinator sends 3.0 tokens/s, but 2.0 pass": {"tokens_per_s": 2.0},
        "the cut's capacity is 0": {"min_cut": ()},
        "leaves a way": {"min_cut": ()},
        "edges that the graph does not have": {"min_cut": (CutEdge("compute", "a", "a", 3.5),)},
        "belongs to another graph": {"node_flow": {"a": 3.0}},
    }
    for says, change in wrong.items():
        with pytest.raises(PlanError) as caught:
            check_flow(graph, dataclasses.replace(good, **change))
        assert says in str(caught.value)


def test_the_bound_counts_the_best_number_of_layers_of_each_node():
    class Falling:
        def tokens_per_s(self, machine_type, layers):
            return {1: 10.0, 2: 9.0, 3: 2.0}[layers]

    profiles = {"M": small_profile("M", 3)}
    model = small_model(4)
    nodes = [small_node("roomy"), small_node("tight", vram_gb=1.9)]
    assert [most_layers(node, model, profiles) for node in nodes] == [3, 1]
    assert flow_upper_bound(small_cluster(nodes), model, profiles, Falling()) == (2 * 9.0 + 1 * 10.0) / 4


@needs_artifact
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_reference_flow_of_the_24_node_70b_placement(backend):
    folder = ARTIFACT / "single_cluster" / "layout_llama70b" / "ilp"
    cluster, placement = read_cluster(folder / "simulator_cluster.ini"), read_placement(folder / "ilp_sol.ini")
    model, profiles = artifact_model("llama-2-70b"), artifact_profiles("llama-2-70b")
    throughput = ThroughputModel(model, profiles, cluster.machine_counts())
    graph = build_flow_graph(cluster, model, placement, throughput)
    flow = max_flow(graph, backend)
    check_flow(graph, flow)
    assert list(flow.link_flow) == list(cluster.network.links)
    assert flow.tokens_per_s == pytest.approx(1289.5557702779771, rel=1e-6)
    assert flow.tokens_per_s < flow_upper_bound(cluster, model, profiles, throughput)
