from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from scenarios.quantities import (
    DURATION,
    RATE,
    SIZE,
    Bytes,
    BytesPerSecond,
    Dimension,
    PositiveSeconds,
    QuantityError,
    Seconds,
    bytes_per_s,
    parse,
    seconds,
    size_bytes,
)


class _Model(BaseModel):
    wait: Seconds
    length: PositiveSeconds
    size: Bytes
    rate: BytesPerSecond


@pytest.mark.parametrize(
    ("text", "dimension", "expected"),
    [
        ("40 ms", DURATION, 0.04),
        ("600s", DURATION, 600.0),
        ("10 min", DURATION, 600.0),
        ("2 h", DURATION, 7200.0),
        ("0 s", DURATION, 0.0),
        ("-0 s", DURATION, 0.0),
        (" 1.5e-3 s ", DURATION, 0.0015),
        ("3 us", DURATION, 3e-6),
        ("3 µs", DURATION, 3e-6),
        (".5 d", DURATION, 43_200.0),
        ("16 GiB", SIZE, 16 * 2.0**30),
        ("1.53 GB", SIZE, 1_530_000_000.0),
        ("512 B", SIZE, 512.0),
        ("1 kB", SIZE, 1000.0),
        ("10 Gbit/s", RATE, 1.25e9),
        ("10 Gbps", RATE, 1.25e9),
        ("1 GB/s", RATE, 1e9),
        ("100 Mbit/s", RATE, 12.5e6),
        ("1 MiB/s", RATE, 2.0**20),
    ],
)
def test_well_formed_quantities_are_si(text: str, dimension: Dimension, expected: float) -> None:
    assert parse(text, dimension) == expected


@pytest.mark.parametrize(
    ("value", "dimension", "told"),
    [
        (10, DURATION, "bare number"),
        (10.5, RATE, "bare number"),
        ("10", RATE, "bare number"),
        (float("nan"), DURATION, "finite"),
        (float("inf"), DURATION, "finite"),
        ("nan s", DURATION, "finite"),
        ("inf GB/s", RATE, "finite"),
        ("-inf s", DURATION, "finite"),
        ("-5 s", DURATION, "negative"),
        ("-1 GB/s", RATE, "negative"),
        ("1e999 s", DURATION, "finite"),
        ("1e9999999999 s", DURATION, "no unit of a duration"),
        ("10 GB", RATE, "unit of an amount of memory"),
        ("10 Gbit/s", DURATION, "unit of a data rate"),
        ("10 s", SIZE, "unit of a duration"),
        ("10 Gb/s", RATE, "bits or bytes"),
        ("10 gb", SIZE, "no unit"),
        ("10 sec", DURATION, 'write "10 s"'),
        ("10 gbit/s", RATE, 'write "10 Gbit/s"'),
        ("10 furlongs", DURATION, "no unit"),
        ("1:30", DURATION, "clock time"),
        ("ten s", DURATION, "number and a unit"),
        ("", DURATION, "number and a unit"),
        ("9" * 5000 + " s", DURATION, "number and a unit"),
        (None, DURATION, "empty"),
        (True, DURATION, "true or false"),
        ([], DURATION, "a list"),
        ({}, SIZE, "a mapping"),
    ],
)
def test_malformed_quantities_say_why_and_what_to_write(value: object, dimension: Dimension, told: str) -> None:
    with pytest.raises(QuantityError, match=re.escape(told)) as caught:
        parse(value, dimension)
    assert caught.value.rule
    assert caught.value.remedy


def test_zero_is_no_size_and_no_rate() -> None:
    assert seconds("0 s") == 0
    for parser, text in ((size_bytes, "0 B"), (bytes_per_s, "0 GB/s")):
        with pytest.raises(QuantityError, match="greater than 0"):
            parser(text)


@given(st.one_of(st.text(max_size=30), st.integers(), st.floats(), st.none(), st.binary(max_size=5)))
def test_nothing_but_a_quantity_error_ever_comes_out(value: object) -> None:
    for dimension in (DURATION, SIZE, RATE):
        try:
            assert parse(value, dimension) >= 0
        except QuantityError:
            continue


def test_pydantic_models_take_quantities_and_report_all_bad_ones() -> None:
    good = _Model.model_validate({"wait": "0 s", "length": "1 min", "size": "1 KiB", "rate": "8 bit/s"})
    assert (good.wait, good.length, good.size, good.rate) == (0.0, 60.0, 1024.0, 1.0)
    with pytest.raises(ValidationError) as caught:
        _Model.model_validate({"wait": 3, "length": "0 s", "size": "1 GB/s", "rate": "-1 GB/s"})
    assert [error["loc"][0] for error in caught.value.errors()] == ["wait", "length", "size", "rate"]
    assert all(error["ctx"]["remedy"] for error in caught.value.errors())


def test_json_schema_pattern_agrees_with_the_parser() -> None:
    properties = _Model.model_json_schema()["properties"]
    for key, dimension in (("wait", DURATION), ("size", SIZE), ("rate", RATE)):
        assert properties[key]["type"] == "string"
        for text in properties[key]["examples"]:
            assert re.search(properties[key]["pattern"], text)
            parse(text, dimension)
        for text in ("10", "-1 s", "1 parsec", "1 Gb/s", "nan s"):
            assert not re.search(properties[key]["pattern"], text)
