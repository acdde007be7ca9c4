"""Puts what a scenario refers to (library names, files, includes) in the place of the reference.

Trace files are the exception: they stay references, by absolute path, because they may be large.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from scenarios.errors import Problem, ScenarioError
from scenarios.library import find_in_library, library_names, library_profiles, suggestion
from scenarios.tree import Key, Origin, Tree, TreePath, dotted
from scenarios.validation import problem_at
from scenarios.yaml_text import MAX_NODES, read_yaml

SPOTS: dict[TreePath, str] = {
    ("model",): "model",
    ("cluster",): "cluster",
    ("cluster", "network"): "network",
    ("placement",): "placement",
    ("workload",): "workload",
    ("churn",): "churn",
    ("workload", "lengths", "quantiles"): "lengths",
    ("workload", "synthetic", "lengths", "quantiles"): "lengths",
}
"""Where a reference may stand, outer ones first, and the kind of file that belongs there."""
_NAMED = ("model", "cluster")
"""Kinds that the library has by name."""
_LENGTHS: tuple[TreePath, ...] = (("workload", "lengths"), ("workload", "synthetic", "lengths"))
_MAX_FILES = 500
_HEADER = ("schema_version", "kind")


def is_path(text: str) -> bool:
    """Whether text names a file rather than a library entry."""
    return "/" in text or "\\" in text or text.lower().endswith((".yaml", ".yml", ".json"))


@dataclass(slots=True)
class Resolver:
    """Reads files and remembers what it read and what went wrong.

    Attributes:
        problems: What went wrong so far.
        sources: Every file read, in order.
        broken: Paths whose reference could not be followed; there is no more to say about them.
    """

    problems: list[Problem] = field(default_factory=list)
    sources: list[Path] = field(default_factory=list)
    broken: set[TreePath] = field(default_factory=set)
    _nodes: int = 0
    _seen: dict[tuple[Path, str], Tree] = field(default_factory=dict)

    def read(self, path: Path, kind: str) -> Tree:
        """A file of one kind, its own top-level include followed, its header checked and (but for scenarios) removed.

        Raises:
            ScenarioError: The file cannot be read, is of another kind, or includes itself.
        """
        known = self._seen.get((path, kind))
        if known is None:
            known = self._seen[path, kind] = self._follow(path, kind, ())
        self._nodes += known.size()
        if self._nodes > 2 * MAX_NODES:
            rule = f"all files together have more than {2 * MAX_NODES:,} values"
            raise ScenarioError(Problem(str(path), 1, "", None, rule, "include fewer or smaller files"))
        return known

    def _follow(self, path: Path, kind: str, chain: tuple[Path, ...]) -> Tree:
        tree = read_yaml(path)
        self.sources.append(path)
        if len(self.sources) > _MAX_FILES:
            raise ScenarioError(Problem(str(path), 1, "", None, f"more than {_MAX_FILES} files", "include fewer files"))
        include = _included(tree, _HEADER)
        if include is not None and isinstance(include.content, str) and kind != "scenario":
            target = _beside(include)
            chain = (*chain, _real(path))
            if _real(target) in chain:
                way = " -> ".join(each.name for each in (*chain, target))
                raise ScenarioError(
                    problem_at(include, (), f"files include each other in a circle: {way}", "break the circle")
                )
            return self._follow(target, kind, chain)
        problems = _header_problems(tree, kind)
        if problems:
            raise ScenarioError(problems)
        return tree if kind == "scenario" else _without_header(tree, kind)

    def resolve(self, tree: Tree) -> Tree:
        """The scenario with every reference replaced; problems are noted, not raised."""
        for spot in SPOTS:
            tree = self.resolve_at(tree, spot)
        tree = self._profiles(tree)
        tree = self.inline_machines(tree)
        tree = self.inline_placement(tree)
        for spot in _LENGTHS:
            tree = self._lengths(tree, spot)
        return tree

    def resolve_at(self, tree: Tree, spot: TreePath) -> Tree:
        """The scenario with the reference at one spot replaced, if there is one."""
        part = tree.at(spot)
        if part is None or spot in self.broken:
            return tree
        kind = _kind_at(spot)
        return self._replaced(tree, spot, partial(self._target, part, kind))

    def _target(self, part: Tree, kind: str | None) -> Tree | None:
        include = _included(part)
        if kind is None or (include is None and not isinstance(part.content, str)):
            return None  # Nothing to replace; whether it is right is the schema's business.
        return self._read_reference(include or part, kind, named=kind in _NAMED and include is None)

    def _read_reference(self, part: Tree, kind: str, *, named: bool) -> Tree:
        text = part.content
        if not isinstance(text, str) or not text.strip():
            raise ScenarioError(problem_at(part, (), "a file name belongs here", f"name a {kind} file"))
        if named and not is_path(text):
            found = find_in_library(kind, text)
            if found is None:
                raise ScenarioError(_unknown_name(part, kind, text))
            return self.read(found, kind)
        target = _beside(part)
        try:
            return self.read(target, kind)
        except ScenarioError as error:
            raise ScenarioError([seen_from(part, problem, target) for problem in error.problems]) from None

    def _replaced(self, tree: Tree, path: TreePath, make: Callable[[], Tree | None]) -> Tree:
        """``tree`` with a new part at ``path``; on an error ``path`` is broken."""
        try:
            new = make()
        except ScenarioError as error:
            self.broken.add(path)
            # Files speak of themselves; the scenario's own path tells more where the problem is the reference itself.
            self.problems += [
                Problem(p.file, p.line, p.path or dotted(path), p.value, p.rule, p.remedy) for p in error.problems
            ]
            return tree
        return tree if new is None else tree.put(path, new)

    def _profiles(self, tree: Tree) -> Tree:
        """Every element a mapping; ``library``, and no list at all, stand for the shipped profiles of the model."""
        listed = tree.child("profiles")
        default = Tree([Tree("library", tree.origin)], tree.origin)
        if listed is not None and not isinstance(listed.content, list):
            return tree
        name = tree.at(("model", "name"))
        profiles: list[Tree] = []
        for index, part in enumerate((listed or default).parts()):
            if part.content == "library":
                shipped = library_profiles(str(name.content)) if name is not None else ()
                profiles += [self.read(path, "profile") for path in shipped]
                continue
            path = ("profiles", index)
            changed = self._replaced(tree, path, partial(self._target, part, "profile"))
            if path not in self.broken:
                profiles.append(changed.at(path) or part)
        if any(path[0] == "profiles" for path in self.broken):
            self.broken.add(("profiles",))
            return tree
        return tree.put(("profiles",), Tree(list(profiles), (listed or default).origin))

    def inline_machines(self, tree: Tree) -> Tree:
        """The library's machine types beside those that the cluster defines."""
        nodes, machines = tree.at(("cluster", "nodes")), tree.at(("cluster", "machines"))
        own = machines.content if machines is not None else {}
        if nodes is None or not isinstance(nodes.content, list) or not isinstance(own, dict):
            return tree
        for index, node in enumerate(nodes.content):
            part = node.child("machine")
            name = part.content if part is not None else None
            if part is None or not isinstance(name, str) or tree.at(("cluster", "machines", name)) is not None:
                continue
            found = find_in_library("machine", name)
            if found is not None:
                tree = tree.put(("cluster", "machines", name), self.read(found, "machine"))
            elif (path := ("cluster", "nodes", index, "machine")) not in self.broken:
                self.broken.add(path)
                remedy = suggestion(name, list(dict.fromkeys([*own, *library_names("machine")])))
                self.problems.append(
                    problem_at(tree, path, "there is no such machine type in the library or the cluster", remedy)
                )
        return tree

    def inline_placement(self, tree: Tree) -> Tree:
        """The ranges of a placement file in the place of its name."""
        path: TreePath = ("placement", "file")
        part = tree.at(path)
        if part is None or part.content is None or path in self.broken:
            return tree
        around = tree.child("placement")
        others = [key for key in ("planner", "ranges") if around is not None and around.child(key) is not None]
        if others:
            return tree
        changed = self._replaced(tree, path, partial(self._read_reference, part, "placement", named=False))
        found = changed.at(path)
        if path in self.broken or found is None or not isinstance(found.content, dict):
            return tree
        changed = changed.without(path)
        for key, value in found.content.items():
            if changed.at(("placement", key)) is None:
                changed = changed.put(("placement", key), value)
        return changed

    def _lengths(self, tree: Tree, spot: TreePath) -> Tree:
        """The library's quantile table in the place of its name."""
        part, path = tree.at((*spot, "library")), (*spot, "library")
        if part is None or not isinstance(part.content, str) or tree.at((*spot, "quantiles")) is not None:
            return tree
        found = find_in_library("lengths", part.content)
        if found is None:
            self.broken.add(path)
            remedy = suggestion(part.content, library_names("lengths"))
            self.problems.append(problem_at(tree, path, "the library has no such lengths", remedy))
            return tree
        return tree.without(path).put((*spot, "quantiles"), self.read(found, "lengths"))


