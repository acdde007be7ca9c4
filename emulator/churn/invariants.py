"""What must hold in every run whose machines and links fail, checked while it goes on.

The checker keeps no second model of the cluster: it listens where the engine says what it does (tokens, ends, wires,
new flows), compares the engine's books with each other, and looks at whoever is stuck.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from enum import StrEnum
from typing import TYPE_CHECKING

from emulator.churn.machines import Role
from emulator.churn.network import ChurningNetwork, WireWatch
from emulator.links import Transfer
from emulator.requests import Outcome
from placement.errors import PlanError
from placement.flow import check_flow

if TYPE_CHECKING:
    from collections.abc import Callable

    from emulator.emulation import Emulation
    from emulator.links import Dispatch, EmulatedLink, Wire
    from emulator.requests import Attempt, Request
    from placement.flow import FlowGraph

TOLERANCE = 1e-9
"""Relative difference of two sums of bytes that is put down to rounding."""
FLOW_TOLERANCE = 1e-5
"""The same of a solved flow: the solver of the most even one rounds, and leaves out what is next to nothing."""
LEAST_PATIENCE_S = 10.0
"""Emulated time without anything under way after which a request counts as stuck; three detection timeouts on top."""


class Rule(StrEnum):
    """What can be violated."""

    REQUESTS = "requests"
    """Submitted requests are those that ended, are in flight or wait; each ends once, as it should."""
    TOKENS = "tokens"
    """Every token of a request reaches its client once, in order of time."""
    KV = "kv"
    """A node's KV entries are those of the attempts on it and of the copies that it keeps, and fit its cache."""
    DEAD = "dead"
    """Dropped attempts are counted until whoever holds them drops them, and none is left in the end."""
    LINKS = "links"
    """What is sent on a wire arrives in order, at the time that was promised last."""
    BYTES = "bytes"
    """Bytes sent are bytes that arrived, are on their way or were lost."""
    FLOW = "flow"
    """A solved flow is conserved, keeps to all capacities and is the greatest."""
    ROUTES = "routes"
    """Nothing new goes over what the coordinator takes for lost or about to leave."""
    PROGRESS = "progress"
    """Nobody is stuck: what is in flight moves, and who could be let in does not wait."""
    TERMINATION = "termination"
    """A run that gets nothing new comes to its end."""
    DETERMINISM = "determinism"
    """The same run gives the same event log."""
    EXCEPTION = "exception"
    """The engine does not fail itself."""


class InvariantError(Exception):
    """Something that must hold does not.

    Attributes:
        rule: What is violated.
        at_s: When, in emulated time.
        detail: By what.
    """

    def __init__(self, rule: Rule, at_s: float, detail: str) -> None:
        # All three, because SimPy makes exceptions that end a process anew of their arguments.
        super().__init__(rule, at_s, detail)
        self.rule = rule
        self.at_s = at_s
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.rule} at {self.at_s:.6f} s: {self.detail}"


class _Sent:
    """A message on a wire: what it is, when it is to arrive, and its size."""

    __slots__ = ("arrival_s", "key", "size_bytes")

    def __init__(self, key: object, arrival_s: float, size_bytes: float) -> None:
        self.key = key
        self.arrival_s = arrival_s
        self.size_bytes = size_bytes


class _Stream:
    """What one sender, from its start to its end, has on one wire."""

    __slots__ = ("arrived_s", "sent")

    def __init__(self) -> None:
        self.sent: deque[_Sent] = deque()
        self.arrived_s = 0.0


class _WireBook:
    """What is known of one wire."""

    __slots__ = ("arrived_bytes", "lost_bytes", "sent_bytes", "streams", "window_bytes")

    def __init__(self) -> None:
        self.streams = [_Stream()]
        self.sent_bytes = self.arrived_bytes = self.lost_bytes = 0.0
        self.window_bytes = 0.0


