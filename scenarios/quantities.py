"""Quantities as people write them: ``10 Gbit/s``, ``40 ms``, ``16 GiB``. Parsed once, to SI floats.

The annotated types at the end are for schema models. A bare number where a unit belongs is an error that says so,
because a silent guess (bits or bytes? seconds or milliseconds?) would change the results by a factor of eight or more.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

NUMBER = r"[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]{1,3})?|\.[0-9]+(?:[eE][+-]?[0-9]{1,3})?"
_QUANTITY = re.compile(rf"\s*(?P<sign>[+-]?)(?P<number>{NUMBER})\s*(?P<unit>[^\s0-9.+-].*?)?\s*", re.DOTALL)
_LONGEST = 60
"""Characters of a quantity; longer ones are no quantity and would only cost time."""

_DECIMAL = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15}
_BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_TIMES = {
    "ns": Fraction(1, 10**9),
    "us": Fraction(1, 10**6),
    "µs": Fraction(1, 10**6),
    "ms": Fraction(1, 10**3),
    "s": Fraction(1),
    "min": Fraction(60),
    "h": Fraction(3600),
    "d": Fraction(86_400),
}
_SIZES = {f"{prefix}B": Fraction(factor) for prefix, factor in {**_DECIMAL, **_BINARY}.items()}
_RATES = {
    **{f"{unit}/s": factor for unit, factor in _SIZES.items()},
    **{f"{prefix}bit/s": Fraction(factor, 8) for prefix, factor in {**_DECIMAL, **_BINARY}.items()},
    **{f"{prefix}bps": Fraction(factor, 8) for prefix, factor in _DECIMAL.items()},
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Dimension:
    """What a quantity measures.

    Attributes:
        what: With its article, for messages: "a duration".
        units: Unit -> its size in the SI unit.
        examples: Well-formed quantities, the first one for messages.
    """

    what: str
    units: Mapping[str, Fraction]
    examples: tuple[str, ...]

    @property
    def remedy(self) -> str:
        """What to write instead of something malformed."""
        return f'write a number and a unit, for instance "{self.examples[0]}"'


DURATION = Dimension(what="a duration", units=_TIMES, examples=("40 ms", "600 s", "10 min", "2 h"))
SIZE = Dimension(what="an amount of memory", units=_SIZES, examples=("16 GiB", "40 GB"))
RATE = Dimension(what="a data rate", units=_RATES, examples=("10 Gbit/s", "1 GB/s", "100 Mbit/s"))


class QuantityError(ValueError):
    """Text that is no quantity of the wanted dimension.

    Attributes:
        rule: What is wrong.
        remedy: What to write instead.
    """

    def __init__(self, rule: str, remedy: str) -> None:
        self.rule, self.remedy = rule, remedy
        super().__init__(f"{rule}; {remedy}")


def parse(value: object, dimension: Dimension, *, positive: bool = False) -> float:
    """A quantity in SI units.

    Args:
        value: Text such as ``"10 Gbit/s"``; anything else is an error.
        dimension: What it must measure.
        positive: Whether zero is an error, too.

    Returns:
        Seconds, bytes or bytes/s, correctly rounded.

    Raises:
        QuantityError: No number, no unit, another dimension's unit, negative, NaN or infinite.
    """
    if not isinstance(value, str):
        raise _not_text(value, dimension)
    match = _QUANTITY.fullmatch(value) if len(value) <= _LONGEST else None
    if match is None:
        raise _not_a_number(value, dimension)
    unit = match["unit"]
    if unit is None:
        raise QuantityError(f"it is a bare number, but {dimension.what} needs a unit", dimension.remedy)
    if unit not in dimension.units:
        raise _wrong_unit(match["number"], unit, dimension)
    if match["sign"] == "-" and Fraction(match["number"]) != 0:
        raise QuantityError(f"{dimension.what} must not be negative", "drop the minus sign")
    try:
        result = float(Fraction(match["number"]) * dimension.units[unit])
    except OverflowError:
        result = math.inf
    if not math.isfinite(result):
        raise QuantityError(f"{dimension.what} must be a finite number", dimension.remedy)
    if positive and result == 0:
        raise QuantityError(f"{dimension.what} must be greater than 0 here", dimension.remedy)
    return result


def seconds(value: object) -> float:
    """Seconds of a duration such as ``"40 ms"``; see :func:`parse`."""
    return parse(value, DURATION)


def size_bytes(value: object) -> float:
    """Bytes of an amount of memory such as ``"16 GiB"``, above 0; see :func:`parse`."""
    return parse(value, SIZE, positive=True)


def bytes_per_s(value: object) -> float:
    """Bytes per second of a data rate such as ``"10 Gbit/s"``, above 0; see :func:`parse`."""
    return parse(value, RATE, positive=True)


def _not_text(value: object, dimension: Dimension) -> QuantityError:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if isinstance(value, float) and not math.isfinite(value):
            return QuantityError(f"{dimension.what} must be a finite number with a unit", dimension.remedy)
        return QuantityError(f"it is a bare number, but {dimension.what} needs a unit", dimension.remedy)
    kind = "empty" if value is None else "a mapping" if isinstance(value, dict) else "a list"
    kind = "true or false" if isinstance(value, bool) else kind
    return QuantityError(f"it is {kind}, but {dimension.what} belongs here", dimension.remedy)


def _not_a_number(text: str, dimension: Dimension) -> QuantityError:
    if re.match(r"\s*[+-]?\.?(nan|inf)", text, re.IGNORECASE):
        return QuantityError(f"{dimension.what} must be a finite number with a unit", dimension.remedy)
    return QuantityError(f"it is not {dimension.what}: a number and a unit", dimension.remedy)


def _wrong_unit(number: str, unit: str, dimension: Dimension) -> QuantityError:
    """The likeliest reading of a unit that is none, as a remedy."""
    if re.fullmatch(r"(:[0-9.]+)+", unit):
        return QuantityError("it reads like clock time, which is ambiguous", dimension.remedy)
    if unit in _TIMES or unit in _SIZES or unit in _RATES:
        other = DURATION if unit in _TIMES else SIZE if unit in _SIZES else RATE
        rule = f'"{unit}" is a unit of {other.what}, but {dimension.what} belongs here'
        return QuantityError(rule, dimension.remedy)
    if dimension is not DURATION and re.fullmatch(r"[kKMGT]i?b(/s)?", unit):
        prefix = unit.partition("b")[0]
        rate = "/s" if dimension is RATE else ""
        meant = f'"{number} {prefix}B{rate}"' + (f' or "{number} {prefix}bit{rate}"' if rate else "")
        return QuantityError(f'"{unit}" could be bits or bytes', f"write {meant}")
    alike = [known for known in dimension.units if known.lower() == unit.lower()]
    alike = alike or {"sec": ["s"], "secs": ["s"], "second": ["s"], "seconds": ["s"], "hours": ["h"]}.get(unit, [])
    alike = [known for known in alike if known in dimension.units]
    remedy = f'write "{number} {alike[0]}"' if alike else dimension.remedy
    short = unit if len(unit) <= 12 else f"{unit[:12]}..."
    return QuantityError(f'"{short}" is no unit of {dimension.what}', remedy)


@dataclass(frozen=True, slots=True)
class Quantity:
    """Marks a pydantic field whose YAML is a quantity and whose Python value is a float in SI units."""

    dimension: Dimension
    positive: bool = False

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Validate by :func:`parse` alone."""
        return core_schema.no_info_plain_validator_function(self._validate)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """A string with a pattern, so that an editor can tell a bare number or a wrong unit."""
        units = "|".join(sorted((re.escape(unit) for unit in self.dimension.units), key=lambda u: (-len(u), u)))
        return {
            "type": "string",
            "pattern": rf"^\s*[+]?({NUMBER})\s*({units})\s*$",
            "examples": list(self.dimension.examples),
        }

    def _validate(self, value: object) -> float:
        try:
            return parse(value, self.dimension, positive=self.positive)
        except QuantityError as error:
            raise PydanticCustomError(
                "quantity", "{rule}; {remedy}", {"rule": error.rule, "remedy": error.remedy}
            ) from None


Seconds = Annotated[float, Quantity(DURATION)]
PositiveSeconds = Annotated[float, Quantity(DURATION, positive=True)]
Bytes = Annotated[float, Quantity(SIZE, positive=True)]
BytesPerSecond = Annotated[float, Quantity(RATE, positive=True)]
