"""Random draws of jitter and loss, in blocks so that one costs little more than a list's ``pop``."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import accumulate

import numpy as np

from netshape.conditions import GilbertElliottLoss, IndependentLoss, Jitter, Loss

BLOCK = 256
MAX_ROUNDS = 15
"""Rounds of retransmission after which a packet gets through in any case, as many as Linux tries (tcp_retries2)."""
MAX_SOJOURNS = 1000
_PARETO_SHAPE = 3.0
_PARETO_MEAN = _PARETO_SHAPE / (_PARETO_SHAPE - 1)
_PARETO_DEVIATION = math.sqrt(_PARETO_SHAPE / (_PARETO_SHAPE - 2)) / (_PARETO_SHAPE - 1)


class UniformDraws:
    """Uniform variates from 0 to below 1, one at a time.

    Args:
        random: Generator to draw from.
    """

    __slots__ = ("_block", "_random")

    def __init__(self, random: np.random.Generator) -> None:
        self._random = random
        self._block: list[float] = []

    def __call__(self) -> float:
        """The next variate."""
        if not self._block:
            self._block = self._random.random(BLOCK).tolist()
        return self._block.pop()


class JitterDraws:
    """A message's deviation from the latency, one at a time.

    With a correlation, normal variates follow an AR(1) process and are mapped to the distribution by their rank, which
    leaves the distribution itself unchanged (a Gaussian copula).

    Args:
        jitter: What to draw.
        random: Generator to draw from.
    """

    __slots__ = ("_block", "_jitter", "_last", "_random")

    def __init__(self, jitter: Jitter, random: np.random.Generator) -> None:
        self._jitter = jitter
        self._random = random
        self._last: float | None = None
        self._block: list[float] = []

    def __call__(self) -> float:
        """The next deviation in seconds."""
        if not self._block:
            self._block = self._correlated() if self._jitter.correlation else self._independent()
            self._block.reverse()
        return self._block.pop()

    def _independent(self) -> list[float]:
        spread = self._jitter.spread_s
        if self._jitter.distribution == "uniform":
            draws = self._random.uniform(-spread, spread, BLOCK)
        elif self._jitter.distribution == "normal":
            draws = self._random.normal(0.0, spread, BLOCK)
        else:
            draws = (self._random.pareto(_PARETO_SHAPE, BLOCK) + 1 - _PARETO_MEAN) * (spread / _PARETO_DEVIATION)
        block: list[float] = draws.tolist()
        return block

    def _correlated(self) -> list[float]:
        correlation, spread = self._jitter.correlation, self._jitter.spread_s
        fresh = math.sqrt(1 - correlation * correlation)
        steps: list[float] = self._random.standard_normal(BLOCK).tolist()
        if self._last is None:
            self._last = steps[0]
            rest = steps[1:]
        else:
            self._last = correlation * self._last + fresh * steps[0]
            rest = steps[1:]
        normal = list(accumulate(rest, lambda last, step: correlation * last + fresh * step, initial=self._last))
        self._last = normal[-1]
        if self._jitter.distribution == "normal":
            return [spread * value for value in normal]
        # Share of normal variates above the value; 1e-16 keeps the Pareto tail finite.
        above = [max(0.5 * math.erfc(value / math.sqrt(2)), 1e-16) for value in normal]
        if self._jitter.distribution == "uniform":
            return [spread * (1 - 2 * share) for share in above]
        scale = spread / _PARETO_DEVIATION
        return [(share ** (-1 / _PARETO_SHAPE) - _PARETO_MEAN) * scale for share in above]


class LossDraws:
    """Lost packets of one link, for reliable streams (rounds of retransmission) and for packets.

    Args:
        loss: What to draw.
        random: Generator to draw from.
    """

    __slots__ = ("_bad_left", "_good_left", "_loss", "_random", "_uniform")

    def __init__(self, loss: Loss, random: np.random.Generator) -> None:
        self._loss = loss
        self._random = random
        self._uniform = UniformDraws(random)
        # Packets left of the chain's present good and bad time; at most one of them is above 0.
        self._good_left = self._bad_left = 0
        if isinstance(loss, GilbertElliottLoss):
            if self._uniform() < loss.bad_share:
                self._bad_left = self._sojourn(loss.to_good)
            else:
                self._good_left = self._sojourn(loss.to_bad)

    def lost(self) -> bool:
        """Whether the next packet is lost."""
        if isinstance(self._loss, IndependentLoss):
            return self._uniform() < self._loss.probability
        return self._lost_of(self._loss, 1) > 0

    def rounds(self, packets: int) -> int:
        """Rounds of retransmission until all of ``packets`` are through, 0 to :data:`MAX_ROUNDS`.

        Packets lost in one round are sent again together. With independent losses that takes at most ``r`` rounds with
        probability ``(1 - p**(r + 1))**n``; of a burst, the first round follows the chain and the later ones, an RTT
        apart, its mean.
        """
        loss = self._loss
        if isinstance(loss, IndependentLoss):
            return self._independent_rounds(loss.probability, packets, 0)
        lost = self._lost_of(loss, packets)
        return self._independent_rounds(loss.mean_probability, lost, 1) if lost else 0

    def _independent_rounds(self, probability: float, packets: int, rounds: int) -> int:
        draw = self._uniform()
        fails = probability
        while rounds < MAX_ROUNDS and draw >= (1 - fails) ** packets:
            fails *= probability
            rounds += 1
        return rounds

    def _lost_of(self, loss: GilbertElliottLoss, packets: int) -> int:
        """Lost packets of the next ``packets``: the chain's good and bad times, not its single steps.

        Past :data:`MAX_SOJOURNS` of them in one message the chain's mean is as good, and bounded in time.
        """
        lost = 0
        for _ in range(MAX_SOJOURNS):
            if not packets:
                return lost
            if self._bad_left:
                run = min(self._bad_left, packets)
                self._bad_left -= run
                lost += self._lost_in_run(run, loss.loss_bad)
                if not self._bad_left:
                    self._good_left = self._sojourn(loss.to_bad)
            else:
                run = min(self._good_left, packets)
                self._good_left -= run
                lost += self._lost_in_run(run, loss.loss_good)
                if not self._good_left:
                    self._bad_left = self._sojourn(loss.to_good)
            packets -= run
        return lost + self._lost_in_run(packets, loss.mean_probability)

    def _lost_in_run(self, packets: int, probability: float) -> int:
        if probability in (0.0, 1.0):
            return packets if probability else 0
        return int(self._random.binomial(packets, probability))

    def _sojourn(self, leaves: float) -> int:
        """Packets until the chain leaves a state that it leaves with probability ``leaves``, at least 1."""
        if leaves >= 1:
            return 1
        return 1 + int(math.log(1 - self._uniform()) / math.log1p(-leaves))


def drawing(loss: Loss | None, random: np.random.Generator) -> LossDraws | None:
    """Draws of ``loss``; ``None`` where nothing can be lost."""
    return LossDraws(loss, random) if loss is not None and loss.mean_probability > 0 else None


def deviating(jitter: Jitter | None, random: np.random.Generator) -> Callable[[], float] | None:
    """Draws of ``jitter``; ``None`` where there is none."""
    return JitterDraws(jitter, random) if jitter is not None and jitter.spread_s > 0 else None
