"""How long replanning takes: ``python -m pytest tests/benchmarks/test_replanning_speed.py -m benchmark -s``."""

import time

import pytest
from artifact import needs_artifact
from test_planner_table import CLUSTERS, SEVEN, make_problem

from placement.planners import planner
from placement.replanning import cost_over_horizon, replan, surviving_flow

THIRD = {kind: round(1.6 * count) for kind, count in SEVEN.items()}
CASES = {
    "24 nodes, one region": (CLUSTERS["24 nodes, one region"], 2.0),
    "24 nodes, 3 regions": (CLUSTERS["24 nodes, 3 regions"], 2.0),
    "42 nodes, 7 types": (CLUSTERS["42 nodes, 7 types"], 2.0),
    "201 nodes, one region": (("llama-2-70b", {"a": {kind: 3 * count for kind, count in THIRD.items()}}), 10.0),
    "201 nodes, 3 regions": (("llama-2-70b", dict.fromkeys("abc", THIRD)), 10.0),
}
HORIZON_S = 600.0


def cpu_ms(work, repeats=5):
    work()
    started_s = time.process_time()
    for _ in range(repeats):
        work()
    return (time.process_time() - started_s) / repeats * 1e3


@pytest.mark.benchmark
@needs_artifact
@pytest.mark.parametrize("case", CASES)
def test_replanning(case):
    (model, counts), budget_s = CASES[case]
    problem = make_problem(model, counts)
    gone = [problem.cluster.nodes[0].name]
    print(f"\n{case}: {gone[0]} goes; price of a layer over {HORIZON_S:.0f} s")
    for name, options in (("blocks", {"time_limit_s": budget_s}), ("petals", {}), ("swarm", {})):
        current = planner(name, **options).plan(problem)
        flow_ms = cpu_ms(lambda placement=current.placement: surviving_flow(problem, placement, gone))
        price = cost_over_horizon(problem, current.placement, HORIZON_S)
        started_s = time.perf_counter()
        found = replan(problem, current.placement, budget_s=budget_s, move_cost=price, forbidden=gone)
        print(
            f"{name:8} {current.flow.tokens_per_s:9.1f} tokens/s; survivors {found.kept_flow_tokens_per_s:9.1f} in "
            f"{flow_ms:6.1f} CPU ms; replan {found.plan.flow.tokens_per_s:9.1f} ({found.worth_tokens_per_s:9.1f} less "
            f"the price of {found.layers_moved:3} layers on {len(found.moved):3} nodes) in "
            f"{time.perf_counter() - started_s:5.2f} s"
        )
        assert found.worth_tokens_per_s >= found.kept_flow_tokens_per_s * (1 - 1e-9)
