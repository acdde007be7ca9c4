"""What must hold for every replan, whatever went, joined, is pinned or barred."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_clusters import small_cluster, small_model, small_node, small_profile

from placement.errors import PlanError
from placement.flow import build_flow_graph, check_flow, max_flow
from placement.layers import LayerRange, Placement, check_placement
from placement.plan import problem_for
from placement.planners.matching import keep_in_place, kept_layers, stretches_of
from placement.replanning import replan, surviving_flow

KINDS = {"S": (1, 1.0), "M": (3, 2.0), "L": (5, 7.0)}
"""Machine type -> most layers, speed."""


@st.composite
def problems(draw):
    kinds = draw(st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=8))
    nodes = [small_node(f"n{index}", kind, nic=1e6) for index, kind in enumerate(kinds)]
    profiles = {kind: small_profile(kind, most, speed=speed) for kind, (most, speed) in KINDS.items()}
    cluster = small_cluster(nodes, bandwidth=draw(st.sampled_from([2e3, 1e6, 1e12])))
    return problem_for(cluster, small_model(draw(st.integers(1, 8))), profiles, draw(st.integers(0, 3)))


@st.composite
def held_ranges(draw, problem, names):
    """Any ranges that the nodes can hold, whether they serve anything or not."""
    ranges = {}
    for name in names:
        most = min(problem.most_layers(problem.cluster.node(name)), problem.model.layers)
        if draw(st.booleans()):
            length = draw(st.integers(1, most))
            start = draw(st.integers(0, problem.model.layers - length))
            ranges[name] = LayerRange(start, start + length)
    return ranges


@st.composite
def changes(draw):
    """A problem, a present placement, forbidden and pinned nodes, and a price."""
    problem = draw(problems())
    names = [node.name for node in problem.cluster.nodes]
    current = draw(held_ranges(problem, names))
    if draw(st.booleans()):
        current["gone"] = LayerRange(0, 1)
    forbidden = draw(st.lists(st.sampled_from(names), unique=True, max_size=len(names) // 2))
    pinned = draw(held_ranges(problem, [name for name in names[:2] if name not in forbidden]))
    price = draw(st.sampled_from([0.0, 0.5, 20.0, 1e6]))
    return problem, Placement(current), forbidden, pinned, price


def count_new(held, before):
    return len(set(range(held.start, held.stop)) - set(range(before.start, before.stop) if before else ()))


def found_or_error(problem, current, **options):
    try:
        return replan(problem, current, budget_s=0.3, **options)
    except PlanError as error:
        return error


@settings(max_examples=60, deadline=None)
@given(changes())
def test_a_replan_is_valid_and_never_worse_than_to_keep(change):
    problem, current, forbidden, pinned, price = change
    kept = {name: held for name, held in current.ranges.items() if name in problem.cluster and name not in forbidden}
    keeping = surviving_flow(problem, current, forbidden).tokens_per_s
    fits = all(kept.get(name) == held for name, held in pinned.items())
    found = found_or_error(problem, current, move_cost=price, forbidden=forbidden, pinned=pinned)
    if isinstance(found, PlanError):
        assert "missing" in str(found) or "no placement" in str(found)
        assert not (fits and keeping > 0)
        return
    plan = found.plan
    check_placement(plan.placement, problem.cluster, problem.model, problem.profiles)
    check_flow(build_flow_graph(problem.cluster, problem.model, plan.placement, problem.throughput), plan.flow)
    assert 0 < plan.flow.tokens_per_s <= plan.bound_tokens_per_s * (1 + 1e-9)
    assert not set(forbidden) & set(plan.placement)
    assert {name: plan.placement[name] for name in pinned} == pinned
    assert found.kept_flow_tokens_per_s == keeping
    assert list(found.gone) == [name for name in current if name not in kept]
    new = {name: count_new(held, kept.get(name)) for name, held in plan.placement.ranges.items()}
    assert {name: sum(map(len, ranges)) for name, ranges in found.moved.items()} == {
        name: count for name, count in new.items() if count
    }
    assert found.layers_moved == sum(new.values())
    assert found.charge_tokens_per_s == pytest.approx(price * sum(new.values()))
    if fits and keeping > 0:
        assert found.worth_tokens_per_s >= keeping * (1 - 1e-12)


@given(changes())
def test_dealing_ranges_out_anew_keeps_the_flow_and_no_fewer_layers(change):
    problem, current, _, pinned, _ = change
    ranges = {name: held for name, held in current.ranges.items() if name in problem.cluster}
    before = {name: LayerRange(0, held.stop) for name, held in reversed(ranges.items())} | pinned
    dealt = keep_in_place(problem, ranges, before, fixed=list(pinned))
    assert sorted(dealt.values()) == sorted(ranges.values())
    assert {name: dealt.get(name) for name in pinned} == {name: ranges.get(name) for name in pinned}
    assert kept_layers(dealt, before) >= kept_layers(ranges, before)
    flows = [
        max_flow(build_flow_graph(problem.cluster, problem.model, Placement(one), problem.throughput)).tokens_per_s
        for one in (ranges, dealt)
    ]
    assert flows[0] == pytest.approx(flows[1], rel=1e-9)


@given(changes())
def test_stretches_are_the_placement_cut_where_nothing_overlaps(change):
    _, current, *_ = change
    parts = stretches_of(current.ranges)
    assert {name: held for part in parts for name, held in part.items()} == dict(current.ranges)
    ends = [max(held.stop for held in part.values()) for part in parts]
    starts = [min(held.start for held in part.values()) for part in parts]
    assert all(stop <= start for stop, start in zip(ends, starts[1:], strict=False))
