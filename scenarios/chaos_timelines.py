"""Random churn sections for the chaos search: what goes wrong when, how it is noticed, and what is done about it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from emulator.churn.recovery import RECOVERY_NAMES
from emulator.churn.spec import InFlightPolicy, WeightSource
from scenarios.chaos_draws import Draws, seconds

MOST_EVENTS = 7


class TimelineDraw:
    """Draws one churn section.

    Args:
        draws: Where choices come from.
        nodes: Names of all nodes.
        placed: Of those that hold layers.
        regions: Names of regions that may have nodes.
        machines: Machine types that nodes may have.
        duration_s: Of the run.
    """

    def __init__(
        self,
        draws: Draws,
        nodes: list[str],
        placed: list[str],
        regions: list[str],
        machines: list[str],
        duration_s: float,
    ) -> None:
        self._draws = draws
        self._nodes = nodes
        self._placed = placed
        self._regions = regions
        self._machines = machines
        self._duration_s = duration_s
        self._kinds: tuple[Callable[[], dict[str, Any]], ...] = (
            self._crash,
            self._crash,
            self._drain,
            self._preempt,
            self._join,
            self._straggler,
            self._memory,
            self._degrade,
            self._degrade,
            self._flap,
            self._down,
            self._down,
            self._partition,
            self._outage,
            self._restart,
        )

    def section(self) -> dict[str, Any]:
        """The section."""
        draws = self._draws
        events = [self._event() for _ in range(draws.whole(0, MOST_EVENTS))]
        section: dict[str, Any] = {
            "events": events,
            "random": [self._process() for _ in range(draws.one([0, 0, 0, 1, 1, 2]))],
            "detection": self._detection(),
            "in_flight": self._in_flight(),
            "recovery": self._recovery(),
        }
        if draws.chance(0.15):
            section["initially_down"] = [draws.one(self._nodes)]
        return section

    def _event(self) -> dict[str, Any]:
        draws = self._draws
        # Often at the same time as another, or right after it.
        at_s = draws.number(0.0, self._duration_s) if draws.chance(0.7) else float(draws.whole(1, 4))
        return {"at": seconds(at_s), **draws.one(self._kinds)()}

    def _lasting(self) -> dict[str, Any]:
        if self._draws.chance(0.2):
            return {}
        return {"for": seconds(self._draws.scaled(0.05, 8.0))}

    # -- machines ------------------------------------------------------------------------------

    def _target(self) -> Any:
        draws = self._draws
        kind = draws.whole(0, 9)
        if kind < 6:
            return draws.one(self._nodes)
        if kind == 6:
            return {"nodes": "n*", "choose": 1}
        if kind == 7:
            return {"region": draws.one(self._regions)}
        if kind == 8:
            return {"machine": draws.one(self._machines)}
        return draws.some(self._nodes, draws.whole(1, min(2, len(self._nodes))))

    def _crash(self) -> dict[str, Any]:
        return {"crash": self._target(), **self._lasting()}

    def _drain(self) -> dict[str, Any]:
        notice = {"notice": seconds(self._draws.scaled(0.05, 5.0))} if self._draws.chance(0.6) else {}
        return {"drain": self._target(), **notice, **self._lasting()}

    def _preempt(self) -> dict[str, Any]:
        notice_s = self._draws.one([0.0, self._draws.scaled(0.05, 4.0)])
        return {"preempt": self._target(), "notice": seconds(notice_s), **self._lasting()}

    def _join(self) -> dict[str, Any]:
        return {"join": self._target()}

    def _straggler(self) -> dict[str, Any]:
        return {"straggler": self._target(), "slowdown": self._draws.scaled(0.5, 30.0), **self._lasting()}

    def _memory(self) -> dict[str, Any]:
        share = self._draws.one([self._draws.number(0.05, 0.9), 0.99])
        return {"gpu_memory_loss": self._target(), "share": share, **self._lasting()}

    def _outage(self) -> dict[str, Any]:
        return {"region_outage": self._draws.one(self._regions), **self._lasting()}

    # -- links ---------------------------------------------------------------------------------

    def _end(self) -> Any:
        draws = self._draws
        kind = draws.whole(0, 5)
        if kind < 3:
            return draws.one(self._nodes)
        if kind == 3:
            return "coordinator"
        if kind == 4:
            return {"region": draws.one(self._regions)}
        return "*"

    def _links(self) -> dict[str, Any]:
        return {"from": self._end(), "to": self._end(), "both_ways": self._draws.chance(0.6)}

    def _degrade(self) -> dict[str, Any]:
        draws = self._draws
        changes = {"bandwidth": draws.scaled(0.01, 3.0), "latency": draws.scaled(0.1, 30.0)}
        return {"degrade": self._links(), **changes, **self._lasting()}

    def _flap(self) -> dict[str, Any]:
        draws = self._draws
        period = {"period": seconds(draws.scaled(0.1, 4.0)), "down_share": draws.number(0.1, 0.9)}
        # For ever would make a run that has long been over go on and on.
        return {"flap": self._links(), **period, "for": seconds(draws.scaled(0.2, 10.0))}

    def _down(self) -> dict[str, Any]:
        return {"down": self._links(), **self._lasting()}

    def _partition(self) -> dict[str, Any]:
        draws = self._draws
        inside = draws.some(self._nodes, draws.whole(1, max(1, len(self._nodes) - 1)))
        others = [name for name in ("coordinator", *self._nodes) if name not in inside]
        return {"partition": [inside, others], **self._lasting()}

    def _restart(self) -> dict[str, Any]:
        return {"coordinator_restart": seconds(self._draws.scaled(0.05, 3.0))}

    # -- the rest ------------------------------------------------------------------------------

    def _process(self) -> dict[str, Any]:
        draws = self._draws
        kind = draws.one(["crash", "crash", "preempt", "straggler"])
        target = draws.one([draws.one(self._nodes), "*", {"region": draws.one(self._regions)}])
        process: dict[str, Any] = {
            kind: target,
            "mtbf": seconds(draws.scaled(2.0, 30.0)),
            "stop": seconds(self._duration_s),
        }
        if draws.chance(0.8):
            process["mttr"] = seconds(draws.scaled(0.1, 5.0))
        if draws.chance(0.3):
            process["law"], process["shape"] = "weibull", draws.scaled(0.5, 3.0)
        if draws.chance(0.4):
            process["together"] = {draws.one(["region", "machine", "everybody"]): draws.number(0.2, 1.0)}
        if kind == "preempt":
            process["notice"] = seconds(draws.scaled(0.05, 3.0))
        if kind == "straggler":
            process["slowdown"] = draws.scaled(1.5, 20.0)
        return process

    def _detection(self) -> dict[str, Any]:
        draws = self._draws
        interval_s = draws.scaled(0.2, 2.0)
        return {
            "interval": seconds(interval_s),
            "timeout": seconds(interval_s * draws.number(1.2, 5.0)),
            "heartbeat": f"{draws.scaled(16.0, 2_000.0)} B",
        }

    def _in_flight(self) -> dict[str, Any]:
        draws = self._draws
        section: dict[str, Any] = {"policy": str(draws.one(list(InFlightPolicy)))}
        if draws.chance(0.5):
            section["max_retries"] = draws.whole(0, 10)
        if draws.chance(0.2):
            section["deadline"] = seconds(draws.number(1.0, 15.0))
        return section

    def _recovery(self) -> dict[str, Any]:
        draws = self._draws
        # A plan takes as long as all the rest of a case.
        others = [name for name in RECOVERY_NAMES if name != "replan"]
        policy = "replan" if draws.chance(0.03) else draws.one(others)
        options: dict[str, Any] = {}
        if policy == "replan":
            options = {"budget_s": draws.scaled(0.02, 0.3), "horizon_s": draws.scaled(5.0, 600.0)}
        if policy == "standby" and draws.chance(0.3):
            options = {"spares": [draws.one(self._placed)]}
        return {
            "policy": policy,
            "options": options,
            "weights": str(draws.one(list(WeightSource))),
            "drain": seconds(draws.scaled(0.1, 5.0)),
        }
