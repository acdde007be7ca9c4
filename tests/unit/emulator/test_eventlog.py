"""The event log: levels, hash, size limit."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from small_runs import constant, placed, toy_cluster, toy_spec

from emulator.emulation import Emulation
from emulator.eventlog import EventLog
from emulator.requests import Request
from emulator.spec import EmulationSpec, LogLevel, SchedulerSpec, WhenFull


def two_nodes(level: LogLevel, **changes: Any) -> EmulationSpec:
    return toy_spec(
        cluster=toy_cluster(("n0", "n1"), kv_capacity=4 * 250),
        placement=placed(n0=(0, 2), n1=(2, 4)),
        scheduler=SchedulerSpec(policy="round-robin"),
        workload=constant(6, prompt=100, output=30),
        when_full=WhenFull.PREEMPT,
        duration_s=10.0,
        log_level=level,
        **changes,
    )


def logged(spec: EmulationSpec, **options: Any) -> tuple[dict[str, Any], bytes]:
    pieces: list[bytes] = []
    summary = Emulation(spec, log_sink=pieces.append, **options).run()
    return summary, b"".join(pieces)


def events_of(log: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.splitlines()]


def test_levels_nest() -> None:
    lines = {level: logged(two_nodes(level))[1].splitlines() for level in LogLevel}
    kinds = {level: {json.loads(line)["event"] for line in found} for level, found in lines.items()}
    assert kinds[LogLevel.REQUESTS] >= {"arrival", "admitted", "routed", "first_token", "finished", "preempted"}
    assert kinds[LogLevel.BATCHES] == kinds[LogLevel.REQUESTS] | {"batch"}
    assert kinds[LogLevel.HOPS] == kinds[LogLevel.BATCHES] | {"transfer"}
    without_transfers = [line for line in lines[LogLevel.HOPS] if b'"event":"transfer"' not in line]
    assert without_transfers == lines[LogLevel.BATCHES]
    without_batches = [line for line in without_transfers if b'"event":"batch"' not in line]
    assert without_batches == lines[LogLevel.REQUESTS]


@pytest.mark.parametrize("level", list(LogLevel))
def test_the_hash_is_that_of_what_the_sink_got(level: LogLevel) -> None:
    summary, log = logged(two_nodes(level))
    assert summary["event_log_sha256"] == hashlib.sha256(log).hexdigest()
    assert summary["event_log_lines"] == len(log.splitlines())
    without_sink = Emulation(two_nodes(level)).run()
    assert without_sink["event_log_sha256"] == summary["event_log_sha256"]


def test_every_request_has_one_arrival_and_at_most_one_end() -> None:
    summary, log = logged(two_nodes(LogLevel.REQUESTS))
    events = events_of(log)
    arrivals = [event["request"] for event in events if event["event"] == "arrival"]
    ends = [event["request"] for event in events if event["event"] in ("finished", "rejected", "failed")]
    assert arrivals == list(range(summary["requests"]["submitted"]))
    assert len(set(ends)) == len(ends) == summary["requests"]["finished"] > 0
    assert sum(event["event"] == "preempted" for event in events) == summary["preemptions"] > 0


def test_batches_add_up_to_the_figures_of_the_nodes() -> None:
    summary, log = logged(two_nodes(LogLevel.BATCHES))
    for name, figures in summary["nodes"].items():
        batches = [event for event in events_of(log) if event["event"] == "batch" and event["node"] == name]
        assert len(batches) == figures["batches"]
        # The figure has the part of a batch that was under way at the end; the log has no line for it yet.
        under_way_s = figures["utilisation"] * 10.0 - sum(event["duration_s"] for event in batches)
        assert -1e-6 <= under_way_s <= max(event["duration_s"] for event in batches)
        assert max(event["kv_used"] for event in batches) / 1000 == figures["kv_peak"]
        assert sum(event["prompts"] + event["decodes"] for event in batches) / len(batches) == pytest.approx(
            figures["mean_batch"]
        )


def test_transfers_add_up_to_the_figures_of_the_links() -> None:
    summary, log = logged(two_nodes(LogLevel.HOPS))
    for name, figures in summary["links"].items():
        transfers = [event for event in events_of(log) if event["event"] == "transfer" and event["link"] == name]
        assert sum(len(event["requests"]) for event in transfers) == figures["messages"] > 0
        size = 1002 if name == "n0->n1" else 2
        assert sum(event["tokens"] for event in transfers) * size == figures["bytes"]


def test_a_size_limit_cuts_the_log_at_a_line_but_the_hash_goes_on() -> None:
    whole_summary, whole = logged(two_nodes(LogLevel.HOPS))
    summary, log = logged(two_nodes(LogLevel.HOPS), log_limit_bytes=10_000)
    assert len(whole) > 100_000
    *lines, last = log.splitlines(keepends=True)
    assert json.loads(last)["event"] == "truncated"
    assert len(b"".join(lines)) <= 10_000
    assert whole.startswith(b"".join(lines))
    assert summary["event_log_sha256"] == whole_summary["event_log_sha256"]
    assert summary["event_log_lines"] == whole_summary["event_log_lines"]


def test_a_limit_below_the_first_line_leaves_the_note_alone() -> None:
    pieces: list[bytes] = []
    log = EventLog(pieces.append, limit_bytes=5)
    log.arrival(0.0, Request(0, 0.0, 1, 1))
    log.flush()
    log.arrival(1.0, Request(1, 1.0, 1, 1))
    log.flush()
    assert [event["event"] for event in events_of(b"".join(pieces))] == ["truncated"]
    assert (log.truncated, log.lines) == (True, 2)


def test_names_with_quotes_stay_valid_json() -> None:
    odd = 'a"b\\c'
    spec = toy_spec(cluster=toy_cluster((odd,)), placement=placed(**{odd: (0, 4)}), log_level=LogLevel.HOPS)
    _, log = logged(spec)
    events = events_of(log)
    assert {event["node"] for event in events if event["event"] == "batch"} == {odd}
    assert {event["link"] for event in events if event["event"] == "transfer"} == {
        f"coordinator->{odd}",
        f"{odd}->coordinator",
    }
    assert [event["pipeline"] for event in events if "pipeline" in event] == [f"{odd}:0-4"]
