"""Reduce measurements to the small files that the package ships.

``python -m scenarios.fitting ARTIFACT_PROFILES_DIR OUT_DIR`` regenerates the profiles, models, machines and request
lengths of ``scenarios/library`` from the data files of the Helix artifact.

Latency tables become a few knots of a continuous piecewise-linear function. Knots stand at measured batch sizes only,
so between two measured points the error is never greater than at the worse of the two.
"""

from __future__ import annotations

import argparse
import math
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from scenarios.profile_formulas import decode_limit, kv_blocks

Array = npt.NDArray[np.float64]
Knots = list[tuple[int, float]]

DECIMALS = 3  # of a knot's milliseconds
VALUES_PER_POINT = 21  # candidate values of a knot, across its tolerance band
COMMAND = "python -m scenarios.fitting ARTIFACT_PROFILES_DIR OUT_DIR"
ARTIFACT = "Helix artifact (ASPLOS 2025), Apache-2.0, DOI 10.5281/zenodo.14037926"
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


class FittingError(ValueError):
    """Measurements that cannot be read, or cannot be reduced as asked."""


# ---------------------------------------------------------------------------------------------- latency tables


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """How far a reduced table may be from a measured point: the greater of two bounds.

    Attributes:
        relative: Share of the measured time.
        absolute_ms: Milliseconds.
    """

    relative: float = 0.03
    absolute_ms: float = 0.15

    def band_ms(self, measured_ms: Array) -> Array:
        """Greatest deviation at each measured time, in milliseconds; same shape as ``measured_ms``."""
        return np.maximum(self.relative * measured_ms, self.absolute_ms)


def reduce_table(
    points: Sequence[tuple[float, float]], *, max_knots: int = 16, tolerance: Tolerance | None = None
) -> Knots:
    """Reduce a measured table to at most ``max_knots`` knots with the least largest error.

    The error at a point counts in units of the tolerance there. Among reductions with the same largest error (to 1/64
    of the tolerance) the one with the fewest knots is taken, among those the one with the least sum of squares.

    Args:
        points: ``(batch size, milliseconds per layer)``, from (0, 0) on, batch sizes whole and rising.
        max_knots: Most knots, the ones at both ends included.
        tolerance: Bound at every measured point; 3 % or 0.15 ms unless told otherwise.

    Returns:
        Knots ``(batch size, milliseconds)``, the first one (0, 0), the last one at the last measured batch size.

    Raises:
        FittingError: The points are malformed, or ``max_knots`` knots cannot meet the tolerance.
    """
    sizes, times = _checked(points)
    band = (tolerance or Tolerance()).band_ms(times)
    best = _fewest(sizes, times, band, max_knots)
    if best is None:
        needed = fewest_knots(points, tolerance)
        raise FittingError(
            f"latency table of {len(points)} points up to batch size {sizes[-1]:g}: {max_knots} knots cannot stay "
            f"within the tolerance of every point, {needed} can; allow more knots or a wider tolerance"
        )
    low, high = 0.0, 1.0
    for _ in range(6):
        middle = (low + high) / 2
        closer = _fewest(sizes, times, band * middle, max_knots)
        if closer is None:
            low = middle
        else:
            best, high = closer, middle
    return best


def fewest_knots(points: Sequence[tuple[float, float]], tolerance: Tolerance | None = None) -> int:
    """Fewest knots that stay within the tolerance of every point (of 21 values tried at each knot).

    Raises:
        FittingError: The points are malformed, or the tolerance is finer than the 0.001 ms to which knots are rounded.
    """
    sizes, times = _checked(points)
    best = _fewest(sizes, times, (tolerance or Tolerance()).band_ms(times), len(points))
    if best is None:
        raise FittingError(f"the tolerance is finer than the {DECIMALS} decimals to which knots are rounded")
    return len(best)


