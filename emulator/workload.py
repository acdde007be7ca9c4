"""What the clients do: arrivals in an open loop, or a fixed pressure in a closed loop."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, Protocol

import numpy as np

from emulator.errors import SimulationError
from emulator.randomness import generator


class Lengths(NamedTuple):
    """Tokens of one request."""

    prompt_tokens: int
    output_tokens: int


class Arrival(NamedTuple):
    """One request of an open-loop workload: seconds since the start of the run, and its tokens."""

    at_s: float
    prompt_tokens: int
    output_tokens: int


class LengthSource(Protocol):
    """Where request lengths come from."""

    def draws(self, seed: int) -> Iterator[Lengths]:
        """An endless stream of lengths that depends on ``seed`` alone."""
        ...


@dataclass(frozen=True, slots=True)
class ListedLengths:
    """Lengths in the order given, from the start again when they are used up."""

    lengths: Sequence[Lengths]

    def __post_init__(self) -> None:
        if not self.lengths:
            raise SimulationError("workload: the list of lengths is empty; give at least one request")

    def draws(self, seed: int) -> Iterator[Lengths]:
        """The list, over and over; ``seed`` changes nothing."""
        while True:
            yield from self.lengths


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantileLengths:
    """Lengths drawn from quantile tables, the output length given the prompt length.

    Attributes:
        prompt_quantiles: Prompt tokens at evenly spaced probabilities 0..1, rising.
        bin_edges: Upper prompt-token edge of each bin but the last, rising, shape ``(bins - 1,)``.
        output_quantiles: For each bin output tokens at evenly spaced probabilities 0..1, shape ``(bins, q)``.
        scale: Factor on both lengths.
    """

    prompt_quantiles: Sequence[float]
    bin_edges: Sequence[float]
    output_quantiles: Sequence[Sequence[float]]
    scale: float = 1.0

    def draws(self, seed: int) -> Iterator[Lengths]:
        """Independent draws, by inverse transform with linear interpolation between quantiles."""
        rng = generator(seed, "workload/lengths")
        grid = np.linspace(0.0, 1.0, len(self.prompt_quantiles))
        while True:
            levels = rng.random((256, 2))
            prompts = np.interp(levels[:, 0], grid, self.prompt_quantiles)
            bins = np.searchsorted(np.asarray(self.bin_edges, dtype=float), prompts, side="left")
            for prompt, level, row in zip(prompts.tolist(), levels[:, 1].tolist(), bins.tolist(), strict=True):
                table = self.output_quantiles[row]
                output = float(np.interp(level, np.linspace(0.0, 1.0, len(table)), table))
                yield Lengths(max(1, round(prompt * self.scale)), max(1, round(output * self.scale)))


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedLengths:
    """Every request alike."""

    prompt_tokens: int
    output_tokens: int

    def draws(self, seed: int) -> Iterator[Lengths]:
        """The same lengths for ever."""
        while True:
            yield Lengths(self.prompt_tokens, self.output_tokens)


class ArrivalSource(Protocol):
    """Where an open loop's requests come from."""

    def arrivals(self, seed: int) -> Iterator[Arrival]:
        """Requests in order of time; may be endless."""
        ...


@dataclass(frozen=True, slots=True)
class ListedArrivals:
    """A trace: requests with their times, in order."""

    requests: Sequence[Arrival]

    def __post_init__(self) -> None:
        last = 0.0
        for index, request in enumerate(self.requests):
            if not request.at_s >= last:
                raise SimulationError(
                    f"workload: arrival {index} is at {request.at_s:g} s, before the one at {last:g} s; sort by time"
                )
            last = request.at_s

    def arrivals(self, seed: int) -> Iterator[Arrival]:
        """The trace; ``seed`` changes nothing."""
        return iter(self.requests)


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomArrivals:
    """A renewal process: gamma gaps, Poisson arrivals when ``burstiness`` is 1.

    Attributes:
        requests_per_s: Mean rate.
        burstiness: Squared coefficient of variation of the gaps; 1 is Poisson, above 1 comes in bursts,
            towards 0 evenly spaced.
        lengths: Source of the lengths.
    """

    requests_per_s: float
    lengths: LengthSource
    burstiness: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.requests_per_s) and self.requests_per_s > 0):
            raise SimulationError(f"workload: rate is {self.requests_per_s} requests/s; it must be above 0")
        if not (math.isfinite(self.burstiness) and self.burstiness > 0):
            raise SimulationError(f"workload: burstiness is {self.burstiness}; it must be above 0 (1 is Poisson)")

    def arrivals(self, seed: int) -> Iterator[Arrival]:
        """Endless; gaps and lengths have generators of their own."""
        rng = generator(seed, "workload/arrivals")
        shape, scale = 1.0 / self.burstiness, self.burstiness / self.requests_per_s
        at_s = 0.0
        lengths = self.lengths.draws(seed)
        while True:
            for gap in rng.gamma(shape, scale, 256).tolist():
                at_s += gap
                prompt_tokens, output_tokens = next(lengths)
                yield Arrival(at_s, prompt_tokens, output_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenLoop:
    """Requests come when they come, whatever the cluster does."""

    source: ArrivalSource


class Refill(StrEnum):
    """When a closed loop issues the next request."""

    KV_ROOM = "kv-room"
    """After each prefill end and each request end, if the fullest layer's expected KV use leaves room."""
    CONSTANT = "constant"
    """After each request end: a constant number in flight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedLoop:
    """A feeder that keeps the cluster under pressure (HELIX.md section 7, offline).

    Attributes:
        lengths: Source of the lengths.
        initial_requests: Requests issued at the start, ``spacing_s`` apart.
        refill: When to issue further ones.
        spacing_s: Delay between the cause and the new request's arrival.
        feed_high_water_mark: For :attr:`Refill.KV_ROOM`: issue while the bottleneck is at most this.
    """

    lengths: LengthSource
    initial_requests: int
    refill: Refill
    spacing_s: float = 0.1
    feed_high_water_mark: float = field(default=0.8)

    def __post_init__(self) -> None:
        if self.initial_requests < 1:
            raise SimulationError("workload: a closed loop needs at least 1 initial request")
        if not (math.isfinite(self.spacing_s) and self.spacing_s >= 0):
            raise SimulationError(f"workload: spacing is {self.spacing_s} s; it must be at least 0")
        if not 0 < self.feed_high_water_mark <= 1:
            raise SimulationError(
                f"workload: feed high-water mark is {self.feed_high_water_mark}; it must be above 0 and at most 1"
            )


Workload = OpenLoop | ClosedLoop
