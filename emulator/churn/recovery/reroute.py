"""Reroute: the max flow is solved anew for those who are left, with the layers that they hold."""

from __future__ import annotations

from emulator.churn.recovery.policy import RecoveryPolicy


class Reroute(RecoveryPolicy):
    """No layer moves; live requests keep their pipelines."""

    name = "reroute"
