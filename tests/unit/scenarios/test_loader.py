from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from emulator.workload import ClosedLoop, ListedArrivals, ListedLengths, OpenLoop, QuantileLengths, RandomArrivals
from placement.layers import LayerRange
from scenarios.errors import Problem, ScenarioError
from scenarios.library import find_in_library, library_names
from scenarios.loader import LoadedScenario, load_scenario
from scenarios.yaml_text import dump_yaml, read_yaml

Data = dict[str, Any]
NODES = [{"name": "a", "machine": "A100"}, {"name": "b", "machine": "L4"}, {"name": "t", "machine": "T4"}]
BASE: Data = {
    "schema_version": 1,
    "name": "test",
    "duration": "60 s",
    "model": {"name": "llama-1-30b", "layers": 30, "hidden_size": 6656, "layer_size": "1 GB"},
    "cluster": {
        "name": "three",
        "coordinator": {"nic": "10 Gbit/s"},
        "nodes": NODES,
        "network": {"regions": [{"from": "*", "to": "*", "bandwidth": "1 GB/s", "latency": "1 ms"}]},
    },
    "placement": {"ranges": {"a": [0, 15], "b": [15, 25], "t": [25, 30]}},
    "workload": {
        "kind": "closed",
        "initial_requests": 2,
        "refill": "constant",
        "lengths": {"prompt_tokens": 100, "output_tokens": 10},
    },
}


def write(folder: Path, data: Data, name: str = "scenario.yaml") -> Path:
    path = folder / name
    path.write_text(dump_yaml(data))
    return path


def changed(*changes: tuple[str, Any]) -> Data:
    """The base scenario with values at dotted paths; ``...`` removes the key."""
    data = copy.deepcopy(BASE)
    for dotted, value in changes:
        *way, last = (int(key) if key.isdigit() else key for key in dotted.split("."))
        part: Any = data
        for key in way:
            part = part[key]
        if value is ...:
            del part[last]
        else:
            part[last] = value
    return data


def problems(source: Path | str, **options: Any) -> tuple[Problem, ...]:
    with pytest.raises(ScenarioError) as caught:
        load_scenario(source, **options)
    for each in caught.value.problems:
        assert each.file
        assert each.rule
        assert each.remedy
    assert str(caught.value).count("\n") == len(caught.value.problems) - 1
    return caught.value.problems


def line_of(path: Path, text: str) -> int:
    return next(number for number, line in enumerate(path.read_text().splitlines(), 1) if text in line)


def reloaded(loaded: LoadedScenario, folder: Path) -> LoadedScenario:
    folder.mkdir(exist_ok=True)
    return load_scenario(write(folder, loaded.resolved, "resolved.yaml"))


# ------------------------------------------------------------------------------------------------ what works


def test_the_base_scenario_loads(tmp_path: Path) -> None:
    loaded = load_scenario(write(tmp_path, BASE))
    assert loaded.spec.duration_s == 60
    assert loaded.spec.placement.ranges == {"a": LayerRange(0, 15), "b": LayerRange(15, 25), "t": LayerRange(25, 30)}
    assert loaded.sources[0] == tmp_path / "scenario.yaml"
    assert reloaded(loaded, tmp_path / "x").spec == loaded.spec


@pytest.mark.parametrize("name", library_names("scenario"))
def test_library_scenarios_load_with_each_override_and_resolve_to_themselves(name: str, tmp_path: Path) -> None:
    path = find_in_library("scenario", name)
    assert path is not None
    section = read_yaml(path).child("overrides")
    known = section.plain() if section is not None else {}
    assert isinstance(known, dict)
    for overrides in ([], *([each] for each in known)):
        loaded = load_scenario(name, overrides=overrides)
        again = reloaded(loaded, tmp_path)
        assert again.spec == loaded.spec
        assert again.resolved == loaded.resolved
        assert "overrides" not in loaded.resolved


