"""Specs of small runs whose figures can be worked out by hand."""

from collections.abc import Sequence
from typing import Any

from emulator.spec import EmulationSpec, SchedulerSpec
from emulator.workload import Arrival, ClosedLoop, FixedLengths, ListedArrivals, OpenLoop, Refill
from placement.cluster import Cluster, Coordinator, Link, Network, Node
from placement.layers import LayerRange, Placement
from placement.model import ModelSpec
from placement.profile import LatencyTable, LayerLimits, MachineProfile

MODEL = ModelSpec(name="toy", layers=4, hidden_size=500, layer_bytes=1e9)
"""2 bytes a token at the coordinator, 1,002 between nodes."""
PREFILL_S_PER_TOKEN = 1e-4
DECODE_S = 0.01
"""Of one layer, whatever the number of sequences."""


def toy_profile(
    *,
    machine: str = "gpu",
    layers: int = 4,
    kv_blocks: int = 10_000,
    max_prompts: int = 4,
    max_decodes: int = 64,
    single_decode_factor: float = 1.0,
    speed: float = 1.0,
) -> MachineProfile:
    return MachineProfile(
        machine_type=machine,
        model="toy",
        prefill=LatencyTable((0, 1000), (0.0, 1000 * PREFILL_S_PER_TOKEN / speed)),
        decode=LatencyTable((0, 1, 1000), (0.0, DECODE_S / speed, DECODE_S / speed)),
        limits={
            held: LayerLimits(kv_blocks=kv_blocks, max_prompts=max_prompts, max_decode_sequences=max_decodes)
            for held in range(1, layers + 1)
        },
        single_decode_factor=single_decode_factor,
        typical_layers=layers,
        tight_typical_layers=layers,
        first_perf=100,
    )


def toy_cluster(
    names: Sequence[str] = ("n0",),
    *,
    bandwidth: float = 1e6,
    latency: float = 0.005,
    nic: float = 1e12,
    kv_capacity: int | None = None,
    links: dict[tuple[str, str], Link] | None = None,
) -> Cluster:
    nodes = tuple(
        Node(
            name=name,
            machine_type="gpu",
            nic_in_bytes_per_s=nic,
            nic_out_bytes_per_s=nic,
            disk_bytes_per_s=1e9,
            vram_bytes=1e12,
            kv_capacity_layer_tokens=kv_capacity,
        )
        for name in names
    )
    network = Network(links=links) if links else Network(regions={("default", "default"): Link(bandwidth, latency)})
    return Cluster(
        name="toy",
        nodes=nodes,
        coordinator=Coordinator(nic_in_bytes_per_s=nic, nic_out_bytes_per_s=nic),
        network=network,
    )


def placed(**ranges: tuple[int, int]) -> Placement:
    return Placement({name: LayerRange(*held) for name, held in ranges.items()})


def arrivals(*requests: tuple[float, int, int]) -> OpenLoop:
    return OpenLoop(source=ListedArrivals([Arrival(*request) for request in requests]))


def constant(in_flight: int, prompt: int = 100, output: int = 10) -> ClosedLoop:
    return ClosedLoop(
        lengths=FixedLengths(prompt_tokens=prompt, output_tokens=output),
        initial_requests=in_flight,
        refill=Refill.CONSTANT,
    )


def toy_spec(**changes: Any) -> EmulationSpec:
    """One node with all four layers and one request, unless changed."""
    fields: dict[str, Any] = {
        "name": "toy",
        "duration_s": 60.0,
        "model": MODEL,
        "profiles": {"gpu": toy_profile()},
        "cluster": toy_cluster(),
        "placement": placed(n0=(0, 4)),
        "scheduler": SchedulerSpec(policy="max-flow"),
        "workload": arrivals((0.0, 100, 3)),
    }
    return EmulationSpec(**{**fields, **changes})
