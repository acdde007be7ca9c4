"""JSON Schemas of the files that users write, for editors."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from scenarios.proxy_files import ProxyFileSection
from scenarios.schema import ScenarioSection
from scenarios.schema_parts import Section
from scenarios.schema_topology import TopologySection
from scenarios.studies.schema import StudySection


class FileKind(StrEnum):
    """Which file."""

    SCENARIO = "scenario"
    """A run: ``helixemu run``."""
    STUDY = "study"
    """A question about many runs: ``helixemu study``."""
    PROXY = "proxy"
    """Proxies to start with: ``helixemu proxy --config``."""
    NET = "net"
    """Hosts and links in the kernel: ``helixemu net up``."""


_FILES: dict[FileKind, tuple[type[Section], str]] = {
    FileKind.SCENARIO: (
        ScenarioSection,
        "One run of a Helix-style LLM serving cluster: model, cluster, placement, scheduler, workload.",
    ),
    FileKind.STUDY: (StudySection, "A scenario with axes, seeds, prices and a question."),
    FileKind.PROXY: (ProxyFileSection, "Proxies, their toxics and their links."),
    FileKind.NET: (TopologySection, "Hosts, and the shaped links between them."),
}


def json_schema(kind: FileKind = FileKind.SCENARIO) -> dict[str, Any]:
    """The schema (draft 2020-12) of a file.

    It says what a file may look like; what only the loader can check (names, files, layer gaps) is beyond it.

    Args:
        kind: Which file.
    """
    section, description = _FILES[kind]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:helix-emulator:{kind}:1",
        **section.model_json_schema(by_alias=True, mode="validation"),
        "title": f"helix-emulator {kind}",
        "description": description,
    }
