"""The emulator against an independent model in which every layer, message and link turn is an event."""

from __future__ import annotations

import csv
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
from artifact import ARTIFACT, artifact_model, artifact_profiles, needs_artifact, read_cluster, read_placement
from hypothesis import event, given, settings
from hypothesis import strategies as st
from layer_by_layer import Feeder, KvRoomFeeder, LayerByLayer, Machine, Msg, SwarmFeeder, Wire
from random_runs import random_spec

from emulator.emulation import Emulation
from emulator.node import GpuNode
from emulator.requests import Request
from emulator.spec import EmulationSpec, FirstToken, LinkSharing, SchedulerSpec, WhenNoRoute
from emulator.workload import ClosedLoop, Lengths, ListedLengths, Refill

HIGH_WATER_MARK, OUTPUT_RATIO, FEED = 0.85, 1.0, 0.8
MAX_FLOW_OPTIONS: dict[str, object] = {
    "expected_kv_high_water_mark": HIGH_WATER_MARK,
    "expected_output_ratio": OUTPUT_RATIO,
}
Token = tuple[int, int, int, float]
"""Prompt tokens and output tokens of the request, number of the token, time."""


TIE_S = 1e-9
"""Whoever comes to a machine within this time of something else there may come before or after it."""
TIE_AT_COORDINATOR_S = 2e-6
"""The coordinator takes tokens in together that come within a microsecond."""


class RecordingOracle(LayerByLayer):
    """Notes every token, and the first tie: machines that queue for each other fall in step to the last bit."""

    def __init__(self, feeder: Feeder) -> None:
        super().__init__(feeder)
        self.tokens: list[Token] = []
        self.first_tie_s = math.inf
        self._last: dict[str, tuple[float, str]] = {}

    def gathered(self, msg: Msg) -> None:
        self._note("coordinator", msg.query.path[-1].name, TIE_AT_COORDINATOR_S)
        if not msg.prefill:
            self.tokens.append((msg.query.prompt, msg.query.output, msg.query.done + 1, self.now))
        super().gathered(msg)

    def requested(self) -> None:
        self._note("coordinator", "request", TIE_AT_COORDINATOR_S)

    def arrived(self, wire: Wire, msg: Msg) -> None:
        if wire.target is not None:
            self._note(wire.target.name, wire.name, TIE_S)
        super().arrived(wire, msg)

    def end(self, machine: Machine, batch: list[Msg]) -> None:
        self._note(machine.name, "end of a layer", TIE_S)
        super().end(machine, batch)

    def _note(self, place: str, source: str, tie_s: float) -> None:
        time, before = self._last.get(place, (-math.inf, ""))
        if before != source and self.now - time < tie_s:
            self.first_tie_s = min(self.first_tie_s, time)
        self._last[place] = (self.now, source)


def machine_of(node: GpuNode, activation_bytes: float) -> Machine:
    profile = node.profile

    def decode(sequences: int) -> float:
        return profile.decode.at(sequences) * (profile.single_decode_factor if sequences == 1 else 1)

    return Machine(
        node.name,
        node.held.start,
        node.held.stop,
        profile.prefill.at,
        decode,
        node.max_prompts,
        node.max_prompt_tokens,
        node.max_decodes,
        node.max_decode_context,
        activation_bytes,
    )


def oracle_of(emulation: Emulation) -> RecordingOracle:
    """The slow model of what ``emulation`` is about to run."""
    spec, state = emulation.spec, emulation.state
    workload = spec.workload
    assert isinstance(workload, ClosedLoop)
    assert isinstance(workload.lengths, ListedLengths)
    machines = [machine_of(node, spec.model.activation_bytes) for node in state.nodes]
    wires = [
        Wire(
            link.name,
            link.clock.bytes_per_s,
            link.clock.latency_s,
            link.bytes_per_token,
            None if link.source is None else machines[link.source.index],
            None if link.node is None else machines[link.node.index],
            link.entry_layer,
        )
        for link in state.links
    ]
    for wire in wires:
        if wire.source is not None:
            wire.source.out.append(wire)
    entry = [wire for wire in wires if wire.source is None]
    lengths = [(one.prompt_tokens, one.output_tokens) for one in workload.lengths.lengths]
    count = workload.initial_requests
    feeder: Feeder
    if spec.scheduler.policy == "max-flow":
        flows = {link.name: state.flow_of(link) for link in state.links}
        capacity = {node.name: float(node.kv_capacity) for node in state.nodes}
        feeder = KvRoomFeeder(
            entry, machines, flows, capacity, spec.model.layers, lengths, count, HIGH_WATER_MARK, OUTPUT_RATIO, FEED
        )
    elif spec.scheduler.policy == "swarm":
        feeder = SwarmFeeder(entry, wires, lengths, count)
    else:
        path = [entry[0]]
        while path[-1].target is not None:
            (only,) = path[-1].target.out
            path.append(only)
        feeder = Feeder(path, lengths, count)
    return RecordingOracle(feeder)


