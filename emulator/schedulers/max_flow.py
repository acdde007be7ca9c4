"""Max flow: interleaved weighted round robin (IWRR) over edge flows, with KV-cache pressure (HELIX.md section 4)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from emulator.errors import SimulationError
from emulator.schedulers.policy import SchedulerPolicy, require_option
from placement.throughput import AVERAGE_OUTPUT_TOKENS

if TYPE_CHECKING:
    from emulator.cluster import ClusterState
    from emulator.links import EmulatedLink
    from emulator.node import GpuNode
    from emulator.pipeline import Pipeline
    from emulator.requests import Attempt


class KvExpectation:
    """KV entries that admitted requests are expected to need in the end, per node.

    A request counts with its tokens to prefill plus an average output, from admission to its end.
    """

    def __init__(self, state: ClusterState, output_ratio: float, high_water_mark: float) -> None:
        self._extra = AVERAGE_OUTPUT_TOKENS * output_ratio
        self._nodes = {node.index: node for node in state.nodes}
        self._free = {node.index: float(node.kv_capacity) for node in state.nodes}
        self._reserve = {node.index: (1 - high_water_mark) * node.kv_capacity for node in state.nodes}
        self._capacity_at = [0.0] * state.model_layers
        for node in state.nodes:
            for layer in range(node.held.start, node.held.stop):
                self._capacity_at[layer] += node.kv_capacity / len(node.held)

    def expected(self, tokens: int) -> int:
        """Tokens that a request with ``tokens`` to prefill is expected to hold in the end."""
        return int(tokens + self._extra)

    def fits(self, index: int, expected: int) -> bool:
        """Whether node ``index`` keeps its reserve if a request comes that uses all its layers."""
        return self._free[index] - expected * len(self._nodes[index].held) >= self._reserve[index]

    def longest_prompt(self, index: int) -> int:
        """Longest prompt for which node ``index`` has room now."""
        tokens = int((self._free[index] - self._reserve[index]) / len(self._nodes[index].held) - self._extra) + 1
        while tokens > 0 and not self.fits(index, self.expected(tokens)):
            tokens -= 1
        return max(tokens, 0)

    def idle(self, index: int) -> bool:
        """Whether nobody is expected on node ``index``."""
        return self._free[index] >= self._nodes[index].kv_capacity

    def take(self, pipeline: Pipeline, expected: int) -> None:
        """Count a request on its stages, or, with a negative figure, release it; only nodes in use have a count."""
        for node, layers in pipeline.stages:
            if node.index in self._free:
                self._free[node.index] -= expected * len(layers)

    def bottleneck(self) -> float:
        """Greatest share in use over all layers, each layer's holders taken together."""
        free_at = [0.0] * len(self._capacity_at)
        for index, node in self._nodes.items():
            share = self._free[index] / len(node.held)
            for layer in range(node.held.start, node.held.stop):
                free_at[layer] += share
        return max(1 - free / capacity for free, capacity in zip(free_at, self._capacity_at, strict=True))


class Wheel:
    """IWRR over the links that leave one machine."""

    __slots__ = ("flows", "links", "loads", "usable")

    def __init__(self, links: list[EmulatedLink], flows: list[float], minimum_share: float) -> None:
        self.links = links
        self.flows = flows
        self.loads = [0.0] * len(links)
        total = sum(flows)
        floor = minimum_share * total
        if sum(flow for flow in flows if flow >= floor) < total / 2:
            # More even links than 1 / minimum_share: none is a trickle beside the others.
            floor = minimum_share * max(flows)
        self.usable = [flow > 0 and flow >= floor for flow in flows]


