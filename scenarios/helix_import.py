"""Import of a Helix artifact run: its cluster, placement, profiles and workload become a scenario of this project."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from scenarios.errors import Problem
from scenarios.helix_files import Artifact, Machine, read_artifact
from scenarios.helix_ini import Problems, problem
from scenarios.helix_profiles import LIBRARY, MODEL_FOLDERS, model_layers, read_profile
from scenarios.quantities import DURATION, RATE, SIZE, Dimension, parse
from scenarios.traces import Trace, load_trace
from scenarios.tree import Origin
from scenarios.yaml_text import dump_yaml, parse_yaml, read_yaml

SCHEDULERS = ("max-flow", "swarm", "random", "shortest-queue")
MAX_IN_FLIGHT = 1_000_000
MAX_TOKENS_PER_S = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedScenario:
    """What an import wrote.

    Attributes:
        scenario: The scenario file; everything that it includes lies beside it.
        nodes: Nodes that take part.
        links: Directed links.
        machine_types: Machine types of the cluster.
        over_profile: Nodes that hold more layers than their profile's maximum.
        left_out: Nodes of the cluster file that have no place in the links file. They stay in the cluster without
            links or layers, because the throughput formula counts machines.
        requests: Requests in the trace, 0 without one.
    """

    scenario: Path
    nodes: int
    links: int
    machine_types: tuple[str, ...]
    over_profile: tuple[str, ...]
    left_out: tuple[str, ...]
    requests: int


def import_helix_artifact(
    *,
    model: str,
    cluster: Path,
    machines: Path,
    placement: Path,
    links: Path,
    profiles: Path,
    scheduler: str,
    out: Path,
    offline: int | None = None,
    online: float | None = None,
    trace: Path | None = None,
    force: bool = False,
) -> ImportedScenario:
    """Write a scenario directory from files of the Helix artifact.

    Args:
        model: Name of a model in the library, one of :data:`MODEL_FOLDERS`.
        cluster: Cluster ini.
        machines: Machine profile ini.
        placement: Solution ini.
        links: Simulator cluster ini.
        profiles: Profile directory, with ``machines.yaml`` for limits or else with those of the library.
        scheduler: One of :data:`SCHEDULERS`.
        out: Directory to write; it appears complete or not at all.
        offline: Closed loop: first requests (``max-flow``) or constant number of requests.
        online: Open loop: prompt and output tokens per second.
        trace: Lengths (offline) or arrivals (online, taken as they are); the Azure conversation lengths without it.
        force: Replace ``out`` if it is a directory that has something in it.

    Raises:
        ScenarioError: An option, a file or an agreement between files is wrong, or ``out`` cannot be written.
    """
    problems = Problems()
    inputs = [path for path in (cluster, machines, placement, links, profiles, trace) if path is not None]
    _check_options(model, scheduler, offline, online, problems)
    _check_out(out, inputs, force, problems)
    problems.check()
    run = _Run(model=model, scheduler=scheduler, offline=offline, online=online)
    layers = model_layers(model)
    with problems.gathered():
        artifact = read_artifact(cluster=cluster, machines=machines, placement=placement, links=links, layers=layers)
    if trace is not None:
        with problems.gathered():
            run = replace(run, trace=_read_trace(trace, offline is None))
    problems.check()
    documents: dict[str, dict[str, Any]] = {}
    for kind in artifact.machines:
        with problems.gathered():
            if kind.lower() in (known.lower() for known in documents):
                rule = f"{kind} must differ from other machine types in more than case"
                raise problem(machines, None, f"[{kind}]", None, rule, "rename one of them")
            documents[kind] = read_profile(profiles, model, kind)
    problems.check()
    bundle = _Bundle(out.resolve())
    over = _over_profile(artifact, documents)
    for kind, document in documents.items():
        bundle.add(_profile_file(kind), document)
    bundle.add("cluster.yaml", _cluster(artifact))
    ranges = {name: [held.start, held.stop] for name, held in artifact.ranges.items()}
    bundle.add("placement.yaml", {"schema_version": 1, "kind": "placement", "ranges": ranges})
    bundle.add("scenario.yaml", _scenario(run, list(documents), bool(over)))
    if trace is not None:
        bundle.copies[run.trace_file] = trace
    bundle.write(force)
    return ImportedScenario(
        scenario=out / "scenario.yaml",
        nodes=len(artifact.nodes) - len(artifact.left_out),
        links=len(artifact.links),
        machine_types=tuple(artifact.machines),
        over_profile=over,
        left_out=artifact.left_out,
        requests=len(run.trace.arrivals) if run.trace else 0,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """How the artifact was run."""

    model: str
    scheduler: str
    offline: int | None
    online: float | None
    trace: Trace | None = None

    @property
    def trace_file(self) -> str:
        return "trace.jsonl" if self.trace is not None and self.trace.format == "mooncake" else "trace.csv"

    @property
    def mode(self) -> str:
        return "online" if self.offline is None else "offline"


def _read_trace(path: Path, online: bool) -> Trace:
    trace = load_trace(path)
    if online and not trace.timed:
        rule = "an online workload needs the times of its requests"
        raise problem(path, 1, "", None, rule, "add a column arrival_s, or leave the trace out")
    return trace


def _over_profile(artifact: Artifact, documents: Mapping[str, dict[str, Any]]) -> tuple[str, ...]:
    """Nodes with more layers than their profile's maximum."""
    kinds = {node.name: node.machine_type for node in artifact.nodes}
    return tuple(name for name, held in artifact.ranges.items() if len(held) > documents[kinds[name]]["max_layers"])


