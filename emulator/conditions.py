"""Links that are more than a rate and a delay: jitter, losses, packets, queues."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from netshape.clock import LinkClock, NicClock
from netshape.conditions import LinkConditions
from netshape.link_model import ConditionedClock
from netshape.schedule import ConditionSchedule
from placement.cluster import Cluster, Link

if TYPE_CHECKING:
    from emulator.spec import EmulationSpec

Pair = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkBehaviour:
    """What one direction of a link is like beyond rate and delay.

    Attributes:
        conditions: At the beginning; rate and delay are the link's own.
        schedule: How they change.
    """

    conditions: LinkConditions
    schedule: ConditionSchedule | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkConditions:
    """Which links are more than a rate and a delay.

    Attributes:
        links: Single links given, by their ends; ``None`` for plain ones, which override their regions.
        regions: All links from one region to another.
    """

    links: Mapping[Pair, LinkBehaviour | None] = field(default_factory=dict)
    regions: Mapping[Pair, LinkBehaviour | None] = field(default_factory=dict)

    def of(self, cluster: Cluster, pair: Pair) -> LinkBehaviour | None:
        """How the link between two machines behaves; ``None`` for a plain one."""
        if pair in self.links:
            return self.links[pair]
        if not any(self.regions.values()):
            return None
        return self.regions.get((cluster.region_of(pair[0]), cluster.region_of(pair[1])))

    @property
    def change(self) -> bool:
        """Whether any link has a schedule."""
        behaviours = (*self.links.values(), *self.regions.values())
        return any(behaviour is not None and behaviour.schedule is not None for behaviour in behaviours)

    @property
    def given(self) -> bool:
        """Whether any link is not plain."""
        return any(self.links.values()) or any(self.regions.values())


def wire_clock(spec: EmulationSpec, pair: Pair, link: Link, sender: NicClock | None) -> LinkClock:
    """The clock of the wire over ``link``: a plain one where its conditions are plain and cannot change.

    Args:
        spec: The run.
        pair: Sending and receiving machine.
        link: The cluster's link between them.
        sender: Sending card, when cards are shared first come, first served.
    """
    behaviour = spec.conditions.of(spec.cluster, pair)
    if behaviour is None:
        if spec.churn is None or not spec.churn.links_change:
            return LinkClock(link.bandwidth_bytes_per_s, link.latency_s, sender)
        plain = LinkConditions(bandwidth_bytes_per_s=link.bandwidth_bytes_per_s, latency_s=link.latency_s)
        behaviour = LinkBehaviour(conditions=plain)
    way_back = spec.cluster.link(pair[1], pair[0])
    return ConditionedClock(
        behaviour.conditions,
        name=f"{pair[0]}->{pair[1]}",
        seed=spec.seed,
        return_latency_s=None if way_back is None else way_back.latency_s,
        sender=sender,
    )
