"""Copies of KV entries on nodes that hold the same layers.

Whatever a stage has added to its KV cache is sent, as it leaves the stage, to another node that holds these layers and
ends with the same one, over the network that requests use. When the stage's machine is lost, its requests go on there
with the tokens whose entries have arrived; the others are computed again.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from emulator.pipeline import Pipeline

if TYPE_CHECKING:
    from emulator.churn.control import ChurnControl
    from emulator.links import EmulatedLink
    from emulator.node import GpuNode
    from emulator.requests import Attempt
    from placement.layers import LayerRange


class _Copy:
    """What one node keeps for one stage of one attempt."""

    __slots__ = ("keeper", "layers", "tokens")

    def __init__(self, keeper: GpuNode, layers: int) -> None:
        self.keeper = keeper
        self.layers = layers
        self.tokens = 0


class Replicas:
    """Keeps copies and resumes from them.

    Attributes:
        bytes_sent: Bytes of all copies sent.
        resumed: Requests that went on from a copy.
    """

    def __init__(self, control: ChurnControl) -> None:
        self._control = control
        self._state = control.state
        self._copies: dict[Attempt, dict[int, _Copy]] = {}
        self.bytes_sent = 0.0
        self.resumed = 0

    # -- copying -------------------------------------------------------------------------------

    def stage_left(self, node: GpuNode, items: list[Attempt]) -> None:
        """Send what ``items`` have added on ``node`` to their keepers, all for one keeper together."""
        parcels: dict[GpuNode, list[tuple[Attempt, int]]] = {}
        total: dict[GpuNode, float] = {}
        size = self._state.spec.model.kv_bytes
        for item in items:
            if item.dead or item.left <= 0:
                continue
            copy = self._copy_of(item, node)
            if copy is None:
                continue
            parcels.setdefault(copy.keeper, []).append((item, item.context + item.tokens))
            total[copy.keeper] = total.get(copy.keeper, 0.0) + item.tokens * copy.layers * size
        for keeper, entries in parcels.items():
            wire = self._state.wire(node.name, keeper.name)
            assert wire is not None
            self.bytes_sent += total[keeper]
            self._control.network.send(wire, total[keeper], partial(self._arrived, node, keeper, entries))

    def _copy_of(self, attempt: Attempt, node: GpuNode) -> _Copy | None:
        """Where ``attempt``'s entries of ``node`` go; chosen as its prefill leaves, with no second choice later."""
        copies = self._copies.setdefault(attempt, {})
        copy = copies.get(node.index)
        if copy is not None:
            return copy if not copy.keeper.down else None
        if not attempt.prefill or attempt.context:
            return None
        start = node.entry_of(attempt)
        keeper = self._keeper(node, start)
        if keeper is None:
            return None
        copies[node.index] = copy = _Copy(keeper, node.held.stop - start)
        return copy

    def _keeper(self, node: GpuNode, start: int) -> GpuNode | None:
        """The routed node with most free KV cache that could stand in from layer ``start`` on; the first of equals."""
        best: GpuNode | None = None
        for other in self._state.nodes:
            if other is node or other.held.stop != node.held.stop or other.held.start > start:
                continue
            if self._state.wire(node.name, other.name) is None:
                continue
            if best is None or other.kv_capacity - other.kv_used > best.kv_capacity - best.kv_used:
                best = other
        return best

    def _arrived(self, node: GpuNode, keeper: GpuNode, entries: list[tuple[Attempt, int]]) -> None:
        for attempt, tokens in entries:
            copy = self._copies.get(attempt, {}).get(node.index)
            if copy is None or copy.keeper is not keeper or keeper.down or attempt.dead:
                continue
            more = (tokens - copy.tokens) * copy.layers
            if keeper.kv_used + keeper.kv_to_come() + more > keeper.kv_capacity:
                # Copies never crowd out work: this one ends here.
                self._drop(attempt, node.index)
                continue
            keeper.kv_used += more
            copy.tokens = tokens

    def kept(self) -> dict[int, int]:
        """Node index -> KV entries, in layer-tokens, of the copies that it keeps."""
        entries: dict[int, int] = {}
        for copies in self._copies.values():
            for copy in copies.values():
                entries[copy.keeper.index] = entries.get(copy.keeper.index, 0) + copy.tokens * copy.layers
        return entries

    # -- forgetting ----------------------------------------------------------------------------

    def forget(self, attempt: Attempt) -> None:
        """``attempt`` has ended."""
        for index in list(self._copies.get(attempt, {})):
            self._drop(attempt, index)
        self._copies.pop(attempt, None)

    def make_room(self, node: GpuNode, entries: int) -> None:
        """Drop copies kept on ``node`` until ``entries`` more fit, the youngest request's first; work comes first."""
        held = [
            (attempt, index)
            for attempt, copies in self._copies.items()
            for index, copy in copies.items()
            if copy.keeper is node and copy.tokens
        ]
        held.sort(key=lambda entry: -entry[0].request.number)
        for attempt, index in held:
            if node.kv_used + entries <= node.kv_capacity:
                return
            self._drop(attempt, index)

    def _drop(self, attempt: Attempt, index: int) -> None:
        copy = self._copies[attempt].pop(index)
        if not copy.keeper.down:
            copy.keeper.kv_used -= copy.tokens * copy.layers
            copy.keeper.kv_freed()

    def node_stopped(self, node: GpuNode) -> None:
        """Copies on ``node`` are lost with it."""
        for copies in self._copies.values():
            for index in [index for index, copy in copies.items() if copy.keeper is node]:
                del copies[index]

    # -- resuming ------------------------------------------------------------------------------

    def resume(self, attempt: Attempt, reason: str) -> int | None:
        """Let the request of ``attempt`` go on where its copies are.

        Returns:
            Tokens to compute again; ``None`` when it cannot go on.
        """
        if attempt.pipeline is None or attempt.prefill:
            return None
        routed = {node.index for node in self._state.nodes}
        copies = self._copies.get(attempt, {})
        stages: list[tuple[GpuNode, LayerRange, _Copy | None]] = []
        for node, layers in attempt.pipeline.stages:
            if node.index in routed and not node.down:
                stages.append((node, layers, None))
                continue
            copy = copies.get(node.index)
            if copy is None or not copy.tokens or copy.keeper.index not in routed:
                return None
            stages.append((copy.keeper, layers, copy))
        nodes = [node for node, _, _ in stages]
        if len({node.index for node in nodes}) < len(nodes):
            return None
        links = self._state.links_through(nodes)
        if links is None:
            return None
        request = attempt.request
        known = request.prompt_tokens + request.emitted_tokens
        context = min([attempt.context, known - 1, *(copy.tokens for _, _, copy in stages if copy is not None)])
        return self._go_on(attempt, stages, links, context, reason)

    def _go_on(
        self,
        attempt: Attempt,
        stages: list[tuple[GpuNode, LayerRange, _Copy | None]],
        links: tuple[EmulatedLink, ...],
        context: int,
        reason: str,
    ) -> int:
        assert attempt.pipeline is not None
        for position, (node, layers) in enumerate(attempt.pipeline.stages):
            if not node.down:
                node.kv_used -= node.kv_of(attempt, position, layers)
                node.kv_freed()
        for index in list(self._copies.get(attempt, {})):
            self._drop(attempt, index)
        self._copies.pop(attempt, None)
        pipeline: Pipeline = self._state.pipelines.of(links)
        for node, layers in pipeline.stages:
            node.kv_used += context * len(layers)
        self.resumed += 1
        return self._state.coordinator.resume(attempt, pipeline, context, reason)
