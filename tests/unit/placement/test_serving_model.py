"""The serving model on networks whose figures can be worked out by hand."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import pytest
from small_clusters import ranges, small_cluster, small_model, small_node, small_profile

from placement.cluster import COORDINATOR
from placement.errors import PlanError
from placement.layers import Placement
from placement.serving.gate import Gate
from placement.serving.load import Load
from placement.serving.model import Effort, Objectives, idle_latency_s, predict
from placement.serving.network import Routing, StationNetwork, station_network

QUICK = Effort(settling_s=2.0, least_s=10.0, most_s=30.0, ends=20)
LINK_S = 0.001
"""One-way delay of every link of a small cluster."""


def network(
    placement: Placement, flows: Mapping[tuple[str, str], float], *, layers: int = 4, mark: float = 0.9
) -> StationNetwork:
    """Nodes named as in ``placement``, all of one machine type."""
    profile = small_profile("M", layers)
    cluster = small_cluster([small_node(name) for name in placement])
    routing = Routing(link_flow=flows, high_water_mark=mark, expected_output_tokens=100)
    return station_network(cluster, small_model(layers), {"M": profile}, placement, routing)


def chain(*names: str) -> dict[tuple[str, str], float]:
    return dict.fromkeys(itertools.pairwise([COORDINATOR, *names, COORDINATOR]), 1.0)


def constant(in_flight: int, prompt: int = 100, output: int = 51) -> Load:
    return Load(lengths=((prompt, output),), in_flight=in_flight)


def test_one_request_alone_takes_what_its_stations_and_links_take() -> None:
    net = network(ranges(a=(0, 2), b=(2, 4)), chain("a", "b"))
    # 10 us a layer for one sequence, doubled; four layers and three links.
    latency_s = 4 * 2 * 1e-5 + 3 * LINK_S
    assert idle_latency_s(net) == pytest.approx(latency_s, rel=1e-6)
    seen = predict(net, constant(1), effort=QUICK)
    host_s = 2 * 98 * (1 / 4e9 + 1 / 5e9)
    assert seen.decode_latency_s == pytest.approx(latency_s + host_s, rel=1e-4)
    prefill_s = 4 * 1e-3 + 3 * LINK_S
    assert seen.ttft_s == pytest.approx(prefill_s, rel=1e-2)
    assert seen.decode_tokens_per_s == pytest.approx(50 / (50 * latency_s + prefill_s), rel=2e-2)
    assert seen.in_flight == 1


def test_all_that_waits_goes_into_one_batch() -> None:
    net = network(ranges(a=(0, 4)), chain("a"))
    few, many = predict(net, constant(20), effort=QUICK), predict(net, constant(100), effort=QUICK)
    # Ten microseconds more a layer for each sequence, so twice the requests are served at much the same pace.
    assert many.decode_tokens_per_s > 1.5 * few.decode_tokens_per_s
    # Little's law; a few requests are in their prefills.
    assert many.decode_tokens_per_s * many.decode_latency_s == pytest.approx(100, rel=0.15)


def test_a_closed_loop_fills_the_kv_caches_up_to_its_mark() -> None:
    net = network(ranges(a=(0, 2), b=(2, 4)), chain("a", "b"))
    capacity = net.stations[0].kv_tokens
    seen = predict(net, Load(lengths=((100, 51),), feed_mark=0.5), effort=QUICK)
    assert seen.in_flight == pytest.approx(0.5 * capacity / 200, rel=0.1)


def test_a_station_without_room_is_passed_by_and_the_gate_shuts_when_all_are_full() -> None:
    flows = {(COORDINATOR, "a"): 3.0, (COORDINATOR, "b"): 1.0, ("a", COORDINATOR): 3.0, ("b", COORDINATOR): 1.0}
    net = network(ranges(a=(0, 4), b=(0, 4)), flows)
    gate = Gate(net, 100.0)
    first = [gate.route(100) for _ in range(40)]
    at = [path[0][1] for path in first if path is not None]
    assert at.count(0) == 30
    room = int(0.9 * net.stations[0].kv_tokens // 200)
    more = list(itertools.takewhile(lambda path: path is not None, (gate.route(100) for _ in range(10_000))))
    assert len(first) + len(more) == 2 * room
    assert gate.fullest() == pytest.approx(0.9, abs=0.01)
    assert first[0] is not None
    gate.release(first[0], 100)
    assert gate.route(100) is not None


def test_requests_enter_in_the_middle_and_trickles_are_left_out() -> None:
    flows = {
        (COORDINATOR, "a"): 97.0,
        (COORDINATOR, "c"): 3.0,
        ("a", "b"): 97.0,
        ("c", "b"): 3.0,
        ("b", COORDINATOR): 100.0,
    }
    net = network(ranges(a=(0, 2), b=(1, 4), c=(0, 1)), flows)
    assert [station.name for station in net.stations] == ["a", "b"]
    # Nothing enters at layer 1 any more, which is held all the same.
    assert net.stations[1].layers == (1, 2)
    assert net.stations[0].ways[0].segment == 1


def test_requests_are_found_by_the_time_they_stay() -> None:
    load = Load(lengths=((10, 11), (10, 101)), in_flight=1)
    found = list(itertools.islice(load.found(), 2000))
    longer = [left for _, so_far, left in found if so_far + left == 101]
    assert len(longer) / 2000 == pytest.approx(10 / 11, abs=0.02)
    assert sum(longer) / len(longer) == pytest.approx(50.5, abs=2)
    assert list(itertools.islice(load.arriving(), 3)) == [(10, 11), (10, 101), (10, 11)]


def test_an_open_loop_serves_what_comes_until_it_is_more_than_it_can_bear() -> None:
    net = network(ranges(a=(0, 2), b=(2, 4)), chain("a", "b"))
    light = predict(net, Load(lengths=((100, 51),), requests_per_s=5.0), effort=QUICK)
    # 50 arrivals in the window, give or take what chance does.
    assert light.decode_tokens_per_s == pytest.approx(250, rel=0.3)
    assert light.good_share == 1.0
    heavy = predict(net, Load(lengths=((100, 51),), requests_per_s=5000.0), effort=QUICK)
    assert heavy.ttft_s == math.inf
    assert heavy.good_share == 0.0


def test_objectives_that_none_and_all_meet() -> None:
    net = network(ranges(a=(0, 4)), chain("a"))
    seen = predict(net, constant(4), effort=QUICK)
    for objectives, share in (
        (Objectives(), 1.0),
        (Objectives(tpot_s=2 * seen.tpot_s, ttft_s=1.0, e2e_s=100 * seen.tpot_s + 1.0), 1.0),
        (Objectives(tpot_s=seen.tpot_s / 2), 0.0),
        (Objectives(ttft_s=1e-6), 0.0),
        (Objectives(e2e_s=10 * seen.tpot_s), 0.0),
    ):
        assert predict(net, constant(4), objectives, QUICK).good_share == share


def test_the_same_again_for_the_same_network() -> None:
    net = network(ranges(a=(0, 2), b=(2, 4), c=(2, 4)), {**chain("a", "b"), ("a", "c"): 1.0, ("c", COORDINATOR): 1.0})
    load = Load(lengths=((100, 51), (30, 7)), feed_mark=0.3)
    assert predict(net, load, effort=QUICK) == predict(net, load, effort=QUICK)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"in_flight": 1, "feed_mark": 0.5},
        {"in_flight": 0},
        {"requests_per_s": -1.0},
        {"in_flight": 1, "lengths": ()},
        {"in_flight": 1, "lengths": ((0, 5),)},
    ],
)
def test_loads_that_are_none(fields: dict[str, object]) -> None:
    with pytest.raises(PlanError, match="load"):
        Load(**{"lengths": ((10, 10),), **fields})  # type: ignore[arg-type]


def test_a_placement_without_flow() -> None:
    with pytest.raises(PlanError, match="no flow leaves the coordinator"):
        network(ranges(a=(0, 4)), {})
