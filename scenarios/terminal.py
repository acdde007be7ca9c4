"""What a person sees on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from emulator.emulation import Progress as RunProgress
from scenarios.ranking import Ranked

_DISTRIBUTIONS = (
    ("TTFT", "ttft_s"),
    ("TPOT", "tpot_s"),
    ("ITL", "itl_s"),
    ("E2E", "e2e_s"),
    ("prefill iteration", "prefill_latency_s"),
    ("decode iteration", "decode_latency_s"),
)
_SHOWN = ("mean", "p50", "p75", "p95", "p99")
_NODE_ROWS = 12

MOST_EVENTS = 30
"""So many events of a run's churn are shown."""
MOST_NAMES = 3
"""So many of the machines of one event."""


@contextmanager
def progress_bar(console: Console, title: str, total_s: float) -> Iterator[Callable[[RunProgress], None] | None]:
    """A progress bar with emulated time, speed and time left; nothing when not on a terminal."""
    if not console.is_terminal:
        yield None
        return
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f} s emulated"),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=total_s, note="")

        def update(progress: RunProgress) -> None:
            speed = bar.tasks[0].speed
            pace = "" if not speed else f"{speed:.0f}x real time, "
            note = f"{pace}{progress.finished} finished, {progress.in_flight} in flight"
            bar.update(task, completed=progress.sim_s, note=note)

        yield update


def print_summary(console: Console, summary: Mapping[str, Any]) -> None:
    """The figures that matter most, as tables."""
    console.print(_headline(summary))
    console.print(_latencies(summary))
    console.print(_nodes(summary))
    if "real_time" in summary:
        console.print(_timing(summary["real_time"]))
    if "churn" in summary:
        console.print(_churn(summary["churn"]))


def _churn(figures: Mapping[str, Any]) -> Table:
    """What went wrong, and what came of it: one row an event, the first ones if there are many."""
    events = figures["events"]
    recovery = f"recovery {figures['recovery_policy']}, requests in flight {figures['in_flight_policy']}"
    more = f" (the first {MOST_EVENTS} of {figures['incidents']})" if figures["incidents"] > MOST_EVENTS else ""
    table = Table(title=f"churn: {recovery}{more}", title_justify="left")
    for column in ("at s", "event", "noticed", "back", "retried, failed", "tokens again", "layers", "debt s"):
        table.add_column(column, justify="left" if column == "event" else "right", overflow="fold")
    for event in events[:MOST_EVENTS]:
        names = ", ".join(event["nodes"][:MOST_NAMES]) + (", ..." if len(event["nodes"]) > MOST_NAMES else "")
        table.add_row(
            f"{event['at_s']:.1f}",
            f"{event['kind']} {names}".strip(),
            _or_dash(event["detection_s"]),
            _or_dash(event["recovery_s"]),
            f"{event['requests_retried']}, {event['requests_failed']}",
            str(event["tokens_recomputed"]),
            str(event["layers_moved"]),
            f"{event['slo_debt_s']:.0f}",
        )
    return table


def _or_dash(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.2f}"


def print_plans(console: Console, ranked: Sequence[Ranked]) -> None:
    """Plans, best first, with what they served where they were emulated; then the best one's layers."""
    emulated = any(each.summary is not None for each in ranked)
    table = Table(title="plans, best first" if emulated else "plan", title_justify="left")
    measured = ("model/s", "served/s", "p50 s", "emulated s") if emulated else ("bound", "gap", "seconds")
    for column in ("planner", "status", "flow", "depth", *measured):
        table.add_column(column, justify="left" if column in ("planner", "status") else "right")
    for each in ranked:
        plan = each.plan
        row = [plan.planner, plan.status.value, f"{plan.flow.tokens_per_s:.2f}", str(plan.depth)]
        if not emulated:
            row += [f"{plan.bound_tokens_per_s:.2f}", f"{plan.gap:.2%}", f"{plan.seconds:.2f}"]
        elif each.summary is None:
            row += [_predicted(each), "-", "-", "-"]
        else:
            latency = each.summary["decode_latency_s"]["p50"]
            row += [
                _predicted(each),
                f"{each.summary['decode_throughput_tokens_per_s']:.2f}",
                "-" if latency is None else f"{latency:.3f}",
                f"{each.summary['sim_s']:.0f}",
            ]
        table.add_row(*row)
    console.print(table)
    best = ranked[0].plan
    ranges = sorted(best.placement.ranges.items(), key=lambda item: (item[1].start, item[1].stop))
    console.print(" ".join(f"{name}:{held.start}-{held.stop}" for name, held in ranges), highlight=False)
    for warning in best.warnings:
        console.print(warning, highlight=False)


def _predicted(ranked: Ranked) -> str:
    """Decode tokens/s that the serving model expects."""
    return "-" if ranked.prediction is None else f"{ranked.prediction.decode_tokens_per_s:.1f}"


