"""Explanations: parts that add up, gains against max flows computed anew, and a cluster whose limit is known."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from emulator.emulation import Emulation
from emulator.predicting import BRIEF, predict_run
from emulator.requests import Request
from emulator.spec import EmulationSpec, LogLevel
from placement.cluster import Link, Network
from placement.flow import build_flow_graph, max_flow
from placement.layers import LayerRange
from scenarios.errors import ScenarioError
from scenarios.loader import LoadedScenario, load_scenario
from scenarios.reports.emulations import LEAST_WINDOW_S, MOST_BATCHES, emulated, for_each, length_for
from scenarios.reports.explain import Explanation, emulated_with_parts, explain
from scenarios.reports.marginal import flow_of, links_that_matter, network_changes, throughput_of
from scenarios.reports.one_more import (
    best_as_things_are,
    best_beside,
    candidate_ranges,
    node_changes,
    node_tasks,
    with_node,
)
from scenarios.reports.ttft_parts import PARTS
from scenarios.studies.errors import StudyError
from scenarios.studies.executors import LocalWorkers
from scenarios.studies.prices import PriceTable

SHORT = ("duration=40 s", "warm_up=5 s")
# With 10 Mbit/s between machines, links are what limits: 13,312 bytes a token are 93.9 tokens/s.
SLOW_LINKS = (*SHORT, "cluster.network.regions.0.bandwidth=10 Mbit/s", "placement={planner: uniform}")


def loaded(name: str, *sets: str) -> LoadedScenario:
    return load_scenario(name, sets=sets)


@pytest.fixture(scope="module")
def quick() -> Explanation:
    return explain(
        loaded("quickstart", *SHORT), links=2, prices=PriceTable(on_demand={"A100": 3.0, "L4": 1.0, "T4": 0.5}, spot={})
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
    _, ttft = emulated_with_parts(loaded(name, *sets).spec)
    assert len(ttft) >= 3
    for parts in ttft:
        told = parts.parts()
        assert tuple(told) == PARTS
        assert sum(told.values()) == pytest.approx(parts.ttft_s, abs=1e-6)
        for part, seconds in told.items():
            assert seconds >= -2e-6, (parts.request, part)
        assert told["compute"] > 0
        assert told["network"] > 0


def test_a_lone_request_waits_for_nobody() -> None:
    """One request at a time on idle nodes: no queue; six hops of 1 ms and their bytes; host time by the formula."""
    sets = (*SHORT, "warm_up=0 s", "workload.initial_requests=1")
    source = loaded("quickstart", *sets)
    _, ttft = emulated_with_parts(source.spec)
    cost, hidden = source.spec.host_cost, source.spec.model.activation_bytes
    prompts: dict[int, int] = {}
    Emulation(source.spec, on_ended=lambda request: prompts.setdefault(request.number, request.prompt_tokens)).run()
    assert len(ttft) > 1
    for parts in ttft:
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
    for parts in emulated_with_parts(spec)[1]:
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
    """Ranges that begin and end where others do suffice: no other range of any length gives more flow."""
    spec = loaded("small-6-geo-30b", *SHORT, "placement={planner: uniform}").spec
    throughput = throughput_of(spec)
    base = flow_of(spec, throughput).tokens_per_s
    for task in node_tasks(spec, by_serving=False)[1:]:
        beside, anew = node_changes(task)
        best, fewer = 0.0, 0.0
        regions: dict[str, None] = {}
        for template in spec.cluster.nodes:
            if template.machine_type != task.machine_type or template.region in regions:
                continue
            regions[template.region] = None
            tried = candidate_ranges(spec, template, throughput)
            most = spec.profiles[task.machine_type].max_layers
            for start in range(spec.model.layers):
                for stop in range(start + 1, min(spec.model.layers, start + most) + 1):
                    held = LayerRange(start, stop)
                    flow = flow_of(with_node(spec, template, held), throughput).tokens_per_s
                    best, fewer = max(best, flow), max(fewer, flow if held in tried else 0.0)
        assert beside.flow_tokens_per_s == pytest.approx(best) == fewer
        assert beside.flow_tokens_per_s >= base * (1 - 1e-12)
        assert len(beside.spec.cluster.nodes) == len(spec.cluster.nodes) + 1
        assert beside.spec.placement.ranges.items() > spec.placement.ranges.items()
        assert anew.flow_tokens_per_s >= beside.flow_tokens_per_s * (1 - 1e-9)


def test_planning_anew_says_what_moves_and_repeats() -> None:
    """Layers moved are those that a node did not hold; with a node more there is never less than without it."""
    spec = loaded("quickstart", *SHORT).spec
    tasks = node_tasks(spec, by_serving=False)
    alone, *found = [node_changes(task) for task in tasks]
    assert [len(one) for one in (alone, *found)] == [1, 2, 2, 2]
    assert [one.flow_tokens_per_s for one in node_changes(tasks[1])] == [one.flow_tokens_per_s for one in found[0]]
    assert alone[0].flow_tokens_per_s > flow_of(spec, throughput_of(spec)).tokens_per_s
    for one in (*alone, *(change for both in found for change in both)):
        before = {name: set(range(held.start, held.stop)) for name, held in spec.placement.ranges.items()}
        after = {name: set(range(held.start, held.stop)) for name, held in one.spec.placement.ranges.items()}
        moved = {name: layers - before.get(name, set()) for name, layers in after.items()}
        assert one.layers_moved == sum(map(len, moved.values())) > 0
        seconds = [
            len(layers) * spec.model.layer_bytes / one.spec.cluster.node(name).disk_bytes_per_s
            for name, layers in moved.items()
        ]
        assert one.load_s == pytest.approx(max(seconds))
        if one.replanned:
            assert one.flow_tokens_per_s >= alone[0].flow_tokens_per_s * (1 - 1e-9)
        else:
            assert {name for name, layers in moved.items() if layers} == {one.spec.cluster.nodes[-1].name}


def test_ten_per_cent_more_bandwidth_where_the_link_limits() -> None:
    spec = loaded("quickstart", *SLOW_LINKS).spec
    base = flow_of(spec, throughput_of(spec))
    assert {edge.kind for edge in base.min_cut} == {"link"}
    by_kind = {change.kind: change for change in network_changes(spec, links=0)}
    assert by_kind["bandwidth"].flow_tokens_per_s == pytest.approx(1.1 * base.tokens_per_s)
    assert by_kind["latency"].flow_tokens_per_s == pytest.approx(base.tokens_per_s)
    assert by_kind["latency"].name == "-1 ms latency within default (all there is)"
    assert {link.latency_s for link in by_kind["latency"].spec.cluster.network.links.values()} == {0.0}


def test_single_links_are_those_that_are_full_then_those_with_most_under_way() -> None:
    """Of a chain of equally slow links every one is full; alone none helps, and each change is of its link only."""
    spec = loaded("quickstart", *SLOW_LINKS).spec
    throughput = throughput_of(spec)
    base = flow_of(spec, throughput)
    ranked = links_that_matter(spec, throughput, base)
    carrying = {pair for pair, amount in base.link_flow.items() if amount > 1e-9}
    assert set(ranked) == carrying
    assert all("coordinator" not in pair for pair in ranked[: len(ranked) - 2])
    changes = [change for change in network_changes(spec, links=3) if change.scope == "link"]
    assert [change.name.partition(" bandwidth ")[2] for change in changes[::2]] == [" -> ".join(p) for p in ranked[:3]]
    for change, pair in zip(changes[::2], ranked, strict=False):
        for ends, link in change.spec.cluster.network.links.items():
            was = spec.cluster.link(*ends)
            assert was is not None
            factor = 1.1 if ends == pair else 1.0
            assert link.bandwidth_bytes_per_s == pytest.approx(factor * was.bandwidth_bytes_per_s)
            assert link.latency_s == was.latency_s


def test_one_full_link_is_worth_its_bandwidth() -> None:
    """A single slow link on the only way: ten per cent more of it are ten per cent more flow."""
    spec = loaded("quickstart", *SLOW_LINKS).spec
    wide = {pair: link for pair in spec.cluster.pairs() if (link := spec.cluster.link(*pair)) is not None}
    narrow = links_that_matter(spec, throughput_of(spec), flow_of(spec, throughput_of(spec)))[1]
    wide = {
        pair: Link(link.bandwidth_bytes_per_s * (1 if pair == narrow else 10), link.latency_s)
        for pair, link in wide.items()
    }
    spec = replace(spec, cluster=replace(spec.cluster, network=Network(links=wide)))
    base = flow_of(spec, throughput_of(spec)).tokens_per_s
    best = max(network_changes(spec), key=lambda one: (one.scope == "link", one.flow_tokens_per_s))
    assert best.name == f"+10 % bandwidth {narrow[0]} -> {narrow[1]}"
    assert best.flow_tokens_per_s == pytest.approx(1.1 * base)


def test_explicit_links_change_like_regions() -> None:
    """A cluster with a link for each pair: the new node gets links, and the region's links change together."""
    spec = loaded("quickstart", *SLOW_LINKS).spec
    spelled: EmulationSpec = replace(spec, cluster=spec.cluster.reduced_to(list(spec.cluster.pairs())))

    def told(one: EmulationSpec) -> list[object]:
        throughput = throughput_of(one)
        grown = [best_beside(one, kind, throughput) for kind in one.cluster.machine_counts()]
        flows = [round(flow_of(each, throughput).tokens_per_s, 6) for each in grown if each is not None]
        assert len(flows) == 3
        return [*flows, *((each.name, round(each.flow_tokens_per_s, 6)) for each in network_changes(one))]

    assert told(spelled) == told(spec)


