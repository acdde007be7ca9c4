"""A run in real time whose nodes live in processes of their own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

from simpy.events import Event

from emulator.errors import SimulationError
from emulator.realtime.attempts import CoordinatorAttempts
from emulator.realtime.connections import GREETING_LIMIT_S, Address, Pair
from emulator.realtime.control import LINE_LIMIT_BYTES, ControlChannel, ControlError
from emulator.realtime.emulation import PeerLostError, RealTime, RealTimeEmulation
from emulator.realtime.exchange import need_files
from emulator.realtime.meter import Counts
from emulator.realtime.network import SocketCarrier
from emulator.realtime.places import HOST
from emulator.realtime.worker import Assignment
from emulator.requests import Attempt, Outcome
from emulator.schedulers import policy_class
from emulator.spec import EmulationSpec
from emulator.workload import ClosedLoop, Refill
from placement.cluster import COORDINATOR

START_LIMIT_S = 60.0
END_LIMIT_S = 15.0
GRACE_S = 1.0
"""After a connection broke, so long may the process behind it take to be known as dead."""
LEAD_S = 0.2
_TOLD_BYTES = 4000
_POLL_S = 0.02


class WorkerProcess:
    """One worker, as its parent sees it."""

    def __init__(self, assignment: Assignment) -> None:
        self.index, self.nodes = assignment.index, assignment.nodes
        self.channel: ControlChannel | None = None
        self.figures: Mapping[str, Any] | None = None
        # Files, not pipes: nobody has to be there to read or write the other end.
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        with tempfile.TemporaryFile() as given:
            pickle.dump(assignment, given)
            given.seek(0)
            self.process = subprocess.Popen(
                [sys.executable, "-m", "emulator.realtime.worker"],
                stdin=given,
                stdout=subprocess.DEVNULL,
                stderr=self._complaints,
                # Policies of the user's own are looked for in the same places.
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
                # A terminal's Ctrl-C is the parent's to handle.
                start_new_session=True,
            )

    @property
    def name(self) -> str:
        """How messages call it."""
        some = ", ".join(self.nodes[:3]) + (", ..." if len(self.nodes) > 3 else "")
        return f"worker {self.index} ({some})"

    def death(self) -> str:
        """How it ended; empty while it lives."""
        code = self.process.poll()
        if code is None:
            return ""
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        self._complaints.seek(max(0, self._complaints.seek(0, os.SEEK_END) - _TOLD_BYTES))
        lines = self._complaints.read().decode(errors="replace").strip().splitlines()
        return f"{self.name} {how}" + (f": {lines[-1]}" if lines else "")

    async def ended(self, limit_s: float) -> bool:
        """Whether it ends within ``limit_s``."""
        deadline = asyncio.get_running_loop().time() + limit_s
        while self.process.poll() is None:
            if asyncio.get_running_loop().time() > deadline:
                return False
            await asyncio.sleep(_POLL_S)
        return True

    async def end(self) -> None:
        """See that the process is gone."""
        if not await self.ended(END_LIMIT_S):
            self.process.kill()
            self.process.wait()
        self._complaints.close()


class DistributedEmulation(RealTimeEmulation):
    """The coordinator's process of a run whose nodes are spread over ``real_time.workers`` others."""

    def __init__(self, spec: EmulationSpec, *, real_time: RealTime, **hooks: Any) -> None:
        check_distributable(spec)
        self._attempts = CoordinatorAttempts()
        self._workers: list[WorkerProcess] = []
        self._by_index: dict[int, WorkerProcess] = {}
        self._greeted = asyncio.Event()
        self._ready = 0
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._control: asyncio.Server | None = None
        self._stopping = False
        super().__init__(spec, real_time=real_time, **hooks)

    def _connect(self) -> None:
        state = self.state
        for node in state.nodes:
            node.away = True
        SocketCarrier(
            self.env,
            self.exchange,
            self.real_time.mode,
            state.model_layers,
            self.meter,
            here=[COORDINATOR],
            attempts=self._attempts,
        ).attach(state)
        state.coordinator.on_closed = self._closed

    # -- start ---------------------------------------------------------------------------------

    async def _open(self) -> None:
        pairs: list[Pair] = [(wire.source, wire.target) for wire in self.state.used_wires()]
        outgoing = [pair for pair in pairs if pair[0] == COORDINATOR]
        incoming = [pair for pair in pairs if pair[1] == COORDINATOR]
        groups = list(node_groups(self.state.nodes, self.real_time.workers))
        need_files(len(outgoing) + len(incoming) + 8 * len(groups))
        self.exchange.listen(COORDINATOR)
        self._control = await asyncio.start_server(self._accept, HOST, 0, limit=LINE_LIMIT_BYTES)
        address: Address = self._control.sockets[0].getsockname()
        for index, nodes in enumerate(groups, start=1):
            worker = WorkerProcess(self._assignment(index, nodes, address))
            self._by_index[index] = worker
            self._workers.append(worker)
        await self._until(lambda: all(worker.channel for worker in self._workers), "greet")
        self._tell_all("peers", addresses=dict(self.exchange.addresses))
        await self.exchange.connect(outgoing, incoming)
        await self._until(lambda: self._ready == len(self._workers), "connect")
        self.sockets = self.exchange.settings()

    def _assignment(self, index: int, nodes: tuple[str, ...], control: Address) -> Assignment:
        settings = self.real_time
        return Assignment(
            index=index,
            spec=self.spec,
            nodes=nodes,
            mode=settings.mode,
            dilation=settings.dilation,
            priority=settings.priority,
            token=self.exchange.token,
            control=control,
        )

    async def _until(self, done: Any, what: str) -> None:
        """Wait for the workers to get somewhere."""
        try:
            async with asyncio.timeout(START_LIMIT_S):
                while not done():
                    self._check_alive()
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._greeted.wait(), 0.1)
                    self._greeted.clear()
        except TimeoutError:
            raise SimulationError(f"the workers did not {what} within {START_LIMIT_S:g} s") from None

    def _check_alive(self) -> None:
        for worker in self._workers:
            if death := worker.death():
                raise PeerLostError(death)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A process, or a stranger, connects to the control socket."""
        self._tasks[asyncio.ensure_future(self._greet(ControlChannel(reader, writer)))] = None

    async def _greet(self, channel: ControlChannel) -> None:
        try:
            async with asyncio.timeout(GREETING_LIMIT_S):
                hello = await channel.expect("hello")
            worker = self._by_index.get(hello.get("index", 0))
            if hello.get("token") != self.exchange.token.hex() or worker is None or worker.channel is not None:
                raise ControlError("a stranger on the control socket")
        except (ControlError, TimeoutError):
            self.exchange.strangers += 1
            channel.close()
            return
        self.exchange.addresses.update({name: (host, port) for name, (host, port) in hello["addresses"].items()})
        worker.channel = channel
        self._greeted.set()
        try:
            await self._serve(worker, channel)
        except Exception as error:
            self.env.fail(error)
        finally:
            channel.close()

    # -- running -------------------------------------------------------------------------------

    def _begin(self, at_loop_s: float) -> None:
        super()._begin(at_loop_s)
        self._tell_all("begin", at_s=at_loop_s)

    @property
    def lead_s(self) -> float:
        """Time for the workers to hear when emulated time begins."""
        return LEAD_S

    async def _serve(self, worker: WorkerProcess, channel: ControlChannel) -> None:
        """Take in what a worker says until it has ended."""
        while (message := await channel.receive()) is not None:
            kind = message["kind"]
            if kind == "ready":
                self._ready += 1
                self._greeted.set()
            elif kind == "log":
                self.state.log.append(message["text"])
            elif kind == "figures":
                worker.figures = message
                self._greeted.set()
            elif kind == "lost":
                self._lost((message["source"], message["target"]), message["reason"])
            elif kind in ("preempt", "give_up"):
                # As an event: the coordinator looks at the time of the last one, which may be a while ago.
                at_s = max(self.env.now, self.env.clock_s())
                self.env.call_at(at_s, self._obey, message)
        if worker.figures is None and not self._stopping:
            await self._mourn(worker)

    def _obey(self, event: Event) -> None:
        """What a node asks of the coordinator."""
        message = event.value
        assert isinstance(message, dict)
        attempt = self._attempts.of(message["attempt"])
        if attempt is None:
            return  # It has ended in the meantime.
        coordinator = self.state.coordinator
        if message["kind"] == "preempt":
            coordinator.preempt(attempt, self.state.latest[message["node"]])
        else:
            coordinator.end_attempt(attempt, Outcome(message["outcome"]), message["reason"])

    def _closed(self, attempt: Attempt) -> None:
        number = self._attempts.closed(attempt)
        if number is not None:
            self._tell_all("free", attempt=number)

    def _tell_all(self, kind: str, **fields: Any) -> None:
        for worker in self._workers:
            if worker.channel is not None:
                worker.channel.send(kind, **fields)

    def _lost(self, pair: Pair, reason: str) -> None:
        """A connection broke; as a rule because a process is dead, which is the better thing to say."""
        if self._stopping:
            return
        told = f"the connection {pair[0]}->{pair[1]} was lost: {reason}"
        task = asyncio.ensure_future(self._explain(told))
        self._tasks[task] = None

    async def _explain(self, told: str) -> None:
        await asyncio.sleep(GRACE_S)
        dead = [death for worker in self._workers if (death := worker.death())]
        self._give_up(dead[0] if dead else told)

    async def _mourn(self, worker: WorkerProcess) -> None:
        """A worker has closed its control connection without having been told to."""
        await worker.ended(GRACE_S)
        self._give_up(worker.death() or f"{worker.name} has closed its connection")

    def _give_up(self, reason: str) -> None:
        if not self._stopping:
            self._stopping = True
            self.env.fail(PeerLostError(reason))

    # -- end -----------------------------------------------------------------------------------

    async def _close(self) -> None:
        """Stop the workers, take in their figures, leave nothing behind."""
        self._stopping = True
        try:
            self._tell_all("stop", at_s=self.env.now)
            living = [worker for worker in self._workers if worker.channel is not None]
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(END_LIMIT_S):
                    while any(worker.figures is None and not worker.death() for worker in living):
                        with contextlib.suppress(TimeoutError):
                            await asyncio.wait_for(self._greeted.wait(), 0.1)
                        self._greeted.clear()
        finally:
            for worker in self._workers:
                if worker.channel is not None:
                    worker.channel.close()
                else:
                    worker.process.kill()
            for worker in self._workers:
                await worker.end()
            if self._control is not None:
                self._control.close()
                await self._control.wait_closed()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await super()._close()
        for worker in self._workers:
            if worker.figures is not None:
                self._take_in(worker.figures)
            elif self.error is None and worker.channel is not None:
                self.error = f"{worker.name} gave no figures within {END_LIMIT_S:g} s"

    def _take_in(self, figures: Mapping[str, Any]) -> None:
        for name, found in figures["nodes"].items():
            node = self.state.latest[name]
            node.busy_s, node.batches, node.batched = found["busy_s"], found["batches"], found["batched"]
            node.kv_peak, node.kv_used = found["kv_peak"], found["kv_used"]
        for source, target, sent_bytes, messages in figures["wires"]:
            wire = self.state.wire(source, target)
            assert wire is not None
            wire.bytes_sent, wire.messages = sent_bytes, messages

    def _counts(self) -> list[Counts]:
        return [super()._counts()[0], *(Counts.from_plain(w.figures) for w in self._workers if w.figures is not None)]


def node_groups(nodes: Any, count: int) -> Iterator[tuple[str, ...]]:
    """Names of ``nodes`` in ``count`` groups of about equal size.

    Nodes of neighbouring layers are together: messages within a process keep the order of virtual time for certain.
    """
    names = [node.name for node in sorted(nodes, key=lambda node: (node.held.start, node.held.stop, node.index))]
    count = min(count, len(names))
    for part in range(count):
        yield tuple(names[len(names) * part // count : len(names) * (part + 1) // count])


def check_distributable(spec: EmulationSpec) -> None:
    """Refuse what needs all nodes in one process.

    Raises:
        SimulationError: The scenario has it.
    """
    policy = policy_class(spec.scheduler.policy)
    if policy.one_process:
        raise SimulationError(
            f"scheduler policy {spec.scheduler.policy} looks at all nodes when it chooses, so they must be in one "
            "process; leave --workers out, or use max-flow, random or round-robin"
        )
    workload = spec.workload
    if isinstance(workload, ClosedLoop) and workload.refill is Refill.KV_ROOM and not policy.counts_decodes:
        raise SimulationError(
            f"refill kv-room under scheduler policy {spec.scheduler.policy} looks at all KV caches, so they must be in "
            "one process; leave --workers out, or use max-flow or refill constant"
        )
    if spec.warm_start is not None:
        raise SimulationError("a warm start fills all KV caches at once, from one process; leave --workers out")
