from __future__ import annotations

import pytest

from scenarios.library import (
    FOLDERS,
    find_in_library,
    library_folder,
    library_names,
    library_profiles,
    list_library,
    suggestion,
)
from scenarios.loader import load_scenario


def test_every_shipped_file_is_listed_once() -> None:
    listed = [entry.path for kind in FOLDERS for entry in list_library(kind)]
    assert sorted(listed) == sorted(library_folder().rglob("*.yaml"))


def test_scenarios_and_clusters_have_a_name_like_their_file_and_one_line_of_description() -> None:
    for kind in ("scenario", "cluster", "model", "study"):
        for entry in list_library(kind):
            assert entry.name == entry.path.stem
            if kind != "model":
                assert entry.description
                assert "\n" not in entry.description
                assert len(entry.description) <= 100


def test_expected_entries_are_there() -> None:
    assert {"helix-24", "helix-24-geo", "helix-42", "helix-10", "small-6"} <= set(library_names("cluster"))
    assert {"llama-1-30b", "llama-2-70b", "llama-3-70b"} == set(library_names("model"))
    assert {"A100", "V100", "L4", "L4x2", "T4", "T4x2", "T4x4"} <= set(library_names("machine"))
    assert library_names("lengths") == ["azure-conversation"]
    assert {"H200", "H100", "A100-80G", "L40S"} <= set(library_names("machine"))
    assert {"modern-20", "modern-20-geo"} <= set(library_names("cluster"))
    for model, count in {"llama-1-30b": 7, "llama-2-70b": 7, "llama-3-70b": 4}.items():
        assert len(library_profiles(model)) == count
    assert find_in_library("scenario", "quickstart") is not None
    assert find_in_library("scenario", "slowstart") is None


@pytest.mark.parametrize(
    ("name", "nodes"), [("helix-24-70b-offline", 24), ("helix-24-geo-70b", 24), ("helix-42-70b", 42)]
)
def test_helix_clusters_have_their_nodes(name: str, nodes: int) -> None:
    assert len(load_scenario(name).spec.cluster.nodes) == nodes


def test_geo_scenarios_are_the_ones_in_several_regions() -> None:
    for name in library_names("scenario"):
        regions = {node.region for node in load_scenario(name).spec.cluster.nodes}
        assert (len(regions) > 1) == ("geo" in name)


def test_the_geo_cluster_is_slow_between_regions_only() -> None:
    cluster = load_scenario("helix-24-geo-70b").spec.cluster
    for pair in cluster.pairs():
        link = cluster.link(*pair)
        assert link is not None
        same = cluster.region_of(pair[0]) == cluster.region_of(pair[1])
        assert (link.bandwidth_bytes_per_s, link.latency_s) == ((1e9, 0.001) if same else (12.5e6, 0.05))


def test_suggestions() -> None:
    assert suggestion("Helix-42", ["helix-24", "helix-42"]) == "did you mean helix-42?"
    assert suggestion("zzz", ["a", "b"]) == "known are: a, b"
    assert "none" in suggestion("zzz", [])
