"""What network shaping can complain about."""

from __future__ import annotations


class NetworkError(ValueError):
    """Conditions, schedules or limits that cannot work; the message names what, the value, the rule and the remedy."""
