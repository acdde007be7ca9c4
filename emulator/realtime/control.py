"""Messages between the process of the coordinator and those of the nodes: one JSON object a line."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from emulator.errors import SimulationError

LINE_LIMIT_BYTES = 32 << 20
"""Longest line: the event log's chunks and a process's figures are well below."""


class ControlError(SimulationError):
    """A process said something that nobody of this run says."""


class ControlChannel:
    """One end of a control connection.

    Messages are sent at once and in order; nobody waits for them to arrive.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, kind: str, **fields: Any) -> None:
        """Send a message."""
        if not self._writer.is_closing():
            self._writer.write(json.dumps({"kind": kind, **fields}).encode() + b"\n")

    async def receive(self) -> dict[str, Any] | None:
        """The next message; ``None`` when the other end has closed.

        Raises:
            ControlError: It is no message.
        """
        try:
            line = await self._reader.readline()
        except ConnectionError:
            return None
        except ValueError as error:
            raise ControlError(f"a control message of more than {LINE_LIMIT_BYTES} bytes") from error
        if not line.endswith(b"\n"):
            return None
        try:
            message = json.loads(line)
        except ValueError as error:
            raise ControlError("a control message that is no JSON") from error
        if not isinstance(message, dict) or not isinstance(message.get("kind"), str):
            raise ControlError("a control message without a kind")
        return message

    async def expect(self, kind: str) -> dict[str, Any]:
        """The next message, which must be of ``kind``.

        Raises:
            ControlError: It is another one, or there is none.
        """
        message = await self.receive()
        if message is None or message["kind"] != kind:
            raise ControlError(f"expected {kind}, got {'the end' if message is None else message['kind']}")
        return message

    async def flush(self) -> None:
        """Wait until everything sent is with the kernel."""
        await self._writer.drain()

    def close(self) -> None:
        """Close the connection."""
        self._writer.close()
