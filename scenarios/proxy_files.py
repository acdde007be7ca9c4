"""Files that say which proxies ``helixemu proxy`` starts with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, ValidationError

from netshape.clock import NicClock
from netshape.errors import NetworkError
from netshape.proxy.bodies import ProxyBody, parse_json, read_new_proxy, read_new_toxic, read_proxy_list
from netshape.proxy.errors import ApiError
from netshape.proxy.links import SIDES, Card, Link
from netshape.proxy.toxics.toxic import DIRECTIONS, Toxic
from scenarios.errors import Problem, ScenarioError
from scenarios.quantities import BytesPerSecond
from scenarios.schema_network import LinkConditionsSection
from scenarios.schema_parts import FileSection, Flag, Section, Text
from scenarios.tree import Tree, TreePath, dotted
from scenarios.validation import problem_at
from scenarios.yaml_text import read_yaml

YAML_SUFFIXES = (".yaml", ".yml")
MAX_BYTES = 2_000_000
LEAST_REPEAT_S = 0.001
"""A shorter schedule would keep the proxy busy with nothing else."""
MAX_TOLD = 20
"""Problems of one request that are told."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyFile:
    """What to start with.

    Attributes:
        entries: The proxies.
        cards: Network cards that their links share.
    """

    entries: tuple[ProxyEntry, ...] = ()
    cards: tuple[Card, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyEntry:
    """A proxy to start with.

    Attributes:
        body: Its name and addresses.
        toxics: Its toxics, in the order in which bytes meet them.
    """

    body: ProxyBody
    toxics: tuple[Toxic, ...] = ()


class ToxicSection(Section):
    """A toxic, in the words of Toxiproxy's API."""

    type: Text = Field(description="latency, bandwidth, slow_close, timeout, reset_peer, slicer or limit_data.")
    name: Text | None = Field(default=None, description="Unique within the proxy; TYPE_STREAM when not given.")
    stream: Text | None = Field(default=None, description="upstream or downstream (the default).")
    toxicity: float | None = Field(default=None, description="Share of connections that it works on, 0 to 1.")
    attributes: dict[str, Any] = Field(default_factory=dict, description="What it does; see Toxiproxy's API.")


class LinksSection(Section):
    """Links that all connections of a proxy share."""

    upstream: LinkConditionsSection | None = Field(default=None, description="From the clients to the upstream.")
    downstream: LinkConditionsSection | None = Field(default=None, description="Back.")
    client_card: Text | None = Field(default=None, description="Name of the network card at the clients' end.")
    server_card: Text | None = Field(default=None, description="Name of the network card at the upstream's end.")


class ProxySection(Section):
    """A proxy."""

    name: Text = Field(description="Its name in the API.")
    listen: Text = Field(default="", description="host:port; without a host 127.0.0.1, port 0 for any.")
    upstream: Text = Field(description="host:port that it connects to.")
    enabled: Flag = Field(default=True, description="Whether it listens from the start.")
    toxics: list[ToxicSection] = Field(default_factory=list, description="In the order in which bytes meet them.")
    links: LinksSection = Field(default_factory=LinksSection, description="Links behind the toxics.")


class CardSection(Section):
    """A network card that the links of several proxies share."""

    sending: BytesPerSecond | None = Field(default=None, description="Rate of what leaves it; not limited without it.")
    receiving: BytesPerSecond | None = Field(default=None, description="Rate of what comes in; likewise.")

    def to_domain(self, name: str) -> Card:
        """The proxy's value."""
        return Card(
            name=name,
            sending=None if self.sending is None else NicClock(self.sending),
            receiving=None if self.receiving is None else NicClock(self.receiving),
        )


class ProxyFileSection(FileSection):
    """A file of proxies."""

    proxies: list[ProxySection] = Field(description="The proxies.")
    cards: dict[str, CardSection] = Field(default_factory=dict, description="Network cards by name.")


def read_proxy_file(path: Path) -> ProxyFile:
    """The proxies of a file: YAML by its suffix, else the JSON list that Toxiproxy reads.

    Raises:
        ScenarioError: All that is wrong with the file.
    """
    if path.suffix.lower() in YAML_SUFFIXES:
        return _read_yaml(path)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ScenarioError(Problem(str(path), None, "", None, f"cannot be read: {reason}", "name a file")) from error
    if len(data) > MAX_BYTES:
        raise ScenarioError(Problem(str(path), None, "", None, f"larger than {MAX_BYTES} bytes", "split it"))
    try:
        return ProxyFile(entries=tuple(ProxyEntry(body=body) for body in read_proxy_list(parse_json(data))))
    except ApiError as error:
        raise ScenarioError(Problem(str(path), None, "", None, error.message, "")) from error


def read_link(written: object) -> Link:
    """A link from a request of the API, in the words of the files.

    Raises:
        ValueError: All that is wrong with it.
    """
    try:
        section = LinkConditionsSection.model_validate(written)
    except ValidationError as error:
        found = error.errors(include_url=False)[:MAX_TOLD]
        raise ValueError("; ".join(f"{dotted(each['loc'])}: {each['msg']}" for each in found)) from error
    if section.schedule is not None and section.schedule.trace is not None:
        raise ValueError("schedule.trace: a request may not name a file; send its steps, or name it in --config")
    return _link(section, written, Path())


def _link(section: LinkConditionsSection, written: object, folder: Path) -> Link:
    conditions = section.to_domain()
    schedule = None if section.schedule is None else section.schedule.to_domain(folder, conditions)
    if schedule is not None and schedule.repeat_s is not None and schedule.repeat_s < LEAST_REPEAT_S:
        raise NetworkError(f"schedule.repeat: it must be at least {LEAST_REPEAT_S:g} s here")
    return Link(conditions=conditions, schedule=schedule, shown=written if isinstance(written, dict) else {})


def _read_yaml(path: Path) -> ProxyFile:
    tree = read_yaml(path)
    try:
        file = ProxyFileSection.model_validate(tree.plain())
    except ValidationError as error:
        found = error.errors(include_url=False)
        raise ScenarioError(problem_at(tree, each["loc"], each["msg"], "") for each in found) from error
    crossing = _Crossing(tree, path.parent)
    entries = tuple(crossing.proxy(index, proxy, file) for index, proxy in enumerate(file.proxies))
    if crossing.problems:
        raise ScenarioError(crossing.problems)
    cards = tuple(card.to_domain(name) for name, card in file.cards.items())
    return ProxyFile(entries=tuple(entry for entry in entries if entry is not None), cards=cards)


class _Crossing:
    """From a file's sections to the proxy's values, with everything that is wrong on the way."""

    def __init__(self, tree: Tree, folder: Path) -> None:
        self.problems: list[Problem] = []
        self._tree = tree
        self._folder = folder
        self._names: set[str] = set()

    def proxy(self, index: int, proxy: ProxySection, file: ProxyFileSection) -> ProxyEntry | None:
        where: TreePath = ("proxies", index)
        if proxy.name in self._names:
            self._problem((*where, "name"), "another proxy has this name", "choose another")
        self._names.add(proxy.name)
        body = self._tried(where, lambda: read_new_proxy(proxy.model_dump(exclude={"toxics", "links"})))
        toxics = [
            self._tried((*where, "toxics", number), partial(read_new_toxic, toxic.model_dump(exclude_none=True)))
            for number, toxic in enumerate(proxy.toxics)
        ]
        links = self._links((*where, "links"), proxy.links, file)
        if body is None:
            return None
        made = tuple(toxic for toxic in toxics if toxic is not None)
        return ProxyEntry(body=replace(body, links=links), toxics=made)

    def _links(self, where: TreePath, links: LinksSection, file: ProxyFileSection) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for direction in DIRECTIONS:
            section = getattr(links, direction)
            if section is not None:
                part = self._tree.at((*where, direction))
                written = None if part is None else part.plain()
                found[direction] = self._tried((*where, direction), partial(_link, section, written, self._folder))
        for side in SIDES:
            name = getattr(links, side)
            if name is None:
                continue
            if name not in file.cards:
                self._problem((*where, side), "there is no such card", f"cards has {', '.join(file.cards) or 'none'}")
            found[side] = name
        return found

    def _tried(self, where: TreePath, make: Callable[[], T]) -> T | None:
        try:
            return make()
        except ApiError as error:
            self._problem(where, error.message, "")
        except NetworkError as error:
            for line in str(error).splitlines():
                self._problem(where, line, "")
        return None

    def _problem(self, where: TreePath, rule: str, remedy: str) -> None:
        self.problems.append(problem_at(self._tree, where, rule, remedy))
