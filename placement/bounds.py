"""Upper bounds on the flow of any placement: tokens/s that no planner can beat (PLANNER.md, Facts and Formulations).

All of them rest on the coverage bound: for every placement, with or without partial inference and over any network,

    F <= sum over nodes g that hold layer l of min(T_g(k_g), F)   for every layer l,

because every token's walk executes layer l on some node that holds it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from placement.cluster import COORDINATOR
from placement.effort import now_s
from placement.plan import Problem
from placement.planners.kinds import Kind, kinds_of
from placement.planners.linear import Maximisation, Vector
from placement.planners.patterns import GridKnapsack, Pattern, Slot, exact_cheapest, pattern_of, slots_of

REFINED = 1e-10
"""Relative width at which the bisection of a bound ends."""

SAFETY = 1e-9
"""Relative slack by which a linear programme's figure is trusted less than exact arithmetic."""


def clip_bound(problem: Problem) -> float:
    """CLIP: the largest F with ``L F <= sum_t N_t max_k k min(T_t(k), F)`` (PLANNER.md, Formulations).

    The coverage bound summed over all L layers. T is clipped by the network cards
    (:func:`placement.planners.kinds.node_rate`), F by the coordinator's.

    Returns:
        Tokens/s, never below the true value: the upper end of a bisection down to rounding.
    """
    return min(clip_of(kinds_of(problem), problem.model.layers), coordinator_bound(problem))


def clip_of(kinds: Sequence[Kind], layers: int) -> float:
    """CLIP for counted nodes, without the coordinator; 0 when they cannot hold ``layers`` layers at all."""
    if sum(kind.count * kind.most_layers for kind in kinds) < layers:
        return 0.0

    def holds(flow: float) -> bool:
        # Divided by F both sides are monotone: k min(T / F, 1) falls as F rises.
        served = (
            kind.count * max(k * min(rate / flow, 1.0) for k, rate in enumerate(kind.rates, start=1)) for kind in kinds
        )
        return math.fsum(served) >= layers * (1 - 1e-14)

    low = 0.0
    high = math.fsum(kind.count * max(k * rate for k, rate in enumerate(kind.rates, start=1)) for kind in kinds)
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if holds(middle) else (low, middle)
    return high


def coordinator_bound(problem: Problem) -> float:
    """Tokens/s that the coordinator sends and receives, at ``token_bytes`` each, over its cards and links.

    Each node starts or ends a pipeline over its own link to the coordinator and passes no more than T(k) of any k.
    """
    cluster, model = problem.cluster, problem.model
    card = min(cluster.coordinator.nic_in_bytes_per_s, cluster.coordinator.nic_out_bytes_per_s) / model.token_bytes
    sent = received = 0.0
    for kind in kinds_of(problem):
        for name in kind.nodes:
            out, back = cluster.link(COORDINATOR, name), cluster.link(name, COORDINATOR)
            top = max(kind.rates)
            sent += min(top, out.bandwidth_bytes_per_s / model.token_bytes) if out else 0.0
            received += min(top, back.bandwidth_bytes_per_s / model.token_bytes) if back else 0.0
    return min(card, sent, received)


def conf_lp_bound(problem: Problem, *, deadline_s: float = math.inf) -> float:
    """CONF-LP (:class:`ConfigurationLp`): the least F that it refutes; never above :func:`clip_bound`.

    Args:
        problem: What is to be placed.
        deadline_s: :func:`placement.effort.now_s` at which the best bound so far is returned.
    """
    return conf_lp_of(kinds_of(problem), problem.model.layers, clip_bound(problem), deadline_s=deadline_s)


