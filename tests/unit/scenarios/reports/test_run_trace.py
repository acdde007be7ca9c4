"""Traces against the Trace Event Format, and against what the run says of itself."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from emulator.realtime.emulation import RealTime
from scenarios.errors import ScenarioError
from scenarios.loader import load_scenario
from scenarios.reports.run_files import read_run
from scenarios.reports.trace import CLUSTER, LINKS, NODES, REQUESTS, Flows, write_trace
from scenarios.runner import run_scenario

Event = dict[str, Any]
# What each phase needs beside ph, pid and ts, by the format's description.
NEEDS = {
    "X": {"tid", "name", "cat", "dur"},
    "b": {"tid", "name", "cat", "id"},
    "e": {"tid", "name", "cat", "id"},
    "n": {"tid", "name", "cat", "id"},
    "s": {"tid", "name", "cat", "id"},
    "t": {"tid", "name", "cat", "id"},
    "f": {"tid", "name", "cat", "id", "bp"},
    "C": {"name", "args"},
    "i": {"tid", "name", "s"},
}
NS = 0.001
"""Microseconds; times are rounded to nanoseconds."""


def traced(run: Path, out: Path, flows: Flows = Flows.PREFILL) -> list[Event]:
    write_trace(read_run(run), out, flows)
    content = json.loads(out.read_text(encoding="utf-8"))
    assert content["displayTimeUnit"] == "ms"
    return content["traceEvents"]  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def quiet(hops_run: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Event]:
    return traced(hops_run, tmp_path_factory.mktemp("traces") / "quiet.json")


@pytest.fixture(scope="module")
def churned(churn_run: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Event]:
    return traced(churn_run, tmp_path_factory.mktemp("traces") / "churn.json", Flows.ALL)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> list[Event]:
    """Two seconds over real sockets: times are what came about, not what was planned."""
    folder = tmp_path_factory.mktemp("real")
    scenario = load_scenario("quickstart", sets=("output.event_log=hops", "duration=2 s", "warm_up=0 s"))
    run_scenario(scenario, out=folder / "run", real_time=RealTime())
    return traced(folder / "run", folder / "trace.json")


@pytest.fixture(params=["quiet", "churned", "real"])
def events(request: pytest.FixtureRequest) -> list[Event]:
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]


def test_every_event_has_what_its_phase_needs(events: list[Event]) -> None:
    for event in events:
        if event["ph"] == "M":
            assert event["name"] in {"process_name", "process_sort_index", "thread_name", "thread_sort_index"}
            continue
        assert event.keys() >= NEEDS[event["ph"]] | {"pid", "ts"}, event
        assert event["ts"] >= 0
        assert event.get("dur", 0) >= 0


def test_time_rises_through_the_file(events: list[Event]) -> None:
    times = [event["ts"] for event in events if event["ph"] != "M"]
    assert times == sorted(times)


def test_batches_of_a_node_do_not_overlap_and_every_track_has_a_name(events: list[Event]) -> None:
    named = {event["tid"] for event in events if event["name"] == "thread_name" and event["pid"] == NODES}
    until: dict[int, float] = defaultdict(float)
    for event in events:
        if event["ph"] == "X":
            assert event["tid"] in named
            assert event["ts"] >= until[event["tid"]] - NS / 2
            until[event["tid"]] = event["ts"] + event["dur"]
    assert set(until) == named


def test_spans_begin_and_end_once(events: list[Event]) -> None:
    spans: dict[tuple[str, int], list[Event]] = defaultdict(list)
    for event in events:
        if event["ph"] in "be":
            spans[event["cat"], event["id"]].append(event)
    assert spans
    for begin, end in spans.values():
        assert (begin["ph"], end["ph"]) == ("b", "e")
        assert (begin["pid"], begin["name"]) == (end["pid"], end["name"])
        assert begin["pid"] == (REQUESTS if begin["cat"] == "request" else LINKS)


def test_flows_start_once_end_once_and_sit_on_batches(events: list[Event]) -> None:
    batches = {(event["tid"], event["ts"]) for event in events if event["ph"] == "X"}
    ways: dict[int, list[Event]] = defaultdict(list)
    for event in events:
        if event["ph"] in "stf":
            ways[event["id"]].append(event)
            assert (event["tid"], event["ts"]) in batches
    assert ways
    for way in ways.values():
        assert [step["ph"] for step in way] == ["s", *["t"] * (len(way) - 2), "f"]
        assert len({step["tid"] for step in way}) == len(way)


def test_a_flow_for_each_first_token(hops_run: Path, quiet: list[Event]) -> None:
    answered = sum(event["event"] == "first_token" for _, event in read_run(hops_run).events())
    assert sum(event["ph"] == "s" for event in quiet) == answered > 10
    stages = {len(row.pipeline.split()) for row in read_run(hops_run).requests()}
    assert stages == {6}
    assert sum(event["ph"] == "t" for event in quiet) == 4 * answered


@pytest.mark.parametrize("kind", ["quiet", "real"])
def test_batches_name_as_many_requests_as_they_hold(kind: str, request: pytest.FixtureRequest) -> None:
    events: list[Event] = request.getfixturevalue(kind)
    assert sum(event["ph"] == "X" for event in events) > 20
    for event in events:
        if event["ph"] == "X":
            args = event["args"]
            assert len(args["requests"]) == args["prompts"] + args["decodes"]


@pytest.mark.parametrize("run", ["hops_run", "churn_run"])
def test_durations_add_up_to_utilisation(run: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    files = read_run(request.getfixturevalue(run))
    begin, end = (1e6 * time for time in files.window)
    events = traced(files.path, tmp_path / "trace.json", Flows.NONE)
    names = {
        event["tid"]: event["args"]["name"].split()[0]
        for event in events
        if event["name"] == "thread_name" and event["pid"] == NODES
    }
    busy: dict[str, float] = dict.fromkeys(names.values(), 0.0)
    last: dict[str, float] = dict.fromkeys(names.values(), begin)
    for event in events:
        if event["ph"] == "X":
            stop = event["ts"] + event["dur"]
            busy[names[event["tid"]]] += max(0.0, stop - max(event["ts"], begin))
            last[names[event["tid"]]] = max(begin, stop)
    crashed = {event["args"]["node"] for event in events if event["ph"] == "i" and event["name"].startswith("crashed")}
    checked = 0
    for name, figures in files.summary["nodes"].items():
        if name in crashed:
            # The summary tells of its latest tenure only.
            continue
        checked += 1
        told = figures["utilisation"] * (end - begin)
        # A batch that is under way at the end counts there, and is in no log.
        assert busy[name] - 1 <= told <= busy[name] + (end - last[name]) + 1
    assert checked >= 5


def test_every_link_that_carried_something_is_a_track(hops_run: Path, quiet: list[Event]) -> None:
    """Transfers of a link have its name and are all there: viewers put those of one name onto one track."""
    told: dict[str, int] = defaultdict(int)
    for _, event in read_run(hops_run).events():
        if event["event"] == "transfer":
            told[event["link"]] += 1
    drawn: dict[str, int] = defaultdict(int)
    for event in quiet:
        if event["ph"] == "b" and event["pid"] == LINKS:
            drawn[event["name"]] += 1
    assert drawn == told
    assert set(drawn) == {name for name, link in read_run(hops_run).summary["links"].items() if link["messages"]}


def test_instants_have_named_tracks(churned: list[Event]) -> None:
    names = {(event["pid"], event["tid"]) for event in churned if event["name"] == "thread_name"}
    instants = [event for event in churned if event["ph"] == "i"]
    assert {event["pid"] for event in instants} >= {CLUSTER}
    assert {(event["pid"], event["tid"]) for event in instants} <= names


def test_churn_is_marked(churn_run: Path, churned: list[Event]) -> None:
    marks = [event for event in churned if event["ph"] == "i" and event["pid"] == CLUSTER]
    assert [mark["name"] for mark in marks][:2] == ["crashed l4-0", "detected l4-0"]
    assert marks[0]["ts"] == read_run(churn_run).summary["churn"]["events"][0]["at_s"] * 1e6
    assert any(event["ph"] == "C" and event["name"] == "max flow" for event in churned)


def test_requests_are_all_there(hops_run: Path, quiet: list[Event]) -> None:
    ends = [event["args"]["outcome"] for event in quiet if event["ph"] == "e" and event["cat"] == "request"]
    told = read_run(hops_run).summary["requests"]
    assert len(ends) == told["submitted"]
    assert ends.count("finished") == told["finished"]


def test_too_coarse_a_log_says_which_setting(requests_run: Path, tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"--set output\.event_log=batches"):
        write_trace(read_run(requests_run), tmp_path / "trace.json")
    assert list(tmp_path.iterdir()) == []


def test_a_log_that_was_cut_short_names_the_line(hops_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(hops_run, run)
    lines = (run / "events.jsonl").read_bytes().splitlines(keepends=True)
    (run / "events.jsonl").write_bytes(b"".join(lines[:50]) + lines[50][:30])
    with pytest.raises(ScenarioError, match=r"events\.jsonl:51: this is no event"):
        write_trace(read_run(run), tmp_path / "trace.json")


@pytest.mark.parametrize("member", ["node", "layers", "duration_s", "kv_used"])
def test_an_event_that_lacks_something_names_the_line(member: str, hops_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(hops_run, run)
    lines = (run / "events.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    index = next(index for index, line in enumerate(lines) if '"batch"' in line)
    event = json.loads(lines[index])
    del event[member]
    (run / "events.jsonl").write_text("".join([*lines[:index], json.dumps(event) + "\n"]), encoding="utf-8")
    with pytest.raises(ScenarioError, match=rf"events\.jsonl:{index + 1}: .*{member}"):
        write_trace(read_run(run), tmp_path / "trace.json")


def test_a_run_that_did_not_end_and_a_directory_of_something_else(hops_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(hops_run, run)
    (run / "summary.json").unlink()
    with pytest.raises(ScenarioError, match="the run did not end"):
        read_run(run)
    with pytest.raises(ScenarioError, match="no run directory"):
        read_run(tmp_path)
    with pytest.raises(ScenarioError, match="no such directory"):
        read_run(tmp_path / "none")


def test_memory_does_not_grow_with_the_log(hops_run: Path, tmp_path: Path) -> None:
    """Six times the log (its begin again and again, each later) needs no more than twice the memory."""
    peaks = []
    files = read_run(hops_run)
    length = files.summary["sim_s"] + 10
    lines = [event for _, event in files.events()][:2000]
    for times in (1, 6):
        run = tmp_path / f"run-{times}"
        shutil.copytree(hops_run, run)
        with (run / "events.jsonl").open("w", encoding="utf-8") as log:
            for number in range(times):
                for event in lines:
                    moved = {**event, "t": event["t"] + number * length}
                    for key in ("first_s", "last_s"):
                        if key in event:
                            moved[key] = event[key] + number * length
                    log.write(json.dumps(moved) + "\n")
        tracemalloc.start()
        write_trace(read_run(run), tmp_path / f"trace-{times}.json")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 2 * peaks[0]
