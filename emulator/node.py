"""One GPU machine: a SimPy process that batches whatever waits and walks through its layers (HELIX.md section 5)."""

from __future__ import annotations

from collections.abc import Generator
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from simpy.events import Event

from placement.layers import LayerRange
from placement.profile import MachineProfile

if TYPE_CHECKING:
    from emulator.cluster import ClusterState
    from emulator.links import EmulatedLink, Transfer
    from emulator.requests import Attempt

Batch = tuple[list["Attempt"], int, int, int]
"""Items, prompts, prompt tokens, decoding sequences."""


class Segment:
    """A run of layers between two layers at which requests may enter; within it a batch does not change.

    Attributes:
        index: Position in the node.
        layers: Number of layers.
        held: The layers.
        pays_host_cost: Whether it begins with the node's first held layer.
        last: Whether it ends with the node's last held layer.
        ready: Requests waiting for it, in order of arrival.
        prefills: How many of ``ready`` are prefills.
        pending: Transfers with messages that are not in ``ready`` yet.
    """

    __slots__ = ("held", "index", "last", "layers", "pays_host_cost", "pending", "prefills", "ready")

    def __init__(self, index: int, held: LayerRange, *, pays_host_cost: bool, last: bool) -> None:
        self.index = index
        self.held = held
        self.layers = len(held)
        self.pays_host_cost = pays_host_cost
        self.last = last
        self.ready: list[Attempt] = []
        self.prefills = 0
        self.pending: list[Transfer] = []

    def end_at(self, layer: int) -> None:
        """Leave the layers from ``layer`` on to another segment."""
        self.held = LayerRange(self.held.start, layer)
        self.layers = len(self.held)
        self.last = False


