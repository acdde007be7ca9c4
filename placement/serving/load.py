"""What clients ask of a placement."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

from placement.errors import PlanError

EVEN = (0.7548776662466927, 0.5698402909980532)
"""Multiples of these, modulo 1, fill the unit square more evenly than random numbers do (M. Roberts' R2 sequence)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """A workload; exactly one of ``feed_mark``, ``in_flight`` and ``requests_per_s`` is given.

    Attributes:
        lengths: Prompt and output tokens of a sample of the requests, shape ``(n, 2)``.
        feed_mark: A closed loop that issues requests while the fullest layer's expected KV use is at most this share.
        in_flight: A closed loop with this number of requests.
        requests_per_s: An open loop with this rate.
        burstiness: Squared coefficient of variation of an open loop's gaps.
        spacing_s: In a closed loop, from a request's end to the next one's arrival.
    """

    lengths: tuple[tuple[int, int], ...]
    feed_mark: float | None = None
    in_flight: int | None = None
    requests_per_s: float | None = None
    burstiness: float = 1.0
    spacing_s: float = 0.0

    def __post_init__(self) -> None:
        given = [value for value in (self.feed_mark, self.in_flight, self.requests_per_s) if value is not None]
        if len(given) != 1:
            raise PlanError("load: give one of feed_mark, in_flight and requests_per_s")
        if not given[0] > 0:
            raise PlanError(f"load: {given[0]} is not above 0")
        if not self.lengths or min(min(pair) for pair in self.lengths) < 1:
            raise PlanError("load: lengths must be at least one pair of token counts of at least 1")

    @property
    def mean_decodes(self) -> float:
        """Decode iterations of a request; its prefill emits the first token."""
        return sum(output - 1 for _, output in self.lengths) / len(self.lengths)

    def arriving(self) -> Iterator[tuple[int, int]]:
        """Requests to come: the sample in its order, over and over."""
        return itertools.cycle(self.lengths)

    def found(self) -> Iterator[tuple[int, int, int]]:
        """Requests as one finds them decoding: prompt tokens, tokens so far, decodes left; endless unless none decodes.

        One is found with a probability in proportion to the time that it stays, at any point of it alike. They are
        spread evenly over both, so that few of them have the right mixture; whoever takes them must mix their order.
        """
        ordered = sorted(self.lengths, key=lambda pair: (pair[1], pair[0]))
        reach = list(itertools.accumulate(output - 1 for _, output in ordered))
        if not reach[-1]:
            return
        for index in itertools.count(1):
            prompt, output = ordered[bisect_right(reach, index * EVEN[0] % 1 * reach[-1])]
            left = 1 + int(index * EVEN[1] % 1 * (output - 1))
            yield prompt, output - left, left
