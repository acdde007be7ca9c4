"""The network of batching stations that a placement and its edge flows make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from placement.cluster import COORDINATOR, Cluster
from placement.errors import PlanError
from placement.layers import Placement
from placement.model import ModelSpec
from placement.profile import MachineProfile

USED_SHARE = 1e-9
"""A link that carries less than this share of a machine's outflow is not used; what it carries is rounding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """How the scheduler spreads requests and what it lets into the KV caches (HELIX.md section 4).

    Attributes:
        link_flow: ``(source, target) -> tokens/s``; requests leave a machine in proportion to these.
        high_water_mark: Share of a node's KV cache that expected use may fill; infinite where it does not look.
        expected_output_tokens: Output tokens that an admitted request is expected to need.
        minimum_flow_share: Links with less than this share of their machine's outflow are not used.
    """

    link_flow: Mapping[tuple[str, str], float]
    high_water_mark: float = 0.9
    expected_output_tokens: float = 144.0
    minimum_flow_share: float = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A link that requests take.

    Attributes:
        target: Index of the station that it leads to; -1 for the coordinator.
        segment: Segment of that station at which requests enter.
        share: Part of its machine's requests that take it.
        seconds_per_token: Transmission time of one token.
        latency_s: One-way delay.
    """

    target: int
    segment: int
    share: float
    seconds_per_token: float
    latency_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Station:
    """A node that holds layers and is used.

    Attributes:
        name: Node name.
        layers: Layers of each segment, a segment being what lies between two layers at which requests enter.
        profile: How its machine type runs the model.
        held: The layers ``(start, stop)``.
        kv_tokens: KV capacity in tokens, all held layers together counted once.
        ways: Links that leave it.
    """

    name: str
    layers: tuple[int, ...]
    profile: MachineProfile
    held: tuple[int, int]
    kv_tokens: float
    ways: tuple[Way, ...] = field(default=())


@dataclass(frozen=True, slots=True, kw_only=True)
class StationNetwork:
    """Stations in the order in which requests pass them (by the end of their range), and the ways into them.

    Attributes:
        stations: Every station's ways lead to later ones, or back to the coordinator.
        entries: Ways that leave the coordinator.
        routing: What they were built from.
        host_s_per_token: Time that a batch's first layer pays for each newly arrived token.
    """

    stations: tuple[Station, ...]
    entries: tuple[Way, ...]
    routing: Routing
    host_s_per_token: float


def station_network(
    cluster: Cluster,
    model: ModelSpec,
    profiles: Mapping[str, MachineProfile],
    placement: Placement,
    routing: Routing,
    *,
    host_s_per_byte: float = 1 / 4e9 + 1 / 5e9,
) -> StationNetwork:
    """Build the network of all stations that requests reach.

    Args:
        cluster: Nodes and links.
        model: The served model.
        profiles: Machine type -> profile.
        placement: Who holds which layers.
        routing: Edge flows and what the scheduler makes of them.
        host_s_per_byte: Host time for each byte of newly arrived activations.

    Raises:
        PlanError: No flow leaves the coordinator.
    """
    shares = _used_shares(routing)
    if COORDINATOR not in shares:
        raise PlanError("serving model: no flow leaves the coordinator; the placement serves nothing")
    names = [name for name in _reached(shares) if name != COORDINATOR]
    names.sort(key=lambda name: (placement[name].stop, placement[name].start))
    position = {name: index for index, name in enumerate(names)}
    entered: dict[str, set[int]] = {name: {placement[name].start} for name in names}
    for source, targets in shares.items():
        for target in targets:
            if target != COORDINATOR and (source == COORDINATOR or source in position):
                entered[target].add(0 if source == COORDINATOR else placement[source].stop)
    starts = {name: sorted(layers) for name, layers in entered.items()}

    def ways_of(source: str) -> tuple[Way, ...]:
        return tuple(
            _way(cluster, model, placement, starts, position, source, target, share)
            for target, share in shares.get(source, {}).items()
        )

    stations: list[Station] = []
    for name in names:
        node, held = cluster.node(name), placement[name]
        stops = [*starts[name][1:], held.stop]
        profile = profiles[node.machine_type]
        capacity = node.kv_capacity_layer_tokens or profile.kv_capacity_layer_tokens(len(held))
        stations.append(
            Station(
                name=name,
                layers=tuple(stop - start for start, stop in zip(starts[name], stops, strict=True)),
                profile=profile,
                held=(held.start, held.stop),
                kv_tokens=capacity / len(held),
                ways=ways_of(name),
            )
        )
    return StationNetwork(
        stations=tuple(stations),
        entries=ways_of(COORDINATOR),
        routing=routing,
        host_s_per_token=model.activation_bytes * host_s_per_byte,
    )


def _used_shares(routing: Routing) -> dict[str, dict[str, float]]:
    """Source -> target -> share of its requests; trickles are left out as the scheduler does."""
    leaving: dict[str, dict[str, float]] = {}
    for (source, target), flow in routing.link_flow.items():
        if flow > 0:
            leaving.setdefault(source, {})[target] = flow
    used: dict[str, dict[str, float]] = {}
    for source, targets in leaving.items():
        total = sum(targets.values())
        floor = routing.minimum_flow_share * total
        if sum(flow for flow in targets.values() if flow >= floor) < total / 2:
            floor = routing.minimum_flow_share * max(targets.values())
        kept = {target: flow for target, flow in targets.items() if flow >= max(floor, USED_SHARE * total)}
        whole = sum(kept.values())
        used[source] = {target: flow / whole for target, flow in kept.items()}
    return used


def _reached(shares: Mapping[str, Mapping[str, float]]) -> dict[str, None]:
    seen: dict[str, None] = {COORDINATOR: None}
    frontier = [COORDINATOR]
    while frontier:
        for target in shares.get(frontier.pop(), {}):
            if target not in seen:
                seen[target] = None
                frontier.append(target)
    return seen


def _way(
    cluster: Cluster,
    model: ModelSpec,
    placement: Placement,
    starts: Mapping[str, list[int]],
    position: Mapping[str, int],
    source: str,
    target: str,
    share: float,
) -> Way:
    link = cluster.link(source, target)
    if link is None:
        raise PlanError(f"serving model: flow on {source} -> {target}, where cluster {cluster.name} has no link")
    out = cluster.coordinator if source == COORDINATOR else cluster.node(source)
    into = cluster.coordinator if target == COORDINATOR else cluster.node(target)
    rate = min(link.bandwidth_bytes_per_s, out.nic_out_bytes_per_s, into.nic_in_bytes_per_s)
    size = model.token_bytes if COORDINATOR in (source, target) else model.hop_bytes
    entry = 0 if source == COORDINATOR else placement[source].stop
    return Way(
        target=-1 if target == COORDINATOR else position[target],
        segment=0 if target == COORDINATOR else starts[target].index(entry),
        share=share,
        seconds_per_token=size / rate,
        latency_s=link.latency_s,
    )
