"""The commands that turn a finished run into something else: ``trace`` and its kin."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from scenarios.reports.run_files import read_run
from scenarios.reports.trace import Flows, write_trace

RunArgument = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A directory that `helixemu run` wrote.")]


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


def add_report_commands(app: typer.Typer) -> None:
    """Put the commands of this module into ``app``."""
    app.command()(trace)
