"""The commands ``helixemu net ...``: networks of the kernel for unmodified programs."""

from __future__ import annotations

import dataclasses
import heapq
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from netshape.conditions import LinkConditions
from netshape.kernel.errors import KernelError
from netshape.kernel.lab import KernelLab, enter_command
from netshape.kernel.namespaces import Namespace, existing, remove_stale
from netshape.kernel.probe import ProbeReport, probe
from netshape.kernel.router import LinkFigures
from netshape.schedule import ConditionSchedule
from scenarios.errors import Problem, ScenarioError
from scenarios.schema_topology import TopologyFile, read_topology

DOWN_S = 20.0
"""Longest wait for a lab's owner to take it down."""
_LOOK_S = 1.0
"""How often a lab looks whether the process behind it still runs."""

net_app = typer.Typer(
    help="Shaped networks for unmodified programs, in network namespaces; needs root.", no_args_is_help=True
)

LabOption = Annotated[
    str | None, typer.Option("--lab", metavar="LAB", help="Which lab, as `net list` names it; or its owner's PID.")
]


@net_app.command()
def doctor(
    json_to: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Write it as JSON; - is the terminal.")
    ] = None,
) -> None:
    """Find out what this machine's kernel can do, in a throwaway namespace."""
    report = probe()
    if json_to is not None:
        _write(json_to, json.dumps(dataclasses.asdict(report), indent=2))
    if json_to != "-":
        _print_report(Console(), report)


@net_app.command()
def up(
    topology: Annotated[Path, typer.Argument(metavar="TOPOLOGY.yaml", help="Hosts and links.")],
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Leave it running in the background.")] = False,
    ready: Annotated[int | None, typer.Option("--ready", hidden=True)] = None,
) -> None:
    """Build a network and keep it up until Ctrl-C, SIGTERM or `net down`; schedules run from the start on."""
    file = read_topology(topology)
    if detach:
        _detach(topology)
        return
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda _number, _frame: stop.set())
    console = Console()
    with KernelLab(file.topology, backend=file.backend, seed=file.seed) as lab:
        namespace = next(iter(lab.namespaces.values()))
        namespace.marker_path.touch()
        _print_lab(console, lab, file)
        if ready is not None:
            os.write(ready, f"{namespace.lab}\n".encode())
            os.close(ready)
        _keep_up(lab, file.schedules, stop)
        figures, hosts = lab.figures(), lab.host_figures()
    if figures:
        _print_figures(console, figures)
    missed = [f"{each.host} {each.missed_packets}" for each in hosts if each.missed_packets]
    if missed:
        console.print(f"warning: this machine did not keep up; packets dropped before their link: {', '.join(missed)}")


@net_app.command(context_settings={"allow_interspersed_args": False})
def exec(
    host: Annotated[str, typer.Argument(metavar="HOST", help="Where to run it.")],
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND", help="Program and arguments.")],
    lab: LabOption = None,
) -> None:
    """Run a program in a host of a network that is up."""
    argv = enter_command(_host(host, lab), command[1:] if command[0] == "--" else command)
    sys.stdout.flush()
    os.execv(argv[0], argv)


@net_app.command("list")
def list_labs() -> None:
    """List the networks that are up, and what crashed ones left."""
    table = Table(box=None, pad_edge=False)
    for column in ("lab", "owner", "hosts"):
        table.add_column(column, no_wrap=column == "lab", overflow="fold")
    for name, namespaces in _labs().items():
        owner = namespaces[0].owner
        state = f"PID {owner.pid}" if owner.alive else "ended; `helixemu net clean` removes it"
        table.add_row(name, state, ", ".join(namespace.host for namespace in namespaces))
    if table.row_count:
        Console().print(table)
    else:
        print("no networks")


@net_app.command()
def down(lab: LabOption = None) -> None:
    """Take down a network that `net up` built."""
    labs = {
        name: namespaces
        for name, namespaces in _labs().items()
        if namespaces[0].owner.alive and namespaces[0].marker_path.exists()
    }
    name = _one(labs, lab, "networks that `helixemu net up` keeps up")
    owner = labs[name][0].owner
    try:
        descriptor = os.pidfd_open(owner.pid)
    except ProcessLookupError:
        # It ended meanwhile, and its network with it.
        return
    try:
        if owner.alive:
            signal.pidfd_send_signal(descriptor, signal.SIGTERM)
        if not select.select([descriptor], [], [], DOWN_S)[0]:
            raise KernelError(f"{name}: its owner, process {owner.pid}, does not end; kill it, then run net clean")
    except PermissionError:
        raise KernelError(f"{name}: its owner is somebody else's process; run as root (sudo)") from None
    finally:
        os.close(descriptor)
    print(f"{name} is down")


@net_app.command()
def clean() -> None:
    """Remove what networks of crashed processes left; networks that are up stay, and so does all that is not ours."""
    if os.geteuid() != 0:
        raise KernelError("net clean: not permitted; run as root (sudo)")
    removed = remove_stale()
    for namespace in removed:
        print(f"removed {namespace.name}")
    if not removed:
        print("nothing to remove")


def _labs() -> dict[str, list[Namespace]]:
    """Lab -> its namespaces."""
    labs: dict[str, list[Namespace]] = {}
    for namespace in existing():
        labs.setdefault(namespace.lab, []).append(namespace)
    return labs


def _one(labs: Mapping[str, Sequence[Namespace]], wanted: str | None, what: str) -> str:
    """The lab that is meant: the wanted one, or the only one."""
    meant = [
        name for name, namespaces in labs.items() if wanted is None or wanted in (name, str(namespaces[0].owner.pid))
    ]
    if len(meant) == 1:
        return meant[0]
    listed = ", ".join(meant or labs) or "none"
    if not meant:
        rule, remedy = f"there is none of that name among the {what}: {listed}", "see `helixemu net list`"
    else:
        rule, remedy = f"there are several {what}: {listed}", "name one with --lab"
    raise ScenarioError(Problem("--lab", None, "", wanted, rule, remedy))


