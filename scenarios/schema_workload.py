"""Schema of workloads: request lengths, traces, open and closed loops."""

from __future__ import annotations

import itertools
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Discriminator, Field, model_validator
from pydantic_core import PydanticCustomError

from emulator.workload import Refill
from scenarios.quantities import Seconds
from scenarios.schema_parts import (
    Count,
    FileName,
    FileSection,
    Name,
    Number,
    Positive,
    Reference,
    Section,
    Sha256,
    Share,
    exactly_one,
    one_of_schema,
)

TraceFormat = Literal["auto", "helixemu", "azure", "burstgpt", "mooncake"]
Quantiles = Annotated[tuple[Number, ...], Field(min_length=2, max_length=10_001)]


class LengthTraceSection(Section):
    """A trace of which only the request lengths are used, in order, from the start again at the end."""

    file: FileName = Field(description="Trace file, relative to the file that names it.")
    format: TraceFormat = Field(default="auto", description="Its format; auto goes by the header.")
    limit: Count | None = Field(default=None, description="Read this many requests only.")
    sha256: Sha256 | None = Field(default=None, description="Checked when given; resolved scenarios have it.")


class ArrivalTraceSection(LengthTraceSection):
    """A trace of arrivals and lengths."""

    requests_per_s: Positive | None = Field(default=None, description="Scale time to this mean rate.")
    tokens_per_s: Positive | None = Field(
        default=None, description="Scale time to this mean rate of prompt and output tokens."
    )
    start: Seconds = Field(
        default_factory=lambda: 0.0,
        json_schema_extra={"default": "0 s"},
        description="Time of the trace's beginning in the run.",
    )

    @model_validator(mode="after")
    def _one_rate(self) -> Self:
        if self.requests_per_s is not None:
            exactly_one(self, ("requests_per_s",), ("tokens_per_s",))
        return self


class OutputQuantilesSection(Section):
    """Output tokens given the prompt's bin."""

    edges: tuple[Number, ...] = Field(
        max_length=1_000, description="Greatest prompt tokens of each bin, rising; the last bin's may be left out."
    )
    quantiles: tuple[Quantiles, ...] = Field(
        min_length=1, max_length=1_000, description="One row a bin, at evenly spaced quantiles from 0 to 1."
    )


class QuantilesSection(FileSection):
    """Request lengths as quantile tables."""

    kind: Literal["lengths"] | None = Field(default=None, description="lengths.")
    prompt_tokens: Quantiles = Field(description="Prompt tokens at evenly spaced quantiles from 0 to 1.")
    output_tokens_by_prompt_bin: OutputQuantilesSection = Field(description="Output tokens given the prompt.")

    @model_validator(mode="after")
    def _rising(self) -> Self:
        table = self.output_tokens_by_prompt_bin
        bins, edges = len(table.quantiles), len(table.edges)
        if edges not in (bins - 1, bins):
            rule = f"there are {bins} rows of output quantiles, but {edges} edges"
            raise PydanticCustomError(
                "quantiles", "{rule}; {remedy}", {"rule": rule, "remedy": f"give {bins - 1} or {bins} edges"}
            )
        for what, row in (
            ("prompt_tokens", self.prompt_tokens),
            ("edges", table.edges),
            *((f"output quantiles of bin {index}", row) for index, row in enumerate(table.quantiles)),
        ):
            if any(after < before for before, after in itertools.pairwise(row)):
                context = {"rule": f"{what} must not fall", "remedy": "sort them"}
                raise PydanticCustomError("quantiles", "{rule}; {remedy}", context)
        return self


LENGTH_FORMS = (("library",), ("quantiles",), ("trace",), ("prompt_tokens", "output_tokens"))


class LengthsSection(Section):
    """Prompt and output tokens of the requests."""

    model_config = ConfigDict(json_schema_extra=one_of_schema(*LENGTH_FORMS))

    library: Name | None = Field(default=None, description="Quantile table of the library: azure-conversation.")
    quantiles: Annotated[QuantilesSection, Reference("lengths")] | None = Field(
        default=None, description="Quantile table."
    )
    trace: LengthTraceSection | None = Field(default=None, description="Lengths of a trace, in order.")
    prompt_tokens: Count | None = Field(default=None, description="Every request alike: prompt tokens.")
    output_tokens: Count | None = Field(default=None, description="Every request alike: output tokens.")
    scale: Annotated[Positive, Field(le=1_000)] = Field(
        default=1.0, description="Factor on a quantile table's lengths."
    )

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        exactly_one(self, *LENGTH_FORMS)
        return self


class SyntheticSection(Section):
    """Random arrivals: gamma gaps, Poisson when burstiness is 1."""

    requests_per_s: Positive = Field(description="Mean rate.")
    burstiness: Positive = Field(default=1.0, description="Squared coefficient of variation of the gaps.")
    lengths: LengthsSection = Field(description="Tokens of the requests.")


class OpenWorkloadSection(FileSection):
    """Requests come when they come, whatever the cluster does."""

    model_config = ConfigDict(json_schema_extra=one_of_schema(("trace",), ("synthetic",)))

    kind: Literal["open"] = Field(description="open.")
    trace: ArrivalTraceSection | None = Field(default=None, description="Arrivals of a trace.")
    synthetic: SyntheticSection | None = Field(default=None, description="Random arrivals.")

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        exactly_one(self, ("trace",), ("synthetic",))
        return self


class ClosedWorkloadSection(FileSection):
    """A feeder that keeps the cluster under pressure."""

    kind: Literal["closed"] = Field(description="closed.")
    initial_requests: Annotated[Count, Field(le=1_000_000)] = Field(description="Requests issued at the start.")
    refill: Refill = Field(description="When to issue the next: while the KV cache has room, or a constant number.")
    spacing: Seconds = Field(
        default_factory=lambda: 0.1,
        json_schema_extra={"default": "100 ms"},
        description="Delay between a request's cause and its arrival.",
    )
    feed_high_water_mark: Share = Field(
        default=0.8, description="With refill kv-room: issue while the fullest layer's expected KV use is at most this."
    )
    lengths: LengthsSection = Field(description="Tokens of the requests.")


WorkloadSection = Annotated[OpenWorkloadSection | ClosedWorkloadSection, Discriminator("kind")]
