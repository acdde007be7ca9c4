"""Loading weights: layer by layer, from disk or from a peer over the network that requests use."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from emulator.churn.machines import Machine
from emulator.churn.spec import WeightSource

if TYPE_CHECKING:
    from emulator.churn.control import ChurnControl
    from emulator.churn.network import Pair
    from emulator.links import Wire
    from placement.layers import LayerRange

CHUNK_BYTES = 32e6
"""Weights travel in pieces of this size, one at a time, so that requests get their turn on the wire in between."""


class _Load:
    """One machine's loading of one range."""

    def __init__(self, machine: Machine, layers: list[int]) -> None:
        self.machine = machine
        self.layers = layers
        self.source: str | None = None
        self.step = 0


class WeightLoads:
    """Loads weights onto machines; each machine has one load at most, and those run side by side.

    Attributes:
        layers_moved: Layers loaded so far.
        bytes_moved: Their bytes.
        peer_bytes: Those of them that came over the network.
    """

    def __init__(self, control: ChurnControl) -> None:
        self._control = control
        self._loads: dict[str, _Load] = {}
        self.layers_moved = 0
        self.bytes_moved = 0.0
        self.peer_bytes = 0.0

    def start(self, machine: Machine, goal: LayerRange) -> None:
        """Load what ``machine`` lacks of ``goal``; the control is told when that is done."""
        held = machine.node.held if machine.node is not None else ()
        load = _Load(machine, [layer for layer in range(goal.start, goal.stop) if layer not in held])
        self._loads[machine.name] = load
        self._control.log("loading", node=machine.name, layers=[goal.start, goal.stop], missing=len(load.layers))
        self._next(load)

    @property
    def busy(self) -> bool:
        """Whether anybody is loading."""
        return bool(self._loads)

    def cancel(self, machine: Machine) -> None:
        """Give up what ``machine`` is loading."""
        self._loads.pop(machine.name, None)

    def machine_stopped(self, machine: Machine) -> None:
        """``machine`` has stopped: whoever loads from it begins that layer again, from somebody else."""
        self.cancel(machine)
        for load in list(self._loads.values()):
            if load.source == machine.name:
                self._next(load)

    def links_lost(self, pairs: Collection[Pair]) -> None:
        """Nothing passes on ``pairs``: whoever loads over one of them begins that layer again, from somebody else."""
        for load in list(self._loads.values()):
            if (load.source, load.machine.name) in pairs:
                self._next(load)

    def _next(self, load: _Load) -> None:
        load.step += 1
        load.source = None
        if not load.layers:
            del self._loads[load.machine.name]
            self._control.loaded(load.machine)
            return
        size = self._control.state.spec.model.layer_bytes
        peer = self._peer(load)
        if peer is None:
            step = load.step
            delay_s = size / load.machine.spec.disk_bytes_per_s
            self._control.later(delay_s, lambda: self._layer_done(load, step, from_peer=False))
            return
        load.source = peer.source
        self._chunk(load, load.step, peer, size)

    def _chunk(self, load: _Load, step: int, wire: Wire, left_bytes: float) -> None:
        size = min(left_bytes, CHUNK_BYTES)

        def arrived() -> None:
            if self._loads.get(load.machine.name) is not load or load.step != step:
                return
            if left_bytes > size:
                self._chunk(load, step, wire, left_bytes - size)
            else:
                self._layer_done(load, step, from_peer=True)

        self._control.network.send(wire, size, arrived)

    def _layer_done(self, load: _Load, step: int, *, from_peer: bool) -> None:
        if self._loads.get(load.machine.name) is not load or load.step != step:
            return
        size = self._control.state.spec.model.layer_bytes
        load.layers.pop(0)
        self.layers_moved += 1
        self.bytes_moved += size
        self.peer_bytes += size if from_peer else 0.0
        self._control.report.moved(load.machine.incident, size)
        self._next(load)

    def _peer(self, load: _Load) -> Wire | None:
        """The wire over which the next layer comes; ``None`` for the disk."""
        source = self._control.spec.recovery.weights
        if source is WeightSource.DISK:
            return None
        cluster = self._control.state.spec.cluster
        best: tuple[float, str] | None = None
        for machine in self._control.machines.values():
            holds = machine.node is not None and load.layers[0] in machine.node.held
            if machine is load.machine or not holds or not machine.up or machine.suspected:
                continue
            pair = (machine.name, load.machine.name)
            link = cluster.link(*pair)
            if link is None or pair in self._control.blocked:
                continue
            rate = min(
                link.bandwidth_bytes_per_s, machine.spec.nic_out_bytes_per_s, load.machine.spec.nic_in_bytes_per_s
            )
            # Those who serve others already come last: two loads from one card take twice as long.
            rate /= 1 + sum(1 for other in self._loads.values() if other.source == machine.name)
            if best is None or rate > best[0]:
                best = (rate, machine.name)
        if best is None or (source is WeightSource.FASTEST and best[0] < load.machine.spec.disk_bytes_per_s):
            return None
        return self._control.state.wire(best[1], load.machine.name)
