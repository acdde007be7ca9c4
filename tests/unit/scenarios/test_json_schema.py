from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from scenarios.errors import ScenarioError
from scenarios.json_schema import FileKind, json_schema
from scenarios.library import find_in_library, library_names
from scenarios.loader import load_scenario
from scenarios.proxy_files import read_proxy_file
from scenarios.schema_topology import read_topology
from scenarios.yaml_text import read_yaml

VALIDATOR = jsonschema.Draft202012Validator(json_schema())


def scenario() -> dict[str, Any]:
    path = find_in_library("scenario", "quickstart")
    assert path is not None
    value = read_yaml(path).plain()
    assert isinstance(value, dict)
    return dict(value)


@pytest.mark.parametrize("kind", list(FileKind))
def test_each_schema_is_one_and_says_what_it_is(kind: FileKind) -> None:
    schema = json_schema(kind)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$id"] == f"urn:helix-emulator:{kind}:1"
    assert schema["title"] == f"helix-emulator {kind}"
    assert schema["description"]


PROXIES = """
proxies:
  - name: a
    listen: 127.0.0.1:0
    upstream: 127.0.0.1:9
    toxics: [{type: latency, attributes: {latency: 5}}]
    links: {upstream: {bandwidth: 10 Mbit/s, latency: 20 ms}, client_card: card}
cards: {card: {sending: 1 Gbit/s}}
"""
HOSTS = """
schema_version: 1
backend: tun
hosts: [{name: paris}, {name: oslo}]
links: [{between: [paris, oslo], bandwidth: 100 Mbit/s, latency: 20 ms, loss: {probability: 0.001}}]
"""


@pytest.mark.parametrize(
    ("kind", "good", "read", "slips"),
    [
        (
            FileKind.PROXY,
            PROXIES,
            read_proxy_file,
            [("listen", "lisen"), ("20 ms", "20"), ("1 Gbit/s", "1 GB")],
        ),
        (FileKind.NET, HOSTS, read_topology, [("tun", "tap"), ("name: oslo", "nom: oslo"), ("100 Mbit/s", "100 ms")]),
    ],
)
def test_a_file_fits_and_its_slips_do_not(
    kind: FileKind, good: str, read: Callable[[Path], object], slips: list[tuple[str, str]], tmp_path: Path
) -> None:
    validator = jsonschema.Draft202012Validator(json_schema(kind))
    file = tmp_path / "file.yaml"
    file.write_text(good)
    validator.validate(read_yaml(file).plain())
    read(file)
    for right, wrong in slips:
        file.write_text(good.replace(right, wrong, 1))
        assert not validator.is_valid(read_yaml(file).plain()), wrong
        with pytest.raises(ScenarioError):
            read(file)


@pytest.mark.parametrize("name", library_names("scenario"))
def test_shipped_and_resolved_scenarios_fit(name: str) -> None:
    path = find_in_library("scenario", name)
    assert path is not None
    VALIDATOR.validate(read_yaml(path).plain())
    VALIDATOR.validate(load_scenario(name).resolved)


@pytest.mark.parametrize("kind", ["cluster", "model"])
def test_shipped_parts_fit_in_place_of_their_name(kind: str) -> None:
    for name in library_names(kind):
        path = find_in_library(kind, name)
        assert path is not None
        VALIDATOR.validate(scenario() | {kind: read_yaml(path).plain()})
        VALIDATOR.validate(scenario() | {kind: {"include": str(path)}})


@pytest.mark.parametrize(
    "change",
    [
        {"duratoin": "60 s"},
        {"duration": 60},
        {"duration": "60 GB"},
        {"schema_version": 2},
        {"placement": {"planner": "swarm", "ranges": {"a": [0, 1]}}},
        {"placement": {}},
        {"workload": {"kind": "open"}},
        {"seed": -1},
        {"cluster": {"include": "c.yaml", "name": "x"}},
    ],
)
def test_an_editor_would_mark_slips(change: dict[str, Any]) -> None:
    assert not VALIDATOR.is_valid(scenario() | change)
