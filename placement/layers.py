"""Layer ranges and placements."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from placement.cluster import COORDINATOR, Cluster
from placement.errors import PlanError
from placement.model import ModelSpec
from placement.profile import MachineProfile


@dataclass(frozen=True, slots=True, order=True)
class LayerRange:
    """Half-open range ``[start, stop)`` of layers."""

    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop:
            raise PlanError(f"layer range [{self.start}, {self.stop}): start must be at least 0 and less than stop")

    def __len__(self) -> int:
        return self.stop - self.start

    def __contains__(self, layer: object) -> bool:
        return isinstance(layer, int) and self.start <= layer < self.stop

    def __str__(self) -> str:
        return f"[{self.start}, {self.stop})"


@dataclass(frozen=True, slots=True)
class Placement:
    """Which node holds which layers.

    Attributes:
        ranges: Node name -> layer range; nodes that hold nothing are absent.
    """

    ranges: Mapping[str, LayerRange]

    def __getitem__(self, node: str) -> LayerRange:
        return self.ranges[node]

    def __contains__(self, node: object) -> bool:
        return node in self.ranges

    def __iter__(self) -> Iterator[str]:
        return iter(self.ranges)

    def __len__(self) -> int:
        return len(self.ranges)

    def usable(self, source: str, target: str, layers: int, *, partial_inference: bool = True) -> bool:
        """Whether work may go from ``source`` to ``target`` (HELIX.md section 1: ``s_j <= e_i < e_j``).

        Args:
            source: Node name or :data:`~placement.cluster.COORDINATOR`.
            target: Node name or :data:`~placement.cluster.COORDINATOR`.
            layers: Layers in the model.
            partial_inference: Whether a request may enter a node past its first layer.
        """
        if source == COORDINATOR:
            return target in self.ranges and self.ranges[target].start == 0
        if source not in self.ranges:
            return False
        done = self.ranges[source].stop
        if target == COORDINATOR:
            return done == layers
        if target not in self.ranges:
            return False
        held = self.ranges[target]
        if partial_inference:
            return held.start <= done < held.stop
        return held.start == done


def check_placement(
    placement: Placement,
    cluster: Cluster,
    model: ModelSpec,
    profiles: Mapping[str, MachineProfile],
    *,
    allow_over_profile: bool = False,
) -> None:
    """Check that a placement can serve the model.

    Args:
        placement: What to check.
        cluster: Where it should run.
        model: What it should serve.
        profiles: Machine type -> profile.
        allow_over_profile: Accept more layers than the profile's maximum as long as the weights fit the memory.

    Raises:
        PlanError: Unknown node or machine type, range past the model's end, node too small for its range,
            a layer that nobody holds, or no path through the links from the coordinator back to it.
    """
    problems: list[str] = []
    for name, held in placement.ranges.items():
        if name not in cluster:
            problems.append(f"placement: {name} is no node of cluster {cluster.name}; remove it or add the node")
            continue
        node = cluster.node(name)
        if held.stop > model.layers:
            problems.append(f"placement: {name} holds {held}, but {model.name} has only {model.layers} layers")
        profile = profiles.get(node.machine_type)
        if profile is None:
            problems.append(
                f"placement: {name} is a {node.machine_type}, for which there is no profile of {model.name}; "
                f"profiles exist for {', '.join(profiles) or 'nothing'}"
            )
        elif len(held) > profile.max_layers and not allow_over_profile:
            problems.append(
                f"placement: {name} ({node.machine_type}) holds {len(held)} layers {held}, "
                f"but at most {profile.max_layers} fit beside its KV cache; give it fewer"
            )
        if len(held) * model.layer_bytes > node.vram_bytes:
            problems.append(
                f"placement: {name} holds {held}, {len(held) * model.layer_bytes / 1e9:.1f} GB of weights, "
                f"but has {node.vram_bytes / 1e9:.1f} GB of memory; give it fewer layers"
            )
    covered = [False] * model.layers
    for held in placement.ranges.values():
        covered[held.start : held.stop] = [True] * len(covered[held.start : held.stop])
    problems.extend(f"placement: no node holds layers {gap}; every layer needs a node" for gap in _gaps(covered))
    if not problems and not _reaches_end(placement, cluster, model):
        problems.append(
            "placement: no chain of links leads from the coordinator through all layers and back; "
            "add links or change ranges so that each node's range starts at or before another one's end"
        )
    if problems:
        raise PlanError(problems)


def _gaps(covered: list[bool]) -> list[LayerRange]:
    gaps: list[LayerRange] = []
    start: int | None = None
    for layer, held in enumerate([*covered, True]):
        if not held and start is None:
            start = layer
        elif held and start is not None:
            gaps.append(LayerRange(start, layer))
            start = None
    return gaps


def _reaches_end(placement: Placement, cluster: Cluster, model: ModelSpec) -> bool:
    frontier, seen = [COORDINATOR], {COORDINATOR}
    while frontier:
        source = frontier.pop()
        if (
            source != COORDINATOR
            and placement.usable(source, COORDINATOR, model.layers)
            and (cluster.link(source, COORDINATOR) is not None)
        ):
            return True
        for target in placement:
            if (
                target not in seen
                and placement.usable(source, target, model.layers)
                and cluster.link(source, target) is not None
            ):
                seen.add(target)
                frontier.append(target)
    return False
