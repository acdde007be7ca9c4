"""What each recovery policy does about a lost machine, and where weights come from."""

from __future__ import annotations

import pytest

from emulator.churn.recovery import RECOVERY_NAMES, RecoveryPolicy, recovery_class
from emulator.churn.spec import NodeEventKind, RecoverySpec, WeightSource
from emulator.errors import SimulationError
from tests.churn_runs import EVENTS, Watched, churn_spec, node_event
from tests.small_runs import constant, placed

LOST = [node_event(10, NodeEventKind.CRASH, "d")]


def served(run: Watched) -> dict[str, list[int]]:
    return {line["node"]: line["layers"] for line in run.lines("serving")}


def test_none_leaves_flows_as_they_are_and_reroute_solves_them() -> None:
    for name in ("none", "reroute"):
        run = Watched(churn_spec(LOST, recovery=name))
        assert run.churn["layers_moved"] == 0
        assert served(run) == {}
        after = run.lines("max_flow")[-1]["tokens_per_s"]
        before = run.lines("max_flow")[0]["tokens_per_s"]
        assert after == pytest.approx(before / 2, rel=0.01)


def test_a_spare_takes_over() -> None:
    run = Watched(churn_spec(LOST, recovery="standby"))
    assert served(run) == {"t": [2, 4]}  # of the lost machine's region
    assert run.churn["layers_moved"] == 2
    assert run.churn["events"][0]["layers_moved"] == 2
    assert run.churn["bytes_moved"] == 2e9


def test_a_machine_that_comes_back_to_a_taken_place_stands_by() -> None:
    events = [node_event(10, NodeEventKind.CRASH, "d", duration_s=8), node_event(30, NodeEventKind.CRASH, "t")]
    run = Watched(churn_spec(events, recovery="standby"))
    # t for d, then d, which has come back, for t.
    assert [(line["node"], line["of"]) for line in run.lines("takes_over")] == [("t", "d"), ("d", "t")]
    assert run.churn["timeline"][-1]["nodes_serving"] == 4


def test_spares_of_the_placement_are_kept_back() -> None:
    run = Watched(churn_spec(LOST, recovery="standby", options={"spares": ["b"]}))
    first = run.lines("max_flow")[0]["tokens_per_s"]
    assert first == pytest.approx(Watched(churn_spec(LOST)).lines("max_flow")[0]["tokens_per_s"] / 2, rel=0.01)
    assert run.lines("takes_over")[0]["of"] == "d"


def test_spares_that_are_needed_cannot_be_kept_back() -> None:
    with pytest.raises(SimulationError, match="without the spares nobody holds the whole model"):
        Watched(churn_spec(LOST, recovery="standby", options={"spares": ["c", "d"]}))
    with pytest.raises(SimulationError, match="spare 'x' is no node"):
        Watched(churn_spec(LOST, recovery="standby", options={"spares": ["x"]}))


def test_replan_uses_whoever_is_there() -> None:
    run = Watched(churn_spec(LOST, recovery="replan", options={"budget_s": 1.0}))
    (planned, *_rest) = run.lines("planned")
    detected = run.lines("detected")[0]["t"]
    assert planned["t"] == pytest.approx(detected + 1.0)
    assert planned["flow_tokens_per_s"] > planned["kept_flow_tokens_per_s"]
    assert run.churn["layers_moved"] == planned["layers_moved"] > 0
    # Five nodes are left, and all of them serve in the end.
    assert run.churn["timeline"][-1]["nodes_serving"] == 5
    last_flow = run.lines("max_flow")[-1]["tokens_per_s"]
    assert last_flow == pytest.approx(planned["flow_tokens_per_s"], rel=1e-6)


@pytest.mark.parametrize(
    ("in_flight", "objective", "moves"), [(1, "flow", True), (1, "throughput", False), (8, "throughput", True)]
)
def test_replan_by_throughput_moves_layers_only_where_more_is_served(
    in_flight: int, objective: str, moves: bool
) -> None:
    """More flow is nothing to a single request; eight are served faster by five nodes than by three."""
    options = {"budget_s": 1.0, "objective": objective}
    run = Watched(churn_spec(LOST, recovery="replan", options=options, workload=constant(in_flight, 100, 40)))
    assert (run.churn["layers_moved"] > 0) is moves
    assert (len(run.lines("planned")) > 0) is moves
    kept = run.lines("kept")
    assert (not moves) is bool(kept)
    assert all(line["planned_tokens_per_s"] < 1.05 * line["predicted_tokens_per_s"] for line in kept)


