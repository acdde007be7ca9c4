"""Schema of churn: what goes wrong when, how it is noticed, and what is done about it."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from emulator.churn.spec import Detection, InFlight, InFlightPolicy, Law, RecoverySpec, Together, WeightSource
from scenarios.library import suggestion
from scenarios.quantities import Bytes, PositiveSeconds, Seconds
from scenarios.schema_parts import (
    FileName,
    FileSection,
    Name,
    Number,
    Options,
    Positive,
    Section,
    Sha256,
    Share,
    Whole,
    exactly_one,
    one_of_schema,
)
from scenarios.schema_targets import WORD, End, LinksSection, Names, Shorthand, Target, under

PartShare = Annotated[Share, Field(lt=1)]


# ------------------------------------------------------------------------------------------- scheduled events


class _Event(Section):
    at: Seconds = Field(description="When, since the start of the run.")


class _Lasting(_Event):
    duration: PositiveSeconds | None = Field(
        default=None, alias="for", description="After so long it is over again; for good when absent."
    )


class CrashEvent(_Lasting):
    """Machines stop at once: work, KV entries and unsent messages are lost."""

    crash: Target = Field(description="Machines.")


class DrainEvent(_Lasting):
    """Machines take no new requests, finish those that they have, and leave."""

    drain: Target = Field(description="Machines.")
    notice: PositiveSeconds | None = Field(
        default=None, description="Longest time that requests may take to finish; without end when absent."
    )


class PreemptEvent(_Lasting):
    """Spot machines are told that they will stop, drain, and stop."""

    preempt: Target = Field(description="Machines.")
    notice: Seconds = Field(description="Time between being told and the end.")


class JoinEvent(_Event):
    """Machines come up, for the first time or again, without weights."""

    join: Target = Field(description="Machines.")


class StragglerEvent(_Lasting):
    """Machines compute slower."""

    straggler: Target = Field(description="Machines.")
    slowdown: Positive = Field(description="Factor on compute time.")


class GpuMemoryLossEvent(_Lasting):
    """Machines lose a part of their KV cache."""

    gpu_memory_loss: Target = Field(description="Machines.")
    share: PartShare = Field(description="Lost share of the KV cache's memory.")


class DegradeEvent(_Lasting):
    """Links get slower, or faster."""

    degrade: LinksSection = Field(description="Links.")
    bandwidth: Positive = Field(default=1.0, description="Factor on bandwidth.")
    latency: Number = Field(default=1.0, description="Factor on latency.")

    @model_validator(mode="after")
    def _some_change(self) -> Self:
        if self.bandwidth == 1 and self.latency == 1:
            context = {"rule": "it changes nothing", "remedy": "give bandwidth or latency, a factor other than 1"}
            raise PydanticCustomError("degrade", "{rule}; {remedy}", context)
        return self


class FlapEvent(_Lasting):
    """Links go down and up again, over and over."""

    flap: LinksSection = Field(description="Links.")
    period: PositiveSeconds = Field(
        default_factory=lambda: 10.0,
        json_schema_extra={"default": "10 s"},
        description="Time from one going down to the next.",
    )
    down_share: PartShare = Field(default=0.5, description="Share of the period that they are down.")


class DownEvent(_Lasting):
    """Nothing passes over links; what was sent before waits on the way."""

    down: LinksSection = Field(description="Links.")


class PartitionEvent(_Lasting):
    """Groups cannot reach each other; whoever is in none of them reaches all."""

    partition: tuple[End, ...] = Field(min_length=2, max_length=1_000, description="Groups that share no member.")


class RegionOutageEvent(_Lasting):
    """All machines of a region crash together, and join together."""

    region_outage: Name = Field(description="Region.")


class CoordinatorRestartEvent(_Event):
    """The coordinator is away; clients wait, and it forgets what was in flight."""

    coordinator_restart: PositiveSeconds = Field(description="How long it is away.")


_EVENTS: dict[str, str] = {
    "crash": "CrashEvent",
    "drain": "DrainEvent",
    "preempt": "PreemptEvent",
    "join": "JoinEvent",
    "straggler": "StragglerEvent",
    "gpu_memory_loss": "GpuMemoryLossEvent",
    "degrade": "DegradeEvent",
    "flap": "FlapEvent",
    "down": "DownEvent",
    "partition": "PartitionEvent",
    "region_outage": "RegionOutageEvent",
    "coordinator_restart": "CoordinatorRestartEvent",
}
EVENT_KINDS = tuple(_EVENTS)


def _event_tag(value: object) -> str | None:
    """The section that an event's keys ask for; a slip of the pen is told by that section."""
    keys = [str(key) for key in value] if isinstance(value, dict) else []
    for key in keys:
        if key in _EVENTS:
            return f"<{_EVENTS[key]}>"
    for key in keys:
        meant = suggestion(key, EVENT_KINDS).removeprefix("did you mean ").removesuffix("?")
        if meant in _EVENTS and key not in ("at", "for", "notice", "slowdown", "share"):
            return f"<{_EVENTS[meant]}>"
    return None


