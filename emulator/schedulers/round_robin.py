"""Round robin: the links of each machine in turn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from emulator.schedulers.policy import PerHopPolicy, SchedulerPolicy

if TYPE_CHECKING:
    from emulator.cluster import ClusterState
    from emulator.links import EmulatedLink


class RoundRobinPolicy(PerHopPolicy):
    """Each machine sends prefills over its links in turn, in file order."""

    name = "round-robin"

    def __init__(self, state: ClusterState, options: Mapping[str, object], seed: int) -> None:
        super().__init__(state, options, seed)
        self._turns: dict[str, int] = {}

    def take_over(self, before: SchedulerPolicy) -> None:
        """Go on with each machine's turn."""
        assert isinstance(before, RoundRobinPolicy)
        self._turns = before._turns

    def choose(self, links: list[EmulatedLink], now_s: float) -> EmulatedLink:
        """The next link in turn."""
        key = links[0].wire.source
        turn = self._turns.get(key, 0)
        self._turns[key] = turn + 1
        return links[turn % len(links)]
