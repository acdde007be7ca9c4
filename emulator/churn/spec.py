"""What goes wrong when, and what is done about it, as plain values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase

from emulator.errors import SimulationError
from placement.cluster import COORDINATOR, Cluster, Node

MOST_EVENTS = 1_000_000
"""Most entries of a timeline."""


class NodeEventKind(StrEnum):
    """What can happen to a machine."""

    CRASH = "crash"
    """It stops at once: work, KV entries and unsent messages are lost."""
    DRAIN = "drain"
    """It takes no new requests, finishes those it has, and leaves."""
    PREEMPT = "preempt"
    """It drains for the notice and stops then, whatever is left (spot markets)."""
    JOIN = "join"
    """It comes up, for the first time or again, and holds no weights yet."""
    STRAGGLER = "straggler"
    """It computes slower by a factor."""
    GPU_MEMORY_LOSS = "gpu_memory_loss"
    """It loses a share of its KV cache's memory."""


class LinkEventKind(StrEnum):
    """What can happen to links."""

    DEGRADE = "degrade"
    """Bandwidth and latency change by factors."""
    FLAP = "flap"
    """Links go down and up again, over and over."""
    DOWN = "down"
    """Nothing passes; what was sent before waits on the way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeTarget:
    """Machines: those that match every condition given; the coordinator is none.

    Attributes:
        names: Names or shell-style patterns; one must match. Empty: any name.
        regions: Regions; one must match. Empty: any.
        machine_types: Machine types; one must match. Empty: any.
        choose: So many of them, drawn at random when the event happens; all when ``None``.
    """

    names: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    machine_types: tuple[str, ...] = ()
    choose: int | None = None

    def __post_init__(self) -> None:
        if self.choose is not None and self.choose < 1:
            raise SimulationError(f"churn: choose is {self.choose}; it must be at least 1")

    def matches(self, node: Node) -> bool:
        """Whether ``node`` meets the conditions."""
        return (
            (not self.names or any(fnmatchcase(node.name, pattern) for pattern in self.names))
            and (not self.regions or node.region in self.regions)
            and (not self.machine_types or node.machine_type in self.machine_types)
        )

    def among(self, cluster: Cluster) -> tuple[str, ...]:
        """Names of all machines that match, in file order; ``choose`` is left to whoever draws."""
        return tuple(node.name for node in cluster.nodes if self.matches(node))

    def __str__(self) -> str:
        parts = [*self.names, *(f"region {region}" for region in self.regions)]
        parts += [f"machine {machine}" for machine in self.machine_types]
        drawn = "" if self.choose is None else f"{self.choose} of "
        return drawn + (", ".join(parts) or "all nodes")


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """One end of links: machines, or the coordinator.

    Attributes:
        nodes: Machines; none when ``None``.
        coordinator: Whether the coordinator is one of them.
    """

    nodes: NodeTarget | None = None
    coordinator: bool = False

    def members(self, cluster: Cluster) -> dict[str, None]:
        """Names at this end, in file order."""
        found = dict.fromkeys((COORDINATOR,) if self.coordinator else ())
        if self.nodes is not None:
            found.update(dict.fromkeys(self.nodes.among(cluster)))
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeEvent:
    """Something happens to machines.

    Attributes:
        at_s: When.
        kind: What.
        target: To whom.
        duration_s: When it is over again: a machine that is down then joins, a straggler recovers, memory comes back.
            For good when ``None``.
        notice_s: For ``preempt``: time between notice and end. For ``drain``: longest time that requests may take to
            finish; without end when infinite.
        slowdown: For ``straggler``: factor on compute time, above 0.
        memory_share: For ``gpu_memory_loss``: lost share of the KV cache, between 0 and 1.
    """

    at_s: float
    kind: NodeEventKind
    target: NodeTarget
    duration_s: float | None = None
    notice_s: float = math.inf
    slowdown: float = 1.0
    memory_share: float = 0.0

    def __post_init__(self) -> None:
        _check_time(self.at_s, self.duration_s)
        if not self.notice_s >= 0:
            raise SimulationError(f"churn: notice is {self.notice_s} s; it must be at least 0")
        if self.kind is NodeEventKind.PREEMPT and not math.isfinite(self.notice_s):
            raise SimulationError("churn: a preempt event needs a notice; give notice, for instance 30 s")
        if not (math.isfinite(self.slowdown) and self.slowdown > 0):
            raise SimulationError(f"churn: slowdown is {self.slowdown}; it must be above 0")
        if not 0 <= self.memory_share < 1:
            raise SimulationError(f"churn: memory share is {self.memory_share}; it must be at least 0 and below 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkEvent:
    """Something happens to the links from one end to the other.

    Attributes:
        at_s: When.
        kind: What.
        source: Sending end.
        target: Receiving end.
        both_ways: Whether the links back are meant too.
        duration_s: When it is over again; for good when ``None``.
        bandwidth_factor: For ``degrade``: factor on bandwidth, above 0.
        latency_factor: For ``degrade``: factor on latency, at least 0.
        period_s: For ``flap``: time from one going down to the next.
        down_share: For ``flap``: share of the period that the links are down.
    """

    at_s: float
    kind: LinkEventKind
    source: End
    target: End
    both_ways: bool = True
    duration_s: float | None = None
    bandwidth_factor: float = 1.0
    latency_factor: float = 1.0
    period_s: float = 10.0
    down_share: float = 0.5

    def __post_init__(self) -> None:
        _check_time(self.at_s, self.duration_s)
        if not (math.isfinite(self.bandwidth_factor) and self.bandwidth_factor > 0):
            raise SimulationError(
                f"churn: bandwidth factor is {self.bandwidth_factor}; it must be above 0 (use down for no bandwidth)"
            )
        if not (math.isfinite(self.latency_factor) and self.latency_factor >= 0):
            raise SimulationError(f"churn: latency factor is {self.latency_factor}; it must be at least 0")
        if not (math.isfinite(self.period_s) and self.period_s > 0):
            raise SimulationError(f"churn: period is {self.period_s} s; it must be above 0")
        if not 0 < self.down_share < 1:
            raise SimulationError(f"churn: down share is {self.down_share}; it must be between 0 and 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionEvent:
    """Groups that cannot reach each other; whoever is in none of them reaches all.

    Attributes:
        at_s: When.
        groups: Disjoint ends, at least two.
        duration_s: When it heals; never when ``None``.
    """

    at_s: float
    groups: tuple[End, ...]
    duration_s: float | None = None

    def __post_init__(self) -> None:
        _check_time(self.at_s, self.duration_s)
        if len(self.groups) < 2:
            raise SimulationError("churn: a partition needs at least two groups")


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionOutageEvent:
    """All machines of a region crash together; they join together after ``duration_s``, never when ``None``."""

    at_s: float
    region: str
    duration_s: float | None = None

    def __post_init__(self) -> None:
        _check_time(self.at_s, self.duration_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorRestartEvent:
    """The coordinator is away for ``duration_s``; clients wait, and it forgets what was in flight."""

    at_s: float
    duration_s: float

    def __post_init__(self) -> None:
        _check_time(self.at_s, self.duration_s)


ChurnEvent = NodeEvent | LinkEvent | PartitionEvent | RegionOutageEvent | CoordinatorRestartEvent


class Law(StrEnum):
    """Distribution of times between failures or to repair."""

    EXPONENTIAL = "exponential"
    WEIBULL = "weibull"


@dataclass(frozen=True, slots=True, kw_only=True)
class Delay:
    """A random time.

    Attributes:
        mean_s: Mean.
        law: Distribution.
        shape: Shape of a Weibull distribution: below 1 early failures, above 1 wear.
    """

    mean_s: float
    law: Law = Law.EXPONENTIAL
    shape: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean_s) and self.mean_s > 0):
            raise SimulationError(f"churn: a mean time is {self.mean_s} s; it must be above 0")
        if not (math.isfinite(self.shape) and 0.05 <= self.shape <= 100):
            raise SimulationError(f"churn: a Weibull shape is {self.shape}; it must be at least 0.05 and at most 100")


class Together(StrEnum):
    """Who may fail together with a machine that fails."""

    NOBODY = "nobody"
    REGION = "region"
    MACHINE_TYPE = "machine_type"
    ALL = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomProcess:
    """Failures at random times, each machine on its own and, if wanted, some together.

    Attributes:
        kind: ``crash``, ``preempt`` or ``straggler``.
        target: Machines; each has its own stream of draws.
        between: Time from being up to the next failure (MTBF).
        repair: Time from failure to being up again (MTTR); never when ``None``.
        start_s: Nothing happens before.
        stop_s: Nothing new happens from here on.
        together: Whose other members may fail with one that fails.
        share: Probability that each of those does.
        notice_s: For ``preempt``.
        slowdown: For ``straggler``.
    """

    kind: NodeEventKind
    target: NodeTarget
    between: Delay
    repair: Delay | None
    start_s: float = 0.0
    stop_s: float = math.inf
    together: Together = Together.NOBODY
    share: float = 0.0
    notice_s: float = 30.0
    slowdown: float = 2.0

    def __post_init__(self) -> None:
        allowed = (NodeEventKind.CRASH, NodeEventKind.PREEMPT, NodeEventKind.STRAGGLER)
        if self.kind not in allowed:
            raise SimulationError(f"churn: a random process cannot be {self.kind}; choose {', '.join(allowed)}")
        if not 0 <= self.share <= 1:
            raise SimulationError(f"churn: share is {self.share}; it must be at least 0 and at most 1")
        if not 0 <= self.start_s <= self.stop_s:
            raise SimulationError(f"churn: a process runs from {self.start_s} s to {self.stop_s} s; it must end later")
        if self.target.choose is not None:
            raise SimulationError("churn: a random process takes every machine of its target; leave choose out")


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """How failures are noticed.

    Attributes:
        interval_s: Every machine sends the coordinator a heartbeat so often, over the same network as everything else.
        timeout_s: A machine that has not been heard for so long is taken for dead; a link on which nothing
            passes for so long, for down.
        heartbeat_bytes: Size of a heartbeat.
    """

    interval_s: float = 1.0
    timeout_s: float = 5.0
    heartbeat_bytes: float = 64.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.interval_s) and self.interval_s > 0):
            raise SimulationError(f"churn: heartbeat interval is {self.interval_s} s; it must be above 0")
        if not (math.isfinite(self.timeout_s) and self.timeout_s > self.interval_s):
            raise SimulationError(
                f"churn: detection timeout is {self.timeout_s:g} s; it must be above the interval of "
                f"{self.interval_s:g} s, or every machine is taken for dead between two heartbeats"
            )
        if not (math.isfinite(self.heartbeat_bytes) and self.heartbeat_bytes > 0):
            raise SimulationError(f"churn: a heartbeat has {self.heartbeat_bytes} bytes; it must be above 0")


class InFlightPolicy(StrEnum):
    """What happens to requests whose pipeline lost a node."""

    FAIL = "fail"
    """They end as failed."""
    RETRY = "retry"
    """Their prompt and the tokens so far are computed again on a new pipeline; no token is emitted twice."""
    REPLICATE = "replicate"
    """KV entries are copied, over the network, to a node with the same layers, where they go on; otherwise retry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InFlight:
    """What happens to requests whose pipeline lost a node.

    Attributes:
        policy: What.
        max_retries: After so many losses a request fails.
        deadline_s: A request that is older than this is not tried again.
    """

    policy: InFlightPolicy = InFlightPolicy.RETRY
    max_retries: int = 3
    deadline_s: float = math.inf

    def __post_init__(self) -> None:
        if self.max_retries < 0:
            raise SimulationError(f"churn: max_retries is {self.max_retries}; it must be at least 0")
        if not self.deadline_s > 0:
            raise SimulationError(f"churn: deadline is {self.deadline_s} s; it must be above 0")