def test_includes_are_relative_to_the_file_that_names_them(tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    (parts / "deep").mkdir(parents=True)
    header: Data = {"schema_version": 1}
    network = BASE["cluster"]["network"]
    write(parts / "deep", {**header, "kind": "network", **network}, "net.yaml")
    write(parts, {**header, "kind": "cluster", **BASE["cluster"], "network": "deep/net.yaml"}, "cluster.yaml")
    write(parts, {**header, "kind": "model", **BASE["model"]}, "model.yaml")
    write(parts, {**header, "kind": "placement", **BASE["placement"]}, "placement.yaml")
    write(parts, {**header, **BASE["workload"]}, "workload.yaml")
    data = changed(
        ("cluster", "parts/cluster.yaml"),
        ("model", {"include": "parts/model.yaml"}),
        ("placement", {"file": "parts/placement.yaml"}),
        ("workload", "parts/workload.yaml"),
    )
    loaded = load_scenario(write(tmp_path, data))
    assert loaded.spec == load_scenario(write(tmp_path, BASE, "base.yaml")).spec
    assert {path.name for path in loaded.sources} >= {"net.yaml", "cluster.yaml", "model.yaml", "placement.yaml"}
    assert reloaded(loaded, tmp_path / "elsewhere").spec == loaded.spec


def test_profiles_of_files_override_those_of_the_library(tmp_path: Path) -> None:
    path = find_in_library("profile", "llama-1-30b/A100")
    assert path is not None
    profile = read_yaml(path).plain()
    assert isinstance(profile, dict)
    write(tmp_path, {**profile, "first_perf": 99}, "mine.yaml")
    loaded = load_scenario(write(tmp_path, {**BASE, "profiles": ["library", "mine.yaml"]}))
    assert loaded.spec.profiles["A100"].first_perf == 99
    assert loaded.spec.profiles["L4"].first_perf == 9
    assert reloaded(loaded, tmp_path).spec == loaded.spec


def test_workloads_of_every_kind(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("arrival_s,prompt_tokens,output_tokens\n0.5,10,2\n1.5,20,3\n2.5,30,4\n")
    trace = changed(("workload", {"kind": "open", "trace": {"file": "t.csv", "limit": 2, "start": "10 s"}}))
    loaded = load_scenario(write(tmp_path, trace))
    assert isinstance(loaded.spec.workload, OpenLoop)
    assert isinstance(loaded.spec.workload.source, ListedArrivals)
    assert [each.prompt_tokens for each in loaded.spec.workload.source.requests] == [10, 20]
    resolved = loaded.resolved["workload"]["trace"]
    assert resolved["file"] == str(tmp_path / "t.csv")
    assert len(resolved["sha256"]) == 64
    again = reloaded(loaded, tmp_path / "x")
    assert again.spec == loaded.spec
    lengths = load_scenario(write(tmp_path, changed(("workload.lengths", {"trace": {"file": "t.csv"}}))))
    assert isinstance(lengths.spec.workload, ClosedLoop)
    assert isinstance(lengths.spec.workload.lengths, ListedLengths)
    assert reloaded(lengths, tmp_path / "x").spec == lengths.spec
    table = {"library": "azure-conversation", "scale": 0.5}
    synthetic = {"kind": "open", "synthetic": {"requests_per_s": 2, "lengths": table}}
    drawn = load_scenario(write(tmp_path, changed(("workload", synthetic))))
    assert isinstance(drawn.spec.workload, OpenLoop)
    assert isinstance(drawn.spec.workload.source, RandomArrivals)
    assert isinstance(drawn.spec.workload.source.lengths, QuantileLengths)
    assert drawn.spec.workload.source.lengths.scale == 0.5
    (tmp_path / "t.csv").write_text("arrival_s,prompt_tokens,output_tokens\n0.5,10,2\n1.5,20,4\n")
    (found,) = problems(tmp_path / "x" / "resolved.yaml")
    assert "has changed" in found.rule


def test_planned_placements_resolve_to_their_ranges(tmp_path: Path) -> None:
    loaded = load_scenario(write(tmp_path, changed(("placement", {"planner": "uniform"}))))
    assert loaded.resolved["placement"]["planned_by"] == {"planner": "uniform", "options": {}}
    assert set(loaded.resolved["placement"]["ranges"]) == {"a", "b", "t"}
    assert reloaded(loaded, tmp_path).spec == loaded.spec


def test_a_planner_that_picks_links_reduces_the_network(tmp_path: Path) -> None:
    loaded = load_scenario("helix-24-30b-swarm", sets=["placement={planner: separate}"])
    assert loaded.spec.cluster.link("a100-0", "t4-0") is None
    assert reloaded(loaded, tmp_path).spec == loaded.spec


# ------------------------------------------------------------------------------------------------ changes


def test_sets_reach_into_included_parts_and_lists() -> None:
    loaded = load_scenario(
        "quickstart",
        overrides=["slow-net"],
        sets=[
            "cluster.nodes.0.count=3",
            "cluster.network.regions.0.latency=7 ms",
            "cluster.machines.A100.vram=80 GB",
            "slo.ttft=2 s",
            "seed=7",
            "scheduler={policy: random}",
        ],
    )
    spec = loaded.spec
    assert [node.name for node in spec.cluster.nodes][:3] == ["a100-0", "a100-1", "a100-2"]
    link = spec.cluster.link("a100-0", "l4-0")
    assert link is not None
    assert (link.bandwidth_bytes_per_s, link.latency_s) == (12.5e6, 0.007)
    assert (spec.cluster.nodes[0].vram_bytes, spec.slo.ttft_s, spec.seed) == (80e9, 2.0, 7)
    assert spec.scheduler.policy == "random"


def test_sets_reach_into_a_placement_file(tmp_path: Path) -> None:
    write(tmp_path, {"schema_version": 1, "kind": "placement", **BASE["placement"]}, "p.yaml")
    path = write(tmp_path, changed(("placement", {"file": "p.yaml"})))
    loaded = load_scenario(path, sets=["placement.ranges.a=[0, 17]"])
    assert loaded.spec.placement["a"] == LayerRange(0, 17)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("duration", "a.b.c=value"),
        ("duration=60", "bare number"),
        ("duratoin=60 s", "no such key"),
        ("cluster.nods.0.count=3", "no such key"),
        ("cluster.nodes.9.count=3", "list of 3"),
        ("cluster.nodes.first.count=3", "list of 3"),
        ("duration.x=3", "one value"),
        ("seed=[1", "not YAML"),
        ("=3", "a.b.c=value"),
        ("a..b=3", "a.b.c=value"),
    ],
)
def test_changes_that_lead_nowhere(change: str, told: str) -> None:
    (found,) = problems("quickstart", sets=[change])
    assert told in found.rule
    assert (found.file, found.line) == ("--set", None)


