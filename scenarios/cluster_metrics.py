"""Figures of an emulated cluster while it runs."""

from __future__ import annotations

from typing import Any

from emulator.emulation import Emulation
from emulator.requests import Outcome
from emulator.summary import summarise
from scenarios.cluster_clock import ClusterClock
from scenarios.expect import figures_at


class ClusterMetrics:
    """The figures of a running cluster, as they are now.

    ``metrics["ttft_s.p99"]`` is any figure of ``summary.json`` by its path.
    """

    def __init__(self, emulation: Emulation, clock: ClusterClock) -> None:
        self._state = emulation.state
        self._clock = clock

    @property
    def now_s(self) -> float:
        """Emulated time."""
        return self._clock.now_s

    @property
    def submitted(self) -> int:
        """Requests that have arrived."""
        return self._state.metrics.submitted

    @property
    def finished(self) -> int:
        """Requests that have got all of their tokens."""
        return self._state.metrics.outcomes[Outcome.FINISHED]

    @property
    def failed(self) -> int:
        """Requests that were given up on the way."""
        return self._state.metrics.outcomes[Outcome.FAILED]

    @property
    def rejected(self) -> int:
        """Requests that were turned away."""
        return self._state.metrics.outcomes[Outcome.REJECTED]

    @property
    def in_flight(self) -> int:
        """Requests on a pipeline."""
        return self._state.coordinator.in_flight_count

    @property
    def waiting(self) -> int:
        """Requests that wait for a pipeline."""
        return sum(1 for _ in self._state.coordinator.waiting)

    @property
    def can_serve(self) -> bool:
        """Whether some pipeline leads through all layers, as far as the coordinator knows."""
        return self._state.can_serve

    @property
    def max_flow_tokens_per_s(self) -> float:
        """Max flow of what serves now, as far as the coordinator knows; 0 when nothing does."""
        return self._state.flow.tokens_per_s if self._state.can_serve else 0.0

    @property
    def serving(self) -> tuple[str, ...]:
        """Machines that new requests may be routed to."""
        return tuple(node.name for node in self._state.nodes)

    @property
    def up(self) -> tuple[str, ...]:
        """Machines that run, whether the coordinator knows or not."""
        churn = self._state.churn
        assert churn is not None
        return tuple(name for name, machine in churn.machines.items() if machine.up)

    def summary(self) -> dict[str, Any]:
        """All figures, as ``summary.json`` has them."""
        return summarise(self._state, wall_s=0.0, cpu_s=0.0, interrupted=False)

    def __getitem__(self, figure: str) -> Any:
        """One figure by its path.

        Raises:
            KeyError: There is none.
        """
        found = list(figures_at(self.summary(), figure))
        if not found:
            raise KeyError(f"there is no figure {figure}")
        return found[0][1] if "*" not in figure else dict(found)

    def __repr__(self) -> str:
        return (
            f"<at {self.now_s:.6g} s: {self.submitted} requests, {self.finished} finished, {self.failed} failed, "
            f"{self.rejected} rejected, {self.in_flight} in flight, {self.waiting} waiting; {len(self.up)} nodes up>"
        )
