"""A scenario's workload: reads its traces and makes the emulator's value."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from emulator.errors import SimulationError
from emulator.workload import (
    Arrival,
    ClosedLoop,
    FixedLengths,
    Lengths,
    LengthSource,
    ListedArrivals,
    ListedLengths,
    OpenLoop,
    QuantileLengths,
    RandomArrivals,
    Workload,
)
from scenarios.errors import Problem, ScenarioError
from scenarios.references import seen_from
from scenarios.schema_workload import (
    ArrivalTraceSection,
    ClosedWorkloadSection,
    LengthsSection,
    LengthTraceSection,
    OpenWorkloadSection,
    QuantilesSection,
)
from scenarios.traces import read_trace
from scenarios.tree import Tree, TreePath
from scenarios.validation import problem_at


@dataclass(slots=True)
class WorkloadMaker:
    """Makes the workload of one scenario.

    Attributes:
        tree: The scenario; trace files in it become absolute, with their checksums.
        sources: Takes the trace files.
    """

    tree: Tree
    sources: list[Path]

    def make(self, section: OpenWorkloadSection | ClosedWorkloadSection) -> Workload:
        """The emulator's workload.

        Raises:
            ScenarioError: A trace that cannot be read or is not the one it was, or values that make no workload.
        """
        try:
            return self._open(section) if isinstance(section, OpenWorkloadSection) else self._closed(section)
        except SimulationError as error:
            rule, _, remedy = str(error).removeprefix("workload: ").rpartition("; ")
            raise ScenarioError(problem_at(self.tree, ("workload",), rule or str(error), remedy)) from None

    def _open(self, section: OpenWorkloadSection) -> OpenLoop:
        if section.trace is not None:
            return OpenLoop(source=ListedArrivals(self._trace(section.trace, ("workload", "trace"))))
        synthetic = section.synthetic
        if synthetic is None:
            raise AssertionError("the schema asks for a trace or synthetic arrivals")
        lengths = self._lengths(synthetic.lengths, ("workload", "synthetic", "lengths"))
        arrivals = RandomArrivals(
            requests_per_s=synthetic.requests_per_s, burstiness=synthetic.burstiness, lengths=lengths
        )
        return OpenLoop(source=arrivals)

    def _closed(self, section: ClosedWorkloadSection) -> ClosedLoop:
        return ClosedLoop(
            lengths=self._lengths(section.lengths, ("workload", "lengths")),
            initial_requests=section.initial_requests,
            refill=section.refill,
            spacing_s=section.spacing,
            feed_high_water_mark=section.feed_high_water_mark,
        )

    def _lengths(self, section: LengthsSection, path: TreePath) -> LengthSource:
        if section.quantiles is not None:
            return _quantile_lengths(section.quantiles, section.scale)
        if section.scale != 1:
            rule = "only a quantile table can be scaled"
            raise ScenarioError(problem_at(self.tree, (*path, "scale"), rule, "remove scale"))
        if section.trace is not None:
            arrivals = self._trace(section.trace, (*path, "trace"))
            return ListedLengths([Lengths(each.prompt_tokens, each.output_tokens) for each in arrivals])
        if section.prompt_tokens is None or section.output_tokens is None:
            raise AssertionError("the schema asks for one form, and the library's table is in its place by now")
        return FixedLengths(prompt_tokens=section.prompt_tokens, output_tokens=section.output_tokens)

    def _trace(self, section: LengthTraceSection, path: TreePath) -> list[Arrival]:
        part = self.tree.nearest((*path, "file"))
        file = part.origin.folder / section.file
        try:
            arrivals = read_trace(
                file,
                format=section.format,
                requests_per_s=section.requests_per_s if isinstance(section, ArrivalTraceSection) else None,
                tokens_per_s=section.tokens_per_s if isinstance(section, ArrivalTraceSection) else None,
                limit=section.limit,
                start_s=section.start if isinstance(section, ArrivalTraceSection) else 0.0,
            )
            digest = _sha256(file)
        except ScenarioError as error:
            raise ScenarioError(_told(part, path, file, error)) from None
        except (OSError, ValueError) as error:
            rule = f"the trace cannot be read: {error}"
            raise ScenarioError(problem_at(self.tree, (*path, "file"), rule, "check the path")) from None
        if not arrivals:
            rule = "the trace has no requests"
            raise ScenarioError(problem_at(self.tree, (*path, "file"), rule, "name a trace with at least one"))
        if section.sha256 is not None and section.sha256 != digest:
            rule = f"the trace {file} has changed: its SHA-256 is {digest}"
            remedy = "restore the file, or remove sha256 to accept the new one"
            raise ScenarioError(problem_at(self.tree, (*path, "sha256"), rule, remedy))
        self.sources.append(file)
        self.tree = self.tree.put((*path, "file"), Tree(str(file.resolve()), part.origin))
        self.tree = self.tree.put((*path, "sha256"), Tree(digest, part.origin))
        return arrivals


def _quantile_lengths(section: QuantilesSection, scale: float) -> QuantileLengths:
    table = section.output_tokens_by_prompt_bin
    return QuantileLengths(
        prompt_quantiles=section.prompt_tokens,
        # The last bin's edge is for the reader; everything above the edge before it is in that bin.
        bin_edges=table.edges[: len(table.quantiles) - 1],
        output_quantiles=table.quantiles,
        scale=scale,
    )


def _told(part: Tree, path: TreePath, file: Path, error: ScenarioError) -> list[Problem]:
    """A trace's problems; those with opening it are told where it is named."""
    problems = [seen_from(part, problem, file) for problem in error.problems]
    name = ".".join(str(key) for key in (*path, "file"))
    return [Problem(p.file, p.line, p.path or name, p.value, p.rule, p.remedy) for p in problems]


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
