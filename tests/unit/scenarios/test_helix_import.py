"""The Helix importer: every run of the reference results, agreement between files, and bad files."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from placement.cluster import COORDINATOR
from placement.profile import LatencyTable
from scenarios.errors import Problem, ScenarioError
from scenarios.helix_import import import_helix_artifact
from scenarios.helix_ini import evaluate, read_ini
from scenarios.quantities import bytes_per_s, seconds, size_bytes
from scenarios.traces import read_trace

ARTIFACT = Path(__file__).resolve().parents[3].parent / "shared" / "helix-artifact"
needs_artifact = pytest.mark.skipif(
    not ARTIFACT.is_dir(), reason="the Helix artifact's data files are not beside the checkout"
)


def loaded(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


# The reference runs


@dataclass(frozen=True)
class Run:
    model: str
    cluster: str
    layout: str
    placement: str
    links: str
    scheduler: str
    offline: int
    online: float
    nodes: int
    over: int = 0


def reference_runs() -> list[Any]:
    """Every simulation row's inputs, with the parameters that the results file gives."""
    if not ARTIFACT.is_dir():
        return []
    simulation = loaded(ARTIFACT / "results" / "single_cluster.yaml")["simulation"]
    fixed = simulation["offline"]["in_flight_requests"]
    first = simulation["offline"]["max_flow_scheduler"]["initial_requests"]
    online = simulation["online"]["target_tokens_per_s"]
    kinds = {"a100": 4, "l4": 8, "t4": 12}
    runs = []
    for model, folder, over in (("llama-2-70b", "layout_llama70b", True), ("llama-1-30b", "layout_llama30b", False)):
        for kind, nodes in kinds.items():
            files = (f"{folder}/separate", f"{kind}_solution_file.ini", f"{kind}_simulator_cluster.ini")
            loads = (fixed[f"{model} separate"][kind], online[f"{model} separate"][kind])
            runs.append(Run(model, kind, *files, "random", *loads, nodes, nodes if over else 0))
        files = (f"{folder}/swarm", "swarm_sol.ini", "simulator_cluster.ini")
        runs.append(Run(model, "cluster24", *files, "swarm", fixed[f"{model} swarm"], online[f"{model} swarm"], 24))
    ilp = ("ilp_sol.ini", "simulator_cluster.ini", "max-flow", first)
    runs.append(Run("llama-2-70b", "cluster24", "layout_llama70b/ilp", *ilp, online["llama-2-70b helix"], 24))
    for kind, nodes in kinds.items():
        loads = online["llama-1-30b helix"][kind]
        runs.append(Run("llama-1-30b", kind, f"layout_llama30b/ilp/{kind}", *ilp, loads, nodes))
    return [pytest.param(run, id=f"{run.layout}/{run.cluster}") for run in runs]


def arguments(run: Run) -> dict[str, Any]:
    single = ARTIFACT / "single_cluster"
    return {
        "model": run.model,
        "cluster": single / "config" / f"{run.cluster}.ini",
        "machines": single / "config" / "machine_profiles.ini",
        "placement": single / run.layout / run.placement,
        "links": single / run.layout / run.links,
        "profiles": ARTIFACT / "profiles",
        "scheduler": run.scheduler,
    }


@needs_artifact
@pytest.mark.parametrize("run", reference_runs())
def test_reference_run_offline(run: Run, tmp_path: Path) -> None:
    trace = ARTIFACT / "traces" / "offline_seed0.csv"
    result = import_helix_artifact(**arguments(run), offline=run.offline, trace=trace, out=tmp_path / "out")
    assert (result.nodes, result.left_out, result.requests) == (run.nodes, (), 20_000)
    scenario = loaded(result.scenario)
    max_flow = run.scheduler == "max-flow"
    assert scenario["workload"] == {
        "kind": "closed",
        "initial_requests": run.offline,
        "refill": "kv-room" if max_flow else "constant",
        **({"feed_high_water_mark": 0.8} if max_flow else {}),
        "spacing": "100 ms",
        "lengths": {"trace": {"file": "trace.csv", "format": "helixemu"}},
    }
    assert (scenario["duration"], scenario["warm_up"]) == ("660 s", "60 s")
    assert scenario["placement"].get("allow_over_profile", False) is (run.over > 0)
    assert len(result.over_profile) == run.over
    assert scenario["admission"]["when_no_route"] == ("reject" if max_flow else "wait")
    assert ("options" in scenario["scheduler"]) is max_flow
    assert read_trace(tmp_path / "out" / "trace.csv") == read_trace(trace)
    check_values(run, tmp_path / "out", scenario)


