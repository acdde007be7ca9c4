"""From a study's name or path to what is to be run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from scenarios.changes import Change, changed, with_changes
from scenarios.errors import Problem, ScenarioError
from scenarios.expect import Expectation, read_condition
from scenarios.quantities import DURATION, RATE, SIZE, QuantityError, parse
from scenarios.references import Resolver, scenario_path
from scenarios.studies.axes import Axis, AxisValue, Cell, Span, is_number, make_cells, spaced, value_of
from scenarios.studies.constraints import Constraint, ConstraintError, read_constraint
from scenarios.studies.schema import AxisSection, MaxRateSection, MinCostSection, RangeSection, StudySection
from scenarios.tree import Origin, Tree, TreePath, from_plain
from scenarios.validation import problem_at
from scenarios.yaml_text import read_yaml

SHORT_AXES: Mapping[str, tuple[str, ...]] = {
    "planner": ("placement",),
    "scheduler": ("scheduler",),
    "recovery": ("churn", "recovery", "policy"),
    "seed": ("seed",),
    "cluster": ("cluster",),
    "model": ("model",),
}
"""Axes that need no path: name -> what they change."""
_WHOLE = {"planner": "planner", "scheduler": "policy"}
"""Those of them that replace a whole section, since options of one planner or policy mean nothing to another."""
RESERVED = ("point", "cell", "seed", "rate", "status", "error", "nodes", "links")
"""Columns that the results have anyway. An axis ``seed`` is the seed itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """A study that can run.

    Attributes:
        section: Its checked file.
        tree: The file, for messages.
        root: The scenario with overrides and ``set`` applied, references still in it.
        cells: What is varied, combination by combination.
        seeds: Seeds of every cell; ``None`` where an axis says the seed.
        meets: Conditions of a max_rate or min_cost question.
    """

    section: StudySection
    tree: Tree
    root: Tree
    cells: tuple[Cell, ...]
    seeds: tuple[int, ...] | None
    meets: tuple[Expectation, ...] = ()

    @property
    def name(self) -> str:
        """The study's name."""
        return self.section.name


def read_study(name_or_path: str | Path) -> Definition:
    """A study of the library, or of a file.

    Raises:
        ScenarioError: All that is wrong with it.
    """
    return define(read_yaml(scenario_path(name_or_path, Path(), "study")))


def define_plain(study: Mapping[str, Any]) -> Definition:
    """A study that was put together in Python; relative paths start at the working directory.

    Raises:
        ScenarioError: All that is wrong with it.
    """
    return define(from_plain(dict(study), Origin("study", None, Path())))


def define(tree: Tree) -> Definition:
    """A study from its file's content.

    Raises:
        ScenarioError: All that is wrong with it.
    """
    try:
        section = StudySection.model_validate(tree.plain())
    except ValidationError as error:
        raise ScenarioError(_schema_problems(tree, error)) from None
    problems: list[Problem] = []
    axes = [axis for name, given in section.axes.items() for axis in _axis(name, given, section, tree, problems)]
    constraints = list(_constraints(section, tree, problems))
    meets = tuple(_conditions(section, tree, problems))
    root = _root(section, tree, problems)
    if problems:
        raise ScenarioError(problems)
    try:
        cells = make_cells(axes, section.sample, constraints)
    except ConstraintError as error:
        raise ScenarioError(problem_at(tree, ("constraints",), str(error), "correct the constraint")) from None
    except ValueError as error:
        where: TreePath = ("constraints",) if section.constraints else ("sample",)
        raise ScenarioError(problem_at(tree, where, str(error), "change axes, sample or constraints")) from None
    return Definition(
        section=section, tree=tree, root=root, cells=cells, seeds=_seeds(section, root, tree), meets=meets
    )


def _schema_problems(tree: Tree, error: ValidationError) -> Iterator[Problem]:
    for each in error.errors(include_url=False):
        context = each.get("ctx", {})
        rule = str(context.get("rule", each["msg"]))
        if each["type"] == "extra_forbidden":
            rule = "there is no such key"
        location = tuple(_parts(tree, each["loc"]))
        yield problem_at(tree, location, rule, str(context.get("remedy", "see `helixemu schema study`")))


