"""Keeps emulated time from passing a message that is still on its way."""

from __future__ import annotations

import math
from collections.abc import Callable
from heapq import heappop, heappush

Pair = tuple[str, str]


class ArrivalGate:
    """Closed at the planned time of the earliest message whose bytes are not here yet.

    As long as every event waits for it, events happen in the order of virtual time, however late bytes are.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int]] = []
        self._awaited: dict[int, tuple[float, Pair]] = {}

    def expect(self, serial: int, planned_s: float, pair: Pair) -> None:
        """Message ``serial`` from ``pair[0]`` to ``pair[1]`` is due at ``planned_s``."""
        self._awaited[serial] = planned_s, pair
        heappush(self._heap, (planned_s, serial))

    def moved(self, serial: int, planned_s: float) -> None:
        """Message ``serial``, if it is not here yet, is due at another time."""
        if serial in self._awaited:
            self.expect(serial, planned_s, self._awaited[serial][1])

    def give_up(self, lost: Callable[[float, Pair], bool]) -> None:
        """Do not wait for messages, by planned time and pair, whose bytes may never come."""
        for serial in [serial for serial, known in self._awaited.items() if lost(*known)]:
            del self._awaited[serial]

    def arrived(self, serial: int) -> None:
        """The last byte of message ``serial`` is here."""
        self._awaited.pop(serial, None)

    def earliest_s(self) -> float:
        """Planned time of the earliest message that is not here; infinite when all are."""
        heap, awaited = self._heap, self._awaited
        while heap and awaited.get(heap[0][1], (None,))[0] != heap[0][0]:
            heappop(heap)
        return heap[0][0] if heap else math.inf