def _profile_file(kind: str) -> str:
    return f"profiles/{kind.lower()}.yaml"


def _check_options(model: str, scheduler: str, offline: int | None, online: float | None, problems: Problems) -> None:
    def bad(option: str, value: object, rule: str, remedy: str) -> None:
        problems.found.append(Problem(option, None, "", value, rule, remedy))

    if model not in MODEL_FOLDERS:
        bad("--model", model, "it must be a model of the artifact", f"use one of {', '.join(MODEL_FOLDERS)}")
    if scheduler not in SCHEDULERS:
        bad("--scheduler", scheduler, "it must be a scheduler of the artifact", f"use one of {', '.join(SCHEDULERS)}")
    if (offline is None) == (online is None):
        bad("--offline", offline, "a run is either offline or online", "give one of --offline and --online")
    if offline is not None and not 1 <= offline <= MAX_IN_FLIGHT:
        bad("--offline", offline, f"it must be 1 to {MAX_IN_FLIGHT} requests", "correct the number")
    if online is not None and not 0 < online <= MAX_TOKENS_PER_S:
        bad("--online", online, f"it must be above 0 and at most {MAX_TOKENS_PER_S:g} tokens/s", "correct the rate")


def _check_out(out: Path, inputs: Sequence[Path], force: bool, problems: Problems) -> None:
    rule = remedy = ""
    try:
        if out.exists() and not out.is_dir():
            rule, remedy = "it must be a directory", "name another directory"
        elif out.is_dir() and any(out.iterdir()):
            kept = [path.resolve() for path in (*inputs, Path.cwd())]
            if not force:
                rule, remedy = "the directory is not empty", "name a new directory, or add --force to replace it"
            elif any(path.is_relative_to(out.resolve()) for path in kept):
                rule = "it holds an input file or the working directory, which would be lost"
                remedy = "name another directory"
        out.resolve()
    except (OSError, RuntimeError, ValueError) as error:
        rule, remedy = f"it cannot be used: {error}", "name another directory"
    if rule:
        problems.found.append(Problem("--out", None, "", str(out), rule, remedy))


def _quantity(value: float, base: str, dimension: Dimension) -> str:
    """Text that reads as exactly ``value``, in the largest unit that does not make it a fraction below 1."""
    steps = ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, "")) if base != "s" else ((1.0, ""), (1e-3, "m"), (1e-6, "u"))
    for factor, prefix in steps:
        text = f"{value / factor:.12g} {prefix}{base}"
        if value >= factor and parse(text, dimension) == value:
            return text
    return f"{value!r} {base}"


def _figures(machine: Machine) -> dict[str, Any]:
    return {
        "nic_in": _quantity(machine.nic_in_bytes_per_s, "B/s", RATE),
        "nic_out": _quantity(machine.nic_out_bytes_per_s, "B/s", RATE),
        "disk": _quantity(machine.disk_bytes_per_s, "B/s", RATE),
        "vram": _quantity(machine.vram_bytes, "B", SIZE),
    }


def _cluster(artifact: Artifact) -> dict[str, Any]:
    nodes = []
    for node in artifact.nodes:
        capacity = node.kv_capacity_layer_tokens
        measured = {} if capacity is None else {"kv_capacity_layer_tokens": capacity}
        nodes.append({"name": node.name, "machine": node.machine_type, **_figures(node.machine), **measured})
    own = {
        kind: _figures(machine)
        for kind, machine in artifact.machines.items()
        if not (LIBRARY / "machines" / f"{kind.lower()}.yaml").is_file()
    }
    links = [
        {
            "from": link.source,
            "to": link.target,
            "bandwidth": _quantity(link.bandwidth_bytes_per_s, "B/s", RATE),
            "latency": _quantity(link.latency_s, "s", DURATION),
        }
        for link in artifact.links
    ]
    coordinator = {
        "nic_in": _quantity(artifact.nic_in_bytes_per_s, "B/s", RATE),
        "nic_out": _quantity(artifact.nic_out_bytes_per_s, "B/s", RATE),
    }
    document: dict[str, Any] = {"schema_version": 1, "kind": "cluster", "name": f"helix-{len(nodes)}"}
    document |= {"description": "imported from the Helix artifact", "coordinator": coordinator, "nodes": nodes}
    return document | ({"machines": own} if own else {}) | {"network": {"links": links}}


