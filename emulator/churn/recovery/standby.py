"""Standby: spare machines take over what lost ones held."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from emulator.churn.machines import Machine, Role
from emulator.churn.recovery.policy import RecoveryPolicy
from emulator.errors import SimulationError
from placement.flow import most_layers
from placement.layers import LayerRange

if TYPE_CHECKING:
    from emulator.churn.control import ChurnControl


class Standby(RecoveryPolicy):
    """A spare machine of the same type if there is one, else any that the layers fit on, loads them and serves.

    Where they fit on none, several spares share them, one after the other. Spares are machines that hold nothing.
    One that comes back is a spare when others have taken its layers.

    Options:
        spares: Machines of the placement that are kept back as spares from the start, by name.
    """

    name = "standby"
    known_options: ClassVar[Mapping[str, object]] = {"spares": ()}

    def __init__(self, control: ChurnControl, options: Mapping[str, object]) -> None:
        super().__init__(control, options)
        spares = self.options["spares"]
        if not isinstance(spares, list | tuple) or not all(isinstance(name, str) for name in spares):
            raise SimulationError(f"recovery policy standby: option spares is {spares!r}; it must be a list of names")
        unknown = [name for name in spares if name not in control.machines]
        if unknown:
            raise SimulationError(f"recovery policy standby: spare {unknown[0]!r} is no node of the cluster")
        self._spares = tuple(str(name) for name in spares)

    def begin(self) -> None:
        """Keep the spares back."""
        for name in self._spares:
            machine = self.control.machines[name]
            if machine.node is not None:
                machine.node.stop()
                machine.node = None
            machine.goal = None
            if machine.up:
                machine.role = Role.SPARE
        if self._spares:
            self.control.reroute()
            if not self.control.state.can_serve:
                raise SimulationError(
                    "recovery policy standby: without the spares nobody holds the whole model; "
                    "keep back machines whose layers others hold too"
                )

    def lost(self, machine: Machine) -> None:
        """Have one spare take over, or several in a row."""
        layers = machine.goal
        if layers is None:
            return
        spares = [
            spare
            for spare in self.control.machines.values()
            if spare.role is Role.SPARE and not spare.leaving and not spare.suspected
        ]
        spares.sort(
            key=lambda spare: (
                spare.spec.machine_type != machine.spec.machine_type,
                spare.spec.region != machine.spec.region,
                -self._most_layers(spare),
                -spare.spec.disk_bytes_per_s,
            )
        )
        goals = self._shared_out(layers, spares)
        if not goals:
            return
        machine.goal = None
        for name in goals:
            self.control.machines[name].incident = machine.cause
            self.control.log("takes_over", machine.cause, node=name, of=machine.name)
        self.control.assign(goals)

    def joined(self, machine: Machine) -> None:
        """It serves its own layers again, or stands by if they are taken; somebody may have waited for a spare."""
        self.take_up_again(machine)
        if machine.role is Role.SPARE:
            for other in self.control.machines.values():
                if other.role is Role.GONE and other.goal is not None:
                    self.lost(other)

    def _shared_out(self, layers: LayerRange, spares: list[Machine]) -> dict[str, LayerRange]:
        """Spare -> layers: all on the first that they fit on, else in a row on several; empty if there is no room."""
        for spare in spares:
            if self._most_layers(spare) >= len(layers):
                return {spare.name: layers}
        goals: dict[str, LayerRange] = {}
        start = layers.start
        for spare in spares:
            stop = min(layers.stop, start + self._most_layers(spare))
            if stop > start:
                goals[spare.name] = LayerRange(start, stop)
                start = stop
            if start == layers.stop:
                return goals
        return {}

    def _most_layers(self, machine: Machine) -> int:
        spec = self.control.state.spec
        return most_layers(machine.spec, spec.model, spec.profiles)
