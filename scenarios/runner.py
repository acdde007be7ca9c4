"""Runs a loaded scenario and writes what it leaves behind."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from emulator.emulation import Emulation, Progress
from emulator.realtime.distributed import DistributedEmulation, check_distributable
from emulator.realtime.emulation import RealTime, RealTimeEmulation, check_real_time
from emulator.spec import EmulationSpec
from netshape.timing import run as run_precisely
from scenarios.loader import LoadedScenario
from scenarios.results import RunDirectory


def run_scenario(
    loaded: LoadedScenario,
    *,
    out: Path | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    real_time: RealTime | None = None,
) -> dict[str, Any]:
    """Run a scenario.

    Args:
        loaded: What to run.
        out: New or empty directory for the results; nothing is written without one.
        on_progress: Called about 200 times.
        real_time: How it goes in real time; without it the run is in virtual time.

    Returns:
        The summary, as in ``summary.json``.

    Raises:
        ScenarioError: ``out`` cannot be used.
        SimulationError: The scenario cannot run.
    """
    if real_time is not None:
        check_real_time(loaded.spec, real_time)
        if real_time.workers:
            check_distributable(loaded.spec)
    with ExitStack() as stack:
        directory = None if out is None else stack.enter_context(RunDirectory(out, loaded))
        hooks: dict[str, Any] = {
            "log_sink": None if directory is None else directory.log,
            "on_ended": None if directory is None else directory.request,
            "on_token": None if directory is None else directory.on_token,
            "on_progress": on_progress,
        }
        if real_time is None:
            summary = Emulation(loaded.spec, **hooks).run()
        else:
            summary = run_precisely(_in_real_time(loaded.spec, real_time, hooks))
        if directory is not None:
            directory.finish(summary)
    return summary


async def _in_real_time(spec: EmulationSpec, real_time: RealTime, hooks: dict[str, Any]) -> dict[str, Any]:
    kind = DistributedEmulation if real_time.workers else RealTimeEmulation
    return await kind(spec, real_time=real_time, **hooks).run_on_loop()
