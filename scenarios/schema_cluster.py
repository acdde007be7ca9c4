"""Schema of clusters and machine types."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from emulator.conditions import LinkBehaviour, NetworkConditions
from netshape.conditions import LinkConditions
from placement.cluster import Cluster, Coordinator, Link, Network, Node
from scenarios.quantities import Bytes, BytesPerSecond, Seconds
from scenarios.schema_network import JitterSection, LossSection, ScheduleSection, checked
from scenarios.schema_parts import Count, FileSection, Flag, Name, Reference, Section, Text, exactly_one, one_of_schema

NIC_FORMS = (("nic",), ("nic_in", "nic_out"))
MAX_NODES = 5_000


class MachineSection(FileSection):
    """A machine type: what a node of it has, unless the node says otherwise."""

    model_config = ConfigDict(json_schema_extra=one_of_schema(*NIC_FORMS))

    kind: Literal["machine"] | None = Field(default=None, description="machine.")
    name: Name | None = Field(default=None, description="Name of the machine type, for instance A100.")
    vram: Bytes = Field(description="GPU memory.")
    nic: BytesPerSecond | None = Field(default=None, description="Rate of its network card, in each direction.")
    nic_in: BytesPerSecond | None = Field(default=None, description="Receiving rate of its network card.")
    nic_out: BytesPerSecond | None = Field(default=None, description="Sending rate of its network card.")
    disk: BytesPerSecond = Field(description="Rate at which weights are read.")

    @model_validator(mode="after")
    def _one_nic_form(self) -> Self:
        exactly_one(self, *NIC_FORMS)
        return self


class CoordinatorSection(Section):
    """The front that admits requests and collects tokens."""

    model_config = ConfigDict(json_schema_extra=one_of_schema(*NIC_FORMS))

    region: Name = Field(default="default", description="Its region.")
    nic: BytesPerSecond | None = Field(default=None, description="Rate of its network card, in each direction.")
    nic_in: BytesPerSecond | None = Field(default=None, description="Receiving rate of its network card.")
    nic_out: BytesPerSecond | None = Field(default=None, description="Sending rate of its network card.")

    @model_validator(mode="after")
    def _one_nic_form(self) -> Self:
        exactly_one(self, *NIC_FORMS)
        return self

    def to_domain(self) -> Coordinator:
        """The domain's coordinator."""
        return Coordinator(
            region=self.region,
            nic_in_bytes_per_s=_given(self.nic_in, self.nic),
            nic_out_bytes_per_s=_given(self.nic_out, self.nic),
        )


class NodeSection(Section):
    """One node, or a group of equal ones."""

    name: Name = Field(description="Name; a group's nodes are called NAME-0, NAME-1 and so on.")
    machine: Name = Field(description="Machine type: of the library, or of `machines` in this cluster.")
    region: Name = Field(default="default", description="Its region.")
    count: Count | None = Field(default=None, le=MAX_NODES, description="Size of a group; one plain node without it.")
    nic: BytesPerSecond | None = Field(default=None, description="Instead of the machine type's, both directions.")
    nic_in: BytesPerSecond | None = Field(default=None, description="Instead of the machine type's.")
    nic_out: BytesPerSecond | None = Field(default=None, description="Instead of the machine type's.")
    disk: BytesPerSecond | None = Field(default=None, description="Instead of the machine type's.")
    vram: Bytes | None = Field(default=None, description="Instead of the machine type's.")
    kv_capacity_layer_tokens: Count | None = Field(
        default=None, description="Measured KV capacity, tokens summed over all held layers; else from the profile."
    )

    def names(self) -> list[str]:
        """Names of the nodes it stands for."""
        return [self.name] if self.count is None else [f"{self.name}-{index}" for index in range(self.count)]

    def to_domain(self, machine: MachineSection) -> list[Node]:
        """The nodes, with what they do not say taken from the machine type."""
        return [
            Node(
                name=name,
                machine_type=self.machine,
                region=self.region,
                nic_in_bytes_per_s=_given(self.nic_in, self.nic, machine.nic_in, machine.nic),
                nic_out_bytes_per_s=_given(self.nic_out, self.nic, machine.nic_out, machine.nic),
                disk_bytes_per_s=_given(self.disk, machine.disk),
                vram_bytes=_given(self.vram, machine.vram),
                kv_capacity_layer_tokens=self.kv_capacity_layer_tokens,
            )
            for name in self.names()
        ]


