"""JSON Schema of a scenario file, for editors."""

from __future__ import annotations

from typing import Any

from scenarios.schema import ScenarioSection

SCHEMA_ID = "urn:helix-emulator:scenario:1"


def json_schema() -> dict[str, Any]:
    """The schema (draft 2020-12) of a scenario file.

    It says what a file may look like; what only the loader can check (names, files, layer gaps) is beyond it.
    """
    schema = ScenarioSection.model_json_schema(by_alias=True, mode="validation")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        **schema,
        "title": "helix-emulator scenario",
        "description": "One run of a Helix-style LLM serving cluster: model, cluster, placement, scheduler, workload.",
    }
