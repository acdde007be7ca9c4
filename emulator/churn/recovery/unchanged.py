"""None: new requests go round what is lost, and nothing else changes."""

from __future__ import annotations

from typing import ClassVar

from emulator.churn.recovery.policy import RecoveryPolicy


class Unchanged(RecoveryPolicy):
    """Links keep the flow of the first solution; those to lost machines are left out."""

    name = "none"
    solves: ClassVar[bool] = False