def _host(host: str, wanted: str | None) -> Namespace:
    """The namespace of a host in a lab that is up."""
    alive = {name: namespaces for name, namespaces in _labs().items() if namespaces[0].owner.alive}
    having = {name: namespaces for name, namespaces in alive.items() if any(each.host == host for each in namespaces)}
    if not having:
        known = ", ".join(dict.fromkeys(each.host for namespaces in alive.values() for each in namespaces)) or "none"
        raise ScenarioError(Problem("HOST", None, "", host, f"no network that is up has it; hosts are {known}", ""))
    name = _one(having, wanted, f"networks with a host {host}")
    return next(namespace for namespace in having[name] if namespace.host == host)


def _detach(topology: Path) -> None:
    """Run `net up` as a process of its own, and wait until it is ready."""
    reader, writer = os.pipe()
    with tempfile.TemporaryFile() as errors, os.fdopen(reader) as ready:
        process = subprocess.Popen(
            [sys.executable, "-m", "scenarios.cli", "net", "up", str(topology), "--ready", str(writer)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            pass_fds=[writer],
            start_new_session=True,
        )
        os.close(writer)
        lab = ready.readline().strip()
        if lab:
            print(f"{lab} is up; `helixemu net exec HOST -- COMMAND` runs programs in it, `helixemu net down` ends it")
            return
        code = process.wait()
        errors.seek(0)
        sys.stderr.write(errors.read().decode(errors="replace"))
        raise typer.Exit(code or 1)


def _keep_up(lab: KernelLab, schedules: Mapping[tuple[str, str], ConditionSchedule], stop: threading.Event) -> None:
    """Follow the schedules until ``stop``.

    Raises:
        KernelError: The process behind the lab has ended, or refuses a change.
    """
    begin = time.monotonic()
    changes: list[tuple[float, int, tuple[str, str], LinkConditions, Iterator[tuple[float, LinkConditions]]]] = []
    number = count()

    def push(link: tuple[str, str], rest: Iterator[tuple[float, LinkConditions]]) -> None:
        upcoming = next(rest, None)
        if upcoming is not None:
            heapq.heappush(changes, (upcoming[0], next(number), link, upcoming[1], rest))

    for link, schedule in schedules.items():
        push(link, iter(schedule.changes(lab.conditions(*link))))
    while not stop.is_set():
        lab.check()
        now = time.monotonic() - begin
        while changes and changes[0][0] <= now:
            _, _, link, conditions, rest = heapq.heappop(changes)
            lab.set(*link, conditions)
            push(link, rest)
        stop.wait(min(_LOOK_S, changes[0][0] - now) if changes else _LOOK_S)


def _print_report(console: Console, report: ProbeReport) -> None:
    table = Table(title=f"kernel {report.kernel}", title_justify="left")
    for column in ("capability", "", "works", "detail"):
        table.add_column(column, overflow="fold")
    for found in report.capabilities:
        works = "not tried" if found.available is None else "[green]yes" if found.available else "[red]no"
        table.add_row(found.name, found.meaning, works, found.detail)
    console.print(table)
    table = Table(title="backends", title_justify="left")
    for column in ("backend", "usable", "why not"):
        table.add_column(column, overflow="fold")
    for backend in report.backends:
        table.add_row(backend.title, "[green]yes" if backend.usable else "[red]no", backend.reason)
    console.print(table)


def _print_lab(console: Console, lab: KernelLab, file: TopologyFile) -> None:
    name = next(iter(lab.namespaces.values())).lab
    for removed in lab.removed:
        console.print(f"removed {removed}, which a process that ended left behind", highlight=False)
    for warning in lab.warnings:
        console.print(f"warning: {warning}", highlight=False)
    table = Table(title=f"{name} (backend {file.backend})", title_justify="left")
    for column in ("host", "address", "namespace"):
        table.add_column(column, no_wrap=True)
    for host in file.topology.hosts:
        table.add_row(host.name, host.address, lab.namespaces[host.name].name)
    console.print(table)
    scheduling = "real-time" if lab.real_time else "ordinary"
    router = f"; packets forwarded with {scheduling} scheduling" if file.backend == "tun" else ""
    console.print(f"TCP: {lab.congestion_control}, buffers to {file.topology.buffer_bytes:,} bytes{router}")
    first = file.topology.hosts[0].name
    console.print(f"run programs with: helixemu net exec {first} -- COMMAND; end it with Ctrl-C", highlight=False)


def _print_figures(console: Console, figures: Sequence[LinkFigures]) -> None:
    table = Table(title="links", title_justify="left")
    for column in ("link", "packets", "delivered", "MB", "lost", "queue full", "down", "late p50 us", "late p99 us"):
        table.add_column(column, justify="left" if column == "link" else "right")
    for each in figures:
        late = ["-" if value is None else f"{value * 1e6:.0f}" for value in (each.lateness_s_p50, each.lateness_s_p99)]
        table.add_row(
            f"{each.source}->{each.target}",
            str(each.packets),
            str(each.delivered_packets),
            f"{each.delivered_bytes / 1e6:.1f}",
            str(each.lost_packets),
            str(each.overflow_packets + each.refused_packets),
            str(each.down_packets),
            *late,
        )
    console.print(table)


def _write(path: str, text: str) -> None:
    if path == "-":
        print(text)
        return
    try:
        Path(path).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        rule = f"the file cannot be written: {error.strerror}"
        raise ScenarioError(Problem("--json", None, "", path, rule, "choose another file")) from error
