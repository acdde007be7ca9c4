"""Which node takes which range of a new placement, so that as many layers as possible stay where they are.

Nodes of one machine type in one region with the same memory, cards and disk are interchangeable, so the ranges that a
plan gives them may be dealt out among them anew: an assignment problem for each such group. Stretches of layers that no
range sticks out of can change places, too, where links do not bind.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from placement.cluster import Node
from placement.layers import LayerRange
from placement.plan import Problem
from placement.planners.linear import Maximisation

Ranges = dict[str, LayerRange]


def common_layers(one: LayerRange, other: LayerRange | None) -> int:
    """Layers that two ranges share."""
    return 0 if other is None else max(0, min(one.stop, other.stop) - max(one.start, other.start))


def kept_layers(ranges: Mapping[str, LayerRange], before: Mapping[str, LayerRange]) -> int:
    """Layers that nodes of a placement hold already under another one."""
    return sum(common_layers(held, before.get(name)) for name, held in ranges.items())


def keep_in_place(
    problem: Problem, ranges: Mapping[str, LayerRange], before: Mapping[str, LayerRange], fixed: Collection[str] = ()
) -> Ranges:
    """Deal the ranges out to interchangeable nodes so that most layers stay in place; the flow stays the same.

    (With links given one by one, interchangeable nodes may still differ in them; then the flow has to be checked.)

    Args:
        problem: Gives the nodes.
        ranges: The new placement.
        before: The placement whose layers are loaded.
        fixed: Nodes that keep what ``ranges`` gives them.
    """
    dealt = {name: ranges[name] for name in fixed if name in ranges}
    for names in _groups(problem, fixed):
        given = [ranges[name] for name in names if name in ranges]
        dealt |= _assign(names, given, before)
    return {node.name: dealt[node.name] for node in problem.cluster.nodes if node.name in dealt}


def _groups(problem: Problem, fixed: Collection[str]) -> list[list[str]]:
    groups: dict[tuple[object, ...], list[str]] = {}
    for node in problem.cluster.nodes:
        if node.name not in fixed:
            groups.setdefault(_sort(problem, node), []).append(node.name)
    return list(groups.values())


def _sort(problem: Problem, node: Node) -> tuple[object, ...]:
    cards = (node.nic_in_bytes_per_s, node.nic_out_bytes_per_s)
    return (
        node.machine_type,
        node.region,
        problem.most_layers(node),
        *cards,
        node.disk_bytes_per_s,
        node.vram_bytes,
        node.kv_capacity_layer_tokens,
    )


def _assign(names: Sequence[str], given: Sequence[LayerRange], before: Mapping[str, LayerRange]) -> Ranges:
    """The assignment problem of one group: the linear programme has a whole-number optimum at a vertex."""
    counts: dict[LayerRange, int] = {}
    for held in given:
        counts[held] = counts.get(held, 0) + 1
    kinds = list(counts)
    gains = {
        (row, kind): gain
        for row, name in enumerate(names)
        for kind, held in enumerate(kinds)
        if (gain := common_layers(held, before.get(name)))
    }
    dealt: Ranges = {}
    if gains:
        programme = Maximisation()
        for _ in names:
            programme.add_row((), (), upper=1.0)
        for held in kinds:
            programme.add_row((), (), upper=float(counts[held]))
        for (row, kind), gain in gains.items():
            programme.add_column(float(gain), [row, len(names) + kind], [1.0, 1.0], upper=1.0)
        answer = programme.solve()
        assert answer.has_solution, "the programme has the solution 0 and is bounded"
        for (row, kind), share in zip(gains, answer.columns, strict=True):
            if share > 0.5:
                dealt[names[row]] = kinds[kind]
                counts[kinds[kind]] -= 1
    left = [held for held in kinds for _ in range(counts[held])]
    # Nothing of these is loaded anywhere; nodes that held nothing before come first, as they lose nothing.
    takers = sorted((name for name in names if name not in dealt), key=lambda name: name in before)
    return dealt | dict(zip(takers, left, strict=False))


def stretches_of(ranges: Mapping[str, LayerRange]) -> list[Ranges]:
    """Cut a placement wherever no range holds the layers on both sides; the parts in the order of their layers."""
    parts: list[Ranges] = []
    stop = -1
    for name, held in sorted(ranges.items(), key=lambda item: (item[1].start, item[1].stop)):
        if held.start >= stop:
            parts.append({})
        parts[-1][name] = held
        stop = max(stop, held.stop)
    return parts


def reorder(
    problem: Problem,
    ranges: Mapping[str, LayerRange],
    before: Mapping[str, LayerRange],
    fixed: Collection[str],
    over: Callable[[], bool],
) -> Ranges:
    """Put the stretches of a placement in an order in which more layers stay in place.

    One stretch at a time is taken out and put in elsewhere, as long as that helps. Where links bind, the flow may
    change.

    Args:
        problem: Gives the nodes.
        ranges: The new placement.
        before: The placement whose layers are loaded.
        fixed: Nodes whose ranges must not change; then nothing is done.
        over: Whether to stop.
    """
    parts = stretches_of(ranges)
    groups = _groups(problem, fixed)
    best, most = dict(ranges), _kept_greedily(groups, ranges, before)
    if any(name in ranges for name in fixed):
        return best
    improved = True
    while improved:
        improved = False
        for taken in range(len(parts)):
            for place in range(len(parts)):
                if over():
                    return best
                rest = parts[:taken] + parts[taken + 1 :]
                order = [*rest[:place], parts[taken], *rest[place:]]
                laid = _end_to_end(order)
                kept = _kept_greedily(groups, laid, before)
                if kept > most:
                    parts, best, most, improved = stretches_of(laid), laid, kept, True
    return best


def _end_to_end(parts: Sequence[Ranges]) -> Ranges:
    laid: Ranges = {}
    start = 0
    for part in parts:
        shift = start - min(held.start for held in part.values())
        laid |= {name: LayerRange(held.start + shift, held.stop + shift) for name, held in part.items()}
        start = max(held.stop for held in part.values()) + shift
    return laid


def _kept_greedily(
    groups: Sequence[Sequence[str]], ranges: Mapping[str, LayerRange], before: Mapping[str, LayerRange]
) -> int:
    """About as many layers as :func:`keep_in_place` keeps: the greatest gains first."""
    total = 0
    for names in groups:
        given = [ranges[name] for name in names if name in ranges]
        gains = [
            (-gain, row, index)
            for row, name in enumerate(names)
            for index, held in enumerate(given)
            if (gain := common_layers(held, before.get(name)))
        ]
        rows, indices = set[int](), set[int]()
        for gain, row, index in sorted(gains):
            if row not in rows and index not in indices:
                rows.add(row)
                indices.add(index)
                total -= gain
    return total
