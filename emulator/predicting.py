"""From an emulation's spec to the serving model's values."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

from emulator.schedulers.max_flow import MaxFlowPolicy
from emulator.spec import EdgeFlows, EmulationSpec, FirstToken
from emulator.workload import ClosedLoop, Lengths, OpenLoop, RandomArrivals, Refill
from placement.flow import build_flow_graph, max_flow
from placement.planners.balanced_flow import balanced_flow
from placement.serving.load import Load
from placement.serving.model import Effort, Objectives, Prediction, predict
from placement.serving.network import Routing, StationNetwork, station_network
from placement.throughput import AVERAGE_OUTPUT_TOKENS, ThroughputModel

BRIEF = Effort(settling_s=8.0, least_s=20.0, most_s=100.0, ends=50)
"""Enough to tell which of several placements serves more."""
SAMPLE = 2000
"""So many requests of the workload stand for its distribution of lengths."""


def predict_run(spec: EmulationSpec, effort: Effort | None = None) -> Prediction:
    """What the serving model expects of a run in its steady state.

    Of the scheduler policies it knows ``max-flow``; others are taken to split evenly and to look at no KV cache.

    Raises:
        PlanError: Nothing flows through the placement.
    """
    slo = spec.slo
    objectives = Objectives(
        ttft_s=math.inf if slo.ttft_s is None else slo.ttft_s,
        tpot_s=math.inf if slo.tpot_s is None else slo.tpot_s,
        e2e_s=math.inf if slo.e2e_s is None else slo.e2e_s,
    )
    return predict(serving_network(spec), serving_load(spec), objectives, effort)


def serving_network(spec: EmulationSpec) -> StationNetwork:
    """The stations and ways of a spec's placement."""
    host = spec.host_cost
    return station_network(
        spec.cluster,
        spec.model,
        spec.profiles,
        spec.placement,
        _routing(spec),
        host_s_per_byte=1 / host.concat_bytes_per_s + 1 / host.transfer_bytes_per_s,
    )


def _routing(spec: EmulationSpec) -> Routing:
    throughput = ThroughputModel(spec.model, spec.profiles, spec.cluster.machine_counts())
    graph = build_flow_graph(
        spec.cluster, spec.model, spec.placement, throughput, partial_inference=spec.partial_inference
    )
    flow = max_flow(graph)
    if spec.scheduler.policy != MaxFlowPolicy.name:
        # Dead ends carry no flow and are no way; whatever carries some is taken by the others like.
        even = {pair: 1.0 for pair, amount in flow.link_flow.items() if amount > 0}
        return Routing(link_flow=even, high_water_mark=math.inf, expected_output_tokens=AVERAGE_OUTPUT_TOKENS / 2)
    if spec.scheduler.edge_flows is EdgeFlows.BALANCED:
        flow = balanced_flow(graph, flow, kv_tokens(spec))
    options = {**MaxFlowPolicy.default_options, **spec.scheduler.options}
    return Routing(
        link_flow=flow.link_flow,
        high_water_mark=float(options["expected_kv_high_water_mark"]),  # type: ignore[arg-type]
        expected_output_tokens=AVERAGE_OUTPUT_TOKENS * float(options["expected_output_ratio"]),  # type: ignore[arg-type]
        minimum_flow_share=float(options["minimum_flow_share"]),  # type: ignore[arg-type]
    )


def kv_tokens(spec: EmulationSpec) -> dict[str, float]:
    """Node -> tokens that its KV cache holds, all held layers together counted once."""
    capacities: dict[str, float] = {}
    for node in spec.cluster.nodes:
        if node.name in spec.placement:
            layers = len(spec.placement[node.name])
            capacity = node.kv_capacity_layer_tokens
            capacity = capacity or spec.profiles[node.machine_type].kv_capacity_layer_tokens(layers)
            capacities[node.name] = capacity / layers
    return capacities


def serving_load(spec: EmulationSpec) -> Load:
    """A spec's workload as the model takes it."""
    workload = spec.workload
    # Where the first decode emits the first token, a request has one decode more.
    more = 0 if spec.first_token is FirstToken.PREFILL else 1
    lengths = tuple(
        (each.prompt_tokens, each.output_tokens + more) for each in itertools.islice(_lengths(spec), SAMPLE)
    )
    if isinstance(workload, OpenLoop):
        source = workload.source
        burstiness = source.burstiness if isinstance(source, RandomArrivals) else 1.0
        return Load(lengths=lengths, requests_per_s=arrival_rate(spec), burstiness=burstiness)
    if workload.refill is Refill.CONSTANT:
        return Load(lengths=lengths, in_flight=workload.initial_requests, spacing_s=workload.spacing_s)
    return Load(lengths=lengths, feed_mark=workload.feed_high_water_mark, spacing_s=workload.spacing_s)


def _lengths(spec: EmulationSpec) -> Iterator[Lengths]:
    workload = spec.workload
    if isinstance(workload, ClosedLoop):
        yield from workload.lengths.draws(spec.seed)
        return
    for arrival in workload.source.arrivals(spec.seed):
        yield Lengths(arrival.prompt_tokens, arrival.output_tokens)


def arrival_rate(spec: EmulationSpec) -> float:
    """Mean requests/s of an open loop, over the run's duration where it is a trace."""
    workload = spec.workload
    assert isinstance(workload, OpenLoop)
    if isinstance(workload.source, RandomArrivals):
        return workload.source.requests_per_s
    arrivals = [each.at_s for each in workload.source.arrivals(spec.seed) if each.at_s <= spec.duration_s]
    return max(1, len(arrivals)) / spec.duration_s
