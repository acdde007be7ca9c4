"""From a cell of a study to a scenario that can be sent anywhere."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from scenarios.changes import Change, with_changes
from scenarios.errors import Problem, ScenarioError
from scenarios.references import Resolver
from scenarios.studies.axes import Cell
from scenarios.tree import Key, Plain, Tree, TreePath, from_plain
from scenarios.validation import problem_at, validate

_TRACES: tuple[tuple[Key, ...], ...] = (
    ("workload", "trace", "file"),
    ("workload", "lengths", "trace", "file"),
    ("workload", "synthetic", "lengths", "trace", "file"),
    ("churn", "trace", "file"),
)
MAX_TRACE_BYTES = 256_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class CellScenario:
    """A cell's scenario.

    Attributes:
        plain: Plain data, references replaced, traces by absolute path.
        traces: Trace file -> SHA-256 of its content.
        plans: Whether its placement is still to be planned.
    """

    plain: dict[str, Plain]
    traces: Mapping[str, str] = field(default_factory=dict)
    plans: bool

    def changed(self, values: Mapping[tuple[str, ...], Plain]) -> dict[str, Plain]:
        """The scenario with values at other places that exist in it, or in mappings that do."""
        result = dict(self.plain)
        for path, value in values.items():
            part: dict[str, Plain] = result
            for key in path[:-1]:
                inner = part.get(key)
                copy = dict(inner) if isinstance(inner, dict) else {}
                part[key] = copy
                part = copy
            part[path[-1]] = value
        return result


class ScenarioMaker:
    """Makes scenarios of cells; files are read once.

    Args:
        root: The study's scenario, references still in it.
    """

    def __init__(self, root: Tree) -> None:
        self._root = root
        self._read = Resolver()
        self._digests: dict[Path, str] = {}

    def make(self, cell: Cell, further: tuple[Change, ...] = ()) -> CellScenario:
        """A cell's scenario.

        Args:
            cell: The cell.
            further: Changes beside the cell's.

        Raises:
            ScenarioError: Changes that lead nowhere, files that are missing, or what the schema refuses.
        """
        resolver = Resolver(_seen=self._read._seen)
        tree = with_changes(self._root, (*cell.changes, *further), resolver)
        tree = resolver.resolve(tree)
        for group, count in cell.counts.items():
            tree = _with_count(tree, group, count)
        _, problems = validate(tree, resolver.broken)
        if resolver.problems or problems:
            raise ScenarioError([*resolver.problems, *problems])
        tree, traces = self._traced(tree)
        tree = tree.without(("overrides",)).without(("expect",))
        plain = tree.plain()
        assert isinstance(plain, dict)
        placement = plain["placement"]
        return CellScenario(plain=plain, traces=traces, plans=isinstance(placement, dict) and "planner" in placement)

    def _traced(self, tree: Tree) -> tuple[Tree, dict[str, str]]:
        """The scenario with absolute names of its trace files, and their digests."""
        traces: dict[str, str] = {}
        for path in (*_TRACES, *_schedules(tree)):
            part = tree.at(path)
            if part is None or not isinstance(part.content, str):
                continue
            file = (part.origin.folder / part.content).resolve()
            tree = tree.put(path, from_plain(str(file), part.origin))
            traces[str(file)] = self._digest(file, tree, path)
        return tree, traces

    def _digest(self, file: Path, tree: Tree, path: TreePath) -> str:
        if file not in self._digests:
            try:
                if file.stat().st_size > MAX_TRACE_BYTES:
                    rule = f"a study's traces may have {MAX_TRACE_BYTES / 1e6:g} MB"
                    raise ScenarioError(problem_at(tree, path, rule, "cut it, or give it a limit"))
                self._digests[file] = hashlib.sha256(file.read_bytes()).hexdigest()
            except OSError as error:
                rule = f"it cannot be read: {error.strerror}"
                raise ScenarioError(problem_at(tree, path, rule, "check the path")) from None
        return self._digests[file]


def _schedules(tree: Tree) -> Iterator[TreePath]:
    for kind in ("regions", "links"):
        part = tree.at(("cluster", "network", kind))
        for index in range(len(part.content) if part is not None and isinstance(part.content, list) else 0):
            yield ("cluster", "network", kind, index, "schedule", "trace")


def _with_count(tree: Tree, group: str, count: int) -> Tree:
    """The scenario with so many nodes of one group, given by its name or its machine type."""
    path: TreePath = ("cluster", "nodes")
    listed = tree.at(path)
    groups = listed.content if listed is not None and isinstance(listed.content, list) else []
    for key in ("name", "machine"):
        found = [index for index, each in enumerate(groups) if (part := each.child(key)) and part.content == group]
        if len(found) == 1:
            break
    else:
        told = f"{len(found)} groups of nodes have this machine type" if found else "no group of nodes is called so"
        names = ", ".join(str(part.content) for each in groups if (part := each.child("name")))
        raise ScenarioError(Problem("study", None, "axes", group, told, f"name one group: {names}"))
    assert listed is not None
    index = found[0]
    part = groups[index]
    kept = groups[:index] + groups[index + 1 :]
    if count:
        kept.insert(index, part.put(("count",), from_plain(count, part.origin)))
    return tree.put(path, Tree(kept, listed.origin))
