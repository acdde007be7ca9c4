"""Profiles of machines that nobody measured for us, derived from public hardware figures by a roofline.

``python -m scenarios.roofline OUT_DIR`` writes them, their machines and their model into ``scenarios/library``.

With P parameters and W = 2 P bytes of weights a layer, b bytes/s of memory and f flop/s of 16-bit matrix arithmetic
that the card sustains, c tokens of context and v bytes of KV cache a token and layer:

    prefill(n) = max(W / b, n (2 P + a) / f)            n prompt tokens; a = 2 c h flops of causal attention each
    decode(n)  = max(W / b, 2 P n / f) + n c v / b      n sequences; each reads its context's KV cache

The card sustains a share of its data sheet's figures: :data:`MEMORY_SHARE` and :data:`MATRIX_SHARE`, about those of
the four machine types with one card in the measured profiles (A100, V100: HBM; L4, T4: GDDR). A test holds the same
formula against these measurements; :data:`MEASURED` says how far it is off.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scenarios.library_text import flow, folded, head, mapping

COMMAND = "python -m scenarios.roofline OUT_DIR"

MEMORY_SHARE = 0.7
MATRIX_SHARE: Mapping[str, float] = {"HBM": 0.75, "GDDR": 0.4}
"""By kind of memory, which parts data-centre cards from inference cards."""

CONTEXT_TOKENS = 750 + 240 // 2
"""Mean context of a decoding sequence: HELIX.md's average prompt and half of its average output."""

MEASURED = (
    "Held against the measured profiles of A100, V100, L4 and T4 for llama-2-70b, the same formula is off by a factor "
    "of 1.11 in the median and of less than 1.5 at nine knots of ten; prefills are within 6 % in each type's median, "
    "decodes 8 to 26 % too fast, most (2.2 times) on a V100 with some 65 sequences"
)

USABLE_SHARE = 0.9
"""Share of the memory that weights and KV cache may take; what vLLM takes unless told otherwise."""

WEIGHTS_SHARE = 0.5
"""Share of that which weights may take; the rest is left to the KV cache."""

BLOCK_TOKENS = 16
PROMPT_TOKENS = 2048
CONTEXT_LIMIT = 990
TYPICAL_SHARE = 2 / 3
"""Layers that a machine usually holds, as a share of the most that it can, as in the measured profiles."""
PERF_BYTES = 20e9
"""Bytes/s of memory for one layer * token/s of the throughput formula's start; 10 rounds move away from it anyhow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """Public figures of a machine with one card.

    Attributes:
        name: Machine type.
        title: What it is.
        memory: ``HBM`` or ``GDDR``.
        vram_gb: GPU memory.
        memory_gb_per_s: Memory bandwidth.
        matrix_tflops: Dense 16-bit matrix arithmetic.
        nic: Network card that such machines come with.
        disk: Rate of their local disks.
        prompts: Prompts of up to 2,048 tokens that a batch takes.
        sequences: Most decoding sequences in a batch.
        source: Where the figures are from.
    """

    name: str
    title: str
    memory: str
    vram_gb: float
    memory_gb_per_s: float
    matrix_tflops: float
    nic: str = "100 Gbit/s"
    disk: str = "3 GB/s"
    prompts: int = 4
    sequences: int = 1024
    source: str = ""

    @property
    def bytes_per_s(self) -> float:
        """Memory bandwidth that it sustains."""
        return MEMORY_SHARE * self.memory_gb_per_s * 1e9

    @property
    def flops(self) -> float:
        """Matrix arithmetic that it sustains."""
        return MATRIX_SHARE[self.memory] * self.matrix_tflops * 1e12


@dataclass(frozen=True, slots=True, kw_only=True)
class Transformer:
    """Shape of a model with grouped-query attention and gated MLPs.

    Attributes:
        name: Model name.
        title: What it is.
        layers: Number of layers.
        hidden: Width.
        intermediate: Width of the MLP.
        heads: Query heads.
        kv_heads: Key and value heads.
        source: Where the figures are from.
    """

    name: str
    title: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    source: str

    @property
    def parameters(self) -> int:
        """Of one layer: query and output, key and value, the MLP's three matrices, two norms."""
        kv = self.hidden // self.heads * self.kv_heads
        return 2 * self.hidden**2 + 2 * self.hidden * kv + 3 * self.hidden * self.intermediate + 2 * self.hidden

    @property
    def layer_bytes(self) -> float:
        """Weights of one layer at 16 bits."""
        return 2.0 * self.parameters

    @property
    def kv_bytes(self) -> float:
        """KV cache of one token in one layer at 16 bits."""
        return 2 * 2.0 * self.hidden // self.heads * self.kv_heads


