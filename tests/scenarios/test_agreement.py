"""The same scenarios in virtual and in real time give the same figures.

In logical time with one process the event log is the same, byte for byte, on any machine. In observed time figures
differ by what the machine's lateness does to them; where a run says that the machine did not keep up, and its figures
are off, the test skips with what the run says.

The long matrix: ``python -m pytest -m long tests/scenarios/test_agreement.py``, half an hour.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from emulator.realtime.emulation import RealTime
from emulator.realtime.network import TimeMode
from scenarios.loader import LoadedScenario, load_scenario
from scenarios.runner import run_scenario

TOLERANCE = {TimeMode.LOGICAL: 0.01, TimeMode.OBSERVED: 0.03}


@dataclass(frozen=True)
class Case:
    """A library scenario, and how much of it runs.

    Attributes:
        name: In the library.
        jitter: Whether its override ``jitter`` is applied.
        duration: Emulated seconds.
        dilation: Emulated seconds per second.
        sets: Changes beside.
    """

    name: str
    jitter: bool
    duration: float
    dilation: float
    sets: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name}{'-jitter' if self.jitter else ''}"

    def load(self, *sets: str) -> LoadedScenario:
        """The scenario."""
        times = [f"duration={self.duration} s", f"warm_up={self.duration / 6} s"]
        return load_scenario(self.name, overrides=["jitter"] if self.jitter else [], sets=[*times, *self.sets, *sets])


BUSY_6 = (
    "workload.synthetic.requests_per_s=0.25",
    "workload.synthetic.lengths={library: azure-conversation, scale: 0.5}",
)
# Prompts of full length take a minute to cross the regions' links.
SHORT_GEO = ("workload.lengths={library: azure-conversation, scale: 0.05}",)


def cases(*, long: bool) -> list[Case]:
    """6 and 24 nodes, one and three regions, with and without jitter."""
    factor = 4 if long else 1
    found = []
    for jitter in (False, True):
        found += [
            Case("small-6-30b", jitter, 24 * factor, 1 if long else 8, BUSY_6),
            Case("small-6-geo-30b", jitter, 24 * factor, 1 if long else 8, BUSY_6),
            Case("helix-24-70b-online", jitter, 12 * factor, 1 if long else 3),
            Case("helix-24-geo-70b", jitter, 12 * factor, 1 if long else 3, SHORT_GEO),
        ]
    return found


def figures_of(summary: dict[str, Any]) -> dict[str, float]:
    return {
        "decode throughput": summary["decode_throughput_tokens_per_s"],
        "token latency p50": summary["itl_s"]["p50"],
    }


def check_agreement(case: Case, real_time: RealTime) -> None:
    loaded = case.load()
    virtual, real = run_scenario(loaded), run_scenario(loaded, real_time=real_time)
    assert real["interrupted"] is False
    expected, found = figures_of(virtual), figures_of(real)
    off = {name: found[name] / expected[name] - 1 for name in expected}
    timing = real["real_time"]
    told = ", ".join(f"{name} {value:+.2%}" for name, value in off.items())
    print(f"{case} {real_time.mode} dilation {real_time.dilation:g}: {told}; kept up: {timing['kept_up']}")
    tolerance = TOLERANCE[real_time.mode]
    if any(abs(value) > tolerance for value in off.values()):
        if not timing["kept_up"]:
            pytest.skip(f"{told}: {timing['warning']}")
        pytest.fail(f"{told}; more than {tolerance:.0%}")


@pytest.mark.parametrize("case", cases(long=False), ids=str)
def test_logical_time_gives_the_log_of_virtual_time(case: Case) -> None:
    loaded = case.load("output.event_log=hops")
    virtual = run_scenario(loaded)
    real = run_scenario(loaded, real_time=RealTime(dilation=case.dilation))
    assert real["event_log_sha256"] == virtual["event_log_sha256"]
    assert figures_of(real) == figures_of(virtual)
    assert real["real_time"]["causality_violations"] == 0
    assert real["real_time"]["received_bytes"] > sum(link["bytes"] for link in real["links"].values())


@pytest.mark.parametrize(
    "case",
    [
        Case("small-6-30b", False, 24, 1.5, BUSY_6),
        Case("small-6-geo-30b", True, 24, 2, BUSY_6),
        Case("helix-24-70b-online", True, 15, 1),
    ],
    ids=str,
)
def test_observed_time_agrees(case: Case) -> None:
    check_agreement(case, RealTime(dilation=case.dilation, mode=TimeMode.OBSERVED, priority=10))


@pytest.mark.long
@pytest.mark.parametrize("mode", list(TimeMode))
@pytest.mark.parametrize("case", cases(long=True), ids=str)
def test_the_whole_matrix(case: Case, mode: TimeMode) -> None:
    check_agreement(case, RealTime(dilation=case.dilation, mode=mode, priority=10))


@pytest.mark.long
@pytest.mark.parametrize("case", cases(long=True), ids=str)
def test_the_whole_matrix_with_nodes_in_two_processes(case: Case) -> None:
    if case.name == "helix-24-geo-70b":
        pytest.skip("its feeder looks at all KV caches: one process")
    check_agreement(case, RealTime(dilation=case.dilation, workers=2, priority=10))
