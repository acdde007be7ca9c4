"""Which event is to blame when a machine that is up has not been heard of."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emulator.churn.network import Pair
    from emulator.churn.report import Incident


class Disturbances:
    """Events that slow links down or cut them, by link: those that last, and the one that ended last."""

    def __init__(self) -> None:
        self._lasting: dict[Pair, dict[int, Incident]] = {}
        self._ended: dict[Pair, tuple[Incident, float]] = {}

    def begin(self, pairs: Iterable[Pair], key: int, incident: Incident) -> None:
        """``incident`` disturbs these links, under ``key``."""
        for pair in pairs:
            self._lasting.setdefault(pair, {})[key] = incident

    def end(self, pairs: Iterable[Pair], key: int, at_s: float) -> None:
        """What disturbs these links under ``key`` is over."""
        for pair in pairs:
            incident = self._lasting.get(pair, {}).pop(key, None)
            if incident is not None:
                self._ended[pair] = (incident, at_s)

    def cause(self, pair: Pair, since_s: float) -> Incident | None:
        """The latest event that disturbs a link, or did after ``since_s``; ``None`` when there is none."""
        lasting = self._lasting.get(pair)
        if lasting:
            return max(lasting.values(), key=lambda incident: incident.number)
        incident, until_s = self._ended.get(pair, (None, -math.inf))
        return incident if until_s > since_s else None
