"""One direction of a connection: from one peer through the toxics and the link to the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise

import numpy as np

from netshape.conditions import LinkConditions
from netshape.link_model import ConditionedClock
from netshape.proxy.delays import Channel, DelayStage
from netshape.proxy.flow_metrics import FlowMetrics
from netshape.proxy.room import Room
from netshape.proxy.stages import End, Stage
from netshape.proxy.toxics.toxic import Toxic
from netshape.randomness import generator


class Slot:
    """A toxic's place in the chain.

    Attributes:
        toxic: The toxic.
        draw: What is compared with its toxicity, drawn once: a toxicity that rises only ever takes in connections.
        stage: What it does here; ``None`` where it does nothing.
    """

    __slots__ = ("draw", "stage", "toxic")

    def __init__(self, toxic: Toxic, draw: float) -> None:
        self.toxic = toxic
        self.draw = draw
        self.stage: Stage | None = None


class Exit(Stage):
    """The end of the chain: bytes go out to the peer."""

    def __init__(self, pipe: Pipe) -> None:
        super().__init__(pipe)
        self._pipe = pipe

    def receive(self, data: bytes) -> None:
        """Send."""
        self._pipe.send(data)

    def end(self, how: End) -> None:
        """Nothing more comes."""
        self._pipe.finish(how)


class Pipe:
    """The chain of stages of one direction; a :class:`~netshape.proxy.stages.Place`.

    Args:
        name: Component name that random draws derive from.
        seed: Seed that they derive from.
        room: Memory that all pipes share.
        metrics: Counters of this direction of the proxy.
        toxics: Toxics of this direction, in order.
        link: The link that all connections share; ``None`` for none.
    """

    def __init__(
        self,
        *,
        name: str,
        seed: int,
        room: Room,
        metrics: FlowMetrics,
        toxics: tuple[Toxic, ...],
        link: Channel | None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.metrics = metrics
        self.ended: End | None = None
        self.closed = False
        self._name = name
        self._seed = seed
        self._room = room
        self._write: Callable[[bytes], bool] | None = None
        self._finish: Callable[[End], None] | None = None
        self._hold: Callable[[bool], None] | None = None
        self._blocked = False
        self._exit = Exit(self)
        self._link = DelayStage(self, link) if link is not None else None
        self._slots = [self._slot(toxic) for toxic in toxics]
        self._chain: list[Stage] = []
        room.enter()
        self._chain_up()

    def connect(
        self, write: Callable[[bytes], bool], finish: Callable[[End], None], hold: Callable[[bool], None]
    ) -> None:
        """Open the pipe.

        Args:
            write: Sends bytes to the peer at the far end; says whether it could.
            finish: Told how the stream ended, after the last bytes were sent.
            hold: Told whether the peer at the near end must send nothing for now.
        """
        self._write, self._finish, self._hold = write, finish, hold
        for slot in self._slots:
            if slot.stage is not None:
                slot.stage.start()
        self.moved()

    @property
    def held_bytes(self) -> int:
        """Bytes inside the stages."""
        return sum(stage.held_bytes for stage in self._chain)

    @property
    def full(self) -> bool:
        """Whether the peer at the near end must send nothing for now."""
        return not self.closed and (self._blocked or any(stage.full for stage in self._chain))

    def feed(self, data: bytes) -> None:
        """Bytes from the peer at the near end."""
        self.metrics.received_bytes += len(data)
        if self.closed:
            self.dropped(len(data))
            return
        self._chain[0].receive(data)
        self.moved()

    def feed_end(self, how: End) -> None:
        """The peer at the near end sends nothing more."""
        if not self.closed:
            self._chain[0].end(how)

    def block(self, blocked: bool) -> None:
        """The peer at the far end takes no bytes for now, or takes them again."""
        self._blocked = blocked
        self.moved()

    def close(self) -> None:
        """Throw away what is inside; the connection is gone."""
        if self.closed:
            return
        self.closed = True
        for stage in self._chain:
            held = stage.held_bytes
            stage.close()
            self.dropped(held)
        self._room.leave()

    # What the exit calls.

    def send(self, data: bytes) -> None:
        """Bytes to the peer at the far end."""
        if self._write is not None and self.ended is None and not self.closed and self._write(data):
            self.metrics.sent_bytes += len(data)
        else:
            self.dropped(len(data))

    def finish(self, how: End) -> None:
        """The stream's end has come through; a gentler one after a harder one is nothing new."""
        if self.closed or (self.ended is not None and self.ended >= how):
            return
        self.ended = how
        if self._finish is not None:
            self._finish(how)

    # Toxics and the link, live.

    def add(self, toxic: Toxic) -> None:
        """Put a toxic at the end of the chain."""
        self._slots.append(self._slot(toxic))
        self._chain_up()
        self._start(self._slots[-1].stage)

    def update(self, toxic: Toxic) -> None:
        """Let a toxic of the same name have other attributes or toxicity."""
        slot = self._find(toxic.name)
        slot.toxic = toxic
        if self.ended is not None or self.closed:
            return
        wanted = slot.draw < toxic.toxicity
        if slot.stage is None:
            if wanted:
                slot.stage = toxic.attributes.stage(self, toxic.name)
                self._chain_up()
                self._start(slot.stage)
        elif wanted:
            slot.stage.update(toxic.attributes)
        else:
            self._take_out(slot)
        self.moved()

    def remove(self, name: str) -> None:
        """Take a toxic out; what it holds goes on."""
        slot = self._find(name)
        if slot.stage is not None:
            self._take_out(slot)
        self._slots.remove(slot)
        self.moved()

    def set_link(self, link: Channel | None) -> None:
        """Go through another link from now on; what is under way on the present one arrives at once."""
        if self.closed:
            return
        present, self._link = self._link, DelayStage(self, link) if link is not None else None
        if present is not None:
            present.next = self._exit
            present.release()
        self._chain_up()
        self.moved()

    # What stages may use.

    @property
    def share_bytes(self) -> int:
        """See :class:`~netshape.proxy.stages.Place`."""
        return self._room.share_bytes

    def random(self, component: str) -> np.random.Generator:
        """See :class:`~netshape.proxy.stages.Place`."""
        return generator(self._seed, f"{self._name} {component}")

    def channel(self, conditions: LinkConditions, component: str) -> Channel:
        """See :class:`~netshape.proxy.stages.Place`."""
        return Channel(self.loop, ConditionedClock(conditions, name=f"{self._name} {component}", seed=self._seed))

    def moved(self) -> None:
        """See :class:`~netshape.proxy.stages.Place`."""
        if self._hold is not None:
            self._hold(self.full)

    def dropped(self, count: int) -> None:
        """See :class:`~netshape.proxy.stages.Place`."""
        self.metrics.dropped_bytes += count

    def late(self, lateness_s: float) -> None:
        """See :class:`~netshape.proxy.stages.Place`."""
        self.metrics.lateness.add(lateness_s)

    def _slot(self, toxic: Toxic) -> Slot:
        # A toxicity of 1 may be lowered later, so that the draw is made in any case.
        slot = Slot(toxic, float(self.random(f"toxicity {toxic.name}").random()))
        if slot.draw < toxic.toxicity:
            slot.stage = toxic.attributes.stage(self, toxic.name)
        return slot

    def _find(self, name: str) -> Slot:
        return next(slot for slot in self._slots if slot.toxic.name == name)

    def _start(self, stage: Stage | None) -> None:
        if stage is not None and self.ended is None:
            stage.start()
        self.moved()

    def _take_out(self, slot: Slot) -> None:
        stage, slot.stage = slot.stage, None
        if stage is None:
            return
        # It passes on what it holds before the stage ahead of it is led past it.
        stage.release()
        stage.close()
        if not self.closed:
            self._chain_up()

    def _chain_up(self) -> None:
        chain = [slot.stage for slot in self._slots if slot.stage is not None]
        if self._link is not None:
            chain.append(self._link)
        chain.append(self._exit)
        for stage, following in pairwise(chain):
            stage.next = following
        self._chain = chain
