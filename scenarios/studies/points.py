"""One point of a study: what is sent to a worker, what the worker does with it, and what comes back."""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import shutil
import socket
import tempfile
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from emulator.emulation import Emulation
from emulator.errors import SimulationError
from placement.effort import counted
from placement.errors import PlanError
from scenarios.errors import Problem, ScenarioError
from scenarios.loader import LoadedScenario, load_tree
from scenarios.references import Resolver
from scenarios.studies.code_version import code_version
from scenarios.studies.errors import VersionMismatchError
from scenarios.studies.figures import CLOCKED, Attainment, Figure, flat_figures
from scenarios.studies.prices import PriceTable, cost_figures
from scenarios.tree import Origin, Plain, from_plain

PLAN_COLUMN = "planned_placement"
"""Column of a plan's record that holds the placement section as JSON."""
_ERROR_CHARACTERS = 4_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One run, or one plan.

    Attributes:
        kind: ``run``, or ``plan`` for a placement that several runs share.
        coordinates: What tells it from the study's other points: column -> value.
        scenario: Everything that the run needs, references replaced; only trace files are names, absolute ones.
        traces: Trace file -> SHA-256.
        error: Why it cannot run; such a point is only recorded.
    """

    kind: Literal["run", "plan"] = "run"
    coordinates: Mapping[str, Figure]
    scenario: dict[str, Plain]
    traces: Mapping[str, str] = field(default_factory=dict)
    error: str = ""

    def identity(self, settings: str) -> str:
        """The point's name: the same for the same work, in any study.

        Args:
            settings: What else makes the figures: prices, further figures.
        """
        told = [self.kind, settings, self.coordinates, self.scenario, list(self.traces.values())]
        text = json.dumps(told, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A point on its way to a worker.

    Attributes:
        name: Its identity.
        point: What to run.
        code: Version of the code that sends it.
        figures: Further figures.
        prices: Price table.
        files: Trace file -> content, for workers on other machines.
    """

    name: str
    point: Point
    code: str
    figures: tuple[str, ...] = ()
    prices: PriceTable | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What a worker made of a point.

    Attributes:
        name: The point's identity.
        error: Why it failed; empty when it did not.
        figures: Figures by name.
        clocked: Figures of the machine, which differ every time.
        worker: Host and process that did it.
    """

    name: str
    error: str = ""
    figures: Mapping[str, Figure] = field(default_factory=dict)
    clocked: Mapping[str, float] = field(default_factory=dict)
    worker: str = ""

    @property
    def ok(self) -> bool:
        """Whether there are figures."""
        return not self.error


def execute(task: Task) -> Done:
    """Run a point, in whatever process this is; what goes wrong with the point is in the result.

    Raises:
        VersionMismatchError: This process has other code than the study.
    """
    if task.code != code_version():
        raise VersionMismatchError(
            f"the worker {_worker()} runs other code than the study; install the same version on all machines "
            "and start the workers again"
        )
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    error, figures, load_s = "", {}, 0.0
    try:
        # Work counts as planning time, not the clock: else a plan would depend on how busy the machine is.
        with counted():
            loaded = load_plain(_with_files(task))
        load_s = time.process_time() - cpu_s
        figures = _planned(loaded) if task.point.kind == "plan" else _run(loaded, task)
    except (ScenarioError, PlanError, SimulationError) as problem:
        error = str(problem)
    except Exception as fault:
        # A fault of the emulator, or of somebody's own policy: the study's other points go on, and nothing is hidden.
        error = f"{type(fault).__name__}: {fault}\n{traceback.format_exc()}"
    clocked = {
        "wall_s": time.perf_counter() - wall_s,
        "cpu_s": time.process_time() - cpu_s,
        "load_cpu_s": load_s,
    }
    return Done(name=task.name, error=error[:_ERROR_CHARACTERS], figures=figures, clocked=clocked, worker=_worker())


def load_plain(scenario: Mapping[str, Any]) -> LoadedScenario:
    """A scenario from plain data.

    Raises:
        ScenarioError: All that is wrong with it.
    """
    return load_tree(from_plain(dict(scenario), Origin("scenario", None, Path())), Resolver())


def _planned(loaded: LoadedScenario) -> dict[str, Figure]:
    return {PLAN_COLUMN: json.dumps(loaded.resolved["placement"])}


def _run(loaded: LoadedScenario, task: Task) -> dict[str, Figure]:
    spec = loaded.spec
    if task.prices is not None:
        lacking = task.prices.missing([(node.name, node.machine_type) for node in spec.cluster.nodes])
        if lacking:
            rule = f"there is no price of {', '.join(lacking)}"
            raise ScenarioError(Problem("study", None, "prices.nodes", None, rule, "add it"))
    attainment = Attainment(spec)
    summary = Emulation(spec, on_ended=attainment.ended).run()
    if summary["interrupted"]:
        raise KeyboardInterrupt
    figures = flat_figures(summary, task.figures)
    if spec.slo.given:
        figures["slo_attainment"] = attainment.share
    if task.prices is not None:
        figures |= cost_figures(task.prices, spec.cluster, summary)
    assert not any(name in figures for name in CLOCKED)
    return figures


def _worker() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def _with_files(task: Task) -> dict[str, Plain]:
    """The scenario, its traces replaced by copies that came with the task."""
    if not task.files:
        return task.point.scenario
    folder = _folder()
    moved: dict[str, str] = {}
    for name, content in task.files.items():
        path = folder / f"{hashlib.sha256(content).hexdigest()}{Path(name).suffix}"
        if not path.exists():
            path.write_bytes(content)
        moved[name] = str(path)
    return {key: _moved(part, moved) for key, part in task.point.scenario.items()}


def _moved(part: Plain, moved: Mapping[str, str]) -> Plain:
    if isinstance(part, dict):
        return {key: _moved(inner, moved) for key, inner in part.items()}
    if isinstance(part, list):
        return [_moved(inner, moved) for inner in part]
    return moved.get(part, part) if isinstance(part, str) else part


@cache
def _folder() -> Path:
    """This process's copies of traces, for as long as it lives."""
    folder = tempfile.mkdtemp(prefix="helixemu-study-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
