"""A day of spot preemptions: nothing grows with the length of a run."""

from __future__ import annotations

import gc
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

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


def spend_a_day(log_path: Path) -> dict[str, Any]:
    """Run it, and say what came of it and what memory it took."""
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
    blocks: list[int] = []

    def on_progress(_progress: Progress) -> None:
        gc.collect()
        resident.append(resident_bytes())
        blocks.append(sys.getallocatedblocks())

    with log_path.open("wb") as log:
        emulation = Emulation(spec, log_sink=log.write, on_progress=on_progress)
        summary = emulation.run()
    return {
        "requests": summary["requests"],
        "incidents": summary["churn"]["incidents"],
        # A quarter of the day is warm-up. What is in flight comes and goes, so the least of each quarter counts.
        "grown_bytes": resident[-1] - resident[len(resident) // 4],
        "grown_blocks": min(blocks[-len(blocks) // 4 :]) - min(blocks[len(blocks) // 4 : len(blocks) // 2]),
        "pipelines": len(emulation.state.pipelines),
        "latest": len(emulation.state.latest),
        "nodes": len(spec.cluster.nodes),
    }


def test_memory_does_not_grow_with_a_day(tmp_path: Path) -> None:
    # In a process of its own: what other tests leave to be freed, or not, would count, too.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = pool.submit(spend_a_day, tmp_path / "events.jsonl").result()
    counts = found["requests"]
    assert counts["finished"] > 0.99 * counts["submitted"] > 4_000
    assert found["incidents"] > 150
    # A few objects an incident, for the report; none for each of the 2,000 requests that came between.
    assert found["grown_blocks"] < 10_000
    # Samples of distributions, and libraries that planning loads when it first needs them.
    assert found["grown_bytes"] < 60e6
    assert found["pipelines"] < 50
    assert found["latest"] == found["nodes"]