@dataclass(slots=True)
class ConfigurationLp:
    """CONF-LP: at most how many layers, as fractions, the nodes serve at F tokens/s each (PLANNER.md, Formulations).

    A pattern p is a multiset of slots (kind t, held layers k) whose rates add up to F or more; by the coverage bound
    every layer of every placement with flow F shows one. A node with k layers fills k slots, so a slot uses
    ``1/k`` of it, and with ``a_pt`` = nodes of kind t that pattern p uses a layer,

        max sum_p w_p   s.t.   sum_p a_pt w_p <= N_t for every t,   w >= 0.

    An optimum below L proves that no placement reaches F. By duality the same holds for any prices ``m >= 0`` with
    ``sum_t N_t m_t < L * (cost of the cheapest pattern under m)``; that is what is checked, so rounding in the
    linear programme cannot make a wrong bound. Patterns are generated while they are cheaper than 1.
    """

    kinds: Sequence[Kind]
    layers: int
    slots: list[Slot] = field(init=False)
    _patterns: dict[Pattern, None] = field(init=False, default_factory=dict)
    _master: Maximisation = field(init=False, default_factory=Maximisation)

    def __post_init__(self) -> None:
        self.slots = slots_of(self.kinds)
        for kind in self.kinds:
            self._master.add_row((), (), upper=kind.count)

    def add(self, pattern: Pattern) -> bool:
        """Let the master use a pattern; says whether it is new. Patterns for F stay patterns for every lesser F."""
        if pattern in self._patterns:
            return False
        self._patterns[pattern] = None
        self._master.add_column(1.0, [kind for kind, _ in pattern], [use for _, use in pattern])
        return True

    def prices(self, deadline_s: float) -> tuple[float, Vector] | None:
        """Optimum over the patterns so far and the price of each kind; ``None`` where the solver gave up."""
        answer = self._master.solve(time_limit_s=deadline_s - now_s())
        if not answer.has_solution or not math.isfinite(answer.bound):
            return None
        return answer.value, answer.duals.clip(min=0.0)

    def worth(self, prices: Vector) -> float:
        """``sum_t N_t m_t``."""
        return math.fsum(kind.count * float(price) for kind, price in zip(self.kinds, prices, strict=True))


def conf_lp_of(
    kinds: Sequence[Kind], layers: int, upper: float, *, deadline_s: float = math.inf, rounds: int = 400
) -> float:
    """The least F that :class:`ConfigurationLp` cannot refute, up to the grid of the pricing; at most ``upper``.

    Prices that refute F refute every F whose cheapest pattern costs more than ``sum_t N_t m_t / L``, so each
    refutation jumps to the least of them, and the column generation goes on from there.

    Args:
        kinds: Counted nodes.
        layers: L.
        upper: A known upper bound in tokens/s, at least the true maximum.
        deadline_s: :func:`placement.effort.now_s` at which the best bound so far is returned.
        rounds: Most pricing rounds.
    """
    if upper <= 0 or not kinds:
        return 0.0
    programme = ConfigurationLp(kinds, layers)
    knapsack = GridKnapsack(programme.slots, upper)
    level = top = knapsack.level(upper)
    step = upper / top
    _start(programme, upper)
    for _ in range(rounds):
        solved = programme.prices(deadline_s) if now_s() < deadline_s else None
        if solved is None or solved[0] >= layers * (1 - SAFETY):
            break
        cost = knapsack.price(list(solved[1]), level)
        # cost rises with the level: levels that cost more than this are refuted.
        limit = programme.worth(solved[1]) / layers * (1 + SAFETY)
        while level > 0 and cost[level] > limit:
            level -= 1
        found = [programme.add(pattern_of(slots)) for slots in knapsack.cheapest(level)]
        if level == 0 or not any(found):
            break
    # A flow of F needs floor(F / step) levels, so what is not refuted ends where the next level would begin.
    high = upper if level == top else min(upper, (level + 1) * step * (1 + SAFETY))
    return _refined(kinds, layers, max(0.0, (level - 10) * step), high, deadline_s)


def _refined(
    kinds: Sequence[Kind], layers: int, low: float, high: float, deadline_s: float, *, shared: bool = False
) -> float:
    """Bisect with rates that are not rounded; every return value but the given ``high`` is refuted."""
    while high - low > REFINED * high and now_s() < deadline_s:
        middle = (low + high) / 2
        if refutes(kinds, layers, middle, shared=shared, deadline_s=deadline_s):
            high = middle
        else:
            low = middle
    return high


def _start(programme: ConfigurationLp, flow: float) -> None:
    """Patterns of one kind of slot, so that the first prices are finite."""
    for slot in programme.slots:
        programme.add(pattern_of([slot] * math.ceil(flow / slot.rate)))