def test_unknown_paths_names_and_overrides_get_a_suggestion(tmp_path: Path) -> None:
    assert "did you mean nodes" in problems("quickstart", sets=["cluster.nods.0.count=3"])[0].remedy
    assert "did you mean slow-net" in problems("quickstart", overrides=["slownet"])[0].remedy
    assert "did you mean quickstart" in problems("quikstart")[0].remedy
    write(tmp_path, {"schema_version": 1, "kind": "cluster", **BASE["cluster"]}, "mine.yaml")
    path = write(tmp_path, changed(("cluster", "mine")))
    assert "write mine.yaml" in problems(path)[0].remedy


def test_an_override_replaces_a_reference_before_it_is_read(tmp_path: Path) -> None:
    data = changed(("cluster", "gone.yaml"))
    path = write(tmp_path, {**data, "overrides": {"here": {"cluster": BASE["cluster"]}}})
    assert load_scenario(path, overrides=["here"]).spec.cluster.name == "three"
    assert problems(path)[0].path == "cluster"


# ------------------------------------------------------------------------------------------------ bad input

BAD: list[tuple[str, tuple[tuple[str, Any], ...], str, str]] = [
    ("unknown key", (("cluster.nodes.0.mashine", "A100"),), "cluster.nodes.0.mashine", "no such key"),
    ("missing key", (("model.layers", ...),), "model.layers", "missing"),
    ("wrong unit", (("cluster.network.regions.0.latency", "1 GB"),), "cluster.network.regions.0.latency", "unit"),
    ("bare number", (("duration", 60),), "duration", "bare number"),
    ("bits or bytes", (("cluster.coordinator.nic", "10 Gb/s"),), "cluster.coordinator.nic", "bits or bytes"),
    ("negative", (("duration", "-60 s"),), "duration", "negative"),
    ("negative count", (("cluster.nodes.0.count", -1),), "cluster.nodes.0.count", "at least 1"),
    ("nan", (("workload.feed_high_water_mark", float("nan")),), "workload.feed_high_water_mark", ""),
    ("nan unit", (("duration", "nan s"),), "duration", "finite"),
    ("infinite", (("model.token_bytes", float("inf")),), "model.token_bytes", "finite"),
    ("not a mapping", (("slo", 3),), "slo", "mapping"),
    ("not a list", (("cluster.nodes", {"a": 1}),), "cluster.nodes", "list"),
    ("text for a number", (("seed", "7"),), "seed", "whole number"),
    ("yes for true", (("drain", "yes"),), "drain", "true or false"),
    ("unknown choice", (("network", {"sharing": "clock"}),), "network.sharing", "one of"),
    ("unknown policy", (("scheduler", {"policy": "maxflow"}),), "scheduler.policy", "no such policy"),
    ("unknown option", (("scheduler", {"options": {"hwm": 1}}),), "scheduler.options", "hwm"),
    ("broken policy", (("scheduler", {"policy": "no.such:Thing"}),), "scheduler.policy", "loaded"),
    ("unknown planner", (("placement", {"planner": "swarn"}),), "placement.planner", "swarn"),
    ("planner option", (("placement", {"planner": "swarm", "options": {"x": 1}}),), "placement.planner", "x"),
    ("two placements", (("placement.planner", "swarm"),), "placement", "exactly one"),
    ("unknown model", (("model", "llama-2-70"),), "model", "library has no model"),
    ("unknown cluster", (("cluster", "helix-25"),), "cluster", "library has no cluster"),
    ("unknown machine", (("cluster.nodes.1.machine", "A1000"),), "cluster.nodes.1.machine", "machine type"),
    ("unknown lengths", (("workload.lengths", {"library": "azur"}),), "workload.lengths.library", "lengths"),
    ("missing file", (("cluster", "gone.yaml"),), "cluster", "no such file"),
    ("missing profile file", (("profiles", ["library", "gone.yaml"]),), "profiles.1", "no such file"),
    ("missing placement", (("placement", {"file": "gone.yaml"}),), "placement.file", "no such file"),
    ("missing trace", (("workload.lengths", {"trace": {"file": "gone.csv"}}),), "workload.lengths.trace.file", ""),
    ("no profile", (("model.name", "other"),), "cluster.nodes.0.machine", "no profile"),
    ("layer gap", (("placement.ranges.b", [17, 25]),), "placement.ranges", "[15, 17)"),
    ("empty range", (("placement.ranges.b", [25, 15]),), "placement.ranges.b", "empty"),
    ("past the end", (("placement.ranges.t", [25, 31]),), "placement.ranges.t", "30 layers"),
    ("too much for a node", (("placement.ranges.t", [20, 30]),), "placement.ranges.t", "holds 10 layers"),
    ("too much memory", (("cluster.nodes.0.vram", "4 GB"),), "placement.ranges.a", "memory"),
    ("unknown node", (("placement.ranges.z", [0, 5]),), "placement.ranges.z", "no node"),
    ("no links", (("cluster.network", {}),), "cluster.network", "no links"),
    ("unknown region", (("cluster.network.regions.0.to", "mars"),), "cluster.network.regions.0.to", "region"),
    ("same name twice", (("cluster.nodes.1.name", "a"),), "cluster.nodes.1.name", "taken"),
    ("reserved name", (("cluster.nodes.1.name", "coordinator"),), "cluster.nodes.1.name", "taken"),
    ("warm-up", (("warm_up", "60 s"),), "warm_up", "whole duration"),
    ("schema version", (("schema_version", 2),), "schema_version", "one of"),
    ("wrong kind", (("kind", "cluster"),), "kind", "scenario"),
    ("huge cluster", (("cluster.nodes.0.count", 999_999),), "cluster.nodes.0.count", "at most"),
    ("include among others", (("cluster.include", "c.yaml"),), "cluster.include", "only key"),
    ("include elsewhere", (("slo", {"include": "c.yaml"}),), "slo.include", "included"),
    ("null", (("workload", None),), "workload", "null"),
]


