"""An independent, slow model of HELIX.md sections 4, 5 and 7: every layer, message and link turn is an event.

It shares no code with the emulator and serves as an oracle for it. It knows the max-flow policy and
policies that choose the only link there is; it has no limits on KV use and no lazy arrivals.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(eq=False)
class Msg:
    query: Query
    prefill: bool
    tokens: int
    context: int
    started: float
    hop: int = 0
    sending_since: float = 0.0


@dataclass(eq=False)
class Query:
    prompt: int
    output: int
    path: list[Wire]
    done: int = 0


@dataclass(eq=False)
class Wire:
    name: str
    rate: float
    latency: float
    bytes_per_token: float
    source: Machine | None
    target: Machine | None
    entry: int
    busy: bool = False
    queue: deque[Msg] = field(default_factory=deque)


@dataclass(eq=False)
class Machine:
    name: str
    start: int
    stop: int
    prefill: Callable[[int], float]
    decode: Callable[[int], float]
    max_prompts: int
    max_prompt_tokens: int
    max_decodes: int
    max_context: int
    activation_bytes: float
    out: list[Wire] = field(default_factory=list)
    queues: dict[int, list[Msg]] = field(default_factory=dict)
    layer: int = 0
    busy: bool = False
    buffered: int = 0

    def __post_init__(self) -> None:
        self.layer = self.start
        self.queues = {layer: [] for layer in range(self.start, self.stop)}


class LayerByLayer:
    def __init__(self, feeder: Feeder) -> None:
        self.now = 0.0
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.uid = itertools.count()
        self.feeder = feeder
        self.decodes: list[tuple[float, float]] = []
        self.prefills: list[tuple[float, float]] = []
        self.finished = 0

    def at(self, time: float, action: Callable[[], None]) -> None:
        heapq.heappush(self.events, (time, next(self.uid), action))

    def run(self, until: float) -> None:
        self.feeder.start(self)
        while self.events and self.events[0][0] < until:
            self.now, _, action = heapq.heappop(self.events)
            action()

    # links: one message at a time, in order; the link is free when sending ends
    def send(self, wire: Wire, msg: Msg) -> None:
        wire.queue.append(msg)
        self.at(self.now, lambda: self.try_send(wire))

    def try_send(self, wire: Wire) -> None:
        if wire.busy or not wire.queue:
            return
        msg = wire.queue.popleft()
        wire.busy = True
        msg.sending_since = self.now
        self.at(
            self.now + (wire.latency + msg.tokens * wire.bytes_per_token / wire.rate) - wire.latency,
            lambda: self.sent(wire, msg),
        )

    def sent(self, wire: Wire, msg: Msg) -> None:
        wire.busy = False
        self.at(self.now, lambda: self.try_send(wire))
        self.at(self.now + wire.latency, lambda: self.arrived(wire, msg))

    def arrived(self, wire: Wire, msg: Msg) -> None:
        machine = wire.target
        if machine is None:
            self.at(self.now, lambda: self.gathered(msg))
            return
        machine.queues[wire.entry].append(msg)
        machine.buffered += msg.tokens
        self.at(self.now, lambda: self.start(machine))

    # machines: one layer at a time
    def march(self, machine: Machine) -> None:
        count = machine.stop - machine.start
        for offset in range(1, count):
            layer = machine.start + (machine.layer - machine.start + offset) % count
            if machine.queues[layer]:
                machine.layer = layer
                return

    def start(self, machine: Machine) -> None:
        if machine.busy:
            return
        if not machine.queues[machine.layer]:
            self.march(machine)
        queue = machine.queues[machine.layer]
        if not queue:
            return
        batch: list[Msg] = []
        prompts = prompt_tokens = decodes = context = 0
        for msg in queue:
            if msg.prefill:
                if prompts < machine.max_prompts and prompt_tokens + msg.tokens <= machine.max_prompt_tokens:
                    batch.append(msg)
                    prompts += 1
                    prompt_tokens += msg.tokens
            elif decodes < machine.max_decodes and context + msg.context <= machine.max_context:
                batch.append(msg)
                decodes += 1
                context += msg.context
        taken = {id(msg) for msg in batch}
        machine.queues[machine.layer] = [msg for msg in queue if id(msg) not in taken]
        time = machine.prefill(prompt_tokens) + machine.decode(decodes)
        if machine.layer == machine.start:
            size = machine.buffered * machine.activation_bytes
            time += size / 4e9 + size / 5e9
            machine.buffered = 0
        machine.busy = True
        self.at(self.now + time, lambda: self.end(machine, batch))

    def end(self, machine: Machine, batch: list[Msg]) -> None:
        machine.busy = False
        if machine.layer == machine.stop - 1:
            self.feeder.leave(machine, batch, self.now)
            for msg in batch:
                msg.hop += 1
                self.send(msg.query.path[msg.hop], msg)
        else:
            machine.queues[machine.layer + 1].extend(batch)
        self.march(machine)
        self.at(self.now, lambda: self.start(machine))

    # coordinator
    def requested(self) -> None:
        """A request reaches the coordinator; override to watch."""

    def issue(self, query: Query, prefill: bool) -> None:
        tokens = query.prompt if prefill else 1
        context = 0 if prefill else query.prompt + query.done
        self.send(query.path[0], Msg(query, prefill, tokens, context, self.now))

    def gathered(self, msg: Msg) -> None:
        query = msg.query
        if msg.prefill:
            self.prefills.append((self.now, self.now - msg.started))
        else:
            self.decodes.append((self.now, self.now - msg.started))
            query.done += 1
        if query.done < query.output:
            self.issue(query, False)
            self.feeder.decode_issued(query)
            if msg.prefill:
                self.feeder.prefill_done(self)
        else:
            self.finished += 1
            self.feeder.closed(query)
            self.feeder.query_done(self)


class Feeder:
    """Constant number in flight, one path; override for more."""

    def __init__(self, path: list[Wire], lengths: list[tuple[int, int]], in_flight: int) -> None:
        self.path = path
        self.lengths = iter(itertools.cycle(lengths))
        self.in_flight = in_flight

    def start(self, model: LayerByLayer) -> None:
        for index in range(self.in_flight):
            self.launch(model, index * 0.1)

    def launch(self, model: LayerByLayer, time: float) -> None:
        prompt, output = next(self.lengths)

        def admit() -> None:
            model.requested()
            path = self.route(prompt)
            if path is not None:
                query = Query(prompt, output, path)
                self.opened(query)
                model.issue(query, True)

        model.at(time, admit)

    def route(self, prompt: int) -> list[Wire] | None:
        return self.path

    def leave(self, machine: Machine, batch: list[Msg], now: float) -> None:
        """Before the messages of a batch are sent on; prefills may get their next wire here."""

    def opened(self, query: Query) -> None:
        pass

    def decode_issued(self, query: Query) -> None:
        pass

    def prefill_done(self, model: LayerByLayer) -> None:
        pass

    def closed(self, query: Query) -> None:
        pass

    def query_done(self, model: LayerByLayer) -> None:
        self.launch(model, model.now + 0.1)


class SwarmFeeder(Feeder):
    """Constant number in flight; per hop the successor of least priority."""

    def __init__(self, entry: list[Wire], wires: list[Wire], lengths: list[tuple[int, int]], in_flight: int) -> None:
        super().__init__([], lengths, in_flight)
        self.entry = entry
        self.order = {wire.name: index for index, wire in enumerate(wires)}
        self.average = {wire.name: 0.05 for wire in wires}
        self.priority = {wire.name: 0.05 for wire in wires}

    def choose(self, wires: list[Wire]) -> Wire:
        wire = min(wires, key=lambda w: (self.priority[w.name], self.order[w.name]))
        self.priority[wire.name] += self.average[wire.name]
        return wire

    def route(self, prompt: int) -> list[Wire]:
        return [self.choose(self.entry)]

    def leave(self, machine: Machine, batch: list[Msg], now: float) -> None:
        for msg in batch:
            name = msg.query.path[msg.hop].name
            self.average[name] = 0.8 * (now - msg.sending_since) + (1 - 0.8) * self.average[name]
        for msg in batch:
            if msg.prefill:
                msg.query.path.append(self.choose(machine.out))


class KvRoomFeeder(Feeder):
    """Max-flow IWRR with expected KV use, fed while the bottleneck leaves room."""

    def __init__(
        self,
        entry: list[Wire],
        machines: list[Machine],
        flows: dict[str, float],
        capacity: dict[str, float],
        layers: int,
        lengths: list[tuple[int, int]],
        initial: int,
        hwm: float,
        ratio: float,
        feed: float,
    ) -> None:
        super().__init__([], lengths, initial)
        self.entry, self.machines, self.flows = entry, machines, flows
        self.capacity, self.free = capacity, dict(capacity)
        self.layers, self.hwm, self.extra, self.feed = layers, hwm, 240 * ratio, feed
        self.load: dict[str, float] = dict.fromkeys(flows, 0.0)

    def route(self, prompt: int) -> list[Wire] | None:
        path: list[Wire] = []
        options = self.entry
        while True:
            total = sum(self.flows[wire.name] for wire in options)
            best, least = None, math.inf
            for wire in options:
                flow = self.flows[wire.name]
                if flow < 0.05 * total or flow == 0:
                    continue
                if wire.target is not None:
                    machine = wire.target
                    if prompt > machine.max_prompt_tokens:
                        continue
                    held = machine.stop - machine.start
                    capacity = self.capacity[machine.name]
                    if self.free[machine.name] - int(prompt + self.extra) * held < (1 - self.hwm) * capacity:
                        continue
                if self.load[wire.name] + prompt / flow < least:
                    best, least = wire, self.load[wire.name] + prompt / flow
            if best is None:
                for wire in path:
                    self.load[wire.name] -= prompt / self.flows[wire.name]
                return None
            self.load[best.name] += prompt / self.flows[best.name]
            path.append(best)
            if best.target is None:
                return path
            options = best.target.out

    def _kv(self, query: Query, sign: int) -> None:
        for wire in query.path[:-1]:
            assert wire.target is not None
            used = wire.target.stop - wire.entry
            self.free[wire.target.name] -= sign * int(query.prompt + self.extra) * used

    def opened(self, query: Query) -> None:
        self._kv(query, 1)

    def closed(self, query: Query) -> None:
        self._kv(query, -1)

    def decode_issued(self, query: Query) -> None:
        for wire in query.path:
            self.load[wire.name] += 1 / self.flows[wire.name]

    def bottleneck(self) -> float:
        worst = 0.0
        for layer in range(self.layers):
            holders = [m for m in self.machines if m.start <= layer < m.stop]
            free = sum(self.free[m.name] / (m.stop - m.start) for m in holders)
            total = sum(self.capacity[m.name] / (m.stop - m.start) for m in holders)
            worst = max(worst, 1 - free / total)
        return worst

    def _maybe(self, model: LayerByLayer) -> None:
        if self.bottleneck() <= self.feed:
            self.launch(model, model.now + 0.1)

    def prefill_done(self, model: LayerByLayer) -> None:
        self._maybe(model)

    def query_done(self, model: LayerByLayer) -> None:
        self._maybe(model)
