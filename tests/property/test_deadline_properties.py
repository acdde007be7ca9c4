"""A heap of deadlines against the plainest model of one: a dictionary."""

from __future__ import annotations

import asyncio
import gc
import math
import weakref

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from emulator.realtime.virtual_loop import VirtualTimeLoop
from netshape.deadlines import Deadline, DeadlineHeap

NUMBERS = st.integers(0, 9)
AHEAD_S = st.one_of(st.sampled_from([0.0, 1.0, 2.0, math.inf]), st.floats(0, 100))


class Deadlines(RuleBasedStateMachine):
    """Ten deadlines that are set, moved, cleared, and given up, as virtual time goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualTimeLoop()
        self.heap = DeadlineHeap.of(self.loop)
        self.fired: list[tuple[int, float]] = []
        self.deadlines: dict[int, Deadline] = {}
        self.model: dict[int, float] = {}

    def teardown(self) -> None:
        self.loop.close()

    def deadline(self, number: int) -> Deadline:
        if number not in self.deadlines:
            self.deadlines[number] = self.heap.deadline(lambda now: self.fired.append((number, now)))
        return self.deadlines[number]

    @rule(number=NUMBERS, ahead_s=AHEAD_S)
    def move(self, number: int, ahead_s: float) -> None:
        when_s = self.loop.time() + ahead_s
        self.deadline(number).set(when_s)
        self.model[number] = when_s
        if when_s == math.inf:
            del self.model[number]

    @rule(number=NUMBERS, times=st.integers(1, 300))
    def move_often(self, number: int, times: int) -> None:
        for step in range(times):
            self.move(number, 1000.0 + step)

    @rule(number=NUMBERS)
    def clear(self, number: int) -> None:
        self.deadline(number).clear()
        self.model.pop(number, None)

    @precondition(lambda self: self.deadlines)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.deadlines)))
        self.clear(number)
        gone = weakref.ref(self.deadlines.pop(number)._due)
        if gone() is not None:
            gc.collect()
        assert gone() is None, "what is cleared keeps nothing alive"

    @rule(ahead_s=st.floats(0, 50))
    def pass_time(self, ahead_s: float) -> None:
        now = self.loop.time()
        until_s = now + ahead_s
        self.fired.clear()
        self.loop.run_until_complete(asyncio.sleep(ahead_s))
        due = sorted((when_s, number) for number, when_s in self.model.items() if when_s <= until_s)
        for _, number in due:
            del self.model[number]
        assert sorted(number for number, _ in self.fired) == sorted(number for _, number in due)
        whens = {number: when_s for when_s, number in due}
        assert [whens[number] for number, _ in self.fired] == [when_s for when_s, _ in due], "earliest first"
        assert all(fired_s >= whens[number] for number, fired_s in self.fired)

    @invariant()
    def they_are_due_when_they_were_set_to_be(self) -> None:
        for number, deadline in self.deadlines.items():
            assert deadline.when_s == self.model.get(number)

    @invariant()
    def garbage_is_bounded(self) -> None:
        assert len(self.heap._heap) <= 2 * len(self.model) + 64


TestDeadlines = Deadlines.TestCase
TestDeadlines.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)
