from __future__ import annotations

import copy
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from placement.cluster import Link
from placement.errors import PlanError
from scenarios.schema import PlacementSection, ScenarioSection
from scenarios.schema_cluster import ClusterSection
from scenarios.schema_profile import ModelSection, ProfileSection
from scenarios.schema_workload import LengthsSection, QuantilesSection, WorkloadSection

CLUSTER: dict[str, Any] = {
    "name": "c",
    "coordinator": {"region": "us", "nic": "10 GB/s"},
    "nodes": [
        {"name": "a", "machine": "M", "region": "us", "count": 2},
        {"name": "b", "machine": "M", "region": "eu", "nic_out": "1 GB/s", "vram": "8 GB"},
    ],
    "machines": {"M": {"vram": "40 GB", "nic_in": "2 GB/s", "nic_out": "3 GB/s", "disk": "1 GB/s"}},
    "network": {
        "regions": [
            {"from": "*", "to": "*", "bandwidth": "1 GB/s", "latency": "1 ms"},
            {"from": "us", "to": "eu", "bandwidth": "100 Mbit/s", "latency": "50 ms"},
        ],
        "links": [{"from": "coordinator", "to": "b", "bandwidth": "5 GB/s", "latency": "2 ms"}],
    },
}
PROFILE: dict[str, Any] = {
    "model": "m",
    "machine": "M",
    "prefill_ms_per_layer": [[0, 0], [100, 2]],
    "decode_ms_per_layer": [[0, 0], [10, 1.5]],
    "max_layers": 2,
    "kv_blocks": {"numerator": 1000, "offset": 100},
    "max_prompts_per_batch": 3,
    "max_decode_sequences": {"cap": 100, "context_tokens": 100, "step": 10},
    "typical_layers": {"default": 1, "tight": 2},
    "first_perf": 10,
}


def test_groups_regions_and_links_become_the_domains_cluster() -> None:
    cluster = ClusterSection.model_validate(CLUSTER).to_domain()
    assert [node.name for node in cluster.nodes] == ["a-0", "a-1", "b"]
    assert (cluster.node("a-0").nic_in_bytes_per_s, cluster.node("a-0").nic_out_bytes_per_s) == (2e9, 3e9)
    assert (cluster.node("b").nic_in_bytes_per_s, cluster.node("b").nic_out_bytes_per_s) == (2e9, 1e9)
    assert (cluster.node("a-0").vram_bytes, cluster.node("b").vram_bytes) == (40e9, 8e9)
    assert cluster.link("a-0", "a-1") == Link(1e9, 0.001)
    assert cluster.link("a-0", "b") == cluster.link("b", "a-0") == Link(12.5e6, 0.05)
    assert cluster.link("coordinator", "b") == Link(5e9, 0.002)
    assert cluster.link("b", "coordinator") == Link(12.5e6, 0.05)


def test_only_listed_links_exist_without_regions() -> None:
    section = copy.deepcopy(CLUSTER)
    section["network"] = {"links": [{"from": "a-0", "to": "b", "bandwidth": "1 GB/s", "latency": "0 s"}]}
    cluster = ClusterSection.model_validate(section).to_domain()
    assert list(cluster.pairs()) == [("a-0", "b")]


def test_profile_formulas_and_tables_agree() -> None:
    profile = ProfileSection.model_validate(PROFILE).to_domain()
    assert [profile.limits[n].kv_blocks for n in (1, 2)] == [900, 400]
    assert [profile.limits[n].max_decode_sequences for n in (1, 2)] == [100, 60]
    assert profile.prefill.at(50) == 0.001
    tables = {
        "kv_blocks": {"table": {"1": 900, "2": 400}},
        "max_prompts_per_batch": {"table": {"1": 3, "2": 3}},
        "max_decode_sequences": {"table": {"1": 100, "2": 60}},
    }
    assert ProfileSection.model_validate(PROFILE | tables).to_domain() == profile


@pytest.mark.parametrize(
    "change",
    [
        {"kv_blocks": {"table": {"1": 900}}},
        {"kv_blocks": {"numerator": 150, "offset": 100}},
        {"prefill_ms_per_layer": [[1, 0], [100, 2]]},
        {"decode_ms_per_layer": [[0, 0], [10, 1], [10, 2]]},
    ],
)
def test_profiles_that_cannot_work_are_plan_errors(change: dict[str, Any]) -> None:
    with pytest.raises(PlanError):
        ProfileSection.model_validate(PROFILE | change).to_domain()


@pytest.mark.parametrize(
    ("section", "data"),
    [
        (ProfileSection, PROFILE | {"kv_blocks": {}}),
        (ProfileSection, PROFILE | {"kv_blocks": {"numerator": 3}}),
        (ProfileSection, PROFILE | {"kv_blocks": {"numerator": 3, "offset": 1, "table": {"1": 1}}}),
        (ProfileSection, PROFILE | {"max_layers": 10**9}),
        (ProfileSection, PROFILE | {"first_perf": float("nan")}),
        (ProfileSection, PROFILE | {"first_perf": -1}),
        (ProfileSection, PROFILE | {"decode_ms_per_layer": [[0, 0], [1, float("inf")]]}),
        (ProfileSection, PROFILE | {"kv_blocks": {"table": {"one": 3}}}),
        (ModelSection, {"name": "m", "layers": 80.5, "hidden_size": 1, "layer_size": "1 GB"}),
        (ModelSection, {"name": "m", "layers": "80", "hidden_size": 1, "layer_size": "1 GB"}),
        (ModelSection, {"name": "m", "layers": True, "hidden_size": 1, "layer_size": "1 GB"}),
        (ModelSection, {"name": "m", "layers": 80, "hidden_size": 1, "layer_size": 1}),
        (ClusterSection, CLUSTER | {"coordinator": {"nic": "1 GB/s", "nic_in": "1 GB/s"}}),
        (ClusterSection, CLUSTER | {"coordinator": {"nic_in": "1 GB/s"}}),
        (ClusterSection, CLUSTER | {"nodes": []}),
        (ClusterSection, CLUSTER | {"colour": "red"}),
        (PlacementSection, {}),
        (PlacementSection, {"planner": "swarm", "ranges": {}}),
        (PlacementSection, {"ranges": {"a": [0, 1, 2]}}),
        (PlacementSection, {"ranges": {"a": [-1, 2]}}),
        (LengthsSection, {}),
        (LengthsSection, {"prompt_tokens": 4}),
        (LengthsSection, {"library": "x", "prompt_tokens": 4, "output_tokens": 4}),
        (
            QuantilesSection,
            {"prompt_tokens": [1, 2], "output_tokens_by_prompt_bin": {"edges": [1, 2, 3], "quantiles": [[1, 2]]}},
        ),
        (
            QuantilesSection,
            {"prompt_tokens": [2, 1], "output_tokens_by_prompt_bin": {"edges": [], "quantiles": [[1, 2]]}},
        ),
        (WorkloadSection, {"kind": "open"}),
        (WorkloadSection, {"kind": "shut"}),
        (
            WorkloadSection,
            {"kind": "open", "trace": {"file": "t.csv", "requests_per_s": 1, "tokens_per_s": 1}},
        ),
    ],
)
def test_bad_sections_are_validation_errors(section: Any, data: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(section).validate_python(data)


def test_every_field_is_described() -> None:
    schema = ScenarioSection.model_json_schema()
    for name, section in {"ScenarioSection": schema, **schema["$defs"]}.items():
        for key, field in section.get("properties", {}).items():
            assert field.get("description"), f"{name}.{key}"