def _parts(tree: Tree, location: tuple[int | str, ...]) -> Iterator[int | str]:
    """The keys of a pydantic location that are the file's own: it also names the chosen members of unions."""
    node: Tree | None = tree
    for index, key in enumerate(location):
        inner = None if node is None else node.child(key)
        if inner is not None or index == len(location) - 1:
            yield key
            node = inner


# ---------------------------------------------------------------------------------------------------- the scenario


def _root(section: StudySection, tree: Tree, problems: list[Problem]) -> Tree:
    """The scenario before any axis: overrides and ``set`` applied, references still in it."""
    resolver = Resolver()
    part = tree.child("scenario")
    assert part is not None, "the schema asks for it"
    if isinstance(part.content, str):
        try:
            root = resolver.read(scenario_path(part.content, part.origin.folder), "scenario")
        except ScenarioError as error:
            problems += error.problems
            return part
    else:
        root = part
    root = changed(root, section.overrides, (), resolver)
    values = tree.child("set")
    if values is not None and isinstance(values.content, dict):
        for path, value in values.content.items():
            # Kept as written: what refers to a file is relative to the study.
            root = with_changes(root, [Change(tuple(path.split(".")), value)], resolver)
    problems += resolver.problems
    return root


def _seeds(section: StudySection, root: Tree, tree: Tree) -> tuple[int, ...] | None:
    if "seed" in section.axes:
        if section.seeds != 1:
            rule = "seed is an axis already"
            raise ScenarioError(problem_at(tree, ("seeds",), rule, "remove the axis, or seeds"))
        return None
    if isinstance(section.seeds, tuple):
        return section.seeds
    own = root.child("seed")
    first = own.content if own is not None and isinstance(own.content, int) else 0
    return tuple(range(first, first + section.seeds))


# -------------------------------------------------------------------------------------------------------- the axes


def _axis(name: str, given: AxisSection, section: StudySection, tree: Tree, problems: list[Problem]) -> Iterator[Axis]:
    where: TreePath = ("axes", name)
    origin = tree.nearest(where).origin
    if name in RESERVED and name != "seed":
        problems.append(problem_at(tree, where, "results have a column of this name anyway", "rename the axis"))
        return
    if given.variants is not None:
        yield Axis(name=name, values=tuple(_variants(given, tree, where)), origin=origin)
        return
    paths = [tuple(path.split(".")) for path in given.paths or ((given.path,) if given.path else ())]
    if not paths and given.nodes is None:
        if name not in SHORT_AXES:
            rule = "it does not say what it changes"
            remedy = f"add path, paths or nodes, or name the axis {', '.join(SHORT_AXES)}"
            problems.append(problem_at(tree, where, rule, remedy))
            return
        paths = [SHORT_AXES[name]]
    found = list(_written(name, given, tree, where, paths, problems))
    if given.range is None:
        yield Axis(name=name, values=tuple(found), paths=tuple(paths), origin=origin, nodes=given.nodes)
        return
    span = _span(given.range, given.nodes is not None, tree, (*where, "range"), problems)
    if span is None:
        return
    steps = given.range.steps
    if steps is None and section.sample.kind in ("grid", "list"):
        rule = f"a {section.sample.kind} needs to know how many values there are"
        problems.append(problem_at(tree, (*where, "range"), rule, "add steps"))
        return
    values = [value_of(each, paths, given.nodes, origin) for each in spaced(span, steps)] if steps else []
    # With steps, a sample draws from the values, too.
    yield Axis(
        name=name,
        values=tuple(values),
        span=None if steps else span,
        paths=tuple(paths),
        origin=origin,
        nodes=given.nodes,
    )


def _variants(given: AxisSection, tree: Tree, where: TreePath) -> Iterator[AxisValue]:
    for label in given.variants or {}:
        part = tree.at((*where, "variants", label))
        assert part is not None
        assert isinstance(part.content, dict)
        changes = tuple(Change(tuple(path.split(".")), value) for path, value in part.content.items())
        yield AxisValue(label=label, changes=changes)


