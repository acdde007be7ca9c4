"""What a run can complain about."""

from __future__ import annotations


class SimulationError(RuntimeError):
    """A run that cannot start or go on: what, where, which rule, what to do."""
