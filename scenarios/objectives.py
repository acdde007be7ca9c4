"""What plans are chosen for."""

from __future__ import annotations

from enum import StrEnum


class Objective(StrEnum):
    """What a plan is chosen for."""

    FLOW = "flow"
    """Greatest max flow: the planner's own plan."""
    THROUGHPUT = "throughput"
    """Most decode tokens/s served."""
    LATENCY = "latency"
    """Least median decode latency."""
    GOODPUT = "goodput"
    """Most requests/s that meet the scenario's SLOs."""
