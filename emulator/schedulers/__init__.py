"""Scheduler policies: who serves a request. One file each, chosen by name, own ones as ``module:Class``."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from emulator.errors import SimulationError
from emulator.schedulers.policy import SchedulerPolicy

if TYPE_CHECKING:
    from emulator.cluster import ClusterState

_MODULES = {
    "max-flow": "emulator.schedulers.max_flow:MaxFlowPolicy",
    "swarm": "emulator.schedulers.swarm:SwarmPolicy",
    "random": "emulator.schedulers.random_choice:RandomPolicy",
    "shortest-queue": "emulator.schedulers.shortest_queue:ShortestQueuePolicy",
    "round-robin": "emulator.schedulers.round_robin:RoundRobinPolicy",
}

POLICY_NAMES = tuple(_MODULES)


def policy_class(name: str) -> type[SchedulerPolicy]:
    """The policy called ``name``, or the class at ``module:Class``.

    Raises:
        SimulationError: Unknown name, module that cannot be imported, or a class that is no policy.
    """
    target = _MODULES.get(name, name)
    if ":" not in target:
        close = difflib.get_close_matches(name, POLICY_NAMES, 1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise SimulationError(
            f"scheduler policy {name!r} is unknown; {hint}known are {', '.join(POLICY_NAMES)}, "
            "and module:Class loads one of your own"
        )
    module_name, _, class_name = target.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except Exception as error:
        # A module of the user's own can fail in any way while it is imported.
        raise SimulationError(f"scheduler policy {name!r} cannot be loaded: {type(error).__name__}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, SchedulerPolicy)):
        raise SimulationError(f"scheduler policy {name!r} is no subclass of emulator.schedulers.policy.SchedulerPolicy")
    missing = sorted(getattr(found, "__abstractmethods__", ()))
    if missing:
        raise SimulationError(f"scheduler policy {name!r} lacks {', '.join(missing)}; define them in the class")
    return found


def make_policy(name: str, options: Mapping[str, object], state: ClusterState, seed: int) -> SchedulerPolicy:
    """An instance of the policy, its options checked."""
    return policy_class(name)(state, options, seed)
