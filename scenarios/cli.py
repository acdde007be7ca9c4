"""The command ``helixemu``."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from emulator.errors import SimulationError
from emulator.realtime.emulation import RealTime, Transport
from emulator.realtime.network import TimeMode
from netshape.errors import NetworkError
from placement.errors import PlanError
from placement.plan import Plan
from placement.planners import KNOWN
from scenarios.cli_chaos import chaos
from scenarios.cli_explain import add_explain_command
from scenarios.cli_net import net_app
from scenarios.cli_proxy import proxy
from scenarios.cli_report import add_report_commands
from scenarios.cli_study import study
from scenarios.cli_test import check_expectations
from scenarios.drawing import draw_placement, require_drawable
from scenarios.drawing_traces import draw_traces
from scenarios.errors import ScenarioError
from scenarios.helix_import import SCHEDULERS, import_helix_artifact
from scenarios.json_schema import FileKind, json_schema
from scenarios.library import FOLDERS, list_library
from scenarios.loader import LoadedScenario, load_scenario
from scenarios.objectives import Objective
from scenarios.planning import (
    DEFAULT_PLANNER,
    best_plan,
    compare_planners,
    placement_file,
    plan_figures,
    plan_scenario,
    with_placement,
)
from scenarios.quantities import QuantityError, seconds
from scenarios.ranking import Ranked
from scenarios.results import check_writable, next_run_directory
from scenarios.runner import run_scenario
from scenarios.terminal import print_comparison, print_plans, print_summary, progress_bar
from scenarios.yaml_text import dump_yaml

FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 130

app = typer.Typer(
    name="helixemu",
    help="A digital twin of Helix-style LLM serving over heterogeneous GPUs and networks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
import_app = typer.Typer(help="Turn other tools' files into scenarios.", no_args_is_help=True)
app.add_typer(import_app, name="import")
app.add_typer(net_app, name="net")

ScenarioArgument = Annotated[str, typer.Argument(metavar="SCENARIO", help="A library name or a path to a YAML file.")]
OverrideOption = Annotated[
    list[str] | None, typer.Option("--override", help="Apply one of the scenario's named overrides; repeatable.")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B.C=VALUE", help="Change one field; repeatable.")
]


class Clock(StrEnum):
    """What makes time pass in a run."""

    VIRTUAL = "virtual"
    REAL = "real"


@app.command()
def run(
    scenario: ScenarioArgument,
    override: OverrideOption = None,
    sets: SetOption = None,
    out: Annotated[
        Path | None,
        typer.Option(help="New or empty directory for the results; by default runs/SCENARIO-N, none with --json."),
    ] = None,
    json_to: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Write the summary alone, as JSON; - is the terminal.")
    ] = None,
    clock: Annotated[Clock, typer.Option(help="virtual: as fast as possible; real: over sockets, by the wall.")] = (
        Clock.VIRTUAL
    ),
    dilation: Annotated[
        float | None, typer.Option(help="Emulated seconds per second of a real clock; 0.5 is half speed.")
    ] = None,
    mode: Annotated[
        TimeMode | None, typer.Option(help="Real clock: messages count from when they were planned, or observed.")
    ] = None,
    transport: Annotated[
        Transport | None, typer.Option(help="Real clock: loopback sockets, or a network namespace for each machine.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Real clock: processes for the nodes, beside the coordinator's; 0 is one for all."),
    ] = None,
    priority: Annotated[
        int | None, typer.Option(help="Real clock: real-time priority to ask for, 1 to 99; needs root.")
    ] = None,
) -> None:
    """Run a scenario in virtual time, or over real sockets in real time."""
    options = {"dilation": dilation, "mode": mode, "transport": transport, "workers": workers, "priority": priority}
    real_time = _real_time(clock, options)
    loaded = load_scenario(scenario, overrides=override or (), sets=sets or ())
    _print_notes(loaded)
    check_writable(json_to)
    console = Console(stderr=json_to is not None)
    target = out
    if target is None and json_to is None:
        target = next_run_directory(Path("runs"), loaded.spec.name)
    with progress_bar(Console(stderr=True), loaded.spec.name, loaded.spec.duration_s) as on_progress:
        summary = run_scenario(loaded, out=target, on_progress=on_progress, real_time=real_time)
    _write_json(json_to, summary)
    if json_to is None:
        print_summary(console, summary)
    if target is not None:
        console.print(f"results in {target}", highlight=False, soft_wrap=True)
    if real_time is not None:
        kept_time = summary["real_time"]
        if kept_time["warning"]:
            print(f"warning: {kept_time['warning']}", file=sys.stderr)
        if kept_time["error"]:
            print(f"error: {kept_time['error']}; the figures are partial", file=sys.stderr)
            raise typer.Exit(FAILED)
    if summary["interrupted"]:
        raise typer.Exit(INTERRUPTED)


@app.command()
def plan(
    scenario: ScenarioArgument,
    planner: Annotated[
        str | None, typer.Option(help=f"Planner for --objective flow: {', '.join(KNOWN)}, or module:Class.")
    ] = None,
    objective: Annotated[Objective | None, typer.Option(help="What the plan is chosen for.")] = None,
    compare: Annotated[bool, typer.Option("--compare", help="One plan of each planner, side by side.")] = False,
    time_limit: Annotated[str, typer.Option(help="Time for planning, for instance 30s.")] = "30s",
    override: OverrideOption = None,
    sets: SetOption = None,
    out: Annotated[Path | None, typer.Option(help="Write the placement to this file.")] = None,
    json_to: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Write the plan as JSON; - is the terminal.")
    ] = None,
    draw: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw the placement (.svg, .png, .pdf); with --compare one file a planner."),
    ] = None,
    draw_trace: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw flow and bound against planning time (.svg, .png, .pdf).")
    ] = None,
) -> None:
    """Place the model on the scenario's cluster.

    With a planner, or --objective flow, the plan with the greatest max flow. Otherwise the plan that serves most
    (throughput), answers soonest (latency) or meets the SLOs most often (goodput): of all planners' plans a model
    picks the few that promise most, and short emulations decide between these.
    """
    limit_s = _time_limit(time_limit)
    check_writable(json_to)
    check_writable(None if out is None else str(out))
    for picture, option in ((draw, "--draw"), (draw_trace, "--draw-trace")):
        if picture is not None:
            require_drawable(picture, option)
            check_writable(None if compare and picture is draw else str(picture))
    if compare:
        ranked, failures = compare_planners(scenario, time_limit_s=limit_s, overrides=override or (), sets=sets or ())
        _write_json(json_to, [plan_figures(each, Objective.FLOW) for each in ranked])
        if json_to != "-":
            print_comparison(Console(), ranked, failures)
        _draw_plans([each.plan for each in ranked], scenario, override or (), sets or (), draw, draw_trace)
        return
    goal = objective or (Objective.FLOW if planner else Objective.THROUGHPUT)
    if planner and goal is not Objective.FLOW:
        rule = f"a planner aims at flow; leave --planner out to rank all planners' plans by {goal}"
        raise typer.BadParameter(rule, param_hint="--planner")
    if goal is Objective.FLOW:
        loaded = plan_scenario(
            scenario,
            planner=planner or DEFAULT_PLANNER,
            time_limit_s=limit_s,
            overrides=override or (),
            sets=sets or (),
        )
        assert loaded.plan is not None
        ranked = [Ranked(plan=loaded.plan)]
    else:
        ranked = best_plan(scenario, goal, time_limit_s=limit_s, overrides=override or (), sets=sets or ())
    best = ranked[0]
    if out is not None:
        out.write_text(dump_yaml(placement_file(best.plan)), encoding="utf-8")
    figures = plan_figures(best, goal)
    _write_json(json_to, figures)
    if json_to != "-":
        print_plans(Console(), ranked)
    _draw_plans([best.plan], scenario, override or (), sets or (), draw, draw_trace)


def _draw_plans(
    plans: Sequence[Plan],
    scenario: str,
    overrides: Sequence[str],
    sets: Sequence[str],
    draw: Path | None,
    draw_trace: Path | None,
) -> None:
    """Draw each plan, several of them to files that their planners' names tell apart, and the traces of all."""
    if draw is not None:
        for plan in plans:
            spec = with_placement(scenario, plan, overrides=overrides, sets=sets).spec
            named = draw if len(plans) == 1 else draw.with_stem(f"{draw.stem}-{plan.planner}")
            draw_placement(plan, spec, named)
    if draw_trace is not None:
        draw_traces(plans, scenario, draw_trace)


