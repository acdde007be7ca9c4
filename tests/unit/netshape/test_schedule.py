from itertools import islice
from pathlib import Path

import pytest

from netshape.conditions import IndependentLoss, Jitter, LinkConditions
from netshape.errors import NetworkError
from netshape.schedule import ConditionSchedule, ConditionStep
from netshape.schedule_csv import MAX_LINE_CHARACTERS, read_schedule

BASE = LinkConditions(bandwidth_bytes_per_s=1e6, latency_s=0.01)


def at(time_s: float, **changes: object) -> ConditionStep:
    return ConditionStep(time_s=time_s, changes=tuple(changes.items()))


def test_partial_steps_add_up_and_absolute_ones_start_anew() -> None:
    other = LinkConditions(latency_s=0.5)
    schedule = ConditionSchedule(
        steps=(
            at(1.0, latency_s=0.02),
            at(2.0, up=False),
            ConditionStep(time_s=3.0, conditions=other),
            ConditionStep(time_s=4.0, conditions=other, changes=(("mtu_bytes", 100),)),
        )
    )
    assert list(schedule.changes(BASE)) == [
        (1.0, LinkConditions(bandwidth_bytes_per_s=1e6, latency_s=0.02)),
        (2.0, LinkConditions(bandwidth_bytes_per_s=1e6, latency_s=0.02, up=False)),
        (3.0, other),
        (4.0, LinkConditions(latency_s=0.5, mtu_bytes=100)),
    ]