def _checked(points: Sequence[tuple[float, float]]) -> tuple[Array, Array]:
    table = np.array(points, dtype=np.float64)
    if table.ndim != 2 or table.shape[1] != 2 or len(table) < 2:
        raise FittingError("a latency table needs at least two points (batch size, milliseconds)")
    sizes, times = table.T
    if sizes[0] != 0 or times[0] != 0:
        raise FittingError(f"a latency table starts at (0, 0), not at ({sizes[0]:g}, {times[0]:g})")
    if not np.isfinite(table).all() or (np.diff(sizes) <= 0).any() or (sizes % 1 != 0).any() or (times < 0).any():
        raise FittingError("a latency table has whole, rising batch sizes and finite times of at least 0")
    return sizes, times


def _fewest(sizes: Array, times: Array, band: Array, max_knots: int) -> Knots | None:
    """Fewest knots within ``band`` of every point, least squares among those; None when ``max_knots`` do not do.

    Dynamic programming over (knots so far, point of the last knot, its value).
    """
    values = [np.zeros(1), *(_candidates(t, b) for t, b in zip(times[1:], band[1:], strict=True))]
    most = min(max_knots, len(sizes))
    cost = [np.full((most + 1, len(row)), np.inf) for row in values]
    origin = [np.zeros((most + 1, len(row), 2), dtype=np.int64) for row in values]
    cost[0][1, 0] = 0.0
    for start in range(len(sizes) - 1):
        if not np.isfinite(cost[start]).any():
            continue
        for stop, link in _links(sizes, times, band, values, start):
            total = cost[start][:-1, :, None] + link
            source = total.argmin(axis=1)
            reached = np.take_along_axis(total, source[:, None, :], axis=1)[:, 0, :]
            better = reached < cost[stop][1:]
            cost[stop][1:][better] = reached[better]
            origin[stop][1:][better] = np.stack([np.full_like(source, start), source], axis=-1)[better]
    for knots in range(2, most + 1):
        if np.isfinite(cost[-1][knots]).any():
            return _path(sizes, values, origin, knots, int(cost[-1][knots].argmin()))
    return None


def _candidates(time: float, slack: float) -> Array:
    row = np.unique(np.round(np.linspace(time - slack, time + slack, VALUES_PER_POINT), DECIMALS))
    return row[(np.abs(row - time) <= slack) & (row >= 0)]


def _links(
    sizes: Array, times: Array, band: Array, values: list[Array], start: int
) -> Iterator[tuple[int, npt.NDArray[np.float64]]]:
    """Every straight line from a knot at ``start``: where it can end, and its squared errors.

    Yields:
        The last point and a matrix (value at ``start``, value at the last point) of the sum of squared errors in units
        of ``band``, infinite where a point between lies outside its band.
    """
    first = values[start]
    least, greatest = np.full(len(first), -np.inf), np.full(len(first), np.inf)
    for stop in range(start + 1, len(sizes)):
        span = sizes[stop] - sizes[start]
        inside = slice(start + 1, stop + 1)
        share = (sizes[inside] - sizes[start]) / span
        line = first[:, None, None] + (values[stop][None, :, None] - first[:, None, None]) * share
        error = (line - times[inside]) / band[inside]
        fits = (np.abs(error) <= 1 + 1e-9).all(axis=-1)
        if fits.any():
            yield stop, np.where(fits, (error**2).sum(axis=-1), np.inf)
        # The slopes that stay in every band up to here; once there are none, no longer line can fit.
        least = np.maximum(least, (times[stop] - band[stop] - first) / span)
        greatest = np.minimum(greatest, (times[stop] + band[stop] - first) / span)
        if (least > greatest + 1e-9).all():
            return


def _path(sizes: Array, values: list[Array], origin: list[npt.NDArray[np.int64]], knots: int, value: int) -> Knots:
    point = len(sizes) - 1
    path = [(int(sizes[point]), float(values[point][value]))]
    for count in range(knots, 1, -1):
        point, value = (int(i) for i in origin[point][count, value])
        path.append((int(sizes[point]), float(values[point][value])))
    return path[::-1]


# ---------------------------------------------------------------------------------------------- limits


@dataclass(frozen=True, slots=True, kw_only=True)
class KvFit:
    """Parameters of ``profile_formulas.kv_blocks``, its largest and mean relative error."""

    numerator: int
    offset: int
    worst: float
    mean: float


