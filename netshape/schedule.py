"""Conditions that change at set times, once or round and round."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

from netshape.conditions import LinkConditions
from netshape.errors import NetworkError

CONDITION_NAMES = tuple(field.name for field in fields(LinkConditions))


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionStep:
    """What changes at one time.

    Attributes:
        time_s: When, counted from the schedule's beginning.
        conditions: All conditions anew; ``None`` when only some change.
        changes: Names of :class:`~netshape.conditions.LinkConditions` with their new values; the others stay.

    Raises:
        NetworkError: A bad time, an unknown name, or nothing to change.
    """

    time_s: float
    conditions: LinkConditions | None = None
    changes: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.time_s < math.inf:
            raise NetworkError(f"step at time_s = {self.time_s!r}: it must be a time from 0 on")
        if self.conditions is None and not self.changes:
            raise NetworkError(f"step at {self.time_s:g} s: nothing changes; give conditions or changes")
        for name, _ in self.changes:
            if name not in CONDITION_NAMES:
                known = ", ".join(CONDITION_NAMES)
                raise NetworkError(f"step at {self.time_s:g} s: {name!r} is no condition; known are {known}")

    def after(self, before: LinkConditions) -> LinkConditions:
        """Conditions from this step on.

        Args:
            before: Conditions until then.

        Raises:
            NetworkError: Together they are not valid.
        """
        try:
            return replace(self.conditions or before, **dict(self.changes))
        except NetworkError as error:
            raise NetworkError(f"step at {self.time_s:g} s: {error}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionSchedule:
    """Steps in the order of time.

    Attributes:
        steps: At least one, at rising times.
        repeat_s: Period after which the schedule begins again, with the link's first conditions; later than the last
            step. ``None`` to keep the last conditions for ever.

    Raises:
        NetworkError: No steps, times that do not rise, or too short a period.
    """

    steps: tuple[ConditionStep, ...]
    repeat_s: float | None = None

    def __post_init__(self) -> None:
        if not self.steps:
            raise NetworkError("schedule: it has no steps; give at least one")
        for before, after in zip(self.steps, self.steps[1:], strict=False):
            if after.time_s <= before.time_s:
                rule = f"step at {after.time_s:g} s: it comes after one at {before.time_s:g} s"
                raise NetworkError(f"{rule}; times must rise")
        if self.repeat_s is not None and not self.steps[-1].time_s < self.repeat_s < math.inf:
            last = self.steps[-1].time_s
            raise NetworkError(f"schedule: repeat_s = {self.repeat_s!r} must be later than the last step, {last:g} s")

    def one_period(self, first: LinkConditions) -> tuple[tuple[float, LinkConditions], ...]:
        """Times and conditions of one period of a link that begins with ``first``, shape ``(steps,)``.

        Raises:
            NetworkError: A step that makes no valid conditions of those before.
        """
        found = []
        now = first
        for step in self.steps:
            now = step.after(now)
            found.append((step.time_s, now))
        return tuple(found)

    def changes(self, first: LinkConditions) -> Iterator[tuple[float, LinkConditions]]:
        """Times and conditions of a link that begins with ``first``, in order; without end when it repeats.

        Raises:
            NetworkError: As for :meth:`one_period`, before the first is given.
        """
        period = self.one_period(first)
        return self._round_and_round(first, period)

    def _round_and_round(
        self, first: LinkConditions, period: tuple[tuple[float, LinkConditions], ...]
    ) -> Iterator[tuple[float, LinkConditions]]:
        yield from period
        if self.repeat_s is None:
            return
        rounds = 0
        while True:
            rounds += 1
            # A product, not a sum of periods: rounding would add up.
            begin = rounds * self.repeat_s
            if period[0][0] > 0:
                yield begin, first
            for time_s, conditions in period:
                yield begin + time_s, conditions