def _kind_at(spot: TreePath) -> str | None:
    if len(spot) == 2 and spot[0] == "profiles":
        return "profile"
    return SPOTS.get(spot)


def _included(tree: Tree, ignored: tuple[str, ...] = ()) -> Tree | None:
    """What ``{include: FILE}`` names, if that is all there is but for ``ignored`` keys."""
    if not isinstance(tree.content, dict):
        return None
    keys = [key for key in tree.content if key not in ignored]
    return tree.content["include"] if keys == ["include"] else None


def _beside(part: Tree) -> Path:
    return part.origin.folder / str(part.content)


def _real(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError):
        return path


def seen_from(part: Tree, problem: Problem, target: Path) -> Problem:
    """A problem with opening a file is told where the file is named."""
    if problem.file != str(target) or problem.line is not None:
        return problem
    origin = part.origin
    rule = f"{problem.rule} ({target})"
    return Problem(origin.file, origin.line, problem.path, part.content, rule, problem.remedy)


def _unknown_name(part: Tree, kind: str, text: str) -> Problem:
    remedy = suggestion(text, library_names(kind))
    if len(text) <= 200 and (part.origin.folder / f"{text}.yaml").is_file():
        remedy = f"for the file write {text}.yaml"
    rule = f"the library has no {kind} of this name"
    return problem_at(part, (), rule, f"{remedy} (a path has a / or ends in .yaml)")


