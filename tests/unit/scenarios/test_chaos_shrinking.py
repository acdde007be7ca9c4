"""The shrinker, on made-up failures."""

from __future__ import annotations

import copy
from typing import Any

from scenarios.chaos_cases import chaos_case
from scenarios.chaos_shrinking import shrink
from scenarios.loader import LoadedScenario, load_document
from scenarios.yaml_text import dump_yaml


def case_with(kind: str) -> dict[str, Any]:
    """The first case of some size with such an event."""
    for number in range(1_000):
        document = chaos_case(11, number).document
        if len(document["cluster"]["nodes"]) > 4 and sum(kind in event for event in document["churn"]["events"]) == 1:
            return document
    raise AssertionError(f"no case with {kind}")


def has(kind: str, loaded: LoadedScenario) -> bool:
    return any(kind in event for event in loaded.resolved["churn"].get("events", ()))


def test_what_does_not_matter_goes() -> None:
    document = case_with("partition")
    before = copy.deepcopy(document)
    small = shrink(document, lambda loaded: has("partition", loaded), 2_000)
    assert document == before
    found = small.document
    assert [list(event)[1] for event in found["churn"]["events"]] == ["partition"]
    assert len(found["cluster"]["nodes"]) <= 2
    assert len(found["cluster"]["machines"]) == len(found["profiles"]) == 1
    assert found["model"]["layers"] <= 2
    assert found["workload"].get("initial_requests", 1) == 1
    assert "random" not in found["churn"]
    assert "initially_down" not in found["churn"]
    assert len(dump_yaml(found)) < len(dump_yaml(document)) / 2
    assert load_document(found, "small").spec == small.loaded.spec


def test_it_comes_to_an_end_by_itself() -> None:
    """Simpler choices are ordered, so that none leads back; then shrinking again changes nothing."""
    small = shrink(case_with("degrade"), lambda _loaded: True, 5_000)
    assert small.tries < 1_000
    again = shrink(small.document, lambda _loaded: True, 5_000)
    assert again.document == small.document


def test_it_repeats() -> None:
    document = case_with("crash")
    one, other = (shrink(document, lambda loaded: has("crash", loaded), 300) for _ in range(2))
    assert (one.document, one.tries) == (other.document, other.tries)


def test_tries_are_bounded() -> None:
    document = case_with("drain")
    tried: list[LoadedScenario] = []

    def fails(loaded: LoadedScenario) -> bool:
        tried.append(loaded)
        return False

    assert shrink(document, fails, 25).document == document
    assert len(tried) == 25


def test_what_is_needed_stays() -> None:
    """A failure that needs two events and its full length keeps them."""
    document = case_with("down")

    def fails(loaded: LoadedScenario) -> bool:
        return has("down", loaded) and loaded.spec.duration_s > 3 and len(loaded.spec.cluster.nodes) >= 3

    found = shrink(document, fails, 1_000).document
    assert len(found["cluster"]["nodes"]) == 3
    assert sum("down" in event for event in found["churn"]["events"]) == 1
    assert load_document(found, "small").spec.duration_s > 3