def fit_kv_blocks(blocks: Mapping[int, int]) -> KvFit:
    """Fit the KV formula with the least mean, then the least largest relative error.

    The mean, because measurements with very few layers are sometimes off the line that all others keep to exactly. A
    line of least mean error goes through two of its points, so every pair gives a candidate.

    Args:
        blocks: KV blocks per layer against held layers.
    """
    memory = {n: n * count for n, count in blocks.items()}  # numerator - offset * layers, were it not for floor
    pairs = combinations(memory, 2)
    slopes = [(memory[n] - memory[m]) / (m - n) for n, m in pairs] or [0.0]
    best: tuple[tuple[float, float], KvFit] | None = None
    for offset in sorted({whole for slope in slopes for whole in (math.floor(slope), math.ceil(slope))}):
        for numerator in sorted({memory[n] + offset * n for n in memory}):
            errors = [abs(kv_blocks(numerator, offset, n) / count - 1) for n, count in blocks.items()]
            fit = KvFit(numerator=numerator, offset=offset, worst=max(errors), mean=sum(errors) / len(errors))
            if best is None or (fit.mean, fit.worst) < best[0]:
                best = (fit.mean, fit.worst), fit
    assert best is not None
    return best[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeFit:
    """Parameters of ``profile_formulas.decode_limit`` and its largest and mean relative error."""

    parameters: dict[str, int]
    worst: float
    mean: float


def fit_decode_limits(limits: Mapping[int, int], kv_tokens: Mapping[int, float]) -> DecodeFit:
    """Fit the decode limit with the least mean, then the least largest relative error.

    Args:
        limits: Most decoding sequences in a batch against held layers.
        kv_tokens: KV capacity of one layer in tokens against held layers.
    """
    best: tuple[tuple[float, ...], DecodeFit] | None = None
    for step in (10, 5, 20):
        for small in ({}, {"small_step": 5, "small_below": 50}, {"small_step": 5, "small_below": 60}):
            for context in range(800, 1001):
                parameters = {"cap": max(limits.values()), "context_tokens": context, "step": step, **small}
                errors = [abs(decode_limit(kv_tokens[n], **parameters) / limit - 1) for n, limit in limits.items()]
                fit = DecodeFit(parameters=parameters, worst=max(errors), mean=sum(errors) / len(errors))
                # Ties go to the simpler formula and to the context that most machines fit best.
                rank = (fit.mean, fit.worst, len(small), abs(step - 10), abs(context - 880))
                if best is None or rank < best[0]:
                    best = rank, fit
    assert best is not None
    return best[1]


# ---------------------------------------------------------------------------------------------- request lengths


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthTable:
    """Joint distribution of request lengths: prompt quantiles, and output quantiles for each bin of prompts.

    Attributes:
        prompt_tokens: Values at evenly spaced quantiles 0..1.
        edges: Greatest prompt of each bin, rising.
        quantiles: For each bin the output tokens at evenly spaced quantiles 0..1.
    """

    prompt_tokens: tuple[int, ...]
    edges: tuple[int, ...]
    quantiles: tuple[tuple[int, ...], ...]

    def sample(self, generator: np.random.Generator, count: int) -> tuple[Array, Array]:
        """Draw ``count`` pairs, linear between quantiles: prompt and output tokens, each of shape ``(count,)``."""
        prompts = np.round(_at_quantile(self.prompt_tokens, generator.random(count)))
        bins = np.minimum(np.searchsorted(self.edges, prompts), len(self.edges) - 1)
        draws, outputs = generator.random(count), np.zeros(count)
        for index, row in enumerate(self.quantiles):
            outputs[bins == index] = np.round(_at_quantile(row, draws[bins == index]))
        return prompts, outputs


def _at_quantile(row: Sequence[int], quantile: Array) -> Array:
    return np.asarray(np.interp(quantile, np.linspace(0, 1, len(row)), row), dtype=np.float64)


def fit_lengths(prompts: Array, outputs: Array) -> LengthTable:
    """Reduce a trace to 41 prompt quantiles and 8 bins of 21 output quantiles.

    The bins hold equal shares of the trace. A bin's last value is not its maximum but set so that the mean of its
    longest outputs is kept: a straight line to a lone maximum would make the tail far too heavy.
    """
    edges = _quantiles(prompts, 9)[1:]
    bins = np.searchsorted(edges, prompts)
    rows = []
    for index in range(len(edges)):
        inside = np.sort(outputs[bins == index])
        row = _quantiles(inside, 21)
        top = inside[len(inside) * 19 // 20 :]
        rows.append((*row[:-1], int(np.clip(round(2 * top.mean() - row[-2]), row[-2], row[-1]))))
    return LengthTable(prompt_tokens=_quantiles(prompts, 41), edges=edges, quantiles=tuple(rows))


def _quantiles(values: Array, count: int) -> tuple[int, ...]:
    return tuple(int(v) for v in np.quantile(values, np.linspace(0, 1, count), method="inverted_cdf"))


def rank_correlation(first: Array, second: Array) -> float:
    """Spearman's rank correlation; equal values share their mean rank."""
    ranks = []
    for values in (first, second):
        _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(counts) - (counts - 1) / 2)[place])
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