def test_a_repeated_schedule_begins_each_period_with_the_first_conditions() -> None:
    slow = LinkConditions(bandwidth_bytes_per_s=1e3, latency_s=0.01)
    schedule = ConditionSchedule(steps=(at(1.0, bandwidth_bytes_per_s=1e3),), repeat_s=2.5)
    assert list(islice(schedule.changes(BASE), 5)) == [(1.0, slow), (2.5, BASE), (3.5, slow), (5.0, BASE), (6.0, slow)]
    at_zero = ConditionSchedule(steps=(at(0.0, bandwidth_bytes_per_s=1e3),), repeat_s=0.1)
    times = [time for time, _ in islice(at_zero.changes(BASE), 1001)]
    assert times[-1] == 1000 * 0.1


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: at(-1.0, up=True), "step at time_s = -1.0: it must be a time from 0 on"),
        (lambda: at(float("nan"), up=True), "step at time_s = nan"),
        (lambda: at(1.0), "step at 1 s: nothing changes"),
        (lambda: at(1.0, speed=3), "step at 1 s: 'speed' is no condition; known are bandwidth_bytes_per_s, latency_s"),
        (lambda: ConditionSchedule(steps=()), "schedule: it has no steps"),
        (lambda: ConditionSchedule(steps=(at(1.0, up=True), at(1.0, up=False))), "times must rise"),
        (lambda: ConditionSchedule(steps=(at(1.0, up=True),), repeat_s=1.0), "repeat_s = 1.0 must be later"),
        (
            lambda: ConditionSchedule(steps=(at(2.0, overhead_bytes_per_packet=5),)).changes(BASE),
            "step at 2 s: overhead_bytes_per_packet needs mtu_bytes",
        ),
        (lambda: ConditionSchedule(steps=(at(2.0, latency_s=-5),)).changes(BASE), "step at 2 s: latency_s = -5"),
    ],
)
def test_schedules_that_cannot_work_are_told(make, told: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(NetworkError) as caught:
        make()
    assert told in str(caught.value)


def test_a_trace_becomes_a_schedule(tmp_path: Path) -> None:
    file = tmp_path / "lte.csv"
    file.write_text(
        "time_s, bandwidth_mbit_per_s, latency_ms, jitter_ms, loss_probability, up\n"
        "0,8,40,2.5,0.01,true\n"
        "\n"
        "1.5,,50,0,0,\n"
        '"2",16,,,,down\n',
        encoding="utf-8-sig",
    )
    schedule = read_schedule(file, repeat_s=10.0)
    assert schedule.repeat_s == 10.0
    first = LinkConditions(
        bandwidth_bytes_per_s=1e6,
        latency_s=0.04,
        jitter=Jitter(spread_s=0.0025),
        loss=IndependentLoss(probability=0.01),
    )
    second = LinkConditions(bandwidth_bytes_per_s=1e6, latency_s=0.05)
    third = LinkConditions(bandwidth_bytes_per_s=2e6, latency_s=0.05, up=False)
    assert schedule.one_period(BASE) == ((0.0, first), (1.5, second), (2.0, third))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "it is empty; the first line must name the columns"),
        ("time_s,latency_s\n", "it has no rows below the column names"),
        ("time_s,latency_s,latency_s\n0,1,1\n", ":1: column 'latency_s' is there twice"),
        ("time_s,latency_s,latency_ms\n0,1,1\n", ":1: latency_s is given by two columns"),
        ("time_s,speed\n0,1\n", ":1: column 'speed' is unknown; known are time_s, time_ms, bandwidth_bytes_per_s"),
        ("latency_s\n0\n", ":1: there must be one column of times"),
        ("time_s,time_ms,up\n0,0,1\n", ":1: there must be one column of times"),
        ("time_s\n0\n", ":1: there is no column beside the time"),
        ("time_s,up\n0\n", ":2: there are 1 cells, but 2 columns"),
        ("time_s,up\n0,maybe\n", ':2: up: "maybe": it must be true or false'),
        ("time_s,up\n,1\n", ':2: time_s: "": it must not be empty'),
        ("time_s,up\n1,1\n1,0\n", ':3: time_s: "1": it is not later than the row before'),
        ("time_s,up\n-1,1\n", ':2: time_s: "-1": it must be a time from 0 on'),
        ("time_s,up\n1e999,1\n", ':2: time_s: "1e999": it must be a time from 0 on'),
        ("time_s,up\n0,\n", ":2: nothing changes in this row"),
        ("time_s,latency_ms\n0,-4\n", ':2: latency_ms: "-4": latency_s = -0.004: it must be from 0'),
        ("time_s,latency_ms\n0,nan\n", ':2: latency_ms: "nan": it must be a number'),
        ("time_s,latency_ms\n0,٣\n", ':2: latency_ms: "\\u0663": it must be a number'),
        ("time_s,bandwidth_bit_per_s\n0,0\n", ':2: bandwidth_bit_per_s: "0": bandwidth_bytes_per_s = 0.0'),
        ("time_s,loss_probability\n0,1\n", ":2: loss_probability"),
        ('time_s,up\n0,"1\n', "this is no CSV: unexpected end of data"),
        ("time_s,up\n0," + "1" * MAX_LINE_CHARACTERS + "\n", ":2: the line is longer than 4096 characters"),
    ],
)
def test_a_broken_trace_names_file_line_and_rule(text: str, told: str, tmp_path: Path) -> None:
    file = tmp_path / "trace.csv"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(NetworkError) as caught:
        read_schedule(file)
    assert str(caught.value).startswith(str(file))
    assert told in str(caught.value)


def test_many_problems_are_told_at_once_and_bounded(tmp_path: Path) -> None:
    file = tmp_path / "trace.csv"
    file.write_text("time_s,up\n" + "x,y\n" * 1000)
    with pytest.raises(NetworkError) as caught:
        read_schedule(file)
    lines = str(caught.value).splitlines()
    assert lines[0] == f'{file}:2: time_s: "x": it must be a number'
    assert lines[1] == f'{file}:2: up: "y": it must be true or false'
    assert len(lines) == 20


def test_files_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="it cannot be read: No such file"):
        read_schedule(tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(b"time_s,up\n0,\xff\xfe\n")
    with pytest.raises(NetworkError, match="it is not text in UTF-8"):
        read_schedule(tmp_path / "binary.csv")
    huge = tmp_path / "huge.csv"
    with huge.open("wb") as stream:
        stream.truncate(1 << 27)
    with pytest.raises(NetworkError, match="it is larger than 64 MiB"):
        read_schedule(huge)
    (tmp_path / "short.csv").write_text("time_s,up\n5,1\n")
    with pytest.raises(NetworkError, match="repeat_s = 2 must be later than the last step"):
        read_schedule(tmp_path / "short.csv", repeat_s=2)
