"""What happens when a batch would overflow a node's KV cache. Never an abort."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emulator.requests import Outcome
from emulator.spec import WhenFull

if TYPE_CHECKING:
    from emulator.cluster import ClusterState
    from emulator.node import Batch, GpuNode, Segment
    from emulator.requests import Attempt


class KvPressure:
    """Applies the scenario's policy for full KV caches.

    ``reject`` ends the youngest requests of the batch that do not fit. ``wait`` leaves prefills in the
    queue until there is room. ``preempt`` takes the cache away from the youngest request on the node,
    which computes its tokens again later. Under ``wait``, those who have entries on the node already, and
    cannot grow, preempt too: only so is it certain that somebody finishes. Waiting cannot lock up: whoever
    waits to enter a node waits for requests that are past that point, so the most advanced ones always go on.

    Attributes:
        changes: How often it has changed who could run next.
    """

    def __init__(self, state: ClusterState, policy: WhenFull) -> None:
        self._state = state
        self._policy = policy
        self.changes = 0

    def relieve(self, node: GpuNode, segment: Segment, batch: Batch) -> Batch | None:
        """Make ``batch`` fit, or return ``None`` when nothing of it can run now."""
        if self._state.churn is not None:
            self._state.churn.make_room(node, segment.layers * (batch[2] + batch[3]))
        items = self._drop_impossible(node, batch[0])
        if self._policy is WhenFull.WAIT:
            items = self._hold_back_prefills(node, segment, items)
        while items and self._excess(node, segment, items) > 0:
            if self._policy is WhenFull.REJECT:
                victim = max(items, key=_age)
                self._end(victim, f"KV cache of {node.name} is full")
            else:
                victim = self._youngest(node, items)
                self.changes += 1
                self._state.coordinator.preempt(victim, node)
            items = self._living(items)
        if not items:
            return None
        prompts = sum(1 for item in items if item.prefill)
        prompt_tokens = sum(item.tokens for item in items if item.prefill)
        return items, prompts, prompt_tokens, len(items) - prompts

    def shrink(self, node: GpuNode) -> None:
        """Take the cache of ``node`` away from the youngest until what is left fits, whatever the policy."""
        if self._state.churn is not None:
            self._state.churn.make_room(node, node.kv_to_come())
        # The batch under way will want its room, too.
        while node.kv_used + node.kv_to_come() > node.kv_capacity:
            self.changes += 1
            self._state.coordinator.preempt(self._youngest(node, node.running()), node)

    def _end(self, victim: Attempt, reason: str) -> None:
        self.changes += 1
        outcome = Outcome.FAILED if victim.request.emitted_tokens else Outcome.REJECTED
        self._state.coordinator.end_attempt(victim, outcome, reason)

    @staticmethod
    def _excess(node: GpuNode, segment: Segment, items: list[Attempt]) -> int:
        return node.kv_used + segment.layers * sum(item.tokens for item in items) - node.kv_capacity

    def _drop_impossible(self, node: GpuNode, items: list[Attempt]) -> list[Attempt]:
        """End requests that would not fit an empty cache."""
        for item in items:
            layers = node.held.stop - node.entry_of(item)
            need = layers * (item.context + item.tokens)
            if need > node.kv_capacity:
                self._end(item, f"needs {need} KV layer-tokens on {node.name}, which has {node.kv_capacity}")
        return self._living(items)

    def _hold_back_prefills(self, node: GpuNode, segment: Segment, items: list[Attempt]) -> list[Attempt]:
        """Put prefills that are about to enter the node and do not fit back to the head of the queue."""
        enters = {item: self._enters(node, segment, item) for item in items}
        room = node.kv_capacity - node.kv_used
        room -= segment.layers * sum(item.tokens for item in items if not enters[item])
        kept: list[Attempt] = []
        held: list[Attempt] = []
        for item in items:
            if not enters[item]:
                kept.append(item)
            elif not held and segment.layers * item.tokens <= room:
                room -= segment.layers * item.tokens
                kept.append(item)
            else:
                held.append(item)
        if held:
            # Whoever is past this point comes first: the others may be waiting for it.
            past = [item for item in segment.ready if not self._enters(node, segment, item)]
            entering = [item for item in segment.ready if self._enters(node, segment, item)]
            segment.ready = past + held + entering
            segment.prefills += len(held)
            node.waits_for_kv = True
            self.changes += bool(past)
        return kept

    @staticmethod
    def _enters(node: GpuNode, segment: Segment, item: Attempt) -> bool:
        # One that resumes from a copy has its entries here already, and somebody may wait for it to end.
        return item.prefill and not item.context and node.entry_of(item) == segment.held.start

    def _youngest(self, node: GpuNode, items: list[Attempt]) -> Attempt:
        holders = [attempt for attempt in self._state.coordinator.in_flight() if node.holds_kv_of(attempt)]
        return max([*holders, *items], key=_age)

    def _living(self, items: list[Attempt]) -> list[Attempt]:
        living = [item for item in items if not item.dead]
        self._state.dead -= len(items) - len(living)
        return living


def _age(attempt: Attempt) -> int:
    return attempt.request.number
