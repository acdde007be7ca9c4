"""Reduce measurements to few figures: latency tables, limit formulas and tables of request lengths.

Latency tables become a few knots of a continuous piecewise-linear function. Knots stand at measured batch sizes, so
between two measured points the error is never greater than at the worse of the two. Only where that takes too many,
knots may stand at any whole batch size: measured times climb in steps, and one steep piece placed between two points
bridges a step. Then every knot between two measured points stays in the range that their tolerances span.

``scenarios.fitted_files`` reads the Helix artifact with these functions and writes what the package ships.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
import numpy.typing as npt

from scenarios.profile_formulas import decode_limit, kv_blocks

Array = npt.NDArray[np.float64]
Knots = list[tuple[int, float]]

DECIMALS = 3  # of a knot's milliseconds
VALUES_PER_RANGE = 21  # candidate values of a knot, across a range where it may stand
PLACES_PER_GAP = 19  # most places of a knot that are tried between two measured batch sizes


class FittingError(ValueError):
    """Measurements that cannot be read, or cannot be reduced as asked."""


class TooFewKnotsError(FittingError):
    """A table that ``max_knots`` knots cannot reduce within the tolerance; ``needed`` can."""

    def __init__(self, table: str, max_knots: int, needed: int) -> None:
        super().__init__(
            f"{table}: {max_knots} knots cannot stay within the tolerance of every point, {needed} can; "
            "allow more knots or a wider tolerance"
        )
        self.needed = needed


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

    Knots stand at measured batch sizes if so many of them do, else at any whole ones. The error at a point counts in
    units of the tolerance there. Among reductions with the same largest error (to 1/64 of the tolerance) the one with
    the fewest knots is taken, among those the one with the least sum of squares.

    Args:
        points: ``(batch size, milliseconds per layer)``, from (0, 0) on, batch sizes whole and rising.
        max_knots: Most knots, the ones at both ends included.
        tolerance: Bound at every measured point; 3 % or 0.15 ms unless told otherwise.

    Returns:
        Knots ``(batch size, milliseconds)``, the first one (0, 0), the last one at the last measured batch size.

    Raises:
        FittingError: The points are malformed.
        TooFewKnotsError: ``max_knots`` knots cannot meet the tolerance.
    """
    sizes, times = _checked(points)
    band = (tolerance or Tolerance()).band_ms(times)
    for fewest in (_fewest_measured, _fewest_free):
        if (best := fewest(sizes, times, band, max_knots)) is None:
            continue
        low, high = 0.0, 1.0
        for _ in range(6):
            middle = (low + high) / 2
            if (closer := fewest(sizes, times, band * middle, max_knots)) is None:
                low = middle
            else:
                best, high = closer, middle
        return best
    table = f"latency table of {len(points)} points up to batch size {sizes[-1]:g}"
    raise TooFewKnotsError(table, max_knots, fewest_knots(points, tolerance))


def fewest_knots(points: Sequence[tuple[float, float]], tolerance: Tolerance | None = None) -> int:
    """Fewest knots, at any whole batch sizes, that stay within the tolerance of every point.

    Exact where measured batch sizes are at most 20 apart; in wider gaps not every whole one is tried.

    Raises:
        FittingError: The points are malformed, or the tolerance is finer than the 0.001 ms to which knots are rounded.
    """
    sizes, times = _checked(points)
    if (best := _fewest_free(sizes, times, (tolerance or Tolerance()).band_ms(times), len(points))) is None:
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


def _fewest_measured(sizes: Array, times: Array, band: Array, max_knots: int) -> Knots | None:
    """Fewest knots within ``band``, at measured batch sizes; None when ``max_knots`` do not do."""
    values = [np.zeros(1), *(_candidates(t - b, t + b) for t, b in zip(times[1:], band[1:], strict=True))]
    return _cheapest(sizes, times, band, sizes, values, max_knots)


def _fewest_free(sizes: Array, times: Array, band: Array, max_knots: int) -> Knots | None:
    """Fewest knots within ``band``, at any whole batch sizes; None when ``max_knots`` do not do.

    What some number of pieces reaches from the left, and the others from the right, says how many are needed at least
    and where the knots of so few can be. Values are tried only there, so that thin ranges need no finer grid.
    """
    found = _fewest_free_of(tuple(sizes.tolist()), tuple(times.tolist()), tuple(band.tolist()), max_knots)
    return None if found is None else list(found)


