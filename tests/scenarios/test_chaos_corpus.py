"""Small scenarios that once showed a defect: each is in order now, and stays so."""

from __future__ import annotations

from pathlib import Path

import pytest

from scenarios.chaos import judge
from scenarios.loader import load_scenario

CORPUS = sorted((Path(__file__).parent / "chaos").glob("*.yaml"))


def test_there_are_some() -> None:
    assert len(CORPUS) >= 7


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_once_failing(path: Path) -> None:
    verdict = judge(load_scenario(path).spec, twice=True)
    assert not verdict.refused
    assert verdict.rule is None, verdict
    assert verdict.events > 20
