"""Small clusters on which things go wrong."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from emulator.churn.spec import (
    ChurnEvent,
    ChurnSpec,
    CoordinatorRestartEvent,
    Detection,
    End,
    InFlight,
    InFlightPolicy,
    LinkEvent,
    LinkEventKind,
    NodeEvent,
    NodeEventKind,
    NodeTarget,
    PartitionEvent,
    RecoverySpec,
    RegionOutageEvent,
)
from emulator.emulation import Emulation
from emulator.requests import Request
from emulator.spec import EmulationSpec, SchedulerSpec
from placement.cluster import Cluster, Coordinator, Link, Network, Node
from tests.small_runs import constant, placed, toy_spec

NIC = 1e9
REGIONS = {"a": "west", "b": "east", "c": "west", "d": "east", "s": "west", "t": "east"}


def two_regions(bandwidth: float = 1e8, latency: float = 0.005) -> Cluster:
    """Nodes a, c, s in region west with the coordinator, b, d, t in east; every pair is linked."""
    nodes = tuple(
        Node(
            name=name,
            machine_type="gpu",
            region=region,
            nic_in_bytes_per_s=NIC,
            nic_out_bytes_per_s=NIC,
            disk_bytes_per_s=1e9,
            vram_bytes=1e12,
        )
        for name, region in REGIONS.items()
    )
    inside, between = Link(NIC, latency / 5), Link(bandwidth, latency)
    matrix = {
        (one, other): inside if one == other else between for one in ("west", "east") for other in ("west", "east")
    }
    return Cluster(
        name="two-regions",
        nodes=nodes,
        coordinator=Coordinator(region="west", nic_in_bytes_per_s=NIC, nic_out_bytes_per_s=NIC),
        network=Network(regions=matrix),
    )


def nodes(*names: str, choose: int | None = None) -> NodeTarget:
    return NodeTarget(names=names, choose=choose)


def end(*names: str, coordinator: bool = False) -> End:
    return End(nodes=NodeTarget(names=names) if names else None, coordinator=coordinator)


def node_event(at_s: float, kind: NodeEventKind, *names: str, **fields: Any) -> NodeEvent:
    return NodeEvent(at_s=at_s, kind=kind, target=nodes(*names), **fields)


EVENTS: dict[str, tuple[ChurnEvent, ...]] = {
    "crash": (node_event(10, NodeEventKind.CRASH, "a", duration_s=12),),
    "crash for good": (node_event(10, NodeEventKind.CRASH, "b"),),
    "drain": (node_event(10, NodeEventKind.DRAIN, "b", duration_s=12),),
    "drain in a hurry": (node_event(10, NodeEventKind.DRAIN, "b", notice_s=0.2, duration_s=12),),
    "preempt": (node_event(10, NodeEventKind.PREEMPT, "c", notice_s=2.0, duration_s=12),),
    "join": (
        node_event(10, NodeEventKind.CRASH, "d"),
        node_event(25, NodeEventKind.JOIN, "d"),
    ),
    "straggler": (node_event(10, NodeEventKind.STRAGGLER, "a", slowdown=5.0, duration_s=12),),
    "gpu_memory_loss": (node_event(10, NodeEventKind.GPU_MEMORY_LOSS, "b", memory_share=0.999, duration_s=12),),
    "link degrade": (
        LinkEvent(
            at_s=10,
            kind=LinkEventKind.DEGRADE,
            source=end("a", "c"),
            target=end("b", "d"),
            bandwidth_factor=0.001,
            latency_factor=20,
            duration_s=12,
        ),
    ),
    "link flap": (
        LinkEvent(
            at_s=10,
            kind=LinkEventKind.FLAP,
            source=end("a"),
            target=end("c", "d"),
            period_s=3.0,
            down_share=0.4,
            duration_s=12,
        ),
    ),
    "link down": (
        LinkEvent(at_s=10, kind=LinkEventKind.DOWN, source=end("a"), target=end("c"), both_ways=False, duration_s=12),
    ),
    "partition": (
        PartitionEvent(at_s=10, groups=(end("a", "c", "s", coordinator=True), end("b", "d", "t")), duration_s=12),
    ),
    "region_outage": (RegionOutageEvent(at_s=10, region="east", duration_s=12),),
    "everything down": (
        RegionOutageEvent(at_s=10, region="east", duration_s=10),
        RegionOutageEvent(at_s=11, region="west", duration_s=10),
    ),
    "coordinator restart": (CoordinatorRestartEvent(at_s=10, duration_s=5),),
}


def churn_spec(
    events: Sequence[ChurnEvent],
    *,
    recovery: str = "reroute",
    in_flight: InFlightPolicy = InFlightPolicy.RETRY,
    options: dict[str, Any] | None = None,
    churn: dict[str, Any] | None = None,
    **fields: Any,
) -> EmulationSpec:
    """Four nodes in two stages and two spares; twelve requests in flight."""
    given: dict[str, Any] = {
        "events": tuple(events),
        "detection": Detection(interval_s=0.5, timeout_s=2.0),
        "in_flight": InFlight(policy=in_flight),
        "recovery": RecoverySpec(policy=recovery, options=options or {}, drain_s=2.0),
    }
    changed: dict[str, Any] = {
        "cluster": two_regions(),
        "placement": placed(a=(0, 2), b=(0, 2), c=(2, 4), d=(2, 4)),
        "duration_s": 45.0,
        "workload": constant(8, 100, 40),
        "scheduler": SchedulerSpec(policy="max-flow"),
        "churn": ChurnSpec(**{**given, **(churn or {})}),
    }
    return toy_spec(**{**changed, **fields})


class Watched:
    """A run, its log, its requests and the tokens that clients saw."""

    def __init__(self, spec: EmulationSpec) -> None:
        self.chunks: list[bytes] = []
        self.tokens: dict[int, int] = {}
        self.ended: dict[int, Request] = {}
        self.emulation = Emulation(spec, log_sink=self.chunks.append, on_ended=self._ended)
        self.emulation.state.coordinator.on_token = self._token
        self.summary = self.emulation.run()
        self.log = b"".join(self.chunks)

    def _token(self, request: Request, _time: float) -> None:
        self.tokens[request.number] = self.tokens.get(request.number, 0) + 1

    def _ended(self, request: Request) -> None:
        self.ended[request.number] = request

    @property
    def churn(self) -> dict[str, Any]:
        found = self.summary["churn"]
        assert isinstance(found, dict)
        return found

    def lines(self, what: str | None = None) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in self.log.splitlines()]
        return [line for line in found if line["event"] == "churn" and what in (None, line["what"])]
