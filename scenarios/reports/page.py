"""The report of a run: the answer first, then plots and tables."""

from __future__ import annotations

import io
import shlex
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emulator.errors import SimulationError
from placement.effort import now_s
from placement.errors import PlanError
from placement.plan import Plan, finish_plan, problem_for
from scenarios.drawing import headline, placement_figure
from scenarios.errors import ScenarioError
from scenarios.loader import load_scenario
from scenarios.reports import plots
from scenarios.reports.definitions import COLUMNS, rows
from scenarios.reports.frame import Page, document, require_reportable, write_page
from scenarios.reports.run_files import RunFiles
from scenarios.reports.series import LATENCIES, RunSeries, run_series
from scenarios.reports.tables import Long, Number, table
from scenarios.reports.words import answer, asked, cut_in_words

if TYPE_CHECKING:
    from emulator.spec import EmulationSpec

SLOWEST = 100
"""Requests in the table of the slowest."""
DEFINITION_OF_USE = "A node's figure is the share of the window spent computing; KV peak is of its cache's capacity."


def write_report(run: RunFiles, out: Path) -> None:
    """Write a run's report.

    Raises:
        ScenarioError: The run cannot be read or the file not be written.
    """
    require_reportable(out)
    write_page(run_page(run, run_series(run, SLOWEST)), out)


def run_page(run: RunFiles, series: RunSeries) -> str:
    """The whole page."""
    summary, scenario = run.summary, run.scenario()
    page = Page()
    title = f"{summary['scenario']} (seed {summary['seed']})"
    page.header(title, str(scenario.get("description") or ""))
    page.answer(answer(summary))
    _key_figures(page, summary)
    page.heading("What was asked")
    page.terms(asked(scenario))
    _over_time(page, run, series)
    _latencies(page, summary, series)
    _nodes_and_links(page, run, series)
    loaded, reason = reloaded(run)
    _picture(page, loaded, reason, summary)
    _tables(page, run, series, loaded)
    _repeat(page, run)
    return document(title, page)


def _key_figures(page: Page, summary: Mapping[str, Any]) -> None:
    shown = [
        ("decode tokens/s", summary["decode_throughput_tokens_per_s"], ",.1f"),
        ("total tokens/s", summary["total_throughput_tokens_per_s"], ",.1f"),
        ("max flow tokens/s", summary["max_flow_tokens_per_s"], ",.1f"),
        ("TTFT p95, s", summary["ttft_s"].get("p95"), ".3g"),
        ("TPOT p95, s", summary["tpot_s"].get("p95"), ".3g"),
        ("requests/s", summary["request_throughput_per_s"], ".3g"),
    ]
    if "goodput_requests_per_s" in summary:
        shown.append(("goodput, requests/s", summary["goodput_requests_per_s"], ".3g"))
    page.key_figures((name, str(Number(value, form))) for name, value, form in shown)


def _over_time(page: Page, run: RunFiles, series: RunSeries) -> None:
    page.heading("Throughput over time")
    churn = run.summary.get("churn")
    marks = " Triangles and dotted lines are churn events." if churn and churn["events"] else ""
    more = len((churn or {}).get("events", ())) - plots.MOST_MARKS
    if more > 0:
        marks += f" The last {more} are not marked."
    width = float(series.throughput.edges_s[1] - series.throughput.edges_s[0])
    page.plot(
        plots.throughput(series, churn, run.window[0]),
        "throughput over time",
        f"Means over {width:g} s. {_how_counted(series)} The max flow is that of the machines "
        f"and links that served at the time; prompts come in lumps, so throughput can be above it for a while.{marks}",
    )
    page.heading("Requests over time")
    page.plot(plots.crowd(series), "requests over time", "Requests that have arrived and not ended.")


def _how_counted(series: RunSeries) -> str:
    if series.throughput.exact:
        return "Tokens count when they leave the model's last layer."
    return (
        "Prompt tokens count when the first token is there, the tokens after it are spread evenly up to the last, or "
        "to the end of the run; with output.event_log: batches they would be counted as they come."
    )


