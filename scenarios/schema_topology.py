"""Files for ``helixemu net up``: hosts and the shaped links between them."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, ValidationError, model_validator

from netshape.conditions import LinkConditions
from netshape.errors import NetworkError
from netshape.kernel.topology import MAX_HOSTS, MAX_LINKS, Backend, Host, Link, Topology
from netshape.schedule import ConditionSchedule
from scenarios.errors import Problem, ScenarioError
from scenarios.quantities import Bytes
from scenarios.schema_network import LinkConditionsSection
from scenarios.schema_parts import FileSection, Name, Section, Text, Whole, exactly_one
from scenarios.tree import Tree
from scenarios.validation import problem_at
from scenarios.yaml_text import read_yaml

NETWORK = ipaddress.IPv4Network("10.77.0.0/24")
"""Hosts without an address get one from here."""


class HostSection(Section):
    """A machine of the lab."""

    name: Name = Field(description="Lower-case letters, digits and hyphens; programs find it by this name.")
    address: Text | None = Field(default=None, description="IPv4 address; one of 10.77.0.0/24 when not given.")


class LinkSection(LinkConditionsSection):
    """A link: one direction (`source`, `target`), or both alike (`between`)."""

    source: Name | None = Field(default=None, description="Sending host.")
    target: Name | None = Field(default=None, description="Receiving host.")
    between: Annotated[tuple[Name, Name], Field(description="Two hosts, for both directions.")] | None = None

    @model_validator(mode="after")
    def _ends(self) -> Self:
        exactly_one(self, ("source", "target"), ("between",))
        return self

    @property
    def directions(self) -> tuple[tuple[str, str], ...]:
        """Sending and receiving host of each direction."""
        if self.between is not None:
            first, second = self.between
            return (first, second), (second, first)
        if self.source is None or self.target is None:
            raise AssertionError("the schema asks for both ends")
        return ((self.source, self.target),)


class TopologySection(FileSection):
    """A file of hosts and links."""

    backend: Backend = Field(default="tun", description="tun (all conditions), netem (the kernel's own), tbf (rates).")
    seed: Whole = Field(default=0, description="Of all random draws of backend tun.")
    congestion_control: Text | None = Field(default=None, description="Default of TCP in the hosts.")
    tcp_buffer: Bytes | None = Field(default=None, description="Most bytes of a TCP socket's buffers.")
    hosts: list[HostSection] = Field(min_length=1, max_length=MAX_HOSTS, description="The machines.")
    links: list[LinkSection] = Field(default_factory=list, max_length=MAX_LINKS, description="The links.")


@dataclass(frozen=True, slots=True, kw_only=True)
class TopologyFile:
    """What a file asks for.

    Attributes:
        topology: Hosts and links with the conditions that they begin with.
        backend: How links get their conditions.
        seed: Of all draws.
        schedules: Source and target -> how the link's conditions change.
    """

    topology: Topology
    backend: Backend
    seed: int
    schedules: Mapping[tuple[str, str], ConditionSchedule]


def read_topology(path: Path) -> TopologyFile:
    """The topology of a YAML file.

    Raises:
        ScenarioError: All that is wrong with the file.
    """
    tree = read_yaml(path)
    try:
        section = TopologySection.model_validate(tree.plain())
    except ValidationError as error:
        raise ScenarioError(_problems(tree, error)) from error
    problems: list[Problem] = []
    hosts = tuple(_hosts(section, tree, problems))
    links, schedules = _links(section, tree, path.parent, problems)
    if problems:
        raise ScenarioError(problems)
    try:
        topology = Topology(
            hosts=hosts,
            links=tuple(links),
            congestion_control=section.congestion_control,
            tcp_buffer_bytes=None if section.tcp_buffer is None else round(section.tcp_buffer),
        )
    except NetworkError as error:
        raise ScenarioError(_problem(tree, (), error)) from error
    return TopologyFile(topology=topology, backend=section.backend, seed=section.seed, schedules=schedules)


def _hosts(section: TopologySection, tree: Tree, problems: list[Problem]) -> Iterator[Host]:
    taken = {host.address for host in section.hosts}
    free = (str(address) for address in NETWORK.hosts() if str(address) not in taken)
    for index, host in enumerate(section.hosts):
        try:
            yield Host(name=host.name, address=next(free) if host.address is None else host.address)
        except NetworkError as error:
            problems.append(_problem(tree, ("hosts", index), error))


def _links(
    section: TopologySection, tree: Tree, folder: Path, problems: list[Problem]
) -> tuple[list[Link], dict[tuple[str, str], ConditionSchedule]]:
    links: list[Link] = []
    schedules: dict[tuple[str, str], ConditionSchedule] = {}
    for index, each in enumerate(section.links):
        try:
            conditions = each.to_domain()
            schedule = None if each.schedule is None else each.schedule.to_domain(folder, conditions)
            if schedule is not None:
                _keeps_mtu(schedule, conditions)
            for source, target in each.directions:
                links.append(Link(source=source, target=target, conditions=conditions))
                if schedule is not None:
                    schedules[source, target] = schedule
        except NetworkError as error:
            problems.append(_problem(tree, ("links", index), error))
    return links, schedules


def _keeps_mtu(schedule: ConditionSchedule, first: LinkConditions) -> None:
    if any(conditions.mtu_bytes != first.mtu_bytes for _, conditions in schedule.one_period(first)):
        raise NetworkError("schedule: the MTU of a kernel's link cannot change; leave mtu out of the steps")


def _problem(tree: Tree, path: tuple[str | int, ...], error: NetworkError) -> Problem:
    rule, _, remedy = str(error).rpartition("; ")
    return problem_at(tree, path, rule or str(error), remedy if rule else "")


def _problems(tree: Tree, error: ValidationError) -> Iterator[Problem]:
    for each in error.errors(include_url=False):
        context = each.get("ctx", {})
        message = str(context.get("rule", each["msg"]))
        if each["type"] == "extra_forbidden":
            message = "there is no such key"
        yield problem_at(tree, each["loc"], message, str(context.get("remedy", "")))
