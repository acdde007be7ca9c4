"""Attempts by number, where sender and receiver of a message do not share their memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

from emulator.realtime.messages import Message
from emulator.requests import Attempt, Outcome, Request
from netshape.frames import MalformedFrameError

if TYPE_CHECKING:
    from emulator.cluster import ClusterState
    from emulator.links import EmulatedLink
    from emulator.node import GpuNode

REMEMBERED_ENDS = 100_000
"""Attempts that have ended are known for as long as a message of theirs can be on its way."""


class Attempts(Protocol):
    """What one process knows of the attempts under way."""

    def number_of(self, attempt: Attempt) -> int:
        """The number of ``attempt`` in all processes."""
        ...

    def arrived(self, message: Message, path: tuple[EmulatedLink, ...]) -> Attempt | None:
        """The attempt that ``message`` carries; ``None`` for one that has ended."""
        ...

    def left(self, attempts: Iterable[Attempt]) -> None:
        """``attempts`` have gone to another process."""
        ...


class CoordinatorAttempts:
    """At the coordinator, which starts and ends all attempts."""

    def __init__(self) -> None:
        self._by_number: dict[int, Attempt] = {}
        self._numbers: dict[Attempt, int] = {}
        self._count = 0

    def number_of(self, attempt: Attempt) -> int:
        """Its number, given on first use."""
        number = self._numbers.get(attempt)
        if number is None:
            self._count += 1
            number = self._numbers[attempt] = self._count
            self._by_number[number] = attempt
        return number

    def of(self, number: int) -> Attempt | None:
        """The attempt of this number, while it is under way."""
        return self._by_number.get(number)

    def closed(self, attempt: Attempt) -> int | None:
        """``attempt`` has ended; its number, if it ever had one."""
        number = self._numbers.pop(attempt, None)
        if number is not None:
            del self._by_number[number]
        return number

    def arrived(self, message: Message, path: tuple[EmulatedLink, ...]) -> Attempt | None:
        """The attempt whose result ``message`` brings back."""
        attempt = self._by_number.get(message.attempt)
        if attempt is not None and attempt.pipeline is None:
            # Nodes chose the links; here only the first one is known.
            attempt.links = {link.source.index: link for link in path if link.source is not None}
        return attempt

    def left(self, attempts: Iterable[Attempt]) -> None:
        """Nothing to do: the coordinator keeps them until they end."""


class NodeAttempts:
    """At nodes, which know an attempt from its first message until the coordinator says that it has ended.

    Stands in for the coordinator there: what a node asks of it becomes a message.

    Args:
        state: The cluster as this process sees it.
        here: Names of the nodes that run in this process.
        tell: Sends a message to the coordinator.
    """

    def __init__(self, state: ClusterState, here: Iterable[str], tell: Callable[..., None]) -> None:
        self._state = state
        self._here = dict.fromkeys(here)
        self._tell = tell
        self._by_number: dict[int, Attempt] = {}
        self._numbers: dict[Attempt, int] = {}
        self._present: dict[Attempt, None] = {}
        self._ended: dict[int, None] = {}
        self._ended_order: deque[int] = deque()

    # -- messages ------------------------------------------------------------------------------

    def number_of(self, attempt: Attempt) -> int:
        """Its number; 0 when it has ended and only its messages are left."""
        return self._numbers.get(attempt, 0)

    def arrived(self, message: Message, path: tuple[EmulatedLink, ...]) -> Attempt | None:
        """The attempt as ``message`` tells it."""
        attempt = self._by_number.get(message.attempt)
        if attempt is None:
            if message.attempt in self._ended or message.attempt == 0:
                return None
            attempt = self._met(message, path)
        attempt.tokens, attempt.context = message.tokens, message.context
        attempt.prefill, attempt.hop = message.prefill, message.hop
        attempt.request.emitted_tokens = message.emitted
        if attempt.pipeline is None and message.prefill:
            attempt.first_link = path[0]
            attempt.links = {link.source.index: link for link in path if link.source is not None}
        self._present[attempt] = None
        return attempt

    def _met(self, message: Message, path: tuple[EmulatedLink, ...]) -> Attempt:
        """The first message of an attempt that this process sees."""
        if not path or path[0].source is not None:
            raise MalformedFrameError(f"malformed frame: request {message.request} comes without the way it took")
        request = Request(message.request, message.planned_s, message.longest, 0)
        attempt = Attempt(request, message.tokens, 0, message.planned_s)
        if path[-1].node is None:
            attempt.pipeline = self._state.pipelines.of(path)
            attempt.links, attempt.first_link = attempt.pipeline.after, path[0]
        self._by_number[message.attempt] = attempt
        self._numbers[attempt] = message.attempt
        self._state.longest_context = max(self._state.longest_context, message.longest)
        return attempt

    def left(self, attempts: Iterable[Attempt]) -> None:
        """``attempts`` are no longer in any queue or batch here."""
        for attempt in attempts:
            self._present.pop(attempt, None)

    # -- what nodes ask of the coordinator -------------------------------------------------------

    def in_flight(self) -> Iterable[Attempt]:
        """Attempts that this process knows, in order of their first message."""
        return self._by_number.values()

    def preempt(self, attempt: Attempt, node: GpuNode) -> None:
        """Take all KV entries away from an attempt; the coordinator queues its request again."""
        self._tell("preempt", attempt=self.number_of(attempt), node=node.name)
        self.end(self.number_of(attempt))

    def end_attempt(self, attempt: Attempt, outcome: Outcome, reason: str) -> None:
        """Give up an attempt and its request."""
        self._tell("give_up", attempt=self.number_of(attempt), outcome=str(outcome), reason=reason)
        self.end(self.number_of(attempt))

    # -- ends ----------------------------------------------------------------------------------

    def end(self, number: int) -> list[GpuNode]:
        """The attempt of this number has ended: free what it holds here.

        Returns:
            Nodes whose queues wait for what was freed.
        """
        if number in self._ended or number == 0:
            return []
        self._ended[number] = None
        self._ended_order.append(number)
        if len(self._ended_order) > REMEMBERED_ENDS:
            del self._ended[self._ended_order.popleft()]
        attempt = self._by_number.pop(number, None)
        if attempt is None:
            return []
        waiting: list[GpuNode] = []
        for position, (node, layers) in enumerate(attempt.stages()):
            if node.name in self._here:
                held = node.kv_of(attempt, position, layers)
                node.kv_used -= held
                assert node.kv_used >= 0
                if held and node.waits_for_kv:
                    waiting.append(node)
        del self._numbers[attempt]
        if attempt in self._present:
            del self._present[attempt]
            attempt.dead = True
            self._state.dead += 1
        return waiting
