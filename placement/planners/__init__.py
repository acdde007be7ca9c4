"""Planners by name. A new one is a file here and a line in :data:`KNOWN`."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from placement.errors import PlanError
from placement.plan import Planner

KNOWN: Mapping[str, str] = {
    "blocks": "placement.planners.blocks:BlocksPlanner",
    "cover": "placement.planners.cover:CoverPlanner",
    "milp": "placement.planners.milp:MilpPlanner",
    "petals": "placement.planners.petals:PetalsPlanner",
    "separate": "placement.planners.separate:SeparatePlanner",
    "swarm": "placement.planners.swarm:SwarmPlanner",
    "uniform": "placement.planners.uniform:UniformPlanner",
}
"""Name -> ``module:Class``. Strings, so that a planner's solver is imported only when that planner is asked for."""


def planner(name: str, **options: Any) -> Planner:
    """Make a planner.

    Args:
        name: One of :data:`KNOWN`, or ``module:Class`` for a planner of your own.
        **options: Arguments of the planner's class.

    Raises:
        PlanError: There is no such planner, it cannot be imported, it is none, or it does not take these options.
    """
    if ":" not in name and name not in KNOWN:
        close = difflib.get_close_matches(name, KNOWN, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise PlanError(
            f"planner: there is no {name!r}; {hint}known are {', '.join(sorted(KNOWN))}; "
            f"write module:Class for a planner of your own"
        )
    maker = _load(KNOWN.get(name, name))
    signature = inspect.signature(maker)
    try:
        signature.bind(**options)
    except TypeError as error:
        takes = ", ".join(signature.parameters) or "none"
        raise PlanError(f"planner {name}: {error}; options that it takes: {takes}") from None
    made = maker(**options)
    if not isinstance(made, Planner):
        raise PlanError(f"planner {name}: it has no name or no plan(problem); see placement.plan.Planner")
    return made


def _load(path: str) -> Any:
    module_name, _, class_name = path.partition(":")
    try:
        maker = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise PlanError(
            f"planner {path}: cannot be loaded: {error}; write module:Class of an importable module"
        ) from None
    if not callable(maker):
        raise PlanError(f"planner {path}: {class_name} is no class; name the planner's class")
    return maker


def takes(name: str, option: str) -> bool:
    """Whether a planner has an option of this name.

    Raises:
        PlanError: There is no such planner.
    """
    if ":" not in name and name not in KNOWN:
        planner(name)
    return option in inspect.signature(_load(KNOWN.get(name, name))).parameters
