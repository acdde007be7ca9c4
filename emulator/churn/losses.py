"""What becomes of requests whose pipeline lost a node or a link."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from emulator.churn.replicas import Replicas
from emulator.churn.spec import InFlightPolicy

if TYPE_CHECKING:
    from emulator.churn.control import ChurnControl
    from emulator.churn.network import Pair
    from emulator.churn.report import Incident
    from emulator.node import GpuNode
    from emulator.requests import Attempt


class Losses:
    """Fails, retries or resumes requests.

    Attributes:
        replicas: Copies of KV entries, when the policy keeps any.
    """

    def __init__(self, control: ChurnControl) -> None:
        self._control = control
        self._spec = control.spec.in_flight
        self._coordinator = control.state.coordinator
        keeps = self._spec.policy is InFlightPolicy.REPLICATE
        self.replicas = Replicas(control) if keeps else None

    def of_node(self, node: GpuNode, reason: str, incident: Incident | None) -> None:
        """``node`` is no longer there for the requests on it."""
        self._all(lambda attempt: any(each is node for each, _ in attempt.stages()), reason, incident)

    def of_links(self, pairs: Collection[Pair], incident: Incident | None) -> None:
        """Nothing passes on ``pairs`` any more."""
        self._all(
            lambda attempt: any((link.wire.source, link.wire.target) in pairs for link in attempt.path()),
            "a link of its pipeline is down",
            incident,
        )

    def of_all(self, reason: str, incident: Incident | None) -> None:
        """Nobody knows any more what was in flight."""
        self._all(lambda _attempt: True, reason, incident)

    def _all(self, hit: Callable[[Attempt], bool], reason: str, incident: Incident | None) -> None:
        found = [attempt for attempt in self._coordinator.in_flight() if hit(attempt)]
        for attempt in sorted(found, key=lambda attempt: attempt.request.number):
            self.of_attempt(attempt, reason, incident)

    def of_attempt(self, attempt: Attempt, reason: str, incident: Incident | None) -> None:
        """The pipeline of ``attempt`` is lost."""
        request, spec = attempt.request, self._spec
        age_s = self._control.env.now - request.arrival_s
        report = self._control.report
        if spec.policy is InFlightPolicy.FAIL:
            self._give_up(attempt, reason, incident)
        elif request.retries >= spec.max_retries:
            self._give_up(attempt, f"{reason}; it has been tried again {request.retries} times", incident)
        elif age_s > spec.deadline_s:
            self._give_up(attempt, f"{reason}; it is {age_s:.1f} s old, past its deadline", incident)
        else:
            again = None if self.replicas is None else self.replicas.resume(attempt, reason)
            if again is None:
                again = self._coordinator.try_again(attempt, reason)
            report.retried(incident, again)

    def _give_up(self, attempt: Attempt, reason: str, incident: Incident | None) -> None:
        self._control.report.failed(incident)
        self._coordinator.give_up(attempt, reason)