def _real_time(clock: Clock, options: Mapping[str, Any]) -> RealTime | None:
    """How a run goes in real time; ``None`` in virtual time, which knows none of the options."""
    given = {key: value for key, value in options.items() if value is not None}
    if clock is Clock.REAL:
        return RealTime(**given)
    for key in given:
        raise typer.BadParameter("only a real clock has it; add --clock real", param_hint=f"--{key}")
    return None


def _write_json(path: str | None, figures: Mapping[str, Any] | Sequence[Any]) -> None:
    """Write figures to a file, or to the terminal for ``-``."""
    text = json.dumps(figures, indent=2, allow_nan=False) + "\n"
    if path == "-":
        sys.stdout.write(text)
    elif path is not None:
        Path(path).write_text(text, encoding="utf-8")


def _time_limit(text: str) -> float:
    try:
        # Units stand apart in files; on the command line 30s is as good. Zero is zero in any unit.
        parts = re.fullmatch(r"([-+\d.eE]*\d\.?)([a-z]*)", text.strip())
        limit_s = seconds(text if parts is None else f"{parts[1]} {parts[2] or ('s' if not float(parts[1]) else '')}")
    except (QuantityError, ValueError) as error:
        raise typer.BadParameter(str(error), param_hint="--time-limit") from None
    if limit_s <= 0:
        raise PlanError(f"--time-limit is {text.strip()}; planning takes time, give it some, for instance 30s")
    return limit_s


