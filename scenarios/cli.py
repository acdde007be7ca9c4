"""The command ``helixemu``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from emulator.errors import SimulationError
from placement.errors import PlanError
from scenarios.errors import ScenarioError
from scenarios.helix_import import SCHEDULERS, import_helix_artifact
from scenarios.json_schema import json_schema
from scenarios.library import FOLDERS, list_library
from scenarios.loader import load_scenario
from scenarios.results import next_run_directory
from scenarios.runner import run_scenario
from scenarios.terminal import print_summary, progress_bar

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

ScenarioArgument = Annotated[str, typer.Argument(metavar="SCENARIO", help="A library name or a path to a YAML file.")]
OverrideOption = Annotated[
    list[str] | None, typer.Option("--override", help="Apply one of the scenario's named overrides; repeatable.")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B.C=VALUE", help="Change one field; repeatable.")
]


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
) -> None:
    """Run a scenario in virtual time."""
    loaded = load_scenario(scenario, overrides=override or (), sets=sets or ())
    console = Console(stderr=json_to is not None)
    target = out
    if target is None and json_to is None:
        target = next_run_directory(Path("runs"), loaded.spec.name)
    with progress_bar(Console(stderr=True), loaded.spec.name) as on_progress:
        summary = run_scenario(loaded, out=target, on_progress=on_progress)
    if json_to == "-":
        sys.stdout.write(json.dumps(summary, indent=2, allow_nan=False) + "\n")
    elif json_to is not None:
        Path(json_to).write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    else:
        print_summary(console, summary)
    if target is not None:
        console.print(f"results in {target}", highlight=False, soft_wrap=True)
    if summary["interrupted"]:
        raise typer.Exit(INTERRUPTED)


@app.command()
def validate(scenario: ScenarioArgument, override: OverrideOption = None, sets: SetOption = None) -> None:
    """Check a scenario and everything that it refers to; print all problems at once."""
    loaded = load_scenario(scenario, overrides=override or (), sets=sets or ())
    spec = loaded.spec
    print(
        f"{spec.name}: valid ({spec.model.name}, {len(spec.cluster.nodes)} nodes, "
        f"{len(spec.placement)} of them hold layers, {spec.scheduler.policy}, {spec.duration_s:g} s)"
    )


@app.command()
def schema() -> None:
    """Print the JSON Schema of a scenario file, so that an editor can complete it."""
    print(json.dumps(json_schema(), indent=2))


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


def main() -> None:
    """Entry point: bad input ends with its problems on standard error and exit code 2, never a traceback."""
    try:
        app()
    except (ScenarioError, PlanError, SimulationError) as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except BrokenPipeError:
        # Whoever read our output has gone; there is nobody left to tell.
        sys.stderr.close()
        sys.exit(1)


if __name__ == "__main__":
    main()
