"""Warm start: a run begins with the requests that a long run would have in flight, instead of an empty cluster.

Filling the KV caches of a large cluster takes a closed loop minutes; until then it serves what a half-empty cluster
does. A warm start puts requests in place that are in the middle of their decoding. In a steady state a request is
found in flight with a probability proportional to the time that it stays, which is nearly all decoding, and at a
uniformly distributed point of it (the length bias of renewal theory; D. R. Cox, "Renewal Theory", 1962, section 5).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from emulator.errors import SimulationError
from emulator.randomness import generator
from emulator.workload import ClosedLoop, Lengths, OpenLoop, Refill, Workload

if TYPE_CHECKING:
    from emulator.cluster import ClusterState
    from emulator.pipeline import Pipeline

SAMPLE = 4096
"""So many requests of the workload stand for its distribution of lengths."""
REFUSALS = 20
"""After so many requests in a row without a pipeline the cluster counts as full."""
MOST_REQUESTS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmStart:
    """How a run begins in its middle.

    Attributes:
        spread_s: The next iterations of the requests put in place begin evenly over this time; about one decode
            iteration's latency is right.
        stays_s: Node -> time that an iteration spends there, waiting included, as the serving model predicts it.
            Pipelines then hold requests in proportion to the time that an iteration takes on them; without it all
            hold alike, and where they differ much it takes a request's lifetime until they hold what they should.
        requests: How many are put in place. A closed loop finds its own number: what its KV caches or its constant
            number allow; an open loop needs it: arrival rate times the time that a request stays.
    """

    spread_s: float = 1.0
    stays_s: Mapping[str, float] = field(default_factory=dict)
    requests: int | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.spread_s) and self.spread_s >= 0):
            raise SimulationError(f"warm start: spread is {self.spread_s} s; it must be at least 0")
        if self.requests is not None and not 0 <= self.requests <= MOST_REQUESTS:
            raise SimulationError(f"warm start: {self.requests} requests; give 0 to {MOST_REQUESTS}")


def fill(state: ClusterState, warm: WarmStart) -> int:
    """Put requests in place and return how many of the workload's first requests it still has to issue.

    Raises:
        SimulationError: An open loop without a number of requests.
    """
    workload = state.spec.workload
    most = warm.requests
    if most is None:
        if isinstance(workload, OpenLoop):
            raise SimulationError("warm start: an open loop needs the number of requests in flight; give requests")
        most = workload.initial_requests if workload.refill is Refill.CONSTANT else MOST_REQUESTS
    mark = _feed_mark(workload)
    thinning = _Thinning(warm.stays_s, state.spec.seed)
    placed = refused = 0
    found = _in_flight(workload, state.spec.seed)
    for lengths, emitted in itertools.islice(found, MOST_REQUESTS + REFUSALS):
        if placed >= most or refused >= REFUSALS or (mark < math.inf and state.kv_bottleneck() > mark):
            break
        if state.coordinator.adopt(lengths.prompt_tokens, lengths.output_tokens, emitted, thinning.keep):
            placed, refused = placed + 1, 0
        elif thinning.dropped:
            thinning.dropped, refused = False, 0
        else:
            refused += 1
    state.coordinator.start_adopted(warm.spread_s)
    if isinstance(workload, OpenLoop):
        return 0
    if not placed or workload.refill is Refill.CONSTANT:
        return workload.initial_requests - min(placed, workload.initial_requests)
    # Where pipelines run out before the feeder stops, somebody is always waiting for one.
    return 1 if state.kv_bottleneck() <= mark else 0


class _Thinning:
    """Keeps requests with a probability in proportion to the time that an iteration takes on their pipeline.

    Attributes:
        dropped: Whether :meth:`keep` has turned one away.
    """

    def __init__(self, stays_s: Mapping[str, float], seed: int) -> None:
        self._stays_s = stays_s
        self._draw = generator(seed, "warm-start/pipelines")
        self._longest_s = 0.0
        self.dropped = False

    def keep(self, pipeline: Pipeline) -> bool:
        """Whether a request stays on ``pipeline``."""
        if not self._stays_s:
            return True
        takes_s = sum(link.clock.latency_s for link in pipeline.links)
        takes_s += sum(self._stays_s.get(stage.node.name, 0.0) for stage in pipeline.stages)
        self._longest_s = max(self._longest_s, takes_s)
        self.dropped = bool(self._draw.random() * self._longest_s > takes_s)
        return not self.dropped


def _feed_mark(workload: Workload) -> float:
    """KV use of the fullest layer above which the workload issues nothing new."""
    if isinstance(workload, ClosedLoop) and workload.refill is Refill.KV_ROOM:
        return workload.feed_high_water_mark
    return math.inf


def _in_flight(workload: Workload, seed: int) -> Iterator[tuple[Lengths, int]]:
    """Requests as one finds them decoding, with the tokens that they have emitted; endless unless none decodes."""
    if isinstance(workload, OpenLoop):
        source: Iterator[Lengths] = (
            Lengths(each.prompt_tokens, each.output_tokens) for each in workload.source.arrivals(seed)
        )
    else:
        source = workload.lengths.draws(seed)
    sample = list(itertools.islice(source, SAMPLE))
    decodes = [each.output_tokens - 1 for each in sample]
    total = sum(decodes)
    if not total:
        return
    rng = generator(seed, "warm-start")
    shares = [count / total for count in decodes]
    while True:
        for index, level in zip(rng.choice(len(sample), 256, p=shares).tolist(), rng.random(256).tolist(), strict=True):
            left = 1 + int(level * decodes[index])
            yield sample[index], sample[index].output_tokens - left
