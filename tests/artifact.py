"""Reads the data files of the Helix artifact, which lie beside the checkout and are not part of it."""

import ast
import configparser
import csv
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from placement.cluster import COORDINATOR, Cluster, Coordinator, Link, Network, Node
from placement.layers import LayerRange, Placement
from placement.model import ModelSpec
from placement.profile import LatencyTable, LayerLimits, MachineProfile

_ROOT = Path(__file__).resolve().parents[1]
ARTIFACT: Path = Path(os.environ.get("HELIX_ARTIFACT", _ROOT.parent / "shared" / "helix-artifact"))
"""Where the artifact's data files are; the environment variable HELIX_ARTIFACT overrides ../shared/helix-artifact."""

needs_artifact = pytest.mark.skipif(
    not ARTIFACT.is_dir(), reason=f"data files of the Helix artifact are not at {ARTIFACT} (set HELIX_ARTIFACT)"
)

_UNITS = {
    # The artifact divides bytes by what it calls gbps and mbps: 10 gbps there are 1e10 bytes/s (HELIX.md section 7).
    "kbps": 1e3,
    "mbps": 1e6,
    "gbps": 1e9,
    "MB": 1e6,
    "GB": 1e9,
    "MilliSec": 1e-3,
    "Sec": 1.0,
}
_TABLES = {"llama-1-30b": "llama1_30b", "llama-2-70b": "llama2_70b"}


def quantity(text: str) -> float:
    """A number, or ``number * unit``, in bytes/s, bytes or seconds."""
    value = 1.0
    for factor in text.split("*"):
        value *= _UNITS[factor.strip()] if factor.strip() in _UNITS else float(ast.literal_eval(factor.strip()))
    return value


def _machines() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ARTIFACT / "profiles" / "machines.yaml").read_text())
    return loaded


def artifact_model(name: str) -> ModelSpec:
    """``llama-1-30b`` or ``llama-2-70b``."""
    facts = _machines()["models"][name]
    return ModelSpec(
        name=name, layers=facts["layers"], hidden_size=facts["hidden"], layer_bytes=float(facts["layer_bytes"])
    )


def _table(path: Path) -> LatencyTable:
    with path.open() as file:
        rows = [(int(batch), float(milliseconds) / 1e3) for batch, milliseconds in csv.reader(file)]
    return LatencyTable(tuple(batch for batch, _ in rows), tuple(seconds for _, seconds in rows))


def artifact_profiles(model: str) -> dict[str, MachineProfile]:
    """Machine type -> profile of ``model``."""
    facts = _machines()
    typical = facts["typical_layers"][model]
    profiles: dict[str, MachineProfile] = {}
    for kind, machine in facts["machines"][model].items():
        tables = ARTIFACT / "profiles" / _TABLES[model] / kind.lower()
        profiles[kind] = MachineProfile(
            machine_type=kind,
            model=model,
            prefill=_table(tables / "prompt_bs2time.csv"),
            decode=_table(tables / "decode_bs2time.csv"),
            limits={
                layers: LayerLimits(
                    kv_blocks=blocks,
                    max_prompts=machine["max_prompts_per_batch"][layers],
                    max_decode_sequences=machine["max_decode_sequences"][layers],
                )
                for layers, blocks in machine["kv_blocks"].items()
            },
            kv_block_tokens=facts["kv_block_tokens"],
            max_prompt_tokens=facts["max_prompt_tokens"],
            decode_context_per_sequence=facts["decode_context_per_sequence"],
            typical_layers=typical["default"][kind],
            tight_typical_layers=typical["tight"][kind],
            first_perf=facts["first_perf"][model][kind],
        )
    return profiles


def _ini(path: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    with path.open() as file:
        parser.read_file(file)
    return parser


def read_cluster(path: Path) -> Cluster:
    """A ``simulator_cluster.ini``, with the links that it lists, in its order."""
    ini = _ini(path)
    ends = {"source": COORDINATOR, "sink": COORDINATOR}
    links = {}
    for section in ast.literal_eval(ini["Links"]["names"]):
        link = ini[section]
        pair = (ends.get(link["in"], link["in"]), ends.get(link["out"], link["out"]))
        links[pair] = Link(quantity(link["bandwidth"]), quantity(link["latency"]))
    nodes = tuple(
        Node(
            name=name,
            machine_type=ast.literal_eval(ini[name]["machine_type"]),
            nic_in_bytes_per_s=quantity(ini[name]["inbound_nic_speed"]),
            nic_out_bytes_per_s=quantity(ini[name]["outbound_nic_speed"]),
            disk_bytes_per_s=quantity(ini[name]["disk_speed"]),
            vram_bytes=quantity(ini[name]["vram_size"]),
            kv_capacity_layer_tokens=int(ini[name]["kv_cache_capacity"]),
        )
        for name in ast.literal_eval(ini["ComputeNodes"]["names"])
    )
    coordinator = Coordinator(
        nic_in_bytes_per_s=quantity(ini["Coordinator"]["inbound_nic_speed"]),
        nic_out_bytes_per_s=quantity(ini["Coordinator"]["outbound_nic_speed"]),
    )
    return Cluster(name=path.parent.name, nodes=nodes, coordinator=coordinator, network=Network(links=links))


def read_placement(path: Path) -> Placement:
    """A solution file: a list of consecutive layers per node."""
    ranges = {}
    for name, text in _ini(path)["Solution"].items():
        layers = ast.literal_eval(text)
        assert layers == list(range(layers[0], layers[-1] + 1)), f"{path}: {name} holds layers with gaps"
        ranges[name] = LayerRange(layers[0], layers[-1] + 1)
    return Placement(ranges)
