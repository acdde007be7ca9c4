"""What one more node of a type would be worth: the best that it can do as things are, and after planning anew.

The first answer needs nobody else to load anything. The second may move everybody; it stands beside what planning anew
would bring without any new node, which costs no hardware.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from emulator.predicting import BRIEF, predict_run
from emulator.spec import EmulationSpec
from placement.cluster import COORDINATOR, Cluster, Link, Network, Node
from placement.effort import counted
from placement.errors import PlanError
from placement.flow import most_layers
from placement.layers import LayerRange, Placement
from placement.plan import Problem
from placement.replanning import layers_to_load, replan
from placement.throughput import ThroughputModel
from scenarios.reports.marginal import Change, bound_of, flow_of, throughput_of, used_up

REPLAN_S = 1.0
"""Seconds that planning anew may take, counted in work (:mod:`placement.effort`), so that the same comes out always."""
MOST_TRIALS = 20_000
"""So many ranges, times nodes of the cluster, are tried for a new node."""
SHORTLIST = 4
"""So many ranges of equal max flow are compared by what the serving model expects."""
EQUAL = 1e-9
"""Flows whose difference is less than this share of them are equal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeTask:
    """What to find out: about one more node of a type, or, without one, about the nodes that there are.

    Attributes:
        spec: The scenario.
        machine_type: Type of the new node; empty for none.
        by_serving: Choose among the placements found by what the serving model expects them to decode; otherwise by
            their max flow.
        alone: The scenario planned anew without a new node, where that is known already.
    """

    spec: EmulationSpec
    machine_type: str
    by_serving: bool = True
    alone: EmulationSpec | None = None


def node_tasks(spec: EmulationSpec, *, by_serving: bool = True) -> list[NodeTask]:
    """Planning anew, and one more node of every type, in file order."""
    kinds = ["", *spec.cluster.machine_counts()]
    return [NodeTask(spec=spec, machine_type=kind, by_serving=by_serving) for kind in kinds]


def node_changes(task: NodeTask) -> list[Change]:
    """The changes of a task: without planning anew, where there is a new node and it can hold anything, and with.

    Where none of the new placements is better, the one with is what there is without.
    """
    spec, throughput = task.spec, throughput_of(task.spec)
    kept = best_as_things_are(task, throughput) if task.machine_type else spec
    if kept is None:
        return []
    found = [] if kept is spec else [_change(task, kept, throughput, replanned=False)]
    best, most = kept, _worth(task, kept, throughput)
    for anew in _anew(task, kept, throughput):
        worth = _worth(task, anew, throughput)
        if worth > most * (1 + EQUAL):
            best, most = anew, worth
    if best is kept and found:
        nothing = replace(found[0], name=f"{found[0].name}; placing everybody anew brings no more", replanned=True)
        return [*found, nothing]
    return [*found, _change(task, best, throughput, replanned=True)]


def _worth(task: NodeTask, spec: EmulationSpec, throughput: ThroughputModel) -> float:
    flow = flow_of(spec, throughput).tokens_per_s
    if not task.by_serving or flow <= 0:
        return flow
    return predict_run(spec, BRIEF).decode_tokens_per_s


def _change(task: NodeTask, spec: EmulationSpec, throughput: ThroughputModel, *, replanned: bool) -> Change:
    load = layers_to_load(spec.placement, task.spec.placement)
    layers = {name: sum(map(len, ranges)) for name, ranges in load.items()}
    size = spec.model.layer_bytes
    if not task.machine_type:
        name = "no new node"
        if spec is task.spec:
            name, replanned = f"{name}; placing everybody anew brings nothing", False
    else:
        new = spec.cluster.nodes[-1]
        held = spec.placement.ranges.get(new.name)
        holds = "holding nothing" if held is None else f"layers {held}"
        name = f"one more {task.machine_type} in {new.region}, {holds}"
    return Change(
        name=f"{name}, everybody placed anew" if replanned else name,
        kind="node" if task.machine_type else "replan",
        scope="cluster",
        machine_type=task.machine_type,
        replanned=replanned or not task.machine_type,
        layers_moved=sum(layers.values()),
        load_s=max(
            (count * size / spec.cluster.node(name).disk_bytes_per_s for name, count in layers.items()), default=0.0
        ),
        spec=spec,
        flow_tokens_per_s=flow_of(spec, throughput).tokens_per_s,
        bound_tokens_per_s=bound_of(spec, throughput),
    )


