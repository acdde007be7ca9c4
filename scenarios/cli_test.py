"""The command ``helixemu test``: runs scenarios and checks what they expect of their figures."""

from __future__ import annotations

import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from emulator.errors import SimulationError
from scenarios.errors import Problem, ScenarioError, printable
from scenarios.expect import command_line, outcomes, report
from scenarios.loader import load_scenario
from scenarios.references import scenario_path
from scenarios.runner import run_scenario
from scenarios.yaml_text import read_yaml

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130
SUFFIXES = (".yaml", ".yml")
MAX_FILES = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Tested:
    """What became of one scenario.

    Attributes:
        path: As given, or below the folder as given.
        name: The scenario's name; of one that cannot be loaded, its path.
        conditions: How many conditions there were.
        failure: Which were not met, and how to see it again; empty when all were.
        error: Why it could not run; empty when it did.
        wall_s: What it took.
        interrupted: Whether Ctrl-C ended it.
    """

    path: str
    name: str
    conditions: int = 0
    failure: str = ""
    error: str = ""
    wall_s: float = 0.0
    interrupted: bool = False


def check_expectations(
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH...", help="Scenario files, folders of them, or library names.")
    ],
    override: Annotated[
        list[str] | None, typer.Option("--override", help="Apply a named override to every scenario; repeatable.")
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="A.B.C=VALUE", help="Change one field of every scenario; repeatable."),
    ] = None,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a JUnit report.")] = None,
) -> None:
    """Run scenarios in virtual time and check what they expect; exit code 1 when a condition is not met.

    In a folder, at any depth, every YAML file with an `expect` section is run.
    """
    found, problems = scenario_files(paths)
    if problems:
        raise ScenarioError(problems)
    if junit is not None:
        # Before work goes into its content.
        _write_junit(junit, [])
    results: list[Tested] = []
    for path in found:
        results.append(run_one(path, override or (), sets or ()))
        _print(results[-1])
        if results[-1].interrupted:
            break
    failed = sum(bool(each.failure) for each in results)
    broken = sum(bool(each.error) for each in results)
    parts = [f"{len(results) - failed - broken} passed"]
    parts += [f"{count} {what}" for count, what in ((failed, "failed"), (broken, "cannot run")) if count]
    print(f"{', '.join(parts)} in {sum(each.wall_s for each in results):.1f} s")
    if junit is not None:
        _write_junit(junit, results)
    if results[-1].interrupted:
        raise typer.Exit(INTERRUPTED)
    if failed or broken:
        raise typer.Exit(BAD_INPUT if broken else FAILED)


def scenario_files(paths: Sequence[str]) -> tuple[list[str], list[Problem]]:
    """Files to run, in order of the arguments and, in a folder, of their names; and arguments that name none."""
    found: dict[str, None] = {}
    problems: list[Problem] = []
    for given in paths:
        folder = Path(given)
        try:
            if folder.is_dir():
                inside = [str(path) for path in _yaml_files(folder) if expects(path)]
                if not inside:
                    rule = "no YAML file in this folder has an expect section"
                    problems.append(Problem(given, None, "", None, rule, "add expect to a scenario in it"))
                found.update(dict.fromkeys(inside))
                continue
            path = scenario_path(given, Path())
            if read_yaml(path).child("expect") is None:
                rule = "it expects nothing: there is no expect section"
                problems.append(Problem(str(path), None, "expect", None, rule, "add expect: {requests.failed: 0}"))
                continue
        except ScenarioError as error:
            problems += error.problems
            continue
        # A name in the library stays one, so that the command that is printed works everywhere.
        found[given if path != Path(given) else str(path)] = None
    return list(found), problems


def expects(path: Path) -> bool:
    """Whether a file may be a scenario with expectations; what is wrong with it is told when it is loaded."""
    try:
        tree = read_yaml(path)
    except ScenarioError:
        # Unless it says so, a broken file need not be a scenario at all.
        return _mentions_expect(path)
    kind = tree.child("kind")
    return tree.child("expect") is not None and (kind is None or kind.content == "scenario")


def _mentions_expect(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            head = stream.read(2_000_000)
    except OSError:
        return False
    return head.startswith(b"expect:") or b"\nexpect:" in head


def _yaml_files(folder: Path) -> list[Path]:
    found: list[Path] = []
    for path in folder.rglob("*"):
        if path.suffix.lower() in SUFFIXES and path.is_file():
            found.append(path)
        if len(found) > MAX_FILES:
            rule = f"the folder has more than {MAX_FILES:,} YAML files"
            raise ScenarioError(Problem(str(folder), None, "", None, rule, "name a smaller folder"))
    return sorted(found)


def run_one(path: str, overrides: Sequence[str] = (), sets: Sequence[str] = ()) -> Tested:
    """Run one scenario in virtual time and compare its figures with what it expects."""
    begun_s = time.perf_counter()
    try:
        loaded = load_scenario(path, overrides=overrides, sets=sets)
        summary = run_scenario(loaded)
    except (ScenarioError, SimulationError) as error:
        return Tested(path=path, name=path, error=str(error), wall_s=time.perf_counter() - begun_s)
    compared = outcomes(loaded.expectations, summary)
    failed = [outcome for outcome in compared if not outcome.met]
    command = command_line(path, overrides, sets)
    if summary["interrupted"]:
        failed = []
    return Tested(
        path=path,
        name=loaded.spec.name,
        conditions=len(compared),
        failure=report(failed, loaded.spec.seed, command) if failed else "",
        wall_s=time.perf_counter() - begun_s,
        interrupted=summary["interrupted"],
    )


def _print(tested: Tested) -> None:
    state = "error" if tested.error else "FAILED" if tested.failure else "ok"
    state = "interrupted" if tested.interrupted else state
    print(f"{state:6} {printable(tested.path)}  ({tested.conditions} conditions, {tested.wall_s:.2f} s)", flush=True)
    for line in tested.failure.splitlines():
        print(f"       {line}")
    for line in tested.error.splitlines():
        print(f"error: {line}", file=sys.stderr)


def _write_junit(path: Path, results: Sequence[Tested]) -> None:
    """The report that CI servers read: one suite, one case a scenario."""
    counts = {
        "tests": str(len(results)),
        "failures": str(sum(bool(each.failure) for each in results)),
        "errors": str(sum(bool(each.error) for each in results)),
        "time": f"{sum(each.wall_s for each in results):.3f}",
    }
    root = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(root, "testsuite", {"name": "helixemu", **counts})
    for each in results:
        attributes = {
            "classname": printable(str(Path(each.path).with_suffix(""))).replace("/", "."),
            "name": printable(each.name),
            "file": printable(each.path),
            "time": f"{each.wall_s:.3f}",
        }
        case = ElementTree.SubElement(suite, "testcase", attributes)
        for tag, text in (("failure", each.failure), ("error", each.error)):
            if text:
                lines = [printable(line) for line in text.splitlines()]
                ElementTree.SubElement(case, tag, {"message": lines[0]}).text = "\n".join(lines)
        if each.interrupted:
            ElementTree.SubElement(case, "skipped", {"message": "interrupted"})
    try:
        ElementTree.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)
    except OSError as error:
        rule = f"the file cannot be written: {error.strerror}"
        raise ScenarioError(Problem(str(path), None, "--junit", None, rule, "name another file")) from error