@functools.lru_cache(maxsize=256)
def _fewest_free_of(
    all_sizes: tuple[float, ...], all_times: tuple[float, ...], bands: tuple[float, ...], max_knots: int
) -> tuple[tuple[int, float], ...] | None:
    """:func:`_fewest_free` of hashable arguments: one table is asked about several times, at seconds each."""
    sizes, times, band = np.array(all_sizes), np.array(all_times), np.array(bands)
    gaps = [np.linspace(a, b, int(min(b - a, PLACES_PER_GAP + 1)) + 1)[:-1].round() for a, b in pairwise(sizes)]
    places = np.concatenate([*gaps, sizes[-1:]])
    after = np.searchsorted(sizes, places)  # the measured point at a place, or the next one
    measured = sizes[after] == places
    before = np.where(measured, after, after - 1)
    low, high = np.maximum(times - band, 0), np.append(0, (times + band)[1:])
    floor, ceiling = np.minimum(low[before], low[after]), np.maximum(high[before], high[after])
    forth = _reach(places, floor, ceiling, measured, max_knots)
    back = _reach(-places[::-1], floor[::-1], ceiling[::-1], measured[::-1], max_knots)[:, :, ::-1]
    for knots in (1 + np.flatnonzero(forth[:, 0, -1] <= forth[:, 1, -1])).tolist():
        least = np.maximum(forth[:knots, 0], back[knots - 1 :: -1, 0]).T
        greatest = np.minimum(forth[:knots, 1], back[knots - 1 :: -1, 1]).T
        rows = [[_candidates(*ends) for ends in zip(*both, strict=True)] for both in zip(least, greatest, strict=True)]
        values = [np.unique(np.concatenate(row)) for row in rows]
        if (best := _cheapest(sizes, times, band, places, values, knots)) is not None:
            return tuple(best)
    return None


def _reach(places: Array, floor: Array, ceiling: Array, measured: npt.NDArray[np.bool_], max_knots: int) -> Array:
    """Where a line of 0, 1, ... ``max_knots`` - 1 pieces from the first place can end.

    Returns:
        For each number of pieces the least and the greatest value at every place, the least above the greatest where
        no line gets to; shape ``(max_knots, 2, places)``.
    """
    doors = np.flatnonzero(measured)
    reach = np.empty((max_knots, 2, len(places)))
    reach[0] = [[np.inf], [-np.inf]]
    reach[0, :, 0] = floor[0], ceiling[0]
    changed = [0]
    for last, further in pairwise(reach):
        further[:] = last
        for start in changed:
            _extend(further, last[:, start], start, places, floor, ceiling, doors)
        changed = np.flatnonzero((further[0] < last[0] - 1e-9) | (further[1] > last[1] + 1e-9)).tolist()
    return reach


def _extend(
    reach: Array, origin: Array, start: int, places: Array, floor: Array, ceiling: Array, doors: npt.NDArray[np.int64]
) -> None:
    """Widen ``reach`` by every straight line that begins in the range ``origin`` at ``start`` and stays in all bands.

    The highest such line at a place is the lowest of those that touch an upper bound after a lower one before it.
    """
    passed, low, high = [places[start]], [origin[0]], [origin[1]]
    bottom, top = floor.copy(), ceiling.copy()
    following = start + 1
    for door in doors[np.searchsorted(doors, start, side="right") :]:
        stretch = slice(following, door + 1)
        open_ = bottom[stretch] <= top[stretch] + 1e-9
        reach[0, stretch][open_] = np.minimum(reach[0, stretch], bottom[stretch])[open_]
        reach[1, stretch][open_] = np.maximum(reach[1, stretch], top[stretch])[open_]
        if not open_[-1]:
            return
        runs, onward = places[door] - np.array(passed), places[door:] - places[door]
        steepest, flattest = ((ceiling[door] - low) / runs).min(), ((floor[door] - high) / runs).max()
        top[door:] = np.minimum(top[door:], ceiling[door] + steepest * onward)
        bottom[door:] = np.maximum(bottom[door:], floor[door] + flattest * onward)
        passed.append(places[door])
        low.append(floor[door])
        high.append(ceiling[door])
        following = door + 1