class ConditionedSection(Section):
    """What links can be beyond rate and delay. Their streams lose and reorder nothing."""

    jitter: JitterSection | None = Field(default=None, description="Deviation of delays from the latency.")
    loss: LossSection | None = Field(
        default=None, description="Lost packets: each costs a round trip, and congestion control holds the rate down."
    )
    mtu: Bytes | None = Field(default=None, description="Most payload of a packet.")
    overhead: Bytes | None = Field(default=None, description="What a packet takes up beside its payload; needs mtu.")
    queue_limit: Bytes | None = Field(
        default=None, description="What may wait for the link; a stream's sender waits with the rest, in order."
    )
    schedule: ScheduleSection | None = Field(default=None, description="How conditions change as time goes by.")

    @property
    def plain(self) -> bool:
        """Whether there is nothing beyond rate and delay."""
        given = (self.jitter, self.loss, self.mtu, self.overhead, self.queue_limit, self.schedule)
        return all(each is None for each in given)

    def check(self, bandwidth: float, latency: float) -> None:
        """Refuse what does not go together; a schedule's trace is read later."""
        if self.schedule is None or self.schedule.steps is not None:
            checked(lambda: self.behaviour(bandwidth, latency, Path()))

    def behaviour(self, bandwidth: float, latency: float, folder: Path) -> LinkBehaviour | None:
        """The domain's behaviour; ``None`` for a plain link.

        Args:
            bandwidth: Rate, in bytes/s.
            latency: Delay, in s.
            folder: Where a schedule's trace is looked for.

        Raises:
            NetworkError: Values that do not go together, or a trace that cannot be read.
        """
        if self.plain:
            return None
        given: dict[str, Any] = {
            "bandwidth_bytes_per_s": bandwidth,
            "latency_s": latency,
            "jitter": None if self.jitter is None else self.jitter.to_domain(),
            "loss": None if self.loss is None else self.loss.to_domain(),
            "mtu_bytes": None if self.mtu is None else self.mtu if self.mtu % 1 else int(self.mtu),
            "overhead_bytes_per_packet": self.overhead,
            "queue_limit_bytes": self.queue_limit,
        }
        conditions = LinkConditions(**{name: value for name, value in given.items() if value is not None})
        schedule = None if self.schedule is None else self.schedule.to_domain(folder, conditions)
        return LinkBehaviour(conditions=conditions, schedule=schedule)


class RegionLinkSection(ConditionedSection):
    """Links between all nodes of two regions (or within one)."""

    source: Name = Field(alias="from", description="Region, or * for every region.")
    target: Name = Field(alias="to", description="Region, or * for every region.")
    bandwidth: BytesPerSecond = Field(description="Rate of each link.")
    latency: Seconds = Field(description="One-way delay of each link.")
    symmetric: Flag = Field(default=True, description="Whether the way back is the same.")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        self.check(self.bandwidth, self.latency)
        return self


class LinkSection(ConditionedSection):
    """One directed link."""

    source: Name = Field(alias="from", description="Node, or coordinator.")
    target: Name = Field(alias="to", description="Node, or coordinator.")
    bandwidth: BytesPerSecond = Field(description="Rate of the link.")
    latency: Seconds = Field(description="One-way delay.")
    symmetric: Flag = Field(default=False, description="Whether there is the same link back.")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        self.check(self.bandwidth, self.latency)
        return self


