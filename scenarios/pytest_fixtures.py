"""The fixture ``emulated_cluster``, registered where pytest-asyncio is there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from scenarios.pytest_plugin import marker_options

if TYPE_CHECKING:
    from scenarios.emulated_cluster import EmulatedCluster


@pytest_asyncio.fixture(loop_scope="function")
async def emulated_cluster(request: pytest.FixtureRequest, scenario_file: str) -> AsyncIterator[EmulatedCluster]:
    """The scenario of the mark, running; its keywords are those of the mark."""
    from scenarios.emulated_cluster import EmulatedCluster

    async with EmulatedCluster(scenario_file, **marker_options(request.node)) as cluster:
        yield cluster