def test_a_link_s_own_entry_changes_nothing_else() -> None:
    """Changes write every link out; the same run comes of it, to the same log."""
    spec = loaded("small-6-geo-30b", *SHORT).spec
    change = next(one for one in network_changes(spec, links=0) if one.kind == "bandwidth")
    written = change.spec.cluster.network.links
    undone = {pair: link for pair in written if (link := spec.cluster.link(*pair)) is not None}
    same = replace(spec, cluster=replace(spec.cluster, network=Network(links=undone)))
    assert Emulation(same).run()["event_log_sha256"] == Emulation(spec).run()["event_log_sha256"]


def test_shares_and_costs(quick: Explanation) -> None:
    shares = quick.shares()
    assert shares["achieved_of_compute_bound"] == pytest.approx(
        shares["achieved_of_max_flow"] * shares["max_flow_of_compute_bound"]
    )
    decode = quick.summary["decode_throughput_tokens_per_s"]
    assert quick.cost_per_million_tokens == pytest.approx((2 * 3 + 2 * 1 + 2 * 0.5) / (decode * 3600) * 1e6)
    for worth in quick.worth:
        more = {"A100": 3.0, "L4": 1.0, "T4": 0.5}[worth.name.split()[2]] if worth.kind == "node" else 0.0
        flow = quick.flow.tokens_per_s + worth.flow_gain_tokens_per_s
        assert worth.cost_per_million_tokens_at_max_flow == pytest.approx((9 + more) / (flow * 3600) * 1e6)
        assert worth.decode_gain_tokens_per_s is not None
        tokens = decode + worth.decode_gain_tokens_per_s
        assert worth.cost_per_million_tokens == pytest.approx((9 + more) / (tokens * 3600) * 1e6)


