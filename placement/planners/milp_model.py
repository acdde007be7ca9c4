"""The published mixed-integer program of Helix (PLANNER.md, "The published MILP"; arXiv 2406.01566, section 4).

For n nodes and L layers: node i starts at layer ``s_i`` and holds k layers when ``b_ik = 1``, so it ends at
``e_i = s_i + sum_k k b_ik``. Link i -> j carries ``f_ij`` tokens/s and may do so when ``d_ij = 1``; S and T stand for
the coordinator as source and sink. The flow ``sum_i f_Si`` is to be greatest. Columns and rows bear the indices of
nodes in file order: ``s_3``, ``b_3_5``, ``f_S_3``, ``d_3_4``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from placement.cluster import COORDINATOR, Node
from placement.layers import LayerRange, Placement
from placement.plan import Problem
from placement.planners.milp_program import Floats, Program, ProgramBuilder

Pair = tuple[str, str]
"""``(source, target)``: node names, or the coordinator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Formulation:
    """Which variant of the program to write.

    Attributes:
        partial_inference: Whether a request may enter a node past its first layer: a link i -> j is usable when
            ``s_j <= e_i < e_j``, otherwise only when ``s_j = e_i``.
        max_degree: Links between nodes that each node keeps in either direction; all when ``None``.
        coordinator_degree: Links that the coordinator keeps in either direction; all when ``None``.
        redundant: Add rows that follow from the others but that a relaxation does not see.
        tighten: Limit a link's capacity, which is the factor of its switch, by what its ends can compute.
        switch_on_ends: Force ``d_Si = 1`` where ``s_i = 0`` and ``d_iT = 1`` where ``e_i = L``. The optimum stays the
            same; some of the published models have these rows.
        exact_bytes: Count a token between nodes with its id, and the coordinator's network cards. The published
            program counts the activation alone.
        pinned: Node name -> the only range that it may hold.
        forbidden: Nodes that hold nothing.
    """

    partial_inference: bool = True
    max_degree: int | None = None
    coordinator_degree: int | None = None
    redundant: bool = False
    tighten: bool = False
    switch_on_ends: bool = False
    exact_bytes: bool = False
    pinned: Mapping[str, LayerRange] = field(default_factory=dict)
    forbidden: tuple[str, ...] = ()

    def members(self, problem: Problem) -> tuple[Node, ...]:
        """Nodes that take part: those that hold at least one layer and are not forbidden."""
        nodes = problem.cluster.nodes
        return tuple(node for node in nodes if node.name not in self.forbidden and problem.most_layers(node) > 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkColumns:
    """Columns of one link; ``reach`` and ``rise`` exist between nodes with partial inference only."""

    flow: int
    switch: int
    reach: int | None = None
    rise: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MilpModel:
    """The program and what its columns mean.

    Attributes:
        program: The arrays.
        layers: L.
        partial_inference: See :class:`Formulation`.
        starts: Node name -> column of ``s_i``, in file order.
        holds: Node name -> columns of ``b_i1, b_i2, ...``
        links: ``(source, target)`` -> columns, for every link that the program knows.
    """

    program: Program
    layers: int
    partial_inference: bool
    starts: Mapping[str, int]
    holds: Mapping[str, tuple[int, ...]]
    links: Mapping[Pair, LinkColumns]

    def placement(self, values: Floats) -> Placement:
        """The layer ranges that a solution describes; shape of ``values``: ``(columns,)``."""
        ranges = {}
        for name, column in self.starts.items():
            start = round(float(values[column]))
            count = 1 + int(np.argmax(values[list(self.holds[name])]))
            ranges[name] = LayerRange(start, start + count)
        return Placement(ranges)

    def solution(self, placement: Placement, link_flow: Mapping[Pair, float]) -> Floats:
        """The solution that describes a placement of all nodes and a flow through it; shape ``(columns,)``.

        Every usable link is switched on, whether the flow uses it or not.
        """
        values = np.zeros(self.program.columns)
        for name, column in self.starts.items():
            values[column] = placement[name].start
            values[self.holds[name][len(placement[name]) - 1]] = 1.0
        for (source, target), columns in self.links.items():
            values[columns.flow] = link_flow.get((source, target), 0.0)
            usable = placement.usable(source, target, self.layers, partial_inference=self.partial_inference)
            values[columns.switch] = usable
            if columns.reach is not None and columns.rise is not None:
                values[columns.reach] = placement[target].start <= placement[source].stop
                values[columns.rise] = placement[source].stop < placement[target].stop
        return values


def build_model(problem: Problem, formulation: Formulation, keep: Iterable[Pair] = ()) -> MilpModel:
    """Write the program of a problem.

    Args:
        problem: Cluster, model and node throughputs.
        formulation: The variant.
        keep: Links between nodes that pruning spares beside its own choice.
    """
    writer = _Writer(problem, formulation)
    writer.add_node_columns()
    pairs = kept_links(problem, formulation, keep)
    for source, target in pairs:
        writer.add_link_columns(source, target)
    writer.add_node_rows()
    for source, target in pairs:
        writer.add_link_rows(source, target)
    if formulation.exact_bytes:
        writer.add_coordinator_rows()
    if formulation.redundant:
        writer.add_redundant_rows()
    return MilpModel(
        program=writer.builder.build(),
        layers=problem.model.layers,
        partial_inference=formulation.partial_inference,
        starts=writer.starts,
        holds=writer.holds,
        links=writer.links,
    )


def kept_links(problem: Problem, formulation: Formulation, keep: Iterable[Pair] = ()) -> list[Pair]:
    """Links of the program: those that pruning leaves, first the coordinator's.

    Each node keeps its ``max_degree`` fastest links out and its ``max_degree`` fastest links in; a link stays when
    either end keeps it. The coordinator sends to its ``coordinator_degree`` fastest nodes and receives from as many.

    Args:
        problem: Whose links.
        formulation: The degrees.
        keep: Links that stay in any case.
    """
    names = [node.name for node in formulation.members(problem)]
    outer = [(COORDINATOR, name) for name in names] + [(name, COORDINATOR) for name in names]
    inner = [(source, target) for source in names for target in names if source != target]
    outer, inner = ([pair for pair in pairs if problem.cluster.link(*pair) is not None] for pairs in (outer, inner))
    chosen = set(keep)
    chosen.update(_fastest(problem, outer, [COORDINATOR], formulation.coordinator_degree))
    chosen.update(_fastest(problem, inner, names, formulation.max_degree))
    return [pair for pair in outer + inner if pair in chosen]


def _fastest(problem: Problem, pairs: list[Pair], hubs: Sequence[str], degree: int | None) -> list[Pair]:
    """Of the links at each hub the ``degree`` fastest out and the ``degree`` fastest in.

    Equally fast ones go by latency, then by distance round the file's order, so that no node is everybody's neighbour.
    """
    if degree is None:
        return pairs
    cluster = problem.cluster
    cards = {node.name: (node.nic_out_bytes_per_s, node.nic_in_bytes_per_s) for node in cluster.nodes}
    cards[COORDINATOR] = (cluster.coordinator.nic_out_bytes_per_s, cluster.coordinator.nic_in_bytes_per_s)
    place = {name: index for index, name in enumerate(cards)}

    def rank(pair: Pair) -> tuple[float, float, int]:
        link = cluster.link(*pair)
        assert link is not None, "callers pass linked pairs only"
        rate = min(link.bandwidth_bytes_per_s, cards[pair[0]][0], cards[pair[1]][1])
        return -rate, link.latency_s, (place[pair[1]] - place[pair[0]]) % len(place)

    at_hub: dict[tuple[int, str], list[Pair]] = {(side, hub): [] for side in (0, 1) for hub in hubs}
    for pair in sorted(pairs, key=rank):
        for side in (0, 1):
            if (side, pair[side]) in at_hub:
                at_hub[side, pair[side]].append(pair)
    return [pair for ranked in at_hub.values() for pair in ranked[:degree]]


class _Writer:
    """Writes columns and rows; the index of a node in the whole cluster is part of their names."""

    def __init__(self, problem: Problem, formulation: Formulation) -> None:
        self.problem, self.how = problem, formulation
        self.builder = ProgramBuilder()
        self.layers = problem.model.layers
        self.nodes = formulation.members(problem)
        model = problem.model
        self.hop_bytes = model.hop_bytes if formulation.exact_bytes else model.activation_bytes
        self.label = {node.name: str(index) for index, node in enumerate(problem.cluster.nodes)}
        self.rates = {node.name: self._rates(node) for node in self.nodes}
        self.starts: dict[str, int] = {}
        self.holds: dict[str, tuple[int, ...]] = {}
        self.links: dict[Pair, LinkColumns] = {}
        self.inflow: dict[str, list[Pair]] = {node.name: [] for node in self.nodes}
        self.outflow: dict[str, list[Pair]] = {node.name: [] for node in self.nodes}

    def _rates(self, node: Node) -> list[float]:
        """T(k) for k = 1, 2, ..., clipped by the faster network card.

        A node with k < L layers sends or receives activations only; a node with all layers does not, and where the
        cards differ the slower one may touch the coordinator only: :meth:`_card_rows` sees to both.
        """
        card = max(node.nic_in_bytes_per_s, node.nic_out_bytes_per_s) / self.hop_bytes
        rates = []
        for held in range(1, self.problem.most_layers(node) + 1):
            rate = self.problem.throughput.tokens_per_s(node.machine_type, held)
            rates.append(rate if held == self.layers else min(rate, card))
        return rates

    def _possible_rates(self, name: str) -> list[float]:
        pinned = self.how.pinned.get(name)
        return self.rates[name] if pinned is None else [self.rates[name][len(pinned) - 1]]

    def add_node_columns(self) -> None:
        """``s_i`` and ``b_ik``; pinned nodes have them fixed."""
        for node in self.nodes:
            label = self.label[node.name]
            start = self.builder.column(f"s_{label}", upper=self.layers - 1, integer=True)
            counts = range(1, len(self.rates[node.name]) + 1)
            holds = tuple(self.builder.binary(f"b_{label}_{held}") for held in counts)
            self.starts[node.name], self.holds[node.name] = start, holds
            pinned = self.how.pinned.get(node.name)
            if pinned is not None:
                self.builder.fix(start, pinned.start)
                for held, column in zip(counts, holds, strict=True):
                    self.builder.fix(column, held == len(pinned))

    def add_link_columns(self, source: str, target: str) -> None:
        """``f_ij`` and ``d_ij``, and ``reach``, ``rise`` with partial inference."""
        ends = f"{self.label.get(source, 'S')}_{self.label.get(target, 'T')}"
        inner = COORDINATOR not in (source, target)
        flow = self.builder.column(f"f_{ends}", cost=float(source == COORDINATOR))
        switch = self.builder.binary(f"d_{ends}")
        if inner and self.how.partial_inference:
            reach, rise = self.builder.binary(f"reach_{ends}"), self.builder.binary(f"rise_{ends}")
            self.links[source, target] = LinkColumns(flow=flow, switch=switch, reach=reach, rise=rise)
        else:
            self.links[source, target] = LinkColumns(flow=flow, switch=switch)
        if target != COORDINATOR:
            self.inflow[target].append((source, target))
        if source != COORDINATOR:
            self.outflow[source].append((source, target))

    def _flows(self, pairs: Iterable[Pair], factor: float = 1.0) -> list[tuple[int, float]]:
        return [(self.links[pair].flow, factor) for pair in pairs]

    def _end(self, name: str, factor: float) -> list[tuple[int, float]]:
        """``factor * e_i``."""
        holds = [(column, factor * held) for held, column in enumerate(self.holds[name], start=1)]
        return [(self.starts[name], factor), *holds]

    def add_node_rows(self) -> None:
        """``sum_k b_ik = 1``, ``e_i <= L``, ``inflow = outflow <= sum_k T_i(k) b_ik``."""
        for node in self.nodes:
            name, label = node.name, self.label[node.name]
            holds = self.holds[name]
            self.builder.row(f"one_{label}", [(column, 1.0) for column in holds], lower=1.0, upper=1.0)
            self.builder.row(f"end_{label}", self._end(name, 1.0), upper=self.layers)
            inflow = self._flows(self.inflow[name])
            outflow = self._flows(self.outflow[name], -1.0)
            self.builder.row(f"keep_{label}", inflow + outflow, lower=0.0, upper=0.0)
            limits = [(column, -rate) for column, rate in zip(holds, self.rates[name], strict=True)]
            self.builder.row(f"rate_{label}", limits + inflow, upper=0.0)
            self._card_rows(node)

    def _card_rows(self, node: Node) -> None:
        """``token * f_S + hop * sum f_j <= NIC`` for both cards of a node whose clipped T(k) does not imply it."""
        into, out = node.nic_in_bytes_per_s, node.nic_out_bytes_per_s
        clipped = into == out and len(self.rates[node.name]) < self.layers
        if clipped or max(self._possible_rates(node.name)) * self.hop_bytes <= min(into, out):
            return
        for what, pairs, card in (("in", self.inflow, into), ("out", self.outflow, out)):
            self._bytes_row(f"card_{what}_{self.label[node.name]}", pairs[node.name], card)

    def _bytes_row(self, name: str, pairs: Sequence[Pair], card_bytes_per_s: float) -> None:
        # In tokens, not bytes, so that the row's coefficients are of the size of all others.
        unit = self.problem.model.token_bytes / self.hop_bytes
        terms = [(self.links[pair].flow, unit if COORDINATOR in pair else 1.0) for pair in pairs]
        self.builder.row(name, terms, upper=card_bytes_per_s / self.hop_bytes)

    def add_link_rows(self, source: str, target: str) -> None:
        """``f_ij <= B_ij d_ij``, and when ``d_ij`` may be 1."""
        columns, top = self.links[source, target], float(self.layers)
        ends = f"{self.label.get(source, 'S')}_{self.label.get(target, 'T')}"
        self.builder.row(
            f"cap_{ends}", [(columns.flow, 1.0), (columns.switch, -self._capacity(source, target))], upper=0.0
        )
        if source == COORDINATOR:
            start = self.starts[target]
            self.builder.row(f"first_{ends}", [(start, 1.0), (columns.switch, top)], upper=top)
            if self.how.switch_on_ends:
                self.builder.row(f"first_on_{ends}", [(start, 1.0), (columns.switch, 1.0)], lower=1.0)
        elif target == COORDINATOR:
            end = self._end(source, -1.0)
            self.builder.row(f"last_{ends}", [*end, (columns.switch, top)], upper=0.0)
            if self.how.switch_on_ends:
                self.builder.row(f"last_on_{ends}", [*end, (columns.switch, top - 1)], lower=1 - top)
        elif columns.reach is None or columns.rise is None:
            for sign, name in ((1.0, "join1"), (-1.0, "join2")):
                gap = [*self._end(source, sign), (self.starts[target], -sign)]
                self.builder.row(f"{name}_{ends}", [*gap, (columns.switch, top)], upper=top)
        else:
            done = self._end(source, -1.0)
            reach = [(self.starts[target], 1.0), *done, (columns.reach, top + 1)]
            self.builder.row(f"may_reach_{ends}", reach, upper=top + 1)
            rise = [*self._end(target, 1.0), *done, (columns.rise, -(top + 1))]
            self.builder.row(f"may_rise_{ends}", rise, lower=-top)
            both = [(columns.switch, 2.0), (columns.reach, -1.0), (columns.rise, -1.0)]
            self.builder.row(f"both_{ends}", both, upper=0.0)

    def _capacity(self, source: str, target: str) -> float:
        link = self.problem.cluster.link(source, target)
        assert link is not None, "the program has columns for linked pairs only"
        unit = self.problem.model.token_bytes if COORDINATOR in (source, target) else self.hop_bytes
        capacity = link.bandwidth_bytes_per_s / unit
        if self.how.tighten:
            peaks = [max(self._possible_rates(end)) for end in (source, target) if end != COORDINATOR]
            capacity = min(capacity, *peaks)
        return capacity

    def add_coordinator_rows(self) -> None:
        """What the coordinator's network cards let through; the published program leaves it out."""
        card, token = self.problem.cluster.coordinator, self.problem.model.token_bytes
        sent = [pair for pair in self.links if pair[0] == COORDINATOR]
        received = [pair for pair in self.links if pair[1] == COORDINATOR]
        self.builder.row("card_out_S", self._flows(sent), upper=card.nic_out_bytes_per_s / token)
        self.builder.row("card_in_T", self._flows(received), upper=card.nic_in_bytes_per_s / token)

    def add_redundant_rows(self) -> None:
        """``sum_i f_Si = sum_i f_iT``; ``L F <= sum_ik k T_i(k) b_ik``; ``F <= sum_i max_k k T_i(k) / L``.

        Every token takes L layer executions, and a node with k layers gives at most k to each of at most T(k)
        tokens/s. The last row follows from the second, but costs a relaxation nothing.
        """
        flow = self._flows(pair for pair in self.links if pair[0] == COORDINATOR)
        received = self._flows((pair for pair in self.links if pair[1] == COORDINATOR), -1.0)
        self.builder.row("conserved", flow + received, lower=0.0, upper=0.0)
        work = [
            (column, -held * rate)
            for name, holds in self.holds.items()
            for held, (column, rate) in enumerate(zip(holds, self.rates[name], strict=True), start=1)
        ]
        self.builder.row("work", [(column, float(self.layers)) for column, _ in flow] + work, upper=0.0)
        most = sum(max(held * rate for held, rate in enumerate(rates, start=1)) for rates in self.rates.values())
        self.builder.row("ceiling", flow, upper=most / self.layers)
