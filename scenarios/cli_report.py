"""The commands that turn a finished run into something else: ``trace`` and its kin."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from scenarios.reports.exports import DEFAULT_NAMES, PERCENTILES, Format, export_run
from scenarios.reports.figures import write_figures
from scenarios.reports.page import write_report
from scenarios.reports.run_files import read_run
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

    vllm needs the times of tokens: a run with `output.token_times: true`.
    """
    for given, option in ((detailed, "--detailed"), (percentiles, "--percentiles")):
        if given and kind is not Format.VLLM:
            raise typer.BadParameter("aiperf has a record a request anyway; leave it out", param_hint=option)
    target = out or run_dir / DEFAULT_NAMES[kind]
    count = export_run(read_run(run_dir), kind, target, detailed=detailed, percentiles=_percentiles(percentiles))
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
    run_dir: RunArgument,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="File to write; by default report.html in the directory.")
    ] = None,
    figures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the plots there too, each a file for papers.")
    ] = None,
    figure_format: Annotated[PictureFormat, typer.Option(help="Their format.")] = PictureFormat.SVG,
) -> None:
    """Write a run's report: one HTML file that opens offline, the answer first, then plots and tables."""
    target = out or run_dir / "report.html"
    run = read_run(run_dir)
    write_report(run, target)
    print(f"wrote {target}")
    if figures is not None:
        written, missing = write_figures(run, figures, f".{figure_format}")
        for path in written:
            print(f"wrote {path}")
        for sentence in missing:
            print(f"note: {sentence}", file=sys.stderr)


def add_report_commands(app: typer.Typer) -> None:
    """Put the commands of this module into ``app``."""
    app.command()(trace)
    app.command()(export)
    app.command()(report)
