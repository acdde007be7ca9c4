"""Finds policies by name, and loads own ones as ``module:Class``."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from typing import TypeVar

from emulator.errors import SimulationError

Policy = TypeVar("Policy")


def load_class(name: str, known: Mapping[str, str], parent: type[Policy], what: str) -> type[Policy]:
    """The class called ``name``, or the one at ``module:Class``.

    Args:
        name: Name, or ``module:Class``.
        known: Name -> ``module:Class`` of those that ship.
        parent: What it has to be a subclass of.
        what: What it is, for errors: ``scheduler policy``.

    Raises:
        SimulationError: Unknown name, module that cannot be imported, or a class that is no such policy.
    """
    target = known.get(name, name)
    if ":" not in target:
        close = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise SimulationError(
            f"{what} {name!r} is unknown; {hint}known are {', '.join(known)}, and module:Class loads one of your own"
        )
    module_name, _, class_name = target.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except Exception as error:
        # A module of the user's own can fail in any way while it is imported.
        raise SimulationError(f"{what} {name!r} cannot be loaded: {type(error).__name__}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, parent)):
        raise SimulationError(f"{what} {name!r} is no subclass of {parent.__module__}.{parent.__qualname__}")
    missing = sorted(getattr(found, "__abstractmethods__", ()))
    if missing:
        raise SimulationError(f"{what} {name!r} lacks {', '.join(missing)}; define them in the class")
    return found