class NetworkSection(FileSection):
    """Links by region, one by one, or both; single links override those of their regions."""

    kind: Literal["network"] | None = Field(default=None, description="network.")
    regions: tuple[RegionLinkSection, ...] = Field(
        default=(), description="Region-to-region matrix; later entries override earlier ones."
    )
    links: tuple[LinkSection, ...] = Field(default=(), description="Single links, in the order that breaks ties.")

    def to_domain(self, regions: list[str]) -> Network:
        """The domain's network.

        Args:
            regions: All regions of nodes and coordinator; ``*`` stands for them.
        """
        matrix: dict[tuple[str, str], Link] = {}
        for entry in self.regions:
            link = Link(entry.bandwidth, entry.latency)
            sources = regions if entry.source == "*" else [entry.source]
            targets = regions if entry.target == "*" else [entry.target]
            for source in sources:
                for target in targets:
                    matrix[source, target] = link
                    if entry.symmetric:
                        matrix[target, source] = link
        links: dict[tuple[str, str], Link] = {}
        for single in self.links:
            links[single.source, single.target] = Link(single.bandwidth, single.latency)
            if single.symmetric:
                links[single.target, single.source] = Link(single.bandwidth, single.latency)
        return Network(links=links, regions=matrix)

    def conditions(self, regions: list[str], folder_of: Callable[[str, int], Path]) -> NetworkConditions:
        """Which links are more than a rate and a delay.

        Args:
            regions: All regions of nodes and coordinator; ``*`` stands for them.
            folder_of: Where entry ``index`` of ``regions`` or ``links`` was read from.

        Raises:
            NetworkError: As :meth:`ConditionedSection.behaviour`.
        """
        matrix: dict[tuple[str, str], LinkBehaviour | None] = {}
        for index, entry in enumerate(self.regions):
            behaviour = entry.behaviour(entry.bandwidth, entry.latency, folder_of("regions", index))
            for source in regions if entry.source == "*" else [entry.source]:
                for target in regions if entry.target == "*" else [entry.target]:
                    matrix[source, target] = behaviour
                    if entry.symmetric:
                        matrix[target, source] = behaviour
        links: dict[tuple[str, str], LinkBehaviour | None] = {}
        for index, single in enumerate(self.links):
            behaviour = single.behaviour(single.bandwidth, single.latency, folder_of("links", index))
            links[single.source, single.target] = behaviour
            if single.symmetric:
                links[single.target, single.source] = behaviour
        return NetworkConditions(links=links, regions=matrix)


class ClusterSection(FileSection):
    """Nodes, coordinator and network."""

    kind: Literal["cluster"] | None = Field(default=None, description="cluster.")
    name: Text = Field(default="cluster", description="Name, shown in results.")
    coordinator: CoordinatorSection = Field(description="The front.")
    nodes: tuple[NodeSection, ...] = Field(min_length=1, description="Nodes; their order breaks ties everywhere.")
    machines: dict[str, MachineSection] = Field(
        default_factory=dict, description="Machine types beside those of the library, or instead of them."
    )
    network: Annotated[NetworkSection, Reference("network")] = Field(description="Links.")

    def regions(self) -> list[str]:
        """All regions, in the order of their first appearance."""
        return list(dict.fromkeys([self.coordinator.region, *(node.region for node in self.nodes)]))

    def to_domain(self) -> Cluster:
        """The domain's cluster; every node's machine type must be in ``machines`` by now.

        Raises:
            PlanError: Names that are not unique, links of unknown nodes.
        """
        machines: Mapping[str, MachineSection] = self.machines
        return Cluster(
            name=self.name,
            nodes=tuple(node for group in self.nodes for node in group.to_domain(machines[group.machine])),
            coordinator=self.coordinator.to_domain(),
            network=self.network.to_domain(self.regions()),
        )


def _given(*values: float | None) -> float:
    """The first value that is given."""
    return next(value for value in values if value is not None)
