"""Every kind of event under every recovery policy and every policy for requests in flight."""

from __future__ import annotations

import pytest

from emulator.churn.recovery import RECOVERY_NAMES
from emulator.churn.spec import InFlightPolicy
from emulator.requests import Outcome
from tests.churn_runs import EVENTS, Watched, churn_spec


@pytest.mark.parametrize("in_flight", list(InFlightPolicy))
@pytest.mark.parametrize("recovery", RECOVERY_NAMES)
@pytest.mark.parametrize("name", EVENTS)
def test_event(name: str, recovery: str, in_flight: InFlightPolicy) -> None:
    run = Watched(churn_spec(EVENTS[name], recovery=recovery, in_flight=in_flight))
    counts = run.summary["requests"]
    assert counts["submitted"] == sum(counts[key] for key in ("finished", "rejected", "failed", "in_flight"))
    assert len(run.ended) == counts["submitted"]
    for request in run.ended.values():
        seen = run.tokens.get(request.number, 0)
        assert seen == request.emitted_tokens
        if request.outcome is Outcome.FINISHED:
            assert seen == request.output_tokens
        elif request.outcome is not Outcome.IN_FLIGHT:
            assert request.reason
    # Service comes back in the end, whatever happened.
    last = max(request.end_s or 0.0 for request in run.ended.values() if request.outcome is Outcome.FINISHED)
    assert last > 40
    churn = run.churn
    assert churn["incidents"] >= len(EVENTS[name])
    if in_flight is InFlightPolicy.FAIL:
        assert churn["requests_retried"] == churn["tokens_recomputed"] == 0
    else:
        assert churn["requests_failed"] == 0
    if in_flight is InFlightPolicy.RETRY:
        again = Watched(churn_spec(EVENTS[name], recovery=recovery, in_flight=in_flight))
        assert again.summary["event_log_sha256"] == run.summary["event_log_sha256"]