CARDS = (
    Card(
        name="H200",
        title="one NVIDIA H200 SXM, 141 GB",
        memory="HBM",
        vram_gb=141,
        memory_gb_per_s=4800,
        matrix_tflops=989,
        source="NVIDIA H200 data sheet: 141 GB, 4.8 TB/s, 989 TFLOPS of dense BF16",
    ),
    Card(
        name="H100",
        title="one NVIDIA H100 SXM, 80 GB",
        memory="HBM",
        vram_gb=80,
        memory_gb_per_s=3350,
        matrix_tflops=989,
        source="NVIDIA H100 data sheet: 80 GB, 3.35 TB/s, 989 TFLOPS of dense BF16",
    ),
    Card(
        name="A100-80G",
        title="one NVIDIA A100 SXM, 80 GB",
        memory="HBM",
        vram_gb=80,
        memory_gb_per_s=2039,
        matrix_tflops=312,
        prompts=2,
        sequences=512,
        source="NVIDIA A100 data sheet: 80 GB, 2,039 GB/s, 312 TFLOPS of dense BF16",
    ),
    Card(
        name="L40S",
        title="one NVIDIA L40S, 48 GB",
        memory="GDDR",
        vram_gb=48,
        memory_gb_per_s=864,
        matrix_tflops=362,
        nic="25 Gbit/s",
        prompts=1,
        sequences=256,
        source="NVIDIA L40S data sheet: 48 GB, 864 GB/s, 362 TFLOPS of dense BF16",
    ),
)

MODELS = (
    Transformer(
        name="llama-3-70b",
        title="Llama 3 70B at 16 bits",
        layers=80,
        hidden=8192,
        intermediate=28672,
        heads=64,
        kv_heads=8,
        source=(
            "Shape as in the published configuration of Meta-Llama-3-70B: 80 layers, hidden size 8192, MLP 28672, 64 "
            "heads, 8 of them for keys and values"
        ),
    ),
)


def prefill_ms(model: Transformer, card: Card, tokens: float) -> float:
    """Milliseconds of one layer for a batch of this many prompt tokens."""
    attention = 2.0 * CONTEXT_TOKENS * model.hidden
    arithmetic = tokens * (2.0 * model.parameters + attention) / card.flops
    return 1e3 * max(model.layer_bytes / card.bytes_per_s, arithmetic)


def decode_ms(model: Transformer, card: Card, sequences: float) -> float:
    """Milliseconds of one layer for one token each of this many sequences."""
    arithmetic = 2.0 * model.parameters * sequences / card.flops
    context = sequences * CONTEXT_TOKENS * model.kv_bytes / card.bytes_per_s
    return 1e3 * (max(model.layer_bytes / card.bytes_per_s, arithmetic) + context)