def _header_problems(tree: Tree, kind: str) -> list[Problem]:
    if not isinstance(tree.content, dict):
        return [problem_at(tree, (), "the file is no mapping", "start it with schema_version: 1")]
    problems: list[Problem] = []
    version, given = tree.child("schema_version"), tree.child("kind")
    if kind != "scenario" and (version is None or version.content != 1 or isinstance(version.content, bool)):
        path: tuple[Key, ...] = ("schema_version",)
        rule = "this key is missing" if version is None else "only version 1 is known"
        problems.append(problem_at(tree, path, rule, "write schema_version: 1"))
    if given is None and kind == "scenario":
        return problems
    # A workload's kind is content: its file is of either kind.
    kinds = ("open", "closed") if kind == "workload" else (kind,)
    if given is None or given.content not in kinds:
        rule = f"a {kind} file belongs here"
        rule = f"this key is missing; {rule}" if given is None else rule
        problems.append(problem_at(tree, ("kind",), rule, f"name a file with kind: {' or '.join(kinds)}"))
    return problems


def _without_header(tree: Tree, kind: str) -> Tree:
    for key in _HEADER[:1] if kind == "workload" else _HEADER:
        tree = tree.without((key,))
    return tree


def scenario_path(name_or_path: str | Path, folder: Path, kind: str = "scenario") -> Path:
    """The file of a scenario that is named on the command line.

    Args:
        name_or_path: Library name, or path; a library name wins over a file of the same name without suffix.
        folder: What a relative path is relative to.
        kind: Kind of file, where it is not a scenario.

    Raises:
        ScenarioError: Neither.
    """
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or is_path(text):
        return folder / text
    found = find_in_library(kind, text)
    if found is not None:
        return found
    try:
        if (folder / text).exists():
            return folder / text
    except (OSError, ValueError):
        pass
    part = Tree(text, Origin(kind.upper(), None, folder))
    raise ScenarioError(_unknown_name(part, kind, text))
