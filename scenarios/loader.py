"""From a scenario's name or path to everything that a run needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emulator.spec import EmulationSpec
from placement.plan import Plan
from scenarios.changes import changed
from scenarios.crossing import Crossing
from scenarios.errors import Problem, ScenarioError
from scenarios.expect import Expectation
from scenarios.ranking import Ranked
from scenarios.references import Resolver, scenario_path
from scenarios.tree import Origin, Tree, from_plain
from scenarios.validation import validate


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedScenario:
    """A scenario that can run.

    Attributes:
        spec: What the emulator needs.
        resolved: The scenario in plain data with everything it refers to inside, overrides applied, the placement
            planned. Written with :func:`scenarios.yaml_text.dump_yaml`, it loads to an equal ``spec``. Trace files
            stay references: by absolute path, with their SHA-256.
        sources: Every file read, the scenario first.
        plan: What the scenario's planner made; ``None`` where the placement is written out.
        notes: What is no mistake, but may surprise.
        expectations: What the scenario expects of its figures.
        token_times: Whether a run that leaves files keeps when every token came.
        ranked: The plans that it was chosen from, best first, where an objective chose it.
    """

    spec: EmulationSpec
    resolved: dict[str, Any]
    sources: tuple[Path, ...]
    plan: Plan | None = None
    notes: tuple[str, ...] = ()
    expectations: tuple[Expectation, ...] = ()
    token_times: bool = False
    ranked: tuple[Ranked, ...] = ()


def load_scenario(
    name_or_path: str | Path, *, overrides: Sequence[str] = (), sets: Sequence[str] = ()
) -> LoadedScenario:
    """Load a scenario.

    Args:
        name_or_path: Name in the library, or path (relative to the working directory).
        overrides: Names of the scenario's ``overrides``, applied in order.
        sets: Changes ``a.b.0.c=value``, applied after the overrides; relative paths in them are relative to the
            working directory.

    Raises:
        ScenarioError: All that is wrong with the scenario, the files it names, and the changes.
    """
    resolver = Resolver()
    root = resolver.read(scenario_path(name_or_path, Path()), "scenario")
    return load_tree(changed(root, overrides, sets, resolver), resolver)


def load_document(document: Mapping[str, Any], name: str) -> LoadedScenario:
    """Load a scenario that is in no file.

    Args:
        document: What the file would hold, in plain data; relative paths are relative to the working directory.
        name: What stands for the file's name in messages.

    Raises:
        ScenarioError: All that is wrong with it, and with the files that it names.
    """
    return load_tree(from_plain(document, Origin(name, None, Path.cwd())), Resolver())


def load_tree(root: Tree, resolver: Resolver) -> LoadedScenario:
    """Load a scenario that has been read already, with its changes applied.

    Args:
        root: The scenario; references in it are still to be replaced, or have been.
        resolver: What read it.

    Raises:
        ScenarioError: All that is wrong with it and the files it names.
    """
    tree = resolver.resolve(root)
    sections, problems = validate(tree, resolver.broken)
    crossing = Crossing(tree, sections, [*resolver.problems, *problems])
    spec = crossing.spec()
    if spec is None:
        raise ScenarioError(_in_file_order(crossing.problems))
    resolved = crossing.tree.plain()
    if not isinstance(resolved, dict):
        raise AssertionError("a scenario that passed its schema is a mapping")
    return LoadedScenario(
        spec=spec,
        resolved=resolved,
        sources=tuple(dict.fromkeys([*resolver.sources, *crossing.sources])),
        plan=crossing.plan,
        notes=tuple(crossing.notes),
        expectations=tuple(crossing.expectations),
        token_times=bool(sections["output"].token_times),
        ranked=crossing.ranked,
    )


def _in_file_order(problems: Sequence[Problem]) -> list[Problem]:
    """By file, in the order in which files first have a problem, then by line."""
    files = {name: index for index, name in enumerate(dict.fromkeys(problem.file for problem in problems))}
    return sorted(problems, key=lambda problem: (files[problem.file], problem.line or 0))