def ridge(model: Transformer, card: Card, extra_flops: float = 0.0) -> int:
    """Batch size from which arithmetic takes longer than reading the weights, rounded up."""
    return int(-(-model.layer_bytes / card.bytes_per_s * card.flops // (2.0 * model.parameters + extra_flops)))


def most_layers(model: Transformer, card: Card) -> int:
    """Layers whose weights take no more than their share of the memory; at least 1, at most the model's."""
    room = WEIGHTS_SHARE * USABLE_SHARE * card.vram_gb * 1e9
    return max(1, min(model.layers, int(room // model.layer_bytes)))


def profile_text(model: Transformer, card: Card) -> str:
    """The profile file."""
    block_bytes = BLOCK_TOKENS * model.kv_bytes
    most = most_layers(model, card)
    longest = 2 * card.prompts * PROMPT_TOKENS
    prefill = sorted({1, ridge(model, card, 2.0 * CONTEXT_TOKENS * model.hidden), longest})
    decode = sorted({1, min(ridge(model, card), card.sequences), card.sequences})
    kv = {
        "numerator": round(USABLE_SHARE * card.vram_gb * 1e9 / block_bytes),
        "offset": round(model.layer_bytes / block_bytes),
    }
    source = (
        f"Derived, not measured: a roofline (`python -m scenarios.roofline`, which states the formula) over public "
        f"figures. {card.source}; {MEMORY_SHARE:.0%} of the bandwidth and {MATRIX_SHARE[card.memory]:.0%} of the "
        f"arithmetic are taken as sustained, the shares measured on {card.memory} cards in this library. "
        f"{model.source}."
    ).replace("%", " %")
    return "\n".join(
        [
            *head("profile", f"{model.name} on {card.name}: derived times per layer and limits.", COMMAND),
            f"model: {model.name}",
            f"machine: {card.name}",
            *folded("source", source),
            *folded("accuracy", f"Derived, not measured. {MEASURED}; no such check exists for this machine."),
            "# [prompt tokens in the batch, ms]",
            *flow("prefill_ms_per_layer", [(0, 0.0), *((n, round(prefill_ms(model, card, n), 3)) for n in prefill)]),
            "# [decoding sequences in the batch, ms]",
            *flow("decode_ms_per_layer", [(0, 0.0), *((n, round(decode_ms(model, card, n), 3)) for n in decode)]),
            "single_decode_factor: 1",
            f"# half of the usable memory ({USABLE_SHARE:.0%} of all) for weights".replace("%", " %"),
            f"max_layers: {most}",
            f"kv_block_tokens: {BLOCK_TOKENS}",
            "# floor(numerator / layers - offset) blocks per held layer",
            f"kv_blocks: {mapping(kv)}",
            f"max_prompts_per_batch: {card.prompts}",
            f"max_prompt_tokens: {PROMPT_TOKENS}",
            "# as many contexts as the KV blocks hold, at most cap",
            f"max_decode_sequences: {mapping({'cap': card.sequences, 'context_tokens': CONTEXT_LIMIT})}",
            "decode_context_per_sequence: 1000",
            "# default, and for clusters that can barely hold the model",
            f"typical_layers: {mapping({'default': round(TYPICAL_SHARE * most), 'tight': most})}",
            f"first_perf: {card.memory_gb_per_s * 1e9 / PERF_BYTES:g}",
            "",
        ]
    )


def machine_text(card: Card) -> str:
    """The machine file."""
    return "\n".join(
        [
            *head("machine", f"{card.title}.", COMMAND),
            f"name: {card.name}",
            f"description: {card.title}",
            f'vram: "{card.vram_gb:g} GB"',
            "# What cloud machines with this card commonly come with; no figure of the card.",
            f'nic: "{card.nic}"',
            f'disk: "{card.disk}"',
            *folded("source", f"{card.source}."),
            "",
        ]
    )


def model_text(model: Transformer) -> str:
    """The model file."""
    return "\n".join(
        [
            *head("model", f"{model.title}, reduced to the figures that serving it needs.", COMMAND),
            f"name: {model.name}",
            f"layers: {model.layers}",
            f"hidden_size: {model.hidden}",
            f'layer_size: "{model.layer_bytes / 1e9:.4f} GB"',
            f'kv_size: "{model.kv_bytes:g} B"',
            *folded("source", f"{model.source}; {model.parameters:,} parameters a layer."),
            "",
        ]
    )


def generate(out: Path) -> list[Path]:
    """Write every derived file; returns the paths.

    Args:
        out: The library folder.
    """
    texts = {out / "machines" / f"{card.name.lower()}.yaml": machine_text(card) for card in CARDS}
    for model in MODELS:
        texts[out / "models" / f"{model.name}.yaml"] = model_text(model)
        for card in CARDS:
            texts[out / "profiles" / model.name / f"{card.name.lower()}.yaml"] = profile_text(model, card)
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return list(texts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Regenerate the derived files; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m scenarios.roofline", description="Regenerate the derived machines, models and profiles."
    )
    parser.add_argument("out", type=Path, help="library folder, for instance scenarios/library")
    options = parser.parse_args(arguments)
    try:
        written = generate(options.out)
    except OSError as error:
        print(f"scenarios.roofline: {error}", file=sys.stderr)
        return 2
    print(f"{len(written)} files written to {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
