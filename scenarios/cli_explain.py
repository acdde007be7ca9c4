"""``helixemu explain``: what limits a scenario, what changes are worth, where its requests wait, what churn costs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from scenarios.errors import Problem, ScenarioError
from scenarios.loader import load_scenario
from scenarios.reports.advice import achieved_in_words, churn_in_words, help_in_words
from scenarios.reports.churn_cost import ChurnCost
from scenarios.reports.explain import Explanation, Worth
from scenarios.reports.explain import explain as explain_scenario
from scenarios.reports.marginal import LINKS
from scenarios.reports.ttft_parts import PARTS
from scenarios.studies.errors import StudyError
from scenarios.studies.executors import LocalWorkers
from scenarios.studies.prices import PriceTable

MOST_STAGES = 12
"""So many nodes of an explanation are shown."""
MOST_EVENTS = 8
"""So many events of churn are shown."""


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
    links: Annotated[
        int, typer.Option(min=0, help="So many single links are changed one by one, those that matter most.")
    ] = LINKS,
    whole: Annotated[
        bool, typer.Option("--whole", help="Emulate changes as long as the scenario, however long it takes.")
    ] = False,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Processes that plan and emulate; by default one a core.")
    ] = None,
    slowest: Annotated[int, typer.Option(min=0, help="Requests with the longest TTFT to show.")] = 5,
    json_to: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Write everything as JSON; - is the terminal.")
    ] = None,
) -> None:
    """Explain what limits a scenario, what one more node or a faster link is worth, and where TTFTs come from.

    Churn is left out of all that; what it costs is told beside it, from runs on the same seed with it and without.
    """
    loaded = load_scenario(scenario, overrides=override or (), sets=sets or ())
    prices = _prices(price or ())
    with ExitStack() as stack:
        # Starting processes takes a second: not worth it where the max flow tells alone.
        workers = None if flow_only or processes == 1 else LocalWorkers(processes)
        if workers is not None:
            stack.callback(workers.close)
        on_step = stack.enter_context(_steps_bar(Console(stderr=True), loaded.spec.name))
        try:
            found = explain_scenario(
                loaded,
                prices=prices,
                emulate=not flow_only,
                links=links,
                whole=whole,
                executor=None if workers is None else workers.executor,
                on_step=on_step,
            )
        except StudyError as error:
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(2) from error
    if json_to is None:
        print_explanation(Console(), found, slowest)
        return
    text = json.dumps(found.figures(), indent=2, allow_nan=False) + "\n"
    if json_to == "-":
        sys.stdout.write(text)
        return
    try:
        Path(json_to).write_text(text, encoding="utf-8")
    except OSError as error:
        rule = f"the file cannot be written: {error.strerror}"
        raise ScenarioError(Problem(json_to, None, "--json", None, rule, "name another file")) from error


@contextmanager
def _steps_bar(console: Console, title: str) -> Iterator[Callable[[int, int], None] | None]:
    """A progress bar of plans and emulations with the time left; nothing when not on a terminal."""
    if not console.is_terminal:
        yield None
        return
    columns = (
        TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(f"explaining {title}", total=None)
        yield lambda done, every: bar.update(task, completed=done, total=every)


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


def print_explanation(console: Console, found: Explanation, slowest: int) -> None:
    """The explanation as sentences and tables.

    Args:
        console: Where to.
        found: The explanation.
        slowest: So many requests with the longest TTFT.
    """
    total = found.summary["total_throughput_tokens_per_s"]
    decode = found.summary["decode_throughput_tokens_per_s"]
    said = [f"{found.scenario}: {decode:,.1f} tokens/s decoded, {total:,.1f} tokens/s with prompts.", f"{found.cut}."]
    if found.full:
        more = ", ..." if len(found.full) > MOST_STAGES else ""
        said.append(
            f"Used up as well, so that more of the former alone brings nothing: "
            f"{', '.join(found.full[:MOST_STAGES])}{more}."
        )
    said.append(achieved_in_words(found))
    if found.cost_per_million_tokens is not None:
        said.append(f"Cost: {found.cost_per_million_tokens:,.2f} per million decoded tokens.")
    said += help_in_words(found)
    for line in said:
        console.print(line[:1].upper() + line[1:], highlight=False, markup=False)
    for scopes, title in (
        (("cluster",), "one more node, all else equal; gains in tokens/s"),
        (("regions", "link"), "faster and nearer links, all else equal; gains in tokens/s"),
    ):
        rows = [one for one in found.worth if one.scope in scopes]
        if rows:
            console.print(_worth_table(found, rows, title))
    console.print(_legend(found), style="dim", highlight=False)
    if found.churn is not None:
        _print_churn(console, found.churn)
    if found.ttft:
        console.print(_ttft_table(found, slowest))
        console.print(_stage_table(found))
    else:
        console.print("Nobody got a first token in the window.")


def _legend(found: Explanation) -> str:
    said = ["max flow: of prompts and decodes together, by the flow graph", "bound: on the flow of any placement"]
    if found.length is not None:
        cut = f" of {found.length.duration_s:,.0f} s (of {found.length.whole_s:,.0f} s)" if found.length.cut else ""
        said.append(f"decoded: in an emulation{cut} on the same seed, against {found.compared_tokens_per_s:,.1f} now")
        said.append(f"~: within {found.noise_tokens_per_s:,.1f} tokens/s, which chance makes as well")
    if any(one.replanned for one in found.worth):
        said.append("moves: layers that nodes have to load, and how long the slowest of them reads")
    if found.cost_per_million_tokens is not None:
        said.append("per M: price of a million decoded tokens in the emulation; of a million tokens of the max flow")
    return "; ".join(said) + "."


def _worth_table(found: Explanation, rows: Sequence[Worth], title: str) -> Table:
    table = Table(title=title, title_justify="left")
    emulated = found.length is not None
    priced = found.cost_per_million_tokens_at_max_flow is not None
    nodes = any(one.scope == "cluster" for one in rows)
    table.add_column("change", min_width=28)
    columns = (
        *(("decoded", "TTFT p50") if emulated else ()), "max flow", *(("bound", "moves") if nodes else ()),
        *(("per M decoded",) if priced and emulated else ()), *(("per M at max flow",) if priced else ()),
    )  # fmt: skip
    for name in columns:
        table.add_column(name, justify="right")
    for one in rows:
        row = [one.name]
        if emulated:
            change_s = one.ttft_p50_change_s
            row += [_decoded(one), "-" if change_s is None else f"{change_s:+,.2f} s"]
        row.append(f"{one.flow_gain_tokens_per_s:+,.1f}")
        if nodes:
            moves = (
                f"{one.layers_moved} layer{'s' if one.layers_moved > 1 else ''}, {one.load_s:,.0f} s"
                if one.layers_moved
                else "-"
            )
            row += [f"{one.bound_gain_tokens_per_s:+,.1f}", moves]
        if priced and emulated:
            row.append(_price(one.cost_per_million_tokens))
        if priced:
            row.append(_price(one.cost_per_million_tokens_at_max_flow))
        table.add_row(*row)
    return table


def _decoded(one: Worth) -> str:
    if one.decode_gain_tokens_per_s is None:
        return "cannot run"
    return f"{'~ ' if one.within_noise else ''}{one.decode_gain_tokens_per_s:+,.1f}"


def _price(amount: float | None) -> str:
    return "-" if amount is None else f"{amount:,.2f}"


def _print_churn(console: Console, cost: ChurnCost) -> None:
    for line in churn_in_words(cost):
        console.print(line, highlight=False, markup=False)
    figures = Table(title="the same seed with churn and without", title_justify="left")
    for name in ("figure", "without", "with", "difference"):
        figures.add_column(name, justify="left" if name == "figure" else "right")
    for name, before in cost.calm.items():
        after = cost.churning[name]
        if before is None or after is None:
            figures.add_row(name, *("-" if one is None else f"{one:,.3g}" for one in (before, after)), "-")
        else:
            share = f"{after / before - 1:+.1%}" if before else "-"
            figures.add_row(name, f"{before:,.4g}", f"{after:,.4g}", share)
    console.print(figures)
    events = Table(title="its events, from each until the next; the costliest first", title_justify="left")
    for name in ("at, s", "event", "tokens lost", "SLO debt, s", "failed", "tried again", "recovered after, s"):
        events.add_column(name, justify="left" if name == "event" else "right")
    for one in cost.events[:MOST_EVENTS]:
        back = "never" if one.recovery_s is None else f"{one.recovery_s:,.0f}"
        events.add_row(
            f"{one.at_s:,.1f}", one.what, f"{one.tokens_lost:,.0f}", f"{one.slo_debt_s:,.0f}",
            str(one.requests_failed), str(one.requests_retried), back,
        )  # fmt: skip
    if len(cost.events) > MOST_EVENTS:
        rest = cost.events[MOST_EVENTS:]
        events.add_row("", f"{len(rest)} more", f"{sum(one.tokens_lost for one in rest):,.0f}", "", "", "", "")
    console.print(events)


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
    rows = found.stages()
    for row in rows[:MOST_STAGES]:
        table.add_row(row["node"], str(row["visits"]), *(f"{row[part]:.4f}" for part in PARTS[1:]))
    if len(rows) > MOST_STAGES:
        table.caption = f"the {MOST_STAGES} of {len(rows)} nodes where it takes longest"
    return table


def add_explain_command(app: typer.Typer) -> None:
    """Put the command into ``app``."""
    app.command()(explain)