class MaxFlowPolicy(SchedulerPolicy):
    """Each request gets its own pipeline at admission, in proportion to the max flow.

    Options:
        expected_kv_high_water_mark: Share of a node's KV cache that expected use may fill.
        expected_output_ratio: Share of the average output length that an admitted request is expected to need.
        minimum_flow_share: Links with less than this share of their machine's outflow are not used. Where that
            would drop more than half of the outflow, it is the share of the greatest flow on a link.
    """

    name = "max-flow"
    counts_decodes = True
    follows_flow = True
    default_options: ClassVar[Mapping[str, float]] = {
        "expected_kv_high_water_mark": 0.9,
        "expected_output_ratio": 0.6,
        "minimum_flow_share": 0.05,
    }

    def __init__(self, state: ClusterState, options: Mapping[str, object], seed: int) -> None:
        super().__init__(state, options, seed)
        if state.flow.tokens_per_s <= 0:
            raise SimulationError("scheduler policy max-flow: the placement's max flow is 0; no request can be served")
        mark = self.options["expected_kv_high_water_mark"]
        if not 0 < mark <= 1:
            raise SimulationError(f"expected_kv_high_water_mark is {mark:g}; it must be above 0 and at most 1")
        self._kv = KvExpectation(state, require_option(self, "expected_output_ratio", 0, math.inf), mark)
        share = require_option(self, "minimum_flow_share", 0, 1)
        self._entry = Wheel(state.entry_links, [state.flow_of(link) for link in state.entry_links], share)
        self._wheels = {
            node.index: Wheel(node.out_links, [state.flow_of(link) for link in node.out_links], share)
            for node in state.nodes
        }
        self._place: dict[int, tuple[Wheel, int]] = {}
        for wheel in (self._entry, *self._wheels.values()):
            for position, link in enumerate(wheel.links):
                self._place[link.index] = (wheel, position)
        self._contested = {
            link.index
            for wheel in (self._entry, *self._wheels.values())
            if len(wheel.links) > 1
            for link, flow in zip(wheel.links, wheel.flows, strict=True)
            if flow > 0
        }
        self._expected: dict[Attempt, int] = {}
        self._used: dict[Pipeline, None] = {}
        self.longest_prompt = self._widest_way()

    def _widest_way(self) -> int:
        """Longest prompt that fits every node of some pipeline while nothing is in flight."""
        onward: dict[int, int] = {}

        def longest(wheel: Wheel) -> int:
            open_links = [link for link, usable in zip(wheel.links, wheel.usable, strict=True) if usable]
            return max((1 << 62 if link.node is None else onward[link.node.index] for link in open_links), default=0)

        # Every link leads to a node that ends at a later layer.
        for node in sorted(self.state.nodes, key=lambda node: -node.held.stop):
            fits = min(node.max_prompt_tokens, self._kv.longest_prompt(node.index))
            onward[node.index] = min(fits, longest(self._wheels[node.index]))
        return longest(self._entry)

    def admit(self, attempt: Attempt, now_s: float) -> bool:
        """Walk from the coordinator, taking the least loaded link at each machine; undo all loads on a dead end."""
        self._charge_decodes()
        tokens = attempt.tokens
        expected = self._kv.expected(tokens)
        chosen: list[EmulatedLink] = []
        wheel = self._entry
        while True:
            position = self._least_loaded(
                wheel, tokens, expected, recomputes=bool(attempt.request.preemptions or attempt.request.retries)
            )
            if position < 0:
                for link in chosen:
                    behind, at = self._place[link.index]
                    behind.loads[at] -= tokens / behind.flows[at]
                return False
            wheel.loads[position] += tokens / wheel.flows[position]
            link = wheel.links[position]
            chosen.append(link)
            if link.node is None:
                break
            wheel = self._wheels[link.node.index]
        pipeline = self.state.pipelines.of(tuple(chosen))
        attempt.pipeline = pipeline
        attempt.links = pipeline.after
        attempt.first_link = chosen[0]
        self._used[pipeline] = None
        self._expected[attempt] = expected
        self._kv.take(pipeline, expected)
        return True

    def _least_loaded(self, wheel: Wheel, tokens: int, expected: int, *, recomputes: bool) -> int:
        best, least = -1, float("inf")
        for position, link in enumerate(wheel.links):
            if not wheel.usable[position]:
                continue
            node = link.node
            if node is not None and not self._takes(node, tokens, expected, recomputes=recomputes):
                continue
            load = wheel.loads[position] + tokens / wheel.flows[position]
            if load < least:
                best, least = position, load
        return best

    def _takes(self, node: GpuNode, tokens: int, expected: int, *, recomputes: bool) -> bool:
        if recomputes:
            # It grew past what was expected of it; a node that nobody else is on must take it.
            return self._kv.fits(node.index, expected) or self._kv.idle(node.index)
        return tokens <= node.max_prompt_tokens and self._kv.fits(node.index, expected)

    def _charge_decodes(self) -> None:
        """Add the decode iterations issued since the last admission to the loads along their pipelines.

        Only links with a rival need it. The loads grow one iteration at a time, not by a product: links
        of equal flow are often level, and then rounding picks the next one.
        """
        counts: dict[int, int] = {}
        for pipeline in self._used:
            count = pipeline.decodes_issued
            if count:
                pipeline.decodes_issued = 0
                for link in pipeline.links:
                    if link.index in self._contested:
                        counts[link.index] = counts.get(link.index, 0) + count
        for index, count in counts.items():
            wheel, position = self._place[index]
            load, step = wheel.loads[position], 1 / wheel.flows[position]
            for _ in range(count):
                load += step
            wheel.loads[position] = load

    def closed(self, attempt: Attempt) -> None:
        """Release the expected KV entries."""
        assert attempt.pipeline is not None
        self._kv.take(attempt.pipeline, -self._expected.pop(attempt))

    def resumed(self, attempt: Attempt) -> None:
        """Expect its KV entries."""
        assert attempt.pipeline is not None
        expected = self._expected[attempt] = self._kv.expected(attempt.context + attempt.tokens)
        self._kv.take(attempt.pipeline, expected)

    def take_over(self, before: SchedulerPolicy) -> None:
        """Expect what is in flight, and go on with the loads where the same links are to choose from.

        Where they are not, all links start level: a new link beside one that has long been loaded would otherwise get
        everything until it has caught up.
        """
        assert isinstance(before, MaxFlowPolicy)
        before._charge_decodes()
        for attempt, expected in before._expected.items():
            assert attempt.pipeline is not None
            self._expected[attempt] = expected
            self._kv.take(attempt.pipeline, expected)
            if all(link.index in self._place for link in attempt.pipeline.links):
                self._used[attempt.pipeline] = None
        for index, wheel in ((-1, self._entry), *self._wheels.items()):
            old = before._entry if index < 0 else before._wheels.get(index)
            if old is not None and old.links == wheel.links and old.flows == wheel.flows:
                wheel.loads = list(old.loads)

    def kv_bottleneck(self) -> float:
        """Expected KV use of the fullest layer."""
        return self._kv.bottleneck()