@pytest.mark.parametrize(("changes", "path", "told"), [each[1:] for each in BAD], ids=[each[0] for each in BAD])
def test_bad_input_is_told_where_it_is(
    changes: tuple[tuple[str, Any], ...], path: str, told: str, tmp_path: Path
) -> None:
    file = write(tmp_path, changed(*changes))
    found = problems(file)
    assert found[0].path == path, str(found)
    assert told in found[0].rule
    # Every one in the file at hand, unless the file itself is at fault.
    assert {each.file for each in found} == {str(file)}
    assert all(each.line is not None and each.line >= 1 for each in found)


def test_disconnected_source_and_sink(tmp_path: Path) -> None:
    link: Data = {"bandwidth": "1 GB/s", "latency": "1 ms"}
    links = [{"from": "coordinator", "to": "a", **link}, {"from": "a", "to": "b", **link}]
    (found,) = problems(write(tmp_path, changed(("cluster.network", {"links": links}))))
    assert "chain of links" in found.rule
    good = [*links, {"from": "b", "to": "t", **link}, {"from": "t", "to": "coordinator", **link}]
    load_scenario(write(tmp_path, changed(("cluster.network", {"links": good}))))


def test_without_partial_inference_ranges_must_meet(tmp_path: Path) -> None:
    overlap = changed(("placement", {**BASE["placement"], "partial_inference": False}), ("placement.ranges.a", [0, 16]))
    (found,) = problems(write(tmp_path, overlap))
    assert found.path == "placement.partial_inference"


