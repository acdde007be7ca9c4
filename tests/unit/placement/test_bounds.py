import dataclasses
import math

import pytest
from artifact import artifact_model, artifact_profiles, needs_artifact
from small_clusters import FixedThroughput, small_cluster, small_model, small_node, small_profile

from placement.bounds import clip_bound, clip_of, conf_lp_bound, conf_lp_of, refutes
from placement.plan import problem_for
from placement.planners.kinds import Kind, kinds_of
from placement.planners.patterns import GridKnapsack, exact_cheapest, slots_of
from placement.planners.progress import linked_nodes


def kind(count, *rates, name="K"):
    return Kind(name, "", tuple(f"{name.lower()}{index}" for index in range(count)), tuple(map(float, rates)))


def one_type(nodes, most, layers, **cluster):
    profiles = {"M": small_profile("M", most)}
    made = small_cluster([small_node(f"n{index}") for index in range(nodes)], **cluster)
    problem = problem_for(made, small_model(layers), profiles)
    return dataclasses.replace(problem, throughput=FixedThroughput({"M": 100.0}))


def test_clip_of_equal_machines_is_their_layer_throughput_over_the_layers():
    # 5 nodes x 4 layers x 100 tokens/s, shared by 8 layers.
    assert clip_bound(one_type(5, 4, 8)) == pytest.approx(5 * 4 * 100 / 8)


def test_clip_counts_a_fast_machine_only_up_to_the_flow():
    # L F <= 4 min(1000, F) + 2 min(10, F): 6 F <= 4 F + 20.
    assert clip_of([kind(1, 4000, 2000, 1300, 1000, name="A"), kind(1, 20, 10, name="B")], 6) == pytest.approx(10)


def test_clip_is_zero_where_the_model_does_not_fit():
    assert clip_of([kind(2, 5, 5)], 5) == 0.0
    assert refutes([kind(2, 5, 5)], 5, 1e-9)
    assert conf_lp_of([], 5, 0.0) == 0.0


def test_network_cards_clip_the_throughput():
    # 100 bytes between nodes over 1,000 bytes/s: 10 tokens/s; a node with the whole model sends 2 bytes a token.
    slow = small_cluster([small_node(f"n{index}", nic=1e3) for index in range(5)])
    assert clip_bound(dataclasses.replace(one_type(5, 4, 8), cluster=slow)) == pytest.approx(5 * 4 * 10 / 8)
    assert clip_bound(dataclasses.replace(one_type(5, 8, 8), cluster=slow)) == pytest.approx(5 * 100)


def test_the_coordinator_clips_the_flow():
    assert clip_bound(one_type(5, 4, 8, coordinator_nic=40.0)) == 20.0


def test_conf_lp_sees_that_slots_do_not_fill_up_evenly():
    # Rates of 60 cannot serve 100 but in pairs: CLIP spreads 1.67 of them over a layer, CONF-LP needs two.
    kinds = [kind(10, 60)]
    assert clip_of(kinds, 6) == pytest.approx(100)
    assert conf_lp_of(kinds, 6, clip_of(kinds, 6)) == pytest.approx(60, rel=1e-8)
    assert refutes(kinds, 6, 60.0001)
    assert not refutes(kinds, 6, 60.0)


def test_the_grid_never_prices_a_pattern_too_high():
    kinds = [kind(3, 90, 47, 31, name="A"), kind(4, 55, 23, name="B")]
    slots, prices = slots_of(kinds), [1.0, 0.7]
    knapsack = GridKnapsack(slots, 200.0, grid=150)
    costs = knapsack.price(prices, 150)
    for flow in (10.0, 31.0, 60.0, 99.9, 137.0, 200.0):
        exact = exact_cheapest(slots, prices, flow)
        assert exact is not None
        assert costs[knapsack.level(flow)] <= exact[0] + 1e-12
        assert exact[0] == pytest.approx(sum(prices[slot.kind] / slot.layers for slot in exact[1]))
        assert sum(slot.rate for slot in exact[1]) >= flow


def test_slots_that_another_beats_in_rate_and_layers_are_left_out():
    assert [(slot.layers, slot.rate) for slot in slots_of([kind(1, 50, 20, 30, 10)])] == [(4, 10), (3, 30), (1, 50)]


def test_kinds_differ_by_type_memory_cards_and_on_request_region():
    nodes = [
        small_node("a"),
        small_node("b", vram_gb=2),
        small_node("c", nic=5.0),
        small_node("d", region="far"),
        small_node("e"),
    ]
    problem = problem_for(small_cluster(nodes), small_model(8), {"M": small_profile("M", 4)})
    assert [one.nodes for one in kinds_of(problem)] == [("a", "d", "e"), ("b",), ("c",)]
    assert [one.nodes for one in kinds_of(problem, by_region=True)] == [("a", "e"), ("b",), ("c",), ("d",)]
    assert [one.most_layers for one in kinds_of(problem)] == [4, 2, 4]


def test_a_spent_deadline_still_gives_a_bound():
    problem = one_type(5, 4, 8)
    assert conf_lp_bound(problem, deadline_s=-math.inf) == clip_bound(problem)


@needs_artifact
@pytest.mark.parametrize(
    ("model", "counts", "clip", "conf_lp"),
    [
        ("llama-2-70b", {"A100": 4, "L4": 8, "T4": 12}, 2045.64105, 2045.64105),
        ("llama-2-70b", {"A100": 4, "V100": 6, "L4": 8, "L4x2": 4, "T4": 10, "T4x2": 6, "T4x4": 4}, 6528.9, 6051.36),
        ("llama-1-30b", {"T4": 6, "L4": 4}, 340.703, 286.58741),
    ],
)
def test_bounds_of_the_published_clusters(model, counts, clip, conf_lp):
    nodes = [small_node(f"{one}{index}", one) for one, count in counts.items() for index in range(count)]
    problem = problem_for(small_cluster(nodes), artifact_model(model), artifact_profiles(model))
    assert linked_nodes(problem.cluster) == [node.name for node in nodes]
    assert clip_bound(problem) == pytest.approx(clip, rel=1e-5)
    assert conf_lp_bound(problem) == pytest.approx(conf_lp, rel=1e-5)
