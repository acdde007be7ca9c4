"""Which of the maximum flows: the most even one.

Maximum flows of one placement can differ in their edge flows, and what the scheduler serves differs with them: a
basic solution sends everything over few links while twins of the same nodes stand idle. Served throughput was 7 to
36 % higher with the flow chosen here than with an arbitrary one on five of six library placements and 13 % lower on
one (``python -m pytest tests/benchmarks/test_edge_flows.py -m benchmark -s``).
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping
from typing import Any

import highspy
import numpy as np

from placement.edge_flows import dinic
from placement.flow import SINK, SOURCE, FlowGraph, MaxFlow

MOST_EDGES = 600
"""In larger graphs many arbitrary maximum flows are averaged: HiGHS's active-set method takes 1.4 s for 1,400 edges
and more than three minutes for 5,000."""
AVERAGED_EDGES = 80_000
"""So many edges are gone through for an average, which makes 16 flows of 5,000 edges."""
FEWEST_AVERAGED, MOST_AVERAGED = 4, 32
SAME = 1e-6
"""Flows that differ by less than this share of the whole are the same flow, apart from the solver's rounding."""
_KEPT = 1e-9
"""Share of the maximum that the programme may give up, so that rounding does not make it infeasible."""


def balanced_flow(graph: FlowGraph, flow: MaxFlow, kv_capacity: Mapping[str, float]) -> MaxFlow:
    """The maximum flow that spreads best over nodes and links.

    It minimises ``sum_nodes w_i f_i^2 + sum_links f_e^2`` over all maximum flows, with ``w_i`` inversely
    proportional to the tokens that a node's KV cache holds and 1 on average: tokens in flight on a node grow with its
    flow. The optimum is unique, so the choice does not depend on the solver. In graphs of more than
    :data:`MOST_EDGES` edges it is the mean of maximum flows found with the edges in shuffled orders, which is a
    maximum flow too, and close to even. Where the maximum flow itself is unique, ``flow`` is returned as it is.

    Args:
        graph: The flow graph.
        flow: Any maximum flow of it.
        kv_capacity: Node -> tokens that its KV cache holds, all held layers together counted once.
    """
    if flow.tokens_per_s <= 0:
        return flow
    chosen = None
    if len(graph.edges) <= MOST_EDGES:
        chosen = _solve(graph, flow.tokens_per_s, _weights(graph, kv_capacity))
    if chosen is None:
        chosen = _mean_of_shuffled(graph)
    least = SAME * flow.tokens_per_s
    link_flow, node_flow = dict(flow.link_flow), dict(flow.node_flow)
    same = True
    for edge, amount in zip(graph.edges, chosen, strict=True):
        kept = amount if amount > least else 0.0
        if edge.kind == "link":
            same = same and abs(link_flow[edge.source, edge.target] - amount) <= least
            link_flow[edge.source, edge.target] = kept
        elif edge.kind == "compute":
            node_flow[edge.source] = kept
    return flow if same else dataclasses.replace(flow, link_flow=link_flow, node_flow=node_flow)


def _mean_of_shuffled(graph: FlowGraph) -> list[float]:
    """Mean of maximum flows, each found with the edges in another order; shape ``(edges,)``."""
    edges = graph.edges
    count = min(MOST_AVERAGED, max(FEWEST_AVERAGED, AVERAGED_EDGES // len(edges)))
    total = [0.0] * len(edges)
    for round_number in range(count):
        order = list(range(len(edges)))
        random.Random(round_number).shuffle(order)
        flows = dinic(
            len(graph.vertices),
            [edges[index].tail for index in order],
            [edges[index].head for index in order],
            [edges[index].capacity_tokens_per_s for index in order],
            SOURCE,
            SINK,
        )
        for index, amount in zip(order, flows, strict=True):
            total[index] += amount
    return [amount / count for amount in total]


def _weights(graph: FlowGraph, kv_capacity: Mapping[str, float]) -> list[float]:
    """Weight of each edge's squared flow; shape ``(edges,)``."""
    scarce = {name: 1.0 / kv_capacity[name] for name in graph.nodes}
    mean = sum(scarce.values()) / len(scarce)
    by_kind = {"link": 1.0, "nic-in": 0.0, "nic-out": 0.0}
    return [scarce[edge.source] / mean if edge.kind == "compute" else by_kind[edge.kind] for edge in graph.edges]


def _solve(graph: FlowGraph, value: float, weights: list[float]) -> list[float] | None:
    """Edge flows of total ``value`` with the least weighted sum of squares; ``None`` if the solver finds none."""
    highs: Any = highspy.Highs()
    for option, setting in (("output_flag", False), ("threads", 1)):
        highs.setOptionValue(option, setting)
    nothing = (np.empty(0, np.int32), np.empty(0))
    rows: list[tuple[list[int], list[float]]] = [([], []) for _ in graph.vertices]
    for index, edge in enumerate(graph.edges):
        highs.addCol(0.0, 0.0, min(edge.capacity_tokens_per_s / value, 1.0), 0, *nothing)
        for vertex, sign in ((edge.tail, -1.0), (edge.head, 1.0)):
            rows[vertex][0].append(index)
            rows[vertex][1].append(sign)
    for vertex, (columns, signs) in enumerate(rows):
        if vertex == SINK:
            continue
        lower, upper = (-1.0, -1.0 + _KEPT) if vertex == SOURCE else (0.0, 0.0)
        highs.addRow(lower, upper, len(columns), np.asarray(columns, np.int32), np.asarray(signs))
    hessian = highspy.HighsHessian()
    hessian.dim_ = len(weights)
    hessian.format_ = highspy.HessianFormat.kTriangular
    hessian.start_ = list(range(len(weights) + 1))
    hessian.index_ = list(range(len(weights)))
    hessian.value_ = weights
    highs.passHessian(hessian)
    highs.run()
    if highs.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        return None
    return [float(amount) * value for amount in highs.getSolution().col_value]
