"""A day of spot preemptions: nothing grows with the length of a run."""

from __future__ import annotations

from pathlib import Path

from emulator.churn.spec import (
    ChurnSpec,
    Delay,
    Detection,
    InFlight,
    Law,
    NodeEventKind,
    NodeTarget,
    RandomProcess,
    RecoverySpec,
    Together,
)
from emulator.emulation import Emulation, Progress
from emulator.workload import FixedLengths, OpenLoop, RandomArrivals
from tests.churn_runs import two_regions
from tests.small_runs import placed, toy_spec

DAY_S = 86_400.0
PAGE_BYTES = 4096


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


def test_memory_does_not_grow_with_a_day(tmp_path: Path) -> None:
    churn = ChurnSpec(
        processes=(
            RandomProcess(
                kind=NodeEventKind.PREEMPT,
                target=NodeTarget(),
                between=Delay(mean_s=3600.0, law=Law.WEIBULL, shape=0.8),
                repair=Delay(mean_s=300.0),
                notice_s=30.0,
                together=Together.REGION,
                share=0.2,
            ),
        ),
        detection=Detection(interval_s=5.0, timeout_s=20.0),
        in_flight=InFlight(max_retries=20),
        recovery=RecoverySpec(policy="standby"),
    )
    lengths = FixedLengths(prompt_tokens=100, output_tokens=20)
    spec = toy_spec(
        cluster=two_regions(),
        placement=placed(a=(0, 2), b=(0, 2), c=(2, 4), d=(2, 4)),
        workload=OpenLoop(source=RandomArrivals(requests_per_s=0.05, lengths=lengths)),
        duration_s=DAY_S,
        churn=churn,
    )
    resident: list[int] = []

    def on_progress(_progress: Progress) -> None:
        resident.append(resident_bytes())

    with (tmp_path / "events.jsonl").open("wb") as log:
        emulation = Emulation(spec, log_sink=log.write, on_progress=on_progress)
        summary = emulation.run()
    counts = summary["requests"]
    assert counts["finished"] > 0.99 * counts["submitted"] > 4_000
    assert summary["churn"]["incidents"] > 150
    # A quarter of the day is warm-up; after it the rest may cost no more than the samples of its distributions.
    assert resident[-1] - resident[len(resident) // 4] < 12e6
    assert len(emulation.state.pipelines) < 50
    assert len(emulation.state.latest) == len(spec.cluster.nodes)
