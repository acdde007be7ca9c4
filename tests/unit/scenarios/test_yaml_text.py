from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scenarios.errors import Problem, ScenarioError
from scenarios.tree import Origin, Plain, from_plain
from scenarios.yaml_text import MAX_BYTES, dump_yaml, parse_yaml, read_yaml

ORIGIN = Origin("text.yaml", None, Path())


def plain(text: str) -> Plain:
    return parse_yaml(text, ORIGIN).plain()


def problem(text: str) -> Problem:
    with pytest.raises(ScenarioError) as caught:
        parse_yaml(text, ORIGIN)
    (found,) = caught.value.problems
    assert found.rule
    assert found.remedy
    return found


def file_problem(path: Path) -> Problem:
    with pytest.raises(ScenarioError) as caught:
        read_yaml(path)
    (found,) = caught.value.problems
    assert found.file == str(path)
    assert found.remedy
    return found


def test_scalars_follow_yaml_1_2() -> None:
    text = (
        "on: no\n1: 1:30\noct: 0o17\nlead: 010\nexp: 1e5\ndate: 2024-01-01\nyes: off\nt: true\nn: ~\nu: 1_000\nh: 0x1F"
    )
    assert plain(text) == {
        "on": "no",
        "1": "1:30",
        "oct": 15,
        "lead": 10,
        "exp": 1e5,
        "date": "2024-01-01",
        "yes": "off",
        "t": True,
        "n": None,
        "u": "1_000",
        "h": 31,
    }
    assert str(plain("[.nan, .inf, -.inf]")) == "[nan, inf, -inf]"
    assert plain("'5'") == "5"
    assert plain("!!str 5") == "5"


def test_every_part_has_its_line() -> None:
    tree = parse_yaml("a: 1\nb:\n  - x\n  - c:\n      d: 2\n", ORIGIN)
    for path, line in [(("a",), 1), (("b",), 2), (("b", 0), 3), (("b", 1), 4), (("b", 1, "c", "d"), 5)]:
        part = tree.at(path)
        assert part is not None
        assert part.origin.line == line


def test_anchors_and_merge_keys_work_in_bounds() -> None:
    assert plain("a: &a {x: 1, y: 1}\nb:\n  <<: *a\n  y: 2\nc: *a") == {
        "a": {"x": 1, "y": 1},
        "b": {"x": 1, "y": 2},
        "c": {"x": 1, "y": 1},
    }


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        ("a: 1\nb: 2\na: 3", 3, "second time, after line 1"),
        ("a: 1\n---\nb: 2", 2, "second document"),
        ("a: [1\nb: 2", 2, "not YAML"),
        ("a:\n\t- b", 2, "not YAML"),
        ("a: *b", 1, "no anchor"),
        ("&a [*a]", 1, "no anchor"),
        ("? [a]\n: 1", 1, "a key must be text"),
        ("a:\n  '': 1", 2, "a key is empty"),
        ("a: 1\nb: !!python/object/apply:os.system [ls]", 2, "tag"),
        ("a: !mine 3", 1, "tag"),
        ("a: " + "9" * 5000, 1, "more than 18 digits"),
        ("[" * 5000, 1, "nested deeper"),
        ("a: {" * 60, 1, "nested deeper"),
        ("<<: 3", 1, "merges mappings only"),
        ("a: \0", 1, "not YAML"),
    ],
)
def test_malformed_text_is_told_with_its_line(text: str, line: int, told: str) -> None:
    found = problem(text)
    assert found.line == line
    assert told in found.rule


def test_alias_bombs_stop_early() -> None:
    levels = "".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]\n" for n in range(1, 12))
    started = time.perf_counter()
    found = problem("l0: &l0 [a, b, c, d, e, f, g, h, i, j]\n" + levels)
    assert "aliases" in found.rule
    merges = "".join(
        f"m{n}:\n  k{n}: &m{n}\n" + f"    <<: [{', '.join([f'*m{n - 1}'] * 10)}]\n" for n in range(1, 3000)
    )
    problem("m0: &m0 {" + ", ".join(f"x{i}: 1" for i in range(50)) + "}\n" + merges)
    assert time.perf_counter() - started < 5


def test_files_that_are_none(tmp_path: Path) -> None:
    assert "no such file" in file_problem(tmp_path / "missing.yaml").rule
    assert "directory" in file_problem(tmp_path).rule
    empty = tmp_path / "empty.yaml"
    empty.write_text("# nothing\n")
    assert "empty" in file_problem(empty).rule
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"a: 1\nb: \xe9\n")
    assert (file_problem(latin).line, file_problem(latin).rule) == (2, "the file is not UTF-8 text")
    os.mkfifo(tmp_path / "pipe.yaml")
    assert "regular" in file_problem(tmp_path / "pipe.yaml").rule
    assert file_problem(tmp_path / ("x" * 400)).rule
    assert file_problem(tmp_path / "a\0b").rule
    signed = tmp_path / "bom.yaml"
    signed.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read_yaml(signed).plain() == {"a": 1}


def test_a_file_of_100_mb_is_not_even_read(tmp_path: Path) -> None:
    huge = tmp_path / "huge.yaml"
    with huge.open("wb") as stream:
        stream.truncate(100_000_000)
    started = time.perf_counter()
    found = file_problem(huge)
    assert "100.0 MB" in found.rule
    assert f"{MAX_BYTES:,}" in found.rule
    assert time.perf_counter() - started < 1


def test_dense_text_below_the_size_limit_stops_at_the_node_limit() -> None:
    assert "values" in problem("[" + "1," * 900_000 + "1]").rule


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**17), 10**17),
    st.floats(allow_nan=False),
    st.text(alphabet=st.characters(codec="utf-8"), max_size=12),
    st.sampled_from(
        ["1e5", "on", "0o17", "1:30", "~", "null", "<<", "=", "010", ".5", "-", "2024-01-01", "0x1", ".inf"]
    ),
)
KEYS = st.text(alphabet=st.characters(codec="utf-8"), min_size=1, max_size=8).filter(str.strip)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(KEYS, VALUES, min_size=1, max_size=4))
def test_dumped_text_reads_the_same(value: dict[str, Plain]) -> None:
    assert plain(dump_yaml(value)) == value


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.sampled_from(list("ab:[]{}-&*!?|>'\"#\n \t,0<%@`~.")), max_size=60))
def test_any_text_gives_a_tree_or_a_scenario_error(text: str) -> None:
    told = "a tree"
    try:
        plain(text)
    except ScenarioError as error:
        told = str(error)
    assert told


def test_put_changes_one_place_and_shares_the_rest() -> None:
    tree = from_plain({"a": [{"b": 1}, {"b": 2}], "c": 3}, ORIGIN)
    changed = tree.put(("a", 1, "b"), from_plain(9, ORIGIN))
    assert changed.plain() == {"a": [{"b": 1}, {"b": 9}], "c": 3}
    assert tree.plain() == {"a": [{"b": 1}, {"b": 2}], "c": 3}
    assert changed.put(("d", "e"), from_plain(1, ORIGIN)).plain() == {
        "a": [{"b": 1}, {"b": 9}],
        "c": 3,
        "d": {"e": 1},
    }
    with pytest.raises(KeyError):
        tree.put(("a", 5), from_plain(1, ORIGIN))
    with pytest.raises(KeyError):
        tree.put(("c", "x"), from_plain(1, ORIGIN))
