"""What a run measures in its window."""

from __future__ import annotations

from emulator.distribution import Distribution
from emulator.requests import Outcome, Request
from emulator.spec import Slo


class Metrics:
    """Counts and distributions; :meth:`start_window` forgets everything before the window.

    Latency samples belong to the window in which they end, request figures to the one in which
    the request finishes. Counts of requests by outcome cover the whole run, so that they add up.
    """

    def __init__(self, slo: Slo) -> None:
        self.slo = slo
        self.submitted = 0
        self.outcomes = dict.fromkeys((Outcome.FINISHED, Outcome.REJECTED, Outcome.FAILED), 0)
        self.preemptions = 0
        self.retries = 0
        self.recomputed_tokens = 0
        self._tokens_before = 0
        self._good_before = self._finished_before = 0
        self.decode_iterations = self.prefill_tokens = self.finished = self.good = 0
        self.start_window(0.0)

    def start_window(self, now_s: float) -> None:
        """Begin the window at ``now_s``."""
        self._tokens_before = self.tokens
        self._good_before, self._finished_before = self.all_good, self.all_finished
        self.window_start_s = now_s
        self.decode_iterations = 0
        self.prefill_tokens = 0
        self.finished = 0
        self.good = 0
        # A plain decode iteration's latency is also an inter-token latency; it is kept once.
        self.decode_and_itl = Distribution()
        self.decode_only = Distribution()
        self.itl_only = Distribution()
        self.prefill = Distribution()
        self.ttft = Distribution()
        self.tpot = Distribution()
        self.e2e = Distribution()
        self.queue = Distribution()

    @property
    def tokens(self) -> int:
        """Decode iterations and prefilled tokens since the start of the run."""
        return self._tokens_before + self.decode_iterations + self.prefill_tokens

    @property
    def all_finished(self) -> int:
        """Requests finished since the start of the run."""
        return self._finished_before + self.finished

    @property
    def all_good(self) -> int:
        """Those of them that met all objectives."""
        return self._good_before + self.good

    def request_ended(self, request: Request) -> None:
        """A request finished, was rejected or failed."""
        self.outcomes[request.outcome] += 1
        if request.outcome is not Outcome.FINISHED:
            return
        self.finished += 1
        self.good += self._is_good(request)
        for value, distribution in (
            (request.ttft_s, self.ttft),
            (request.tpot_s, self.tpot),
            (request.e2e_s, self.e2e),
            (None if request.admitted_s is None else request.admitted_s - request.arrival_s, self.queue),
        ):
            if value is not None:
                distribution.add(value)

    def _is_good(self, request: Request) -> bool:
        for value, limit in (
            (request.ttft_s, self.slo.ttft_s),
            (request.tpot_s, self.slo.tpot_s),
            (request.e2e_s, self.slo.e2e_s),
        ):
            if limit is not None and value is not None and value > limit:
                return False
        return True

    def decode_latency(self) -> Distribution:
        """Latencies of decode iterations, coordinator to coordinator."""
        return merged(self.decode_and_itl, self.decode_only)

    def itl(self) -> Distribution:
        """Gaps between consecutive tokens of one request at the coordinator."""
        return merged(self.decode_and_itl, self.itl_only)


def merged(first: Distribution, second: Distribution) -> Distribution:
    """``first`` with the samples of the much smaller ``second`` added; ``second`` is left as it is."""
    if not second.count and not len(second.samples):
        return first
    both = first.copy()
    both.absorb(second)
    return both
