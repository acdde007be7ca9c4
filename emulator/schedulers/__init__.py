"""Scheduler policies: who serves a request. One file each, chosen by name, own ones as ``module:Class``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from emulator.loading import load_class
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
    return load_class(name, _MODULES, SchedulerPolicy, "scheduler policy")  # type: ignore[type-abstract]


def make_policy(name: str, options: Mapping[str, object], state: ClusterState, seed: int) -> SchedulerPolicy:
    """An instance of the policy, its options checked."""
    return policy_class(name)(state, options, seed)
