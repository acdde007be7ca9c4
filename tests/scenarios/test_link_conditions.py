"""Links of scenarios with jitter, losses and packets: from YAML to the run's figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from emulator.emulation import Emulation
from emulator.spec import EmulationSpec
from netshape.clock import LinkClock
from netshape.conditions import GilbertElliottLoss, IndependentLoss, Jitter
from netshape.link_model import ConditionedClock
from scenarios.errors import ScenarioError
from scenarios.loader import load_scenario

REGION = "cluster.network.regions.0"
SHORT = ("duration=60 s", "warm_up=5 s")


def spec_of(name: str, *sets: str, overrides: tuple[str, ...] = ()) -> EmulationSpec:
    return load_scenario(name, sets=[*SHORT, *sets], overrides=overrides).spec


def run(spec: EmulationSpec) -> dict[str, Any]:
    return Emulation(spec).run()


def problem_of(*sets: str) -> str:
    with pytest.raises(ScenarioError) as caught:
        spec_of("small-6-30b", *sets)
    return str(caught.value)


def test_plain_links_keep_their_plain_clocks() -> None:
    for name in ("quickstart", "helix-24-geo-70b"):
        spec = spec_of(name)
        assert not spec.conditions.given
        assert {type(wire.clock) for wire in Emulation(spec).state.used_wires()} == {LinkClock}


def test_a_regions_entry_conditions_its_links_and_no_others() -> None:
    state = Emulation(spec_of("small-6-geo-30b", overrides=("jitter",))).state
    regions = {node.name: node.region for node in state.spec.cluster.nodes} | {"coordinator": "a"}
    kinds = {True: 0, False: 0}
    for wire in state.used_wires():
        across = regions[wire.source] != regions[wire.target]
        assert isinstance(wire.clock, ConditionedClock) is across
        kinds[across] += 1
    assert kinds[True] > 0
    assert kinds[False] > 0


def test_what_the_file_says_is_what_the_clock_has() -> None:
    spec = spec_of(
        "small-6-30b",
        f"{REGION}.jitter={{spread: 2 ms, distribution: pareto, correlation: 0.5}}",
        f"{REGION}.loss={{to_bad: 0.001, to_good: 0.2}}",
        f"{REGION}.mtu=1460 B",
        f"{REGION}.overhead=40 B",
        f"{REGION}.queue_limit=1 MB",
    )
    wire = next(iter(Emulation(spec).state.used_wires()))
    assert isinstance(wire.clock, ConditionedClock)
    conditions = wire.clock.conditions
    assert conditions.bandwidth_bytes_per_s == 1.25e9
    assert conditions.latency_s == 0.001
    assert conditions.jitter == Jitter(spread_s=0.002, distribution="pareto", correlation=0.5)
    assert conditions.loss == GilbertElliottLoss(to_bad=0.001, to_good=0.2)
    assert (conditions.mtu_bytes, conditions.overhead_bytes_per_packet) == (1460, 40)
    assert conditions.queue_limit_bytes == 1e6


def test_single_links_override_their_regions() -> None:
    jitter = "{spread: 1 ms}"
    plain = "{from: coordinator, to: a100-0, bandwidth: 1 Gbit/s, latency: 2 ms}"
    lossy = "{from: t4-1, to: coordinator, bandwidth: 1 Gbit/s, latency: 2 ms, loss: {probability: 0.01}}"
    spec = spec_of("quickstart", f"{REGION}.jitter={jitter}", f"cluster.network.links=[{plain}, {lossy}]")
    cluster = spec.cluster
    assert spec.conditions.of(cluster, ("coordinator", "a100-0")) is None
    back = spec.conditions.of(cluster, ("a100-0", "coordinator"))
    assert back is not None
    assert back.conditions.jitter == Jitter(spread_s=0.001)
    lost = spec.conditions.of(cluster, ("t4-1", "coordinator"))
    assert lost is not None
    assert lost.conditions.loss == IndependentLoss(probability=0.01)
    assert lost.conditions.jitter is None


def test_a_placement_that_narrows_links_keeps_their_conditions() -> None:
    loaded = load_scenario("quickstart", sets=[*SHORT, f"{REGION}.jitter={{spread: 1 ms}}"])
    pairs = [[wire.source, wire.target] for wire in Emulation(loaded.spec).state.used_wires()]
    ranges = loaded.resolved["placement"]["ranges"]
    placement = f"placement={{ranges: {ranges}, links: {pairs}}}"
    narrowed = spec_of("quickstart", f"{REGION}.jitter={{spread: 1 ms}}", placement)
    assert not narrowed.cluster.network.regions
    assert {type(wire.clock) for wire in Emulation(narrowed).state.used_wires()} == {ConditionedClock}


def test_draws_come_from_the_seed_alone() -> None:
    hashes = [
        run(spec_of("small-6-geo-30b", f"seed={seed}", overrides=("jitter",)))["event_log_sha256"] for seed in (3, 3, 4)
    ]
    assert hashes[0] == hashes[1] != hashes[2]


def test_conditions_cost_what_they_should() -> None:
    plain = run(spec_of("small-6-geo-30b"))
    lossy = run(spec_of("small-6-geo-30b", overrides=("lossy",)))
    thin = run(spec_of("small-6-geo-30b", f"{REGION}.mtu=500 B", f"{REGION}.overhead=500 B"))
    # Half of every packet is overhead, so a prefill's bytes take twice as long between regions.
    assert thin["prefill_latency_s"]["min"] > 1.2 * plain["prefill_latency_s"]["min"]
    assert lossy["prefill_latency_s"]["p50"] > plain["prefill_latency_s"]["p50"]
    # Jitter of mean 0 changes the mean of what has no queue but little.
    shaken = run(spec_of("small-6-geo-30b", overrides=("jitter",)))
    assert shaken["decode_latency_s"]["p50"] == pytest.approx(plain["decode_latency_s"]["p50"], rel=0.2)
    assert shaken["event_log_sha256"] != plain["event_log_sha256"]


def test_the_resolved_scenario_runs_the_same(tmp_path: Path) -> None:
    from scenarios.yaml_text import dump_yaml

    loaded = load_scenario("small-6-geo-30b", sets=SHORT, overrides=["jitter", "lossy"])
    (tmp_path / "again.yaml").write_text(dump_yaml(loaded.resolved))
    again = load_scenario(tmp_path / "again.yaml")
    assert again.spec == loaded.spec
    assert again.spec.conditions.given


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (f"{REGION}.jitter={{spread: 5}}", "a duration needs a unit"),
        (f"{REGION}.jitter={{spread: 5 ms, distribution: normol}}", "distribution"),
        (f"{REGION}.jitter={{spread: 5 ms, correlation: 1}}", "correlation"),
        (f"{REGION}.overhead=40 B", "overhead_bytes_per_packet needs mtu_bytes"),
        (f"{REGION}.loss={{probability: 1}}", "probability"),
        (f"{REGION}.loss={{to_bad: 0.1}}", "to_good"),
        (f"{REGION}.jitterr={{spread: 5 ms}}", "jitter"),
    ],
)
def test_bad_conditions_are_told_with_their_place(change: str, told: str) -> None:
    text = problem_of(change)
    assert told in text
    assert REGION in text


def test_fixed_shares_of_cards_do_not_go_with_conditions() -> None:
    assert "set network.sharing to clocks" in problem_of(f"{REGION}.jitter={{spread: 5 ms}}", "network.sharing=shares")
