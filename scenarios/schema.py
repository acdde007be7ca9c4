"""Schema of a scenario file. Field descriptions end up in its JSON Schema, and so in editors."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, JsonValue, model_validator
from pydantic_core import PydanticCustomError

from emulator.spec import (
    EdgeFlows,
    FirstToken,
    HostCost,
    LinkSharing,
    LogLevel,
    SchedulerSpec,
    Slo,
    WhenFull,
    WhenNoRoute,
)
from scenarios.objectives import Objective
from scenarios.quantities import BytesPerSecond, PositiveSeconds, Seconds
from scenarios.schema_churn import ChurnSection
from scenarios.schema_cluster import ClusterSection
from scenarios.schema_parts import (
    FileSection,
    Flag,
    Name,
    Options,
    Reference,
    Section,
    Text,
    Whole,
    exactly_one,
    one_of_schema,
)
from scenarios.schema_profile import ModelSection, ProfileSection
from scenarios.schema_workload import WorkloadSection

RangePair = Annotated[tuple[Whole, Whole], Field(description="[start, stop): first layer, and the one after the last.")]
Expected = Annotated[JsonValue, Field(description="A value, an operator and a value, a list of these, or a mapping.")]
RANKED_BY = "blocks"
"""The planner whose front of plans is ranked, beside every other planner's plan."""
PLACEMENT_FORMS = (("planner",), ("file",), ("ranges",))


class PlannedBySection(Section):
    """Which planner made the ranges. A record: nothing is planned again."""

    planner: Text = Field(description="Name of the planner.")
    options: Options = Field(default_factory=dict, description="Its options.")
    objective: Objective = Field(default=Objective.FLOW, description="What the plan was chosen for.")


class PlacementSection(FileSection):
    """Who holds which layers: planned, from a file, or written out."""

    model_config = ConfigDict(json_schema_extra=one_of_schema(*PLACEMENT_FORMS))

    kind: Literal["placement"] | None = Field(default=None, description="placement.")
    planner: Text | None = Field(
        default=None,
        description="blocks, cover, milp, petals, swarm, separate, uniform, or module:Class.",
        examples=["blocks", "swarm"],
    )
    options: Options = Field(default_factory=dict, description="Options of the planner.")
    objective: Objective = Field(
        default=Objective.FLOW,
        description="flow: the planner's own plan. throughput (decode tokens/s), latency (median decode iteration) or "
        "goodput (requests/s within the slo): with planner blocks, the best of all planners' plans in short "
        "emulations; its only option is time_limit_s.",
    )
    file: Text | None = Field(default=None, min_length=1, description="Placement file.")
    ranges: dict[str, RangePair] | None = Field(default=None, description="Node -> [start, stop).")
    allow_over_profile: Flag = Field(
        default=False, description="Whether nodes may hold more layers than their profile's maximum."
    )
    partial_inference: Flag = Field(
        default=True, description="Whether a request may enter a node past its first layer."
    )
    links: tuple[tuple[Name, Name], ...] | None = Field(
        default=None,
        description="The only [from, to] pairs of nodes (or coordinator) that may be used; all when absent.",
    )
    planned_by: PlannedBySection | None = Field(default=None, description="Record of how the ranges were made.")

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        exactly_one(self, *PLACEMENT_FORMS)
        if self.objective is not Objective.FLOW:
            _check_ranked(self.objective, self.planner, self.options)
        return self


def _check_ranked(objective: Objective, planner: str | None, options: Options) -> None:
    """Refuse an objective that the section gives nothing to choose from."""
    rule = remedy = ""
    if planner != RANKED_BY:
        rule = f"objective {objective} chooses among the plans of all planners"
        remedy = f"write planner: {RANKED_BY}, or leave the objective out"
    elif others := [name for name in options if name != "time_limit_s"]:
        rule, remedy = f"objective {objective} takes no option {others[0]}", "its only option is time_limit_s"
    elif not _is_positive(options.get("time_limit_s", 1.0)):
        rule, remedy = f"time_limit_s is {options['time_limit_s']}", "give seconds above 0"
    if rule:
        raise PydanticCustomError("objective", "{rule}; {remedy}", {"rule": rule, "remedy": remedy})


def _is_positive(value: JsonValue) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


class SchedulerSection(Section):
    """How requests get their pipelines."""

    policy: Name = Field(
        default="max-flow",
        description="max-flow, swarm, random, shortest-queue, round-robin, or module:Class.",
        examples=["max-flow", "swarm", "random", "shortest-queue", "round-robin"],
    )
    options: Options = Field(default_factory=dict, description="Options of the policy.")
    edge_flows: EdgeFlows = Field(
        default=EdgeFlows.BALANCED, description="Where several max flows exist: the most even one, or any."
    )

    def to_domain(self) -> SchedulerSpec:
        """The domain's value."""
        return SchedulerSpec(policy=self.policy, options=dict(self.options), edge_flows=self.edge_flows)


