"""Checks of single figures, shared by the value types of this package."""

from __future__ import annotations

import math


def require(
    problems: list[str],
    where: str,
    what: str,
    value: float,
    *,
    above: float | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
) -> None:
    """Append a sentence to ``problems`` when ``value`` is not a finite number within the given limits."""
    if not math.isfinite(value):
        problems.append(f"{where}: {what} is {value}; it must be a finite number")
    elif above is not None and not value > above:
        problems.append(f"{where}: {what} is {value:g}; it must be greater than {above:g}")
    elif minimum is not None and value < minimum:
        problems.append(f"{where}: {what} is {value:g}; it must be at least {minimum:g}")
    elif maximum is not None and value > maximum:
        problems.append(f"{where}: {what} is {value:g}; it must be at most {maximum:g}")
