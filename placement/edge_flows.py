"""Maximum-flow algorithms over plain arrays, all with one signature.

:func:`dinic` is E. A. Dinic's method ("Algorithm for solution of a problem of maximum flow in networks with power
estimation", 1970): breadth-first levels, then a blocking flow along rising levels, until the sink is out of reach.
:func:`by_networkx` is the independent reference.
"""

from __future__ import annotations

from collections.abc import Sequence

import networkx as nx

RELATIVE_TOLERANCE = 1e-13
"""Residual capacity below this share of the flow found so far is rounding noise, not room for more flow."""


def dinic(
    vertices: int,
    tails: Sequence[int],
    heads: Sequence[int],
    capacities: Sequence[float],
    source: int,
    sink: int,
) -> list[float]:
    """Maximum flow from ``source`` to ``sink``; the same input always gives the same edge flows.

    Args:
        vertices: Number of vertices; they are ``0 .. vertices - 1``.
        tails: Tail of each edge; shape ``(edges,)``.
        heads: Head of each edge; shape ``(edges,)``.
        capacities: Capacity of each edge, at least 0, in any one unit; shape ``(edges,)``.
        source: Where the flow starts.
        sink: Where it ends.

    Returns:
        Flow on each edge in the unit of ``capacities``; shape ``(edges,)``.
    """
    # Arc 2e runs along edge e, arc 2e + 1 against it, so arc ^ 1 is always the opposite one.
    ends = [end for tail, head in zip(tails, heads, strict=True) for end in (head, tail)]
    residual = [room for capacity in capacities for room in (float(capacity), 0.0)]
    arcs: list[list[int]] = [[] for _ in range(vertices)]
    for arc in range(len(ends)):
        arcs[ends[arc ^ 1]].append(arc)
    value = tolerance = 0.0
    while True:
        levels = _levels(arcs, ends, residual, source, sink, tolerance)
        if levels[sink] < 0:
            break
        value += _blocking_flow(arcs, ends, residual, levels, source, sink, tolerance)
        # Raising it only removes arcs, so levels still rise from phase to phase and the loop ends.
        tolerance = RELATIVE_TOLERANCE * value
    # The opposite arc's room was summed up from zero, so it is exact where capacity - room would cancel digits.
    return [min(residual[2 * edge + 1], capacities[edge]) for edge in range(len(capacities))]


def _levels(
    arcs: list[list[int]], ends: list[int], residual: list[float], source: int, sink: int, tolerance: float
) -> list[int]:
    """Distance of each vertex from the source over arcs with room; -1 where none was found before the sink."""
    levels = [-1] * len(arcs)
    levels[source] = 0
    frontier = [source]
    while frontier and levels[sink] < 0:
        following: list[int] = []
        for vertex in frontier:
            for arc in arcs[vertex]:
                end = ends[arc]
                if levels[end] < 0 and residual[arc] > tolerance:
                    levels[end] = levels[vertex] + 1
                    following.append(end)
        frontier = following
    return levels


def _blocking_flow(
    arcs: list[list[int]],
    ends: list[int],
    residual: list[float],
    levels: list[int],
    source: int,
    sink: int,
    tolerance: float,
) -> float:
    """Push flow along rising levels until every such path has a full arc; returns the amount pushed."""
    following = [0] * len(arcs)
    path: list[int] = []
    vertex, pushed = source, 0.0
    while True:
        if vertex == sink:
            amount = min(residual[arc] for arc in path)
            for arc in path:
                residual[arc] -= amount
                residual[arc ^ 1] += amount
            pushed += amount
            keep = next(index for index, arc in enumerate(path) if residual[arc] <= tolerance)
            vertex = ends[path[keep] ^ 1]
            del path[keep:]
            continue
        leaving, index, level = arcs[vertex], following[vertex], levels[vertex] + 1
        while index < len(leaving) and not (
            residual[leaving[index]] > tolerance and levels[ends[leaving[index]]] == level
        ):
            index += 1
        following[vertex] = index
        if index < len(leaving):
            path.append(leaving[index])
            vertex = ends[leaving[index]]
        elif path:
            vertex = ends[path.pop() ^ 1]
            following[vertex] += 1
        else:
            return pushed


def by_networkx(
    vertices: int,
    tails: Sequence[int],
    heads: Sequence[int],
    capacities: Sequence[float],
    source: int,
    sink: int,
) -> list[float]:
    """The same as :func:`dinic` by networkx's preflow-push, slower but in exact arithmetic; no parallel edges."""
    # networkx promises an answer for whole capacities only. A float is a whole number over a power of two, so all of
    # them over the greatest such power are whole without rounding.
    ratios = [float(capacity).as_integer_ratio() for capacity in capacities]
    unit = max((denominator for _, denominator in ratios), default=1)
    network: nx.DiGraph[int] = nx.DiGraph()
    network.add_nodes_from(range(vertices))
    for tail, head, (numerator, denominator) in zip(tails, heads, ratios, strict=True):
        network.add_edge(tail, head, capacity=numerator * (unit // denominator))
    _, flows = nx.maximum_flow(network, source, sink)
    return [flows[tail][head] / unit for tail, head in zip(tails, heads, strict=True)]