class GpuNode:
    """A node that holds a layer range.

    Attributes:
        index: Position among the nodes that hold layers.
        name: Node name.
        held: Layers held.
        profile: How its machine type runs the model.
        kv_capacity: KV capacity in tokens summed over held layers.
        kv_used: KV entries in use, in the same unit.
        kv_peak: Greatest ``kv_used`` in the window.
        busy_s: Compute time in the window, of batches that have ended.
        batches: Segment runs in the window.
        batched: Requests summed over these.
        out_links: Links that leave it.
        only_link: The one link that leaves it, when there is just one.
        slowdown: Factor on the time of every batch that starts.
        away: Whether another process runs it and keeps its books; this one only knows of it.
        down: The machine has stopped, and everything on it is lost.
    """

    def __init__(
        self,
        state: ClusterState,
        index: int,
        name: str,
        held: LayerRange,
        profile: MachineProfile,
        kv_capacity: int,
    ) -> None:
        self._state = state
        self._env = state.env
        self.index = index
        self.name = name
        self.held = held
        self.profile = profile
        self.kv_capacity = kv_capacity
        self.kv_used = 0
        self.kv_peak = 0
        self.busy_s = 0.0
        self.batches = 0
        self.batched = 0
        self.slowdown = 1.0
        self.away = False
        self.down = False
        self.out_links: list[EmulatedLink] = []
        self.only_link: EmulatedLink | None = None
        limits = profile.limits_at(len(held))
        self.max_prompts = limits.max_prompts
        self.max_prompt_tokens = limits.max_prompts * profile.max_prompt_tokens
        self.max_decodes = limits.max_decode_sequences
        self.max_decode_context = limits.max_decode_sequences * profile.decode_context_per_sequence
        self._prefill_s = profile.prefill.up_to(self.max_prompt_tokens)
        self._decode_s = profile.decode.up_to(self.max_decodes)
        self._decode_s[1] *= profile.single_decode_factor
        self._activation_bytes = state.spec.model.activation_bytes
        self._concat_rate = state.spec.host_cost.concat_bytes_per_s
        self._transfer_rate = state.spec.host_cost.transfer_bytes_per_s
        self.highest_kv_use_before = 0.0
        self.segments = [Segment(0, held, pays_host_cost=True, last=True)]
        self._current = 0
        self._running: list[Attempt] = []
        self._running_from = held.start
        self._running_layers = 0
        self._began_s = 0.0
        self._arrived_tokens = 0
        self._wake: Event | None = None
        self._alarm_s = float("inf")
        self.waits_for_kv = False
        self._look_again = False

    def start(self) -> None:
        """Start serving."""
        self._current = len(self.segments) - 1
        self._env.process(self._serve())

    def enter_at(self, layer: int) -> Segment:
        """The segment that begins with ``layer``, which requests may enter at; it is cut out of another if need be.

        A batch under way runs to the end of the segment that it began with.
        """
        for position, segment in enumerate(self.segments):
            held = segment.held
            if held.start == layer:
                return segment
            if layer in held:
                rest = Segment(position + 1, LayerRange(layer, held.stop), pays_host_cost=False, last=segment.last)
                segment.end_at(layer)
                self.segments.insert(position + 1, rest)
                for later in self.segments[position + 2 :]:
                    later.index += 1
                # The round goes on behind what ran last, and that is the rest's last layer now.
                self._current += self._current >= position
                return rest
        raise KeyError(f"{self.name} holds {self.held}, not layer {layer}")

    def inherit(self, before: GpuNode) -> None:
        """Go on with the figures of the node that ran on this machine before."""
        self.busy_s, self.batches, self.batched = before.busy_s, before.batches, before.batched
        self.highest_kv_use_before = before.highest_kv_use

    def stop(self) -> int:
        """The machine stops at once; what is on it is lost.

        Returns:
            KV entries lost, in layer-tokens.
        """
        self.busy_s = self.busy_until_now_s()
        lose = self._state.lose
        for item in self._running:
            lose(item)
        for segment in self.segments:
            for item in segment.ready:
                lose(item)
            for transfer in segment.pending:
                for item in transfer.items:
                    lose(item)
            segment.ready, segment.pending, segment.prefills = [], [], 0
        self.down = True
        self._running = []
        self._wake = None
        entries, self.kv_used = self.kv_used, 0
        return entries

    @property
    def idle(self) -> bool:
        """Whether nothing is here or on its way here that has been received."""
        return not self._running and not any(segment.ready or segment.pending for segment in self.segments)

    @property
    def computing(self) -> bool:
        """Whether a batch is under way."""
        return bool(self._running)

    def running(self) -> list[Attempt]:
        """Whom the batch under way, if there is one, computes for."""
        return [item for item in self._running if not item.dead]

    def kv_to_come(self) -> int:
        """KV entries that the batch under way will have added when it ends; there is room for them."""
        return self._running_layers * sum(item.tokens for item in self.running())

    @property
    def highest_kv_use(self) -> float:
        """Greatest share of KV capacity in use in the window, on this machine."""
        return max(self.highest_kv_use_before, self.kv_peak / self.kv_capacity)

    def start_window(self) -> None:
        """Forget what was measured so far; of a batch under way only the rest counts."""
        self.highest_kv_use_before = 0.0
        self.busy_s = self._began_s - self._env.now if self._running else 0.0
        self.batches = self.batched = 0
        self.kv_peak = self.kv_used

    def busy_until_now_s(self) -> float:
        """Compute time in the window, that of a batch under way included."""
        return self.busy_s + (self._env.now - self._began_s if self._running else 0.0)

    def entry_of(self, attempt: Attempt) -> int:
        """First layer that ``attempt`` runs here."""
        link = attempt.first_link
        while link is not None and link.node is not None:
            if link.node is self:
                return link.entry_layer
            link = attempt.links.get(link.node.index)
        raise KeyError(f"request {attempt.request.number} does not pass {self.name}")

    def kv_of(self, attempt: Attempt, position: int, layers: LayerRange) -> int:
        """KV entries (layer-tokens) that ``attempt`` has here, as stage ``position`` of its pipeline."""
        if self.away:
            return 0
        held = attempt.context * len(layers)
        if position < attempt.hop:
            held += attempt.tokens * len(layers)
        elif position == attempt.hop and len(self.segments) > 1:
            held += attempt.tokens * self._layers_done(attempt, layers)
        return held

    def _layers_done(self, attempt: Attempt, layers: LayerRange) -> int:
        """Layers that ``attempt`` has run here in this iteration, while it is still here."""
        if attempt in self._running:
            return self._running_from - layers.start
        for segment in self.segments:
            if attempt in segment.ready:
                return max(0, segment.held.start - layers.start)
        return 0

    def holds_kv_of(self, attempt: Attempt) -> bool:
        """Whether ``attempt`` has KV entries here."""
        return any(
            node is self and self.kv_of(attempt, position, layers) > 0
            for position, (node, layers) in enumerate(attempt.stages())
        )

    def queue_length(self) -> int:
        """Requests waiting at the first layer now."""
        now = self._env.now
        first = self.segments[0]
        arrived = sum(1 for transfer in first.pending for time in transfer.times if time <= now)
        return len(first.ready) + arrived

    # -- arrivals ------------------------------------------------------------------------------

    def receive(self, transfer: Transfer) -> None:
        """The first message of ``transfer`` has arrived."""
        if self.down:
            for item in transfer.items:
                self._state.lose(item)
            return
        link = transfer.link
        if link.receiving_nic is not None:
            link.pass_card(transfer)
        segment = link.segment
        assert segment is not None
        segment.pending.append(transfer)
        if self._wake is not None:
            if transfer.times[0] <= self._env.now:
                self._rouse(transfer.times[0] - link.clock.latency_s)
            else:
                self._set_alarm(transfer.times[0])

    def lose_memory(self, kv_capacity: int) -> None:
        """Go on with a smaller (or again larger) KV cache; who no longer fits is preempted as soon as possible."""
        self.kv_capacity = kv_capacity
        self._state.kv_pressure.shrink(self)
        self.kv_freed()

    def kv_freed(self) -> None:
        """KV entries were freed here; work that waits for them may go on."""
        if self.waits_for_kv and self._wake is not None:
            self._rouse(self._env.now)

    def _rouse(self, caused_s: float) -> None:
        wake, self._wake = self._wake, None
        assert wake is not None
        self._env.trigger_late(wake, self._env.now, caused_s)

    def _set_alarm(self, at_s: float) -> None:
        if at_s < self._alarm_s:
            self._alarm_s = at_s
            self._env.call_at(at_s, self._alarm)

    def _alarm(self, _event: Event) -> None:
        self._alarm_s = float("inf")
        if self._wake is not None:
            self._rouse(self._env.now)

    def _collect(self, segment: Segment, now: float) -> None:
        """Move every message that has arrived by ``now`` to ``ready``, in order of arrival."""
        pending = segment.pending
        if len(pending) == 1:
            transfer = pending[0]
            if transfer.times[-1] <= now:
                segment.pending = []
                if segment.ready:
                    segment.ready += transfer.items
                else:
                    segment.ready = transfer.items
                segment.prefills += transfer.prefills
                self._arrived_tokens += transfer.tokens
                return
        arrived: list[tuple[float, Attempt]] = []
        later: list[Transfer] = []
        in_order, last = True, 0.0
        for transfer in pending:
            times = transfer.times
            if times[-1] <= now:
                in_order = in_order and times[0] >= last
                last = times[-1]
                arrived.extend(zip(times, transfer.items, strict=True))
                segment.prefills += transfer.prefills
                self._arrived_tokens += transfer.tokens
            elif times[0] <= now:
                in_order = False
                arrived.extend(self._split(segment, transfer, now))
                later.append(transfer)
            else:
                later.append(transfer)
        segment.pending = later
        if not in_order:
            arrived.sort(key=itemgetter(0))
        segment.ready += [item for _, item in arrived]

    def _split(self, segment: Segment, transfer: Transfer, now: float) -> list[tuple[float, Attempt]]:
        count = sum(1 for time in transfer.times if time <= now)
        head = list(zip(transfer.times[:count], transfer.items[:count], strict=True))
        prefills = sum(1 for _, item in head if item.prefill)
        tokens = sum(item.tokens for _, item in head)
        segment.prefills += prefills
        self._arrived_tokens += tokens
        transfer.items, transfer.times = transfer.items[count:], transfer.times[count:]
        transfer.prefills -= prefills
        transfer.tokens -= tokens
        return head

    # -- batches -------------------------------------------------------------------------------

    def _serve(self) -> Generator[Event, Any, None]:
        env = self._env
        segments = self.segments
        while True:
            now = env.now
            if len(segments) == 1:
                segment = segments[0]
                if segment.pending:
                    self._collect(segment, now)
                batch = self._take(segment) if segment.ready else None
            else:
                segment, batch = self._next_segment(now)
            if batch is None:
                if self._look_again:
                    self._look_again = False
                    continue
                self._wake = wake = Event(env)
                self._rest()
                yield wake
                continue
            items, prompts, prompt_tokens, decodes = batch
            tokens = prompt_tokens + decodes
            end, last_layer = self._end_of(segment, now, prompt_tokens, decodes)
            # The segment may be cut while the batch runs; the batch goes on to the segment's old end.
            held, layers, last = segment.held, segment.layers, segment.last
            self._running = items
            self._running_from, self._running_layers = held.start, layers
            self._began_s = now
            yield env.trigger_late(Event(env), end, last_layer)
            if self.down:
                return
            self._running = []
            duration = end - now
            self.busy_s += duration
            self.batches += 1
            self.batched += len(items)
            if self._state.dead:
                items, prompts, tokens = self._drop_dead(items)
            self.kv_used += layers * tokens
            if self.kv_used > self.kv_peak:
                self.kv_peak = self.kv_used
            if self._state.log_batches:
                self._state.log.batch(env.now, self, held, duration, prompts, prompt_tokens, decodes)
            if not last:
                following = self.enter_at(held.stop)
                if following.pending:
                    self._collect(following, env.now)
                following.ready += items
                following.prefills += prompts
            elif items:
                self._forward(items, prompts, env.now)

    def _rest(self) -> None:
        upcoming = [transfer.times[0] for segment in self.segments for transfer in segment.pending]
        if upcoming:
            self._set_alarm(min(upcoming))

    def _next_segment(self, now: float) -> tuple[Segment, Batch | None]:
        """The next segment, going round, at which somebody waits, and its batch."""
        segments = self.segments
        for segment in segments:
            if segment.pending:
                self._collect(segment, now)
        count = len(segments)
        for offset in range(1, count + 1):
            segment = segments[(self._current + offset) % count]
            if segment.ready:
                batch = self._take(segment)
                if batch is not None:
                    self._current = segment.index
                    return segment, batch
        return segments[self._current], None

    def _end_of(self, segment: Segment, now: float, prompt_tokens: int, decodes: int) -> tuple[float, float]:
        """When a batch that starts now has run the segment's layers, and when it begins the last of them."""
        if prompt_tokens <= self.max_prompt_tokens:
            layer_s = self._prefill_s[prompt_tokens] + self._decode_s[decodes]
        else:
            layer_s = self.profile.prefill.at(prompt_tokens) + self._decode_s[decodes]
        layer_s *= self.slowdown
        begin = end = now
        if segment.pays_host_cost:
            arrived_bytes = self._arrived_tokens * self._activation_bytes
            end += layer_s + (arrived_bytes / self._concat_rate + arrived_bytes / self._transfer_rate)
            self._arrived_tokens = 0
        else:
            end += layer_s
        # Added layer by layer as the model runs them: nodes in step with each other meet at equal times,
        # which a product would round apart.
        for _ in range(segment.layers - 1):
            begin = end
            end += layer_s
        return end, begin

    def _take(self, segment: Segment) -> Batch | None:
        """Take a batch from ``ready``: items, prompts, prompt tokens, decoding sequences."""
        state = self._state
        if state.dead:
            segment.ready, segment.prefills, _ = self._drop_dead(segment.ready)
            if not segment.ready:
                return None
        ready = segment.ready
        count = len(ready)
        if (
            segment.prefills == 0
            and count <= self.max_decodes
            and count * state.longest_context <= self.max_decode_context
        ):
            segment.ready = []
            batch = ready, 0, 0, count
        else:
            batch = self._take_within_limits(segment)
        if self.kv_used + segment.layers * (batch[2] + batch[3]) > self.kv_capacity:
            return self._relieved(segment, batch)
        return batch

    def _relieved(self, segment: Segment, batch: Batch) -> Batch | None:
        """What can run now of a batch that would overflow the KV cache."""
        pressure = self._state.kv_pressure
        changes = pressure.changes
        # So that a victim's entries are found, which depend on the segment that it is at.
        self._running, self._running_from = batch[0], segment.held.start
        relieved = pressure.relieve(self, segment, batch)
        self._running = []
        if relieved is None and pressure.changes > changes:
            # Others may be able to run now, and nobody would wake the node for them.
            self._look_again = True
        return relieved

    def _take_within_limits(self, segment: Segment) -> Batch:
        """First come, first served; a request that would break a limit waits while later ones may pass."""
        taken: list[Attempt] = []
        left: list[Attempt] = []
        prompts = prompt_tokens = decodes = context = 0
        for item in segment.ready:
            if item.prefill:
                # A recomputed prompt can be longer than a batch may be; then it runs as the only prompt.
                if prompts == 0 or (
                    prompts < self.max_prompts and prompt_tokens + item.tokens <= self.max_prompt_tokens
                ):
                    prompts += 1
                    prompt_tokens += item.tokens
                    taken.append(item)
                    continue
            elif decodes == 0 or (decodes < self.max_decodes and context + item.context <= self.max_decode_context):
                decodes += 1
                context += item.context
                taken.append(item)
                continue
            left.append(item)
        segment.ready = left
        segment.prefills -= prompts
        return taken, prompts, prompt_tokens, decodes

    def _drop_dead(self, items: list[Attempt]) -> tuple[list[Attempt], int, int]:
        """Living items, how many of them are prefills, and their tokens."""
        living = [item for item in items if not item.dead]
        self._state.dead -= len(items) - len(living)
        return living, sum(1 for item in living if item.prefill), sum(item.tokens for item in living)

    def _forward(self, items: list[Attempt], prefills: int, now: float) -> None:
        """Send finished requests to their next machines, one transfer per link."""
        state = self._state
        policy = state.policy
        for item in items:
            item.hop += 1
        if policy.observes_hops:
            policy.stage_left(self, items, now)
        if state.churn is not None:
            items, prefills = state.churn.stage_left(self, items, prefills)
            if not items:
                return
        if self.only_link is not None and not (prefills and policy.per_hop):
            state.transmit(self.only_link, now, items, prefills)
            return
        groups: dict[EmulatedLink, list[Attempt]] = {}
        index = self.index
        for item in items:
            link = item.links.get(index)
            if link is None:
                link = policy.next_link(self, item, now)
            group = groups.get(link)
            if group is None:
                groups[link] = [item]
            else:
                group.append(item)
        for link, group in groups.items():
            state.transmit(link, now, group, sum(1 for item in group if item.prefill) if prefills else 0)