def check_values(run: Run, out: Path, scenario: dict[str, Any]) -> None:
    """Every figure must be that of the artifact's files, read here in another way."""
    there = read_ini(arguments(run)["links"])
    cluster = loaded(out / "cluster.yaml")
    assert [node["name"] for node in cluster["nodes"]] == there.section("ComputeNodes").strings("names")
    for node in cluster["nodes"]:
        section = there.section(node["name"])
        assert node["machine"] == section.text("machine_type")
        assert node["kv_capacity_layer_tokens"] == int(section.text("kv_cache_capacity"))
        assert bytes_per_s(node["nic_in"]) == bytes_per_s(node["nic_out"]) == 1e10
        assert bytes_per_s(node["disk"]) == 1e9
        assert size_bytes(node["vram"]) == evaluate(section.text("vram_size"))
    ends = {"source": COORDINATOR, "sink": COORDINATOR}
    names = there.section("Links").strings("names")
    for link, section in zip(cluster["network"]["links"], map(there.section, names), strict=True):
        pair = section.text("in"), section.text("out")
        assert (link["from"], link["to"]) == tuple(ends.get(end, end) for end in pair)
        assert (bytes_per_s(link["bandwidth"]), seconds(link["latency"])) == (1e9, 1e-3)
    solution = read_ini(arguments(run)["placement"]).section("Solution")
    ranges = loaded(out / "placement.yaml")["ranges"]
    assert {name: list(range(*held)) for name, held in ranges.items()} == {
        name: solution.wholes(name) for name in solution.entries
    }
    folder = {"llama-2-70b": "llama2_70b", "llama-1-30b": "llama1_30b"}[run.model]
    limits = loaded(ARTIFACT / "profiles" / "machines.yaml")
    assert len(scenario["profiles"]) == len({node["machine"] for node in cluster["nodes"]})
    for file in scenario["profiles"]:
        profile = loaded(out / file)
        kind = profile["machine"]
        for key, csv in (("prefill", "prompt"), ("decode", "decode")):
            text = (ARTIFACT / "profiles" / folder / kind.lower() / f"{csv}_bs2time.csv").read_text()
            rows = [[float(cell) for cell in line.split(",")] for line in text.split()]
            assert profile[f"{key}_ms_per_layer"] == rows
            LatencyTable(tuple(int(size) for size, _ in rows), tuple(ms / 1e3 for _, ms in rows))
        figures = limits["machines"][run.model][kind]
        for key in ("kv_blocks", "max_prompts_per_batch", "max_decode_sequences"):
            assert profile[key] == {"table": figures[key]}
        assert profile["max_layers"] == figures["max_layers"]
        assert profile["first_perf"] == limits["first_perf"][run.model][kind]
        assert profile["typical_layers"]["tight"] == limits["typical_layers"][run.model]["tight"][kind]


@needs_artifact
@pytest.mark.parametrize("run", reference_runs())
def test_reference_run_online(run: Run, tmp_path: Path) -> None:
    trace = ARTIFACT / "traces" / f"online_{run.online}.csv"
    result = import_helix_artifact(**arguments(run), online=run.online, trace=trace, out=tmp_path / "out")
    scenario = loaded(result.scenario)
    assert scenario["workload"] == {"kind": "open", "trace": {"file": "trace.csv", "format": "helixemu"}}
    assert (scenario["duration"], scenario["warm_up"]) == ("1800 s", "0 s")
    assert scenario["admission"] == {"when_no_route": "wait"}
    if run.scheduler == "max-flow":
        options = {"expected_kv_high_water_mark": 0.9, "expected_output_ratio": 0.6}
        assert scenario["scheduler"]["options"] == options
    assert (tmp_path / "out" / "trace.csv").read_bytes() == trace.read_bytes()


# A small artifact, whole and broken

