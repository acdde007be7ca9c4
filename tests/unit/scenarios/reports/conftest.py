"""What the tests of reports share: a quiet run and one with churn, at every level of the event log, and a browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report_browser import started

from scenarios.loader import load_scenario
from scenarios.runner import run_scenario


def run_of(folder: Path, scenario: str, *sets: str) -> Path:
    run_scenario(load_scenario(scenario, sets=sets), out=folder)
    return folder


@pytest.fixture(scope="session")
def hops_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sets = (
        "output={event_log: hops, token_times: true}",
        "duration=20 s",
        "warm_up=4 s",
        "slo={ttft: 1 s, tpot: 300 ms}",
    )
    return run_of(tmp_path_factory.mktemp("runs") / "hops", "quickstart", *sets)


@pytest.fixture(scope="session")
def churn_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sets = ("output={event_log: hops, token_times: true}", "duration=60 s")
    return run_of(tmp_path_factory.mktemp("runs") / "churn", "quickstart-churn", *sets)


@pytest.fixture(scope="session")
def requests_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sets = ("output.event_log=requests", "duration=20 s", "warm_up=0 s")
    return run_of(tmp_path_factory.mktemp("runs") / "requests", "quickstart", *sets)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    yield from started(tmp_path_factory.mktemp("chromium"))
