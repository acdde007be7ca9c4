import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.distribution import EXACT_SAMPLES, PERCENTILES, Distribution


def test_empty_has_a_count_of_zero_and_no_figures() -> None:
    summary = Distribution().summary()
    assert summary["count"] == 0
    assert summary["mean"] is None
    assert summary["p99"] is None


def test_few_samples_are_exact() -> None:
    distribution = Distribution()
    for value in (3.0, 1.0, 2.0):
        distribution.add(value)
    summary = distribution.summary()
    assert (summary["count"], summary["mean"], summary["min"], summary["max"]) == (3, 2.0, 1.0, 3.0)
    assert summary["p50"] == 2.0


def test_many_samples_stay_within_a_thousandth_and_in_bounded_memory() -> None:
    rng = np.random.default_rng(1)
    values = rng.lognormal(-1, 1.5, 3 * EXACT_SAMPLES // 2 + 17)
    distribution = Distribution()
    for value in values.tolist():
        distribution.add(value)
    summary = distribution.summary()
    assert summary["count"] == len(values)
    assert summary["mean"] == pytest.approx(float(values.mean()))
    assert summary["max"] == float(values.max())
    for q in PERCENTILES:
        assert summary[f"p{q}"] == pytest.approx(float(np.percentile(values, q)), rel=2e-3)
    assert len(distribution.samples) < EXACT_SAMPLES


@given(st.lists(st.floats(0, 1e6), max_size=30), st.lists(st.floats(0, 1e6), max_size=30))
def test_absorbing_is_adding(first: list[float], second: list[float]) -> None:
    apart, other, together = Distribution(), Distribution(), Distribution()
    for value in first:
        apart.add(value)
        together.add(value)
    for value in second:
        other.add(value)
        together.add(value)
    twin = apart.copy()
    twin.absorb(other)
    assert twin.summary() == together.summary()
    assert apart.summary()["count"] == len(first)