def test_the_flow_is_that_of_the_summary(quick: Explanation) -> None:
    assert quick.flow.tokens_per_s == pytest.approx(quick.summary["max_flow_tokens_per_s"])
    spec = loaded("quickstart", *SHORT).spec
    graph = build_flow_graph(spec.cluster, spec.model, spec.placement, throughput_of(spec))
    assert quick.flow.tokens_per_s == pytest.approx(max_flow(graph, "networkx").tokens_per_s)


def test_noise_is_what_changes_worth_nothing_make(quick: Explanation) -> None:
    """At least one iteration of the twelve requests in flight, which ends before or after the window does."""
    assert quick.noise_tokens_per_s is not None
    assert quick.noise_tokens_per_s >= 12 / 35
    for one in quick.worth:
        assert one.decode_gain_tokens_per_s is not None
        assert one.within_noise == (abs(one.decode_gain_tokens_per_s) <= quick.noise_tokens_per_s)
    assert {one.within_noise for one in quick.worth} == {True, False}


def test_gains_are_differences_of_emulations_of_the_same_length(quick: Explanation) -> None:
    spec = loaded("quickstart", *SHORT).spec
    change = next(one for one in network_changes(spec, links=0) if one.kind == "latency")
    told = next(one for one in quick.worth if one.name == change.name)
    after, before = Emulation(change.spec).run(), Emulation(spec).run()
    assert quick.compared_tokens_per_s == before["decode_throughput_tokens_per_s"]
    assert told.decode_gain_tokens_per_s == pytest.approx(
        after["decode_throughput_tokens_per_s"] - before["decode_throughput_tokens_per_s"]
    )
    assert told.ttft_p50_change_s == pytest.approx(after["ttft_s"]["p50"] - before["ttft_s"]["p50"]) != 0


