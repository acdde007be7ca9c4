"""Counters of one direction of a proxy."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

REMEMBERED = 4096
"""Latenesses kept for the percentiles: those of the last pieces that were held back."""
PERCENTILES = (50, 90, 99)


class FlowMetrics:
    """What went through one direction of a proxy, all its connections together.

    Attributes:
        received_bytes: From the peers at the near end.
        sent_bytes: Handed to the peers at the far end.
        dropped_bytes: Thrown away, by toxics or with connections that broke.
    """

    def __init__(self) -> None:
        self.received_bytes = 0
        self.sent_bytes = 0
        self.dropped_bytes = 0
        self._lateness_s: deque[float] = deque(maxlen=REMEMBERED)

    def late(self, lateness_s: float) -> None:
        """A piece was passed on ``lateness_s`` after it was due."""
        self._lateness_s.append(lateness_s)

    def lateness_s(self) -> dict[int, float]:
        """Percentiles of the lateness in seconds; empty when nothing was held back yet."""
        if not self._lateness_s:
            return {}
        values = np.percentile(np.array(self._lateness_s), PERCENTILES)
        return {percent: float(value) for percent, value in zip(PERCENTILES, values, strict=True)}

    def figures(self) -> dict[str, Any]:
        """Everything by name."""
        shown = {f"lateness_s_p{percent}": value for percent, value in self.lateness_s().items()}
        return {
            "received_bytes": self.received_bytes,
            "sent_bytes": self.sent_bytes,
            "dropped_bytes": self.dropped_bytes,
            **shown,
        }