CLUSTER = """[NodeNames]
total_compute_nodes=3
[ComputeNode-0]
type=A100
[ComputeNode-1]
type=T4
[ComputeNode-2]
type=T4
[Link-0-1]
bandwidth=100 * mbps
latency=2 * MilliSec
"""
MACHINES = """[SourceNode]
inbound_nic_speed = -1
outbound_nic_speed = 10 * gbps
[SinkNode]
inbound_nic_speed = 5 * gbps
outbound_nic_speed = -1
[A100]
inbound_nic_speed = 10 * gbps
outbound_nic_speed = 10 * gbps
disk_speed = 1 * gbps
vram_size = 80 * GB
[T4]
inbound_nic_speed = 333 * mbps
outbound_nic_speed = 10 * gbps
disk_speed = 1 * gbps
vram_size = 32 * GB
"""
LINKS = """[Coordinator]
inbound_nic_speed=5000.0 * mbps
outbound_nic_speed=10000.0 * mbps
[ComputeNodes]
names=['compute_node_5', 'compute_node_4']
[compute_node_5]
vram_size=32000.0 * MB
inbound_nic_speed=333.0 * mbps
outbound_nic_speed=10000.0 * mbps
disk_speed=1000.0 * mbps
machine_type="T4"
kv_cache_capacity=1000
[compute_node_4]
vram_size=80000.0 * MB
inbound_nic_speed=10000.0 * mbps
outbound_nic_speed=10000.0 * mbps
disk_speed=1000.0 * mbps
machine_type="A100"
kv_cache_capacity=2000
[Links]
names=['b', 'a', 'c']
[a]
in=source
out=compute_node_4
latency=1.0 * MilliSec
bandwidth=1000.0 * mbps
[b]
in=compute_node_4
out=compute_node_5
latency=2.0 * MilliSec
bandwidth=100 * mbps
[c]
in=compute_node_5
out=sink
latency=0.0 * MilliSec
bandwidth=0.1 * kbps / 3
"""
PLACEMENT = (
    f"[Settings]\noffset=4\n[Solution]\ncompute_node_4={list(range(48))}\ncompute_node_5={list(range(40, 60))}\n"
)


@dataclass(frozen=True)
class Small:
    """A two-node artifact in a directory, with profiles but no machines.yaml."""

    folder: Path

    def write(self, file: str, text: str) -> None:
        path = self.folder / "in" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def options(self, **changed: Any) -> dict[str, Any]:
        inputs = self.folder / "in"
        return {
            "model": "llama-1-30b",
            "cluster": inputs / "cluster.ini",
            "machines": inputs / "machines.ini",
            "placement": inputs / "placement.ini",
            "links": inputs / "links.ini",
            "profiles": inputs / "profiles",
            "scheduler": "max-flow",
            "offline": 20,
            "out": self.folder / "out",
            **changed,
        }

    def problems(self, **changed: Any) -> tuple[Problem, ...]:
        before = {path: path.read_bytes() for path in self.folder.rglob("*") if path.is_file()}
        with pytest.raises(ScenarioError) as caught:
            import_helix_artifact(**self.options(**changed))
        after = {path: path.read_bytes() for path in self.folder.rglob("*") if path.is_file()}
        assert before == after, "an import that fails writes nothing"
        return caught.value.problems


@pytest.fixture
def small(tmp_path: Path) -> Small:
    artifact = Small(tmp_path)
    artifact.write("cluster.ini", CLUSTER)
    artifact.write("machines.ini", MACHINES)
    artifact.write("links.ini", LINKS)
    artifact.write("placement.ini", PLACEMENT)
    for kind in ("a100", "t4"):
        artifact.write(f"profiles/llama1_30b/{kind}/prompt_bs2time.csv", "0,0\n100,2.5\n\n200,4\n")
        artifact.write(f"profiles/llama1_30b/{kind}/decode_bs2time.csv", "0,0\n2,1\n4,1.5\n")
    return artifact


