"""The serving model against emulation on a few random pairs; ``tests/benchmarks/test_ranking_model.py`` has many."""

from __future__ import annotations

import dataclasses
import statistics

import pytest
from published import needs_artifact, published_placement
from serving_pairs import BY_RULE, random_pair, rank_correlation

from emulator.emulation import Emulation
from emulator.predicting import predict_run
from emulator.spec import EmulationSpec
from emulator.warm_start import WarmStart
from placement.plan import problem_for
from placement.planners import planner
from scenarios.loader import load_scenario
from scenarios.ranking import with_plan

PAIRS = (
    (2000, "small"),
    (2001, "small"),
    (2010, "small"),
    (2002, "one region"),
    (2003, "one region"),
    (2007, "one region"),
    (2004, "regions"),
    (2008, "regions"),
)


def compared(seed: int, kind: str) -> tuple[float, float]:
    """Decode tokens/s, predicted and emulated."""
    spec = random_pair(seed, kind, BY_RULE)
    seen = predict_run(spec)
    run = dataclasses.replace(
        spec,
        duration_s=900.0 if kind == "small" else 300.0,
        warm_up_s=30.0,
        warm_start=WarmStart(spread_s=seen.decode_latency_s, stays_s=seen.stays_s),
    )
    return seen.decode_tokens_per_s, Emulation(run).run()["decode_throughput_tokens_per_s"]


def test_the_model_predicts_what_is_served() -> None:
    pairs = [compared(seed, kind) for seed, kind in PAIRS]
    errors = [abs(predicted / served - 1) for predicted, served in pairs]
    assert statistics.median(errors) <= 0.08
    assert max(errors) <= 0.3
    assert rank_correlation(*(list(column) for column in zip(*pairs, strict=True))) >= 0.9


@pytest.mark.parametrize(
    "overrides", [["workload.synthetic.requests_per_s=0.1"], ["workload.synthetic.requests_per_s=0.5"]]
)
def test_the_model_predicts_an_open_loop(overrides: list[str]) -> None:
    spec = load_scenario("helix-24-70b-online", sets=[*overrides, "duration=400 s"]).spec
    seen = predict_run(spec)
    warm = WarmStart(spread_s=seen.decode_latency_s, stays_s=seen.stays_s, requests=round(seen.in_flight))
    summary = Emulation(dataclasses.replace(spec, warm_up_s=60.0, warm_start=warm)).run()
    assert seen.decode_latency_s == pytest.approx(summary["decode_latency_s"]["mean"], rel=0.15)
    assert seen.ttft_s == pytest.approx(summary["ttft_s"]["mean"], rel=0.25)


def test_loads_tell_apart_what_an_open_loop_can_bear() -> None:
    spec = load_scenario("helix-24-70b-online", sets=["workload.synthetic.requests_per_s=20"]).spec
    assert predict_run(spec).ttft_s == float("inf")


@needs_artifact
def test_a_shallower_plan_serves_15_percent_more_than_the_published_placement() -> None:
    spec = load_scenario("helix-24-70b-offline", sets=["duration=400 s"]).spec
    problem = problem_for(spec.cluster, spec.model, spec.profiles, spec.seed)
    published = dataclasses.replace(spec, placement=published_placement(spec.cluster))
    plans = [planner("blocks", time_limit_s=5.0, max_depth=depth).plan(problem) for depth in (10, 13, 24)]
    predicted = [predict_run(with_plan(spec, plan)).decode_tokens_per_s for plan in plans]
    best = plans[predicted.index(max(predicted))]

    def served(run: EmulationSpec) -> float:
        return float(Emulation(run).run()["decode_throughput_tokens_per_s"])

    assert served(with_plan(spec, best)) >= 1.15 * served(published)
