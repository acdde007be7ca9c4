"""The serving model against emulation on random (cluster, placement) pairs that nothing was fitted to.

Run with ``python -m pytest tests/benchmarks/test_ranking_model.py -m benchmark -s``; about five minutes.
"""

from __future__ import annotations

import dataclasses
import statistics
import time

import pytest
from serving_pairs import random_pair, rank_correlation

from emulator.emulation import Emulation
from emulator.predicting import predict_run
from emulator.warm_start import WarmStart

pytestmark = pytest.mark.benchmark

SEEDS = range(1000, 1040)
"""The model was written while looking at seeds 0 to 59; it has no constant that could have been fitted to them."""
DURATION_S = {"small": 1860.0, "seven": 360.0}
WARM_UP_S = 60.0


def test_ranking_model() -> None:
    print("\npair: decode tokens/s predicted and emulated, error; decode iteration s; prefill s; seconds of the model")
    predicted, emulated, errors, costs = [], [], [], []
    for seed in SEEDS:
        spec = random_pair(seed)
        started_s = time.process_time()
        seen = predict_run(spec)
        costs.append(time.process_time() - started_s)
        run = dataclasses.replace(
            spec,
            duration_s=DURATION_S.get(spec.name.split()[0], 660.0),
            warm_up_s=WARM_UP_S,
            warm_start=WarmStart(spread_s=seen.decode_latency_s, stays_s=seen.stays_s),
        )
        summary = Emulation(run).run()
        served = summary["decode_throughput_tokens_per_s"]
        predicted.append(seen.decode_tokens_per_s)
        emulated.append(served)
        errors.append(seen.decode_tokens_per_s / served - 1)
        print(
            f"{spec.name:28s} {len(spec.cluster.nodes):3} nodes {seen.decode_tokens_per_s:7.1f} {served:7.1f} "
            f"{errors[-1]:+6.1%}  {seen.decode_latency_s:6.3f} {summary['decode_latency_s']['mean']:6.3f}  "
            f"{seen.ttft_s:6.2f} {summary['prefill_latency_s']['mean']:6.2f}  {costs[-1]:.2f}",
            flush=True,
        )
    sizes = sorted(abs(error) for error in errors)
    correlation = rank_correlation(predicted, emulated)
    print(
        f"{len(errors)} pairs: median error {statistics.median(sizes):.1%}, nine of ten within "
        f"{sizes[int(0.9 * len(sizes))]:.1%}, greatest {sizes[-1]:.1%}, mean of signed {statistics.mean(errors):+.1%}; "
        f"rank correlation {correlation:.3f}; the model takes {statistics.mean(costs):.2f} CPU s"
    )
    assert statistics.median(sizes) <= 0.05
    assert correlation >= 0.95
