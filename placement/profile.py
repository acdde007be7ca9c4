"""Measured behaviour of one machine type running one model."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass

from placement.errors import PlanError
from placement.numbers import require


@dataclass(frozen=True, slots=True)
class LatencyTable:
    """Seconds per layer against batch size, linear between knots.

    Attributes:
        batch_sizes: Knots, strictly rising, from 0 (tokens for prefill, sequences for decode).
        seconds: Time of one layer at each knot.
    """

    batch_sizes: tuple[int, ...]
    seconds: tuple[float, ...]

    def __post_init__(self) -> None:
        problems: list[str] = []
        if len(self.batch_sizes) != len(self.seconds) or len(self.batch_sizes) < 2:
            raise PlanError("latency table: it needs at least two knots, each with a batch size and a time")
        for before, after in zip(self.batch_sizes, self.batch_sizes[1:], strict=False):
            if not before < after:
                problems.append(f"latency table: batch size {after} follows {before}; they must rise")
        if self.batch_sizes[0] != 0:
            problems.append(f"latency table: the first knot is {self.batch_sizes[0]}; it must be batch size 0")
        for batch, seconds in zip(self.batch_sizes, self.seconds, strict=True):
            require(problems, f"latency table at batch size {batch}", "time in seconds", seconds, minimum=0)
        if problems:
            raise PlanError(problems)

    def at(self, batch: float) -> float:
        """Seconds of one layer for ``batch``; past the last knot the last slope goes on."""
        index = min(bisect_right(self.batch_sizes, batch), len(self.batch_sizes) - 1)
        x0, x1 = self.batch_sizes[index - 1], self.batch_sizes[index]
        y0, y1 = self.seconds[index - 1], self.seconds[index]
        return y0 + (y1 - y0) * (batch - x0) / (x1 - x0)

    def up_to(self, largest: int) -> list[float]:
        """Seconds of one layer for every whole batch size 0..largest; shape ``(largest + 1,)``."""
        return [self.at(batch) for batch in range(largest + 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerLimits:
    """What a machine can do while it holds a given number of layers.

    Attributes:
        kv_blocks: KV-cache blocks per held layer.
        max_prompts: Prompts in one batch.
        max_decode_sequences: Decoding sequences in one batch.
    """

    kv_blocks: int
    max_prompts: int
    max_decode_sequences: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineProfile:
    """How one machine type runs one model (HELIX.md section 2).

    Attributes:
        machine_type: Machine type, for instance ``A100``.
        model: Name of the model.
        prefill: Seconds per layer against prompt tokens in the batch.
        decode: Seconds per layer against decoding sequences in the batch.
        limits: Limits against held layers; keys 1..max_layers without a gap.
        kv_block_tokens: Tokens of one layer that one KV block holds.
        max_prompt_tokens: A batch takes at most ``max_prompts`` times this many prompt tokens.
        decode_context_per_sequence: A batch takes ``max_decode_sequences`` times this many context tokens.
        single_decode_factor: Factor on ``decode`` for a batch of exactly one decoding sequence.
        typical_layers: Layers that such a machine usually holds (used by the throughput formula).
        tight_typical_layers: The same for clusters that can barely hold the model.
        first_perf: Starting value of the throughput formula, in layers * tokens per second.
    """

    machine_type: str
    model: str
    prefill: LatencyTable
    decode: LatencyTable
    limits: Mapping[int, LayerLimits]
    kv_block_tokens: int = 16
    max_prompt_tokens: int = 2048
    decode_context_per_sequence: int = 1000
    single_decode_factor: float = 2.0
    typical_layers: float
    tight_typical_layers: float
    first_perf: float

    def __post_init__(self) -> None:
        where = f"profile {self.model} on {self.machine_type}"
        problems: list[str] = []
        if sorted(self.limits) != list(range(1, len(self.limits) + 1)) or not self.limits:
            problems.append(f"{where}: limits are given for {sorted(self.limits)} layers; they must be 1..max, no gaps")
        for layers, limit in self.limits.items():
            at = f"{where}, {layers} layers"
            require(problems, at, "kv_blocks", limit.kv_blocks, minimum=1)
            require(problems, at, "max_prompts", limit.max_prompts, minimum=1)
            require(problems, at, "max_decode_sequences", limit.max_decode_sequences, minimum=1)
        require(problems, where, "kv_block_tokens", self.kv_block_tokens, minimum=1)
        require(problems, where, "max_prompt_tokens", self.max_prompt_tokens, minimum=1)
        require(problems, where, "decode_context_per_sequence", self.decode_context_per_sequence, minimum=1)
        require(problems, where, "single_decode_factor", self.single_decode_factor, above=0)
        require(problems, where, "typical_layers", self.typical_layers, above=0)
        require(problems, where, "tight_typical_layers", self.tight_typical_layers, above=0)
        require(problems, where, "first_perf", self.first_perf, above=0)
        if problems:
            raise PlanError(problems)

    @property
    def max_layers(self) -> int:
        """Most layers for which the profile gives limits."""
        return len(self.limits)

    def limits_at(self, layers: int) -> LayerLimits:
        """Limits while holding ``layers``; past the profile's maximum those of the maximum hold."""
        return self.limits[min(layers, self.max_layers)]

    def kv_capacity_layer_tokens(self, layers: int) -> int:
        """KV capacity while holding ``layers``: tokens summed over all held layers."""
        return self.limits_at(layers).kv_blocks * self.kv_block_tokens * layers
