"""Machines under churn: what they are, and what the coordinator takes them for."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emulator.churn.report import Incident
    from emulator.node import GpuNode
    from placement.cluster import Node
    from placement.layers import LayerRange


class Role(StrEnum):
    """What the coordinator uses a machine for."""

    SERVING = "serving"
    """New requests may be routed to it."""
    FINISHING = "finishing"
    """It finishes the requests that it has; then it leaves, or changes its layers."""
    LOADING = "loading"
    """It loads the layers that it is to hold and serves none."""
    SPARE = "spare"
    """It is up and has nothing to do."""
    GONE = "gone"
    """It is down, or taken for it."""


class Machine:
    """One machine of the cluster.

    Attributes:
        spec: The machine as the cluster describes it.
        up: Whether it runs; the coordinator may not know yet that it does not.
        life: Counts its starts, so that what was meant for an earlier one can be told.
        role: What the coordinator uses it for.
        node: What runs on it, when it serves or finishes.
        home: Layers that the scenario's placement gives it; ``None`` if it has none there.
        goal: Layers that it is to hold, when it is up.
        leaving: It leaves when it has finished.
        suspected: The coordinator has not heard of it for too long.
        slowdown: Factor on its compute time.
        memory_share: Share of its KV cache's memory that works.
        incident: What happened to it last.
        blamed: While it is suspected though it is up: the event of links that is to blame, if any.
    """

    def __init__(self, spec: Node, home: LayerRange | None) -> None:
        self.spec = spec
        self.name = spec.name
        self.up = True
        self.life = 0
        self.role = Role.SPARE
        self.node: GpuNode | None = None
        self.home = home
        self.goal = home
        self.leaving = False
        self.suspected = False
        self.slowdown = 1.0
        self.memory_share = 1.0
        self.incident: Incident | None = None
        self.blamed: Incident | None = None

    @property
    def cause(self) -> Incident | None:
        """The event for which the coordinator does without it."""
        return self.blamed if self.up and self.suspected else self.incident

    @property
    def routed(self) -> bool:
        """Whether new requests may be routed to it."""
        return self.role is Role.SERVING and not self.suspected

    def __repr__(self) -> str:
        return f"<{self.name} {self.role}{' suspected' if self.suspected else ''}{'' if self.up else ' down'}>"
