"""What a lab's owner and the process behind it tell each other."""

from __future__ import annotations

from dataclasses import dataclass

from netshape.kernel.namespaces import Namespace, Owner
from netshape.kernel.topology import Backend, Topology

READY, DONE, ERROR = "ready", "done", "error"
SET, MEASURE, MEASURE_HOSTS, CLOSE = "set", "measure", "measure hosts", "close"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to build.

    Attributes:
        topology: Hosts and links.
        backend: How links get their conditions.
        seed: Of all draws.
        owner: Process whose end ends the lab.
        serial: Which of its labs.
        real_time: Whether to ask for real-time scheduling.
    """

    topology: Topology
    backend: Backend
    seed: int
    owner: Owner
    serial: int
    real_time: bool

    def namespaces(self) -> dict[str, Namespace]:
        """Host -> namespace."""
        hosts = self.topology.hosts
        return {host.name: Namespace(owner=self.owner, serial=self.serial, host=host.name) for host in hosts}


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """How the start went.

    Attributes:
        removed: Stale namespaces of earlier labs that were removed.
        real_time: Whether the router has real-time scheduling.
        congestion_control: Default of TCP in the hosts.
        warnings: What could not be done, but does no harm.
    """

    removed: tuple[str, ...]
    real_time: bool
    congestion_control: str
    warnings: tuple[str, ...]