def test_links_are_checked(tmp_path: Path) -> None:
    link: Data = {"bandwidth": "1 GB/s", "latency": "1 ms"}
    links = [
        {"from": "a", "to": "bb", **link},
        {"from": "a", "to": "a", **link},
        {"from": "a", "to": "b", "symmetric": True, **link},
        {"from": "b", "to": "a", **link},
    ]
    found = problems(write(tmp_path, changed(("cluster.network.links", links))))
    assert [each.path for each in found] == [f"cluster.network.links.{at}" for at in ("0.to", "1", "3")]
    assert "did you mean b" in found[0].remedy


def test_lines_are_those_of_the_file_that_is_wrong(tmp_path: Path) -> None:
    cluster: Data = {"schema_version": 1, "kind": "cluster", **copy.deepcopy(BASE["cluster"])}
    cluster["nodes"][1]["colour"] = "red"
    inner = write(tmp_path, cluster, "cluster.yaml")
    outer = write(tmp_path, {**changed(("cluster", "cluster.yaml")), "duration": 60})
    found = problems(outer)
    assert [(each.file, each.line, each.path) for each in found] == [
        (str(outer), line_of(outer, "duration"), "duration"),
        (str(inner), line_of(inner, "colour"), "cluster.nodes.1.colour"),
    ]
    assert f"{inner}:{found[1].line}: cluster.nodes.1.colour" in str(found[1])