def print_comparison(console: Console, ranked: Sequence[Ranked], failures: Sequence[str]) -> None:
    """One row a planner: what its plan promises, what it served, and what it cost."""
    table = Table(title="planners", title_justify="left")
    for column in ("planner", "status", "flow", "bound", "gap", "depth", "model/s", "served/s", "plan s"):
        table.add_column(column, justify="left" if column in ("planner", "status") else "right")
    for each in ranked:
        plan = each.plan
        served = "-" if each.summary is None else f"{each.summary['decode_throughput_tokens_per_s']:.1f}"
        table.add_row(
            plan.planner,
            plan.status.value,
            f"{plan.flow.tokens_per_s:.1f}",
            f"{plan.bound_tokens_per_s:.1f}",
            f"{plan.gap:.1%}",
            str(plan.depth),
            _predicted(each),
            served,
            f"{plan.seconds:.2f}",
        )
    console.print(table)
    for failure in failures:
        console.print(f"no plan: {failure}", highlight=False)


def _headline(summary: Mapping[str, Any]) -> Table:
    requests = summary["requests"]
    table = Table(title=f"{summary['scenario']} (seed {summary['seed']})", show_header=False, title_justify="left")
    table.add_column(style="cyan")
    table.add_column(justify="right")
    if summary["interrupted"]:
        table.add_row("[red]interrupted", f"after {summary['sim_s']:.1f} s; figures are partial")
    table.add_row("decode throughput", f"{summary['decode_throughput_tokens_per_s']:.2f} tokens/s")
    table.add_row("total throughput", f"{summary['total_throughput_tokens_per_s']:.2f} tokens/s")
    table.add_row("request throughput", f"{summary['request_throughput_per_s']:.3f} requests/s")
    if "goodput_requests_per_s" in summary:
        table.add_row("goodput", f"{summary['goodput_requests_per_s']:.3f} requests/s")
    table.add_row("max flow", f"{summary['max_flow_tokens_per_s']:.2f} tokens/s")
    table.add_row("flow upper bound", f"{summary['flow_upper_bound_tokens_per_s']:.2f} tokens/s")
    table.add_row("min cut", _cut(summary))
    for outcome in ("submitted", "finished", "rejected", "failed", "in_flight"):
        table.add_row(f"requests {outcome.replace('_', ' ')}", str(requests[outcome]))
    if summary["preemptions"]:
        table.add_row("preemptions", str(summary["preemptions"]))
    speed = summary["sim_s_per_cpu_s"]
    table.add_row(
        "emulated", f"{summary['sim_s']:.0f} s in {summary['cpu_s']:.2f} CPU s" + (f" ({speed:.0f}x)" if speed else "")
    )
    return table


def _cut(summary: Mapping[str, Any]) -> str:
    edges = [
        f"{edge['kind']} {edge['source']}" + ("" if edge["kind"] != "link" else f"->{edge['target']}")
        for edge in summary["min_cut"]
    ]
    shown = ", ".join(edges[:4])
    return shown if len(edges) <= 4 else f"{shown} and {len(edges) - 4} more"


def _latencies(summary: Mapping[str, Any]) -> Table:
    table = Table(title="seconds", title_justify="left")
    table.add_column("")
    for column in _SHOWN:
        table.add_column(column, justify="right")
    for label, key in _DISTRIBUTIONS:
        figures = summary[key]
        table.add_row(label, *("-" if figures[each] is None else f"{figures[each]:.3f}" for each in _SHOWN))
    return table


def _timing(figures: Mapping[str, Any]) -> Table:
    """How late things were."""
    title = f"real time ({figures['mode']}, dilation {figures['dilation']:g})"
    table = Table(title=title, title_justify="left")
    for column in ("ms late", "p50", "p95", "p99", "max"):
        table.add_column(column, justify="left" if column == "ms late" else "right")
    for label, key in (
        ("events", "event_lateness_s"),
        ("messages", "frame_lateness_s"),
        ("loop", "loop_lag_s"),
    ):
        late = figures[key]
        row = ("-" if late[each] is None else f"{late[each] * 1e3:.2f}" for each in ("p50", "p95", "p99", "max"))
        table.add_row(label, *row)
    return table


def _nodes(summary: Mapping[str, Any]) -> Table:
    nodes = summary["nodes"]
    busiest = sorted(nodes, key=lambda name: -nodes[name]["utilisation"])[:_NODE_ROWS]
    left_out = len(nodes) - len(busiest)
    title = "nodes, busiest first" + (f" ({left_out} more in summary.json)" if left_out else "")
    table = Table(title=title, title_justify="left")
    for column in ("node", "layers", "utilisation", "KV peak", "mean batch", "flow tokens/s"):
        table.add_column(column, justify="left" if column == "node" else "right")
    for name in busiest:
        node = nodes[name]
        start, stop = node["layers"]
        table.add_row(
            name,
            f"[{start}, {stop})".replace("[", "\\["),
            f"{node['utilisation']:.1%}",
            f"{node['kv_peak']:.1%}",
            f"{node['mean_batch']:.1f}",
            f"{node['flow_tokens_per_s']:.1f}",
        )
    return table
