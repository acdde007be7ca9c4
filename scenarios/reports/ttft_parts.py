"""Where each request's time to first token went, read off an event log with ``output.event_log: hops``.

Along a request's way every moment belongs to one part, so the parts of a request add up to its TTFT:

- ``coordinator``: from its arrival until the coordinator sends it on; time lost to preemptions and retries is here too;
- ``network``: from the hand-over to a link until the planned arrival (waiting for the link, sending, latency);
- ``queue``: at a node, from arrival until the batch that takes it begins (waiting for the receiver's shared card too);
- ``host``: moving activations to the GPU, what a batch takes beyond its layers;
- ``compute``: the batch's layers.

A batch is told by the transfers that leave its node when it ends. Of a transfer with several messages the log has the
first and the last arrival; those between are placed by their position.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from placement.cluster import COORDINATOR
from placement.model import ModelSpec
from placement.profile import MachineProfile

PARTS = ("coordinator", "network", "queue", "host", "compute")
_REMEMBERED = 64
"""Batches of a node that are looked back to."""
_AGAIN = ("preempted", "retried")
_ENDS = ("finished", "failed", "rejected")
_ROUNDING_S = 2e-9
"""Times in the log are rounded to nanoseconds."""


@dataclass(slots=True)
class Stage:
    """What one stage of a request's way to its first token took, in seconds."""

    node: str
    network: float = 0.0
    queue: float = 0.0
    host: float = 0.0
    compute: float = 0.0


@dataclass(slots=True, kw_only=True)
class TtftParts:
    """One request.

    Attributes:
        request: Its number.
        arrival_s: When it arrived.
        first_token_s: When its first token was at the coordinator.
        coordinator_s: Time at the coordinator.
        stages: Its stages in order; where the first decode emits the first token, those of the decode too.
        return_s: Time on links back to the coordinator.
    """

    request: int
    arrival_s: float
    first_token_s: float = 0.0
    coordinator_s: float = 0.0
    stages: list[Stage] = field(default_factory=list)
    return_s: float = 0.0

    @property
    def ttft_s(self) -> float:
        """Time to first token."""
        return self.first_token_s - self.arrival_s

    def parts(self) -> dict[str, float]:
        """Part -> seconds; they add up to :attr:`ttft_s`."""
        return {
            "coordinator": self.coordinator_s,
            "network": self.return_s + sum(stage.network for stage in self.stages),
            "queue": sum(stage.queue for stage in self.stages),
            "host": sum(stage.host for stage in self.stages),
            "compute": sum(stage.compute for stage in self.stages),
        }


@dataclass(slots=True)
class _Batch:
    begin_s: float
    end_s: float
    layers: tuple[int, int]
    compute_s: float


@dataclass(slots=True)
class _Way:
    """A request that has no first token yet: what is known of it, and where it is."""

    parts: TtftParts
    since_s: float
    handed_s: float = 0.0
    arrives_s: float = 0.0


class TtftReader:
    """Reads events of a run, in order, into :attr:`done`.

    Args:
        model: The served model.
        profiles: Machine type -> profile.
        machine_types: Node -> machine type.
    """

    def __init__(
        self, model: ModelSpec, profiles: Mapping[str, MachineProfile], machine_types: Mapping[str, str]
    ) -> None:
        self._model = model
        self._profiles = profiles
        self._types = machine_types
        self._batches: dict[str, deque[_Batch]] = {}
        self._open: dict[int, _Way] = {}
        self.done: list[TtftParts] = []

    def read(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Take events."""
        for event in events:
            kind = event["event"]
            if kind == "batch":
                self._batch(event)
            elif kind == "transfer":
                self._transfer(event)
            elif kind == "arrival":
                at_s = float(event["t"])
                self._open[event["request"]] = _Way(TtftParts(request=event["request"], arrival_s=at_s), at_s)
            elif kind == "first_token":
                self._first_token(event)
            elif kind in _AGAIN and (way := self._open.get(event["request"])) is not None:
                # What was done is lost: it counts as time at the coordinator.
                way.parts.stages.clear()
                way.parts.coordinator_s = way.parts.return_s = 0.0
                way.since_s = way.parts.arrival_s
            elif kind in _ENDS:
                self._open.pop(event["request"], None)

    def _batch(self, event: Mapping[str, Any]) -> None:
        node, end, took = event["node"], float(event["t"]), float(event["duration_s"])
        start, stop = event["layers"]
        profile = self._profiles[self._types[node]]
        layer_s = profile.prefill.at(event["prompt_tokens"]) + profile.decode.at(event["decodes"])
        compute = min(took, (stop - start) * layer_s)
        kept = self._batches.setdefault(node, deque(maxlen=_REMEMBERED))
        kept.append(_Batch(end - took, end, (start, stop), compute))

    def _transfer(self, event: Mapping[str, Any]) -> None:
        source, _, target = event["link"].partition("->")
        at_s, requests = float(event["t"]), event["requests"]
        if event["first_s"] is None or event["last_s"] is None:
            return
        first, last = float(event["first_s"]), float(event["last_s"])
        for position, request in enumerate(requests):
            way = self._open.get(request)
            if way is None:
                continue
            if source == COORDINATOR:
                way.parts.coordinator_s += at_s - way.since_s
            else:
                self._leave(way, source, at_s)
            way.handed_s = at_s
            share = position / (len(requests) - 1) if len(requests) > 1 else 0.0
            way.arrives_s = first + share * (last - first)
            if target == COORDINATOR:
                # Where the prefill emits no token, a decode goes out again at once.
                way.parts.return_s += way.arrives_s - at_s
                way.since_s = way.arrives_s

    def _leave(self, way: _Way, node: str, at_s: float) -> None:
        """A request is sent on by ``node``: attribute what came since it was handed to the link there."""
        stage = Stage(node)
        batches = self._own_batches(node, way, at_s)
        begin = batches[0].begin_s if batches else at_s
        # Arrivals inside a transfer are guessed, but no batch begins before its requests are here.
        arrival = min(max(way.arrives_s, way.handed_s), begin)
        stage.network = arrival - way.handed_s
        stage.compute = sum(batch.compute_s for batch in batches)
        stage.host = sum(batch.end_s - batch.begin_s - batch.compute_s for batch in batches)
        stage.queue = (at_s - arrival) - stage.compute - stage.host
        way.parts.stages.append(stage)

    def _own_batches(self, node: str, way: _Way, at_s: float) -> list[_Batch]:
        """The batches of this stage, one a segment, in order: back from that which ended when the request left."""
        own: list[_Batch] = []
        for batch in reversed(self._batches.get(node, ())):
            if not own:
                if abs(batch.end_s - at_s) <= _ROUNDING_S:
                    own.append(batch)
                elif batch.end_s < at_s - _ROUNDING_S:
                    break
            elif batch.begin_s < way.handed_s - _ROUNDING_S:
                break
            elif batch.layers[1] == own[-1].layers[0] and batch.end_s <= own[-1].begin_s + _ROUNDING_S:
                own.append(batch)
        return own[::-1]

    def _first_token(self, event: Mapping[str, Any]) -> None:
        way = self._open.pop(event["request"], None)
        if way is None:
            return
        parts = way.parts
        parts.first_token_s = float(event["t"])
        # Tokens that come together are logged as one, a microsecond apart at most.
        parts.return_s += parts.ttft_s - sum(parts.parts().values())
        self.done.append(parts)
