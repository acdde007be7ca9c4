"""The command ``helixemu chaos``: random scenarios in which things go wrong, checked after every event."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from scenarios.chaos import Failure, SearchResult, failure_text, judge, search
from scenarios.errors import Problem, ScenarioError
from scenarios.loader import load_scenario
from scenarios.quantities import QuantityError, seconds

VIOLATED, INTERRUPTED = 1, 130
MOST_RUNS = 10_000_000


def chaos(
    runs: Annotated[int, typer.Option(min=1, max=MOST_RUNS, help="How many cases.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the search; with a case's number it settles the case.")] = 0,
    only: Annotated[
        int | None, typer.Option(metavar="CASE", min=0, max=MOST_RUNS, help="Run this case of the search alone.")
    ] = None,
    first: Annotated[int, typer.Option(min=0, max=MOST_RUNS, help="Number of the first case.")] = 0,
    time_limit: Annotated[
        str | None, typer.Option(help="No new case begins after this time, for instance 60s.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Directory for small scenarios that show what fails.")] = Path("chaos"),
    replay: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Check this scenario instead of random ones, running it twice.")
    ] = None,
    json_to: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Write the counts as JSON; - is the terminal.")
    ] = None,
) -> None:
    """Search for defects of the emulator: random clusters, loads, failures and policies, checked after every event.

    What fails is made small and written to a file that `--replay` repeats; then the exit code is 1.
    """
    if replay is not None:
        _replay(replay)
        return
    numbers = range(first, first + runs) if only is None else (only,)
    begun_s = time.perf_counter()
    result = search(
        seed,
        numbers,
        time_limit_s=float("inf") if time_limit is None else _time_limit(time_limit),
        on_failure=lambda failure: _tell(failure, out, quiet=json_to == "-"),
    )
    _write(result, seed, time.perf_counter() - begun_s, json_to)
    if result.interrupted:
        raise typer.Exit(INTERRUPTED)
    if result.failures:
        raise typer.Exit(VIOLATED)


def _replay(path: Path) -> None:
    loaded = load_scenario(str(path) if path.is_absolute() else f"./{path}")
    if loaded.spec.churn is None:
        rule = "it has no churn, so there is nothing to check"
        raise ScenarioError(Problem(str(path), None, "churn", None, rule, "add churn: {}"))
    verdict = judge(loaded.spec, twice=True)
    if verdict.refused:
        raise ScenarioError(Problem(str(path), None, "", None, verdict.refused, ""))
    print(f"{path}: {verdict} ({verdict.events:,} events)")
    if verdict.rule is not None:
        raise typer.Exit(VIOLATED)


def _tell(failure: Failure, out: Path, *, quiet: bool) -> None:
    """Write a failure's small scenario, and say what there is to say."""
    case = failure.case
    lines = [
        f"seed {case.seed}, case {case.number}: {failure.verdict}",
        f"  again: helixemu chaos --seed {case.seed} --only {case.number}",
    ]
    if failure.small is not None:
        path = out / f"{case.document['name']}.yaml"
        try:
            out.mkdir(parents=True, exist_ok=True)
            path.write_text(failure_text(failure), encoding="utf-8")
        except OSError as error:
            rule = f"the file cannot be written: {error.strerror}"
            raise ScenarioError(Problem(str(path), None, "--out", None, rule, "name another directory")) from error
        lines.append(f"  small scenario: helixemu chaos --replay {path}")
    if not quiet:
        print("\n".join(lines), flush=True)


def _write(result: SearchResult, seed: int, wall_s: float, json_to: str | None) -> None:
    figures = {
        "seed": seed,
        "runs": result.runs,
        "refused": result.refused,
        "events": result.events,
        "violations": [
            {"case": each.case.number, "rule": each.verdict.rule, "detail": each.verdict.detail}
            for each in result.failures
        ],
        "digest": result.digest,
        "interrupted": result.interrupted,
        "wall_s": wall_s,
    }
    text = json.dumps(figures, indent=2) + "\n"
    if json_to == "-":
        print(text, end="")
        return
    if json_to is not None:
        try:
            Path(json_to).write_text(text, encoding="utf-8")
        except OSError as error:
            rule = f"the file cannot be written: {error.strerror}"
            raise ScenarioError(Problem(json_to, None, "--json", None, rule, "name another file")) from error
    print(
        f"{result.runs:,} runs ({result.refused:,} refused), {result.events:,} events, "
        f"{len(result.failures):,} violations, seed {seed}, {wall_s:.1f} s"
    )
    print(f"digest {result.digest}")


def _time_limit(text: str) -> float:
    try:
        return seconds(text)
    except QuantityError as error:
        raise typer.BadParameter(str(error), param_hint="--time-limit") from None
