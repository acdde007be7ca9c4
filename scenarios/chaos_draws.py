"""Random choices of which chaos cases are made."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

from netshape.randomness import generator

Item = TypeVar("Item")


class Draws:
    """Choices that depend on a seed and a name alone."""

    def __init__(self, seed: int, name: str) -> None:
        self._rng = generator(seed, name)

    def chance(self, probability: float) -> bool:
        """Whether something of this probability happens."""
        return bool(self._rng.random() < probability)

    def whole(self, least: int, most: int) -> int:
        """A whole number, both ends included."""
        return int(self._rng.integers(least, most + 1))

    def number(self, least: float, most: float) -> float:
        """A number between two, evenly; rounded so that it is short in a file."""
        return float(f"{self._rng.uniform(least, most):.3g}")

    def scaled(self, least: float, most: float) -> float:
        """A number between two, evenly over orders of magnitude."""
        return float(f"{math.exp(self._rng.uniform(math.log(least), math.log(most))):.3g}")

    def one(self, items: Sequence[Item]) -> Item:
        """One of several."""
        return items[self.whole(0, len(items) - 1)]

    def some(self, items: Sequence[Item], count: int) -> list[Item]:
        """So many of several, in their order."""
        chosen = self._rng.choice(len(items), count, replace=False).tolist()
        return [items[index] for index in sorted(chosen)]


def seconds(value: float) -> str:
    """A duration as files have it."""
    return f"{value:.6g} s"
