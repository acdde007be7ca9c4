"""Explanations: parts that add up, gains against max flows computed anew, and a cluster whose limit is known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from emulator.emulation import Emulation
from emulator.requests import Request
from emulator.spec import EmulationSpec, LogLevel
from placement.flow import build_flow_graph, max_flow
from scenarios.errors import ScenarioError
from scenarios.loader import LoadedScenario, load_scenario
from scenarios.reports.explain import Explanation, explain
from scenarios.reports.marginal import changes, flow_of, region_pairs, throughput_of, with_node
from scenarios.reports.ttft_parts import PARTS
from scenarios.studies.prices import PriceTable

SHORT = ("duration=40 s", "warm_up=5 s")
# With 10 Mbit/s between machines, links are what limits: 13,312 bytes a token are 93.9 tokens/s.
SLOW_LINKS = (*SHORT, "cluster.network.regions.0.bandwidth=10 Mbit/s", "placement={planner: uniform}")


def loaded(name: str, *sets: str) -> LoadedScenario:
    return load_scenario(name, sets=sets)


@pytest.fixture(scope="module")
def quick() -> Explanation:
    return explain(
        loaded("quickstart", *SHORT), prices=PriceTable(on_demand={"A100": 3.0, "L4": 1.0, "T4": 0.5}, spot={})
    )


@pytest.mark.parametrize(
    ("name", "sets"),
    [
        ("quickstart", SHORT),
        ("small-6-geo-30b", SHORT),
        ("quickstart", (*SHORT, "counting.first_token=decode")),
        ("helix-24-70b-online", ("duration=40 s", "warm_up=0 s", "placement={planner: petals}")),
        ("quickstart", (*SHORT, "workload.initial_requests=200")),
    ],
)
def test_the_parts_of_every_request_add_up_to_its_ttft(name: str, sets: tuple[str, ...]) -> None:
    found = explain(loaded(name, *sets), emulate=False)
    assert len(found.ttft) >= 3
    for parts in found.ttft:
        told = parts.parts()
        assert tuple(told) == PARTS
        assert sum(told.values()) == pytest.approx(parts.ttft_s, abs=1e-6)
        for part, seconds in told.items():
            assert seconds >= -2e-6, (parts.request, part)
        assert told["compute"] > 0
        assert told["network"] > 0
    assert sum(found.mean_parts().values()) == pytest.approx(
        sum(parts.ttft_s for parts in found.ttft) / len(found.ttft), abs=1e-6
    )


def test_a_lone_request_waits_for_nobody() -> None:
    """One request at a time on idle nodes: no queue; six hops of 1 ms and their bytes; host time by the formula."""
    sets = (*SHORT, "warm_up=0 s", "workload.initial_requests=1")
    source = loaded("quickstart", *sets)
    found = explain(source, emulate=False)
    cost, hidden = source.spec.host_cost, source.spec.model.activation_bytes
    prompts: dict[int, int] = {}
    Emulation(source.spec, on_ended=lambda request: prompts.setdefault(request.number, request.prompt_tokens)).run()
    assert len(found.ttft) > 1
    for parts in found.ttft:
        told = parts.parts()
        tokens = prompts[parts.request]
        host_s = tokens * hidden * (1 / cost.concat_bytes_per_s + 1 / cost.transfer_bytes_per_s)
        assert told["queue"] == pytest.approx(0, abs=1e-7)
        assert told["host"] == pytest.approx(6 * host_s, rel=1e-4)
        sent_s = tokens * (2 * 2 + 5 * source.spec.model.hop_bytes) / (10e9 / 8)
        assert told["network"] == pytest.approx(7 * 0.001 + sent_s, rel=1e-3)
        assert [stage.node for stage in parts.stages] == ["a100-0", "a100-1", "l4-0", "l4-1", "t4-0", "t4-1"]


def test_segments_of_a_node_are_added_up() -> None:
    """Where requests enter in the middle, a node runs its layers in several batches; all of them are compute.

    A batch takes at least as long as the request's prompt alone would, for every layer of its stage.
    """
    source = loaded("helix-24-70b-online", "duration=40 s", "warm_up=0 s")
    spec = source.spec
    requests: dict[int, Request] = {}
    segments: dict[str, dict[tuple[int, int], None]] = {}

    def note(chunk: bytes) -> None:
        for line in chunk.splitlines():
            event = json.loads(line)
            if event["event"] == "batch":
                segments.setdefault(event["node"], {})[tuple(event["layers"])] = None

    emulation = Emulation(
        replace(spec, log_level=LogLevel.BATCHES),
        log_sink=note,
        on_ended=lambda request: requests.setdefault(request.number, request),
    )
    emulation.run()
    several = 0
    for parts in explain(source, emulate=False).ttft:
        request = requests[parts.request]
        stages = [stage.rpartition(":") for stage in str(request.pipeline).split()]
        assert [name for name, _, _ in stages] == [stage.node for stage in parts.stages]
        for (name, _, layers), stage in zip(stages, parts.stages, strict=True):
            start, stop = map(int, layers.split("-"))
            several += len([one for one in segments[name] if start <= one[0] and one[1] <= stop]) > 1
            prefill = spec.profiles[spec.cluster.node(name).machine_type].prefill
            assert stage.compute >= (stop - start) * prefill.at(request.prompt_tokens) * (1 - 1e-6)
    assert several > 3


def test_the_cut_in_words_and_what_else_is_full(quick: Explanation) -> None:
    assert quick.cut == "the compute of l4-0 (156.4 tokens/s) limits the max flow"
    assert quick.full == ("l4-1",)


def test_gains_of_a_node_against_every_range_by_brute_force() -> None:
    spec = loaded("small-6-geo-30b", *SHORT).spec
    throughput = throughput_of(spec)
    base = flow_of(spec, throughput).tokens_per_s
    for change in changes(spec):
        if change.kind != "node":
            continue
        best = 0.0
        for template in (node for node in spec.cluster.nodes if node.machine_type == change.machine_type):
            for held in spec.placement.ranges.values():
                if held.stop - held.start <= spec.profiles[change.machine_type].max_layers:
                    grown = with_node(spec, template, held)
                    best = max(best, flow_of(grown, throughput).tokens_per_s)
        assert change.flow_tokens_per_s == pytest.approx(best)
        assert change.flow_tokens_per_s >= base * (1 - 1e-12)
        assert len(change.spec.cluster.nodes) == len(spec.cluster.nodes) + 1


def test_ten_per_cent_more_bandwidth_where_the_link_limits() -> None:
    spec = loaded("quickstart", *SLOW_LINKS).spec
    throughput = throughput_of(spec)
    base = flow_of(spec, throughput)
    assert {edge.kind for edge in base.min_cut} == {"link"}
    by_kind = {change.kind: change for change in changes(spec)}
    assert by_kind["bandwidth"].flow_tokens_per_s == pytest.approx(1.1 * base.tokens_per_s)
    assert by_kind["latency"].flow_tokens_per_s == pytest.approx(base.tokens_per_s)
    assert by_kind["latency"].spec.cluster.network.regions["default", "default"].latency_s == 0


def test_explicit_links_change_like_regions() -> None:
    """A cluster with a link for each pair: the new node gets links, and the region's links change together."""
    spec = loaded("quickstart", *SLOW_LINKS).spec
    given = spec.cluster.reduced_to(list(spec.cluster.pairs()))
    spelled: EmulationSpec = replace(spec, cluster=given)
    assert region_pairs(given) == region_pairs(spec.cluster)
    told = [(one.name, round(one.flow_tokens_per_s, 6)) for one in changes(spec)]
    assert [(one.name, round(one.flow_tokens_per_s, 6)) for one in changes(spelled)] == told


