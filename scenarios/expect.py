"""What a scenario expects of its figures: ``expect: {requests.failed: 0, ttft_s.p99: "<= 2 s"}``.

A figure is named by its path in ``summary.json``; ``*`` stands for every entry at that place. A condition is a number,
true or false, text, or text with an operator (``>= 1.5``, ``< 20 s``, ``!= 0``); of a list of conditions all must hold.
Units are optional, since a figure's name says its own.
"""

from __future__ import annotations

import operator
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from emulator.emulation import Emulation
from emulator.spec import EmulationSpec
from emulator.summary import summarise
from scenarios.errors import Problem, printable, shown
from scenarios.library import suggestion
from scenarios.quantities import DURATION, NUMBER, RATE, SIZE, Dimension, QuantityError, parse
from scenarios.tree import Scalar, Tree, TreePath
from scenarios.validation import problem_at

MAX_EXPECTATIONS = 1_000
MAX_LENGTH = 200
"""Characters of a figure's path, and of a condition."""
_SUGGESTED = 5_000
"""Most known figures among which a suggestion is looked for."""
_OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
    "=": operator.eq,
}
_CONDITION = re.compile(r"\s*(?P<operator><=|>=|==|!=|<|>|=)?\s*(?P<value>.*?)\s*", re.DOTALL)
_VALUE = re.compile(rf"(?P<number>[+-]?(?:{NUMBER}))\s*(?P<unit>.*)", re.DOTALL)
_PLAIN = ("count", "good", "messages", "batches")
"""Parts of a path that are counts whatever stands around them."""
_MEASURES: tuple[tuple[str, Dimension | str], ...] = (
    ("bytes_per_s", RATE),
    ("tokens_per_s", "tokens/s"),
    ("requests_per_s", "requests/s"),
    ("bytes", SIZE),
    ("tokens", "tokens"),
    ("s", DURATION),
)
"""How the name of a figure ends, before a statistic, and what it measures."""
_MISSING = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """One condition on one figure.

    Attributes:
        figure: Path in the summary.
        text: The condition as written.
        sign: Key of the operators.
        value: What to compare with, in the figure's unit.
    """

    figure: str
    text: str
    sign: str
    value: float | bool | str | None

    def holds(self, actual: object) -> bool:
        """Whether a figure meets the condition; one that is not there, or of another kind, does not."""
        if actual is _MISSING or isinstance(actual, (dict, list)):
            return False
        if self.sign in ("==", "!=", "="):
            same_kind = _kind(actual) == _kind(self.value)
            return (same_kind and actual == self.value) != (self.sign == "!=")
        if _kind(actual) != "number" or not isinstance(self.value, (int, float)):
            return False
        return _OPERATORS[self.sign](actual, self.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of an expectation.

    Attributes:
        expectation: What was expected.
        figure: The figure, every ``*`` replaced.
        met: Whether it was met.
        actual: The figure's value for a message.
    """

    expectation: Expectation
    figure: str
    met: bool
    actual: str

    def __str__(self) -> str:
        return printable(f"{self.figure}: expected {self.expectation.text}, got {self.actual}")


def outcomes(expectations: Sequence[Expectation], summary: Mapping[str, Any]) -> list[Outcome]:
    """Compare a summary with what was expected of it, in the order of the scenario."""
    found: list[Outcome] = []
    for expected in expectations:
        for figure, value in list(figures_at(summary, expected.figure)) or [(expected.figure, _MISSING)]:
            met = expected.holds(value)
            found.append(Outcome(expectation=expected, figure=figure, met=met, actual=_told(figure, value)))
    return found


def report(failed: Sequence[Outcome], seed: int, command: str) -> str:
    """What to print about failed expectations: expected, actual, seed, and how to see it again."""
    lines = [str(outcome) for outcome in failed]
    return "\n".join([*lines, f"seed {seed}; the same again: {command}"])


def command_line(path: str, overrides: Sequence[str] = (), sets: Sequence[str] = ()) -> str:
    """The command that tests a scenario file again."""
    words = ["helixemu", "test", path]
    words += [word for name in overrides for word in ("--override", name)]
    words += [word for change in sets for word in ("--set", change)]
    return shlex.join(words)


# ------------------------------------------------------------------------------------------------ reading


def read_expectations(tree: Tree, spec: EmulationSpec | None) -> tuple[list[Expectation], list[Problem]]:
    """The expectations of a scenario, and what is wrong with them.

    Args:
        tree: The scenario.
        spec: What it comes to, for the figures that a run of it has; without it names are not checked.
    """
    part = tree.child("expect")
    if part is None or not isinstance(part.content, dict):
        return [], []
    reader = _Reader(tree, None if spec is None else known_figures(spec))
    reader.below(part, ("expect",), ())
    return reader.expectations, reader.problems


def read_condition(figure: str, content: Scalar) -> Expectation:
    """One condition on a figure, whose name is not checked.

    Raises:
        QuantityError: The condition cannot be understood.
    """
    sign, value = _condition(content, figure)
    text = str(content) if isinstance(content, str) else shown(content)
    return Expectation(figure=figure, text=text.strip(), sign=sign, value=value)


def known_figures(spec: EmulationSpec) -> dict[str, Any]:
    """The summary of a run that has not begun: every figure's name, and no value that means anything."""
    return summarise(Emulation(spec).state, wall_s=0.0, cpu_s=0.0, interrupted=False)


class _Reader:
    def __init__(self, tree: Tree, known: Mapping[str, Any] | None) -> None:
        self._tree = tree
        self._known = known
        self._names: list[str] | None = None
        self._full = False
        self.expectations: list[Expectation] = []
        self.problems: list[Problem] = []

    def below(self, part: Tree, path: TreePath, names: tuple[str, ...]) -> None:
        """Read everything below ``part``."""
        if isinstance(part.content, dict):
            for key, inner in part.content.items():
                self.below(inner, (*path, key), (*names, key))
        elif isinstance(part.content, list):
            for index, inner in enumerate(part.content):
                if isinstance(inner.content, (dict, list)):
                    rule = "a list holds conditions, not lists or mappings"
                    self._bad((*path, index), rule, 'write [">= 1", "<= 2"]')
                else:
                    self.below(inner, (*path, index), names)
        elif len(self.expectations) + len(self.problems) < MAX_EXPECTATIONS:
            self._condition(part.content, path, ".".join(names))
        elif not self._full:
            self._full = True
            self._bad(("expect",), f"there are more than {MAX_EXPECTATIONS:,} conditions", "use * for many figures")

    def _bad(self, path: TreePath, rule: str, remedy: str) -> None:
        self.problems.append(problem_at(self._tree, path, rule, remedy))

    def _condition(self, content: Scalar, path: TreePath, figure: str) -> None:
        if len(figure) > MAX_LENGTH or (isinstance(content, str) and len(content) > MAX_LENGTH):
            self._bad(path, f"it is longer than {MAX_LENGTH} characters", "shorten it")
            return
        if not self._is_known(figure, path):
            return
        try:
            self.expectations.append(read_condition(figure, content))
        except QuantityError as error:
            self._bad(path, error.rule, error.remedy)

    def _is_known(self, figure: str, path: TreePath) -> bool:
        if self._known is None or figure.split(".")[0] == "real_time":
            return True
        found = list(islice(figures_at(self._known, figure), 1))
        if found and isinstance(found[0][1], (dict, list)) and found[0][1]:
            keys = list(found[0][1])[:20] if isinstance(found[0][1], dict) else ["0", "*"]
            rule = "there are several figures below this name"
            self._bad(path, rule, f"name one, for instance {figure}.{keys[0]}")
            return False
        if found or _may_come(self._known, figure):
            return True
        if self._names is None:
            self._names = list(islice(_flat(self._known, ""), _SUGGESTED))
        rule = "a run of this scenario has no such figure"
        remedy = suggestion(figure, self._names)
        if figure.startswith("goodput") and "goodput_requests_per_s" not in self._known:
            rule, remedy = f"{rule}: goodput needs latency objectives", "add slo"
        elif figure.split(".")[0] == "churn" and "churn" not in self._known:
            rule, remedy = f"{rule}: nothing can go wrong in it", "add churn"
        self._bad(path, rule, remedy)
        return False


def _condition(content: Scalar, figure: str) -> tuple[str, float | bool | str | None]:
    """Operator and value of a condition; raises QuantityError."""
    if not isinstance(content, str):
        return "==", content
    match = _CONDITION.fullmatch(content)
    assert match is not None, "every text matches"
    sign, text = match["operator"] or "==", match["value"]
    if text in ("true", "false", "null"):
        return sign, {"true": True, "false": False, "null": None}[text]
    number = _VALUE.fullmatch(text)
    if number is not None:
        return sign, _number(number["number"], number["unit"], figure)
    if sign not in ("==", "!=", "=") or not text:
        example = 'write an operator and a number, for instance ">= 1.5"'
        raise QuantityError("a number belongs behind the operator" if text else "the condition is empty", example)
    return sign, text


def _number(text: str, unit: str, figure: str) -> float:
    """A number in the figure's unit."""
    measure = _measure(figure)
    if not unit:
        value = float(text)
    elif unit == "%" and measure is None:
        value = float(text) / 100
    elif isinstance(measure, Dimension):
        # Units are checked without the sign, which a difference may have.
        value = parse(f"{text.lstrip('+-')} {unit}", measure) * (-1 if text.startswith("-") else 1)
    elif unit == measure:
        value = float(text)
    else:
        takes = f"{measure}, or no unit" if measure else "no unit, or %"
        raise QuantityError(f'"{unit[:12]}" is no unit of {figure}', f"it takes {takes}")
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def _measure(figure: str) -> Dimension | str | None:
    """What a figure measures, by its name; ``None`` for a plain number."""
    for name in reversed(figure.split(".")):
        if name in _PLAIN:
            return None
        for ending, measure in _MEASURES:
            if re.search(rf"(^|_){ending}(_(mean|min|max|sum|total|p\d+))?$", name):
                return measure
    return None


# ------------------------------------------------------------------------------------------------ summaries


def figures_at(part: object, figure: str) -> Iterator[tuple[str, object]]:
    """Every figure that a path means, with its full name; a name may itself hold dots."""
    keys = figure.split(".")
    yield from _below(part, keys, ())


def _below(part: object, keys: Sequence[str], done: tuple[str, ...]) -> Iterator[tuple[str, object]]:
    if not keys:
        yield ".".join(done), part
        return
    if isinstance(part, list):
        entries: Mapping[str, object] = {str(index): each for index, each in enumerate(part)}
    elif isinstance(part, Mapping):
        entries = part
    else:
        return
    if keys[0] == "*":
        for key, inner in entries.items():
            yield from _below(inner, keys[1:], (*done, key))
        return
    for length in range(len(keys), 0, -1):
        key = ".".join(keys[:length])
        if key in entries:
            yield from _below(entries[key], keys[length:], (*done, key))
            return


def _may_come(known: object, figure: str) -> bool:
    """Whether a path leads into a list or a mapping that is filled only while the run goes on."""
    keys = figure.split(".")
    part: object = known
    for position, key in enumerate(keys):
        if isinstance(part, (list, dict)) and not part:
            return position > 0
        if isinstance(part, list):
            return key == "*" or (key.isascii() and key.isdigit() and len(key) < 9)
        if not isinstance(part, Mapping) or key not in part:
            return False
        part = part[key]
    return False


def _flat(part: object, before: str) -> Iterator[str]:
    """Names of all figures."""
    if isinstance(part, Mapping):
        for key, inner in part.items():
            yield from _flat(inner, f"{before}{key}.")
    elif not isinstance(part, list):
        yield before.removesuffix(".")


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "flag"
    return "number" if isinstance(value, (int, float)) else type(value).__name__


def _told(figure: str, value: object) -> str:
    """A figure for a message, with its unit."""
    if value is _MISSING:
        return "nothing: this run has no such figure"
    if value is None:
        return "none: nothing was measured"
    if _kind(value) != "number":
        return shown(value)
    measure = _measure(figure)
    for dimension, unit in ((DURATION, "s"), (SIZE, "B"), (RATE, "B/s")):
        if measure is dimension:
            return f"{value:.10g} {unit}"
    return f"{value:.10g} {measure or ''}".strip()
