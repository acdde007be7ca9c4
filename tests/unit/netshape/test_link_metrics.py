import numpy as np
import pytest

from netshape.link_metrics import DurationHistogram, LinkMetrics
from netshape.randomness import generator


def test_percentiles_are_within_two_percent() -> None:
    values = generator(1, "histogram test").lognormal(-8, 2, 20_000)
    histogram = DurationHistogram()
    for value in values.tolist():
        histogram.add(value)
    report = histogram.report()
    for name, share in (("p50", 50), ("p95", 95), ("p99", 99)):
        exact = np.percentile(values, share, method="inverted_cdf")
        assert exact * (1 - 1e-9) <= report[name] <= exact * 1.0201
    assert report["max"] == values.max()
    assert report["mean"] == pytest.approx(values.mean())


def test_extremes_are_counted() -> None:
    histogram = DurationHistogram()
    assert histogram.report() == {"p50": 0.0, "p95": 0.0, "p99": 0.0, "mean": 0.0, "max": 0.0}
    for value in (0.0, 1e-9, 1e6):
        histogram.add(value)
    assert histogram.quantile(0.5) == 1e-6
    assert histogram.report()["max"] == 1e6


def test_bandwidth_counts_while_the_link_is_busy_only() -> None:
    metrics = LinkMetrics("a->b")
    metrics.configured_latency_s = 0.1
    assert metrics.report()["delivered_latency_s_p50"] is None
    assert metrics.report()["delivered_bytes_per_s"] is None
    # Three messages back to back, 0.1 s each; then a pause; then two more.
    for planned, late in [(1.1, 0.0), (1.2, 0.01), (1.3, 0.02), (9.1, 0.0), (9.2, 0.05)]:
        metrics.delivered(1000, 1.0, planned, planned + late, 0.1)
    report = metrics.report()
    assert report["planned_bytes_per_s"] == pytest.approx(3000 / 0.3)
    assert report["delivered_bytes_per_s"] == pytest.approx(3000 / (0.22 + 0.15))
    assert report["messages"] == 5
    assert report["delivered_latency_s_p50"] == pytest.approx(0.11, rel=0.01)
    assert report["lateness_s"]["max"] == pytest.approx(0.05)
    assert report["planned_delay_s_mean"] == pytest.approx((0.1 + 0.2 + 0.3 + 8.1 + 8.2) / 5)
    assert report["delivered_delay_s_mean"] == pytest.approx((0.1 + 0.21 + 0.32 + 8.1 + 8.25) / 5)
