"""How much of real time this machine can do: lateness, processor time, and the fastest clock that it keeps up with."""

from __future__ import annotations

from typing import Any

import pytest

from emulator.realtime.emulation import RealTime
from emulator.realtime.network import TimeMode
from scenarios.loader import load_scenario
from scenarios.runner import run_scenario

WALL_S = 10.0
DILATIONS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
SCENARIOS = (
    ("quickstart", ()),
    ("small-6-geo-30b", ("jitter",)),
    ("helix-24-70b-online", ()),
    ("helix-24-70b-offline", ()),
    ("helix-24-30b-swarm", ()),
    ("helix-42-70b", ()),
)


def run(name: str, overrides: tuple[str, ...], **settings: Any) -> dict[str, Any]:
    duration = WALL_S * settings.get("dilation", 1.0)
    loaded = load_scenario(name, overrides=overrides, sets=[f"duration={duration} s", f"warm_up={duration / 5} s"])
    return run_scenario(loaded, real_time=RealTime(priority=10, **settings))


def row(name: str, settings: str, summary: dict[str, Any]) -> str:
    figures = summary["real_time"]
    events, messages = figures["event_lateness_s"], figures["frame_lateness_s"]

    def ms(value: float | None) -> str:
        return "-" if value is None else f"{value * 1e3:.2f}"

    wall_s = summary["sim_s"] / figures["dilation_achieved"]
    return (
        f"{name:22} {settings:16} {summary['cpu_s'] / wall_s:5.0%} {messages['count'] / wall_s:8.0f} "
        f"{figures['received_bytes'] / wall_s / 1e6:7.0f} {ms(events['p50']):>7} {ms(events['p95']):>7} "
        f"{ms(messages['p50']):>7} {ms(messages['p95']):>7}  {'yes' if figures['kept_up'] else 'no'}"
    )


@pytest.mark.benchmark
@pytest.mark.parametrize(("name", "overrides"), SCENARIOS, ids=lambda value: str(value))
def test_what_keeps_up(name: str, overrides: tuple[str, ...]) -> None:
    late = f"{'events ms late':>15} {'messages':>15}"
    print(f"\n{'scenario':22} {'settings':16} {'CPU':>5} {'msgs/s':>8} {'MB/s':>7} {late}  ok")
    for mode in TimeMode:
        for dilation in DILATIONS:
            summary = run(name, overrides, dilation=dilation, mode=mode)
            print(row(name, f"{mode} x{dilation:g}", summary))
            if not summary["real_time"]["kept_up"]:
                break


@pytest.mark.benchmark
def test_processes() -> None:
    print()
    for workers in (0, 1, 2):
        summary = run("helix-24-70b-online", (), workers=workers)
        violations = summary["real_time"]["causality_violations"]
        print(row("helix-24-70b-online", f"{workers} workers", summary), f"({violations} causality violations)")
