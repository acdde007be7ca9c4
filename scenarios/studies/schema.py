"""Schema of a study file."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Discriminator, Field, JsonValue, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from scenarios.schema_parts import (
    Count,
    FileName,
    Flag,
    Name,
    Number,
    Positive,
    Section,
    Share,
    Text,
    Whole,
    exactly_one,
    one_of_schema,
)
from scenarios.schema_targets import Shorthand

MAX_POINTS = 100_000
AxisName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,63}$")]
Path = Annotated[Text, Field(min_length=1, max_length=400)]
Figure = Annotated[Text, Field(min_length=1, max_length=200)]
Values = Annotated[tuple[JsonValue, ...], Field(min_length=1, max_length=10_000)]
CountUpTo = Annotated[Count, Field(le=10_000)]


class RangeSection(Section):
    """Evenly spaced values, or, in a sample, anything between two ends."""

    start: JsonValue = Field(alias="from", description="First value: a number, or a quantity with its unit.")
    stop: JsonValue = Field(alias="to", description="Last value.")
    steps: Annotated[Count, Field(ge=2, le=10_000)] | None = Field(
        default=None, description="Number of values; a random or Latin hypercube sample needs none."
    )
    scale: Literal["linear", "log"] = Field(default="linear", description="How values are spaced.")
    whole: Flag = Field(default=False, description="Whether values are rounded to whole numbers.")


AXIS_FORMS = (("values",), ("range",), ("variants",))


class AxisSection(Section):
    """What one axis changes, and to what."""

    model_config = ConfigDict(json_schema_extra=one_of_schema(*AXIS_FORMS))

    path: Path | None = Field(default=None, description="Dotted path of the scenario's field.")
    paths: Annotated[tuple[Path, ...], Field(min_length=1, max_length=100)] | None = Field(
        default=None, description="Several fields that get the same value."
    )
    nodes: Name | None = Field(default=None, description="Number of nodes of this group, or of this machine type.")
    values: Values | None = Field(default=None, description="The values.")
    range: RangeSection | None = Field(default=None, description="Values between two ends.")
    variants: Annotated[dict[Text, dict[str, JsonValue]], Field(min_length=1, max_length=1_000)] | None = Field(
        default=None, description="Name -> {dotted path: value}: several fields at once."
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        exactly_one(self, *AXIS_FORMS)
        targets = [each for each in ("path", "paths", "nodes") if getattr(self, each) is not None]
        if self.variants is None and len(targets) > 1:
            _fail(f"an axis has one of path, paths and nodes, not {' and '.join(targets)}", "keep one")
        if self.variants is not None and targets:
            _fail(f"variants name their paths themselves, {targets[0]} does not belong here", f"remove {targets[0]}")
        return self


def _listed(value: object) -> object:
    return {"values": value} if isinstance(value, list) else value


Axis = Annotated[AxisSection, Shorthand(_listed, ({"type": "array", "minItems": 1},))]


class SampleSection(Section):
    """Which combinations of the axes' values are run."""

    kind: Literal["grid", "list", "random", "latin-hypercube"] = Field(
        description="grid: all combinations; list: first values together, second values together, and so on."
    )
    points: Annotated[Count, Field(le=MAX_POINTS)] | None = Field(
        default=None, description="Size of a random or Latin hypercube sample."
    )
    seed: Whole = Field(default=0, description="Of the sample's draws.")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        drawn = self.kind in ("random", "latin-hypercube")
        if drawn != (self.points is not None):
            rule = f"a {self.kind} sample needs points" if drawn else f"points do not belong to a {self.kind}"
            _fail(rule, "say how many points there are" if drawn else "remove points")
        return self


def _kind_only(value: object) -> object:
    return {"kind": value} if isinstance(value, str) else value


Sample = Annotated[SampleSection, Shorthand(_kind_only, ({"enum": ["grid", "list"]},))]


class ConfidenceSection(Section):
    """How uncertain means over seeds are."""

    level: Annotated[Share, Field(lt=1)] = Field(default=0.95, description="Coverage of the intervals.")
    method: Literal["t", "bootstrap"] = Field(default="t", description="Student's t, or BCa bootstrap.")


class NodePriceSection(Section):
    """Price of a machine type."""

    on_demand: Number = Field(description="Per node-hour.")
    spot: Number | None = Field(default=None, description="Per node-hour of a spot instance.")


def _on_demand(value: object) -> object:
    return {"on_demand": value} if isinstance(value, int | float) and not isinstance(value, bool) else value


NodePrice = Annotated[NodePriceSection, Shorthand(_on_demand, ({"type": "number", "minimum": 0},))]


class PricesSection(Section):
    """What things cost."""

    currency: Name = Field(default="EUR", description="For tables.")
    nodes: Annotated[dict[str, NodePrice], Field(min_length=1, max_length=1_000)] = Field(
        description="Machine type -> price per node-hour, or {on_demand, spot}."
    )
    spot: tuple[Text, ...] = Field(
        default=(),
        max_length=1_000,
        description="Nodes (names, patterns such as l4-*, or machine types) that are spot.",
    )
    egress_per_gb: Number = Field(default=0.0, description="Per 10^9 bytes that leave a region.")


# ------------------------------------------------------------------------------------------------- questions

Conditions = Annotated[dict[Figure, JsonValue], Field(min_length=1, max_length=100)]
DEFAULT_CONDITIONS: dict[str, JsonValue] = {"slo_attainment": ">= 0.9"}


class SweepSection(Section):
    """Every cell, every seed."""

    kind: Literal["sweep"] = Field(default="sweep", description="sweep.")
    figures: tuple[Figure, ...] = Field(
        default=("decode_throughput_tokens_per_s", "ttft_s.p50", "tpot_s.p50"),
        min_length=1,
        max_length=50,
        description="Figures of the answer's table; all others are in the results.",
    )


