"""Specs of random small runs: overlapping layer ranges, several nodes a stage, no two figures alike."""

from __future__ import annotations

import itertools
import random
from typing import Any

from emulator.emulation import Emulation
from emulator.spec import EmulationSpec, LinkSharing, SchedulerSpec
from emulator.workload import ClosedLoop, Lengths, ListedLengths, Refill, Workload
from placement.cluster import COORDINATOR, Cluster, Coordinator, Link, Network, Node
from placement.layers import LayerRange, Placement
from placement.model import ModelSpec
from placement.profile import LatencyTable, LayerLimits, MachineProfile

LAYERS = 6
LONGEST_PROMPT, LONGEST_OUTPUT = 100, 12


def random_placement(rng: random.Random) -> Placement:
    """One to three stages of one or two nodes; nodes reach back, so that requests enter them at middle layers."""
    cuts = [0, *sorted(rng.sample(range(1, LAYERS), rng.randint(0, 2))), LAYERS]
    held: dict[str, LayerRange] = {}
    for start, stop in itertools.pairwise(cuts):
        for _ in range(rng.randint(1, 2)):
            held[f"n{len(held)}"] = LayerRange(max(0, start - rng.randint(0, 2)), stop)
    return Placement(held)


def random_profile(rng: random.Random, machine: str) -> MachineProfile:
    """A machine type with tight limits on batches."""
    prefill_s, decode_s = rng.uniform(0.003, 0.02), rng.uniform(0.001, 0.005)
    decodes = rng.randint(1, 4)
    longest = LONGEST_PROMPT + LONGEST_OUTPUT
    limits = LayerLimits(kv_blocks=10_000, max_prompts=rng.randint(1, 2), max_decode_sequences=decodes)
    return MachineProfile(
        machine_type=machine,
        model="random",
        prefill=LatencyTable((0, 30, 100), (0.0, prefill_s * rng.uniform(0.4, 0.8), prefill_s)),
        decode=LatencyTable((0, 1, 4), (0.0, decode_s, decode_s * rng.uniform(1.1, 2.0))),
        limits=dict.fromkeys(range(1, LAYERS + 1), limits),
        max_prompt_tokens=LONGEST_PROMPT + rng.randint(0, 40),
        # Every request can decode alone, but not always beside others.
        decode_context_per_sequence=-(-longest // decodes) + rng.randint(0, 40),
        single_decode_factor=rng.uniform(1.0, 2.0),
        typical_layers=LAYERS,
        tight_typical_layers=LAYERS,
        first_perf=100.0,
    )


def random_cluster(rng: random.Random, placement: Placement, kv_tokens: tuple[int, int]) -> Cluster:
    """A machine type of its own for each node; KV caches for ``kv_tokens`` (least, most) tokens in all layers."""
    nodes = tuple(
        Node(
            name=name,
            machine_type=f"type of {name}",
            nic_in_bytes_per_s=rng.uniform(2e6, 2e7),
            nic_out_bytes_per_s=rng.uniform(2e6, 2e7),
            disk_bytes_per_s=1e9,
            vram_bytes=1e12,
            kv_capacity_layer_tokens=rng.randint(*kv_tokens) * len(placement[name]),
        )
        for name in placement
    )
    ends = [COORDINATOR, *placement]
    links = {pair: Link(rng.uniform(1e6, 1e7), rng.uniform(0.001, 0.02)) for pair in itertools.permutations(ends, 2)}
    coordinator = Coordinator(nic_in_bytes_per_s=rng.uniform(2e6, 2e7), nic_out_bytes_per_s=rng.uniform(2e6, 2e7))
    return Cluster(name="random", nodes=nodes, coordinator=coordinator, network=Network(links=links))


def random_lengths(rng: random.Random) -> ListedLengths:
    return ListedLengths(
        [Lengths(rng.randint(1, LONGEST_PROMPT), rng.randint(1, LONGEST_OUTPUT)) for _ in range(rng.randint(5, 40))]
    )


def closed(rng: random.Random, in_flight: int, refill: Refill = Refill.CONSTANT) -> ClosedLoop:
    return ClosedLoop(
        lengths=random_lengths(rng), initial_requests=in_flight, refill=refill, spacing_s=rng.uniform(0.01, 0.1)
    )


def random_spec(
    seed: int,
    policy: str = "max-flow",
    *,
    in_flight: int = 8,
    workload: Workload | None = None,
    kv_tokens: tuple[int, int] = (3_000, 6_000),
    options: dict[str, object] | None = None,
    **changes: Any,
) -> EmulationSpec:
    """A small cluster that ``seed`` determines, under a closed loop unless ``workload`` is given."""
    rng = random.Random(seed)
    placement = random_placement(rng)
    profiles = {f"type of {name}": random_profile(rng, f"type of {name}") for name in placement}
    fields: dict[str, Any] = {
        "name": "random",
        "seed": seed,
        "duration_s": 3.0,
        "model": ModelSpec(name="random", layers=LAYERS, hidden_size=50, layer_bytes=1e9),
        "profiles": profiles,
        "cluster": random_cluster(rng, placement, kv_tokens),
        "placement": placement,
        "scheduler": SchedulerSpec(policy=policy, options=options or {}),
        "workload": workload or closed(rng, in_flight),
        "sharing": LinkSharing.CLOCKS,
    }
    return EmulationSpec(**{**fields, **changes})


def step_through(emulation: Emulation) -> None:
    """Run like :meth:`Emulation.run` with ``drain``, checking the books after every event."""
    env, state = emulation.env, emulation.state
    while env.peek() <= emulation.spec.duration_s or (
        state.coordinator.open_requests and env.peek() <= 100 * emulation.spec.duration_s
    ):
        env.step()
        state.check_invariants()
