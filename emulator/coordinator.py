"""The coordinator: admits requests, issues their iterations, collects their tokens."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from emulator.distribution import EXACT_SAMPLES
from emulator.errors import SimulationError
from emulator.links import EmulatedLink, Transfer
from emulator.pipeline import Pipeline
from emulator.requests import Attempt, Outcome, Request
from emulator.spec import FirstToken, WhenNoRoute

if TYPE_CHECKING:
    from simpy.events import Event

    from emulator.cluster import ClusterState
    from emulator.node import GpuNode
    from emulator.pipeline import Pipeline
    from emulator.spec import EmulationSpec

COALESCE_S = 1e-6
"""Results of one transfer that come within this time are handled in one go; each keeps its own time in
its next iteration and in the metrics."""


class Coordinator:
    """Source and sink of all pipelines.

    Attributes:
        on_prefill_done: Called with the time after a prefill is back and the first decode is issued.
        on_request_end: Called with the time after an admitted request finished, failed or was rejected.
        on_refused: Called with the time after a request was turned away for want of a pipeline.
        on_ended: Called with every request that ended, whatever the outcome.
        on_token: Called with request and time for every token, when set.
        on_closed: Called with every attempt that holds nothing any more, when set.
    """

    def __init__(self, state: ClusterState, spec: EmulationSpec) -> None:
        self._state = state
        self._env = state.env
        self._metrics = state.metrics
        self._log = state.log
        self._first_token_by_prefill = spec.first_token is FirstToken.PREFILL
        self._when_no_route = spec.when_no_route
        self._queue_limit = spec.admission_queue_limit
        self._numbers = 0
        self._down = False
        self._held: list[Transfer] = []
        self._in_flight: dict[int, Attempt] = {}
        self._waiting: deque[Request] = deque()
        self.on_prefill_done: Callable[[float], None] | None = None
        self.on_request_end: Callable[[float], None] | None = None
        self.on_refused: Callable[[float], None] | None = None
        self.on_ended: Callable[[Request], None] | None = None
        self.on_token: Callable[[Request, float], None] | None = None
        self.on_closed: Callable[[Attempt], None] | None = None

    def in_flight(self) -> Iterable[Attempt]:
        """Attempts under way, in order of admission."""
        return self._in_flight.values()

    @property
    def in_flight_count(self) -> int:
        """Requests under way, not counting those that wait for a pipeline."""
        return len(self._in_flight)

    @property
    def waiting(self) -> Iterable[Request]:
        """Requests that wait for a pipeline, in order."""
        return self._waiting

    @property
    def open_requests(self) -> int:
        """Requests that have not ended."""
        return len(self._in_flight) + len(self._waiting)

    # -- admission -----------------------------------------------------------------------------

    def submit(self, prompt_tokens: int, output_tokens: int) -> Request:
        """A new request arrives now.

        Raises:
            SimulationError: A length is below 1.
        """
        now = self._env.now
        if prompt_tokens < 1 or output_tokens < 1:
            raise SimulationError(
                f"request {self._numbers}: {prompt_tokens} prompt tokens, {output_tokens} output tokens; "
                "both must be at least 1"
            )
        request = Request(self._numbers, now, prompt_tokens, output_tokens)
        self._numbers += 1
        self._metrics.submitted += 1
        self._log.arrival(now, request)
        impossible = self._state.why_impossible(prompt_tokens)
        if impossible:
            self._refuse(request, impossible)
        elif self._waiting or not self._admit(request):
            # Whoever waits comes first: new requests in their place could keep them waiting for ever.
            if self._when_no_route is WhenNoRoute.REJECT or not self._may_get_better():
                self._refuse(request, self._refusal())
            else:
                self._enqueue(request)
        return request

    def _enqueue(self, request: Request) -> None:
        if len(self._waiting) >= self._queue_limit:
            self._refuse(request, f"admission queue is full ({self._queue_limit} requests)")
        else:
            self._waiting.append(request)

    def _refuse(self, request: Request, reason: str) -> None:
        """End a request that has no pipeline; one that already gave tokens has failed."""
        outcome = Outcome.FAILED if request.emitted_tokens else Outcome.REJECTED
        self._end_request(request, outcome, reason)
        if self.on_refused is not None:
            self.on_refused(self._env.now)

    def _may_get_better(self) -> bool:
        """Whether a request that has no pipeline now may get one without a new cause."""
        churn = self._state.churn
        return bool(self._in_flight or self._waiting) or (churn is not None and churn.may_get_better())

    def _refusal(self) -> str:
        """Why the policy found no pipeline."""
        if self._down:
            return "the coordinator is restarting"
        if not self._state.can_serve:
            return "the nodes that are up do not hold the whole model"
        if self._in_flight or self._waiting:
            return "no pipeline with enough free KV cache"
        return "no pipeline has enough KV cache for it, even with nothing else in flight"

    def _admit_waiting(self) -> None:
        while self._waiting:
            if self._admit(self._waiting[0]):
                self._waiting.popleft()
            elif self._in_flight or (self._state.churn is not None and self._state.churn.may_get_better()):
                return
            else:
                # Nobody is left whose end would make room.
                self._refuse(self._waiting.popleft(), self._refusal())

    def _admit(self, request: Request) -> bool:
        """Start an attempt, if the policy has a pipeline for it now."""
        now = self._env.now
        state = self._state
        if self._down or not state.can_serve:
            return False
        emitted = request.emitted_tokens
        left = request.output_tokens - emitted
        if self._first_token_by_prefill:
            # The prefill emits one token: the first, or, computing lost entries again, the next.
            left -= 1
        attempt = Attempt(request, request.prompt_tokens + emitted, left, now)
        if not state.policy.admit(attempt, now):
            return False
        if request.admitted_s is None:
            request.admitted_s = now
        attempt.special = True
        longest = request.prompt_tokens + request.output_tokens
        if longest > state.longest_context:
            state.longest_context = longest
        self._in_flight[request.number] = attempt
        if attempt.pipeline is not None:
            self._log.request(now, "admitted", request, f',"pipeline":{json.dumps(str(attempt.pipeline))}')
        else:
            self._log.request(now, "admitted", request)
        link = attempt.first_link
        assert link is not None
        state.transmit(link, now, [attempt], 1)
        return True

    # -- warm start ----------------------------------------------------------------------------

    def adopt(
        self, prompt_tokens: int, output_tokens: int, emitted_tokens: int, keep: Callable[[Pipeline], bool]
    ) -> bool:
        """Put a request in place that has emitted some of its tokens, its KV entries on every stage.

        Returns:
            Whether the policy has a pipeline for it that ``keep`` agrees to; if not, nothing is in place.
            :meth:`start_adopted` sets it going.
        """
        state = self._state
        now = self._env.now
        request = Request(self._numbers, now, prompt_tokens, output_tokens)
        attempt = Attempt(request, prompt_tokens, output_tokens - emitted_tokens, now)
        if state.why_impossible(prompt_tokens) or not state.policy.admit(attempt, now):
            return False
        link = attempt.first_link
        while link is not None and link.node is not None:
            link = attempt.links.get(link.node.index) or state.policy.next_link(link.node, attempt, now)
        attempt.pipeline = attempt.pipeline or state.pipelines.of(attempt.path())
        attempt.links = attempt.pipeline.after
        if not keep(attempt.pipeline):
            state.policy.closed(attempt)
            return False
        attempt.prefill, attempt.tokens, attempt.context = False, 1, prompt_tokens + emitted_tokens
        if any(node.kv_used + attempt.context * len(used) > node.kv_capacity for node, used in attempt.stages()):
            state.policy.closed(attempt)
            return False
        for node, used in attempt.stages():
            node.kv_used += attempt.context * len(used)
        self._numbers += 1
        self._metrics.submitted += 1
        self._log.arrival(now, request)
        self._log.request(now, "adopted", request, f',"pipeline":{json.dumps(str(attempt.pipeline))}')
        request.adopted_tokens = request.emitted_tokens = emitted_tokens
        request.admitted_s, request.pipeline = now, attempt.pipeline
        state.longest_context = max(state.longest_context, prompt_tokens + output_tokens)
        self._in_flight[request.number] = attempt
        return True

    def start_adopted(self, spread_s: float) -> None:
        """Issue the next decode iteration of every request in flight, evenly over ``spread_s``."""
        adopted = list(self._in_flight.values())
        for position, attempt in enumerate(adopted):
            self._env.call_at(self._env.now + spread_s * position / len(adopted), self._issue_adopted, attempt)

    def _issue_adopted(self, event: Event) -> None:
        attempt = event.value
        assert isinstance(attempt, Attempt)
        if attempt.dead:
            self._state.dead -= 1
            return
        attempt.started_s = self._env.now
        if self._state.policy.counts_decodes and attempt.pipeline is not None:
            attempt.pipeline.decodes_issued += 1
        self._issue([attempt])

    # -- results -------------------------------------------------------------------------------

    def receive(self, transfer: Transfer) -> None:
        """The first result of ``transfer`` is back."""
        transfer.link.pass_card(transfer)
        if self._down:
            self._held.append(transfer)
            return
        self._take_in(transfer)

    def _take_in(self, transfer: Transfer) -> None:
        if self._down:
            self._held.append(transfer)
            return
        items, times = transfer.items, transfer.times
        horizon = self._env.now + COALESCE_S
        if times[-1] > horizon:
            count = sum(1 for time in times if time <= horizon)
            transfer.items, transfer.times = items[count:], times[count:]
            self._env.call_at(times[count], lambda _event: self._take_in(transfer))
            items, times = items[:count], times[:count]
            if not items:
                return
        if self._state.dead and any(item.dead for item in items):
            living = [(item, time) for item, time in zip(items, times, strict=True) if not item.dead]
            self._state.dead -= len(items) - len(living)
            items, times = [item for item, _ in living], [time for _, time in living]
        self._collect(items, times)

    def _collect(self, items: list[Attempt], times: list[float]) -> None:
        again: list[Attempt] = []
        add_latency = self._metrics.decode_and_itl.samples.append
        counts_decodes = self._state.policy.counts_decodes
        on_token = self.on_token
        turning: list[tuple[Attempt, float]] = []
        prefills = 0
        for item, time in zip(items, times, strict=True):
            if item.special:
                if item.prefill:
                    prefills += 1
                    turning.append((item, time))
                    if self._prefill_back(item, time):
                        again.append(item)
                    continue
                self._special_token(item, time)
            else:
                add_latency(time - item.started_s)
            request = item.request
            request.last_token_s = time
            request.emitted_tokens += 1
            if on_token is not None:
                on_token(request, time)
            item.context += 1
            item.hop = 0
            item.left -= 1
            if item.left:
                item.started_s = time
                again.append(item)
                if counts_decodes:
                    item.pipeline.decodes_issued += 1  # type: ignore[union-attr]
            else:
                turning.append((item, time))
        self._metrics.decode_iterations += len(items) - prefills
        churn = self._state.churn
        if churn is not None and churn.report.expects_token:
            churn.report.tokens_came(items)
        if again:
            self._issue(again)
        for item, time in turning:
            if not item.left:
                self._finish(item, time)
            elif self.on_prefill_done is not None:
                self.on_prefill_done(time)
        if len(self._metrics.decode_and_itl.samples) >= EXACT_SAMPLES:
            self._metrics.decode_and_itl.settle()

    def _issue(self, items: list[Attempt]) -> None:
        """Send the next decode iteration of ``items`` on its way, each at the time its last one was back."""
        transmit = self._state.transmit
        if self._state.single_entry:
            transmit(self._state.entry_links[0], [item.started_s for item in items], items, 0)
            return
        groups: dict[EmulatedLink, list[Attempt]] = {}
        for item in items:
            assert item.first_link is not None
            groups.setdefault(item.first_link, []).append(item)
        for link, group in groups.items():
            transmit(link, [item.started_s for item in group], group, 0)

    def _prefill_back(self, attempt: Attempt, time: float) -> bool:
        """A prefill is back; whether decode iterations follow."""
        request = attempt.request
        metrics = self._metrics
        metrics.prefill.add(time - attempt.started_s)
        if request.pipeline is None:
            # Entries that were lost and computed again are no throughput.
            metrics.prefill_tokens += attempt.tokens
        attempt.context += attempt.tokens
        attempt.tokens = 1
        attempt.prefill = False
        attempt.hop = 0
        attempt.started_s = time
        state = self._state
        if attempt.pipeline is None:
            attempt.pipeline = state.pipelines.of(attempt.path())
            attempt.links = attempt.pipeline.after
            self._log.request(time, "routed", request, f',"pipeline":{json.dumps(str(attempt.pipeline))}')
        request.pipeline = attempt.pipeline
        if self._first_token_by_prefill:
            attempt.special = False
            self._emit(request, time)
        if attempt.left and state.policy.counts_decodes:
            attempt.pipeline.decodes_issued += 1
        return attempt.left > 0

    def _emit(self, request: Request, time: float) -> None:
        """A token that is no plain decode's reaches the client; the emitted count for a prefill's token rises here."""
        if request.first_token_s is None:
            request.first_token_s = time
            self._log.request(time, "first_token", request)
        elif request.last_token_s is not None:
            self._metrics.itl_only.add(time - request.last_token_s)
        if self._first_token_by_prefill:
            request.last_token_s = time
            request.emitted_tokens += 1
            if self.on_token is not None:
                self.on_token(request, time)

    def _special_token(self, attempt: Attempt, time: float) -> None:
        """The first decode token of an attempt when the prefill emits none."""
        attempt.special = False
        self._metrics.decode_only.add(time - attempt.started_s)
        self._emit(attempt.request, time)

    # -- ends ----------------------------------------------------------------------------------

    def _finish(self, attempt: Attempt, time: float) -> None:
        request = attempt.request
        assert request.emitted_tokens == request.output_tokens
        self._close(attempt)
        request.end_s = time
        request.outcome = Outcome.FINISHED
        self._log.request(time, "finished", request, f',"output_tokens":{request.emitted_tokens}')
        self._end(request)
        if self.on_request_end is not None:
            self.on_request_end(time)
        self._admit_waiting()

    def end_attempt(self, attempt: Attempt, outcome: Outcome, reason: str) -> None:
        """Give up an attempt and its request; the attempt must be dropped by whoever holds it."""
        self._kill(attempt)
        self._end_request(attempt.request, outcome, reason)
        if self.on_request_end is not None:
            self.on_request_end(self._env.now)
        self._admit_waiting()

    def preempt(self, attempt: Attempt, node: GpuNode) -> None:
        """Take all KV entries away from an attempt; its request queues for another one, before newer requests."""
        request = attempt.request
        request.preemptions += 1
        request.recomputed_tokens += attempt.context
        self._metrics.preemptions += 1
        self._metrics.recomputed_tokens += attempt.context
        self._log.reason(self._env.now, "preempted", request, f"KV cache of {node.name} is full")
        self._kill(attempt)
        self._queue_again(request)
        if not self._in_flight:
            # Nobody is left whose end would let it in.
            self._env.call_at(self._env.now, lambda _event: self._admit_waiting())

    def _queue_again(self, request: Request) -> None:
        position = sum(1 for other in self._waiting if other.number < request.number)
        self._waiting.insert(position, request)

    def _kill(self, attempt: Attempt) -> None:
        attempt.dead = True
        if not attempt.lost:
            self._state.dead += 1
        self._close(attempt)

    # -- losses --------------------------------------------------------------------------------

    def give_up(self, attempt: Attempt, reason: str) -> None:
        """The pipeline of ``attempt`` is lost, and so is its request."""
        self._kill(attempt)
        self._end_request(attempt.request, Outcome.FAILED, reason)
        if self.on_request_end is not None:
            self.on_request_end(self._env.now)

    def try_again(self, attempt: Attempt, reason: str) -> int:
        """The pipeline of ``attempt`` is lost; its request queues for another, before newer ones.

        Returns:
            Tokens whose entries were lost and have to be computed again.
        """
        request = attempt.request
        request.retries += 1
        request.recomputed_tokens += attempt.context
        self._metrics.retries += 1
        self._metrics.recomputed_tokens += attempt.context
        self._log.reason(self._env.now, "retried", request, reason)
        self._kill(attempt)
        self._queue_again(request)
        return attempt.context

    def resume(self, attempt: Attempt, pipeline: Pipeline, context: int, reason: str) -> int:
        """Go on with the request of ``attempt`` on ``pipeline``, every stage of which has ``context`` tokens.

        The stages' entries are the caller's to account for. Tokens past the context are computed again.

        Returns:
            Tokens to compute again.
        """
        now = self._env.now
        request = attempt.request
        attempt.dead = True
        if not attempt.lost:
            self._state.dead += 1
        self._state.policy.closed(attempt)
        emitted = request.emitted_tokens
        left = request.output_tokens - emitted - self._first_token_by_prefill
        successor = Attempt(request, request.prompt_tokens + emitted - context, left, now)
        successor.context = context
        successor.pipeline, successor.links, successor.first_link = pipeline, pipeline.after, pipeline.links[0]
        successor.special = True
        again = max(0, attempt.context - context)
        request.retries += 1
        request.recomputed_tokens += again
        self._metrics.retries += 1
        self._metrics.recomputed_tokens += again
        self._in_flight[request.number] = successor
        self._state.policy.resumed(successor)
        self._log.request(
            now,
            "resumed",
            request,
            f',"context":{context},"pipeline":{json.dumps(str(pipeline))},"reason":{json.dumps(reason)}',
        )
        self._state.transmit(successor.first_link, now, [successor], 1)
        return again

    def admit_waiting(self) -> None:
        """Something has changed; let in who now has a pipeline."""
        self._admit_waiting()

    def go_down(self) -> None:
        """The coordinator is away: nobody is let in, and what comes back waits at its door."""
        self._down = True

    def come_up(self, *, remembers: bool) -> None:
        """The coordinator is back.

        Args:
            remembers: Whether it still knows what was in flight. If not, results that came are lost with it.
        """
        self._down = False
        held, self._held = self._held, []
        now = self._env.now
        for transfer in held:
            if remembers:
                transfer.times = [max(time, now) for time in transfer.times]
                self._take_in(transfer)
            else:
                for item in transfer.items:
                    self._state.lose(item)

    def _close(self, attempt: Attempt) -> None:
        """Free everything an attempt holds."""
        del self._in_flight[attempt.request.number]
        self._state.policy.closed(attempt)
        if self._state.churn is not None:
            self._state.churn.closed(attempt)
        for position, (node, layers) in enumerate(attempt.stages()):
            if node.down:
                continue
            held = node.kv_of(attempt, position, layers)
            node.kv_used -= held
            assert node.kv_used >= 0
            if held and node.waits_for_kv:
                node.kv_freed()
        if self.on_closed is not None:
            self.on_closed(attempt)

    def _end_request(self, request: Request, outcome: Outcome, reason: str) -> None:
        now = self._env.now
        request.outcome = outcome
        request.reason = reason
        request.end_s = now
        self._log.reason(now, str(outcome), request, reason)
        self._end(request)

    def _end(self, request: Request) -> None:
        self._metrics.request_ended(request)
        if self.on_ended is not None:
            self.on_ended(request)
