"""The commands that turn a finished run into something else: ``trace`` and its kin."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from scenarios.errors import Problem, ScenarioError
from scenarios.reports.exports import DEFAULT_NAMES, PERCENTILES, Format, export_run
from scenarios.reports.figures import write_figures
from scenarios.reports.page import write_report
from scenarios.reports.repeating import repeats, with_token_times
from scenarios.reports.run_files import is_run, read_run
from scenarios.reports.study_figures import write_study_figures
from scenarios.reports.study_files import is_study, read_study_files
from scenarios.reports.study_page import write_study_report
from scenarios.reports.trace import Flows, write_trace

RunArgument = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A directory that `helixemu run` wrote.")]


class PictureFormat(StrEnum):
    """Formats of figures for papers."""

    SVG = "svg"
    PNG = "png"
    PDF = "pdf"


def trace(
    run_dir: RunArgument,
    out: Annotated[Path | None, typer.Option(help="File to write; by default trace.json in the directory.")] = None,
    flows: Annotated[
        Flows, typer.Option(help="Ways of requests through their batches: to the first token, of every token, none.")
    ] = Flows.PREFILL,
) -> None:
    """Write a run as a trace for ui.perfetto.dev or chrome://tracing.

    Nodes are tracks of batches, links are tracks of transfers, requests are spans and flows, churn is marked. The run
    needs `output.event_log: batches`, or `hops` for links and flows.
    """
    target = out or run_dir / "trace.json"
    counts = write_trace(read_run(run_dir), target, flows)
    print(
        f"wrote {target}: {counts.batches} batches, {counts.transfers} transfers, {counts.requests} requests, "
        f"{counts.flows} flows, {counts.churn} churn events"
    )
    if not counts.transfers:
        print("note: links and flows need a run with output.event_log: hops", file=sys.stderr)
    if counts.truncated:
        print("warning: the event log reached its size limit; the trace ends there", file=sys.stderr)


def export(
    run_dir: RunArgument,
    kind: Annotated[Format, typer.Option("--format", help="vllm: as `vllm bench serve`; aiperf: a record a request.")],
    out: Annotated[
        Path | None, typer.Option(help="File to write; by default vllm-bench.json or profile_export.jsonl there.")
    ] = None,
    detailed: Annotated[bool, typer.Option("--detailed", help="vllm: the requests' own figures too.")] = False,
    percentiles: Annotated[
        str | None, typer.Option(metavar="P,P,...", help="vllm: percentiles of latencies; by default 99, as vLLM's.")
    ] = None,
) -> None:
    """Write a run's results in another tool's format, so that its plots and comparisons take them.

    vllm needs the times of tokens. A run that did not keep them (`output.token_times: true`) is emulated again.
    """
    for given, option in ((detailed, "--detailed"), (percentiles, "--percentiles")):
        if given and kind is not Format.VLLM:
            raise typer.BadParameter("aiperf has a record a request anyway; leave it out", param_hint=option)
    target = out or run_dir / DEFAULT_NAMES[kind]
    wanted, found = _percentiles(percentiles), read_run(run_dir)
    if kind is Format.AIPERF:
        count = export_run(found, kind, target)
    else:
        if not found.has_token_times() and repeats(found):
            print("note: the run kept no times of tokens; emulating it again", file=sys.stderr)
        with with_token_times(found) as whole:
            count = export_run(whole, kind, target, detailed=detailed, percentiles=wanted)
    print(f"wrote {target}: {count} requests")


def _percentiles(given: str | None) -> tuple[float, ...]:
    if given is None:
        return PERCENTILES
    try:
        found = tuple(float(one) for one in given.split(","))
    except ValueError:
        raise typer.BadParameter(f"{given!r} is no list such as 50,90,99", param_hint="--percentiles") from None
    if not all(0 <= one <= 100 for one in found):
        raise typer.BadParameter(f"{given!r}: percentiles are 0 to 100", param_hint="--percentiles")
    return found


def report(
    directory: Annotated[
        Path, typer.Argument(metavar="RUN_OR_STUDY", help="A directory of `helixemu run` or `helixemu study`.")
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="File to write; by default report.html in the directory.")
    ] = None,
    figures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the plots there too, each a file for papers.")
    ] = None,
    figure_format: Annotated[PictureFormat, typer.Option(help="Their format.")] = PictureFormat.SVG,
) -> None:
    """Write the report of a run or a study: one HTML file that opens offline, the answer first, then plots and tables.

    A study that has not finished is reported as far as it has come.
    """
    target, suffix = out or directory / "report.html", f".{figure_format}"
    missing: list[str] = []
    written: list[Path] = []
    if directory.is_dir() and not is_run(directory) and not is_study(directory):
        rule = "this is neither the directory of a run nor that of a study"
        raise ScenarioError(Problem(str(directory), None, "", None, rule, "name one that helixemu run or study wrote"))
    if is_study(directory):
        study = read_study_files(directory)
        write_study_report(study, target)
        if figures is not None:
            written = write_study_figures(study, figures, suffix)
    else:
        run = read_run(directory)
        write_report(run, target)
        if figures is not None:
            written, missing = write_figures(run, figures, suffix)
    for path in (target, *written):
        print(f"wrote {path}")
    for sentence in missing:
        print(f"note: {sentence}", file=sys.stderr)


def add_report_commands(app: typer.Typer) -> None:
    """Put the commands of this module into ``app``."""
    app.command()(trace)
    app.command()(export)
    app.command()(report)
