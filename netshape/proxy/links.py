"""The links that all connections of a proxy share, one for each direction."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from netshape.clock import NicClock
from netshape.conditions import LinkConditions
from netshape.link_model import ConditionedClock
from netshape.proxy.delays import Channel
from netshape.proxy.toxics.toxic import DIRECTIONS, Direction


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One direction of a link.

    Attributes:
        conditions: What it is like.
        sender: Card that it shares with other links at the near end.
        receiver: Card that it shares at the far end.
        shown: The link as the API shows it: what the user wrote.
    """

    conditions: LinkConditions
    sender: NicClock | None = None
    receiver: NicClock | None = None
    shown: dict[str, Any] = field(default_factory=dict)


class ProxyLinks:
    """The links of one proxy.

    Args:
        name: The proxy's name, from which random draws derive.
        seed: Seed that they derive from.
    """

    def __init__(self, name: str, seed: int) -> None:
        self._name = name
        self._seed = seed
        self._links: dict[Direction, Link] = {}
        self._channels: dict[Direction, Channel] = {}

    @property
    def shown(self) -> dict[str, Any]:
        """The links as the API shows them, by direction; empty when there are none."""
        return {direction: self._links[direction].shown for direction in DIRECTIONS if direction in self._links}

    def channel(self, direction: Direction) -> Channel | None:
        """The channel of a direction; ``None`` where bytes pass without a link."""
        return self._channels.get(direction)

    def set(self, direction: Direction, link: Link | None) -> bool:
        """Put a link in, change or remove it.

        Returns:
            Whether the channel is another one now, so that pipes have to be led through it.
        """
        present = self._links.get(direction)
        if link is None:
            if present is None:
                return False
            del self._links[direction]
            self._channels.pop(direction).close()
            self._tell_return_latency(direction, 0.0)
            return True
        self._links[direction] = link
        self._tell_return_latency(direction, link.conditions.latency_s)
        if present is not None and (present.sender, present.receiver) == (link.sender, link.receiver):
            self._channels[direction].set(link.conditions)
            return False
        clock = ConditionedClock(
            link.conditions,
            name=f"proxy {self._name} {direction}",
            seed=self._seed,
            return_latency_s=self._return_latency_s(direction),
            sender=link.sender,
        )
        self._channels[direction] = Channel(asyncio.get_running_loop(), clock, link.receiver)
        return True

    def start(self) -> None:
        """The proxy listens."""

    def stop(self) -> None:
        """The proxy has stopped."""

    def _return_latency_s(self, direction: Direction) -> float:
        back = self._links.get(_opposite(direction))
        return 0.0 if back is None else back.conditions.latency_s

    def _tell_return_latency(self, direction: Direction, latency_s: float) -> None:
        back = self._channels.get(_opposite(direction))
        if back is not None:
            back.set_return_latency(latency_s)


def _opposite(direction: Direction) -> Direction:
    return "downstream" if direction == "upstream" else "upstream"