class Invariants(WireWatch):
    """Watches one run.

    Call :meth:`after_event` after every event, and :meth:`at_end` when nothing more is to come; both raise
    :class:`InvariantError`, and so do the hooks, in the middle of an event.

    Args:
        emulation: A run with churn that has not begun.
    """

    def __init__(self, emulation: Emulation) -> None:
        state = self._state = emulation.state
        assert state.churn is not None, "there is nothing to fail in this run"
        self._env = state.env
        self._churn = state.churn
        self._coordinator = state.coordinator
        self._seen: dict[int, int] = {}
        self._last_token_s: dict[int, float] = {}
        self._ended: dict[int, None] = {}
        self._wires: dict[Wire, _WireBook] = {}
        self._kv_used: list[int] = []
        self._moved_s = 0.0
        self._window_s = state.metrics.window_start_s
        self._patience_s = LEAST_PATIENCE_S + 3 * self._churn.spec.detection.timeout_s
        self._on_token, self._on_ended = state.coordinator.on_token, state.coordinator.on_ended
        state.coordinator.on_token, state.coordinator.on_ended = self._token, self._end
        state.on_rewired = self._rewired
        assert isinstance(state.network, ChurningNetwork)
        state.network.wire_watch = self

    def _fail(self, rule: Rule, detail: str) -> None:
        raise InvariantError(rule, self._env.now, detail)

    # -- after every event ---------------------------------------------------------------------

    def after_event(self) -> None:
        """Check what must hold between any two events."""
        state = self._state
        metrics, coordinator = state.metrics, self._coordinator
        ended = sum(metrics.outcomes.values())
        open_requests = coordinator.open_requests
        if metrics.submitted != ended + open_requests:
            self._fail(Rule.REQUESTS, f"{metrics.submitted} submitted, {ended} ended, {open_requests} open")
        if ended != len(self._ended):
            self._fail(Rule.REQUESTS, f"{ended} requests are counted as ended, {len(self._ended)} have ended")
        if state.dead < 0:
            self._fail(Rule.DEAD, f"{state.dead} dropped attempts are left")
        used = [node.kv_used for node in state.latest.values()]
        if used != self._kv_used:
            self._kv_used = used
            self._moved_s = self._env.now
            self._check_kv()
        if open_requests and self._env.now - self._moved_s > self._patience_s:
            self._look_for_stuck()

    def _check_kv(self) -> None:
        held: dict[int, int] = {}
        replicas = self._churn.losses.replicas
        if replicas is not None:
            held = replicas.kept()
        for attempt in self._coordinator.in_flight():
            for position, (node, layers) in enumerate(attempt.stages()):
                if not node.down:
                    held[node.index] = held.get(node.index, 0) + node.kv_of(attempt, position, layers)
        for node in self._state.latest.values():
            if not 0 <= node.kv_used <= node.kv_capacity:
                self._fail(Rule.KV, f"{node.name} has {node.kv_used} entries, its cache takes {node.kv_capacity}")
            expected = 0 if node.down else held.get(node.index, 0)
            if node.kv_used != expected:
                self._fail(Rule.KV, f"{node.name} has {node.kv_used} entries, requests and copies on it {expected}")

    def _look_for_stuck(self) -> None:
        """Nobody has got anything for long: find out whether something is under way, or may rightly wait."""
        self._moved_s = self._env.now
        if self._churn.coordinator_down or self._under_way():
            return
        coordinator = self._coordinator
        for attempt in coordinator.in_flight():
            request = attempt.request
            self._fail(
                Rule.PROGRESS,
                f"request {request.number} is in flight (stage {attempt.hop}, {request.emitted_tokens} of "
                f"{request.output_tokens} tokens), but nothing has moved for {self._patience_s:g} s",
            )
        waiting = len(list(coordinator.waiting))
        coordinator.admit_waiting()
        if len(list(coordinator.waiting)) < waiting:
            self._fail(Rule.PROGRESS, f"some of {waiting} requests wait although they could be let in or refused")

    def _under_way(self) -> bool:
        """Whether batches, loads or messages of requests have a known end."""
        return (
            self._churn.loads.busy
            or any(node.computing for node in self._state.latest.values())
            or any(
                isinstance(dispatch, Transfer) and dispatch.times[0] < math.inf
                for wire in self._wires
                for dispatch in wire.in_flight
            )
        )

    # -- requests ------------------------------------------------------------------------------

    def _token(self, request: Request, time_s: float) -> None:
        number = request.number
        self._moved_s = self._env.now
        seen = self._seen[number] = self._seen.get(number, request.adopted_tokens) + 1
        if request.outcome is not Outcome.IN_FLIGHT:
            self._fail(Rule.TOKENS, f"request {number} has ended as {request.outcome}, and gets a token")
        if seen != request.emitted_tokens or seen > request.output_tokens:
            self._fail(
                Rule.TOKENS,
                f"request {number}: its client has seen {seen} tokens, {request.emitted_tokens} of "
                f"{request.output_tokens} are counted as emitted",
            )
        if time_s < self._last_token_s.get(number, request.arrival_s):
            self._fail(Rule.TOKENS, f"request {number}: token {seen} at {time_s:.9f} s comes before the one ahead")
        self._last_token_s[number] = time_s
        if self._on_token is not None:
            self._on_token(request, time_s)

    def _end(self, request: Request) -> None:
        number = request.number
        self._moved_s = self._env.now
        if number in self._ended:
            self._fail(Rule.REQUESTS, f"request {number} ends again, as {request.outcome}")
        self._ended[number] = None
        seen = self._seen.pop(number, request.adopted_tokens)
        self._last_token_s.pop(number, None)
        finished = request.outcome is Outcome.FINISHED
        if seen != request.emitted_tokens or (finished and seen != request.output_tokens):
            self._fail(
                Rule.TOKENS,
                f"request {number} is {request.outcome}: its client has seen {seen} tokens, {request.emitted_tokens} "
                f"are counted, it asked for {request.output_tokens}",
            )
        if not finished and not request.reason:
            self._fail(Rule.REQUESTS, f"request {number} is {request.outcome} without a reason")
        if self._on_ended is not None:
            self._on_ended(request)

    # -- flow and routes -----------------------------------------------------------------------

    def _rewired(self, graph: FlowGraph | None) -> None:
        self._moved_s = self._env.now
        if graph is None:
            return
        state = self._state
        try:
            check_flow(graph, state.flow, FLOW_TOLERANCE)
        except PlanError as error:
            self._fail(Rule.FLOW, str(error).splitlines()[0])
        faster = any(factor < 1 for factor in self._churn.known_slowdown.values())
        within = all(len(node.held) <= node.profile.max_layers for node in state.nodes)
        bound = state.flow_upper_bound_tokens_per_s
        if within and not faster and state.flow.tokens_per_s > bound * (1 + FLOW_TOLERANCE):
            self._fail(Rule.FLOW, f"a flow of {state.flow.tokens_per_s!r} tokens/s is above the bound of {bound!r}")

    def _check_route(self, attempt: Attempt, link: EmulatedLink) -> None:
        pair = (link.wire.source, link.wire.target)
        why = ""
        if pair in self._churn.blocked:
            why = "the link is taken for down"
        elif link.node is not None:
            machine = self._churn.machines[link.node.name]
            if machine.role is not Role.SERVING or machine.suspected or machine.leaving:
                why = f"{machine!r} takes nothing new"
            elif machine.node is not link.node:
                why = f"{machine.name} serves other layers by now"
        if why:
            self._fail(Rule.ROUTES, f"request {attempt.request.number} is sent over {link.name}, but {why}")

    # -- wires ---------------------------------------------------------------------------------

    def sent(self, wire: Wire, dispatch: Dispatch) -> None:
        """Take note of messages and their promised times, and look at the way of those that just got one."""
        book = self._wires.get(wire)
        if book is None:
            book = self._wires[wire] = _WireBook()
        stream = book.streams[-1]
        last = stream.sent[-1].arrival_s if stream.sent else stream.arrived_s
        for message in _messages(dispatch):
            if not message.arrival_s >= last or message.arrival_s < self._env.now:
                self._fail(
                    Rule.LINKS,
                    f"{wire.name}: a message is to arrive at {message.arrival_s:.9f} s, the one ahead at {last:.9f}",
                )
            last = message.arrival_s
            stream.sent.append(message)
            book.sent_bytes += message.size_bytes
            if isinstance(dispatch, Transfer):
                book.window_bytes += message.size_bytes
        if not isinstance(dispatch, Transfer):
            return
        self._moved_s = self._env.now
        self._check_window(wire, book)
        link = dispatch.link
        for item in dispatch.items:
            if not item.prefill or item.dead:
                continue
            if link.source is None:
                for each in item.path():
                    self._check_route(item, each)
            elif item.pipeline is None:
                self._check_route(item, link)

    def _check_window(self, wire: Wire, book: _WireBook) -> None:
        """The wire's own count is that of the messages handed to it in the window."""
        if self._state.metrics.window_start_s != self._window_s:
            self._window_s = self._state.metrics.window_start_s
            for each, other in self._wires.items():
                other.window_bytes = each.bytes_sent
        if abs(wire.bytes_sent - book.window_bytes) > TOLERANCE * book.window_bytes:
            self._fail(Rule.BYTES, f"{wire.name} counts {wire.bytes_sent!r} bytes, {book.window_bytes!r} were sent")

    def arrived(self, wire: Wire, dispatch: Dispatch) -> None:
        """Check that these messages are next, and that this is their time."""
        book = self._wires[wire]
        if isinstance(dispatch, Transfer):
            self._moved_s = self._env.now
            prefills = sum(1 for item in dispatch.items if item.prefill)
            tokens = sum(item.tokens for item in dispatch.items)
            if dispatch.tokens != tokens or dispatch.prefills not in (0, prefills) or dispatch.prefills > prefills:
                self._fail(Rule.BYTES, f"{wire.name}: a transfer miscounts its prefills or tokens")
        if dispatch.times[0] != self._env.now:
            self._fail(Rule.LINKS, f"{wire.name}: a message due at {dispatch.times[0]:.9f} s is delivered now")
        messages = _messages(dispatch)
        key = messages[0].key
        stream = next((each for each in book.streams if each.sent and each.sent[0].key is key), None)
        if stream is None:
            self._fail(Rule.LINKS, f"{wire.name}: a message arrives that is not next")
            return
        for message in messages:
            promised = stream.sent.popleft() if stream.sent else None
            if promised is None or promised.key is not message.key or promised.arrival_s != message.arrival_s:
                self._fail(Rule.LINKS, f"{wire.name}: a message arrives out of turn, or not when it should")
            stream.arrived_s = message.arrival_s
            book.arrived_bytes += message.size_bytes
        if not stream.sent and len(book.streams) > 1 and stream is not book.streams[-1]:
            book.streams.remove(stream)

    def replanned(self, wire: Wire) -> None:
        """Take note of new times; the order stays."""
        book = self._wires.get(wire)
        if book is None:
            return
        times = {message.key: message.arrival_s for dispatch in wire.in_flight for message in _messages(dispatch)}
        for stream in book.streams:
            for message in stream.sent:
                if message.key not in times:
                    self._fail(Rule.LINKS, f"{wire.name}: a message is gone since the link has changed")
                message.arrival_s = times[message.key]
            for before, after in itertools.pairwise(stream.sent):
                if after.arrival_s < before.arrival_s:
                    self._fail(Rule.LINKS, f"{wire.name}: messages change places as the link changes")

    def lost(self, wire: Wire, dispatch: Dispatch, arriving: int) -> None:
        """Strike out what will not arrive."""
        book = self._wires[wire]
        gone = {id(message.key): message.size_bytes for message in _messages(dispatch)[arriving:]}
        stream = book.streams[-1]
        kept = deque(message for message in stream.sent if id(message.key) not in gone)
        if len(stream.sent) - len(kept) != len(gone):
            self._fail(Rule.LINKS, f"{wire.name}: {len(gone)} messages are lost, some of which were not on their way")
        stream.sent = kept
        book.lost_bytes += sum(gone.values())

    def restarted(self, wire: Wire) -> None:
        """What comes next is a new sender's."""
        book = self._wires.get(wire)
        if book is not None:
            book.streams = [stream for stream in book.streams if stream.sent]
            book.streams.append(_Stream())

    # -- the end -------------------------------------------------------------------------------

    @property
    def quiet(self) -> bool:
        """Whether nothing is on any node, nor on its way on a wire that carries."""
        return (
            not self._churn.coordinator_down
            and all(node.idle for node in self._state.latest.values() if not node.down)
            and not any(
                isinstance(dispatch, Transfer) and dispatch.times[0] < math.inf
                for wire in self._wires
                for dispatch in wire.in_flight
            )
        )

    def at_end(self) -> None:
        """Check that a run without open requests has left nothing behind; it must be quiet for a millisecond."""
        state = self._state
        if self._coordinator.open_requests:
            self._fail(Rule.TERMINATION, f"{self._coordinator.open_requests} requests have not ended")
        self._check_kv()
        for node in state.latest.values():
            if node.kv_used:
                self._fail(Rule.KV, f"{node.name} has {node.kv_used} entries, but there are no requests")
        stuck = [
            item
            for wire in self._wires
            for dispatch in wire.in_flight
            if isinstance(dispatch, Transfer)
            for item in dispatch.items
        ]
        dead = sum(1 for item in stuck if item.dead)
        if state.dead != dead or dead != len(stuck):
            self._fail(Rule.DEAD, f"{state.dead} dropped attempts are counted, {dead} wait on links that are down")
        if state.can_serve and state.kv_bottleneck() > TOLERANCE:
            self._fail(Rule.KV, f"the scheduler expects a KV use of {state.kv_bottleneck():g} of no requests")
        for wire, book in self._wires.items():
            under_way = sum(message.size_bytes for dispatch in wire.in_flight for message in _messages(dispatch))
            rest = book.sent_bytes - book.arrived_bytes - book.lost_bytes - under_way
            if abs(rest) > TOLERANCE * book.sent_bytes:
                self._fail(
                    Rule.BYTES,
                    f"{wire.name}: of {book.sent_bytes!r} bytes {book.arrived_bytes!r} arrived, {book.lost_bytes!r} "
                    f"were lost and {under_way!r} are on their way",
                )


def _messages(dispatch: Dispatch) -> list[_Sent]:
    """What ``dispatch`` carries, message by message; of the cluster's own the size does not count."""
    if isinstance(dispatch, Transfer):
        size = dispatch.link.bytes_per_token
        return [
            _Sent(item, time, size * item.tokens) for item, time in zip(dispatch.items, dispatch.times, strict=True)
        ]
    callback: Callable[[], None] = dispatch.callback  # type: ignore[attr-defined]
    return [_Sent(callback, dispatch.times[0], 0.0)]
