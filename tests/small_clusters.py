"""Small models, machines and clusters whose figures can be worked out by hand."""

import itertools
from collections.abc import Mapping, Sequence

from placement.cluster import COORDINATOR, Cluster, Coordinator, Link, Network, Node
from placement.layers import LayerRange, Placement
from placement.model import ModelSpec
from placement.profile import LatencyTable, LayerLimits, MachineProfile

FAST = 1e12
"""Bytes/s that limit nothing."""


class FixedThroughput:
    """Stands in for ThroughputModel: tokens/s per machine type, whatever the number of layers."""

    def __init__(self, rates: Mapping[str, float]) -> None:
        self._rates = rates

    def tokens_per_s(self, machine_type: str, layers: int) -> float:
        return self._rates[machine_type]


def small_model(layers: int, *, token_bytes: float = 2.0, activation_bytes: float = 98.0) -> ModelSpec:
    """A model with 1 GB layers; one token costs 2 bytes at the coordinator and 100 between nodes."""
    return ModelSpec(
        name="small",
        layers=layers,
        hidden_size=49,
        layer_bytes=1e9,
        token_bytes=token_bytes,
        activation_bytes=activation_bytes,
    )


def small_profile(machine_type: str, max_layers: int, *, speed: float = 1.0) -> MachineProfile:
    """A machine that takes 1/speed ms a layer for 100 prompt tokens or 100 sequences."""
    table = LatencyTable((0, 100, 2000), (0.0, 0.001 / speed, 0.02 / speed))
    return MachineProfile(
        machine_type=machine_type,
        model="small",
        prefill=table,
        decode=table,
        limits={
            layers: LayerLimits(kv_blocks=20_000 // layers, max_prompts=2, max_decode_sequences=100)
            for layers in range(1, max_layers + 1)
        },
        typical_layers=1,
        tight_typical_layers=max_layers,
        first_perf=100.0 * speed,
    )


def small_node(
    name: str, machine_type: str = "M", *, nic: float = FAST, vram_gb: float = 1000.0, region: str = "default"
) -> Node:
    return Node(
        name=name,
        machine_type=machine_type,
        region=region,
        nic_in_bytes_per_s=nic,
        nic_out_bytes_per_s=nic,
        disk_bytes_per_s=1e9,
        vram_bytes=vram_gb * 1e9,
    )


def small_cluster(
    nodes: Sequence[Node],
    *,
    links: Mapping[tuple[str, str], float] | None = None,
    bandwidth: float = FAST,
    coordinator_nic: float = FAST,
) -> Cluster:
    """All nodes in one region with ``bandwidth`` between them, or joined by ``links`` (bytes/s) only."""
    if links is None:
        network = Network(regions={("default", "default"): Link(bandwidth, 0.001)})
    else:
        network = Network(links={pair: Link(rate, 0.001) for pair, rate in links.items()})
    return Cluster(
        name="little",
        nodes=tuple(nodes),
        coordinator=Coordinator(nic_in_bytes_per_s=coordinator_nic, nic_out_bytes_per_s=coordinator_nic),
        network=network,
    )


def ranges(**held: tuple[int, int]) -> Placement:
    return Placement({name: LayerRange(start, stop) for name, (start, stop) in held.items()})


def chain_links(*names: str, rate: float = FAST) -> dict[tuple[str, str], float]:
    """Links coordinator -> names[0] -> ... -> coordinator."""
    stops = [COORDINATOR, *names, COORDINATOR]
    return dict.fromkeys(itertools.pairwise(stops), rate)
