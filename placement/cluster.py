"""Machines, nodes, regions and the network between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from placement.errors import PlanError
from placement.numbers import require

COORDINATOR = "coordinator"
"""Name of the coordinator in links and matrices; it is source and sink of the flow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One GPU machine.

    Attributes:
        name: Unique name.
        machine_type: Key of its :class:`~placement.profile.MachineProfile`.
        region: Name of its region.
        nic_in_bytes_per_s: Receiving rate of its network card.
        nic_out_bytes_per_s: Sending rate of its network card.
        disk_bytes_per_s: Rate at which it reads weights.
        vram_bytes: GPU memory.
        kv_capacity_layer_tokens: KV capacity, when measured for this node; otherwise from the profile.
    """

    name: str
    machine_type: str
    region: str = "default"
    nic_in_bytes_per_s: float
    nic_out_bytes_per_s: float
    disk_bytes_per_s: float
    vram_bytes: float
    kv_capacity_layer_tokens: int | None = None

    def __post_init__(self) -> None:
        problems: list[str] = []
        where = f"node {self.name}"
        if self.name == COORDINATOR:
            problems.append(f"{where}: the name is taken by the coordinator; choose another")
        require(problems, where, "nic_in_bytes_per_s", self.nic_in_bytes_per_s, above=0)
        require(problems, where, "nic_out_bytes_per_s", self.nic_out_bytes_per_s, above=0)
        require(problems, where, "disk_bytes_per_s", self.disk_bytes_per_s, above=0)
        require(problems, where, "vram_bytes", self.vram_bytes, above=0)
        if self.kv_capacity_layer_tokens is not None:
            require(problems, where, "kv_capacity_layer_tokens", self.kv_capacity_layer_tokens, minimum=1)
        if problems:
            raise PlanError(problems)


@dataclass(frozen=True, slots=True, kw_only=True)
class Coordinator:
    """The front that admits requests and collects tokens."""

    region: str = "default"
    nic_in_bytes_per_s: float
    nic_out_bytes_per_s: float

    def __post_init__(self) -> None:
        problems: list[str] = []
        require(problems, "coordinator", "nic_in_bytes_per_s", self.nic_in_bytes_per_s, above=0)
        require(problems, "coordinator", "nic_out_bytes_per_s", self.nic_out_bytes_per_s, above=0)
        if problems:
            raise PlanError(problems)


@dataclass(frozen=True, slots=True)
class Link:
    """One direction of a connection: bytes/s and one-way seconds."""

    bandwidth_bytes_per_s: float
    latency_s: float

    def __post_init__(self) -> None:
        problems: list[str] = []
        require(problems, "link", "bandwidth_bytes_per_s", self.bandwidth_bytes_per_s, above=0)
        require(problems, "link", "latency_s", self.latency_s, minimum=0)
        if problems:
            raise PlanError(problems)


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """Directed links, given one by one, as a region matrix, or both.

    Attributes:
        links: ``(source, target) -> Link`` between named nodes (or :data:`COORDINATOR`), in file order.
            They override the region matrix.
        regions: ``(source region, target region) -> Link``.
    """

    links: Mapping[tuple[str, str], Link] = field(default_factory=dict)
    regions: Mapping[tuple[str, str], Link] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Nodes, coordinator and network.

    Attributes:
        name: Shown in results.
        nodes: Nodes in file order; the order breaks ties everywhere.
        coordinator: Source and sink.
        network: Links between them.
    """

    name: str
    nodes: tuple[Node, ...]
    coordinator: Coordinator
    network: Network
    _by_name: dict[str, Node] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        problems: list[str] = []
        if not self.nodes:
            problems.append(f"cluster {self.name}: it has no nodes; at least one is needed")
        for node in self.nodes:
            if node.name in self._by_name:
                problems.append(f"cluster {self.name}: two nodes are named {node.name}; names must differ")
            self._by_name[node.name] = node
        for source, target in self.network.links:
            problems.extend(
                f"cluster {self.name}: link {source} -> {target} names {end}, which is no node"
                for end in (source, target)
                if end != COORDINATOR and end not in self._by_name
            )
            if source == target:
                problems.append(f"cluster {self.name}: link {source} -> {target} joins a node to itself")
        if problems:
            raise PlanError(problems)

    def node(self, name: str) -> Node:
        """The node called ``name``.

        Raises:
            PlanError: There is none.
        """
        try:
            return self._by_name[name]
        except KeyError:
            raise PlanError(f"cluster {self.name}: there is no node {name}") from None

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def region_of(self, name: str) -> str:
        """Region of a node, or of the coordinator."""
        return self.coordinator.region if name == COORDINATOR else self.node(name).region

    def link(self, source: str, target: str) -> Link | None:
        """The link from ``source`` to ``target`` (node names or :data:`COORDINATOR`), or ``None``."""
        explicit = self.network.links.get((source, target))
        if explicit is not None or not self.network.regions:
            return explicit
        return self.network.regions.get((self.region_of(source), self.region_of(target)))

    def reduced_to(self, pairs: Iterable[tuple[str, str]]) -> Cluster:
        """The same nodes with no link but those of ``pairs``, in their order; pairs without a link are left out."""
        kept = {pair: link for pair in pairs if (link := self.link(*pair)) is not None}
        return Cluster(name=self.name, nodes=self.nodes, coordinator=self.coordinator, network=Network(links=kept))

    def without(self, names: Iterable[str]) -> Cluster:
        """The cluster less some nodes and their links.

        Raises:
            PlanError: None are left.
        """
        gone = frozenset(names)
        links = {pair: link for pair, link in self.network.links.items() if not gone.intersection(pair)}
        return Cluster(
            name=self.name,
            nodes=tuple(node for node in self.nodes if node.name not in gone),
            coordinator=self.coordinator,
            network=Network(links=links, regions=self.network.regions),
        )

    def machine_counts(self) -> dict[str, int]:
        """Nodes per machine type, in file order of first appearance."""
        return dict(Counter(node.machine_type for node in self.nodes))

    def pairs(self) -> Iterator[tuple[str, str]]:
        """All linked ``(source, target)`` pairs: links in file order first, then the matrix in node order."""
        yield from self.network.links
        if not self.network.regions:
            return
        names = [COORDINATOR, *(node.name for node in self.nodes)]
        for source in names:
            for target in names:
                pair = (source, target)
                if source != target and pair not in self.network.links and self.link(*pair) is not None:
                    yield pair
