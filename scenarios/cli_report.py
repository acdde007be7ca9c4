"""The commands that turn a finished run into something else: ``trace`` and its kin."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from scenarios.errors import Problem, ScenarioError
from scenarios.loader import load_scenario
from scenarios.reports.explain import Explanation
from scenarios.reports.explain import explain as explain_scenario
from scenarios.reports.exports import DEFAULT_NAMES, Format, export_run
from scenarios.reports.figures import write_figures
from scenarios.reports.page import write_report
from scenarios.reports.run_files import read_run
from scenarios.reports.trace import Flows, write_trace
from scenarios.reports.ttft_parts import PARTS
from scenarios.studies.prices import PriceTable

RunArgument = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A directory that `helixemu run` wrote.")]


MOST_STAGES = 12
"""So many nodes of an explanation are shown."""


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
) -> None:
    """Write a run's results in another tool's format, so that its plots and comparisons take them."""
    if detailed and kind is not Format.VLLM:
        raise typer.BadParameter("aiperf has a record a request anyway; leave it out", param_hint="--detailed")
    target = out or run_dir / DEFAULT_NAMES[kind]
    count = export_run(read_run(run_dir), kind, target, detailed=detailed)
    print(f"wrote {target}: {count} requests")


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


def explain(
    scenario: Annotated[str, typer.Argument(metavar="SCENARIO", help="A library name or a path to a YAML file.")],
    override: Annotated[
        list[str] | None, typer.Option("--override", help="Apply one of the scenario's named overrides; repeatable.")
    ] = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B.C=VALUE", help="Change one field; repeatable.")
    ] = None,
    price: Annotated[
        list[str] | None, typer.Option(metavar="TYPE=PER_HOUR", help="Price of a machine type; repeatable.")
    ] = None,
    flow_only: Annotated[
        bool, typer.Option("--flow-only", help="Tell what changes do to the max flow, without emulating each.")
    ] = False,
    slowest: Annotated[int, typer.Option(min=0, help="Requests with the longest TTFT to show.")] = 5,
    json_to: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Write everything as JSON; - is the terminal.")
    ] = None,
) -> None:
    """Explain what limits a scenario, what one more node or a faster link is worth, and where TTFTs come from.

    Churn is left out.
    """
    loaded = load_scenario(scenario, overrides=override or (), sets=sets or ())
    found = explain_scenario(loaded, prices=_prices(price or ()), emulate=not flow_only)
    if json_to is not None:
        text = json.dumps(found.figures(), indent=2, allow_nan=False) + "\n"
        if json_to == "-":
            sys.stdout.write(text)
            return
        try:
            Path(json_to).write_text(text, encoding="utf-8")
        except OSError as error:
            rule = f"the file cannot be written: {error.strerror}"
            raise ScenarioError(Problem(json_to, None, "--json", None, rule, "name another file")) from error
    _print_explanation(Console(), found, slowest)


def _prices(given: Sequence[str]) -> PriceTable | None:
    prices: dict[str, float] = {}
    for one in given:
        kind, _, amount = one.partition("=")
        try:
            prices[kind] = float(amount)
        except ValueError:
            raise typer.BadParameter(f"{one!r} is not TYPE=PER_HOUR, such as A100=2.5", param_hint="--price") from None
        if not 0 <= prices[kind] < float("inf"):
            raise typer.BadParameter(f"{one!r}: a price is at least 0", param_hint="--price")
    return PriceTable(on_demand=prices, spot={}) if prices else None


def _print_explanation(console: Console, found: Explanation, slowest: int) -> None:
    summary, shares = found.summary, found.shares()
    total, decode = summary["total_throughput_tokens_per_s"], summary["decode_throughput_tokens_per_s"]
    lines = [
        f"{found.scenario}: {decode:,.1f} tokens/s decoded, {total:,.1f} tokens/s with prompts",
        f"{found.cut}.",
        f"Achieved {shares['achieved_of_max_flow']:.1%} of the max flow ({found.flow.tokens_per_s:,.1f} tokens/s), "
        f"{shares['achieved_of_compute_bound']:.1%} of the compute bound "
        f"({summary['flow_upper_bound_tokens_per_s']:,.1f}); the max flow is "
        f"{shares['max_flow_of_compute_bound']:.1%} of the bound.",
    ]
    if found.full:
        more = ", ..." if len(found.full) > MOST_STAGES else ""
        lines.append(f"Used up as well: {', '.join(found.full[:MOST_STAGES])}{more}.")
    if found.cost_per_million_tokens is not None:
        lines.append(f"Cost: {found.cost_per_million_tokens:,.2f} per million decoded tokens.")
    for line in lines:
        console.print(line[:1].upper() + line[1:], highlight=False, markup=False)
    console.print(_worth_table(found))
    console.print(
        "max flow: while everybody keeps their layers; bound: the compute bound on any placement; decoded: in an "
        "emulation on the same seed, where small figures are noise.",
        style="dim",
        highlight=False,
    )
    if found.ttft:
        console.print(_ttft_table(found, slowest))
        console.print(_stage_table(found))
    else:
        console.print("Nobody got a first token in the window.")


def _worth_table(found: Explanation) -> Table:
    table = Table(title="what changes are worth, all else equal; tokens/s", title_justify="left")
    emulated = any(one.decode_gain_tokens_per_s is not None for one in found.worth)
    priced = any(one.cost_per_million_tokens is not None for one in found.worth)
    table.add_column("change")
    table.add_column("max flow", justify="right")
    table.add_column("bound", justify="right")
    for name in (("decoded",) if emulated else ()) + (("per M tokens",) if priced else ()):
        table.add_column(name, justify="right")
    for one in found.worth:
        bound = f"{one.bound_gain_tokens_per_s:+,.1f}" if one.kind == "node" else "-"
        row = [one.name, f"{one.flow_gain_tokens_per_s:+,.1f}", bound]
        if emulated:
            row.append("-" if one.decode_gain_tokens_per_s is None else f"{one.decode_gain_tokens_per_s:+,.1f}")
        if priced:
            row.append("-" if one.cost_per_million_tokens is None else f"{one.cost_per_million_tokens:,.2f}")
        table.add_row(*row)
    return table


def _ttft_table(found: Explanation, slowest: int) -> Table:
    table = Table(title="where the time to first token went; seconds", title_justify="left")
    table.add_column("request")
    for name in ("TTFT", *PARTS):
        table.add_column(name, justify="right")
    mean = found.mean_parts()
    table.add_row("mean", f"{sum(mean.values()):.3f}", *(f"{mean[part]:.3f}" for part in PARTS), end_section=True)
    for parts in sorted(found.ttft, key=lambda one: -one.ttft_s)[:slowest]:
        told = parts.parts()
        table.add_row(str(parts.request), f"{parts.ttft_s:.3f}", *(f"{told[part]:.3f}" for part in PARTS))
    return table


def _stage_table(found: Explanation) -> Table:
    table = Table(title="by node, mean of a visit before the first token; seconds", title_justify="left")
    for name in ("node", "visits", *PARTS[1:]):
        table.add_column(name, justify="left" if name == "node" else "right")
    for row in found.stages()[:MOST_STAGES]:
        table.add_row(row["node"], str(row["visits"]), *(f"{row[part]:.4f}" for part in PARTS[1:]))
    return table


def add_report_commands(app: typer.Typer) -> None:
    """Put the commands of this module into ``app``."""
    app.command()(trace)
    app.command()(export)
    app.command()(report)
    app.command()(explain)
