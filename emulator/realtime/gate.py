"""Keeps emulated time from passing a message that is still on its way."""

from __future__ import annotations

import math
from heapq import heappop, heappush


class ArrivalGate:
    """Closed at the planned time of the earliest message whose bytes are not here yet.

    As long as every event waits for it, events happen in the order of virtual time, however late bytes are.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int]] = []
        self._awaited: dict[int, None] = {}

    def expect(self, serial: int, planned_s: float) -> None:
        """Message ``serial`` is due at ``planned_s``."""
        self._awaited[serial] = None
        heappush(self._heap, (planned_s, serial))

    def arrived(self, serial: int) -> None:
        """The last byte of message ``serial`` is here."""
        self._awaited.pop(serial, None)

    def earliest_s(self) -> float:
        """Planned time of the earliest message that is not here; infinite when all are."""
        heap, awaited = self._heap, self._awaited
        while heap and heap[0][1] not in awaited:
            heappop(heap)
        return heap[0][0] if heap else math.inf
