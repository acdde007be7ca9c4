from __future__ import annotations

from types import SimpleNamespace

import pytest

from emulator.requests import Outcome, Request
from emulator.spec import Slo
from scenarios.studies.figures import Attainment


def attainment(*requests: Request, **slo: float) -> float | None:
    """Of a run of 100 s with 10 s of warm-up."""
    found = Attainment(SimpleNamespace(slo=Slo(**slo), warm_up_s=10.0, duration_s=100.0))  # type: ignore[arg-type]
    for request in requests:
        found.ended(request)
    return found.share


def request(arrival_s: float, first_s: float | None = None, end_s: float | None = None, emitted: int = 0) -> Request:
    made = Request(0, arrival_s, 100, 11)
    made.first_token_s, made.end_s, made.emitted_tokens = first_s, end_s, emitted
    made.outcome = Outcome.IN_FLIGHT if end_s is None else Outcome.FINISHED
    return made


@pytest.mark.parametrize(
    ("made", "met"),
    [
        (request(20, 21, 30), True),
        (request(20, 23, 30), False),  # its first token came late
        (request(20, 21, 45), False),  # 2.4 s per token
        (request(5, 23, 45), None),  # before the window
        (request(97), False),  # waits for longer than its first token may take
        (request(99), None),  # may still be in time
        (request(90, 91, emitted=9), True),  # a token a second so far
        (request(80, 81, emitted=5), False),  # 3.8 s per token so far
        (request(90, 93, emitted=9), False),
    ],
)
def test_what_becomes_of_a_request(made: Request, met: bool | None) -> None:
    assert attainment(made, ttft_s=2.0, tpot_s=2.0) == (None if met is None else float(met))


def test_who_failed_was_not_served() -> None:
    failed = request(20, 21, 22)
    failed.outcome = Outcome.FAILED
    assert attainment(failed, request(20, 21, 30), ttft_s=2.0) == 0.5


def test_an_end_to_end_objective_is_known_at_the_end_or_when_it_is_missed() -> None:
    assert attainment(request(50, 51, emitted=3), e2e_s=60.0) is None
    assert attainment(request(20, 21, emitted=3), e2e_s=60.0) == 0.0
    assert attainment(request(20, 21, 70), e2e_s=60.0) == 1.0
