"""What must hold for the flow of every placement on every cluster."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_clusters import FixedThroughput, ranges, small_cluster, small_model, small_node, small_profile

from placement.cluster import COORDINATOR, Link, Network
from placement.edge_flows import by_networkx, dinic
from placement.flow import FlowGraph, build_flow_graph, check_flow, flow_upper_bound, max_flow
from placement.layers import Placement

LAYERS = 5
RATES = st.one_of(st.integers(1, 6).map(float), st.floats(0.01, 1e4))


@dataclasses.dataclass(frozen=True)
class Case:
    cluster: object
    placement: Placement
    throughput: FixedThroughput

    @property
    def model(self):
        return small_model(LAYERS)

    def graph(self) -> FlowGraph:
        return build_flow_graph(self.cluster, self.model, self.placement, self.throughput)


@st.composite
def cases(draw) -> Case:
    """Up to 8 nodes with random ranges and rates, each its own machine type; every link is there or not."""
    names = [f"n{index}" for index in range(draw(st.integers(1, 8)))]
    held = {}
    for name in names:
        start = draw(st.integers(0, LAYERS - 1))
        held[name] = (start, draw(st.integers(start + 1, LAYERS)))
    ends = [COORDINATOR, *names]
    # Link rates in the bytes/s that make tokens/s comparable to the compute rates.
    links = {
        (source, target): draw(RATES) * (2 if COORDINATOR in (source, target) else 100)
        for source in ends
        for target in ends
        if source != target and draw(st.integers(0, 3))
    }
    nodes = [small_node(name, name, nic=draw(RATES) * 200) for name in names]
    cluster = small_cluster(nodes, links=links, coordinator_nic=draw(RATES) * 10)
    return Case(cluster, ranges(**held), FixedThroughput({name: draw(RATES) for name in names}))


@given(cases())
def test_both_backends_agree_and_prove_their_flow(case):
    graph = case.graph()
    fast, reference = max_flow(graph), max_flow(graph, "networkx")
    check_flow(graph, fast)
    check_flow(graph, reference)
    assert fast.tokens_per_s == pytest.approx(reference.tokens_per_s, rel=1e-9, abs=0)
    assert list(fast.link_flow) == list(reference.link_flow)
    assert max_flow(graph) == fast


@given(st.data(), st.integers(2, 9))
def test_both_algorithms_agree_on_any_directed_graph(data, vertices):
    pairs = [(tail, head) for tail in range(vertices) for head in range(vertices) if tail != head]
    edges = data.draw(st.lists(st.sampled_from(pairs), unique=True))
    capacities = data.draw(st.lists(st.floats(0, 1e6), min_size=len(edges), max_size=len(edges)))
    tails, heads = [tail for tail, _ in edges], [head for _, head in edges]

    def value(solver) -> float:
        flows = solver(vertices, tails, heads, capacities, 0, vertices - 1)
        balance = [0.0] * vertices
        for tail, head, flow, capacity in zip(tails, heads, flows, capacities, strict=True):
            assert 0 <= flow <= capacity
            balance[tail] -= flow
            balance[head] += flow
        assert balance[1:-1] == pytest.approx([0.0] * (vertices - 2), abs=1e-9 * max(capacities, default=0.0))
        return balance[-1]

    assert value(dinic) == pytest.approx(value(by_networkx), rel=1e-9, abs=1e-9 * max(capacities, default=0.0))


@given(cases(), st.data())
def test_more_bandwidth_never_lowers_the_flow(case, data):
    links = case.cluster.network.links
    faster = {
        pair: Link(link.bandwidth_bytes_per_s * data.draw(st.sampled_from([1.0, 1.5, 10.0])), link.latency_s)
        for pair, link in links.items()
    }
    nodes = tuple(
        dataclasses.replace(
            node,
            nic_in_bytes_per_s=node.nic_in_bytes_per_s * data.draw(st.sampled_from([1.0, 3.0])),
            nic_out_bytes_per_s=node.nic_out_bytes_per_s * data.draw(st.sampled_from([1.0, 3.0])),
        )
        for node in case.cluster.nodes
    )
    better = dataclasses.replace(case.cluster, network=Network(links=faster), nodes=nodes)
    before = max_flow(case.graph()).tokens_per_s
    after = max_flow(dataclasses.replace(case, cluster=better).graph()).tokens_per_s
    assert after >= before * (1 - 1e-9)


@given(cases())
def test_raising_a_cut_edge_is_needed_to_raise_the_flow(case):
    flow = max_flow(case.graph())
    in_cut = {edge.source for edge in flow.min_cut if edge.kind == "compute"}
    rates = {
        node.name: case.throughput.tokens_per_s(node.name, 1) * (1 if node.name in in_cut else 100)
        for node in case.cluster.nodes
    }
    other = dataclasses.replace(case, throughput=FixedThroughput(rates))
    assert max_flow(other.graph()).tokens_per_s == pytest.approx(flow.tokens_per_s, rel=1e-9, abs=0)


@given(cases())
def test_no_placement_exceeds_the_bound(case):
    profiles = {node.name: small_profile(node.name, LAYERS) for node in case.cluster.nodes}
    bound = flow_upper_bound(case.cluster, case.model, profiles, case.throughput)
    assert max_flow(case.graph()).tokens_per_s <= bound * (1 + 1e-9)
