"""The Python interface: run a scenario, run a study.

from scenarios.api import Study, run

result = run("quickstart", sets=["duration=120 s"])
result["decode_throughput_tokens_per_s"], result["ttft_s.p99"]

if __name__ == "__main__":  # processes start by importing the script
    study = Study("max-rate-24")
    study.run(processes=2, out="studies/max-rate-24").answer

Tables are polars frames; with the extra ``[pandas]``, ``.answer.to_pandas()`` makes them pandas frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scenarios.expect import figures_at
from scenarios.loader import LoadedScenario, load_scenario
from scenarios.runner import run_scenario
from scenarios.studies.points import load_plain
from scenarios.studies.study import Study, StudyResult

__all__ = ["Result", "Study", "StudyResult", "run"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a run found.

    Attributes:
        scenario: What was run, resolved.
        summary: All figures, as in ``summary.json``; the README defines them.
        directory: Where the run left its files, if anywhere.
    """

    scenario: LoadedScenario
    summary: Mapping[str, Any]
    directory: Path | None = None

    def __getitem__(self, figure: str) -> Any:
        """A figure by its dotted name, ``ttft_s.p99``.

        Raises:
            KeyError: There is none of this name.
        """
        for _, value in figures_at(self.summary, figure):
            return value
        raise KeyError(figure)


def run(
    scenario: str | Path | Mapping[str, Any],
    *,
    overrides: Sequence[str] = (),
    sets: Sequence[str] = (),
    out: Path | str | None = None,
) -> Result:
    """Run a scenario in virtual time.

    Args:
        scenario: Name in the library, path of a YAML file, or the file's content as plain data.
        overrides: Named overrides of a scenario that is named or in a file.
        sets: Changes ``a.b.0.c=value``, likewise.
        out: New or empty directory for the results; nothing is written without one.

    Raises:
        ScenarioError: All that is wrong with the scenario, or ``out`` cannot be used.
        SimulationError: The scenario cannot run.
        TypeError: Changes to a scenario in plain data, which can be changed itself.
    """
    if isinstance(scenario, Mapping):
        if overrides or sets:
            raise TypeError("change the scenario itself; overrides and sets are for names and files")
        loaded = load_plain(scenario)
    else:
        loaded = load_scenario(scenario, overrides=overrides, sets=sets)
    directory = None if out is None else Path(out)
    summary = run_scenario(loaded, out=directory)
    return Result(scenario=loaded, summary=summary, directory=directory)