class NetworkUseSection(Section):
    """How links share network cards."""

    sharing: LinkSharing = Field(
        default=LinkSharing.CLOCKS, description="clocks: first come, first served; shares: fixed shares (reference)."
    )


class KvCacheSection(Section):
    """The KV cache."""

    when_full: WhenFull = Field(default=WhenFull.PREEMPT, description="What a full cache does.")


class AdmissionSection(Section):
    """The coordinator's door."""

    when_no_route: WhenNoRoute = Field(
        default=WhenNoRoute.WAIT, description="What happens to a request for which there is no pipeline now."
    )
    queue_limit: Whole = Field(default=10_000, description="Most requests that wait; further ones are rejected.")


class HostCostSection(Section):
    """Host time for moving newly arrived activations to the GPU: bytes / concat + bytes / transfer."""

    concat: BytesPerSecond = Field(
        default_factory=lambda: 4e9, json_schema_extra={"default": "4 GB/s"}, description="Rate of concatenation."
    )
    transfer: BytesPerSecond = Field(
        default_factory=lambda: 5e9, json_schema_extra={"default": "5 GB/s"}, description="Rate to the GPU."
    )

    def to_domain(self) -> HostCost:
        """The domain's value."""
        return HostCost(concat_bytes_per_s=self.concat, transfer_bytes_per_s=self.transfer)


class CountingSection(Section):
    """Counting conventions."""

    first_token: FirstToken = Field(
        default=FirstToken.PREFILL, description="Which iteration emits the first token; decode is the reference's."
    )


class SloSection(Section):
    """Latency objectives; a request is good when it meets all that are given."""

    ttft: PositiveSeconds | None = Field(default=None, description="Time to first token.")
    tpot: PositiveSeconds | None = Field(default=None, description="Time per output token after the first.")
    e2e: PositiveSeconds | None = Field(default=None, description="Arrival to last token.")

    def to_domain(self) -> Slo:
        """The domain's value."""
        return Slo(ttft_s=self.ttft, tpot_s=self.tpot, e2e_s=self.e2e)


class OutputSection(Section):
    """What a run writes."""

    event_log: LogLevel = Field(default=LogLevel.REQUESTS, description="How much the event log tells.")
    token_times: bool = Field(
        default=False, description="Whether to keep when every token came; exports with inter-token latencies need it."
    )


class ScenarioSection(Section):
    """One run: a model, a cluster, a workload, a placement, a scheduler."""

    schema_version: Literal[1] = Field(description="Version of this format: 1.")
    kind: Literal["scenario"] = Field(default="scenario", description="scenario.")
    name: Name = Field(description="Name, shown in results.")
    description: Text = Field(default="", description="One line for lists.")
    seed: Whole = Field(default=0, description="Root of every random draw.")
    duration: PositiveSeconds = Field(description="Emulated time, warm-up included.")
    warm_up: Seconds = Field(
        default_factory=lambda: 0.0, json_schema_extra={"default": "0 s"}, description="Results count from here on."
    )
    model: Annotated[ModelSection, Reference("model", library=True)] = Field(description="The served model.")
    profiles: tuple[Annotated[ProfileSection, Reference("profile", library=True)], ...] = Field(
        default=(),
        json_schema_extra={"default": ["library"]},
        description="Profiles; `library` stands for every shipped one of the model, later ones override earlier ones.",
    )
    cluster: Annotated[ClusterSection, Reference("cluster", library=True)] = Field(description="Nodes and network.")
    placement: Annotated[PlacementSection, Reference("placement")] = Field(description="Who holds which layers.")
    scheduler: SchedulerSection = Field(default_factory=SchedulerSection, description="How requests are routed.")
    workload: Annotated[WorkloadSection, Reference("workload")] = Field(description="What the clients do.")
    network: NetworkUseSection = Field(default_factory=NetworkUseSection, description="Use of links and network cards.")
    kv_cache: KvCacheSection = Field(default_factory=KvCacheSection, description="Policy of the KV cache.")
    admission: AdmissionSection = Field(default_factory=AdmissionSection, description="Who gets in, and who waits.")
    host_cost: HostCostSection = Field(default_factory=HostCostSection, description="Host-side cost of a batch.")
    counting: CountingSection = Field(default_factory=CountingSection, description="What counts as what.")
    churn: Annotated[ChurnSection, Reference("churn")] | None = Field(
        default=None, description="What goes wrong when, and what is done about it; nothing can change without it."
    )
    slo: SloSection = Field(default_factory=SloSection, description="Latency objectives.")
    drain: Flag = Field(default=False, description="After the duration, let requests in flight finish.")
    expect: dict[str, Expected] | None = Field(
        default=None,
        description="Conditions on figures of summary.json, for `helixemu test` and pytest: path -> condition.",
        examples=[{"requests.failed": 0, "goodput_requests_per_s": ">= 1.5", "ttft_s.p99": "<= 2 s"}],
    )
    output: OutputSection = Field(default_factory=OutputSection, description="Detail of what a run writes.")
    overrides: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="Named changes: name -> {dotted path: new value}; chosen with --override."
    )
