"""Availability traces: what is read, what is told, and bounds."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emulator.churn.spec import NodeEventKind
from scenarios import availability
from scenarios.availability import KINDS, MAX_LINE_BYTES, MAX_PROBLEMS, Row, read_availability
from scenarios.errors import ScenarioError

NODES = {"a-0": None, "a-1": None, "b, c": None}
HEADER = "time_s,node,event\n"


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "trace.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def problems(path: Path) -> list[str]:
    with pytest.raises(ScenarioError) as caught:
        read_availability(path, NODES)
    return [str(problem).removeprefix(f"{path}") for problem in caught.value.problems]


def test_rows_come_in_order_of_time_and_of_the_file(tmp_path: Path) -> None:
    text = f"{HEADER}5,a-0,up\n\n 1.5 , a-1 ,DOWN\n5,a-1,up\n1e1,'x',up\n".replace("'x'", '"b, c"')
    assert read_availability(write(tmp_path, text), NODES) == [
        Row(1.5, "a-1", NodeEventKind.CRASH, 4),
        Row(5, "a-0", NodeEventKind.JOIN, 2),
        Row(5, "a-1", NodeEventKind.JOIN, 5),
        Row(10, "b, c", NodeEventKind.JOIN, 6),
    ]


@pytest.mark.parametrize(("word", "kind"), KINDS.items())
def test_every_word_for_an_event(word: str, kind: NodeEventKind, tmp_path: Path) -> None:
    assert read_availability(write(tmp_path, f"{HEADER}1,a-0,{word}\n"), NODES)[0].kind is kind


def test_columns_go_by_name_after_a_byte_order_mark(tmp_path: Path) -> None:
    path = write(tmp_path, b"\xef\xbb\xbfevent,zone,Time_s,node\r\ndown,x,3,a-0\r\n")
    assert read_availability(path, NODES) == [Row(3, "a-0", NodeEventKind.CRASH, 2)]


def test_a_trace_of_a_header_alone_has_no_events(tmp_path: Path) -> None:
    assert read_availability(write(tmp_path, HEADER), NODES) == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", ": the trace is empty; start it with time_s,node,event"),
        ("time,node,event\n1,a-0,up\n", ':1: "time,node,event": the first line must name the columns'),
        ("time_s,node,event,node\n", ':1: "time_s,node,event,node": the first line must name the columns'),
        (f"{HEADER}1,a-0\n", ':2: "1,a-0": a row needs at least 3 columns'),
        (f'{HEADER}1,"a-0\n', ':2: "1,\\"a-0": a row needs at least 3 columns'),
        (f"{HEADER}-1,a-0,up\n", ':2: time_s: "-1": it must be a number of seconds, 0 to 1e+10'),
        (f"{HEADER}nan,a-0,up\n", ':2: time_s: "nan": it must be a number of seconds'),
        (f"{HEADER}1e99,a-0,up\n", ':2: time_s: "1e99": it must be a number of seconds'),
        (f"{HEADER}١,a-0,up\n", ":2: time_s: "),
        (f"{HEADER}1,a-7,up\n", ':2: node: "a-7": there is no such node; did you mean a-'),
        (f"{HEADER}1,a-0,dawn\n", ':2: event: "dawn": there is no such event; did you mean down?'),
        (f"{HEADER}{'x' * (MAX_LINE_BYTES + 1)}\n", ":2: "),
    ],
)
def test_broken_rows(text: str, told: str, tmp_path: Path) -> None:
    (found,) = problems(write(tmp_path, text))
    assert found.startswith(told)


def test_every_problem_of_a_row_and_of_the_file_is_told_up_to_a_bound(tmp_path: Path) -> None:
    assert len(problems(write(tmp_path, f"{HEADER}x,y,z\n1,a-0,up\n1,y,up\n"))) == 4
    assert MAX_PROBLEMS <= len(problems(write(tmp_path, HEADER + "1,nobody,up\n" * 10_000))) < MAX_PROBLEMS + 3


def test_size_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, HEADER + "1,a-0,up\n" * 5)
    monkeypatch.setattr(availability, "MAX_ROWS", 4)
    assert problems(path) == [":6: an availability trace has at most 4 rows; split it"]
    monkeypatch.setattr(availability, "MAX_FILE_BYTES", 10)
    assert problems(path) == [': "63 bytes": the file has more than 10 bytes; split it']


@pytest.mark.parametrize("name", ["nothing.csv", ".", "nul\0.csv", "x" * 5_000])
def test_files_that_are_none(name: str, tmp_path: Path) -> None:
    assert len(problems(tmp_path / name)) == 1


CELLS = st.one_of(
    st.sampled_from(["", "0", "1.5", "-1", "nan", "1e400", "a-0", "b, c", "up", "down", "preempt", '"', "'"]),
    st.text(max_size=6),
)
ROWS = st.lists(st.lists(CELLS, max_size=4).map(",".join), max_size=6).map("\n".join)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(header=st.sampled_from([HEADER, "node,event,time_s,x\n", ""]), rows=st.one_of(ROWS, st.binary(max_size=80)))
def test_whatever_the_file_holds_rows_or_problems_come_out(header: str, rows: str | bytes, tmp_path: Path) -> None:
    body = rows if isinstance(rows, bytes) else rows.encode("utf-8", "surrogatepass")
    path = write(tmp_path, header.encode() + body)
    found = attempt(path)
    assert found == sorted(found, key=lambda row: row.time_s)
    assert all(row.node in NODES and row.time_s >= 0 for row in found)


def attempt(path: Path) -> list[Row]:
    """The rows, or none after a scenario error that says something; anything else goes through."""
    try:
        return read_availability(path, NODES)
    except ScenarioError as caught:
        error = caught
    assert all(problem.rule and problem.remedy and problem.file == str(path) for problem in error.problems)
    return []
