"""``latency``: bytes come late."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from netshape.conditions import MAX_SECONDS, Jitter, LinkConditions
from netshape.proxy.delays import DelayStage
from netshape.proxy.errors import bad_body
from netshape.proxy.stages import Place, Stage
from netshape.proxy.toxics.toxic import Attributes


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency(Attributes):
    """Delays bytes without limiting their rate.

    Attributes:
        latency: Milliseconds of delay.
        jitter: Milliseconds by which the delay may be shorter or longer, evenly.
    """

    TYPE: ClassVar[str] = "latency"
    latency: int = 0
    jitter: int = 0

    def __post_init__(self) -> None:
        for name, value in (("latency", self.latency), ("jitter", self.jitter)):
            if value > MAX_SECONDS * 1000:
                raise bad_body(f"attributes.{name} = {value}: it must be at most {MAX_SECONDS * 1000:.0f} ms, a day")

    @property
    def conditions(self) -> LinkConditions:
        """The link that does the same."""
        return LinkConditions(
            latency_s=self.latency / 1000, jitter=Jitter(spread_s=self.jitter / 1000) if self.jitter else None
        )

    def stage(self, place: Place, name: str) -> Stage:
        """A stage that delays."""
        return LatencyStage(place, self, name)


class LatencyStage(DelayStage):
    """Delays what comes by the latency, jittered, first in, first out."""

    def __init__(self, place: Place, attributes: Latency, name: str) -> None:
        self._name = name
        super().__init__(place, place.channel(attributes.conditions, name))

    def update(self, attributes: Latency) -> None:
        """Bytes that are held leave as if the latency had always been the new one."""
        self.replace(self.place.channel(attributes.conditions, self._name))
