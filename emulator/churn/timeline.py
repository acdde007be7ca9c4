"""Random failures: one stream of draws for each machine of each process."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from emulator.churn.spec import Delay, Law, NodeEvent, NodeEventKind, NodeTarget, RandomProcess, Together
from emulator.randomness import generator

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from emulator.environment import VirtualEnvironment
    from placement.cluster import Cluster, Node


class FailureProcess:
    """Lets machines fail and come back for ever.

    Args:
        number: Which of the run's processes it is; with the seed it settles all draws.
        process: What it does.
        cluster: Its machines.
        env: The event core.
        seed: Seed of the scenario.
        happen: Is given every event as it happens, and ``None`` when one comes to nothing.
    """

    def __init__(
        self,
        number: int,
        process: RandomProcess,
        cluster: Cluster,
        env: VirtualEnvironment,
        seed: int,
        happen: Callable[[NodeEvent | None], None],
    ) -> None:
        self._to_come = 0
        self._process = process
        self._env = env
        self._happen = happen
        self._members = [node for node in cluster.nodes if process.target.matches(node)]
        self._streams = {node.name: generator(seed, f"churn/process {number}/{node.name}") for node in self._members}
        self._together = generator(seed, f"churn/process {number}/together")
        self._busy_until_s = dict.fromkeys(self._streams, 0.0)
        for node in self._members:
            self._next(node, process.start_s)

    def _next(self, node: Node, from_s: float) -> None:
        at_s = from_s + draw(self._process.between, self._streams[node.name])
        if at_s < self._process.stop_s and math.isfinite(at_s):
            self._to_come += 1
            self._env.call_at(at_s, lambda _event: self._fail(node))

    @property
    def may_repair(self) -> bool:
        """Whether a machine may still fail and come back, as good as new."""
        return self._process.repair is not None and self._to_come > 0

    def _fail(self, node: Node) -> None:
        self._to_come -= 1
        now = self._env.now
        struck: list[NodeEvent] = []
        if now >= self._busy_until_s[node.name]:
            struck = [event for one in (node, *self._with(node)) if (event := self._strike(one)) is not None]
        self._next(node, max(now, self._busy_until_s[node.name]))
        for event in struck:
            self._happen(event)
        if not struck:
            self._happen(None)

    def _with(self, first: Node) -> list[Node]:
        """Those that fail together with ``first``."""
        kind = self._process.together
        if kind is Together.NOBODY or not self._process.share:
            return []
        group = [
            node
            for node in self._members
            if node is not first
            and (
                kind is Together.ALL
                or (kind is Together.REGION and node.region == first.region)
                or (kind is Together.MACHINE_TYPE and node.machine_type == first.machine_type)
            )
        ]
        drawn = self._together.random(len(group)).tolist()
        return [node for node, level in zip(group, drawn, strict=True) if level < self._process.share]

    def _strike(self, node: Node) -> NodeEvent | None:
        """What happens to ``node``; nothing while it is still being repaired."""
        process, now = self._process, self._env.now
        if now < self._busy_until_s[node.name]:
            return None
        repair_s = None if process.repair is None else max(1e-9, draw(process.repair, self._streams[node.name]))
        notice_s = process.notice_s if process.kind is NodeEventKind.PREEMPT else 0.0
        self._busy_until_s[node.name] = math.inf if repair_s is None else now + notice_s + repair_s
        return NodeEvent(
            at_s=now,
            kind=process.kind,
            target=NodeTarget(names=(node.name,)),
            duration_s=repair_s,
            notice_s=process.notice_s,
            slowdown=process.slowdown,
        )


def draw(delay: Delay, rng: np.random.Generator) -> float:
    """A time in seconds, at least 0, with the mean of ``delay``."""
    if delay.law is Law.EXPONENTIAL:
        return float(rng.exponential(delay.mean_s))
    return float(delay.mean_s / math.gamma(1 + 1 / delay.shape) * rng.weibull(delay.shape))