def test_small_artifact(small: Small) -> None:
    result = import_helix_artifact(**small.options())
    out = small.folder / "out"
    assert (result.nodes, result.links, result.left_out) == (2, 3, ("compute_node_6",))
    assert result.over_profile == ("compute_node_5", "compute_node_4")
    files = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert files == ["cluster.yaml", "placement.yaml", "profiles/a100.yaml", "profiles/t4.yaml", "scenario.yaml"]
    assert not [path for path in small.folder.iterdir() if path.name.startswith(".")]
    cluster = loaded(out / "cluster.yaml")
    assert cluster["coordinator"] == {"nic_in": "5 GB/s", "nic_out": "10 GB/s"}
    t4 = {"machine": "T4", "nic_in": "333 MB/s", "nic_out": "10 GB/s", "disk": "1 GB/s", "vram": "32 GB"}
    assert cluster["nodes"][0] == {"name": "compute_node_5", **t4, "kv_capacity_layer_tokens": 1000}
    assert cluster["nodes"][2] == {"name": "compute_node_6", **t4}
    links = cluster["network"]["links"]
    assert [(link["from"], link["to"]) for link in links] == [
        ("compute_node_4", "compute_node_5"),
        ("coordinator", "compute_node_4"),
        ("compute_node_5", "coordinator"),
    ]
    assert [link["latency"] for link in links] == ["2 ms", "1 ms", "0.0 s"]
    assert bytes_per_s(links[2]["bandwidth"]) == 0.1 * 1e3 / 3
    profile = loaded(out / "profiles" / "t4.yaml")
    assert profile["prefill_ms_per_layer"] == [[0, 0.0], [100, 2.5], [200, 4.0]]
    assert profile["max_layers"] == 7
    assert "numerator" in profile["kv_blocks"]
    assert "lengths" in loaded(out / "scenario.yaml")["workload"]


def test_online_rate_comes_from_the_mean_lengths(small: Small) -> None:
    import_helix_artifact(**small.options(offline=None, online=997.0))
    synthetic = loaded(small.folder / "out" / "scenario.yaml")["workload"]["synthetic"]
    assert synthetic["requests_per_s"] == pytest.approx(1.0, rel=0.01)
    assert synthetic["lengths"] == {"library": "azure-conversation"}


def test_two_imports_are_the_same(small: Small) -> None:
    for name in ("one", "two"):
        import_helix_artifact(**small.options(out=small.folder / name))
    for path in (small.folder / "one").rglob("*.yaml"):
        other = small.folder / "two" / path.relative_to(small.folder / "one")
        assert path.read_bytes() == other.read_bytes()


def test_mooncake_trace_keeps_its_kind(small: Small) -> None:
    small.write("t.jsonl", '{"timestamp": 0, "input_length": 5, "output_length": 5}\n')
    import_helix_artifact(**small.options(trace=small.folder / "in" / "t.jsonl"))
    workload = loaded(small.folder / "out" / "scenario.yaml")["workload"]
    assert workload["lengths"] == {"trace": {"file": "trace.jsonl", "format": "mooncake"}}


def replaced(file: str, old: str, new: str) -> Callable[[Small], None]:
    def change(artifact: Small) -> None:
        path = artifact.folder / "in" / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return change