def test_shares_and_costs(quick: Explanation) -> None:
    shares = quick.shares()
    assert shares["achieved_of_compute_bound"] == pytest.approx(
        shares["achieved_of_max_flow"] * shares["max_flow_of_compute_bound"]
    )
    decode = quick.summary["decode_throughput_tokens_per_s"]
    assert quick.cost_per_million_tokens == pytest.approx((2 * 3 + 2 * 1 + 2 * 0.5) / (decode * 3600) * 1e6)
    for worth in quick.worth:
        more = {"A100": 3.0, "L4": 1.0, "T4": 0.5}.get(worth.name.split()[2], 0.0) if worth.kind == "node" else 0.0
        assert worth.decode_gain_tokens_per_s is not None
        tokens = decode + worth.decode_gain_tokens_per_s
        assert worth.cost_per_million_tokens == pytest.approx((9 + more) / (tokens * 3600) * 1e6)


def test_the_flow_is_that_of_the_summary(quick: Explanation) -> None:
    assert quick.flow.tokens_per_s == pytest.approx(quick.summary["max_flow_tokens_per_s"])
    spec = loaded("quickstart", *SHORT).spec
    graph = build_flow_graph(spec.cluster, spec.model, spec.placement, throughput_of(spec))
    assert quick.flow.tokens_per_s == pytest.approx(max_flow(graph, "networkx").tokens_per_s)


def test_figures_are_json(quick: Explanation, tmp_path: Path) -> None:
    again = json.loads(json.dumps(quick.figures(), allow_nan=False))
    assert len(again["requests"]) == len(quick.ttft)
    assert again["worth"][0].keys() >= {"change", "flow_gain_tokens_per_s", "bound_gain_tokens_per_s"}


def test_a_missing_price_is_named() -> None:
    with pytest.raises(ScenarioError, match=r"no price of L4, T4; add --price L4=PER_HOUR"):
        explain(loaded("quickstart", *SHORT), prices=PriceTable(on_demand={"A100": 1.0}, spot={}))