def compare(spec: EmulationSpec, *, until_tie: bool = False) -> int:
    """Assert that both give every token at the same time; returns how many there were."""
    emulation = Emulation(spec)
    oracle = oracle_of(emulation)
    tokens: list[Token] = []

    def on_token(request: Request, time: float) -> None:
        tokens.append((request.prompt_tokens, request.output_tokens, request.emitted_tokens, time))

    emulation.state.coordinator.on_token = on_token
    emulation.env.run_to(spec.duration_s)
    oracle.run(spec.duration_s)
    until_s = min(oracle.first_tie_s, spec.duration_s) - 1e-6 if until_tie else spec.duration_s
    found = sorted(token for token in tokens if token[3] < until_s)
    expected = sorted(token for token in oracle.tokens if token[3] < until_s)
    assert [token[:3] for token in found] == [token[:3] for token in expected]
    assert [token[3] for token in found] == pytest.approx([token[3] for token in expected], rel=0, abs=1e-9)
    if not until_tie:
        prefills = sorted(emulation.state.metrics.prefill.samples)
        assert prefills == pytest.approx(sorted(latency for _, latency in oracle.prefills), rel=0, abs=1e-9)
    return len(found)


def reference_spec(model: str, folder: str, solution: str, links: str, policy: str, count: int) -> EmulationSpec:
    layout = ARTIFACT / "single_cluster" / folder
    with (ARTIFACT / "traces/offline_seed0.csv").open() as file:
        lengths = [Lengths(int(row[0]), int(row[1])) for row in list(csv.reader(file))[1:]]
    max_flow = policy == "max-flow"
    return EmulationSpec(
        name=folder,
        duration_s=60.0,
        model=artifact_model(model),
        profiles=artifact_profiles(model),
        cluster=read_cluster(layout / links),
        placement=read_placement(layout / solution),
        scheduler=SchedulerSpec(policy=policy, options=MAX_FLOW_OPTIONS if max_flow else {}),
        workload=ClosedLoop(
            lengths=ListedLengths(lengths),
            initial_requests=count,
            refill=Refill.KV_ROOM if max_flow else Refill.CONSTANT,
        ),
        sharing=LinkSharing.SHARES,
        first_token=FirstToken.DECODE,
        when_no_route=WhenNoRoute.REJECT,
    )


def ilp(part: str) -> tuple[str, str, str]:
    return "layout_llama30b", f"ilp/{part}/ilp_sol.ini", f"ilp/{part}/simulator_cluster.ini"


def separate(part: str) -> tuple[str, str, str]:
    return "layout_llama30b", f"separate/{part}_solution_file.ini", f"separate/{part}_simulator_cluster.ini"


REFERENCE_RUNS: dict[str, tuple[Callable[[], EmulationSpec], float]] = {
    "30b-ilp-a100": (lambda: reference_spec("llama-1-30b", *ilp("a100"), "max-flow", 20), 60.0),
    "30b-ilp-l4": (lambda: reference_spec("llama-1-30b", *ilp("l4"), "max-flow", 20), 100.0),
    "30b-ilp-t4": (lambda: reference_spec("llama-1-30b", *ilp("t4"), "max-flow", 20), 100.0),
    "30b-separate-a100": (lambda: reference_spec("llama-1-30b", *separate("a100"), "random", 30), 60.0),
    "70b-ilp": (
        lambda: reference_spec(
            "llama-2-70b", "layout_llama70b", "ilp/ilp_sol.ini", "ilp/simulator_cluster.ini", "max-flow", 20
        ),
        90.0,
    ),
    "70b-swarm": (
        lambda: reference_spec(
            "llama-2-70b", "layout_llama70b", "swarm/swarm_sol.ini", "swarm/simulator_cluster.ini", "swarm", 180
        ),
        60.0,
    ),
}


@needs_artifact
@pytest.mark.parametrize("run", REFERENCE_RUNS)
def test_reference_cluster_token_by_token(run: str) -> None:
    spec, duration_s = REFERENCE_RUNS[run]
    assert compare(dataclasses.replace(spec(), duration_s=duration_s)) > 1000


def random_reference_spec(seed: int, policy: str, in_flight: int, **changes: Any) -> EmulationSpec:
    spec = random_spec(seed, policy, in_flight=in_flight, options=MAX_FLOW_OPTIONS if policy == "max-flow" else {})
    assert isinstance(spec.workload, ClosedLoop)
    refill = Refill.KV_ROOM if policy == "max-flow" else Refill.CONSTANT
    return dataclasses.replace(
        spec,
        workload=dataclasses.replace(spec.workload, refill=refill, spacing_s=0.1),
        sharing=LinkSharing.SHARES,
        first_token=FirstToken.DECODE,
        when_no_route=WhenNoRoute.REJECT,
        **changes,
    )


def test_random_clusters_are_seldom_cut_short_by_a_tie() -> None:
    compared = [compare(random_reference_spec(seed, "max-flow", 8), until_tie=True) for seed in range(20)]
    assert sum(compared) > 2000


@given(st.integers(0, 1 << 32), st.sampled_from(["max-flow", "swarm"]), st.integers(1, 15))
@settings(max_examples=150, deadline=None)
def test_random_cluster_token_by_token(seed: int, policy: str, in_flight: int) -> None:
    event(f"{compare(random_reference_spec(seed, policy, in_flight), until_tie=True) // 50 * 50} tokens or more")