class WeightSource(StrEnum):
    """Where a machine gets the weights of layers that it does not hold."""

    DISK = "disk"
    PEER = "peer"
    """From a machine that holds them, over the network, beside the traffic; from disk where nobody does."""
    FASTEST = "fastest"
    """From disk or peer, whichever would be faster on an idle network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoverySpec:
    """What is done about churn.

    Attributes:
        policy: ``none``, ``reroute``, ``replan``, ``standby``, or ``module:Class``.
        options: Its options.
        weights: Where moved layers come from.
        drain_s: A machine that changes its layers lets the requests on its old ones finish for so long; then
            they are treated as lost.
    """

    policy: str = "reroute"
    options: Mapping[str, object] = field(default_factory=dict)
    weights: WeightSource = WeightSource.DISK
    drain_s: float = 30.0

    def __post_init__(self) -> None:
        if not self.drain_s >= 0:
            raise SimulationError(f"churn: drain is {self.drain_s} s; it must be at least 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChurnSpec:
    """Churn of one run.

    Attributes:
        events: Scheduled events, in order of time.
        processes: Random failures.
        initially_down: Machines that are not up when the run starts.
        detection: How failures are noticed.
        in_flight: What happens to requests whose pipeline lost a node.
        recovery: What is done about it.
        live_links: Whether links may change beside the events, by :meth:`ChurnControl.apply`. Links that cannot
            change are cheaper.
    """

    events: tuple[ChurnEvent, ...] = ()
    processes: tuple[RandomProcess, ...] = ()
    initially_down: tuple[str, ...] = ()
    detection: Detection = field(default_factory=Detection)
    in_flight: InFlight = field(default_factory=InFlight)
    recovery: RecoverySpec = field(default_factory=RecoverySpec)
    live_links: bool = False

    @property
    def links_change(self) -> bool:
        """Whether links can change in this run."""
        return self.live_links or any(isinstance(event, LinkEvent | PartitionEvent) for event in self.events)

    def __post_init__(self) -> None:
        if len(self.events) > MOST_EVENTS:
            raise SimulationError(f"churn: {len(self.events)} events; at most {MOST_EVENTS} are taken")
        last = 0.0
        for event in self.events:
            if event.at_s < last:
                raise SimulationError(
                    f"churn: an event at {event.at_s:g} s comes after one at {last:g} s; sort by time"
                )
            last = event.at_s


def _check_time(at_s: float, duration_s: float | None) -> None:
    if not (math.isfinite(at_s) and at_s >= 0):
        raise SimulationError(f"churn: an event is at {at_s} s; times must be at least 0")
    if duration_s is not None and not (math.isfinite(duration_s) and duration_s > 0):
        raise SimulationError(f"churn: an event lasts {duration_s} s; a duration must be above 0")
