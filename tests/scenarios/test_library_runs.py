"""Every scenario that ships runs, with figures that make sense, and the same way every time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from emulator.emulation import Emulation
from scenarios.library import list_library
from scenarios.loader import load_scenario

ROOT = Path(__file__).resolve().parents[2]
SHORT = ["duration=150 s", "warm_up=30 s"]
FIRST_TOKENS_LATE = {"helix-24-geo-70b": 400}
"""Scenarios on slow links, and how many seconds they need until something comes out."""


def short_run(name: str) -> dict[str, Any]:
    sets = [f"duration={FIRST_TOKENS_LATE[name]} s", SHORT[1]] if name in FIRST_TOKENS_LATE else SHORT
    return Emulation(load_scenario(name, sets=sets).spec).run()


@pytest.mark.parametrize("name", [entry.name for entry in list_library("scenario")])
def test_library_scenario(name: str) -> None:
    summary = short_run(name)
    counts = summary["requests"]
    assert counts["finished"] > 0
    assert counts["submitted"] == sum(counts[key] for key in ("finished", "rejected", "failed", "in_flight"))
    assert 0 < summary["decode_throughput_tokens_per_s"] < summary["total_throughput_tokens_per_s"]
    assert 0 < summary["max_flow_tokens_per_s"] <= summary["flow_upper_bound_tokens_per_s"] * (1 + 1e-9)
    assert sum(edge["capacity_tokens_per_s"] for edge in summary["min_cut"]) == pytest.approx(
        summary["max_flow_tokens_per_s"]
    )
    # Batches are counted when they end, so one that began in the warm-up counts whole.
    assert all(0 <= node["utilisation"] <= 1.03 for node in summary["nodes"].values())
    assert max(node["utilisation"] for node in summary["nodes"].values()) > 0.1
    assert all(0 <= node["kv_peak"] <= 1 for node in summary["nodes"].values())
    assert all(0 <= link["utilisation"] <= 1 for link in summary["links"].values())
    for key in ("ttft_s", "itl_s", "e2e_s", "prefill_latency_s", "decode_latency_s"):
        figures = summary[key]
        assert figures["count"] > 0
        ordered = [figures[each] for each in ("min", "p5", "p25", "p50", "p75", "p95", "p99", "max")]
        assert ordered == sorted(ordered)
        assert ordered[0] > 0


def hash_in_a_process(scenario: str, hash_seed: str, *sets: str) -> str:
    command = [sys.executable, "-m", "scenarios.cli", "run", scenario, "--json", "-"]
    done = subprocess.run(
        [*command, *(argument for one in sets for argument in ("--set", one))],
        capture_output=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
    )
    found = json.loads(done.stdout)["event_log_sha256"]
    assert isinstance(found, str)
    return found


@pytest.mark.parametrize(
    ("name", "sets"),
    [("quickstart", []), ("helix-24-70b-online", ["duration=60 s"]), ("lose-one-a100-24", ["duration=260 s"])],
)
def test_two_processes_give_the_same_log(name: str, sets: list[str]) -> None:
    assert hash_in_a_process(name, "1", *sets, "seed=5") == hash_in_a_process(name, "4242", *sets, "seed=5")


@pytest.mark.parametrize("name", ["small-6-30b", "helix-24-70b-online", "helix-24-30b-swarm"])
def test_another_seed_gives_another_log(name: str) -> None:
    hashes = [
        Emulation(load_scenario(name, sets=["duration=30 s", "warm_up=0 s", f"seed={seed}"]).spec).run()[
            "event_log_sha256"
        ]
        for seed in (5, 5, 6)
    ]
    assert hashes[0] == hashes[1] != hashes[2]
