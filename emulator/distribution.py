"""Distributions of many samples in bounded memory."""

from __future__ import annotations

import base64
import math
from array import array
from collections.abc import Mapping
from typing import Any

import numpy as np

EXACT_SAMPLES = 1 << 18
"""Up to this many samples percentiles are exact."""
_LOWEST, _STEP, _BINS = 1e-9, 1e-3, 50_000
"""Past that, logarithmic bins 0.1 % wide, from 1 ns to beyond 10^12 s."""
PERCENTILES = (5, 25, 50, 75, 95, 99)


class Distribution:
    """Count, mean, extremes and percentiles of non-negative samples.

    Keeps the samples themselves while they are few and a histogram with bins of 0.1 % relative width
    afterwards, so that percentiles are never off by more than that.
    """

    __slots__ = ("_bins", "_total", "count", "largest", "samples", "smallest")

    def __init__(self) -> None:
        self.samples = array("d")
        self._bins: np.ndarray[tuple[int], np.dtype[np.int64]] | None = None
        self._total = 0.0
        self.count = 0
        self.smallest = math.inf
        self.largest = -math.inf

    def add(self, value: float) -> None:
        """Add one sample. Hot loops may append to ``samples`` and call :meth:`settle` now and then."""
        self.samples.append(value)
        if len(self.samples) >= EXACT_SAMPLES:
            self.settle()

    def settle(self) -> None:
        """Move the samples into the histogram when there are too many to keep."""
        if len(self.samples) < EXACT_SAMPLES:
            return
        values = np.frombuffer(self.samples, dtype=float).copy()
        self.samples = array("d")
        if self._bins is None:
            self._bins = np.zeros(_BINS, dtype=np.int64)
        self._bins += np.bincount(self._bin_of(values), minlength=_BINS)
        self.count += len(values)
        self._total += float(values.sum())
        self.smallest = min(self.smallest, float(values.min()))
        self.largest = max(self.largest, float(values.max()))

    def total(self) -> float:
        """Sum of all samples."""
        return self._total + sum(self.samples)

    def copy(self) -> Distribution:
        """An independent distribution with the same samples."""
        twin = Distribution()
        twin.samples = self.samples[:]
        twin._bins = None if self._bins is None else self._bins.copy()
        twin._total, twin.count = self._total, self.count
        twin.smallest, twin.largest = self.smallest, self.largest
        return twin

    def absorb(self, other: Distribution) -> None:
        """Add all samples of ``other``."""
        self.samples.extend(other.samples)
        if other._bins is not None:
            self._bins = other._bins.copy() if self._bins is None else self._bins + other._bins
            self.count += other.count
            self._total += other._total
            self.smallest = min(self.smallest, other.smallest)
            self.largest = max(self.largest, other.largest)
        self.settle()

    def to_plain(self) -> dict[str, Any]:
        """All of it as JSON knows it; :meth:`from_plain` reads it in another process of this machine."""
        plain: dict[str, Any] = {"samples": base64.b64encode(self.samples.tobytes()).decode()}
        if self._bins is not None:
            filled = np.flatnonzero(self._bins)
            plain["bins"] = [filled.tolist(), self._bins[filled].tolist()]
            plain["binned"] = [self.count, self._total, self.smallest, self.largest]
        return plain

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Distribution:
        """What :meth:`to_plain` wrote."""
        made = cls()
        made.samples.frombytes(base64.b64decode(plain["samples"]))
        if "bins" in plain:
            filled, counts = plain["bins"]
            made._bins = np.zeros(_BINS, dtype=np.int64)
            made._bins[filled] = counts
            made.count, made._total, made.smallest, made.largest = plain["binned"]
        return made

    @staticmethod
    def _bin_of(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        index = np.log(np.maximum(values, _LOWEST) / _LOWEST) / _STEP
        return np.clip(index, 0, _BINS - 1).astype(np.int64)

    def summary(self) -> dict[str, float | int | None]:
        """``count, mean, min, max, p5, p25, p50, p75, p95, p99``; figures of an empty distribution are ``None``."""
        values = np.frombuffer(self.samples, dtype=float).copy() if len(self.samples) else np.empty(0)
        count = self.count + len(values)
        if count == 0:
            return {"count": 0, **dict.fromkeys(("mean", "min", "max", *(f"p{q}" for q in PERCENTILES)))}
        smallest = min(self.smallest, float(values.min())) if len(values) else self.smallest
        largest = max(self.largest, float(values.max())) if len(values) else self.largest
        figures: dict[str, float | int | None] = {
            "count": count,
            "mean": (self._total + float(values.sum())) / count,
            "min": smallest,
            "max": largest,
        }
        if self._bins is None:
            for q, value in zip(PERCENTILES, np.percentile(values, PERCENTILES), strict=True):
                figures[f"p{q}"] = float(value)
            return figures
        bins = self._bins + np.bincount(self._bin_of(values), minlength=_BINS)
        below = np.cumsum(bins)
        for q in PERCENTILES:
            index = int(np.searchsorted(below, q / 100 * count, side="left"))
            centre = _LOWEST * math.exp((index + 0.5) * _STEP)
            figures[f"p{q}"] = min(max(centre, smallest), largest)
        return figures
