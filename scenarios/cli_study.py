"""The command ``helixemu study``: many runs of one scenario, and the question that they answer."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from scenarios.errors import printable
from scenarios.library import list_library
from scenarios.results import check_writable, next_run_directory
from scenarios.studies.engine import StudyProgress
from scenarios.studies.errors import StudyError
from scenarios.studies.study import Study, StudyResult

FAILED, INTERRUPTED = 1, 130
_SHOWN_ROWS = 200
_SHOWN_ERRORS = 3
_ENDS = (".low", ".high")
_HIDDEN = ("cell",)
_COMPARED = (".difference", ".difference_share")
_HIDDEN_OF_COMPARISONS = ("baseline", "min_cut_kinds")
"""The baseline is the row without differences."""


def study(
    study: Annotated[
        str | None, typer.Argument(metavar="STUDY", help="A library name or a path to a YAML file.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Directory for the results, point by point; by default studies/STUDY-N.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on in --out: finished points are kept.")] = False,
    processes: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Local processes; one a core when absent.")
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Use the workers of this Dask scheduler: tcp://host:8786.")
    ] = None,
    json_to: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Write the answer as JSON; - is the terminal.")
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="List the studies that ship with the package.")] = False,
) -> None:
    """Run a study: sweep, compare, max_rate or min_cost.

    Results land point by point in Parquet under --out; a study that was killed goes on with --resume.
    """
    if listed:
        _print_list()
        return
    if study is None:
        raise typer.BadParameter("name a study, or --list them", param_hint="STUDY")
    if resume and out is None:
        raise typer.BadParameter("say where the results are: --out DIR", param_hint="--resume")
    if processes is not None and scheduler is not None:
        raise typer.BadParameter("--scheduler has workers of its own; leave --processes out", param_hint="--processes")
    check_writable(json_to)
    planned = Study(study)
    target = out if out is not None else next_run_directory(Path("studies"), planned.name)
    errors = Console(stderr=True)
    try:
        with study_bar(errors, planned.name) as on_progress:
            result = planned.run(
                processes=processes, scheduler=scheduler, out=target, resume=resume, on_progress=on_progress
            )
    except StudyError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        raise typer.Exit(FAILED) from None
    except KeyboardInterrupt:
        print(f"interrupted; finished points are kept: go on with --out {target} --resume", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    _report(result, target, json_to)


@contextmanager
def study_bar(console: Console, title: str) -> Iterator[Callable[[StudyProgress], None] | None]:
    """A progress bar with points and time left; nothing when not on a terminal."""
    if not console.is_terminal:
        yield None
        return
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("points{task.fields[note]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=None, note="")

        def update(progress: StudyProgress) -> None:
            note = f", {progress.kept} kept" * (progress.kept > 0) + f", {progress.failed} failed" * (
                progress.failed > 0
            )
            bar.update(task, completed=progress.done, total=progress.total, note=note)

        yield update


def _report(result: StudyResult, target: Path, json_to: str | None) -> None:
    console = Console(stderr=json_to == "-")
    if json_to is not None:
        text = json.dumps({"study": result.name, "question": result.question, "answer": list(result.answers)}, indent=2)
        if json_to == "-":
            print(text)
        else:
            Path(json_to).write_text(text + "\n", encoding="utf-8")
    console.print(answer_table(result))
    for path in result.damaged:
        print(f"note: a result file was damaged, and its point was run again: {path}", file=sys.stderr)
    # A catalogue has clusters that cannot hold the model; that is no news.
    if result.failed and result.question != "min_cost":
        print(
            f"note: {result.failed} of {len(result.rows)} points failed; their errors are in the results",
            file=sys.stderr,
        )
        found = dict.fromkeys(str(row["error"]).splitlines()[0] for row in result.rows if row["status"] == "failed")
        for error in list(found)[:_SHOWN_ERRORS]:
            print(f"note: {printable(error)}", file=sys.stderr)
    kept = f" ({result.kept} kept from before)" if result.kept else ""
    console.print(f"{len(result.rows)} points{kept} in {target}", highlight=False, soft_wrap=True)
    if result.rows and result.failed == len(result.rows):
        print("error: no point could run; correct the study", file=sys.stderr)
        raise typer.Exit(FAILED)


def answer_table(result: StudyResult) -> Table:
    """The answer, intervals beside their means; figures that say nothing are left out, long names are broken."""
    rows = result.answers[:_SHOWN_ROWS]
    left_out = len(result.answers) - len(rows)
    title = f"{result.name}: {result.question}" + (f" ({left_out} more rows in answer.parquet)" if left_out else "")
    table = Table(title=title, title_justify="left")
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if not name.endswith(_ENDS)]
    names = [name for name in names if name not in _HIDDEN and any(row.get(name) not in (None, "") for row in rows)]
    axes = [name for name in names if any(other.startswith(f"{name}_") for other in names)]
    names = [name for name in names if not any(name in (f"{axis}_s", f"{axis}_bytes_per_s") for axis in axes)]
    names = [name for name in names if name != "failed" or result.failed]
    if result.question == "compare":
        names = [name for name in names if name not in _HIDDEN_OF_COMPARISONS and not name.endswith(_COMPARED)]
    for name in names:
        number = any(isinstance(row.get(name), int | float) for row in rows)
        table.add_column(_heading(printable(name)), justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_told(row, name) for name in names))
    return table


def _heading(name: str) -> str:
    """A column's name, broken where it is long."""
    head, tail = name, ""
    for unit in ("_requests_per_s", "_tokens_per_s", "_per_million_decode_tokens", "_per_million_total_tokens"):
        if unit in name:
            head, _, tail = name.partition(unit)
            tail = f"{unit}{tail}"
    return f"{head}\n{tail[1:]}" if tail else name


def _told(row: dict[str, Any], name: str) -> str:
    value = row.get(name)
    text = _number(value)
    if row.get("baseline") is False and f"{name}.difference" in row:
        return f"{_told({**row, 'baseline': None}, name)}\n{_difference(row, name)}"
    low, high = row.get(f"{name}.low"), row.get(f"{name}.high")
    if isinstance(value, float) and low is not None and high is not None:
        if abs((high - value) - (value - low)) <= 1e-9 * abs(high - low):
            return f"{text} ±{_number(high - value, digits=2)}"
        text = f"{text} [{_number(low)}, {_number(high)}]"
    return text.replace("[", "\\[")


def _difference(row: dict[str, Any], name: str) -> str:
    """The paired difference of a figure from the baseline: its mean, interval, and share of the baseline's."""
    if row[f"{name}.difference"] is None:
        return "difference -"
    share = row.get(f"{name}.difference_share")
    text = f"difference {_told(row, f'{name}.difference')}"
    return text if share is None else f"{text} ({share:+.1%})"


def _number(value: object, digits: int = 4) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.{digits}g}" if abs(value) < 1_000 else f"{value:,.0f}"
    return printable(str(value))


def _print_list() -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True, style="bold")
    table.add_column()
    for entry in list_library("study"):
        table.add_row(entry.name, entry.description)
    Console().print(table)
