"""Shortest queue: the successor with the fewest requests waiting at its first layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from emulator.randomness import generator
from emulator.schedulers.policy import PerHopPolicy, SchedulerPolicy

if TYPE_CHECKING:
    from emulator.cluster import ClusterState
    from emulator.links import EmulatedLink


class ShortestQueuePolicy(PerHopPolicy):
    """Among the successors with the shortest queue a random one whose link is free (HELIX.md section 6)."""

    name = "shortest-queue"
    one_process = True

    def __init__(self, state: ClusterState, options: Mapping[str, object], seed: int) -> None:
        super().__init__(state, options, seed)
        self._rng = generator(seed, "scheduler/shortest-queue")

    def take_over(self, before: SchedulerPolicy) -> None:
        """Go on with the same stream of draws."""
        assert isinstance(before, ShortestQueuePolicy)
        self._rng = before._rng

    def choose(self, links: list[EmulatedLink], now_s: float) -> EmulatedLink:
        """A random free link among those to the shortest queues; the coordinator has none at all."""
        if len(links) == 1:
            return links[0]
        lengths = [-1 if link.node is None else link.node.queue_length() for link in links]
        shortest = min(lengths)
        best = [link for link, length in zip(links, lengths, strict=True) if length == shortest]
        free = self.free_links(best, now_s)
        return free[int(self._rng.integers(len(free)))]
