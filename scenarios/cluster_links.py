"""Links of an emulated cluster that a test changes while it runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from glob import escape

from emulator.churn.spec import ChurnEvent, End, LinkEvent, LinkEventKind, NodeTarget
from emulator.errors import SimulationError
from placement.cluster import COORDINATOR, Cluster
from scenarios.churn import ends_of
from scenarios.quantities import DURATION, RATE, Dimension, QuantityError, parse

Undo = Callable[[], None]


class LinkHandle:
    """The links between two ends: ``await cluster.link("us", "eu").set(latency="120 ms")``, ``.down()``, ``.up()``.

    Each handle has one say over its links, which replaces the one before; :meth:`up` takes it back.
    """

    def __init__(
        self,
        cluster: Cluster,
        source: object,
        target: object,
        both_ways: bool,
        apply: Callable[[Sequence[ChurnEvent], Sequence[Undo]], Awaitable[list[Undo]]],
    ) -> None:
        self._cluster = cluster
        self._source, self._target = ends_of(cluster, source, target, both_ways=both_ways)
        self._both_ways = both_ways
        self._apply = apply
        self._undo: list[Undo] = []

    async def set(
        self,
        *,
        bandwidth: str | None = None,
        latency: str | None = None,
        bandwidth_factor: float = 1.0,
        latency_factor: float = 1.0,
    ) -> None:
        """Give the links another bandwidth and latency, or multiply what the scenario gives them.

        Args:
            bandwidth: Rate of each link, such as ``"100 Mbit/s"``.
            latency: One-way delay of each link, such as ``"120 ms"``.
            bandwidth_factor: Instead of ``bandwidth``: times what the scenario says.
            latency_factor: Instead of ``latency``: times what the scenario says.

        Raises:
            SimulationError: A quantity makes no sense, or a link without latency is to get one.
        """
        rate = None if bandwidth is None else _quantity(bandwidth, RATE, "bandwidth", positive=True)
        delay_s = None if latency is None else _quantity(latency, DURATION, "latency")
        groups: dict[tuple[float, float], list[tuple[str, str]]] = {}
        for source, target in self._pairs():
            link = self._cluster.link(source, target)
            assert link is not None
            if delay_s and not link.latency_s:
                raise SimulationError(
                    f"the link {source} -> {target} has no latency in the scenario; give it a small one there"
                )
            factors = (
                bandwidth_factor if rate is None else rate / link.bandwidth_bytes_per_s,
                latency_factor if delay_s is None else delay_s / link.latency_s if link.latency_s else 1.0,
            )
            groups.setdefault(factors, []).append((source, target))
        events: list[ChurnEvent] = []
        for (faster, later), pairs in groups.items():
            if (faster, later) != (1.0, 1.0):
                events += self._degrade(pairs, faster, later, alone=len(groups) == 1)
        self._undo = await self._apply(events, self._undo)

    async def down(self) -> None:
        """Let nothing pass."""
        event = LinkEvent(
            at_s=0.0,
            kind=LinkEventKind.DOWN,
            source=self._source,
            target=self._target,
            both_ways=self._both_ways,
        )
        self._undo = await self._apply([event], self._undo)

    async def up(self) -> None:
        """Let the links be as the scenario has them."""
        self._undo = await self._apply([], self._undo)

    def _pairs(self) -> list[tuple[str, str]]:
        found: dict[tuple[str, str], None] = {}
        for source in self._source.members(self._cluster):
            for target in self._target.members(self._cluster):
                for pair in ((source, target), (target, source)) if self._both_ways else ((source, target),):
                    if source != target and self._cluster.link(*pair) is not None:
                        found[pair] = None
        return list(found)

    def _degrade(self, pairs: list[tuple[str, str]], faster: float, later: float, *, alone: bool) -> list[LinkEvent]:
        """Events that change pairs alike: one if they are all, else one each."""
        if alone:
            ends = [(self._source, self._target, self._both_ways)]
        else:
            ends = [(_end(source), _end(target), False) for source, target in pairs]
        return [
            LinkEvent(
                at_s=0.0,
                kind=LinkEventKind.DEGRADE,
                source=source,
                target=target,
                both_ways=both_ways,
                bandwidth_factor=faster,
                latency_factor=later,
            )
            for source, target, both_ways in ends
        ]


def _end(name: str) -> End:
    return End(coordinator=True) if name == COORDINATOR else End(nodes=NodeTarget(names=(escape(name),)))


def _quantity(text: str, dimension: Dimension, what: str, *, positive: bool = False) -> float:
    try:
        return parse(text, dimension, positive=positive)
    except QuantityError as error:
        raise SimulationError(f"{what} {text!r}: {error}") from None