Event = Annotated[
    Annotated[CrashEvent, Tag("<CrashEvent>")]
    | Annotated[DrainEvent, Tag("<DrainEvent>")]
    | Annotated[PreemptEvent, Tag("<PreemptEvent>")]
    | Annotated[JoinEvent, Tag("<JoinEvent>")]
    | Annotated[StragglerEvent, Tag("<StragglerEvent>")]
    | Annotated[GpuMemoryLossEvent, Tag("<GpuMemoryLossEvent>")]
    | Annotated[DegradeEvent, Tag("<DegradeEvent>")]
    | Annotated[FlapEvent, Tag("<FlapEvent>")]
    | Annotated[DownEvent, Tag("<DownEvent>")]
    | Annotated[PartitionEvent, Tag("<PartitionEvent>")]
    | Annotated[RegionOutageEvent, Tag("<RegionOutageEvent>")]
    | Annotated[CoordinatorRestartEvent, Tag("<CoordinatorRestartEvent>")],
    Discriminator(
        _event_tag,
        custom_error_type="event_kind",
        custom_error_message="{rule}; {remedy}",
        custom_error_context={
            "rule": "an event is a mapping that says when and what",
            "remedy": f"write {{at: 60 s, crash: NODE}}; instead of crash: {', '.join(EVENT_KINDS[1:])}",
        },
    ),
]


# --------------------------------------------------------------------------------------------- random failures


class TogetherSection(Section):
    """Others of the machines named that may fail with one that fails, and the probability that each of them does."""

    model_config = ConfigDict(json_schema_extra=one_of_schema(("region",), ("machine",), ("everybody",)))

    region: Share | None = Field(default=None, description="Those of its region, among the machines named.")
    machine: Share | None = Field(default=None, description="Those of its machine type, among the machines named.")
    everybody: Share | None = Field(default=None, description="All machines named.")

    @model_validator(mode="after")
    def _one_group(self) -> Self:
        exactly_one(self, ("region",), ("machine",), ("everybody",))
        return self

    def to_domain(self) -> tuple[Together, float]:
        """Whom, and the probability."""
        for whom, share in (
            (Together.REGION, self.region),
            (Together.MACHINE_TYPE, self.machine),
            (Together.ALL, self.everybody),
        ):
            if share is not None:
                return whom, share
        raise AssertionError("the schema asks for one")


Shape = Annotated[Positive, Field(ge=0.05, le=100)]
RANDOM_KINDS = (("crash",), ("preempt",), ("straggler",))


class RandomSection(Section):
    """Failures at random times, each machine on its own and, if wanted, some together."""

    model_config = ConfigDict(json_schema_extra=one_of_schema(*RANDOM_KINDS))

    crash: Target | None = Field(default=None, description="Machines that crash.")
    preempt: Target | None = Field(default=None, description="Spot machines that are preempted.")
    straggler: Target | None = Field(default=None, description="Machines that slow down.")
    mtbf: PositiveSeconds = Field(description="Mean time from being up to the next failure.")
    mttr: PositiveSeconds | None = Field(default=None, description="Mean time to repair; never when absent.")
    law: Law = Field(default=Law.EXPONENTIAL, description="Distribution of the time to the next failure.")
    shape: Shape | None = Field(
        default=None, description="Shape of a Weibull law: below 1 early failures, above 1 wear."
    )
    repair_law: Law = Field(default=Law.EXPONENTIAL, description="Distribution of the time to repair.")
    repair_shape: Shape | None = Field(default=None, description="Its shape, if it is a Weibull law.")
    start: Seconds = Field(
        default_factory=lambda: 0.0, json_schema_extra={"default": "0 s"}, description="Nothing happens before."
    )
    stop: PositiveSeconds | None = Field(default=None, description="Nothing new happens from here on.")
    together: TogetherSection | None = Field(default=None, description="Who may fail with one that fails.")
    notice: Seconds | None = Field(default=None, description="For preempt: time to the end; 30 s when absent.")
    slowdown: Positive | None = Field(default=None, description="For straggler: factor on compute time; 2 when absent.")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        exactly_one(self, *RANDOM_KINDS)
        for what, law, shape in (("shape", self.law, self.shape), ("repair_shape", self.repair_law, self.repair_shape)):
            if (law is Law.WEIBULL) != (shape is not None):
                rule = f"{what} belongs to a Weibull law, and a Weibull law needs it"
                context = {"rule": rule, "remedy": f"give both law: weibull and {what}, or neither"}
                raise PydanticCustomError("random", "{rule}; {remedy}", context)
        for key, kind in (("notice", "preempt"), ("slowdown", "straggler")):
            if getattr(self, key) is not None and getattr(self, kind) is None:
                context = {"rule": f"{key} belongs to {kind}", "remedy": f"remove {key}"}
                raise PydanticCustomError("random", "{rule}; {remedy}", context)
        return self


