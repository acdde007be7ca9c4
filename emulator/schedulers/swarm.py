"""Swarm: stochastic wiring by an exponential moving average of how long successors take."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from emulator.schedulers.policy import PerHopPolicy, SchedulerPolicy, require_option

if TYPE_CHECKING:
    from emulator.cluster import ClusterState
    from emulator.links import EmulatedLink, Transfer
    from emulator.node import GpuNode
    from emulator.requests import Attempt


class SwarmPolicy(PerHopPolicy):
    """The successor of least priority is next; its priority then rises by its average time (HELIX.md section 6).

    A successor's time is that from the start of the transmission to it until the request leaves it, in
    every iteration, prefill and decode alike.
    """

    name = "swarm"
    observes_hops = True
    one_process = True
    default_options: ClassVar[Mapping[str, float]] = {"initial_priority": 0.05, "smoothing": 0.8}

    def __init__(self, state: ClusterState, options: Mapping[str, object], seed: int) -> None:
        super().__init__(state, options, seed)
        initial = require_option(self, "initial_priority", 0, math.inf)
        self._smoothing = require_option(self, "smoothing", 0, 1)
        self._average = {link.index: initial for link in state.links}
        self._links = {link.index: link for link in state.links}
        self._queues: dict[int, list[tuple[float, int]]] = {}
        # Only where there is a choice do averages matter; elsewhere hops need not be watched.
        self._contested: set[int] = set()
        # By links, not by nodes: one that takes nothing new still has prefills to send on.
        leaving: dict[int, list[EmulatedLink]] = {}
        for link in state.links:
            leaving.setdefault(-1 if link.source is None else link.source.index, []).append(link)
        for links in leaving.values():
            self._queues[links[0].index] = [(initial, link.index) for link in links]
            if len(links) > 1:
                self._contested.update(link.index for link in links if link.node is not None)
        self._sent: dict[Attempt, tuple[int, float]] = {}

    def choose(self, links: list[EmulatedLink], now_s: float) -> EmulatedLink:
        """The link of least priority; ties go to the first in file order."""
        if len(links) == 1:
            return links[0]
        queue = self._queues[links[0].index]
        priority, index = queue[0]
        heapq.heapreplace(queue, (priority + self._average[index], index))
        return self._links[index]

    def transfer_sent(self, transfer: Transfer) -> None:
        """Note when the transmission of each message on a contested link began."""
        link = transfer.link
        if link.index not in self._contested:
            return
        clock = link.clock
        for item, time in zip(transfer.items, transfer.times, strict=True):
            if time == math.inf:
                # The link is down; when it is up again is no news of the successor.
                continue
            start = time - clock.latency_s - item.tokens * link.bytes_per_token / clock.bytes_per_s
            self._sent[item] = (link.index, start)

    def stage_left(self, node: GpuNode, attempts: list[Attempt], now_s: float) -> None:
        """Update the average of the contested link over which each request came."""
        sent, average, smoothing = self._sent, self._average, self._smoothing
        if not sent:
            return
        for attempt in attempts:
            entry = sent.pop(attempt, None)
            if entry is not None:
                index, start = entry
                average[index] = smoothing * (now_s - start) + (1 - smoothing) * average[index]

    def take_over(self, before: SchedulerPolicy) -> None:
        """Keep the averages of links that are still there, and when what is under way was sent."""
        assert isinstance(before, SwarmPolicy)
        self._average.update((index, value) for index, value in before._average.items() if index in self._average)
        self._sent = {item: sent for item, sent in before._sent.items() if sent[0] in self._average}

    def closed(self, attempt: Attempt) -> None:
        """Forget an attempt that was given up on its way."""
        self._sent.pop(attempt, None)