# ---------------------------------------------------------------------------------------------- files


def read_points(path: Path) -> list[tuple[float, float]]:
    """Read a measured table: lines of batch size and milliseconds per layer."""
    return [(float(size), float(time)) for size, time in np.loadtxt(path, delimiter=",", ndmin=2)]


def _profile_text(figures: dict[str, Any], folder: Path, model: str, machine: str) -> str:
    data = figures["machines"][model][machine]
    tables, errors = {}, []
    for phase, file in (("prefill", "prompt_bs2time.csv"), ("decode", "decode_bs2time.csv")):
        points = read_points(folder / file)
        needed = fewest_knots(points)
        # Where 16 do not do, two to spare keep the noise of single points from deciding the shape.
        tables[phase] = reduce_table(points, max_knots=16 if needed <= 16 else needed + 2)
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
        "reduced by `python -m scenarios.fitting`."
    )
    layers_note = "# default, and for clusters that can barely hold the model"
    return "\n".join(
        [
            *_head("profile", f"{model} on {machine}: times per layer and limits."),
            f"model: {model}",
            f"machine: {machine}",
            *_folded("source", source),
            *_folded("accuracy", "; ".join(errors) + "."),
            "# [prompt tokens in the batch, ms]",
            *_flow("prefill_ms_per_layer", tables["prefill"]),
            "# [decoding sequences in the batch, ms]",
            *_flow("decode_ms_per_layer", tables["decode"]),
            "single_decode_factor: 2",
            f"max_layers: {data['max_layers']}",
            f"kv_block_tokens: {block_tokens}",
            "# floor(numerator / layers - offset) blocks per held layer",
            f"kv_blocks: {_mapping({'numerator': kv.numerator, 'offset': kv.offset})}",
            f"max_prompts_per_batch: {prompts.pop()}",
            f"max_prompt_tokens: {figures['max_prompt_tokens']}",
            "# as many contexts as the KV blocks hold, in whole steps, at most cap",
            f"max_decode_sequences: {_mapping(decode.parameters)}",
            f"decode_context_per_sequence: {figures['decode_context_per_sequence']}",
            layers_note,
            f"typical_layers: {_mapping({kind: typical[kind][machine] for kind in ('default', 'tight')})}",
            f"first_perf: {figures['first_perf'][model][machine]}",
            "",
        ]
    )


