"""What a run tells about churn: one record for each event, and throughput against the max flow over time."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from emulator.distribution import Distribution

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emulator.churn.control import ChurnControl
    from emulator.requests import Attempt

SAMPLE_S = 1.0
"""Throughput is looked at so often."""
BEFORE_SAMPLES = 60
"""Throughput before an event is the mean over so many samples."""
SMOOTHED_SAMPLES = 10
"""Throughput after it is the mean over so many."""
RECOVERED_SHARE = 0.95
"""Share of what the flow allows at which throughput counts as recovered."""
TIMELINE_BINS = 600
"""The timeline has at most so many entries, however long the run is."""
DETAILED_INCIDENTS = 2_000
"""So many events get a record of their own; all count in the totals."""


class Incident:
    """One event and what came of it.

    Attributes:
        number: Running number from 1.
        at_s: When it happened.
        kind: What happened.
        names: Machines concerned.
        detected_s: When the coordinator knew.
        first_token_s: First token at the coordinator after it.
        first_recovered_token_s: First token, after it, of a request that had lost its pipeline.
        recovered_s: When throughput was back, see :class:`ChurnReport`.
        before_tokens_per_s: Throughput before it.
        flow_before_tokens_per_s: Max flow before it.
        tokens_recomputed: Tokens computed again because of it.
        requests_retried: Requests that were tried again because of it.
        requests_failed: Requests that failed because of it.
        kv_bytes_lost: KV entries that went down with machines.
        layers_moved: Layers loaded because of it.
        bytes_moved: Their bytes.
        slo_debt_s: Seconds, until the next event, outside the objectives: in which a request failed, ended past its
            objectives, or was past them already.
    """

    def __init__(self, number: int, at_s: float, kind: str, names: Sequence[str], details: dict[str, Any]) -> None:
        self.number = number
        self.at_s = at_s
        self.kind = kind
        self.names = list(names)
        self.details = details
        self.detected_s: float | None = None
        self.first_token_s: float | None = None
        self.first_recovered_token_s: float | None = None
        self.recovered_s: float | None = None
        self.before_tokens_per_s = 0.0
        self.flow_before_tokens_per_s = 0.0
        self.tokens_recomputed = 0
        self.requests_retried = 0
        self.requests_failed = 0
        self.kv_bytes_lost = 0.0
        self.layers_moved = 0
        self.bytes_moved = 0.0
        self.slo_debt_s = 0.0

    def figures(self) -> dict[str, Any]:
        """As the summary holds them; times after the event, ``None`` for what never came."""

        def after(at_s: float | None) -> float | None:
            return None if at_s is None else at_s - self.at_s

        return {
            "incident": self.number,
            "at_s": self.at_s,
            "kind": self.kind,
            "nodes": self.names,
            **self.details,
            "detection_s": after(self.detected_s),
            "first_token_s": after(self.first_token_s),
            "first_recovered_token_s": after(self.first_recovered_token_s),
            "recovery_s": after(self.recovered_s),
            "throughput_before_tokens_per_s": self.before_tokens_per_s,
            "max_flow_before_tokens_per_s": self.flow_before_tokens_per_s,
            "tokens_recomputed": self.tokens_recomputed,
            "requests_retried": self.requests_retried,
            "requests_failed": self.requests_failed,
            "kv_bytes_lost": self.kv_bytes_lost,
            "layers_moved": self.layers_moved,
            "bytes_moved": self.bytes_moved,
            "slo_debt_s": self.slo_debt_s,
        }


class ChurnReport:
    """Collects what churn did.

    Throughput has recovered at the beginning of the first 10 s whose mean is at least 95 % of what the flow allows: of
    the mean of the minute before the event, times the ratio of the max flow of what serves now to that before the
    event, at most 1; while nothing can be served nothing has recovered.

    Attributes:
        expects_token: Whether :meth:`tokens_came` wants to know of the next tokens.
        false_suspicions: Machines that were taken for dead and were not.
        flow_tokens_per_s: Max flow of what serves now, whether the scheduler follows it or not.
    """

    def __init__(self, control: ChurnControl) -> None:
        self._control = control
        self._env = control.env
        self._metrics = control.state.metrics
        self.expects_token = False
        self.false_suspicions = 0
        self.flow_tokens_per_s = control.state.flow.tokens_per_s
        self._serves_since_s = 0.0
        self._count = 0
        self._incidents: list[Incident] = []
        self._no_token: list[Incident] = []
        self._no_recovered_token: list[Incident] = []
        self._open: list[Incident] = []
        self._latest: Incident | None = None
        self._recent: deque[float] = deque(maxlen=BEFORE_SAMPLES)
        self._last = (0, 0, 0, 0)
        self._totals = {"tokens_recomputed": 0, "requests_retried": 0, "requests_failed": 0}
        self._kinds: dict[str, int] = {}
        self._kv_bytes_lost = self._slo_debt_s = 0.0
        self._detection, self._recovery = Distribution(), Distribution()
        self._bin: list[float] = []
        self._timeline: list[dict[str, float]] = []
        self._bin_samples = 1

    def begin(self) -> None:
        """Start sampling."""
        duration_s = self._control.state.spec.duration_s
        self._bin_samples = max(1, -(-int(duration_s / SAMPLE_S) // TIMELINE_BINS))
        self.flow_changed()
        self._next_sample()

    # -- events --------------------------------------------------------------------------------

    def incident(self, kind: str, names: Sequence[str], **details: Any) -> Incident:
        """A new event."""
        self._count += 1
        one = Incident(self._count, self._env.now, kind, names, details)
        one.before_tokens_per_s = sum(self._recent) / len(self._recent) if self._recent else 0.0
        one.flow_before_tokens_per_s = self.flow_tokens_per_s
        self._kinds[kind] = self._kinds.get(kind, 0) + 1
        if len(self._incidents) < DETAILED_INCIDENTS:
            self._incidents.append(one)
        self._no_token.append(one)
        self._open.append(one)
        self._latest = one
        self.expects_token = True
        return one

    def detected(self, incident: Incident | None) -> None:
        """The coordinator knows of ``incident``."""
        if incident is not None and incident.detected_s is None:
            incident.detected_s = self._env.now
            self._detection.add(incident.detected_s - incident.at_s)

    def flow_changed(self) -> None:
        """Other machines or links serve now."""
        state, control = self._control.state, self._control
        before = self.flow_tokens_per_s
        if control.recovery.solves or not state.can_serve:
            self.flow_tokens_per_s = state.flow.tokens_per_s if state.can_serve else 0.0
        else:
            self.flow_tokens_per_s = control.flow_of(control.serving_ranges())
        if before <= 0 < self.flow_tokens_per_s:
            self._serves_since_s = self._env.now
        control.log("max_flow", tokens_per_s=round(self.flow_tokens_per_s, 6))

    def kv_lost(self, incident: Incident, size_bytes: float) -> None:
        """KV entries went down with a machine."""
        self._kv_bytes_lost += size_bytes
        incident.kv_bytes_lost += size_bytes

    def retried(self, incident: Incident | None, tokens: int) -> None:
        """A request goes on after a loss, and has ``tokens`` to compute again."""
        self._totals["requests_retried"] += 1
        self._totals["tokens_recomputed"] += tokens
        if incident is not None:
            incident.requests_retried += 1
            incident.tokens_recomputed += tokens
            if incident.first_recovered_token_s is None and incident not in self._no_recovered_token:
                self._no_recovered_token.append(incident)
                self.expects_token = True

    def failed(self, incident: Incident | None) -> None:
        """A request failed after a loss."""
        self._totals["requests_failed"] += 1
        if incident is not None:
            incident.requests_failed += 1

    def moved(self, incident: Incident | None, size_bytes: float) -> None:
        """A layer was loaded."""
        if incident is not None:
            incident.layers_moved += 1
            incident.bytes_moved += size_bytes

    def tokens_came(self, items: Sequence[Attempt]) -> None:
        """Tokens are at the coordinator."""
        now = self._env.now
        for incident in self._no_token:
            incident.first_token_s = now
        self._no_token.clear()
        if self._no_recovered_token and any(item.request.retries for item in items):
            for incident in self._no_recovered_token:
                incident.first_recovered_token_s = now
            self._no_recovered_token.clear()
        self.expects_token = bool(self._no_recovered_token)

    # -- samples -------------------------------------------------------------------------------

    def _next_sample(self) -> None:
        self._env.call_at(self._env.now + SAMPLE_S, lambda _event: self._sample())

    def _sample(self) -> None:
        metrics = self._metrics
        failed = sum(count for outcome, count in metrics.outcomes.items() if outcome != "finished")
        now = (metrics.tokens, metrics.all_finished, metrics.all_good, failed)
        tokens, finished, good, bad = (one - other for one, other in zip(now, self._last, strict=True))
        self._last = now
        self._recent.append(tokens / SAMPLE_S)
        self._judge(misses=finished - good + bad)
        self._bin.append(tokens)
        if len(self._bin) >= self._bin_samples:
            self._timeline.append(
                {
                    "t_s": self._env.now,
                    "throughput_tokens_per_s": sum(self._bin) / (len(self._bin) * SAMPLE_S),
                    "max_flow_tokens_per_s": self.flow_tokens_per_s,
                    "nodes_serving": len(self._control.state.nodes),
                    "requests_waiting": sum(1 for _ in self._control.state.coordinator.waiting),
                }
            )
            self._bin = []
        self._next_sample()

    def _judge(self, *, misses: int) -> None:
        now = self._env.now
        if self._latest is not None and (misses > 0 or self._anybody_late()):
            self._slo_debt_s += SAMPLE_S
            self._latest.slo_debt_s += SAMPLE_S
        if not self._open:
            return
        recent = list(self._recent)[-SMOOTHED_SAMPLES:]
        rate = sum(recent) / len(recent)
        still: list[Incident] = []
        for incident in self._open:
            if now - incident.at_s < SMOOTHED_SAMPLES * SAMPLE_S:
                still.append(incident)
                continue
            allowed = 1.0
            if incident.flow_before_tokens_per_s > 0:
                allowed = min(1.0, self.flow_tokens_per_s / incident.flow_before_tokens_per_s)
            if self.flow_tokens_per_s > 0 and rate >= RECOVERED_SHARE * allowed * incident.before_tokens_per_s:
                begun_s = now - SMOOTHED_SAMPLES * SAMPLE_S
                incident.recovered_s = max(incident.at_s, begun_s, self._serves_since_s)
                self._recovery.add(incident.recovered_s - incident.at_s)
            else:
                still.append(incident)
        self._open = still

    def _anybody_late(self) -> bool:
        """Whether a request that has not ended is past its objectives already."""
        slo, now = self._metrics.slo, self._env.now
        if slo.ttft_s is None and slo.e2e_s is None:
            return False
        coordinator = self._control.state.coordinator
        requests = [attempt.request for attempt in coordinator.in_flight()]
        for request in (*requests, *coordinator.waiting):
            age_s = now - request.arrival_s
            if slo.e2e_s is not None and age_s > slo.e2e_s:
                return True
            if slo.ttft_s is not None and request.first_token_s is None and age_s > slo.ttft_s:
                return True
        return False

    # -- results -------------------------------------------------------------------------------

    def figures(self) -> dict[str, Any]:
        """The part ``churn`` of the summary."""
        control = self._control
        recovery = self._recovery.summary()
        figures: dict[str, Any] = {
            "recovery_policy": control.spec.recovery.policy,
            "in_flight_policy": str(control.spec.in_flight.policy),
            "incidents": self._count,
            "kinds": dict(sorted(self._kinds.items())),
            "unrecovered": len(self._open),
            "detection_s": self._detection.summary(),
            "recovery_s": recovery,
            "recovery_s_max": recovery["max"],
            "false_suspicions": self.false_suspicions,
            **self._totals,
            "kv_bytes_lost": self._kv_bytes_lost,
            "layers_moved": control.loads.layers_moved,
            "bytes_moved": control.loads.bytes_moved,
            "peer_bytes_moved": control.loads.peer_bytes,
            "slo_debt_s": self._slo_debt_s,
            "events": [incident.figures() for incident in self._incidents],
            "timeline": self._timeline,
        }
        if control.losses.replicas is not None:
            figures["replica_bytes_sent"] = control.losses.replicas.bytes_sent
            figures["requests_resumed"] = control.losses.replicas.resumed
        return figures
