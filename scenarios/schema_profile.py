"""Schema of models and of profiles: how one machine type runs one model."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Discriminator, Field, Tag, model_validator

from placement.model import ModelSpec
from placement.profile import LatencyTable, LayerLimits, MachineProfile
from scenarios.profile_formulas import decode_limit, kv_blocks
from scenarios.quantities import Bytes
from scenarios.schema_parts import (
    Count,
    FileSection,
    Name,
    Number,
    Positive,
    Section,
    Text,
    Whole,
    exactly_one,
    one_of_schema,
)

MAX_LAYERS = 1_000
Table = Annotated[
    dict[Annotated[int, Field(ge=1, le=MAX_LAYERS)], Count], Field(min_length=1, description="Held layers -> figure.")
]
Knot = Annotated[tuple[Whole, Number], Field(description="[batch size, milliseconds]")]
Knots = Annotated[tuple[Knot, ...], Field(min_length=2, max_length=5_000)]


class ModelSection(FileSection):
    """A transformer model, reduced to the figures that serving needs."""

    kind: Literal["model"] | None = Field(default=None, description="model.")
    name: Name = Field(description="Name by which profiles refer to it.")
    layers: Annotated[Count, Field(le=MAX_LAYERS)] = Field(description="Number of identical layers.")
    hidden_size: Count = Field(description="Width of the activations.")
    layer_size: Bytes = Field(description="Weights of one layer.")
    token_bytes: Positive = Field(
        default=2.0, description="Bytes that one token costs on a link to or from the coordinator."
    )
    activation_bytes: Positive | None = Field(
        default=None, description="Bytes of one token's activation between nodes; 2 * hidden_size when left out."
    )

    kv_size: Bytes | None = Field(
        default=None,
        description="KV cache of one token and layer; 4 * hidden_size bytes when left out, less with grouped queries.",
    )

    def to_domain(self) -> ModelSpec:
        """The domain's model."""
        return ModelSpec(
            name=self.name,
            layers=self.layers,
            hidden_size=self.hidden_size,
            layer_bytes=self.layer_size,
            token_bytes=self.token_bytes,
            activation_bytes=self.activation_bytes or 0.0,
            kv_bytes=self.kv_size or 0.0,
        )


class KvBlocksSection(Section):
    """KV blocks per held layer: ``floor(numerator / layers - offset)``, or a table."""

    model_config = ConfigDict(json_schema_extra=one_of_schema(("numerator", "offset"), ("table",)))

    numerator: Positive | None = Field(default=None, description="Usable memory in KV blocks of one layer.")
    offset: Number | None = Field(default=None, description="Weights of one layer in KV blocks.")
    table: Table | None = Field(default=None, description="Held layers -> blocks.")

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        exactly_one(self, ("numerator", "offset"), ("table",))
        return self

    def at(self, layers: int) -> int | None:
        """Blocks per layer; ``None`` where the table says nothing."""
        if self.table is not None:
            return self.table.get(layers)
        return kv_blocks(self.numerator or 0.0, self.offset or 0.0, layers)


class LayerTableSection(Section):
    """A figure against held layers."""

    table: Table = Field(description="Held layers -> figure.")


class DecodeLimitSection(Section):
    """Decoding sequences in one batch: as many contexts as the KV cache holds, in whole steps, at most ``cap``."""

    model_config = ConfigDict(json_schema_extra=one_of_schema(("cap", "context_tokens"), ("table",)))

    cap: Count | None = Field(default=None, description="Never more than this.")
    context_tokens: Positive | None = Field(default=None, description="Context of one sequence, in tokens.")
    step: Count = Field(default=1, description="The limit is a multiple of this.")
    small_step: Count = Field(default=1, description="Instead of step, under small_below contexts.")
    small_below: Number = Field(default=0.0, description="Contexts under which small_step counts.")
    table: Table | None = Field(default=None, description="Held layers -> sequences.")

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        exactly_one(self, ("cap", "context_tokens"), ("table",))
        return self

    def at(self, layers: int, kv_tokens_per_layer: float) -> int | None:
        """Sequences; ``None`` where the table says nothing."""
        if self.table is not None:
            return self.table.get(layers)
        return decode_limit(
            kv_tokens_per_layer,
            cap=self.cap or 1,
            context_tokens=self.context_tokens or 1.0,
            step=self.step,
            small_step=self.small_step,
            small_below=self.small_below,
        )


