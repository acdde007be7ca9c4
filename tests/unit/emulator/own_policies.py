"""Scheduler policies of a user's own, good and bad, loaded as ``own_policies:Class``."""

from collections.abc import Mapping
from typing import ClassVar

from emulator.links import EmulatedLink
from emulator.schedulers.policy import PerHopPolicy, SchedulerPolicy


class LastLink(PerHopPolicy):
    name = "last-link"
    default_options: ClassVar[Mapping[str, float]] = {"skip": 0.0}

    def choose(self, links: list[EmulatedLink], now_s: float) -> EmulatedLink:
        return links[(-1 - int(self.options["skip"])) % len(links)]


class Unfinished(SchedulerPolicy):
    name = "unfinished"


class NoPolicy:
    pass