def refutes(
    kinds: Sequence[Kind],
    layers: int,
    flow: float,
    *,
    shared: bool = False,
    deadline_s: float = math.inf,
    rounds: int = 200,
) -> bool:
    """Whether CONF-LP proves, without rounding rates, that no placement reaches ``flow`` tokens/s.

    Args:
        kinds: Counted nodes.
        layers: L.
        flow: F in tokens/s.
        shared: Whether it is known that some layer has two nodes or more. Its pattern then costs at least q, the
            cheapest of two slots or more, and ``sum_t N_t m_t < L - 1 + q`` suffices under prices that make every
            pattern cost 1 or more.
        deadline_s: :func:`placement.effort.now_s` at which to give up.
        rounds: Most pricing rounds.

    Returns:
        ``False`` where it proves nothing, and where time or search ran out.
    """
    if sum(kind.count * kind.most_layers for kind in kinds) < layers:
        return True
    programme = ConfigurationLp(kinds, layers)
    _start(programme, flow)
    for _ in range(rounds):
        solved = programme.prices(deadline_s) if now_s() < deadline_s else None
        if solved is None or (solved[0] >= layers * (1 - SAFETY) and not shared):
            return False
        found = exact_cheapest(programme.slots, list(solved[1]), flow)
        if found is None:
            return False
        cost, slots = found
        if programme.worth(solved[1]) * (1 + SAFETY) < layers * cost:
            return True
        if shared and cost >= 1 - SAFETY:
            several = exact_cheapest(programme.slots, list(solved[1]), flow, fewest=2)
            least = (layers - 1) * cost + several[0] if several is not None else 0.0
            return programme.worth(solved[1]) * (1 + SAFETY) < least
        if not programme.add(pattern_of(slots)):
            return False
    return False


def network_bound(problem: Problem, upper: float, *, deadline_s: float = math.inf) -> float:
    """A bound that knows slow links between regions: the lesser of two, and at most ``upper``.

    *Cut.* Split a flow into paths. Those within region r are a flow in r alone, at most CONF-LP of r's nodes. Every
    other path uses a link between regions; node i sends at most ``min(max_k T_i(k), sum_j B_ij)`` over its links to
    nodes j of other regions, and receives likewise. So

        F <= sum_r CONF-LP(r) + min(sum_i out_i, sum_j in_j).

    *Shared layer.* Let B be the fastest link between nodes of different regions, and F greater than B and than every
    CONF-LP(r). Then some layer is held by two nodes or more: if each were held by one, the ranges would form a single
    chain that carries all of F; it does not lie in one region, as F > CONF-LP(r), so one of its links joins two
    regions and carries F > B, which it cannot. That layer's pattern has two slots or more, which CONF-LP takes into
    account (:func:`refutes`). Where F is refuted, so is every greater one.

    Args:
        problem: What is to be placed.
        upper: A known upper bound in tokens/s.
        deadline_s: :func:`placement.effort.now_s` at which the best bound so far is returned.
    """
    kinds, layers = kinds_of(problem, by_region=True), problem.model.layers
    regions = list(dict.fromkeys(kind.region for kind in kinds))
    if len(regions) < 2:
        return upper
    alone = []
    for region in regions:
        members = [kind for kind in kinds if kind.region == region]
        alone.append(conf_lp_of(members, layers, min(upper, clip_of(members, layers)), deadline_s=deadline_s))
    crossing, fastest = _crossings(problem, kinds)
    bound = min(upper, math.fsum(alone) + crossing)
    # Just above the limit, where the argument begins to hold.
    low = max(fastest, *alone) * (1 + SAFETY)
    if low >= bound or now_s() >= deadline_s:
        return bound
    everywhere = kinds_of(problem)
    if refutes(everywhere, layers, low, shared=True, deadline_s=deadline_s):
        return low
    return _refined(everywhere, layers, low, bound, deadline_s, shared=True)


def _crossings(problem: Problem, kinds: Sequence[Kind]) -> tuple[float, float]:
    """Most tokens/s over all links between regions together, and over the fastest of them."""
    cluster, hop = problem.cluster, problem.model.hop_bytes
    sent: dict[str, float] = {name: 0.0 for kind in kinds for name in kind.nodes}
    received = dict(sent)
    fastest = 0.0
    for one, other in itertools.permutations(kinds, 2):
        if one.region == other.region:
            continue
        for source in one.nodes:
            for target in other.nodes if cluster.network.links else other.nodes[:1]:
                # Without links of their own all nodes of a kind have the same ones.
                link = cluster.link(source, target)
                rate = 0.0 if link is None else link.bandwidth_bytes_per_s / hop
                fastest = max(fastest, rate)
                for name in (target,) if cluster.network.links else other.nodes:
                    sent[source] += rate
                    received[name] += rate
    top = {name: max(kind.rates) for kind in kinds for name in kind.nodes}
    out = math.fsum(min(top[name], rate) for name, rate in sent.items())
    into = math.fsum(min(top[name], rate) for name, rate in received.items())
    return min(out, into), fastest