@pytest.mark.parametrize(
    ("change", "file", "line", "words"),
    [
        (replaced("links.ini", "vram_size=32000.0 * MB\n", ""), "links.ini", 6, "must have vram_size"),
        (replaced("links.ini", "333.0 * mbps", "333.0 * Mbps"), "links.ini", 8, "Mbps is no unit"),
        (replaced("links.ini", "333.0 * mbps", "334.0 * mbps"), "links.ini", 8, "as in"),
        (replaced("links.ini", "=333.0 * mbps", "=-1"), "links.ini", 8, "above 0"),
        (replaced("links.ini", "=333.0 * mbps", "=exit()"), "links.ini", 8, "is no unit"),
        (replaced("links.ini", "[Links]", "[Lonks]"), "links.ini", None, "section [Links]"),
        (replaced("links.ini", "'b', 'a', 'c'", "'b', 'a', 'd'"), "links.ini", None, "section [d]"),
        (replaced("links.ini", "'b', 'a', 'c'", "'b', 'a', 'a'"), "links.ini", 24, "the only one"),
        (replaced("links.ini", "out=compute_node_5", "out=compute_node_9"), "links.ini", 29, "a node of"),
        (replaced("links.ini", "out=compute_node_5", "out=compute_node_4"), "links.ini", 29, "two different nodes"),
        (replaced("links.ini", "=2.0 * MilliSec", "=3.0 * MilliSec"), "links.ini", 30, "as in"),
        (replaced("links.ini", "=100 * mbps", "=100 * GB"), "links.ini", 31, "units must be of bytes/s"),
        (replaced("links.ini", '"T4"', '"A100"'), "links.ini", 11, "the type must be T4"),
        (replaced("links.ini", '"T4"', '"../../T4"'), "links.ini", 11, "the type must be T4"),
        (replaced("links.ini", "=1000\n", "=0\n"), "links.ini", 12, "whole number"),
        (replaced("links.ini", "5000.0 * mbps", "6000.0 * mbps"), "links.ini", 2, "as in"),
        (replaced("links.ini", "'compute_node_4']", "'compute_node_5']"), "links.ini", 5, "name of its own"),
        (replaced("cluster.ini", "type=T4", "type=L4"), "links.ini", 11, "the type must be L4"),
        (replaced("cluster.ini", "type=T4", "type=../x"), "cluster.ini", 6, "letters"),
        (replaced("cluster.ini", "nodes=3", "nodes=4"), "cluster.ini", None, "[ComputeNode-3]"),
        (replaced("cluster.ini", "nodes=3", "nodes=1e9"), "cluster.ini", 2, "whole number"),
        (replaced("machines.ini", "[T4]", "[T5]"), "machines.ini", None, "machine type of"),
        (replaced("placement.ini", "offset=4", "offset=3"), "links.ini", 18, "the type must be"),
        (replaced("placement.ini", "offset=4\n", ""), "placement.ini", 1, "must have offset"),
        (replaced("placement.ini", "[40, 41,", "[40, 42,"), "placement.ini", 5, "contiguous"),
        (replaced("placement.ini", "[40, 41,", "[41, 40,"), "placement.ini", 5, "contiguous"),
        (replaced("placement.ini", "58, 59]", "58, 59, 60]"), "placement.ini", 5, "0 to 59"),
        (replaced("placement.ini", ", 58, 59]", ", 58]"), "placement.ini", 3, "none holds 59"),
        (replaced("placement.ini", "node_5=", "node_9="), "placement.ini", 5, "must be a node of"),
        (replaced("placement.ini", "[0, 1,", "[x, 1,"), "placement.ini", 4, "a list of"),
        (replaced("profiles/llama1_30b/t4/prompt_bs2time.csv", "100,2.5", "100,nan"), "prompt_bs2time.csv", 2, "a row"),
        (replaced("profiles/llama1_30b/t4/prompt_bs2time.csv", "200,4", "100,4"), "prompt_bs2time.csv", 4, "a row"),
        (replaced("profiles/llama1_30b/t4/decode_bs2time.csv", "0,0\n", ""), "decode_bs2time.csv", 1, "a row"),
        (replaced("profiles/llama1_30b/t4/decode_bs2time.csv", "0,0\n", "0;0\n"), "decode_bs2time.csv", 1, "a row"),
    ],
)
def test_broken_artifact(
    small: Small, change: Callable[[Small], None], file: str, line: int | None, words: str
) -> None:
    change(small)
    problems = small.problems()
    found = [each for each in problems if each.file.endswith(file) and each.line == line and words in each.rule]
    assert found, [str(each) for each in problems]
    assert all(each.remedy for each in problems)


@pytest.mark.parametrize("file", ["cluster.ini", "machines.ini", "links.ini", "placement.ini"])
def test_missing_or_strange_files(small: Small, file: str) -> None:
    path = small.folder / "in" / file
    path.write_bytes(b"\xff\xfe\x00")
    assert small.problems()[0].file == str(path)
    path.unlink()
    assert small.problems()[0].file == str(path)
    path.mkdir()
    assert small.problems()[0].file == str(path)


def test_problems_of_all_files_come_together(small: Small) -> None:
    small.write("links.ini", LINKS.replace("mbps", "mbqs"))
    small.write("placement.ini", PLACEMENT.replace("[40, 41", "[40, 42"))
    small.write("t.csv", "arrival_s,prompt_tokens,output_tokens\n1,-1,1\n")
    problems = small.problems(trace=small.folder / "in" / "t.csv")
    assert {Path(problem.file).name for problem in problems} == {"links.ini", "placement.ini", "t.csv"}
    assert len(problems) <= 20


