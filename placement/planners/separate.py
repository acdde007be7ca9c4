"""Separate pipelines: every machine type serves the model on its own (HELIX.md section 6)."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import ClassVar

from placement.cluster import COORDINATOR, Node
from placement.effort import now_s
from placement.errors import PlanError
from placement.layers import LayerRange, Placement
from placement.plan import Plan, Problem, finish_plan
from placement.planners.split import chain_ranges, describe, even_shares, groups_that_hold


@dataclass(slots=True)
class _Draft:
    ranges: dict[str, LayerRange] = field(default_factory=dict)
    links: list[tuple[str, str]] = field(default_factory=list)
    stay_out: list[str] = field(default_factory=list)
    over_profile: list[str] = field(default_factory=list)

    def add_pipeline(self, nodes: list[Node], shares: list[int]) -> None:
        chain = chain_ranges(nodes, shares)
        self.ranges |= chain
        stops = [COORDINATOR, *chain, COORDINATOR]
        self.links += itertools.pairwise(stops)


@dataclass(frozen=True, slots=True)
class SeparatePlanner:
    """As many pipelines of each machine type as it can hold, layers split evenly, no link between pipelines.

    Attributes:
        allow_over_profile: A machine type that cannot hold the model within its profile's maximum makes one pipeline
            that goes beyond it, if its memory holds the weights. Otherwise such a type stays out.
    """

    name: ClassVar[str] = "separate"
    allow_over_profile: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.allow_over_profile, bool):
            raise PlanError(f"separate: allow_over_profile is {self.allow_over_profile!r}; it must be true or false")

    def plan(self, problem: Problem) -> Plan:
        """Place the model.

        Raises:
            PlanError: No machine type can hold the model alone, or a link between consecutive nodes is missing.
        """
        started_s = now_s()
        draft = _Draft()
        for kind in problem.cluster.machine_counts():
            self._add_type(problem, kind, draft)
        if not draft.ranges:
            raise PlanError([*draft.stay_out, self._remedy(problem)])
        missing = [pair for pair in draft.links if problem.cluster.link(*pair) is None]
        if missing:
            raise PlanError(
                [
                    f"separate: a pipeline needs link {a} -> {b}, but cluster {problem.cluster.name} has none; add it"
                    for a, b in missing
                ]
            )
        in_file_order = {
            node.name: draft.ranges[node.name] for node in problem.cluster.nodes if node.name in draft.ranges
        }
        return finish_plan(
            problem,
            Placement(in_file_order),
            planner=self.name,
            started_s=started_s,
            links=draft.links,
            allow_over_profile=bool(draft.over_profile),
            warnings=draft.stay_out + draft.over_profile,
        )

    def _add_type(self, problem: Problem, kind: str, draft: _Draft) -> None:
        layers = problem.model.layers
        nodes = [node for node in problem.cluster.nodes if node.machine_type == kind]
        maxima = [problem.most_layers(node) for node in nodes]
        groups = groups_that_hold(layers, maxima)
        over = not groups and self.allow_over_profile
        if over:
            maxima = [problem.most_layers(node, allow_over_profile=True) for node in nodes]
            # One pipeline only: more would take the memory that is left for the KV cache.
            groups = [range(len(nodes))] if sum(maxima) >= layers else []
        for group in groups:
            shares = even_shares(layers, [maxima[index] for index in group])
            draft.add_pipeline([nodes[index] for index in group], shares)
        room = sum(maxima)
        if not groups:
            lacking = layers - room
            draft.stay_out.append(
                f"separate: {kind} stays out: it holds {room} of {layers} layers alone "
                f"({describe(problem, nodes, allow_over_profile=over)}); {lacking} layers "
                f"({lacking * problem.model.layer_bytes / 1e9:.1f} GB of weights) are missing"
            )
        elif over:
            most = problem.profiles[kind].max_layers
            draft.over_profile.append(f"separate: {kind} nodes hold more than the profile's maximum of {most} layers")

    def _remedy(self, problem: Problem) -> str:
        option = "" if self.allow_over_profile else ", or set allow_over_profile"
        return f"separate: no machine type holds {problem.model.name} alone; add machines of one type{option}"
