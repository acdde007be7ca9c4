"""Runs a loaded scenario and writes what it leaves behind."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from emulator.emulation import Emulation, Progress
from scenarios.loader import LoadedScenario
from scenarios.results import RunDirectory


def run_scenario(
    loaded: LoadedScenario, *, out: Path | None = None, on_progress: Callable[[Progress], None] | None = None
) -> dict[str, Any]:
    """Run a scenario in virtual time.

    Args:
        loaded: What to run.
        out: New or empty directory for the results; nothing is written without one.
        on_progress: Called about 200 times.

    Returns:
        The summary, as in ``summary.json``.

    Raises:
        ScenarioError: ``out`` cannot be used.
        SimulationError: The scenario cannot run.
    """
    with ExitStack() as stack:
        directory = None if out is None else stack.enter_context(RunDirectory(out, loaded))
        emulation = Emulation(
            loaded.spec,
            log_sink=None if directory is None else directory.log,
            on_ended=None if directory is None else directory.request,
            on_progress=on_progress,
        )
        summary = emulation.run()
        if directory is not None:
            directory.finish(summary)
    return summary
