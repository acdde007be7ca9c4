"""Counters of one direction of a proxy."""

from __future__ import annotations

from netshape.link_metrics import DurationHistogram


class FlowMetrics:
    """What went through one direction of a proxy, all its connections together.

    Attributes:
        received_bytes: From the peers at the near end.
        sent_bytes: Handed to the peers at the far end.
        dropped_bytes: Thrown away, by toxics or with connections that broke.
        lateness: How long after it was due each piece was passed on that a toxic or a link had held back.
    """

    def __init__(self) -> None:
        self.received_bytes = 0
        self.sent_bytes = 0
        self.dropped_bytes = 0
        self.lateness = DurationHistogram()
