from __future__ import annotations

import pytest

from scenarios.studies.constraints import ConstraintError, read_constraint


@pytest.mark.parametrize(
    ("text", "values", "holds"),
    [
        ("l4 + t4 <= 12", {"l4": 4, "t4": 8}, True),
        ("l4 + t4 <= 12", {"l4": 5, "t4": 8}, False),
        ("2 <= l4 < 6", {"l4": 6}, False),
        ("planner != 'petals' or l4 * 2 > 3", {"planner": "petals", "l4": 2}, True),
        ("not (l4 == -t4 / 2)", {"l4": -2, "t4": 4}, False),
        ("bandwidth >= 1250000", {"bandwidth": 1.25e6}, True),
    ],
)
def test_expressions_mean_what_they_say(text: str, values: dict[str, float | str], holds: bool) -> None:
    assert read_constraint(text).holds(values) is holds


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "l4.real > 0",
        "[x for x in l4]",
        "l4 ** t4",
        "lambda: 1",
        "l4 <",
        "f'{l4}'",
        "l4[0]",
        "l4 if t4 else 1",
        "(" * 400 + "l4" + ")" * 400,
        "l4 is t4",
        "b'x' == l4",
    ],
)
def test_nothing_else_is_an_expression(text: str) -> None:
    with pytest.raises(ConstraintError):
        read_constraint(text)


def test_what_cannot_be_computed_names_the_values() -> None:
    for text, values in (("l4 < planner", {"l4": 1, "planner": "petals"}), ("1 / l4 > 0", {"l4": 0})):
        with pytest.raises(ConstraintError, match="l4 = "):
            read_constraint(text).holds(values)
    with pytest.raises(ConstraintError, match="texts"):
        read_constraint("planner * 9 == 1").holds({"planner": "x"})