def _workload(run: _Run) -> dict[str, Any]:
    """The artifact's feeders (HELIX.md section 7)."""
    trace: dict[str, Any] = {}
    if run.trace is not None:
        trace = {"trace": {"file": run.trace_file, "format": run.trace.format}}
    lengths = trace or {"library": "azure-conversation"}
    if run.online is not None:
        rate = float(f"{run.online / _mean_tokens():.9g}")
        return {
            "kind": "open",
            **(trace or {"synthetic": {"requests_per_s": rate, "burstiness": 1.0, "lengths": lengths}}),
        }
    refill: dict[str, Any] = {"refill": "constant"}
    if run.scheduler == "max-flow":
        refill = {"refill": "kv-room", "feed_high_water_mark": 0.8}
    return {"kind": "closed", "initial_requests": run.offline, **refill, "spacing": "100 ms", "lengths": lengths}


def _mean_tokens() -> float:
    """Mean prompt and output tokens of the library's Azure lengths, by quadrature over its quantiles."""
    tree: Any = read_yaml(LIBRARY / "azure_conversation_lengths.yaml").plain()
    quantiles = np.asarray(tree["prompt_tokens"], dtype=float)
    table = tree["output_tokens_by_prompt_bin"]
    levels = (np.arange(20_000) + 0.5) / 20_000
    prompts = np.interp(levels, np.linspace(0.0, 1.0, len(quantiles)), quantiles)
    outputs = np.array([(sum(row) - (row[0] + row[-1]) / 2) / (len(row) - 1) for row in table["quantiles"]])
    bins = np.minimum(np.searchsorted(np.asarray(table["edges"], dtype=float), prompts, side="left"), len(outputs) - 1)
    return float(prompts.mean() + outputs[bins].mean())


def _scenario(run: _Run, kinds: Sequence[str], over_profile: bool) -> dict[str, Any]:
    offline, max_flow = run.mode == "offline", run.scheduler == "max-flow"
    marks = (0.85, 1.0) if offline else (0.9, 0.6)
    options = {"expected_kv_high_water_mark": marks[0], "expected_output_ratio": marks[1]}
    return {
        "schema_version": 1,
        "name": f"helix-{run.model}-{run.scheduler}-{run.mode}",
        "description": f"imported from the Helix artifact: {run.model}, {run.scheduler} scheduler, {run.mode}",
        "seed": 0,
        "duration": "660 s" if offline else "1800 s",
        "warm_up": "60 s" if offline else "0 s",
        "model": run.model,
        "profiles": [_profile_file(kind) for kind in kinds],
        "cluster": "cluster.yaml",
        "placement": {"file": "placement.yaml", **({"allow_over_profile": True} if over_profile else {})},
        "scheduler": {"policy": run.scheduler, **({"options": options, "edge_flows": "any"} if max_flow else {})},
        "workload": _workload(run),
        "network": {"sharing": "shares"},
        "admission": {"when_no_route": "reject" if offline and max_flow else "wait"},
        "counting": {"first_token": "decode"},
    }


@dataclass(slots=True)
class _Bundle:
    """Files to be written together."""

    out: Path
    texts: dict[str, str] = field(default_factory=dict)
    copies: dict[str, Path] = field(default_factory=dict)

    def add(self, name: str, document: Any) -> None:
        """Add a YAML file; a ScenarioError when it would be too large to be read again."""
        text = dump_yaml(document)
        parse_yaml(text, Origin(str(self.out / name), None, self.out))
        self.texts[name] = text

    def write(self, force: bool) -> None:
        """Write into a directory beside ``out``, then rename it; on an error nothing stays behind."""
        token = secrets.token_hex(4)
        new, old = (self.out.parent / f".{self.out.name}.{token}.{state}" for state in ("new", "old"))
        try:
            new.mkdir(parents=True)
            for name, text in self.texts.items():
                (new / name).parent.mkdir(exist_ok=True)
                (new / name).write_text(text, encoding="utf-8")
            for name, source in self.copies.items():
                shutil.copyfile(source, new / name)
            if self.out.exists():
                if any(self.out.iterdir()) and not force:
                    raise FileExistsError(f"{self.out} has been filled meanwhile")
                os.replace(self.out, old)
            os.replace(new, self.out)
        except OSError as error:
            rule, remedy = "the directory must be writable", "check permissions and free space"
            raise problem(self.out, None, "", str(error), rule, remedy) from error
        finally:
            if old.exists() and not self.out.exists():
                os.replace(old, self.out)
            shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