@pytest.mark.parametrize(
    "changed",
    [
        {"model": "gpt-2"},
        {"model": "../x"},
        {"scheduler": "best"},
        {"offline": None},
        {"online": 5.0},
        {"offline": 0},
        {"offline": 10**9},
        {"offline": None, "online": 0.0},
        {"offline": None, "online": math.nan},
        {"offline": None, "online": math.inf},
    ],
)
def test_options_that_make_no_sense(small: Small, changed: dict[str, Any]) -> None:
    assert small.problems(**changed)[0].file.startswith("--")


def test_machines_yaml_comes_first_and_is_checked(small: Small) -> None:
    text = """
kv_block_tokens: 16
max_prompt_tokens: 2048
decode_context_per_sequence: 1000
typical_layers: {llama-1-30b: {default: {T4: 1}, tight: {T4: 2}}}
first_perf: {llama-1-30b: {T4: 3}}
machines:
  llama-1-30b:
    T4:
      {max_layers: 2, kv_blocks: {1: 5, 2: 4}, max_prompts_per_batch: {1: 1, 2: 1}, max_decode_sequences: {1: 9, 2: 8}}
"""
    small.write("profiles/machines.yaml", text)
    import_helix_artifact(**small.options())
    profile = loaded(small.folder / "out" / "profiles" / "t4.yaml")
    assert (profile["max_layers"], profile["kv_blocks"]) == (2, {"table": {1: 5, 2: 4}})
    assert loaded(small.folder / "out" / "profiles" / "a100.yaml")["max_layers"] == 18, "from the library"
    for old, new in (("{1: 5, 2: 4}", "{1: 5}"), ("{1: 5,", "{1: .nan,"), ("first_perf", "x"), ("1: 9", "1: 9.5")):
        small.write("profiles/machines.yaml", text.replace(old, new))
        assert small.problems(out=small.folder / "other")[0].file.endswith("machines.yaml")
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefghi", "bcdefghij", strict=True)
    )
    small.write("profiles/machines.yaml", bomb)
    assert small.problems(out=small.folder / "other")[0].file.endswith("machines.yaml")


def test_online_needs_times(small: Small) -> None:
    small.write("t.csv", "prompt_tokens,output_tokens\n1,1\n")
    (problem,) = small.problems(offline=None, online=5.0, trace=small.folder / "in" / "t.csv")
    assert "times" in problem.rule


def test_out_is_not_overwritten_without_force(small: Small) -> None:
    out = small.folder / "out"
    out.mkdir()
    import_helix_artifact(**small.options())
    (out / "mine.txt").write_text("keep")
    assert small.problems()[0].file == "--out"
    assert (out / "mine.txt").exists()
    import_helix_artifact(**small.options(force=True))
    assert not (out / "mine.txt").exists()
    assert (out / "scenario.yaml").exists()
    assert sorted(path.name for path in small.folder.iterdir()) == ["in", "out"]


def test_force_never_removes_the_inputs(small: Small) -> None:
    assert small.problems(out=small.folder, force=True)[0].file == "--out"
    small.write("file", "")
    assert small.problems(out=small.folder / "in" / "file", force=True)[0].file == "--out"
    assert small.problems(out=small.folder / "in" / "file" / "below")


def test_failed_write_leaves_nothing(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    assert "No space left" in str(small.problems()[0].value)
    assert sorted(path.name for path in small.folder.iterdir()) == ["in"]


@needs_artifact
def test_a_models_own_profile_folder_will_do_and_takes_limits_from_the_library(tmp_path: Path) -> None:
    from scenarios.helix_profiles import read_profile

    whole = read_profile(ARTIFACT / "profiles", "llama-2-70b", "A100")
    own = read_profile(ARTIFACT / "profiles" / "llama2_70b", "llama-2-70b", "A100")
    assert own["decode_ms_per_layer"] == whole["decode_ms_per_layer"]
    assert "table" in whole["kv_blocks"]
    assert "numerator" in own["kv_blocks"]
