"""Write the profiles, models, machines and request lengths that the package ships.

``python -m scenarios.fitted_files ARTIFACT_PROFILES_DIR OUT_DIR`` regenerates them in ``scenarios/library`` from the
data files of the Helix artifact, reduced by ``scenarios.fitted_files``.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from scenarios.fitting import (
    FittingError,
    Knots,
    Tolerance,
    TooFewKnotsError,
    fewest_knots,
    fit_decode_limits,
    fit_kv_blocks,
    fit_lengths,
    rank_correlation,
    reduce_table,
)
from scenarios.library_text import flow, folded, head, mapping
from scenarios.profile_formulas import kv_blocks

COMMAND = "python -m scenarios.fitted_files ARTIFACT_PROFILES_DIR OUT_DIR"
ARTIFACT = "Helix artifact (ASPLOS 2025), Apache-2.0, DOI 10.5281/zenodo.14037926"
MAX_KNOTS = 16
STRICT_MS = 0.002  # a little more than the rounding of a knot's milliseconds
MACHINES = {
    "A100": ("a100", "one NVIDIA A100, 40 GB"),
    "V100": ("v100", "one NVIDIA V100, 16 GB"),
    "L4": ("l4", "one NVIDIA L4, 24 GB"),
    "L4x2": ("l4x2", "two NVIDIA L4 of 24 GB in one machine"),
    "T4": ("t4", "one NVIDIA T4, 16 GB"),
    "T4x2": ("t4x2", "two NVIDIA T4 of 16 GB in one machine"),
    "T4x4": ("t4x4", "four NVIDIA T4 of 16 GB in one machine"),
}
MODEL_FOLDERS = {"llama-1-30b": "llama1_30b", "llama-2-70b": "llama2_70b"}


def read_points(path: Path) -> list[tuple[float, float]]:
    """Read a measured table: lines of batch size and milliseconds per layer."""
    return [(float(size), float(time)) for size, time in np.loadtxt(path, delimiter=",", ndmin=2)]


def _profile_text(figures: dict[str, Any], folder: Path, model: str, machine: str) -> str:
    data = figures["machines"][model][machine]
    tables, errors = {}, []
    for phase, file in (("prefill", "prompt_bs2time.csv"), ("decode", "decode_bs2time.csv")):
        points = read_points(folder / file)
        tables[phase] = _reduced(points)
        errors.append(f"{phase}: {_deviation(points, tables[phase])}")
    kv, block_tokens = fit_kv_blocks(data["kv_blocks"]), figures["kv_block_tokens"]
    kv_tokens = {n: kv_blocks(kv.numerator, kv.offset, n) * block_tokens for n in data["kv_blocks"]}
    decode = fit_decode_limits(data["max_decode_sequences"], kv_tokens)
    errors.append(f"KV blocks: worst {_percent(kv.worst)}, mean {_percent(kv.mean)}")
    errors.append(f"decode limits: worst {_percent(decode.worst)}, mean {_percent(decode.mean)}")
    prompts = set(data["max_prompts_per_batch"].values())
    if len(prompts) != 1:
        raise FittingError(f"{model} on {machine}: max_prompts_per_batch differs between layers: {sorted(prompts)}")
    typical = figures["typical_layers"][model]
    source = (
        f"{ARTIFACT}: its authors' measurements of {MACHINES[machine][1]}, and their limits per number of layers; "
        "reduced by `python -m scenarios.fitted_files`."
    )
    layers_note = "# default, and for clusters that can barely hold the model"
    return "\n".join(
        [
            *head("profile", f"{model} on {machine}: times per layer and limits.", COMMAND),
            f"model: {model}",
            f"machine: {machine}",
            *folded("source", source),
            *folded("accuracy", "; ".join(errors) + "."),
            "# [prompt tokens in the batch, ms]",
            *flow("prefill_ms_per_layer", tables["prefill"]),
            "# [decoding sequences in the batch, ms]",
            *flow("decode_ms_per_layer", tables["decode"]),
            "single_decode_factor: 2",
            f"max_layers: {data['max_layers']}",
            f"kv_block_tokens: {block_tokens}",
            "# floor(numerator / layers - offset) blocks per held layer",
            f"kv_blocks: {mapping({'numerator': kv.numerator, 'offset': kv.offset})}",
            f"max_prompts_per_batch: {prompts.pop()}",
            f"max_prompt_tokens: {figures['max_prompt_tokens']}",
            "# as many contexts as the KV blocks hold, in whole steps, at most cap",
            f"max_decode_sequences: {mapping(decode.parameters)}",
            f"decode_context_per_sequence: {figures['decode_context_per_sequence']}",
            layers_note,
            f"typical_layers: {mapping({kind: typical[kind][machine] for kind in ('default', 'tight')})}",
            f"first_perf: {figures['first_perf'][model][machine]}",
            "",
        ]
    )


def _reduced(points: Sequence[tuple[float, float]]) -> Knots:
    """At most ``MAX_KNOTS`` knots; where they cannot keep the tolerance, the fewest that keep the relative bound alone.

    The absolute allowance is there to save knots on short times. A table that cannot be short is at least true there:
    0.15 ms would be a tenth of what a small batch takes on the fastest machine.
    """
    try:
        return reduce_table(points, max_knots=MAX_KNOTS)
    except TooFewKnotsError:
        strict = Tolerance(absolute_ms=STRICT_MS)
        return reduce_table(points, max_knots=fewest_knots(points, strict), tolerance=strict)


def _deviation(points: Sequence[tuple[float, float]], knots: Knots) -> str:
    sizes, times = np.array(points).T
    knot_sizes, knot_times = np.array(knots).T
    error = np.abs(np.interp(sizes, knot_sizes, knot_times) - times)[1:]
    bound = Tolerance()
    long = times[1:] * bound.relative >= bound.absolute_ms
    parts = []
    if long.any():
        parts.append(f"{_percent(float((error / times[1:])[long].max()))} from 5 ms on")
    if not long.all():
        parts.append(f"{math.ceil(float(error[~long].max()) * 1000 - 1e-6) / 1000:g} ms below 5 ms")
    count = f"{len(knots)} knots for {len(points)} points"
    if len(knots) > MAX_KNOTS:
        whole, fall = sizes[1 + np.flatnonzero(times % 1)[-1]], -np.diff(times).min()
        count += (
            f" (more than {MAX_KNOTS}: no fewer than {fewest_knots(points)}, at any whole batch sizes, stay within "
            f"{bound.relative * 100:g} % or {bound.absolute_ms:g} ms, and no fewer than these within "
            f"{bound.relative * 100:g} %, of measurements that are in whole ms from batch size {whole:g} on and so "
            f"climb in steps{f', and fall by up to {fall:.2g} ms between two sizes' if fall > 0 else ''})"
        )
    return (
        f"{count}, largest deviation from a measured point {' and '.join(parts)}, "
        f"mean {_percent(float((error / times[1:]).mean()))}"
    )


def _percent(share: float) -> str:
    """Rounded up, so that what a file states is a bound."""
    return f"{math.ceil(share * 1e4 - 1e-6) / 100:g} %"


def _lengths_text(trace: Path) -> str:
    prompts, outputs = np.loadtxt(trace, delimiter=",", skiprows=1).T
    table = fit_lengths(prompts, outputs)
    drawn = table.sample(np.random.default_rng(0), 400_000)
    stated = []
    for name, real, own in (("prompt", prompts, drawn[0]), ("output", outputs, drawn[1])):
        marks = ", ".join(f"p{p} {np.percentile(own, p):g} for {np.percentile(real, p):g}" for p in (50, 95))
        stated.append(f"{name} mean {own.mean():.1f} for {real.mean():.1f}, {marks}")
    stated.append(f"rank correlation {rank_correlation(*drawn):.3f} for {rank_correlation(prompts, outputs):.3f}")
    source = (
        "Azure LLM inference trace 2023, conversation (Microsoft, CC-BY, github.com/Azure/AzurePublicDataset), "
        f"{len(prompts)} requests as the {ARTIFACT} selects them; reduced by `python -m scenarios.fitted_files`. "
        f"Drawn from this table, against the trace: {'; '.join(stated)}."
    )
    return "\n".join(
        [
            *head("lengths", "Prompt and output lengths of the Azure conversation trace, as quantiles.", COMMAND),
            *folded("source", source),
            "# at evenly spaced quantiles from 0 to 1",
            *flow("prompt_tokens", table.prompt_tokens),
            "output_tokens_by_prompt_bin:",
            "  # greatest prompt of each bin",
            f"  edges: {list(table.edges)}",
            "  # one row a bin, at evenly spaced quantiles from 0 to 1; the last value keeps the mean of the tail",
            "  quantiles:",
            *(f"    - {list(row)}" for row in table.quantiles),
            "",
        ]
    )


KV_BYTES = {"llama-2-70b": 4096}
"""KV cache of a token and layer at 16 bits, where it is less than for full attention: 8 of 64 heads have keys and
values of their own (Touvron et al., "Llama 2", 2023, section 2.2)."""


def _model_text(figures: dict[str, Any], model: str) -> str:
    data = figures["models"][model]
    return "\n".join(
        [
            *head("model", f"{model}, reduced to the figures that serving it needs.", COMMAND),
            f"name: {model}",
            f"layers: {data['layers']}",
            f"hidden_size: {data['hidden']}",
            f'layer_size: "{data["layer_bytes"] / 1e9:g} GB"',
            *(f'kv_size: "{size} B"' for size in (KV_BYTES.get(model),) if size),
            *folded("source", f"{ARTIFACT}."),
            "",
        ]
    )


def _machine_text(figures: dict[str, Any], machine: str) -> str:
    return "\n".join(
        [
            *head("machine", f"{MACHINES[machine][1]}.", COMMAND),
            f"name: {machine}",
            f"description: {MACHINES[machine][1]}",
            f'vram: "{figures["vram_bytes"][machine] / 1e9:g} GB"',
            "# The reference writes 10 gbps and divides bytes by it: 10 gigabytes a second is what it simulates.",
            'nic: "10 GB/s"',
            "# Likewise 1 gbps.",
            'disk: "1 GB/s"',
            *folded("source", f"{ARTIFACT}."),
            "",
        ]
    )


def generate(profiles: Path, out: Path) -> list[Path]:
    """Write every file that comes from the artifact; returns the paths.

    Args:
        profiles: Folder with ``machines.yaml`` and the measured tables; ``../traces`` beside it holds the lengths.
        out: The library folder.
    """
    figures = yaml.safe_load((profiles / "machines.yaml").read_text(encoding="utf-8"))
    texts = {out / "azure_conversation_lengths.yaml": _lengths_text(profiles.parent / "traces/azure_conv_lengths.csv")}
    for machine, (stem, _) in MACHINES.items():
        texts[out / "machines" / f"{stem}.yaml"] = _machine_text(figures, machine)
        for model, folder in MODEL_FOLDERS.items():
            text = _profile_text(figures, profiles / folder / stem, model, machine)
            texts[out / "profiles" / model / f"{stem}.yaml"] = text
    for model in MODEL_FOLDERS:
        texts[out / "models" / f"{model}.yaml"] = _model_text(figures, model)
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return list(texts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Regenerate the shipped files; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m scenarios.fitted_files", description="Regenerate the shipped profiles."
    )
    parser.add_argument("profiles", type=Path, help="profiles folder of the Helix artifact's data files")
    parser.add_argument("out", type=Path, help="library folder, for instance scenarios/library")
    options = parser.parse_args(arguments)
    try:
        written = generate(options.profiles, options.out)
    except (OSError, KeyError, ValueError, yaml.YAMLError) as error:
        print(f"scenarios.fitted_files: {error}", file=sys.stderr)
        return 2
    print(f"{len(written)} files written to {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