def test_replan_survives_what_no_rerouting_does() -> None:
    both = [node_event(10, NodeEventKind.CRASH, "c", "d")]
    for name, serves in (("reroute", False), ("standby", True), ("replan", True)):
        run = Watched(churn_spec(both, recovery=name))
        assert (run.churn["timeline"][-1]["throughput_tokens_per_s"] > 0) is serves


def test_nodes_serve_their_old_layers_until_they_switch() -> None:
    """Moving layers takes 2 s a node here, and planning 1 s; throughput never stops meanwhile."""
    run = Watched(churn_spec(LOST, recovery="replan", options={"budget_s": 1.0}))
    detected = run.lines("detected")[0]["t"]
    last_switch = run.lines("serving")[-1]["t"]
    assert last_switch > detected + 1.0
    during = [e for e in run.churn["timeline"] if detected + 1 < e["t_s"] <= detected + 3]
    assert all(entry["throughput_tokens_per_s"] > 0 for entry in during)


@pytest.mark.parametrize("weights", list(WeightSource))
def test_weights_come_from_disk_or_a_peer(weights: WeightSource) -> None:
    event = [node_event(10, NodeEventKind.CRASH, "d", duration_s=5)]
    run = Watched(churn_spec(event, churn={"recovery": RecoverySpec(policy="reroute", weights=weights)}))
    (serving,) = run.lines("serving")
    loading_s = serving["t"] - run.lines("loading")[0]["t"]
    if weights is WeightSource.PEER:
        # From c, over 0.1 GB/s between the regions, beside the traffic.
        assert run.churn["peer_bytes_moved"] == 2e9
        assert 20.0 <= loading_s < 22.0
    else:
        # The disk is ten times as fast.
        assert run.churn["peer_bytes_moved"] == 0
        assert loading_s == pytest.approx(2.0)
    assert run.churn["bytes_moved"] == 2e9


def test_a_peer_that_stops_is_replaced() -> None:
    events = [
        node_event(10, NodeEventKind.CRASH, "d", duration_s=2),
        node_event(16, NodeEventKind.CRASH, "c", duration_s=1),
    ]
    run = Watched(churn_spec(events, churn={"recovery": RecoverySpec(policy="reroute", weights=WeightSource.PEER)}))
    assert set(served(run)) == {"c", "d"}
    # Nobody else holds these layers, so the rest comes from disk.
    assert 0 <= run.churn["peer_bytes_moved"] < 2e9


def test_a_drained_machine_finishes_what_it_has() -> None:
    run = Watched(churn_spec(EVENTS["drain"]))
    assert run.churn["requests_retried"] == run.churn["requests_failed"] == 0
    (left,) = run.lines("left")
    assert 10 < left["t"] < 15


def test_a_preempted_machine_stops_at_the_end_of_its_notice() -> None:
    run = Watched(churn_spec(EVENTS["preempt"]))
    (crashed,) = run.lines("crashed")
    assert crashed["t"] == 12.0
    # It was expected, so nobody had to miss it.
    assert run.lines("detected") == []


def test_a_straggler_gets_less() -> None:
    slowed = Watched(churn_spec(EVENTS["straggler"], recovery="reroute"))
    flows = [line["tokens_per_s"] for line in slowed.lines("max_flow")]
    assert min(flows) == pytest.approx(flows[0] * 0.6, rel=0.01)  # one of two at a fifth
    assert flows[-1] == flows[0]


def test_names() -> None:
    for name in RECOVERY_NAMES:
        assert recovery_class(name).name == name
    with pytest.raises(SimulationError, match="did you mean replan"):
        recovery_class("replann")
    with pytest.raises(SimulationError, match="has no option 'speed'"):
        Watched(churn_spec(LOST, options={"speed": 1}))
    with pytest.raises(SimulationError, match="budget_s is -1; it must be a number above 0"):
        Watched(churn_spec(LOST, recovery="replan", options={"budget_s": -1}))
    with pytest.raises(SimulationError, match="objective is 'speed'; it must be one of flow, throughput"):
        Watched(churn_spec(LOST, recovery="replan", options={"objective": "speed"}))


class Mine(RecoveryPolicy):
    """Writes down what it is told."""

    name = "mine"
    told: list[str] = []  # noqa: RUF012

    def lost(self, machine) -> None:  # type: ignore[no-untyped-def]
        self.told.append(f"lost {machine.name}")

    def joined(self, machine) -> None:  # type: ignore[no-untyped-def]
        self.told.append(f"joined {machine.name}")


def test_a_policy_of_ones_own() -> None:
    Mine.told.clear()
    path = f"{__name__}:Mine"
    run = Watched(churn_spec(EVENTS["crash"], recovery=path, placement=placed(a=(0, 4), b=(0, 4))))
    assert Mine.told == ["lost a", "joined a"]
    assert served(run) == {}