# -- as things are -----------------------------------------------------------------------------


def best_beside(spec: EmulationSpec, kind: str, throughput: ThroughputModel) -> EmulationSpec | None:
    """The scenario with one more ``kind`` on the range that raises the max flow most; others keep their layers.

    Of equals it is that which takes most off nodes that are used up: they can be several, one after another.
    """
    return next(iter(_shortlist(spec, kind, throughput)), None)


def _shortlist(spec: EmulationSpec, kind: str, throughput: ThroughputModel) -> list[EmulationSpec]:
    """The scenario with one more ``kind`` on each of some ranges that raise the max flow most, equally.

    Half of them take most off nodes that are used up; the others are spread over the rest, for what the max flow does
    not see.
    """
    full = {source for what, source, _ in used_up(spec, throughput, flow_of(spec, throughput)) if what == "compute"}
    relief = [held for name, held in spec.placement.ranges.items() if name in full]
    tried: list[tuple[float, float, EmulationSpec]] = []
    for template in _templates(spec.cluster, kind):
        for held in candidate_ranges(spec, template, throughput):
            grown = with_node(spec, template, held)
            share = sum(_common(held, other) / len(other) for other in relief)
            tried.append((flow_of(grown, throughput).tokens_per_s, share, grown))
    most = max((flow for flow, _, _ in tried), default=0.0)
    equal = sorted((one for one in tried if one[0] >= most * (1 - EQUAL)), key=lambda one: -one[1])
    first, rest = equal[: SHORTLIST // 2], equal[SHORTLIST // 2 :]
    step = max(1, len(rest) // (SHORTLIST - SHORTLIST // 2))
    return [grown for _, _, grown in (*first, *rest[step // 2 :: step][: SHORTLIST - SHORTLIST // 2])]


def best_as_things_are(task: NodeTask, throughput: ThroughputModel) -> EmulationSpec | None:
    """The best that a new node can do as things are: to hold nothing, where every range on the shortlist would harm."""
    spec = task.spec
    choices = _shortlist(spec, task.machine_type, throughput)
    if not choices or not task.by_serving:
        return next(iter(choices), None)
    best, most = choices[0], _worth(task, choices[0], throughput)
    for other in choices[1:]:
        worth = _worth(task, other, throughput)
        if worth > most * (1 + EQUAL):
            best, most = other, worth
    gains = flow_of(best, throughput).tokens_per_s > flow_of(spec, throughput).tokens_per_s * (1 + EQUAL)
    if gains or most >= _worth(task, spec, throughput):
        return best
    return with_node(spec, _templates(spec.cluster, task.machine_type)[0], None)


def _common(one: LayerRange, other: LayerRange) -> int:
    return max(0, min(one.stop, other.stop) - max(one.start, other.start))


def _templates(cluster: Cluster, kind: str) -> list[Node]:
    """The first node of a type in every region that has some."""
    regions: dict[str, Node] = {}
    for node in cluster.nodes:
        if node.machine_type == kind:
            regions.setdefault(node.region, node)
    return list(regions.values())


def candidate_ranges(spec: EmulationSpec, template: Node, throughput: ThroughputModel) -> list[LayerRange]:
    """Ranges among which the best for one more node like ``template`` is, while everybody keeps their layers.

    Tokens come to it where others end, and go on where others begin or, with partial inference, are in the middle; of
    the ranges that connect the same nodes the shortest is the fastest. So it starts at 0 or where a node ends, and
    ends where a node begins or ends, or after one layer. There are at most :data:`MOST_TRIALS` over the number of
    nodes; those that the type is fastest on are kept.
    """
    layers = spec.model.layers
    most = most_layers(template, spec.model, spec.profiles)
    stops = sorted({held.stop for held in spec.placement.ranges.values()} | {layers})
    starts = sorted({held.start for held in spec.placement.ranges.values()})
    found: dict[LayerRange, None] = {}
    for start in [0, *stops]:
        for stop in sorted({start + 1, *starts, *stops}):
            if start < stop <= min(layers, start + most):
                found[LayerRange(start, stop)] = None
    kind, limit = template.machine_type, max(1, MOST_TRIALS // len(spec.cluster.nodes))
    fastest = sorted(found, key=lambda held: -throughput.tokens_per_s(kind, len(held)))
    return sorted(fastest[:limit])


def with_node(spec: EmulationSpec, template: Node, held: LayerRange | None) -> EmulationSpec:
    """The scenario with one more node like ``template`` that holds ``held``; it has the links of its region."""
    cluster = spec.cluster
    name = f"{template.name}-more"
    while name in cluster:
        name += "+"
    links: dict[tuple[str, str], Link] = dict(cluster.network.links)
    if links:
        links |= _links_like(cluster, template, name)
    grown = Cluster(
        name=cluster.name,
        nodes=(*cluster.nodes, replace(template, name=name)),
        coordinator=cluster.coordinator,
        network=Network(links=links, regions=cluster.network.regions),
    )
    ranges = spec.placement.ranges if held is None else {**spec.placement.ranges, name: held}
    return replace(spec, cluster=grown, placement=Placement(ranges))


def _links_like(cluster: Cluster, template: Node, name: str) -> Mapping[tuple[str, str], Link]:
    """Explicit links of a new node: to every other, as fast as the fastest known link between the two regions."""
    known: dict[tuple[str, str], Link] = {}
    for (source, target), link in cluster.network.links.items():
        ends = (cluster.region_of(source), cluster.region_of(target))
        if ends not in known or link.bandwidth_bytes_per_s > known[ends].bandwidth_bytes_per_s:
            known[ends] = link
    made: dict[tuple[str, str], Link] = {}
    for other in (COORDINATOR, *(node.name for node in cluster.nodes)):
        region = cluster.region_of(other)
        out, back = known.get((template.region, region)), known.get((region, template.region))
        if out is not None:
            made[name, other] = out
        if back is not None:
            made[other, name] = back
    return made


# -- planned anew ------------------------------------------------------------------------------


def _anew(task: NodeTask, kept: EmulationSpec, throughput: ThroughputModel) -> Iterator[EmulationSpec]:
    """Placements of everybody: planned from what is held now, with the new node from the start or put beside them."""
    alone = _replanned(task.spec, task.spec, throughput) if task.alone is None else task.alone
    if not task.machine_type:
        if alone is not None:
            yield alone
        return
    together = _replanned(kept, task.spec, throughput)
    if together is not None:
        yield together
    # The search is bounded: with a node more it can find less than without. This is never less.
    beside = None if alone is None else best_beside(alone, task.machine_type, throughput)
    if beside is not None:
        yield beside


def _replanned(spec: EmulationSpec, held: EmulationSpec, throughput: ThroughputModel) -> EmulationSpec | None:
    """``spec`` placed anew from what the nodes of ``held`` hold; none where none is found that serves."""
    problem = Problem(
        cluster=spec.cluster, model=spec.model, profiles=spec.profiles, throughput=throughput, seed=spec.seed
    )
    try:
        with counted():
            placement = replan(problem, held.placement, budget_s=REPLAN_S).plan.placement
    except PlanError:
        # The present placement serves, at least: it is what this is compared with.
        return None
    anew = replace(spec, placement=placement)
    return anew if math.isfinite(flow := flow_of(anew, throughput).tokens_per_s) and flow > 0 else None