# ---------------------------------------------------------------------------------------------- the whole part


class AvailabilitySection(Section):
    """A file with columns time_s, node, event."""

    file: FileName = Field(description="CSV file, relative to the file that names it.")
    sha256: Sha256 | None = Field(default=None, description="Checked when given; resolved scenarios have it.")
    start: Seconds = Field(
        default_factory=lambda: 0.0,
        json_schema_extra={"default": "0 s"},
        description="Time of the trace's beginning in the run.",
    )
    notice: Seconds = Field(
        default_factory=lambda: 30.0,
        json_schema_extra={"default": "30 s"},
        description="Notice of preempt rows.",
    )


class DetectionSection(Section):
    """How failures are noticed: by heartbeats over the same network as everything else."""

    interval: PositiveSeconds = Field(
        default_factory=lambda: 1.0, json_schema_extra={"default": "1 s"}, description="Time between heartbeats."
    )
    timeout: PositiveSeconds = Field(
        default_factory=lambda: 5.0,
        json_schema_extra={"default": "5 s"},
        description="Silence after which a machine is taken for dead.",
    )
    heartbeat: Bytes = Field(
        default_factory=lambda: 64.0, json_schema_extra={"default": "64 B"}, description="Size of a heartbeat."
    )

    @model_validator(mode="after")
    def _patient(self) -> Self:
        if not self.timeout > self.interval:
            rule = f"the timeout of {self.timeout:g} s is not above the interval of {self.interval:g} s"
            context = {"rule": rule, "remedy": "raise timeout, or every machine is taken for dead between heartbeats"}
            raise PydanticCustomError("detection", "{rule}; {remedy}", context)
        return self

    def to_domain(self) -> Detection:
        """The domain's value."""
        return Detection(interval_s=self.interval, timeout_s=self.timeout, heartbeat_bytes=self.heartbeat)


class InFlightSection(Section):
    """What happens to requests whose pipeline lost a node."""

    policy: InFlightPolicy = Field(default=InFlightPolicy.RETRY, description="fail, retry or replicate.")
    max_retries: Whole = Field(default=3, description="After so many losses a request fails.")
    deadline: PositiveSeconds | None = Field(default=None, description="Older requests are not tried again.")

    def to_domain(self) -> InFlight:
        """The domain's value."""
        given = {} if self.deadline is None else {"deadline_s": self.deadline}
        return InFlight(policy=self.policy, max_retries=self.max_retries, **given)


class RecoverySection(Section):
    """Who takes over what, and where the weights come from."""

    policy: Name = Field(
        default="reroute",
        description="none, reroute, replan, standby, or module:Class.",
        examples=["none", "reroute", "replan", "standby"],
    )
    options: Options = Field(default_factory=dict, description="Options of the policy.")
    weights: WeightSource = Field(default=WeightSource.DISK, description="Where moved layers come from.")
    drain: Seconds = Field(
        default_factory=lambda: 30.0,
        json_schema_extra={"default": "30 s"},
        description="A machine that changes its layers lets requests on its old ones finish for so long.",
    )

    def to_domain(self) -> RecoverySpec:
        """The domain's value."""
        return RecoverySpec(policy=self.policy, options=dict(self.options), weights=self.weights, drain_s=self.drain)


class ChurnSection(FileSection):
    """What goes wrong when, and what is done about it."""

    kind: Literal["churn"] | None = Field(default=None, description="churn.")
    events: tuple[Event, ...] = Field(default=(), max_length=100_000, description="Scheduled events, in any order.")
    random: tuple[RandomSection, ...] = Field(default=(), max_length=1_000, description="Random failures.")
    trace: Annotated[AvailabilitySection, Shorthand(under("file"), ({**WORD, "maxLength": 4000},))] | None = Field(
        default=None, description="Availability trace, replayed beside the events."
    )
    initially_down: Names | None = Field(
        default=None, description="Names or patterns of machines that are not up when the run starts."
    )
    detection: DetectionSection = Field(default_factory=DetectionSection, description="How failures are noticed.")
    in_flight: InFlightSection = Field(default_factory=InFlightSection, description="What happens to the work.")
    recovery: RecoverySection = Field(default_factory=RecoverySection, description="What is done about it.")