def _cheapest(
    sizes: Array, times: Array, band: Array, places: Array, values: list[Array], max_knots: int
) -> Knots | None:
    """Fewest knots within ``band`` of every point, least squares among those; None when ``max_knots`` do not do.

    Dynamic programming over the last knot: its place, and its value among those that ``values`` lists there. All
    values of all places lie in one row, so that every line from a place is looked at in one go.
    """
    knot = len(sizes) + 1.0  # a knot costs more than the errors at all points, each at most 1, together
    row = np.concatenate(values)
    first = np.cumsum([0, *map(len, values)])
    place_of = np.repeat(np.arange(len(places)), [len(each) for each in values])
    after = np.searchsorted(sizes, places, side="right")
    cost, origin = np.full(len(row), np.inf), np.zeros(len(row), dtype=np.int64)
    cost[: first[1]] = knot
    for start in range(len(places) - 1):
        sources = first[start] + np.flatnonzero(np.isfinite(cost[first[start] : first[start + 1]]))
        if not len(sources):
            continue
        fan = _Fan.of(places[start], row[sources], *(each[after[start] :] for each in (sizes, times, band)))
        targets = slice(first[start + 1], first[np.searchsorted(after, after[start] + fan.reach, side="right")])
        ends = place_of[targets]
        errors = fan.errors(row[targets], places[ends], after[ends] - after[start])
        total = cost[sources][:, None] + errors + knot
        source = total.argmin(axis=0)
        reached = total[source, np.arange(len(source))]
        better = reached < cost[targets] - 1e-8
        cost[targets][better] = reached[better]
        origin[targets][better] = sources[source[better]]
    if not np.isfinite(cost[first[-2] :]).any():
        return None
    at = int(first[-2] + cost[first[-2] :].argmin())
    path = [at]
    while place_of[at]:
        at = int(origin[at])
        path.append(at)
    if len(path) > max_knots:
        return None
    return [(int(places[place_of[at]]), float(row[at])) for at in path[::-1]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fan:
    """Straight lines from a knot of several values, and the measured points after it.

    Attributes:
        place: Batch size of the knot.
        values: Its values; shape ``(values,)``.
        least: Least slope that stays in the bands of the first 0, 1, ... points; shape ``(values, points + 1)``.
        greatest: Greatest such slope.
        sums: Sums over these points of (value - time)^2, (value - time) run and run^2 in units of the band, with the
            run from the knot; shape ``(3, values, points + 1)``. The error of a line of slope m is
            ``sums[0] + 2 m sums[1] + m^2 sums[2]``.
    """

    place: float
    values: Array
    least: Array
    greatest: Array
    sums: Array

    @classmethod
    def of(cls, place: float, values: Array, sizes: Array, times: Array, band: Array) -> _Fan:
        """Lines from ``place`` through the bands of the points at ``sizes``."""
        run, off = sizes - place, values[:, None] - times
        room = band * (1 + 1e-9)
        none = np.zeros((len(values), 1))
        least = np.maximum.accumulate(np.hstack([none - np.inf, (-room - off) / run]), axis=1)
        greatest = np.minimum.accumulate(np.hstack([none + np.inf, (room - off) / run]), axis=1)
        terms = (off**2 / band**2, off * run / band**2, np.broadcast_to(run**2 / band**2, off.shape))
        sums = np.stack([np.hstack([none, np.cumsum(term, axis=1)]) for term in terms])
        return cls(place=place, values=values, least=least, greatest=greatest, sums=sums)

    @property
    def reach(self) -> int:
        """Most points that a line of the fan passes within their bands."""
        return int(np.flatnonzero((self.least <= self.greatest).any(axis=0))[-1])

    def errors(self, ends: Array, places: Array, points: npt.NDArray[np.int64]) -> Array:
        """Sum of squared errors of the lines to ``ends``, infinite where a point lies outside its band.

        Args:
            ends: Values at the other end; shape ``(ends,)``.
            places: Their batch sizes, all greater than that of the knot.
            points: How many of the fan's points lie up to there.

        Returns:
            Shape ``(values, ends)``.
        """
        slope = (ends - self.values[:, None]) / (places - self.place)
        fits = (slope >= self.least[:, points]) & (slope <= self.greatest[:, points])
        squares, crossed, runs = self.sums[:, :, points]
        # Rounded, so that which of two equal reductions is taken does not hang on the last bit: the first one is.
        return np.where(fits, (squares + 2 * slope * crossed + slope**2 * runs).round(9), np.inf)


def _candidates(low: float, high: float) -> Array:
    row = np.unique(np.round(np.linspace(low, high, VALUES_PER_RANGE), DECIMALS)) if low <= high else np.zeros(0)
    return row[(row >= max(low, 0)) & (row <= high)]


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
