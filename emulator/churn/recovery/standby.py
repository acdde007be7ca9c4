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

    Spares are machines that hold nothing. One that comes back is a spare when another has taken its layers.

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
        self._taken: dict[str, LayerRange] = {}

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
        """Have a spare take over."""
        if machine.goal is None or machine.name in self._taken:
            return
        layers = machine.goal
        candidates = [
            spare
            for spare in self.control.machines.values()
            if spare.role is Role.SPARE and not spare.leaving and not spare.suspected and self._fits(spare, layers)
        ]
        if not candidates:
            return
        best = min(
            candidates,
            key=lambda spare: (
                spare.spec.machine_type != machine.spec.machine_type,
                spare.spec.region != machine.spec.region,
                -spare.spec.disk_bytes_per_s,
            ),
        )
        self._taken[machine.name] = layers
        machine.goal = None
        self.control.log("takes_over", machine.incident, node=best.name, of=machine.name)
        best.incident = machine.incident
        self.control.assign({best.name: layers})

    def joined(self, machine: Machine) -> None:
        """It serves its own layers again, or stands by if they are taken; a spare may have been waited for."""
        self._taken.pop(machine.name, None)
        self.take_up_again(machine)
        if machine.role is Role.SPARE:
            for other in self.control.machines.values():
                if other.role is Role.GONE and other.goal is not None:
                    self.lost(other)
                    return

    def _fits(self, machine: Machine, layers: LayerRange) -> bool:
        spec = self.control.state.spec
        return most_layers(machine.spec, spec.model, spec.profiles) >= len(layers)
