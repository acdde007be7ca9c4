"""Runs a finished run again, for what it did not keep: the same scenario and seed give the same run."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scenarios.api import run
from scenarios.errors import Problem, ScenarioError
from scenarios.reports.run_files import RunFiles, read_run


def repeats(found: RunFiles) -> bool:
    """Whether a run can be had again: in virtual time, whole, and with a scenario that is there."""
    summary = found.summary
    return not summary["interrupted"] and "real_time" not in summary and (found.path / "scenario.yaml").is_file()


@contextmanager
def with_token_times(found: RunFiles) -> Iterator[RunFiles]:
    """The run with the times of its tokens, for which it is emulated again where it has not kept them.

    One that cannot be repeated comes as it is.

    Raises:
        ScenarioError: What was emulated is not the same run; other code made it.
    """
    if found.has_token_times() or not repeats(found):
        yield found
        return
    with tempfile.TemporaryDirectory(prefix="helixemu-") as directory:
        again = Path(directory) / "run"
        result = run(found.path / "scenario.yaml", sets=["output.token_times=true"], out=again)
        before, now = found.summary["event_log_sha256"], result.summary["event_log_sha256"]
        if before != now:
            rule = "it did not keep the times of its tokens, and emulated again its event log is another"
            remedy = "run the scenario again with this version and --set output.token_times=true"
            raise ScenarioError(
                Problem(str(found.path / "summary.json"), None, "event_log_sha256", before, rule, remedy)
            )
        yield read_run(again)
