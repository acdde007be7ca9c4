"""Everything one run needs, as plain values. The scenario edge builds it; the emulator never sees a file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from emulator.churn.spec import ChurnSpec
from emulator.conditions import NetworkConditions
from emulator.errors import SimulationError
from emulator.warm_start import WarmStart
from emulator.workload import Workload
from placement.cluster import Cluster
from placement.layers import Placement
from placement.model import ModelSpec
from placement.profile import MachineProfile


class FirstToken(StrEnum):
    """Which iteration emits a request's first token."""

    PREFILL = "prefill"
    """The prefill does, so ``output_tokens - 1`` decode iterations follow (the usual convention)."""
    DECODE = "decode"
    """The first decode does: one prefill and ``output_tokens`` decode iterations (the reference simulator's)."""


class LinkSharing(StrEnum):
    """How links share network cards."""

    CLOCKS = "clocks"
    """Sending card, link and receiving card are first-come-first-served clocks in a row."""
    SHARES = "shares"
    """Each link has a fixed share of both cards, as in the reference simulator (HELIX.md sections 5 and 6)."""


class WhenFull(StrEnum):
    """What a full KV cache does to work that would overflow it."""

    REJECT = "reject"
    WAIT = "wait"
    PREEMPT = "preempt"


class WhenNoRoute(StrEnum):
    """What the coordinator does with a request for which the scheduler finds no pipeline now."""

    REJECT = "reject"
    WAIT = "wait"


class LogLevel(StrEnum):
    """How much the event log tells; each level includes the ones before."""

    REQUESTS = "requests"
    BATCHES = "batches"
    HOPS = "hops"


class EdgeFlows(StrEnum):
    """Which maximum flow is taken where several exist."""

    BALANCED = "balanced"
    """The most even one; see :mod:`placement.planners.balanced_flow`."""
    ANY = "any"
    """The one that the max-flow algorithm happens to give, as in the reference."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerSpec:
    """A scheduler policy by name (or ``module:Class``), its options, and the edge flows that it works with."""

    policy: str = "max-flow"
    options: Mapping[str, object] = field(default_factory=dict)
    edge_flows: EdgeFlows = EdgeFlows.BALANCED


@dataclass(frozen=True, slots=True, kw_only=True)
class HostCost:
    """Time that a batch's first layer pays for moving newly arrived activations to the GPU.

    The reference model pays ``bytes / concat + bytes / transfer`` (HELIX.md section 2).
    """

    concat_bytes_per_s: float = 4e9
    transfer_bytes_per_s: float = 5e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """Latency objectives; a request is good when it meets all that are given."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None

    @property
    def given(self) -> bool:
        """Whether any objective is set."""
        return not (self.ttft_s is None and self.tpot_s is None and self.e2e_s is None)


@dataclass(frozen=True, slots=True, kw_only=True)
class EmulationSpec:
    """One run.

    Attributes:
        name: Shown in results.
        seed: Root of every random draw.
        duration_s: Emulated time from the first possible arrival to the end, warm-up included.
        warm_up_s: Start of the window in which results count.
        model: The served model.
        profiles: Machine type -> profile.
        cluster: Nodes and network.
        placement: Who holds which layers.
        scheduler: How requests get their pipelines.
        workload: What the clients do.
        partial_inference: Whether a request may enter a node past its first layer.
        sharing: How links share network cards.
        when_full: What a full KV cache does.
        when_no_route: What happens to a request without a pipeline.
        admission_queue_limit: Most requests that wait for a pipeline; further ones are rejected.
        first_token: Counting convention.
        host_cost: Host-side cost of a batch.
        slo: Latency objectives.
        log_level: How much the event log tells.
        warm_start: Begin with requests in flight instead of an empty cluster.
        conditions: Which links are more than a rate and a delay; they need :attr:`LinkSharing.CLOCKS`.
        churn: What goes wrong when, and what is done about it; without it nothing can change.
        drain: After ``duration_s``, issue nothing new but go on, and measure, until requests in flight are done.
    """

    name: str
    seed: int = 0
    duration_s: float
    warm_up_s: float = 0.0
    model: ModelSpec
    profiles: Mapping[str, MachineProfile]
    cluster: Cluster
    placement: Placement
    scheduler: SchedulerSpec = field(default_factory=SchedulerSpec)
    workload: Workload
    partial_inference: bool = True
    sharing: LinkSharing = LinkSharing.CLOCKS
    when_full: WhenFull = WhenFull.PREEMPT
    when_no_route: WhenNoRoute = WhenNoRoute.WAIT
    admission_queue_limit: int = 10_000
    first_token: FirstToken = FirstToken.PREFILL
    host_cost: HostCost = field(default_factory=HostCost)
    slo: Slo = field(default_factory=Slo)
    log_level: LogLevel = LogLevel.REQUESTS
    warm_start: WarmStart | None = None
    conditions: NetworkConditions = field(default_factory=NetworkConditions)
    churn: ChurnSpec | None = None
    drain: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.duration_s) and self.duration_s > 0):
            raise SimulationError(f"duration is {self.duration_s} s; it must be above 0")
        if not 0 <= self.warm_up_s < self.duration_s:
            raise SimulationError(
                f"warm_up is {self.warm_up_s:g} s of a duration of {self.duration_s:g} s; "
                "it must be at least 0 and leave time to measure"
            )
        if self.conditions.given and self.sharing is LinkSharing.SHARES:
            raise SimulationError(
                "links with jitter, losses, packets or schedules cannot have fixed shares of network cards; "
                "set network.sharing to clocks"
            )
        if self.admission_queue_limit < 0:
            raise SimulationError(f"admission_queue_limit is {self.admission_queue_limit}; it must be at least 0")