def test_a_node_that_would_only_harm_may_hold_nothing() -> None:
    """Of ranges that raise no flow the serving model chooses, and it may choose none."""
    spec = loaded("quickstart", *SHORT).spec
    throughput = throughput_of(spec)
    expected = predict_run(spec, BRIEF).decode_tokens_per_s
    for task in node_tasks(spec)[1:]:
        grown = best_as_things_are(task, throughput)
        assert grown is not None
        assert len(grown.cluster.nodes) == len(spec.cluster.nodes) + 1
        assert flow_of(grown, throughput).tokens_per_s >= flow_of(spec, throughput).tokens_per_s * (1 - 1e-9)
        assert predict_run(grown, BRIEF).decode_tokens_per_s >= expected * (1 - 1e-9)


def test_many_long_emulations_are_cut_short_by_work() -> None:
    spec = loaded("quickstart", "duration=20000 s", "warm_up=100 s").spec
    summary = {"nodes": {"a": {"batches": 10_000}, "b": {"batches": 20_000}}, "window_s": 100.0}
    length = length_for(spec, summary, 10)
    assert length.cut
    assert 10 * length.duration_s * 300 == pytest.approx(MOST_BATCHES)
    assert length_for(spec, summary, 10_000).duration_s == 100 + LEAST_WINDOW_S
    assert not length_for(spec, summary, 0).cut
    assert not length_for(spec, {"nodes": {}, "window_s": 100.0}, 10).cut
    assert not length_for(loaded("quickstart").spec, summary, 1).cut


def test_processes_find_the_same_and_one_that_is_killed_is_told_of() -> None:
    specs = [loaded("quickstart", "duration=12 s", "warm_up=2 s", f"seed={seed}").spec for seed in (1, 2, 3)]
    workers = LocalWorkers(1)
    try:
        told = [for_each(emulated, specs, executor) for executor in (workers.executor, None)]
        logs = [[one["event_log_sha256"] for one in summaries if one is not None] for summaries in told]
        assert logs[0] == logs[1]
        assert len(dict.fromkeys(logs[0])) == 3
        with pytest.raises(StudyError, match=r"killed.*--processes 1"):
            for_each(os._exit, [9], workers.executor)
    finally:
        workers.close()


def test_mean_parts_add_up_to_the_mean_ttft(quick: Explanation) -> None:
    mean = sum(parts.ttft_s for parts in quick.ttft) / len(quick.ttft)
    assert sum(quick.mean_parts().values()) == pytest.approx(mean, abs=1e-6)


def test_figures_are_json(quick: Explanation, tmp_path: Path) -> None:
    again = json.loads(json.dumps(quick.figures(), allow_nan=False))
    assert len(again["requests"]) == len(quick.ttft)
    assert again["worth"][0].keys() >= {"change", "flow_gain_tokens_per_s", "bound_gain_tokens_per_s"}


def test_a_missing_price_is_named() -> None:
    with pytest.raises(ScenarioError, match=r"no price of L4, T4; add --price L4=PER_HOUR"):
        explain(loaded("quickstart", *SHORT), prices=PriceTable(on_demand={"A100": 1.0}, spot={}))
