import pytest
from small_clusters import FAST, chain_links, ranges, small_cluster, small_model, small_node, small_profile

from placement.cluster import COORDINATOR
from placement.errors import PlanError
from placement.layers import LayerRange, check_placement

MODEL = small_model(6)
PROFILES = {"M": small_profile("M", 4)}


def problems(cluster, placement, **options) -> tuple[str, ...]:
    with pytest.raises(PlanError) as caught:
        check_placement(placement, cluster, MODEL, PROFILES, **options)
    return caught.value.problems


def pair(**node) -> object:
    return small_cluster([small_node("a", **node), small_node("b", **node)])


def test_a_valid_placement_passes_with_whole_and_with_partial_ranges():
    check_placement(ranges(a=(0, 3), b=(3, 6)), pair(), MODEL, PROFILES)
    check_placement(ranges(a=(0, 4), b=(2, 6)), pair(), MODEL, PROFILES)


def test_unknown_node_is_named():
    said = problems(pair(), ranges(a=(0, 3), b=(3, 6), ghost=(3, 6)))
    assert said == ("placement: ghost is no node of cluster little; remove it or add the node",)


def test_range_past_the_end_names_the_models_layers():
    (said,) = problems(pair(), ranges(a=(0, 3), b=(3, 7)))
    assert "b holds [3, 7), but small has only 6 layers" in said


def test_machine_without_profile_names_those_that_exist():
    (said,) = problems(pair(machine_type="X"), ranges(a=(0, 3)))[:1]
    assert "a is a X, for which there is no profile of small; profiles exist for M" in said


def test_more_layers_than_the_profile_needs_the_option():
    cluster, placement = pair(), ranges(a=(0, 5), b=(5, 6))
    (said,) = problems(cluster, placement)
    assert "a (M) holds 5 layers [0, 5), but at most 4 fit" in said
    check_placement(placement, cluster, MODEL, PROFILES, allow_over_profile=True)


def test_weights_must_fit_the_memory_even_with_the_option():
    (said,) = problems(pair(vram_gb=4.5), ranges(a=(0, 5), b=(5, 6)), allow_over_profile=True)
    assert "a holds [0, 5), 5.0 GB of weights, but has 4.5 GB of memory" in said


def test_every_gap_is_reported_at_once():
    said = problems(pair(), ranges(a=(1, 3), b=(4, 5)))
    assert [one for one in said if "no node holds" in one] == [
        f"placement: no node holds layers {LayerRange(start, stop)}; every layer needs a node"
        for start, stop in ((0, 1), (3, 4), (5, 6))
    ]


def test_missing_link_breaks_the_chain():
    links = chain_links("a", "b")
    check_placement(ranges(a=(0, 3), b=(3, 6)), small_cluster(pair().nodes, links=links), MODEL, PROFILES)
    for lost in list(links):
        rest = {one: rate for one, rate in links.items() if one != lost}
        (said,) = problems(small_cluster(pair().nodes, links=rest), ranges(a=(0, 3), b=(3, 6)))
        assert "no chain of links" in said, lost


def test_a_link_against_the_order_of_layers_does_not_count():
    links = {(COORDINATOR, "a"): FAST, ("b", "a"): FAST, ("b", COORDINATOR): FAST}
    (said,) = problems(small_cluster(pair().nodes, links=links), ranges(a=(0, 3), b=(3, 6)))
    assert "no chain of links" in said
