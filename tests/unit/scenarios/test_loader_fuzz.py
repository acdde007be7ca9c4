"""Whatever a scenario holds: it loads, or a ScenarioError comes out, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scenarios.errors import ScenarioError
from scenarios.loader import LoadedScenario, load_scenario
from scenarios.yaml_text import dump_yaml

Data = dict[str, Any]


def write(folder: Path, data: Data, name: str = "scenario.yaml") -> Path:
    path = folder / name
    path.write_text(dump_yaml(data))
    return path


def attempt(source: Path | str, **options: Any) -> LoadedScenario | None:
    """The scenario, or ``None`` after a scenario error that says something; anything else goes through."""
    try:
        return load_scenario(source, **options)
    except ScenarioError as caught:
        error = caught
    assert str(error)
    assert all(problem.file and problem.rule for problem in error.problems)
    return None


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 200),
    st.sampled_from([10**15, -(10**15)]),
    st.floats(),
    st.text(alphabet=st.characters(codec="utf-8"), max_size=8),
    st.sampled_from(
        ["1 s", "1 GB", "1 GB/s", "-1 s", "nan s", "library", "swarm", "a:b", ".:x", "/dev/zero", "*", "x/y"]
    ),
)
REPLACEMENTS = st.one_of(
    SCALARS,
    st.lists(SCALARS, max_size=3),
    st.dictionaries(st.sampled_from(["include", "name", "kind", "file", "0", "x"]), SCALARS, max_size=2),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        # Long number tables would take all the draws.
        if len(path) < 8 and not (isinstance(key, int) and key > 2):
            found += places(part, (*path, key))
    return found


def mutate(data: Data, path: tuple[Any, ...], change: Callable[[Any, Any], None]) -> None:
    part: Any = data
    for key in path[:-1]:
        known = part if isinstance(part, dict) else range(len(part)) if isinstance(part, list) else ()
        if key not in known:
            return
        part = part[key]
    if isinstance(part, (dict, list)):
        change(part, path[-1])


CHURN: Data = {
    "events": [
        {"at": "10 s", "crash": "a100-0", "for": "5 s"},
        {"at": "20 s", "degrade": {"from": "t4-*", "to": ["l4-0", "coordinator"]}, "bandwidth": 0.5},
        {"at": "30 s", "partition": [["a100-0"], [{"machine": "T4"}]], "for": "1 s"},
    ],
    "random": [{"preempt": {"machine": "T4"}, "mtbf": "1 h", "mttr": "1 min", "together": {"region": 0.5}}],
    "initially_down": ["l4-1"],
    "detection": {"interval": "1 s", "timeout": "3 s"},
    "in_flight": {"policy": "retry", "deadline": "1 min"},
    "recovery": {"policy": "reroute", "weights": "peer"},
}
SOURCES = [
    {
        **load_scenario("quickstart").resolved,
        "churn": CHURN,
        "expect": {"requests.failed": [">= 0", "< 9"], "ttft_s": {"p50": "<= 1 h"}, "nodes.*.utilisation": "<= 100 %"},
    },
    load_scenario("quickstart").resolved,
    load_scenario("small-6-30b").resolved,
    {**load_scenario("quickstart").resolved, "cluster": "small-6", "placement": {"planner": "petals"}},
    {**load_scenario("helix-24-geo-70b").resolved, "profiles": ["library"]},
]
PLACES = [places(source) for source in SOURCES]


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(draws=st.data())
def test_mutated_scenarios_load_or_give_a_scenario_error(draws: st.DataObject, tmp_path: Path) -> None:
    index = draws.draw(st.integers(0, len(SOURCES) - 1))
    data = json.loads(json.dumps(SOURCES[index]))
    for _ in range(draws.draw(st.integers(1, 3))):
        path = draws.draw(st.sampled_from(PLACES[index]))
        action = draws.draw(st.sampled_from(["delete", "replace", "rename"]))
        new = draws.draw(REPLACEMENTS)

        def change(part: Any, key: Any, action: str = action, new: Any = new) -> None:
            if isinstance(part, list):
                if isinstance(key, int) and key < len(part):
                    part[key] = new
            elif action == "delete":
                part.pop(key, None)
            elif action == "rename" and key in part:
                part[f"{key}x"] = part.pop(key)
            else:
                part[key] = new

        mutate(data, path, change)
    file = write(tmp_path, data)
    loaded = attempt(file)
    if loaded is not None:
        again = load_scenario(write(tmp_path, loaded.resolved, "again.yaml"))
        assert again.spec == loaded.spec


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=25), min_size=1, max_size=3), st.lists(st.text(max_size=8), max_size=2))
def test_any_command_line_loads_or_gives_a_scenario_error(sets: list[str], overrides: list[str]) -> None:
    attempt("quickstart", sets=[*sets, f"duration={sets[0]}"], overrides=overrides)
