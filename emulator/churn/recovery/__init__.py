"""Recovery policies: what the cluster does about churn. One file each, chosen by name, own ones as ``module:Class``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emulator.churn.recovery.policy import RecoveryPolicy
from emulator.loading import load_class

if TYPE_CHECKING:
    from emulator.churn.control import ChurnControl
    from emulator.churn.spec import RecoverySpec

_MODULES = {
    "none": "emulator.churn.recovery.unchanged:Unchanged",
    "reroute": "emulator.churn.recovery.reroute:Reroute",
    "replan": "emulator.churn.recovery.replan:Replanned",
    "standby": "emulator.churn.recovery.standby:Standby",
}

RECOVERY_NAMES = tuple(_MODULES)


def recovery_class(name: str) -> type[RecoveryPolicy]:
    """The policy called ``name``, or the class at ``module:Class``.

    Raises:
        SimulationError: Unknown name, module that cannot be imported, or a class that is no policy.
    """
    return load_class(name, _MODULES, RecoveryPolicy, "recovery policy")


def make_recovery(control: ChurnControl, spec: RecoverySpec) -> RecoveryPolicy:
    """An instance of the policy, its options checked."""
    return recovery_class(spec.policy)(control, spec.options)
