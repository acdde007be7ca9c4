"""Confidence intervals cover what they say they cover, by simulation."""

from __future__ import annotations

import numpy as np
import pytest

from scenarios.studies.statistics import interval, paired


def coverage(method: str, draws: int, size: int, level: float) -> float:
    """Share of intervals that hold the true mean of exponential or normal values."""
    generator = np.random.default_rng(7)
    hit = 0
    for _ in range(draws):
        values = generator.normal(5.0, 2.0, size) if method == "t" else generator.exponential(5.0, size)
        found = interval(list(values), level=level, method=method)
        assert found.low is not None
        assert found.high is not None
        hit += found.low <= 5.0 <= found.high
    return hit / draws


@pytest.mark.parametrize(("size", "level"), [(3, 0.95), (8, 0.95), (5, 0.8)])
def test_t_intervals_of_normal_values_are_exact(size: int, level: float) -> None:
    # The standard error of a share of 2,000 is at most 0.9 %; the seed is fixed.
    assert coverage("t", 2_000, size, level) == pytest.approx(level, abs=0.02)


def test_bootstrap_intervals_of_skewed_values_come_close() -> None:
    assert 0.87 <= coverage("bootstrap", 60, 40, 0.95) <= 1.0


def test_pairing_takes_out_what_seeds_have_in_common() -> None:
    generator = np.random.default_rng(1)
    common = generator.normal(100.0, 30.0, 8)
    base = list(common + generator.normal(0, 1, 8))
    other = list(common + 3.0 + generator.normal(0, 1, 8))
    difference = paired(other, base)
    apart = interval(other).high
    assert difference.low is not None
    assert difference.high is not None
    assert apart is not None
    assert difference.low <= 3.0 <= difference.high
    assert difference.high - difference.low < 0.2 * (apart - np.mean(other))
    with pytest.raises(ValueError, match="zip"):
        paired(other, base[:-1])


def test_few_values_have_no_interval_and_equal_ones_no_width() -> None:
    assert interval([]).mean is None
    assert (interval([4.0]).mean, interval([4.0]).low) == (4.0, None)
    for method in ("t", "bootstrap"):
        found = interval([2.0, 2.0, 2.0], method=method)
        assert (found.low, found.mean, found.high, found.count) == (2.0, 2.0, 2.0, 3)


def test_an_interval_by_hand() -> None:
    # Mean 2, standard deviation 1, t(0.975, 2) = 4.302653.
    found = interval([1.0, 2.0, 3.0])
    assert found.high == pytest.approx(2 + 4.302653 / 3**0.5, abs=1e-6)
