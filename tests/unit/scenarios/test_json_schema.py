from __future__ import annotations

from typing import Any

import jsonschema
import pytest

from scenarios.json_schema import json_schema
from scenarios.library import find_in_library, library_names
from scenarios.loader import load_scenario
from scenarios.yaml_text import read_yaml

VALIDATOR = jsonschema.Draft202012Validator(json_schema())


def scenario() -> dict[str, Any]:
    path = find_in_library("scenario", "quickstart")
    assert path is not None
    value = read_yaml(path).plain()
    assert isinstance(value, dict)
    return dict(value)


def test_the_schema_is_one_and_says_what_it_is() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())
    assert json_schema()["$id"]
    assert json_schema()["title"]
    assert json_schema()["description"]


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
