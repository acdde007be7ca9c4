"""A pipe with recorded ends, on a loop whose time jumps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from jumping_loop import JumpingLoop

from netshape.proxy.bodies import read_new_toxic
from netshape.proxy.delays import Channel
from netshape.proxy.flow_metrics import FlowMetrics
from netshape.proxy.pipe import Pipe
from netshape.proxy.room import Room
from netshape.proxy.stages import End
from netshape.proxy.toxics.toxic import Toxic


def toxic(kind: str, name: str | None = None, toxicity: float = 1.0, **attributes: int) -> Toxic:
    """A downstream toxic."""
    return read_new_toxic({"type": kind, "name": name, "toxicity": toxicity, "attributes": attributes})


class Recorder:
    """A pipe, and what came out of it when."""

    def __init__(self, *toxics: Toxic, link: Channel | None = None, name: str = "pipe", seed: int = 0) -> None:
        self.loop = asyncio.get_running_loop()
        self.out: list[tuple[float, bytes]] = []
        self.ends: list[tuple[float, End]] = []
        self.held: list[tuple[float, bool]] = []
        self.metrics = FlowMetrics()
        self.room = Room(1 << 20)
        self.pipe = Pipe(name=name, seed=seed, room=self.room, metrics=self.metrics, toxics=toxics, link=link)
        self.pipe.connect(
            self._write,
            lambda how: self.ends.append((self.loop.time(), how)),
            lambda held: self.held.append((self.loop.time(), held)),
        )

    def _write(self, data: bytes) -> bool:
        self.out.append((self.loop.time(), data))
        return True

    @property
    def data(self) -> bytes:
        """All that came out."""
        return b"".join(data for _, data in self.out)


def on_jumping_loop(test: Callable[..., Coroutine[Any, Any, None]], *arguments: Any) -> None:
    """Run a test's coroutine on a loop whose time jumps."""
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        runner.run(test(*arguments))
