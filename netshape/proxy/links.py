"""The links that all connections of a proxy share, one for each direction, and the network cards at their ends."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from netshape.clock import NicClock
from netshape.conditions import LinkConditions
from netshape.link_metrics import LinkMetrics
from netshape.link_model import ConditionedClock
from netshape.proxy.delays import Channel
from netshape.proxy.stages import Alarm
from netshape.proxy.toxics.toxic import DIRECTIONS, Direction
from netshape.schedule import ConditionSchedule

Side = Literal["client_card", "server_card"]
SIDES: tuple[Side, ...] = ("client_card", "server_card")
UNLIMITED = LinkConditions()


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One direction of a link.

    Attributes:
        conditions: What it is like at first.
        schedule: How that changes, from when the link is set.
        shown: The link as the API shows it: what the user wrote.
    """

    conditions: LinkConditions
    schedule: ConditionSchedule | None = None
    shown: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A network card that several proxies' links share.

    Attributes:
        name: Its name.
        sending: Its clock for what leaves it; ``None`` when that is not limited.
        receiving: Its clock for what comes in.
    """

    name: str
    sending: NicClock | None
    receiving: NicClock | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LinksChange:
    """What is to change of a proxy's links.

    Attributes:
        links: New links; ``None`` removes one, and one that is absent stays.
        cards: New cards at the clients' and at the upstream's end; likewise.
    """

    links: Mapping[Direction, Link | None] = field(default_factory=dict)
    cards: Mapping[Side, Card | None] = field(default_factory=dict)


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
        self._cards: dict[Side, Card] = {}
        self._channels: dict[Direction, Channel] = {}
        self._followers: dict[Direction, _Follower] = {}

    @property
    def shown(self) -> dict[str, Any]:
        """The links and cards as the API shows them; empty when there are none."""
        shown: dict[str, Any] = {way: dict(self._links[way].shown) for way in DIRECTIONS if way in self._links}
        shown.update({side: self._cards[side].name for side in SIDES if side in self._cards})
        return shown

    def channel(self, direction: Direction) -> Channel | None:
        """The channel of a direction; ``None`` where bytes pass without a link."""
        return self._channels.get(direction)

    def change(self, change: LinksChange) -> list[Direction]:
        """Set, change or remove links and cards.

        Conditions of a link that stays change as the link model has it: what is sent keeps its arrival.

        Returns:
            Directions that have another channel now (or none), so that pipes have to be led through it.
        """
        _put(self._links, change.links)
        _put(self._cards, change.cards)
        replaced = [direction for direction in DIRECTIONS if self._settle(direction, direction in change.links)]
        for direction in DIRECTIONS:
            if direction in change.links or direction in replaced:
                self._follow(direction)
            self._tell_return_latency(direction)
        return replaced

    def close(self) -> None:
        """The proxy is gone."""
        for follower in self._followers.values():
            follower.stop()
        for channel in self._channels.values():
            channel.close()

    def _settle(self, direction: Direction, changed: bool) -> bool:
        link = self._links.get(direction)
        near, far = SIDES if direction == "upstream" else reversed(SIDES)
        sender = self._cards[near].sending if near in self._cards else None
        receiver = self._cards[far].receiving if far in self._cards else None
        present = self._channels.get(direction)
        conditions = UNLIMITED if link is None else link.conditions
        if link is None and sender is None and receiver is None:
            if present is not None:
                self._channels.pop(direction).close()
            return present is not None
        if present is not None and present.clock.sender is sender and present.receiver is receiver:
            if changed:
                present.set(conditions)
            return False
        if present is not None:
            present.close()
        name = f"proxy {self._name} {direction}"
        clock = ConditionedClock(conditions, name=name, seed=self._seed, sender=sender)
        self._channels[direction] = Channel(asyncio.get_running_loop(), clock, receiver, LinkMetrics(name))
        return True

    def _follow(self, direction: Direction) -> None:
        follower = self._followers.pop(direction, None)
        if follower is not None:
            follower.stop()
        link = self._links.get(direction)
        if link is not None and link.schedule is not None:
            self._followers[direction] = _Follower(self, direction, link.schedule.changes(link.conditions))

    def apply(self, direction: Direction, conditions: LinkConditions) -> None:
        """Let conditions hold that a schedule says."""
        self._channels[direction].set(conditions)
        self._tell_return_latency(_opposite(direction))

    def _tell_return_latency(self, direction: Direction) -> None:
        channel, back = self._channels.get(direction), self._channels.get(_opposite(direction))
        latency_s = 0.0 if back is None else back.clock.conditions.latency_s
        if channel is not None and channel.clock.return_latency_s != latency_s:
            channel.set_return_latency(latency_s)


class _Follower:
    """Applies a schedule's changes as their times come."""

    def __init__(
        self, links: ProxyLinks, direction: Direction, changes: Iterator[tuple[float, LinkConditions]]
    ) -> None:
        self._links = links
        self._direction = direction
        self._changes = changes
        self._loop = asyncio.get_running_loop()
        self._begin_s = self._loop.time()
        self._next: tuple[float, LinkConditions] | None = next(changes, None)
        self._alarm = Alarm(self._loop, self._apply)
        self._apply()

    def stop(self) -> None:
        """Apply no more."""
        self._alarm.stop()

    def _apply(self) -> None:
        now_s = self._loop.time() - self._begin_s
        due: LinkConditions | None = None
        while self._next is not None and self._next[0] <= now_s:
            due = self._next[1]
            self._next = next(self._changes, None)
        if due is not None:
            # Steps that a late wake has missed have held for no time.
            self._links.apply(self._direction, due)
        if self._next is not None:
            self._alarm.ring_at(self._begin_s + self._next[0])


def _put(present: dict[Any, Any], change: Mapping[Any, Any]) -> None:
    for key, value in change.items():
        if value is None:
            present.pop(key, None)
        else:
            present[key] = value


def _opposite(direction: Direction) -> Direction:
    return "downstream" if direction == "upstream" else "upstream"
