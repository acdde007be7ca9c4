"""Files that say which proxies ``helixemu proxy`` starts with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, ValidationError

from netshape.proxy.bodies import ProxyBody, parse_json, read_new_proxy, read_new_toxic, read_proxy_list
from netshape.proxy.errors import ApiError
from netshape.proxy.toxics.toxic import Toxic
from scenarios.errors import Problem, ScenarioError
from scenarios.schema_parts import FileSection, Flag, Section, Text
from scenarios.tree import Tree, TreePath
from scenarios.validation import problem_at
from scenarios.yaml_text import read_yaml

YAML_SUFFIXES = (".yaml", ".yml")
MAX_BYTES = 2_000_000

T = TypeVar("T")


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


class ProxySection(Section):
    """A proxy."""

    name: Text = Field(description="Its name in the API.")
    listen: Text = Field(default="", description="host:port; without a host 127.0.0.1, port 0 for any.")
    upstream: Text = Field(description="host:port that it connects to.")
    enabled: Flag = Field(default=True, description="Whether it listens from the start.")
    toxics: list[ToxicSection] = Field(default_factory=list, description="In the order in which bytes meet them.")


class ProxyFileSection(FileSection):
    """A file of proxies."""

    proxies: list[ProxySection] = Field(description="The proxies.")


def read_proxy_file(path: Path) -> list[ProxyEntry]:
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
        return [ProxyEntry(body=body) for body in read_proxy_list(parse_json(data))]
    except ApiError as error:
        raise ScenarioError(Problem(str(path), None, "", None, error.message, "")) from error


def _read_yaml(path: Path) -> list[ProxyEntry]:
    tree = read_yaml(path)
    try:
        file = ProxyFileSection.model_validate(tree.plain())
    except ValidationError as error:
        found = error.errors(include_url=False)
        raise ScenarioError(problem_at(tree, each["loc"], each["msg"], "") for each in found) from error
    problems: list[Problem] = []
    entries: list[ProxyEntry] = []
    names: set[str] = set()
    for index, proxy in enumerate(file.proxies):
        where: TreePath = ("proxies", index)
        if proxy.name in names:
            problems.append(problem_at(tree, (*where, "name"), "another proxy has this name", "choose another"))
        names.add(proxy.name)
        plain = proxy.model_dump(exclude={"toxics"})
        body = _read(read_new_proxy, plain, tree, where, problems)
        toxics = [
            _read(read_new_toxic, toxic.model_dump(exclude_none=True), tree, (*where, "toxics", number), problems)
            for number, toxic in enumerate(proxy.toxics)
        ]
        if body is not None:
            entries.append(ProxyEntry(body=body, toxics=tuple(toxic for toxic in toxics if toxic is not None)))
    if problems:
        raise ScenarioError(problems)
    return entries


def _read(
    read: Callable[[Any], T], plain: dict[str, Any], tree: Tree, where: TreePath, problems: list[Problem]
) -> T | None:
    try:
        return read(plain)
    except ApiError as error:
        problems.append(problem_at(tree, where, error.message, ""))
        return None