class CompareSection(Section):
    """Cells against a baseline, on the same seeds."""

    kind: Literal["compare"] = Field(description="compare.")
    figures: tuple[Figure, ...] = Field(
        default=("decode_throughput_tokens_per_s",), min_length=1, max_length=50, description="What is compared."
    )
    baseline: Annotated[dict[AxisName, JsonValue], Field(min_length=1)] = Field(
        description="Axis -> the value that others are compared with, all other axes being equal."
    )


class MaxRateSection(Section):
    """The greatest request rate that meets the conditions, by bisection for each seed."""

    kind: Literal["max_rate"] = Field(description="max_rate.")
    path: Path = Field(default="workload.synthetic.requests_per_s", description="Field that holds the rate.")
    start: Positive = Field(alias="from", description="Rate that should meet the conditions.")
    stop: Positive = Field(alias="to", description="Highest rate that is tried.")
    tolerance: Annotated[Positive, Field(ge=0.001, le=1)] = Field(
        default=0.05, description="Bisection ends when a rate that fails is at most so much above one that meets."
    )
    meets: Conditions = Field(
        default_factory=lambda: dict(DEFAULT_CONDITIONS),
        description="Figure -> condition, as in a scenario's expect; slo_attainment is a figure, too.",
    )

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if not self.start < self.stop:
            _fail(f"from ({self.start:g}) is not below to ({self.stop:g})", "widen the range")
        return self


class OfferSection(Section):
    """One entry of the catalogue: nodes that can be had."""

    machine: Name = Field(description="Machine type.")
    region: Name = Field(default="default", description="Region.")
    at_least: Annotated[Whole, Field(le=1_000)] = Field(default=0, description="Fewest nodes.")
    at_most: Annotated[Count, Field(le=1_000)] = Field(description="Most nodes.")
    spot: Flag = Field(default=False, description="Whether they have the spot price.")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.at_least > self.at_most:
            _fail(f"at_least ({self.at_least}) is above at_most ({self.at_most})", "correct one of them")
        return self


class MinCostSection(Section):
    """The cheapest cluster from a catalogue that meets the conditions under the scenario's load, for every seed."""

    kind: Literal["min_cost"] = Field(description="min_cost.")
    catalogue: Annotated[dict[AxisName, OfferSection], Field(min_length=1, max_length=50)] = Field(
        description="Name of a group of nodes -> what can be had of it."
    )
    meets: Conditions = Field(
        default_factory=lambda: dict(DEFAULT_CONDITIONS), description="Figure -> condition, as in a scenario's expect."
    )
    clusters: CountUpTo = Field(default=60, description="Most clusters that are tried in each cell.")
    seed: Whole = Field(default=0, description="Of the search.")
    monotone: Flag = Field(
        default=True,
        description="Whether a cluster is taken to fail when one with at least its nodes has failed, and with equally "
        "many of those that fail at random.",
    )


Question = Annotated[SweepSection | CompareSection | MaxRateSection | MinCostSection, Discriminator("kind")]


class StudySection(Section):
    """A scenario, what is varied, and what is asked."""

    schema_version: Literal[1] = Field(description="Version of this format: 1.")
    kind: Literal["study"] = Field(description="study.")
    name: Name = Field(description="Name, shown in results.")
    description: Text = Field(default="", description="One line for lists.")
    scenario: FileName | dict[str, JsonValue] = Field(description="Library name, path, or the scenario itself.")
    overrides: tuple[Text, ...] = Field(default=(), max_length=100, description="Named overrides of the scenario.")
    set: dict[Path, JsonValue] = Field(default_factory=dict, description="Dotted path -> value, for all points.")
    axes: Annotated[dict[AxisName, Axis], Field(max_length=20)] = Field(
        default_factory=dict,
        description="Name -> axis. A list alone is values of the field that the name stands for: planner, scheduler, "
        "recovery, seed, cluster, model.",
    )
    sample: Sample = Field(default_factory=lambda: SampleSection(kind="grid"), description="Combinations that are run.")
    constraints: Annotated[tuple[Text, ...], Field(max_length=100)] = Field(
        default=(), description="Expressions of axes that must hold, for instance l4 + t4 <= 12."
    )
    seeds: CountUpTo | Annotated[tuple[Whole, ...], Field(min_length=1, max_length=10_000)] = Field(
        default=1, description="Number of seeds, counted from the scenario's own, or a list of them."
    )
    confidence: ConfidenceSection = Field(default_factory=ConfidenceSection, description="Of means over seeds.")
    prices: PricesSection | None = Field(default=None, description="Price table; cost figures need it.")
    figures: tuple[Figure, ...] = Field(
        default=(), max_length=50, description="Further figures, for instance nodes.*.utilisation."
    )
    question: Question = Field(default_factory=SweepSection, description="What is asked.")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if isinstance(self.seeds, tuple) and len(dict.fromkeys(self.seeds)) < len(self.seeds):
            _fail("a seed stands in seeds twice", "remove one")
        if isinstance(self.question, MinCostSection) and self.prices is None:
            _fail("min_cost needs prices", "add prices: {nodes: {MACHINE: price per hour}}")
        if isinstance(self.question, CompareSection):
            for axis in self.question.baseline:
                if axis not in self.axes:
                    _fail(f"the baseline names {axis}, which is no axis", f"use one of {', '.join(self.axes)}")
        return self


def _fail(rule: str, remedy: str) -> None:
    raise PydanticCustomError("study", "{rule}; {remedy}", {"rule": rule, "remedy": remedy})