def _latencies(page: Page, summary: Mapping[str, Any], series: RunSeries) -> None:
    page.heading("Latencies")
    if not any(len(values) for values in series.latencies.values()):
        page.text("No request finished in the window.")
        return
    page.add('<div class="three">')
    for column, name in LATENCIES.items():
        page.add(f"<div><h3>{name}</h3>")
        page.plot(plots.latency(series, column, summary.get("slo", {}).get(column)), f"distribution of {name}")
        page.add("</div>")
    page.add("</div>")
    page.text(
        "The share of requests that had at most so much, of those that finish in the window; dots are p50, p95 and "
        "p99. TTFT: arrival to first token. TPOT: time per token after the first. E2E: arrival to last token.",
        "soft",
    )


def _nodes_and_links(page: Page, run: RunFiles, series: RunSeries) -> None:
    nodes, links = run.summary["nodes"], run.summary["links"]
    page.heading("Nodes and links")
    page.add('<div class="two">')
    page.plot(plots.node_use(nodes) if nodes else None, "use of nodes", _first(len(nodes), "nodes") + DEFINITION_OF_USE)
    page.plot(
        plots.link_use(links) if links else None,
        "use of links",
        _first(len(links), "links") + "Bytes sent / (bandwidth x window).",
    )
    page.add("</div>")
    if series.over_time is None:
        page.text(
            "For nodes over time, run with --set output.event_log=batches: this event log tells of requests only.",
            "soft",
        )
        return
    page.add("<h3>Computing, over time</h3>")
    page.plot(plots.over_time(series.over_time, "busy"), "busy share of nodes over time")
    page.add("<h3>KV cache in use, over time</h3>")
    page.plot(plots.over_time(series.over_time, "kv"), "KV use of nodes over time", "Entries after a batch / capacity.")


def _first(count: int, what: str) -> str:
    return f"The busiest {plots.MOST_BARS} of {count} {what}. " if count > plots.MOST_BARS else ""


def reloaded(run: RunFiles) -> tuple[EmulationSpec | None, str]:
    """The run's scenario as values, or why it cannot be had: a trace file may have gone since."""
    try:
        return load_scenario(run.path / "scenario.yaml").spec, ""
    except (ScenarioError, PlanError, SimulationError) as error:
        return None, str(error)


def placement_plan(spec: EmulationSpec) -> Plan:
    """A run's placement as a plan, with its flow and cut.

    Raises:
        PlanError: Nothing flows.
    """
    problem = problem_for(spec.cluster, spec.model, spec.profiles, spec.seed)
    # The bound on any placement depends on it: only a placement that needs it is taken to allow it.
    over = any(
        held.stop - held.start > problem.most_layers(spec.cluster.node(name))
        for name, held in spec.placement.ranges.items()
    )
    return finish_plan(problem, spec.placement, planner="as run", started_s=now_s(), allow_over_profile=over)


def _picture(page: Page, spec: EmulationSpec | None, reason: str, summary: Mapping[str, Any]) -> None:
    page.heading("Cluster and placement")
    if spec is None:
        page.text(f"The picture needs the run's scenario.yaml, which does not load now: {reason}", "soft")
        return
    try:
        plan = placement_plan(spec)
    except PlanError as error:
        page.text(f"There is no flow to draw: {error}", "soft")
        return
    when = " It is how the run began; churn changed it." if "churn" in summary else ""
    page.text(f"{cut_in_words(_cut(plan))[:1].upper()}{cut_in_words(_cut(plan))[1:]}.{when}")
    page.add(
        f'<figure><div class="scroll picture" tabindex="0" role="img" aria-label="cluster and placement: '
        f'{escape(headline(plan))}">{_svg(plan, spec)}</div>'
        "<figcaption>Bars are the layers that nodes hold, by region; lines are flows, as wide as they carry; what is "
        "in the minimum cut is marked.</figcaption></figure>"
    )


def _cut(plan: Plan) -> list[dict[str, Any]]:
    return [
        {
            "kind": edge.kind,
            "source": edge.source,
            "target": edge.target,
            "capacity_tokens_per_s": edge.capacity_tokens_per_s,
        }
        for edge in plan.flow.min_cut
    ]


def _svg(plan: Plan, spec: EmulationSpec) -> str:
    import matplotlib

    text = io.StringIO()
    # Letters as paths: the fonts of whoever opens the file are not known.
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "helixemu"}):
        placement_figure(plan, spec).savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]


