"""``bandwidth``: bytes pass at a limited rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from netshape.conditions import MAX_RATE_BYTES_PER_S, LinkConditions
from netshape.proxy.delays import DelayStage
from netshape.proxy.stages import Place, Stage
from netshape.proxy.toxics.toxic import Attributes

KILOBYTE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Bandwidth(Attributes):
    """Limits the rate of each connection.

    Attributes:
        rate: Kilobytes (1000 bytes) per second; at 0 nothing passes until it changes.
    """

    TYPE: ClassVar[str] = "bandwidth"
    rate: int = 0

    @property
    def conditions(self) -> LinkConditions:
        """The link that does the same."""
        if not self.rate:
            return LinkConditions(up=False)
        bytes_per_s = float(self.rate * KILOBYTE)
        return LinkConditions(bandwidth_bytes_per_s=bytes_per_s if bytes_per_s <= MAX_RATE_BYTES_PER_S else math.inf)

    def stage(self, place: Place, name: str) -> Stage:
        """A stage that limits."""
        return BandwidthStage(place, place.channel(self.conditions, name))


class BandwidthStage(DelayStage):
    """Passes bytes at the rate; the sender waits for what is beyond."""

    def update(self, attributes: Bandwidth) -> None:
        """What is not sent yet goes on at the new rate."""
        self.channel.set(attributes.conditions)