def _deviation(points: Sequence[tuple[float, float]], knots: Knots) -> str:
    sizes, times = _checked(points)
    knot_sizes, knot_times = np.array(knots).T
    error = np.abs(np.interp(sizes, knot_sizes, knot_times) - times)[1:]
    long = times[1:] * 0.03 >= 0.15
    parts = []
    if long.any():
        parts.append(f"{_percent(float((error / times[1:])[long].max()))} from 5 ms on")
    if not long.all():
        parts.append(f"{math.ceil(float(error[~long].max()) * 1000 - 1e-6) / 1000:g} ms below 5 ms")
    return (
        f"{len(knots)} knots for {len(points)} points, largest deviation from a measured point {' and '.join(parts)}, "
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
        f"{len(prompts)} requests as the {ARTIFACT} selects them; reduced by `python -m scenarios.fitting`. "
        f"Drawn from this table, against the trace: {'; '.join(stated)}."
    )
    return "\n".join(
        [
            *_head("lengths", "Prompt and output lengths of the Azure conversation trace, as quantiles."),
            *_folded("source", source),
            "# at evenly spaced quantiles from 0 to 1",
            *_flow("prompt_tokens", table.prompt_tokens),
            "output_tokens_by_prompt_bin:",
            "  # greatest prompt of each bin",
            f"  edges: {list(table.edges)}",
            "  # one row a bin, at evenly spaced quantiles from 0 to 1; the last value keeps the mean of the tail",
            "  quantiles:",
            *(f"    - {list(row)}" for row in table.quantiles),
            "",
        ]
    )


def _model_text(figures: dict[str, Any], model: str) -> str:
    data = figures["models"][model]
    return "\n".join(
        [
            *_head("model", f"{model}, reduced to the figures that serving it needs."),
            f"name: {model}",
            f"layers: {data['layers']}",
            f"hidden_size: {data['hidden']}",
            f'layer_size: "{data["layer_bytes"] / 1e9:g} GB"',
            *_folded("source", f"{ARTIFACT}."),
            "",
        ]
    )


def _machine_text(figures: dict[str, Any], machine: str) -> str:
    return "\n".join(
        [
            *_head("machine", f"{MACHINES[machine][1]}."),
            f"name: {machine}",
            f"description: {MACHINES[machine][1]}",
            f'vram: "{figures["vram_bytes"][machine] / 1e9:g} GB"',
            "# The reference writes 10 gbps and divides bytes by it: 10 gigabytes a second is what it simulates.",
            'nic: "10 GB/s"',
            "# Likewise 1 gbps.",
            'disk: "1 GB/s"',
            *_folded("source", f"{ARTIFACT}."),
            "",
        ]
    )


def _head(kind: str, title: str) -> list[str]:
    return [f"# {title}", f"# Generated: {COMMAND}", "schema_version: 1", f"kind: {kind}"]


def _folded(key: str, text: str) -> list[str]:
    lines = textwrap.wrap(text.replace(" %", "\0%").replace(" ms", "\0ms"), 110)  # a number keeps its unit
    return [f"{key}: >-", *(f"  {line}".replace("\0", " ") for line in lines)]


def _mapping(values: Mapping[str, Any]) -> str:
    return "{" + ", ".join(f"{key}: {value}" for key, value in values.items()) + "}"


def _flow(key: str, items: Iterable[Any]) -> list[str]:
    text = ", ".join(str(list(item)) if isinstance(item, tuple) else str(item) for item in items)
    # Pairs stay whole: their inner blanks are hidden from the line breaker.
    lines = textwrap.wrap(f"[{text}]".replace(", ", ",\0").replace("],\0", "], "), 110) if "[[" in f"[{text}]" else None
    wrapped = [line.replace("\0", " ") for line in lines] if lines else textwrap.wrap(f"[{text}]", 110)
    return [f"{key}:", *(f"  {line}" for line in wrapped)]


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
    parser = argparse.ArgumentParser(prog="python -m scenarios.fitting", description="Regenerate the shipped profiles.")
    parser.add_argument("profiles", type=Path, help="profiles folder of the Helix artifact's data files")
    parser.add_argument("out", type=Path, help="library folder, for instance scenarios/library")
    options = parser.parse_args(arguments)
    try:
        written = generate(options.profiles, options.out)
    except (OSError, KeyError, ValueError, yaml.YAMLError) as error:
        print(f"scenarios.fitting: {error}", file=sys.stderr)
        return 2
    print(f"{len(written)} files written to {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