def test_all_problems_of_several_files_come_together(tmp_path: Path) -> None:
    cluster: Data = {"schema_version": 1, "kind": "cluster", **copy.deepcopy(BASE["cluster"])}
    cluster["network"]["regions"][0]["latency"] = 1
    inner = write(tmp_path, cluster, "cluster.yaml")
    placement = write(
        tmp_path, {"schema_version": 1, "kind": "placement", "ranges": {"a": [0, 15], "t": [25, 30]}}, "placement.yaml"
    )
    trace = tmp_path / "trace.csv"
    trace.write_text("arrival_s,prompt_tokens,output_tokens\n0,1,1\n1,x,1\n")
    data = changed(
        ("cluster", "cluster.yaml"),
        ("placement", {"file": "placement.yaml"}),
        ("workload.lengths", {"trace": {"file": "trace.csv"}}),
        ("warm_up", "2 h"),
        ("model", "llama-3"),
    )
    data["sed"] = 3
    file = write(tmp_path, data)
    found = {(each.file, each.path.split(".")[0]) for each in problems(file)}
    assert {(str(file), "model"), (str(file), "sed"), (str(file), "warm_up"), (str(inner), "cluster")} <= found
    assert str(trace) in {name for name, _ in found}
    file = write(tmp_path, {**data, "model": BASE["model"]})
    gap = [each for each in problems(file) if each.file == str(placement)]
    assert "[15, 25)" in gap[0].rule


def test_broken_files(tmp_path: Path) -> None:
    def told(name: str, text: str) -> Problem:
        (tmp_path / name).write_text(text)
        found = problems(write(tmp_path, changed(("cluster", name))))
        assert len(found) == 1, str(found)
        return found[0]

    bad = told("bad.yaml", "schema_version: 1\nkind: cluster\nname: [\n")
    assert bad.file == str(tmp_path / "bad.yaml")
    assert "not YAML" in bad.rule
    assert "second time" in told("twice.yaml", "schema_version: 1\nkind: cluster\nname: a\nname: b\n").rule
    assert "empty" in told("empty.yaml", "").rule
    assert "no mapping" in told("list.yaml", "[1, 2]").rule
    assert "cluster file belongs here" in told("model.yaml", "schema_version: 1\nkind: model\n").rule
    assert "version 1" in told("new.yaml", "schema_version: 2\nkind: cluster\n").rule
    assert "circle" in told("self.yaml", "include: self.yaml\n").rule
    (tmp_path / "b.yaml").write_text("include: a.yaml\n")
    assert "circle" in told("a.yaml", "include: b.yaml\n").rule
    levels = "".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]\n" for n in range(1, 12))
    assert "aliases" in told("bomb.yaml", "l0: &l0 [a, b]\n" + levels).rule
    with (tmp_path / "huge.yaml").open("wb") as stream:
        stream.truncate(100_000_000)
    for name, word in (("huge.yaml", "MB"), (".", "directory"), ("a\0/b.yaml", "no such file")):
        found = problems(write(tmp_path, changed(("cluster", {"include": name}))))
        assert word in found[0].rule
        assert found[0].file == str(tmp_path / "scenario.yaml")
        assert found[0].path == "cluster"
        assert str(found[0]).isprintable()
    assert "no such file" in problems(tmp_path / "gone.yaml")[0].rule
    assert "directory" in problems(tmp_path)[0].rule
    assert "MB" in problems(tmp_path / "huge.yaml")[0].rule


def test_a_broken_trace_row_is_told_with_its_line(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("arrival_s,prompt_tokens,output_tokens\n0,10,1\n1,-5,1\n2,nan,1\n")
    found = problems(write(tmp_path, changed(("workload", {"kind": "open", "trace": {"file": "trace.csv"}}))))
    assert [(each.file, each.line) for each in found] == [(str(trace), 3), (str(trace), 4)]