class TypicalLayersSection(Section):
    """Layers that such a machine usually holds; the node throughput formula starts from them."""

    default: Annotated[Positive, Field(ge=1, le=MAX_LAYERS)] = Field(description="In a cluster with room to spare.")
    tight: Annotated[Positive, Field(ge=1, le=MAX_LAYERS)] = Field(description="In one that can barely hold the model.")


def _number_or_mapping(value: Any) -> str:
    return "<mapping>" if isinstance(value, (dict, Section)) else "<number>"


Limit = Annotated[
    Annotated[Count, Tag("<number>")] | Annotated[LayerTableSection, Tag("<mapping>")],
    Discriminator(_number_or_mapping),
]
DecodeLimit = Annotated[
    Annotated[Count, Tag("<number>")] | Annotated[DecodeLimitSection, Tag("<mapping>")],
    Discriminator(_number_or_mapping),
]


class ProfileSection(FileSection):
    """How one machine type runs one model."""

    kind: Literal["profile"] | None = Field(default=None, description="profile.")
    model: Name = Field(description="Name of the model.")
    machine: Name = Field(description="Name of the machine type.")
    accuracy: Text = Field(default="", description="How far the figures are from the measured ones.")
    prefill_ms_per_layer: Knots = Field(description="[prompt tokens in the batch, ms of one layer], from batch size 0.")
    decode_ms_per_layer: Knots = Field(description="[sequences in the batch, ms of one layer], from batch size 0.")
    single_decode_factor: Positive = Field(default=2.0, description="Factor on decode for a batch of one sequence.")
    max_layers: Annotated[Count, Field(le=MAX_LAYERS)] = Field(description="Most layers that fit beside a KV cache.")
    kv_block_tokens: Count = Field(default=16, description="Tokens of one layer that a KV block holds.")
    kv_blocks: KvBlocksSection = Field(description="KV blocks per held layer.")
    max_prompts_per_batch: Limit = Field(description="Prompts in one batch; a number, or a table by held layers.")
    max_prompt_tokens: Count = Field(
        default=2048, description="A batch takes max_prompts_per_batch times this many prompt tokens."
    )
    max_decode_sequences: DecodeLimit = Field(description="Decoding sequences in one batch.")
    decode_context_per_sequence: Count = Field(
        default=1000, description="A batch takes max_decode_sequences times this many context tokens."
    )
    typical_layers: TypicalLayersSection = Field(description="Start of the node throughput formula.")
    first_perf: Positive = Field(description="Start of the node throughput formula, in layers * tokens per second.")

    def to_domain(self) -> MachineProfile:
        """The domain's profile.

        Raises:
            PlanError: Knots that do not rise from 0, or limits that leave no room.
        """
        return MachineProfile(
            machine_type=self.machine,
            model=self.model,
            prefill=_table(self.prefill_ms_per_layer),
            decode=_table(self.decode_ms_per_layer),
            limits={layers: self._limits(layers) for layers in range(1, self.max_layers + 1)},
            kv_block_tokens=self.kv_block_tokens,
            max_prompt_tokens=self.max_prompt_tokens,
            decode_context_per_sequence=self.decode_context_per_sequence,
            single_decode_factor=self.single_decode_factor,
            typical_layers=self.typical_layers.default,
            tight_typical_layers=self.typical_layers.tight,
            first_perf=self.first_perf,
        )

    def _limits(self, layers: int) -> LayerLimits:
        # A hole in a table becomes 0, which the domain rejects with the number of layers.
        blocks = self.kv_blocks.at(layers) or 0
        prompts, decodes = self.max_prompts_per_batch, self.max_decode_sequences
        sequences = decodes if isinstance(decodes, int) else decodes.at(layers, blocks * self.kv_block_tokens)
        return LayerLimits(
            kv_blocks=blocks,
            max_prompts=prompts if isinstance(prompts, int) else prompts.table.get(layers, 0),
            max_decode_sequences=sequences or 0,
        )


def _table(knots: tuple[tuple[int, float], ...]) -> LatencyTable:
    return LatencyTable(tuple(batch for batch, _ in knots), tuple(ms / 1e3 for _, ms in knots))
