"""A process that runs some of a cluster's nodes; started by :mod:`emulator.realtime.distributed`.

It gets its :class:`Assignment` on standard input, and ends when the coordinator says so or is gone.
"""

from __future__ import annotations

import asyncio
import gc
import pickle
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from simpy.events import Event

from emulator.cluster import ClusterState
from emulator.eventlog import EventLog
from emulator.node import GpuNode
from emulator.realtime.aio_environment import AioEnvironment
from emulator.realtime.attempts import NodeAttempts
from emulator.realtime.connections import Address, Pair
from emulator.realtime.control import LINE_LIMIT_BYTES, ControlChannel
from emulator.realtime.emulation import failure, prioritised
from emulator.realtime.exchange import Exchange, need_files
from emulator.realtime.meter import Counts, LoopLag, Meter
from emulator.realtime.network import SocketCarrier, TimeMode
from emulator.spec import EmulationSpec
from netshape.timing import new_event_loop

FOREVER_S = 1e12


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """What a worker does.

    Attributes:
        index: Its number, from 1.
        spec: The whole run.
        nodes: Names of the nodes that it runs.
        mode: Whose time counts.
        dilation: Emulated seconds per second of the wall.
        priority: Real-time priority to ask for; 0 for none.
        token: Known to the processes of this run alone.
        control: Where the coordinator's process listens for workers.
    """

    index: int
    spec: EmulationSpec
    nodes: tuple[str, ...]
    mode: TimeMode
    dilation: float
    priority: int
    token: bytes
    control: Address


class Worker:
    """The nodes of one process."""

    def __init__(self, assignment: Assignment, channel: ControlChannel) -> None:
        self._assignment = assignment
        self._channel = channel
        loop = asyncio.get_running_loop()
        spec = assignment.spec
        self._env = AioEnvironment(loop, dilation=assignment.dilation)
        self._state = ClusterState(spec, self._env, EventLog(self._log))
        self._meter, self._lag = Meter(), LoopLag(loop)
        self._attempts = NodeAttempts(self._state, assignment.nodes, channel.send)
        # Nodes ask it what they would ask of the coordinator.
        self._state.coordinator = self._attempts  # type: ignore[assignment]
        self._exchange = Exchange(loop, assignment.token, lambda *_: None, self._lost)
        SocketCarrier(
            self._env,
            self._exchange,
            assignment.mode,
            self._state.model_layers,
            self._meter,
            here=assignment.nodes,
            attempts=self._attempts,
        ).attach(self._state)
        if spec.warm_up_s > 0:
            self._env.call_at(spec.warm_up_s, lambda _event: self._start_window())

    def _log(self, chunk: bytes) -> None:
        self._channel.send("log", text=chunk.decode())

    def _lost(self, pair: Pair, reason: str) -> None:
        self._channel.send("lost", source=pair[0], target=pair[1], reason=reason)

    def _start_window(self) -> None:
        self._state.start_window()
        self._meter.start_window()

    async def run(self) -> None:
        """From the first greeting to the last figure."""
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: self._env.fail(failure(context)))
        try:
            await self._open()
            begin = await self._channel.expect("begin")
            self._env.begin(begin["at_s"])
            gc.collect()
            gc.freeze()
            self._lag.start()
            advance = asyncio.ensure_future(self._env.advance(FOREVER_S))
            listen = asyncio.ensure_future(self._obey())
            try:
                done, _ = await asyncio.wait((advance, listen), return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
                if not await listen:
                    return
                await advance
            finally:
                advance.cancel()
                listen.cancel()
            self._lag.stop()
            self._state.log.flush()
            self._channel.send("figures", **self._figures())
            await self._channel.flush()
            # The coordinator's process closes first, so that what is under way to it is not cut off.
            await self._channel.receive()
        finally:
            self._exchange.close()
            self._channel.close()

    async def _open(self) -> None:
        assignment, exchange = self._assignment, self._exchange
        here = dict.fromkeys(assignment.nodes)
        pairs = [(wire.source, wire.target) for wire in self._state.used_wires()]
        outgoing = [pair for pair in pairs if pair[0] in here]
        incoming = [pair for pair in pairs if pair[1] in here]
        need_files(len(outgoing) + len(incoming) + len(here))
        for name in assignment.nodes:
            exchange.listen(name)
        self._channel.send(
            "hello", token=assignment.token.hex(), index=assignment.index, addresses=dict(exchange.addresses)
        )
        peers = await self._channel.expect("peers")
        exchange.addresses.update({name: (host, port) for name, (host, port) in peers["addresses"].items()})
        await exchange.connect(outgoing, incoming)
        self._channel.send("ready")

    async def _obey(self) -> bool:
        """Do what the coordinator says until it says stop; ``False`` if it is gone."""
        while (message := await self._channel.receive()) is not None:
            if message["kind"] == "free":
                self._free(message["attempt"])
            elif message["kind"] == "stop":
                self._env.end_at(message["at_s"])
                return True
        return False

    def _free(self, attempt: int) -> None:
        env = self._env
        for node in self._attempts.end(attempt):
            # As an event: a node looks at the time of the last one, which may be a while ago.
            env.call_at(max(env.now, env.clock_s()), _look_again, node)

    def _figures(self) -> Mapping[str, Any]:
        state = self._state
        here = dict.fromkeys(self._assignment.nodes)
        return {
            "nodes": {
                name: {
                    "busy_s": node.busy_until_now_s(),
                    "batches": node.batches,
                    "batched": node.batched,
                    "kv_peak": node.kv_peak,
                    "kv_used": node.kv_used,
                }
                for name, node in state.latest.items()
                if name in here
            },
            "wires": [
                [wire.source, wire.target, wire.bytes_sent, wire.messages]
                for wire in state.used_wires()
                if wire.source in here
            ],
            **Counts(
                events=self._env.events,
                late_frames=self._meter.late_frames,
                causality_violations=self._meter.causality_violations,
                sent_bytes=self._exchange.sent_bytes,
                received_bytes=self._exchange.received_bytes,
                strangers=self._exchange.strangers,
                malformed=self._exchange.malformed,
                event_lateness_s=self._env.lateness_s,
                frame_lateness_s=self._meter.frame_lateness_s,
                loop_lag_s=self._lag.lag_s,
            ).to_plain(),
        }


def _look_again(event: Event) -> None:
    node = event.value
    assert isinstance(node, GpuNode)
    node.kv_freed()


async def work(assignment: Assignment) -> None:
    """Do what ``assignment`` says."""
    reader, writer = await asyncio.open_connection(*assignment.control, limit=LINE_LIMIT_BYTES)
    await Worker(assignment, ControlChannel(reader, writer)).run()


def main() -> None:
    """Entry point of the process."""
    assignment = pickle.load(sys.stdin.buffer)
    assert isinstance(assignment, Assignment)
    with prioritised(assignment.priority), asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(work(assignment))


if __name__ == "__main__":
    # Under its own name, so that what was pickled for that module is found in it.
    from emulator.realtime import worker

    worker.main()
