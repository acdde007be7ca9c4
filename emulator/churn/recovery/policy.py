"""What every recovery policy is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from emulator.churn.machines import Machine, Role
from emulator.errors import SimulationError

if TYPE_CHECKING:
    from emulator.churn.control import ChurnControl


class RecoveryPolicy:
    """Decides what the cluster does when machines or links go, come or change.

    Whatever the policy, nothing new is routed over what the coordinator takes for lost; that has happened before a
    method is called. A machine that comes back loads the layers that it had and serves them again, unless the policy
    does otherwise.

    Attributes:
        name: Name in scenarios.
        solves: Whether the max flow is solved anew when something changes; if not, links keep the flow they had.
        known_options: Options and their defaults.
    """

    name: ClassVar[str] = "own"
    solves: ClassVar[bool] = True
    known_options: ClassVar[Mapping[str, object]] = {}

    def __init__(self, control: ChurnControl, options: Mapping[str, object]) -> None:
        self.control = control
        for key in options:
            if key not in self.known_options:
                known = ", ".join(self.known_options) or "none"
                raise SimulationError(f"recovery policy {self.name} has no option {key!r}; it knows {known}")
        self.options = {**self.known_options, **options}

    def begin(self) -> None:
        """The run begins."""
        return

    def lost(self, machine: Machine) -> None:
        """``machine`` is down, taken for it, or about to leave."""
        return

    def joined(self, machine: Machine) -> None:
        """``machine`` is up and holds nothing."""
        self.take_up_again(machine)

    def changed(self) -> None:
        """Links or speeds have changed, or a machine that was taken for dead is not."""
        return

    def take_up_again(self, machine: Machine) -> None:
        """Have ``machine`` load and serve the layers that it held last, if it held any."""
        if machine.goal is not None and machine.role is Role.SPARE:
            self.control.assign({machine.name: machine.goal})

    def positive(self, key: str) -> float:
        """The value of a numeric option.

        Raises:
            SimulationError: It is no number above 0.
        """
        value = self.options[key]
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise SimulationError(
                f"recovery policy {self.name}: option {key} is {value!r}; it must be a number above 0"
            )
        return float(value)

    def one_of(self, key: str, choices: Sequence[str]) -> str:
        """The value of an option that names one of several.

        Raises:
            SimulationError: It is none of them.
        """
        value = self.options[key]
        if value not in choices:
            known = ", ".join(choices)
            raise SimulationError(f"recovery policy {self.name}: option {key} is {value!r}; it must be one of {known}")
        return str(value)
