"""What the Helix artifact's cluster, machine, placement and simulator files say, checked one against another."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from placement.cluster import COORDINATOR
from placement.layers import LayerRange
from scenarios.helix_ini import RATE, SIZE, TIME, IniFile, IniSection, Problems, problem, read_ini

MAX_NODES = 100_000
MAX_OFFSET = 1_000_000
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}", re.ASCII)
_MACHINE = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,31}", re.ASCII)
_AGREE = 1e-6
"""Relative difference below which two files say the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Figures of a machine type, or of one node; bytes and bytes/s."""

    nic_in_bytes_per_s: float
    nic_out_bytes_per_s: float
    disk_bytes_per_s: float
    vram_bytes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactNode:
    """A node that takes part, or (without KV capacity) one that is only there."""

    name: str
    machine_type: str
    machine: Machine
    kv_capacity_layer_tokens: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactLink:
    """One direction of a connection; both ends of the coordinator are called ``coordinator``."""

    source: str
    target: str
    bandwidth_bytes_per_s: float
    latency_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """The four files together.

    Attributes:
        nic_in_bytes_per_s: Receiving rate of the coordinator.
        nic_out_bytes_per_s: Sending rate of the coordinator.
        machines: Machine types that the nodes have.
        nodes: Nodes of the links file in its order, then those that only the cluster file has.
        links: Links in file order.
        ranges: Node -> layer range.
        left_out: Nodes that only the cluster file has. They take no part, but the throughput formula counts them.
    """

    nic_in_bytes_per_s: float
    nic_out_bytes_per_s: float
    machines: Mapping[str, Machine]
    nodes: tuple[ArtifactNode, ...]
    links: tuple[ArtifactLink, ...]
    ranges: Mapping[str, LayerRange]
    left_out: tuple[str, ...]


def read_artifact(*, cluster: Path, machines: Path, placement: Path, links: Path, layers: int) -> Artifact:
    """Read and compare the four files.

    Args:
        cluster: Cluster ini: node numbers, machine types, links between numbers.
        machines: Machine profile ini: NICs, disk, memory of every type and of the coordinator's two ends.
        placement: Solution ini: number offset and every node's layers.
        links: Simulator cluster ini: the nodes and links that take part.
        layers: Layers in the model.

    Raises:
        ScenarioError: A file is missing or malformed, or two of them disagree.
    """
    problems = Problems()
    files: dict[str, IniFile] = {}
    for name, path in (("cluster", cluster), ("machines", machines), ("placement", placement), ("links", links)):
        with problems.gathered():
            files[name] = read_ini(path)
    problems.check()
    types = _machines(files["machines"], problems)
    nodes = _nodes(files["links"], problems)
    arcs = _links(files["links"], {node.name for node in nodes}, problems)
    ranges, offset = _placement(files["placement"], layers, problems)
    kinds = _kinds(files["cluster"], offset, problems)
    problems.check()
    held = _check_placement(files, {node.name: node for node in nodes}, kinds, ranges, layers, problems)
    _check_nodes(files, nodes, kinds, types, problems)
    _check_links(files["cluster"], files["links"], arcs, offset, problems)
    nic_in, nic_out = _coordinator(files, problems)
    problems.check()
    idle = [name for name in kinds if name not in {node.name for node in nodes}]
    left_out = [
        ArtifactNode(name=name, machine_type=kinds[name], machine=types[kinds[name]], kv_capacity_layer_tokens=None)
        for name in idle
    ]
    used = dict.fromkeys(node.machine_type for node in (*nodes, *left_out))
    return Artifact(
        nic_in_bytes_per_s=nic_in,
        nic_out_bytes_per_s=nic_out,
        machines={kind: types[kind] for kind in used},
        nodes=(*nodes, *left_out),
        links=tuple(arcs),
        ranges=held,
        left_out=tuple(idle),
    )


def _machine(section: IniSection) -> Machine:
    return Machine(
        nic_in_bytes_per_s=section.number("inbound_nic_speed", RATE),
        nic_out_bytes_per_s=section.number("outbound_nic_speed", RATE),
        disk_bytes_per_s=section.number("disk_speed", RATE),
        vram_bytes=section.number("vram_size", SIZE),
    )


def _machines(ini: IniFile, problems: Problems) -> dict[str, Machine]:
    machines: dict[str, Machine] = {}
    for name, section in ini.sections.items():
        if name not in ("SourceNode", "SinkNode"):
            with problems.gathered():
                machines[name] = _machine(section)
    return machines


def _nodes(ini: IniFile, problems: Problems) -> list[ArtifactNode]:
    nodes: list[ArtifactNode] = []
    seen: set[str] = set()
    with problems.gathered():
        head = ini.section("ComputeNodes")
        names = head.strings("names")
        if not 1 <= len(names) <= MAX_NODES:
            raise head.error("names", f"there must be 1 to {MAX_NODES} nodes", "list the nodes")
        for name in names:
            with problems.gathered():
                if name in seen or name == COORDINATOR or not _NAME.fullmatch(name):
                    rule = f"{name[:64]!r} must be a name of its own of letters, digits and _ . -"
                    raise head.error("names", rule, "rename the node")
                seen.add(name)
                section = ini.section(name)
                node = ArtifactNode(
                    name=name,
                    machine_type=section.text("machine_type"),
                    machine=_machine(section),
                    kv_capacity_layer_tokens=section.whole("kv_cache_capacity", minimum=1, maximum=10**15),
                )
                nodes.append(node)
    return nodes


def _links(ini: IniFile, nodes: set[str], problems: Problems) -> list[ArtifactLink]:
    links: dict[tuple[str, str], ArtifactLink] = {}
    names: list[str] = []
    with problems.gathered():
        names = ini.section("Links").strings("names")
    for name in names:
        with problems.gathered():
            section = ini.section(name)
            ends = []
            for key, end in (("in", "source"), ("out", "sink")):
                text = section.text(key)
                if text != end and text not in nodes:
                    raise section.error(key, f"it must be {end} or a node of [ComputeNodes]", "correct the end")
                ends.append(COORDINATOR if text == end else text)
            source, target = ends
            if source == target or (source, target) in links:
                rule = "a link must join two different nodes, and be the only one from the first to the second"
                raise section.error("out", rule, "remove the link")
            links[source, target] = ArtifactLink(
                source=source,
                target=target,
                bandwidth_bytes_per_s=section.number("bandwidth", RATE),
                latency_s=section.number("latency", TIME, zero=True),
            )
    return list(links.values())


def _placement(ini: IniFile, layers: int, problems: Problems) -> tuple[dict[str, LayerRange | None], int]:
    offset = 0
    with problems.gathered():
        offset = ini.section("Settings").whole("offset", minimum=0, maximum=MAX_OFFSET)
    ranges: dict[str, LayerRange | None] = {}
    with problems.gathered():
        section = ini.section("Solution")
        for name in section.entries:
            with problems.gathered():
                held = section.wholes(name)
                if held != list(range(held[0], held[0] + len(held))) if held else False:
                    rule = "layers must be contiguous and rising"
                    raise section.error(name, rule, "give the node one range of layers")
                if held and not 0 <= held[0] <= held[-1] < layers:
                    rule = f"layers must be 0 to {layers - 1}"
                    raise section.error(name, rule, "correct the layers, or import with the model they are for")
                ranges[name] = LayerRange(held[0], held[-1] + 1) if held else None
    return ranges, offset


def _kinds(ini: IniFile, offset: int, problems: Problems) -> dict[str, str]:
    """Node name -> machine type, for every node of the cluster file."""
    kinds: dict[str, str] = {}
    with problems.gathered():
        total = ini.section("NodeNames").whole("total_compute_nodes", minimum=1, maximum=MAX_NODES)
        for number in range(total):
            name = f"ComputeNode-{number}"
            if len(problems.found) > 100:
                break
            with problems.gathered():
                kind = ini.section(name).text("type")
                if not _MACHINE.fullmatch(kind):
                    raise ini.section(name).error("type", "it must be a name of letters, digits and _", "correct it")
                kinds[f"compute_node_{number + offset}"] = kind
    return kinds


def _check_placement(
    files: Mapping[str, IniFile],
    nodes: Mapping[str, ArtifactNode],
    kinds: Mapping[str, str],
    ranges: Mapping[str, LayerRange | None],
    layers: int,
    problems: Problems,
) -> dict[str, LayerRange]:
    """Nodes must be known and have their layers, every layer must be on a node that takes part; returns those."""
    solution = files["placement"].section("Solution")
    for name, held in ranges.items():
        if held is not None and name not in kinds and name not in nodes:
            with problems.gathered():
                rule = f"{name} must be a node of {files['links'].file} or {files['cluster'].file}"
                raise solution.error(name, rule, "remove it, or take the links file of this placement")
    for name in nodes:
        if name not in ranges:
            with problems.gathered():
                rule = f"{name} of {files['links'].file} must have its layers here"
                raise solution.error(name, rule, "add it (with [] for no layers), or take the placement of these links")
    taking_part = {name: held for name in nodes if (held := ranges.get(name)) is not None}
    held_layers = {layer for held in taking_part.values() for layer in range(held.start, held.stop)}
    missing = [layer for layer in range(layers) if layer not in held_layers]
    if missing:
        with problems.gathered():
            rule = f"every layer needs a node, but none holds {', '.join(map(str, missing[:10]))}"
            file = files["placement"].file
            raise problem(file, solution.line, "[Solution]", None, rule, "place these layers, or check the model")
    return taking_part


def _check_nodes(
    files: Mapping[str, IniFile],
    nodes: list[ArtifactNode],
    kinds: Mapping[str, str],
    types: Mapping[str, Machine],
    problems: Problems,
) -> None:
    """Machine types and their figures must be the same in cluster, machine and simulator files."""
    for node in nodes:
        section = files["links"].section(node.name)
        with problems.gathered():
            if node.name not in kinds:
                rule = f"{node.name} must be a node of {files['cluster'].file} (number plus the placement's offset)"
                raise section.error("machine_type", rule, "take the cluster file of these links, or correct the offset")
            if kinds[node.name] != node.machine_type:
                rule = f"the type must be {kinds[node.name]}, as in {files['cluster'].file}"
                raise section.error("machine_type", rule, "correct one of the files")
        kind = types.get(node.machine_type)
        for key, attribute in (
            ("inbound_nic_speed", "nic_in_bytes_per_s"),
            ("outbound_nic_speed", "nic_out_bytes_per_s"),
            ("disk_speed", "disk_bytes_per_s"),
            ("vram_size", "vram_bytes"),
        ):
            if kind is not None:
                with problems.gathered():
                    _agree(section, key, getattr(node.machine, attribute), getattr(kind, attribute), files["machines"])
    for name, machine_type in {**kinds, **{node.name: node.machine_type for node in nodes}}.items():
        if machine_type not in types:
            with problems.gathered():
                rule = f"there must be a section for the machine type of {name}"
                raise problem(
                    files["machines"].file, None, f"[{machine_type[:32]}]", None, rule, "add the machine type"
                )


def _check_links(cluster: IniFile, links: IniFile, arcs: list[ArtifactLink], offset: int, problems: Problems) -> None:
    """Where the cluster file has a link, in this direction or else in the other, it must be the same link."""

    def number(name: str, coordinator: str) -> str:
        digits = name.removeprefix("compute_node_")
        return coordinator if name == COORDINATOR else str(int(digits) - offset) if digits.isdecimal() else name

    for name, arc in zip(links.section("Links").strings("names"), arcs, strict=True):
        source, target = number(arc.source, "source"), number(arc.target, "sink")
        there = cluster.sections.get(f"Link-{source}-{target}") or cluster.sections.get(f"Link-{target}-{source}")
        if there is not None:
            with problems.gathered():
                section = links.section(name)
                _agree(section, "bandwidth", arc.bandwidth_bytes_per_s, there.number("bandwidth", RATE), cluster)
                _agree(section, "latency", arc.latency_s, there.number("latency", TIME, zero=True), cluster)


def _coordinator(files: Mapping[str, IniFile], problems: Problems) -> tuple[float, float]:
    """Receiving and sending rate; the machine file calls the coordinator's two ends sink and source."""
    rates = [math.inf, math.inf]
    for place, (key, end) in enumerate((("inbound_nic_speed", "SinkNode"), ("outbound_nic_speed", "SourceNode"))):
        with problems.gathered():
            section = files["links"].section("Coordinator")
            rates[place] = section.number(key, RATE)
            there = files["machines"].section(end).number(key, RATE, unlimited=True)
            if there > 0:
                _agree(section, key, rates[place], there, files["machines"])
    return rates[0], rates[1]


def _agree(section: IniSection, key: str, value: float, there: float, other: IniFile) -> None:
    if not math.isclose(value, there, rel_tol=_AGREE):
        rule = f"it is {value:g}, but must be {there:g} as in {other.file} (bytes, bytes/s, seconds)"
        raise section.error(key, rule, "correct one of the files")