def _tables(page: Page, run: RunFiles, series: RunSeries, spec: EmulationSpec | None) -> None:
    summary = run.summary
    page.heading("Figures")
    page.add(
        table(
            ("figure", "of", "value", "unit", "definition"),
            (
                (figure.name, statistic, Number(value, ",.6g"), figure.unit, Long(figure.definition))
                for figure, statistic, value in rows(summary)
            ),
            "all figures with their definitions",
        )
    )
    if summary.get("churn"):
        _churn_table(page, summary["churn"])
    page.heading("Nodes")
    columns = ("node", "type", "region", "layers", "utilisation", "KV peak", "mean batch", "batches", "flow")
    page.add(table(columns, _node_rows(summary, spec), "nodes"))
    page.heading("Links")
    page.add(
        table(
            ("link", "utilisation", "bytes", "messages"),
            (
                (name, Number(one["utilisation"], ".3%"), Number(one["bytes"], ",.0f"), Number(one["messages"], ",d"))
                for name, one in summary["links"].items()
            ),
            "links",
        )
    )
    page.heading("Slowest requests")
    page.text(f"Of those that finish in the window, the {len(series.slowest)} with the longest E2E.", "soft")
    page.add(
        table(
            ("request", "arrival s", "TTFT s", "TPOT s", "E2E s", "prompt", "output", "preemptions", "pipeline"),
            (
                (
                    Number(row.request, "d"), Number(row.arrival_s, ",.2f"), Number(row.ttft_s, ",.3f"),
                    Number(row.tpot_s, ",.4f"), Number(row.e2e_s, ",.2f"), Number(row.prompt_tokens, "d"),
                    Number(row.emitted_tokens, "d"), Number(row.preemptions, "d"), row.pipeline,
                )
                for row in series.slowest
            ),
            "slowest requests",
        )
    )  # fmt: skip
    page.heading("Columns")
    page.terms(COLUMNS.items())


def _node_rows(summary: Mapping[str, Any], spec: EmulationSpec | None) -> Iterator[tuple[str | Number, ...]]:
    for name, one in summary["nodes"].items():
        known = spec.cluster.node(name) if spec is not None and name in spec.cluster else None
        yield (
            name,
            "–" if known is None else known.machine_type,
            "–" if known is None else known.region,
            f"[{one['layers'][0]}, {one['layers'][1]})",
            Number(one["utilisation"], ".1%"),
            Number(one["kv_peak"], ".1%"),
            Number(one["mean_batch"], ",.2f"),
            Number(one["batches"], ",d"),
            Number(one["flow_tokens_per_s"], ",.1f"),
        )


def _churn_table(page: Page, churn: Mapping[str, Any]) -> None:
    page.heading("Churn events")
    page.text(
        "Noticed: until the coordinator knew. Back: until throughput was at 95 % of what the max flow allows. Debt: "
        "seconds, until the next event, outside the objectives. "
        f"Recovery policy {churn['recovery_policy']}, requests in flight {churn['in_flight_policy']}.",
        "soft",
    )
    columns = ("at s", "event", "noticed s", "back s", "retried", "failed", "tokens again", "layers moved", "debt s")
    page.add(
        table(
            columns,
            (
                (
                    Number(one["at_s"], ",.1f"), plots.event_name(one), Number(one["detection_s"], ",.2f"),
                    Number(one["recovery_s"], ",.1f"), Number(one["requests_retried"], "d"),
                    Number(one["requests_failed"], "d"), Number(one["tokens_recomputed"], ",d"),
                    Number(one["layers_moved"], "d"), Number(one["slo_debt_s"], ",.0f"),
                )
                for one in churn["events"]
            ),
            "churn events",
        )
    )  # fmt: skip


def _repeat(page: Page, run: RunFiles) -> None:
    summary = run.summary
    page.heading("Again")
    page.commands(run.versions, f"helixemu run {shlex.quote(str((run.path / 'scenario.yaml').resolve()))}")
    page.text(
        f"Seed {summary['seed']}. The event log's SHA-256 is {summary['event_log_sha256']}; in virtual time the same "
        "scenario and seed give the same one."
    )
    page.versions(run.versions)
    page.folded("scenario.yaml, everything resolved", (run.path / "scenario.yaml").read_text(encoding="utf-8"))
