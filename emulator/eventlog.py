"""The event log: one JSON object a line, hashed as it is written.

Lines come in the order in which events are handled; tokens that the coordinator takes in together
(:data:`emulator.coordinator.COALESCE_S`) may be logged a microsecond ahead of their time.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emulator.links import Transfer
    from emulator.node import GpuNode
    from emulator.requests import Request
    from placement.layers import LayerRange

_CHUNK_LINES = 4096


class EventLog:
    """Streams events to a sink and keeps their SHA-256.

    Attributes:
        lines: Events written so far.
        truncated: Whether the sink stopped getting lines because ``limit_bytes`` was reached. The hash goes on.
    """

    def __init__(self, sink: Callable[[bytes], object] | None = None, limit_bytes: int = 1 << 30) -> None:
        self._sink = sink
        self._left = limit_bytes
        self._hash = hashlib.sha256()
        self._buffer: list[str] = []
        self.lines = 0
        self.truncated = False

    def _write(self, line: str) -> None:
        self._buffer.append(line)
        if len(self._buffer) >= _CHUNK_LINES:
            self.flush()

    def flush(self) -> None:
        """Hand everything written so far to the sink."""
        if not self._buffer:
            return
        self.lines += len(self._buffer)
        chunk = "".join(self._buffer).encode()
        self._buffer.clear()
        self._hash.update(chunk)
        if self._sink is None or self.truncated:
            return
        if len(chunk) > self._left:
            self.truncated = True
            self._sink(chunk[: chunk.rfind(b"\n", 0, self._left) + 1])
            self._sink(b'{"event":"truncated","reason":"size limit of the event log reached"}\n')
            return
        self._left -= len(chunk)
        self._sink(chunk)

    def append(self, lines: str) -> None:
        """Take over whole lines that another process has written."""
        for line in lines.splitlines(keepends=True):
            self._write(line)

    def sha256(self) -> str:
        """Hash of all events so far, hexadecimal."""
        self.flush()
        return self._hash.hexdigest()

    # -- events --------------------------------------------------------------------------------

    def request(self, at_s: float, event: str, request: Request, detail: str = "") -> None:
        """Something happened to a request; ``detail`` is further JSON members, starting with a comma."""
        self._write(f'{{"t":{at_s:.9f},"event":"{event}","request":{request.number}{detail}}}\n')

    def arrival(self, at_s: float, request: Request) -> None:
        """A request reached the coordinator."""
        self.request(
            at_s,
            "arrival",
            request,
            f',"prompt_tokens":{request.prompt_tokens},"output_tokens":{request.output_tokens}',
        )

    def reason(self, at_s: float, event: str, request: Request, reason: str) -> None:
        """A request ended or stumbled, and why."""
        self.request(at_s, event, request, f',"reason":{json.dumps(reason)}')

    def churn(self, at_s: float, what: str, details: Mapping[str, Any]) -> None:
        """Something happened to machines, links or the coordinator, or was done about it."""
        self._write(json.dumps({"t": round(at_s, 9), "event": "churn", "what": what, **details}) + "\n")

    def batch(
        self,
        at_s: float,
        node: GpuNode,
        layers: LayerRange,
        duration_s: float,
        prompts: int,
        prompt_tokens: int,
        decodes: int,
    ) -> None:
        """A batch has run ``layers``."""
        self._write(
            f'{{"t":{at_s:.9f},"event":"batch","node":{json.dumps(node.name)},"layers":[{layers.start},{layers.stop}],'
            f'"duration_s":{duration_s:.9f},"prompts":{prompts},"prompt_tokens":{prompt_tokens},"decodes":{decodes},'
            f'"kv_used":{node.kv_used}}}\n'
        )

    def transfer(self, at_s: float, transfer: Transfer) -> None:
        """A transfer was handed to a link."""
        requests = ",".join(str(item.request.number) for item in transfer.items)
        first, last = (f"{time:.9f}" if time < math.inf else "null" for time in (transfer.times[0], transfer.times[-1]))
        self._write(
            f'{{"t":{at_s:.9f},"event":"transfer","link":{json.dumps(transfer.link.name)},"first_s":{first},'
            f'"last_s":{last},"tokens":{transfer.tokens},"requests":[{requests}]}}\n'
        )
