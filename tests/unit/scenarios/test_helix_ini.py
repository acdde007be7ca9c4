"""The artifact's ini files: arithmetic without evaluation, lines, lists."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scenarios.errors import ScenarioError
from scenarios.helix_ini import MAX_EXPRESSION_CHARS, RATE, TIME, UNITS, evaluate, read_ini


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("10 * gbps", 1e10),
        ("1000.0 * mbps", 1e9),
        ("1000000 * kbps", 1e9),
        ("1 * MilliSec", 1e-3),
        ("16 * GB", 16e9),
        ("24000.0*MB", 24e9),
        ("-1", -1.0),
        ("--1", 1.0),
        ("2 + 3 * 4 - 6 / 3", 12.0),
        ("(2 + 3) * -(4 - 1.5e1)", 55.0),
        (".5 * gbps", 5e8),
    ],
)
def test_arithmetic(text: str, value: float) -> None:
    assert evaluate(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "abc",
        "10 * Gbps",
        "__import__('os')",
        "print(1)",
        "gbps.real",
        "2 ** 9",
        "7 // 2",
        "1 / 0",
        "1 / (1 - 1)",
        "1e999",
        "1e300 * 1e300",
        "10 mbps",
        "0x10",
        "1_000",
        "1,5",
        "1 +",
        "(1",
        "1)",
        "()",
        "True",
        "nan",
        "inf",
        "1j",
        "lambda: 1",
        "(" * 60 + "1" + ")" * 59,
        "1" * 200,
        "٣",
    ],
)
def test_no_arithmetic(text: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        evaluate(text, file="a.ini", line=7, path="[A] b")
    (problem,) = caught.value.problems
    assert (problem.file, problem.line, problem.path, problem.value) == ("a.ini", 7, "[A] b", text)


def test_units_must_measure_the_right_thing() -> None:
    assert evaluate("5", measure=TIME) == 5
    with pytest.raises(ScenarioError, match="units must be of seconds"):
        evaluate("5 * mbps", measure=TIME)
    with pytest.raises(ScenarioError, match="units must be of bytes/s"):
        evaluate("5 * mbps / MilliSec", measure=RATE)


EXPRESSIONS = st.one_of(
    st.text(max_size=MAX_EXPRESSION_CHARS + 5),
    st.text(alphabet="0123456789.eE+-*/() ", max_size=MAX_EXPRESSION_CHARS + 5),
    st.lists(
        st.sampled_from([*UNITS, "1", "2.5", "1e308", "0", "+", "-", "*", "/", "(", ")", " ", "os", "f(1)", "**"]),
        max_size=30,
    ).map("".join),
    st.integers(1, MAX_EXPRESSION_CHARS).map(lambda depth: "(" * depth + "1" + ")" * depth),
)


@given(text=EXPRESSIONS)
def test_arithmetic_gives_a_finite_number_or_a_scenario_error(text: str) -> None:
    try:
        value = evaluate(text)
    except ScenarioError:
        return
    assert isinstance(value, float)
    assert math.isfinite(value)
    assert set(re.findall(r"[A-Za-z_]{2,}", text)) <= set(UNITS), "only units are names"


@given(
    numbers=st.lists(st.integers(0, 10**6), min_size=1, max_size=8),
    signs=st.lists(st.sampled_from("+-*"), min_size=7, max_size=7),
)
def test_arithmetic_agrees_with_python(numbers: list[int], signs: list[str]) -> None:
    text = "".join(f"{number} {sign} " for number, sign in zip(numbers, signs, strict=False)) + "1"
    assert evaluate(text) == pytest.approx(float(eval(text)))


def test_ini_knows_its_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.ini"
    path.write_text("# c\n[A]\nx = 10 * gbps\n; d\ny='n=1'\n\n[B]\nz=[1, 2]\nw=['a', \"b\"]\ne=[]\n")
    ini = read_ini(path)
    assert ini.section("A").number("x", RATE) == 1e10
    assert ini.section("A").line_of("y") == 5
    assert ini.section("A").text("y") == "n=1"
    assert ini.section("B").wholes("z") == [1, 2]
    assert ini.section("B").strings("w") == ["a", "b"]
    assert ini.section("B").wholes("e") == []


@pytest.mark.parametrize(
    ("text", "line"),
    [("x=1\n", 1), ("[A]\nnonsense\n", 2), ("[A]\nx=1\nx=2\n", 3), ("[A]\n[A]\n", 2), ("[A]\n=1\n", 2)],
)
def test_broken_ini(tmp_path: Path, text: str, line: int) -> None:
    path = tmp_path / "a.ini"
    path.write_text(text)
    with pytest.raises(ScenarioError) as caught:
        read_ini(path)
    assert caught.value.problems[0].line == line


@pytest.mark.parametrize(
    "text", ["1", "[1", "[[1]]", "[1, x]", "[__import__('os')]", "['a' 'b']", "(1, 2)", "[1,,2]", "[1.5]"]
)
def test_broken_lists(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.ini"
    path.write_text(f"[A]\nx={text}\n")
    with pytest.raises(ScenarioError):
        read_ini(path).section("A").wholes("x")
