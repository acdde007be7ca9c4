"""Random: any link that is free now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from emulator.randomness import generator
from emulator.schedulers.policy import PerHopPolicy, SchedulerPolicy

if TYPE_CHECKING:
    from emulator.cluster import ClusterState
    from emulator.links import EmulatedLink


class RandomPolicy(PerHopPolicy):
    """Each hop goes over a random one of the links that are free now (HELIX.md section 6)."""

    name = "random"

    def __init__(self, state: ClusterState, options: Mapping[str, object], seed: int) -> None:
        super().__init__(state, options, seed)
        self._rng = generator(seed, "scheduler/random")

    def take_over(self, before: SchedulerPolicy) -> None:
        """Go on with the same stream of draws."""
        assert isinstance(before, RandomPolicy)
        self._rng = before._rng

    def choose(self, links: list[EmulatedLink], now_s: float) -> EmulatedLink:
        """A random free link."""
        if len(links) == 1:
            return links[0]
        free = self.free_links(links, now_s)
        return free[int(self._rng.integers(len(free)))]
