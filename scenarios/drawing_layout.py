"""Where everything goes in a picture of a placement: rows of nodes, layers along x, flows in gutters between them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from placement.cluster import COORDINATOR, Cluster
from placement.layers import LayerRange
from placement.model import ModelSpec
from placement.plan import Plan
from placement.throughput import ThroughputModel

MOST_SINGLE_ROWS = 60
"""Clusters with more nodes show nodes of one type, region and range as one row."""

GUTTERS_SHARE = 0.7
"""Width of all gutters together, in widths of all layers; a gutter is where flows change rows."""
LEAST_GUTTER, MOST_GUTTER = 0.8, 5.0

CARRIES = 1e-6
"""Flows of less than this share of the whole are not drawn."""

BAND_GAP = 0.9
"""Height between two regions, in rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One node, or several alike.

    Attributes:
        names: Names of the nodes.
        machine_type: Their machine type.
        region: Their region.
        held: Their layer range.
        y: Middle of the row; rows are 1 apart, downward.
        flow: Tokens/s through all of them.
        capacity: Tokens/s that all of them can compute.
        cut: What of them is in the minimum cut: ``compute``, ``nic-in``, ``nic-out``.
    """

    names: tuple[str, ...]
    machine_type: str
    region: str
    held: LayerRange
    y: float
    flow: float
    capacity: float
    cut: tuple[str, ...]

    @property
    def label(self) -> str:
        """Name of the node, or the first of several and how many there are."""
        return self.names[0] if len(self.names) == 1 else f"{self.names[0]} +{len(self.names) - 1}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """Flow from one row to another, or from or to the coordinator (``None``).

    Attributes:
        source: Row that it leaves.
        target: Row that it enters.
        layer: Layers that are done on the way.
        tokens_per_s: How much.
        crossing: Whether it leads from one region to another.
        cut: Whether one of its links is in the minimum cut.
    """

    source: Row | None
    target: Row | None
    layer: int
    tokens_per_s: float
    crossing: bool
    cut: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The whole picture.

    Attributes:
        rows: From top to bottom.
        bands: Region, upper and lower edge, from top to bottom.
        streams: Thin ones first.
        boundaries: Layers with a gutter before them.
        gutter: Its width, in layers.
        layers: Layers of the model.
        layer_capacity: Tokens/s that the nodes with each layer can compute; shape ``(layers,)``.
        types: Machine type -> number of its nodes with layers, in file order.
        coordinator_cut: Whether one of the coordinator's cards is in the minimum cut.
    """

    rows: tuple[Row, ...]
    bands: tuple[tuple[str, float, float], ...]
    streams: tuple[Stream, ...]
    boundaries: tuple[int, ...]
    gutter: float
    layers: int
    layer_capacity: tuple[float, ...]
    types: Mapping[str, int]
    coordinator_cut: bool = field(default=False)

    def before(self, layer: int) -> float:
        """x of the end of a range that stops at ``layer``."""
        return layer + self.gutter * bisect_left(self.boundaries, layer)

    def after(self, layer: int) -> float:
        """x of the begin of a range that starts at ``layer``: past the gutter."""
        return layer + self.gutter * bisect_right(self.boundaries, layer)

    @property
    def width(self) -> float:
        """x of the end of the last layer."""
        return self.before(self.layers)

    @property
    def bottom(self) -> float:
        """Lower edge of the last row."""
        return self.bands[-1][2] if self.bands else 0.0