def _written(
    name: str,
    given: AxisSection,
    tree: Tree,
    where: TreePath,
    paths: Sequence[TreePath],
    problems: list[Problem],
) -> Iterator[AxisValue]:
    """The values that are listed."""
    short = tree.at((*where, "values")) is None
    for index, content in enumerate(given.values or ()):
        at = (*where, index) if short else (*where, "values", index)
        part = tree.at(at)
        assert part is not None
        if given.nodes is not None:
            if not isinstance(content, int) or isinstance(content, bool) or not 0 <= content <= 5_000:
                problems.append(problem_at(tree, at, "a number of nodes belongs here", "write a whole number from 0"))
                continue
            yield AxisValue(label=content, count=(given.nodes, content))
        elif name in _WHOLE and paths == [SHORT_AXES[name]] and isinstance(content, str):
            section = Tree({_WHOLE[name]: part}, part.origin)
            yield AxisValue(label=content, changes=(Change(SHORT_AXES[name], section),))
        else:
            label = content if isinstance(content, (str, int, float)) else json.dumps(content, sort_keys=True)
            yield AxisValue(label=label, changes=tuple(Change(path, part) for path in paths))


def _span(given: RangeSection, counts: bool, tree: Tree, where: TreePath, problems: list[Problem]) -> Span | None:
    ends = [_end(value) for value in (given.start, given.stop)]
    rule = remedy = ""
    if None in ends:
        rule = "from and to must be numbers, or quantities with a unit"
        remedy = "write for instance {from: 10 Mbit/s, to: 10 Gbit/s}"
        problems.append(problem_at(tree, where, rule, remedy))
        return None
    (start, unit, factor), (stop, other, scale) = (end for end in ends if end is not None)
    if bool(unit) != bool(other):
        rule, remedy = "one end has a unit and the other has none", "give both the same kind of unit"
    elif unit and _kind(unit) != _kind(other):
        rule, remedy = f"{unit} and {other} measure different things", "give both the same kind of unit"
    elif not start < (stop := stop * scale / factor):
        rule, remedy = "from is not below to", "swap them"
    elif given.scale == "log" and start <= 0:
        rule, remedy = "a logarithmic scale starts above 0", "raise from"
    elif counts and unit:
        rule, remedy = "numbers of nodes have no unit", "write whole numbers"
    if rule:
        problems.append(problem_at(tree, where, rule, remedy))
        return None
    return Span(start=start, stop=stop, unit=unit, log=given.scale == "log", whole=given.whole or counts)


def _end(value: object) -> tuple[float, str, float] | None:
    """A number, its unit, and the unit's size in SI units."""
    if is_number(value):
        return float(value), "", 1.0  # type: ignore[arg-type]
    if not isinstance(value, str):
        return None
    for dimension in (DURATION, SIZE, RATE):
        try:
            parsed = parse(value, dimension)
        except QuantityError:
            continue
        unit = value.strip().lstrip("+-.0123456789").strip()
        unit = unit if unit in dimension.units else next(iter(dimension.units))
        factor = float(dimension.units[unit])
        return parsed / factor, unit, factor
    return None


def _kind(unit: str) -> str:
    return next(dimension.what for dimension in (DURATION, SIZE, RATE) if unit in dimension.units)


# -------------------------------------------------------------------------------------- constraints and conditions


def _constraints(section: StudySection, tree: Tree, problems: list[Problem]) -> Iterator[Constraint]:
    for index, text in enumerate(section.constraints):
        try:
            constraint = read_constraint(text)
        except ConstraintError as error:
            problems.append(problem_at(tree, ("constraints", index), str(error), "correct it"))
            continue
        unknown = [name for name in constraint.names if name not in section.axes]
        if unknown:
            rule = f"{unknown[0]} is no axis"
            problems.append(problem_at(tree, ("constraints", index), rule, f"axes are: {', '.join(section.axes)}"))
        else:
            yield constraint


def _conditions(section: StudySection, tree: Tree, problems: list[Problem]) -> Iterator[Expectation]:
    question: Literal[""] | object = section.question
    if not isinstance(question, MaxRateSection | MinCostSection):
        return
    for figure, content in question.meets.items():
        listed = content if isinstance(content, list) else [content]
        for each in listed:
            try:
                if isinstance(each, (dict, list)):
                    raise QuantityError("a condition is a value, or an operator and a value", 'write ">= 0.9"')
                yield read_condition(figure, each)
            except QuantityError as error:
                problems.append(problem_at(tree, ("question", "meets", figure), error.rule, error.remedy))