@app.command()
def validate(scenario: ScenarioArgument, override: OverrideOption = None, sets: SetOption = None) -> None:
    """Check a scenario and everything that it refers to; print all problems at once."""
    loaded = load_scenario(scenario, overrides=override or (), sets=sets or ())
    spec = loaded.spec
    print(
        f"{spec.name}: valid ({spec.model.name}, {len(spec.cluster.nodes)} nodes, "
        f"{len(spec.placement)} of them hold layers, {spec.scheduler.policy}, {spec.duration_s:g} s)"
    )
    _print_notes(loaded)


def _print_notes(loaded: LoadedScenario) -> None:
    for note in loaded.notes:
        print(f"note: {note}", file=sys.stderr)


@app.command()
def schema(
    kind: Annotated[FileKind, typer.Argument(help="Which file: a scenario, study, proxy or net file.")] = (
        FileKind.SCENARIO
    ),
) -> None:
    """Print the JSON Schema of a file, so that an editor can complete it."""
    print(json.dumps(json_schema(kind), indent=2))


@app.command()
def scenarios(
    kind: Annotated[str, typer.Option(help=f"What to list: {', '.join(FOLDERS)}.")] = "scenario",
) -> None:
    """List what ships with the package, name first."""
    if kind not in FOLDERS:
        raise typer.BadParameter(f"{kind!r} is none of {', '.join(FOLDERS)}", param_hint="--kind")
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True, style="bold")
    table.add_column()
    for entry in list_library(kind):
        table.add_row(entry.name, entry.description)
    Console().print(table)


@import_app.command("helix-artifact")
def import_helix(
    model: Annotated[str, typer.Option(help="llama-1-30b or llama-2-70b.")],
    cluster: Annotated[Path, typer.Option(help="The artifact's cluster ini.")],
    machines: Annotated[Path, typer.Option(help="Its machine profile ini.")],
    placement: Annotated[Path, typer.Option(help="Its solution ini.")],
    links: Annotated[Path, typer.Option(help="Its simulator cluster ini.")],
    profiles: Annotated[Path, typer.Option(help="Its profile directory.")],
    scheduler: Annotated[str, typer.Option(help=f"One of {', '.join(SCHEDULERS)}.")],
    out: Annotated[Path, typer.Option(help="Directory for scenario.yaml and what it includes.")],
    offline: Annotated[
        int | None, typer.Option(help="Closed loop: first requests (max-flow) or constant number.")
    ] = None,
    online: Annotated[float | None, typer.Option(help="Open loop: prompt + output tokens/s.")] = None,
    trace: Annotated[Path | None, typer.Option(help="Trace: lengths (offline) or whole arrivals (online).")] = None,
    force: Annotated[bool, typer.Option(help="Replace a directory that is not empty.")] = False,
) -> None:
    """Import a cluster, placement and profiles of the Helix artifact (ASPLOS 2025)."""
    imported = import_helix_artifact(
        model=model,
        cluster=cluster,
        machines=machines,
        placement=placement,
        links=links,
        profiles=profiles,
        scheduler=scheduler,
        out=out,
        offline=offline,
        online=online,
        trace=trace,
        force=force,
    )
    print(f"wrote {imported.scenario}: {imported.nodes} nodes, {imported.links} links; run it with")
    print(f"  helixemu run {imported.scenario}")


app.command()(proxy)
add_report_commands(app)
add_explain_command(app)
app.command()(chaos)
app.command(name="test")(check_expectations)
app.command(name="study")(study)


def main() -> None:
    """Entry point: bad input ends with its problems on standard error and exit code 2, never a traceback."""
    # Policies and planners of one's own are looked for where one stands, after everything that is installed.
    sys.path.append(str(Path.cwd()))
    try:
        app()
    except (ScenarioError, PlanError, SimulationError, NetworkError) as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except BrokenPipeError:
        # Whoever read our output has gone; there is nobody left to tell.
        sys.stderr.close()
        sys.exit(1)


if __name__ == "__main__":
    main()
