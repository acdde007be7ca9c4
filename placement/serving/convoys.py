"""Convoys: batching stations in a row, played through batch by batch.

Every station takes all that waits for it into one batch, so what has met stays together until ways part: decode
iterations catch up with a slow prefill and follow it to the end of their pipeline, and a station that stands idle
starts with the first message of a convoy alone. Waiting times that assume random arrivals are 50 % off in long chains;
so this model plays a few seconds of the convoys through. It knows batches, links and the gate; it leaves out network
cards shared by several links, KV entries in use, preemption, and what a client sees of single tokens.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import accumulate
from typing import Any

from placement.effort import spend
from placement.serving.gate import Gate
from placement.serving.load import Load
from placement.serving.network import Station, StationNetwork, Way

REFUSALS = 20
"""After so many requests in a row without a pipeline the network counts as full."""
MOST_REQUESTS = 100_000
EVENT_S = 4e-6
"""What an event costs where time is measured by work."""


@dataclass(slots=True, kw_only=True)
class Window:
    """What was counted since its beginning.

    Attributes:
        since_s: Its beginning.
        decode_s: Time of each decode iteration that ended.
        ttft_s: From arrival to the end of the prefill, of each prefill that ended.
        prefill_s: From admission to the end of the prefill.
        ended: Requests that ended.
        waiting: Requests without a pipeline at its end.
        in_flight: Requests in flight at its end.
        paces: Mean time of the decode iterations of each request, and how many these were.
    """

    since_s: float
    decode_s: list[float] = field(default_factory=list)
    ttft_s: list[float] = field(default_factory=list)
    prefill_s: list[float] = field(default_factory=list)
    ended: int = 0
    waiting: int = 0
    in_flight: int = 0
    paces: list[tuple[float, int]] = field(default_factory=list)


class _Request:
    """A request on its way.

    Attributes:
        prompt: Its prompt tokens.
        tokens: What each layer computes now: the prompt's, or 0 for a decode.
        left: Decode iterations left.
        arrived_s: When it arrived.
        since_s: When its iteration was sent off.
        counted: Decode iterations in the window.
        counted_s: Time of these.
        entry: Its first link.
        lines: Its further links, by the station that they leave.
        path: The gate's name for its pipeline.
    """

    __slots__ = ("arrived_s", "counted", "counted_s", "entry", "left", "lines", "path", "prompt", "since_s", "tokens")

    def __init__(self, prompt: int, left: int, arrived_s: float) -> None:
        self.prompt = self.tokens = prompt
        self.left = left
        self.arrived_s = self.since_s = arrived_s
        self.counted = 0
        self.counted_s = 0.0
        self.entry: _Line
        self.lines: dict[int, _Line] = {}
        self.path: list[tuple[int, int]] = []


class _Queue:
    """What waits for one segment, in order of arrival, and pieces that are still on their way."""

    __slots__ = ("layers", "pieces", "prefills", "ready")

    def __init__(self, layers: int) -> None:
        self.layers = layers
        self.ready: list[_Request] = []
        self.prefills = 0
        self.pieces: list[_Piece] = []

    def arrived(self, now_s: float) -> int:
        """How many wait now."""
        return len(self.ready) + sum(len(piece.requests) for piece in self.pieces if piece.at_s <= now_s)


class _Piece:
    """Messages that follow each other on a link.

    Attributes:
        at_s: When the first of them arrives.
        each_s: Time between decodes.
        requests: In order.
        times_s: When each arrives, where prefills are among them.
        prefills: How many are.
    """

    __slots__ = ("at_s", "each_s", "prefills", "requests", "times_s")

    def __init__(self, at_s: float, each_s: float, requests: list[_Request]) -> None:
        self.at_s = at_s
        self.each_s = each_s
        self.requests = requests
        self.times_s: list[float] | None = None
        self.prefills = 0


class _Line:
    """A link: first come, first served."""

    __slots__ = ("free_s", "latency_s", "queue", "seconds_per_token", "server")

    def __init__(self, way: Way, servers: list[_Server]) -> None:
        self.free_s = 0.0
        self.seconds_per_token = way.seconds_per_token
        self.latency_s = way.latency_s
        self.server: _Server | None = None if way.target < 0 else servers[way.target]
        self.queue: _Queue | None = None if self.server is None else self.server.queues[way.segment]


class _Server:
    """A station at work."""

    __slots__ = (
        "arrived_tokens",
        "batch",
        "busy",
        "current",
        "decode_s",
        "index",
        "lines",
        "max_decodes",
        "max_prompts",
        "max_tokens",
        "prefill_s",
        "prefills",
        "queues",
        "served",
    )

    def __init__(self, index: int, station: Station, mean_context: float) -> None:
        self.index = index
        profile = station.profile
        limits = profile.limits_at(station.held[1] - station.held[0])
        self.queues = [_Queue(layers) for layers in station.layers]
        self.current = len(self.queues) - 1
        self.busy = False
        self.batch: list[_Request] = []
        self.prefills = 0
        self.arrived_tokens = 0
        self.max_prompts = limits.max_prompts
        self.max_tokens = limits.max_prompts * profile.max_prompt_tokens
        by_context = limits.max_decode_sequences * profile.decode_context_per_sequence / max(mean_context, 1.0)
        self.max_decodes = max(1, min(limits.max_decode_sequences, int(by_context)))
        self.decode_s = profile.decode.up_to(self.max_decodes)
        self.decode_s[1] *= profile.single_decode_factor
        self.prefill_s = profile.prefill.at
        self.lines: list[_Line] = []
        self.served = 0


_RETURN, _ARRIVAL, _START = "return", "arrival", "start"
"""Events at the coordinator: iterations are back, a request comes, one in flight at the start sets off."""


class Convoys:
    """The network in motion, beginning with the requests that one would find in flight.

    Args:
        network: Stations and ways.
        load: What clients ask of it.
        spread_s: The requests in flight at the start begin their next iteration evenly over this time.
        at_start: How many there are; as many as the load allows when ``None``, which an open loop does not say.
        stay_s: Time that an iteration spends on each station, waiting included: pipelines hold requests in proportion
            to the time that theirs takes. All hold alike when ``None``.
        seed: Of all draws.
    """

    def __init__(
        self,
        network: StationNetwork,
        load: Load,
        *,
        spread_s: float,
        at_start: int | None = None,
        stay_s: Sequence[float] | None = None,
        seed: int = 0,
    ) -> None:
        self._load = load
        self._draw = random.Random(seed)
        self._host_s = network.host_s_per_token
        self._gate = Gate(network, load.mean_decodes)
        mean_context = _mean_context(load)
        self._servers = [_Server(index, station, mean_context) for index, station in enumerate(network.stations)]
        for server, station in zip(self._servers, network.stations, strict=True):
            server.lines = [_Line(way, self._servers) for way in station.ways]
        self._entries = [_Line(way, self._servers) for way in network.entries]
        self._events: list[tuple[float, int, Any, Any]] = []
        self._numbers = 0
        self._arriving = load.arriving()
        self._waiting: deque[_Request] = deque()
        self._in_flight: dict[_Request, None] = {}
        self.now_s = 0.0
        self.window = Window(since_s=0.0)
        self._fill(spread_s, at_start, stay_s)
        if load.requests_per_s is not None:
            self._push(self._gap_s(), _ARRIVAL, None)
        elif not self._in_flight:
            self._push(0.0, _ARRIVAL, None)

    def _fill(self, spread_s: float, at_start: int | None, stay_s: Sequence[float] | None) -> None:
        load = self._load
        most = MOST_REQUESTS if at_start is None else at_start
        if load.in_flight is not None:
            most = load.in_flight
        mark = math.inf if load.feed_mark is None else load.feed_mark
        refused, longest_s = 0, 0.0
        for prompt, _, left in load.found():
            if len(self._in_flight) >= most or refused >= REFUSALS or self._gate.fullest() > mark:
                break
            request = _Request(prompt, left, 0.0)
            request.tokens = 0
            if not self._admit(request):
                refused += 1
                continue
            refused = 0
            if stay_s is not None:
                takes_s = sum(stay_s[station] + line.latency_s for station, line in request.lines.items())
                longest_s = max(longest_s, takes_s)
                if self._draw.random() * longest_s > takes_s:
                    del self._in_flight[request]
                    self._gate.release(request.path, request.prompt)
        # Evenly mixed, ends and with them prefills would never bunch as they do by chance, and what bunches delays the
        # others less.
        order = list(self._in_flight)
        self._draw.shuffle(order)
        for index, request in enumerate(order):
            self._push(spread_s * index / len(order), _START, request)
        if load.feed_mark is not None and self._in_flight and self._gate.fullest() <= mark:
            self._push(0.0, _ARRIVAL, None)
        for _ in range((load.in_flight or 0) - len(self._in_flight)):
            self._push(0.0, _ARRIVAL, None)

    # -- time ----------------------------------------------------------------------------------

    def _push(self, at_s: float, who: Any, what: Any) -> None:
        self._numbers += 1
        heappush(self._events, (at_s, self._numbers, who, what))

    def run(self, until_s: float) -> None:
        """Go on until ``until_s``."""
        events, before = self._events, self._numbers
        while events and events[0][0] <= until_s:
            self.now_s, _, who, what = heappop(events)
            if isinstance(who, _Queue):
                server, piece, tokens = what
                who.pieces.append(piece)
                server.arrived_tokens += tokens
                if not server.busy:
                    self._begin(server)
            elif isinstance(who, _Server):
                if what is not None:
                    self._batch_done(who)
                elif not who.busy:
                    self._begin(who)
            elif who is _RETURN:
                self._returned(what)
            elif who is _ARRIVAL:
                self._arrive()
            else:
                assert isinstance(what, _Request)
                what.since_s = self.now_s
                self._send(what.entry, [what], 0)
        self.now_s = until_s
        spend(EVENT_S * (self._numbers - before))

    def stays_s(self, samples: int, every_s: float) -> list[float]:
        """Go on for ``samples * every_s`` and find the mean time that an iteration spends on each station.

        By Little's law, from the number there at evenly spaced times; shape ``(stations,)``.
        """
        before = [server.served for server in self._servers]
        there = [0] * len(self._servers)
        for _ in range(samples):
            self.run(self.now_s + every_s)
            for server in self._servers:
                there[server.index] += len(server.batch) + sum(queue.arrived(self.now_s) for queue in server.queues)
        return [
            there[server.index] * every_s / max(1, server.served - before[server.index]) for server in self._servers
        ]

    def start_window(self) -> None:
        """Count from now on."""
        self.window = Window(since_s=self.now_s)
        for request in self._in_flight:
            request.counted, request.counted_s = 0, 0.0

    def end_window(self) -> Window:
        """What was counted until now."""
        for request in self._in_flight:
            self._note_pace(request)
        self.window.waiting, self.window.in_flight = len(self._waiting), len(self._in_flight)
        return self.window

    def _note_pace(self, request: _Request) -> None:
        if request.counted:
            self.window.paces.append((request.counted_s / request.counted, request.counted))

    # -- coordinator ---------------------------------------------------------------------------

    def _gap_s(self) -> float:
        rate, burstiness = self._load.requests_per_s or 1.0, self._load.burstiness
        return self._draw.gammavariate(1 / burstiness, burstiness / rate)

    def _arrive(self) -> None:
        if self._load.requests_per_s is not None:
            self._push(self.now_s + self._gap_s(), _ARRIVAL, None)
        elif self._load.feed_mark is not None and self._waiting:
            # One that waits keeps the network as full as many do.
            return
        prompt, output = next(self._arriving)
        request = _Request(prompt, output - 1, self.now_s)
        if self._waiting or not self._admit(request):
            if self._in_flight:
                self._waiting.append(request)
            return
        self._send(request.entry, [request], 1)

    def _admit(self, request: _Request) -> bool:
        path = self._gate.route(request.prompt)
        if path is None:
            return False
        request.path = path
        request.entry = self._entries[path[0][1]]
        request.lines = {station: self._servers[station].lines[position] for station, position in path[1:]}
        request.since_s = self.now_s
        self._in_flight[request] = None
        return True

    def _refill(self) -> None:
        """A closed loop's next request: another one's prefill or last decode has ended."""
        mark = self._load.feed_mark
        if mark is None or self._gate.fullest() <= mark:
            self._push(self.now_s + self._load.spacing_s, _ARRIVAL, None)

    def _returned(self, requests: list[_Request]) -> None:
        """Iterations are back."""
        now, window = self.now_s, self.window
        again: list[_Request] = []
        for request in requests:
            took_s = now - request.since_s
            request.since_s = now
            if request.tokens:
                request.tokens = 0
                window.ttft_s.append(now - request.arrived_s)
                window.prefill_s.append(took_s)
                if request.left and self._load.feed_mark is not None:
                    self._refill()
            else:
                window.decode_s.append(took_s)
                request.counted += 1
                request.counted_s += took_s
                request.left -= 1
            if request.left:
                again.append(request)
            else:
                self._end(request)
        groups: dict[_Line, list[_Request]] = {}
        for request in again:
            groups.setdefault(request.entry, []).append(request)
        for line, group in groups.items():
            self._send(line, group, 0)

    def _end(self, request: _Request) -> None:
        self.window.ended += 1
        self._note_pace(request)
        del self._in_flight[request]
        self._gate.release(request.path, request.prompt)
        if self._load.requests_per_s is None:
            self._refill()
        while self._waiting and self._admit(self._waiting[0]):
            admitted = self._waiting.popleft()
            self._send(admitted.entry, [admitted], 1)

    # -- links ---------------------------------------------------------------------------------

    def _forward(self, server: _Server, batch: list[_Request], prefills: int) -> None:
        """Send a convoy on, each request its way."""
        lines = server.lines
        if len(lines) == 1:
            self._send(lines[0], batch, prefills)
            return
        index = server.index
        groups: dict[_Line, list[_Request]] = {}
        for request in batch:
            line = request.lines[index]
            group = groups.get(line)
            if group is None:
                groups[line] = [request]
            else:
                group.append(request)
        for line, group in groups.items():
            self._send(line, group, sum(1 for request in group if request.tokens) if prefills else 0)

    def _send(self, line: _Line, requests: list[_Request], prefills: int) -> None:
        now, each = self.now_s, line.seconds_per_token
        if line.queue is None:
            # Back to the coordinator go two bytes a token, which no link is slow for.
            self._push(now + line.latency_s + each, _RETURN, requests)
            return
        start = max(now, line.free_s)
        tokens = len(requests)
        piece = _Piece(start + line.latency_s + each, each, requests)
        if prefills:
            steps = [each * (request.tokens or 1) for request in requests]
            piece.times_s = [start + line.latency_s + sent for sent in accumulate(steps)]
            piece.at_s = piece.times_s[0]
            piece.prefills = prefills
            line.free_s = piece.times_s[-1] - line.latency_s
            tokens = sum(request.tokens or 1 for request in requests)
        else:
            line.free_s = start + each * tokens
        self._push(piece.at_s, line.queue, (line.server, piece, tokens))

    # -- stations ------------------------------------------------------------------------------

    def _collect(self, queue: _Queue) -> float:
        """Take in what has arrived; when the next message comes."""
        now, upcoming = self.now_s, math.inf
        later: list[_Piece] = []
        for piece in queue.pieces:
            if piece.at_s > now:
                later.append(piece)
                upcoming = min(upcoming, piece.at_s)
                continue
            requests, times = piece.requests, piece.times_s
            arrived = int((now - piece.at_s) / piece.each_s) + 1 if times is None else bisect_right(times, now)
            if arrived >= len(requests):
                queue.ready = queue.ready + requests if queue.ready else requests
                queue.prefills += piece.prefills
                continue
            head, piece.requests = requests[:arrived], requests[arrived:]
            queue.ready = queue.ready + head
            if times is None:
                piece.at_s += arrived * piece.each_s
            else:
                prefills = sum(1 for request in head if request.tokens)
                queue.prefills += prefills
                piece.prefills -= prefills
                piece.times_s = times[arrived:]
                piece.at_s = piece.times_s[0]
            later.append(piece)
            upcoming = min(upcoming, piece.at_s)
        queue.pieces = later
        return upcoming

    def _begin(self, server: _Server) -> None:
        """Start the next batch, going round the segments, or wait for the next message."""
        upcoming = math.inf
        queues = server.queues
        for queue in queues:
            if queue.pieces:
                upcoming = min(upcoming, self._collect(queue))
        count = len(queues)
        for offset in range(1, count + 1):
            index = (server.current + offset) % count
            queue = queues[index]
            if queue.ready:
                server.current = index
                self._start(server, queue, pays_host=index == 0)
                return
        server.busy = False
        if upcoming < math.inf:
            self._push(upcoming, server, None)

    def _start(self, server: _Server, queue: _Queue, *, pays_host: bool) -> None:
        batch, prefills = queue.ready, queue.prefills
        if prefills or len(batch) > server.max_decodes:
            batch, left, prefills, tokens = _within_limits(server, batch)
            queue.ready = left
            queue.prefills -= prefills
            layer_s = server.decode_s[len(batch) - prefills] + (server.prefill_s(tokens) if tokens else 0.0)
        else:
            queue.ready = []
            layer_s = server.decode_s[len(batch)]
        server.batch, server.prefills = batch, prefills
        server.busy = True
        took_s = layer_s * queue.layers
        if pays_host:
            took_s += server.arrived_tokens * self._host_s
            server.arrived_tokens = 0
        self._push(self.now_s + took_s, server, queue)

    def _batch_done(self, server: _Server) -> None:
        batch, prefills = server.batch, server.prefills
        server.batch = []
        if server.current + 1 < len(server.queues):
            following = server.queues[server.current + 1]
            if following.pieces:
                self._collect(following)
            following.ready = following.ready + batch if following.ready else batch
            following.prefills += prefills
        else:
            server.served += len(batch)
            self._forward(server, batch, prefills)
        self._begin(server)


def _within_limits(server: _Server, waiting: list[_Request]) -> tuple[list[_Request], list[_Request], int, int]:
    """First come, first served, who breaks a limit waits: batch, those left, prefills in it and their tokens."""
    taken: list[_Request] = []
    left: list[_Request] = []
    prefills = tokens = decodes = 0
    for request in waiting:
        if request.tokens:
            if not prefills or (prefills < server.max_prompts and tokens + request.tokens <= server.max_tokens):
                prefills += 1
                tokens += request.tokens
                taken.append(request)
                continue
        elif decodes < server.max_decodes:
            decodes += 1
            taken.append(request)
            continue
        left.append(request)
    return taken, left, prefills, tokens


def _mean_context(load: Load) -> float:
    """KV entries of a decoding request: the longer one decodes the oftener it is found, half way on average."""
    decodes = sum(output - 1 for _, output in load.lengths)
    if not decodes:
        return 1.0
    return sum((prompt + output / 2) * (output - 1) for prompt, output in load.lengths) / decodes
