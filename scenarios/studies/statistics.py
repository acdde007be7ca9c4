"""Means over seeds, and how uncertain they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from emulator.randomness import generator

RESAMPLES = 9_999
"""Of a bootstrap; the interval's own error is then far below its width."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean with its confidence interval.

    Attributes:
        mean: Mean of the values; ``None`` when there are none.
        low: Lower end; ``None`` for fewer than two values, which say nothing about their spread.
        high: Upper end.
        count: Number of values.
    """

    mean: float | None
    low: float | None
    high: float | None
    count: int


def interval(values: Sequence[float], *, level: float = 0.95, method: str = "t") -> Interval:
    """Confidence interval of a mean.

    Args:
        values: Independent draws: one figure, one value a seed.
        level: Coverage, below 1.
        method: ``t``: Student's t, exact for normal values. ``bootstrap``: bias-corrected and accelerated (BCa,
            Efron 1987), for skewed ones; with fewer than about ten values it is too narrow.
    """
    count = len(values)
    if not count:
        return Interval(mean=None, low=None, high=None, count=0)
    array = np.asarray(values, dtype=float)
    mean = float(array.mean())
    if count < 2:
        return Interval(mean=mean, low=None, high=None, count=count)
    if float(array.min()) == float(array.max()):
        return Interval(mean=mean, low=mean, high=mean, count=count)
    low, high = _bootstrap(array, level) if method == "bootstrap" else _student(array, mean, level)
    return Interval(mean=mean, low=low, high=high, count=count)


def paired(values: Sequence[float], baseline: Sequence[float], *, level: float = 0.95, method: str = "t") -> Interval:
    """Confidence interval of the mean difference from a baseline on the same seeds.

    Args:
        values: One value a seed.
        baseline: The baseline's, seed by seed.
        level: Coverage.
        method: As in :func:`interval`.
    """
    return interval([value - other for value, other in zip(values, baseline, strict=True)], level=level, method=method)


def _student(array: np.ndarray, mean: float, level: float) -> tuple[float, float]:
    half = _quantile(level, len(array)) * float(array.std(ddof=1)) / math.sqrt(len(array))
    return mean - half, mean + half


@cache
def _quantile(level: float, count: int) -> float:
    from scipy.stats import t  # Slow to import.

    return float(t.ppf((1 + level) / 2, count - 1))


def _bootstrap(array: np.ndarray, level: float) -> tuple[float, float]:
    from scipy.stats import bootstrap

    found = bootstrap(
        (array,),
        np.mean,
        confidence_level=level,
        n_resamples=RESAMPLES,
        method="BCa",
        rng=generator(0, "study bootstrap"),
    ).confidence_interval
    return float(found.low), float(found.high)