def lay_out(plan: Plan, cluster: Cluster, model: ModelSpec, throughput: ThroughputModel) -> Layout:
    """Arrange a plan for drawing.

    Args:
        plan: What to draw.
        cluster: Its nodes.
        model: Its model.
        throughput: T.
    """
    rows, bands = _rows(plan, cluster, throughput)
    streams = _streams(plan, cluster, rows)
    boundaries = tuple(sorted({stream.layer for stream in streams if 0 < stream.layer < model.layers}))
    gutter = min(MOST_GUTTER, max(LEAST_GUTTER, GUTTERS_SHARE * model.layers / max(1, len(boundaries))))
    capacity = [0.0] * model.layers
    for row in rows:
        for layer in range(row.held.start, row.held.stop):
            capacity[layer] += row.capacity
    types: dict[str, int] = {}
    for node in cluster.nodes:
        if node.name in plan.placement:
            types[node.machine_type] = types.get(node.machine_type, 0) + 1
    return Layout(
        rows=tuple(rows),
        bands=tuple(bands),
        streams=tuple(streams),
        boundaries=boundaries,
        gutter=gutter,
        layers=model.layers,
        layer_capacity=tuple(capacity),
        types=types,
        coordinator_cut=any(edge.source == edge.target == COORDINATOR for edge in plan.flow.min_cut),
    )


def _rows(
    plan: Plan, cluster: Cluster, throughput: ThroughputModel
) -> tuple[list[Row], list[tuple[str, float, float]]]:
    """Rows by region and first layer; regions by their mean first layer."""
    groups: dict[tuple[object, ...], list[str]] = {}
    for node in cluster.nodes:
        if node.name in plan.placement:
            alone = node.name if len(plan.placement) <= MOST_SINGLE_ROWS else ""
            key = (node.region, node.machine_type, plan.placement[node.name], alone)
            groups.setdefault(key, []).append(node.name)
    by_region: dict[str, list[list[str]]] = {}
    for names in groups.values():
        by_region.setdefault(cluster.region_of(names[0]), []).append(names)
    held = plan.placement.ranges
    cut: dict[str, list[str]] = {}
    for edge in plan.flow.min_cut:
        if edge.kind != "link":
            cut.setdefault(edge.source, []).append(edge.kind)

    def first(members: Sequence[list[str]]) -> float:
        return sum(held[names[0]].start for names in members) / len(members)

    rows: list[Row] = []
    bands: list[tuple[str, float, float]] = []
    y = 0.0
    for region in sorted(by_region, key=lambda region: (first(by_region[region]), region)):
        top = y
        for names in sorted(by_region[region], key=lambda names: held[names[0]]):
            kind = cluster.node(names[0]).machine_type
            rows.append(
                Row(
                    names=tuple(names),
                    machine_type=kind,
                    region=region,
                    held=held[names[0]],
                    y=y + 0.5,
                    flow=sum(plan.flow.node_flow[name] for name in names),
                    capacity=len(names) * throughput.tokens_per_s(kind, len(held[names[0]])),
                    cut=tuple(dict.fromkeys(kind for name in names for kind in cut.get(name, ()))),
                )
            )
            y += 1.0
        bands.append((region, top, y))
        y += BAND_GAP
    return rows, bands


def _streams(plan: Plan, cluster: Cluster, rows: Sequence[Row]) -> list[Stream]:
    row_of = {name: row for row in rows for name in row.names}
    cut = {(edge.source, edge.target) for edge in plan.flow.min_cut if edge.kind == "link"}
    least = CARRIES * plan.flow.tokens_per_s
    amounts: dict[tuple[str, str], float] = {}
    limits: dict[tuple[str, str], bool] = {}
    for pair, amount in plan.flow.link_flow.items():
        if amount > least:
            ends = _first_names(pair, row_of)
            amounts[ends] = amounts.get(ends, 0.0) + amount
            limits[ends] = limits.get(ends, False) or pair in cut
    streams = [
        Stream(
            source=row_of.get(source),
            target=row_of.get(target),
            layer=0 if source == COORDINATOR else row_of[source].held.stop,
            tokens_per_s=amount,
            crossing=cluster.region_of(source) != cluster.region_of(target),
            cut=limits[source, target],
        )
        for (source, target), amount in amounts.items()
    ]
    return sorted(streams, key=lambda stream: stream.tokens_per_s)


def _first_names(pair: tuple[str, str], row_of: Mapping[str, Row]) -> tuple[str, str]:
    source, target = (end if end == COORDINATOR else row_of[end].names[0] for end in pair)
    return source, target
