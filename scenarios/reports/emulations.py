"""Emulations of a scenario and its changes on the same seed: in this process, or by an executor's workers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Future, as_completed
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from emulator.emulation import Emulation
from emulator.errors import SimulationError
from emulator.spec import EmulationSpec, LogLevel
from placement.cluster import Link, Network
from scenarios.studies.errors import StudyError
from scenarios.studies.executors import Executor

MOST_BATCHES = 3_500_000
"""All emulations together compute about so many batches, a minute or so of one core; they are cut short for it."""
LEAST_WINDOW_S = 60.0
"""No window is cut to less than this, in emulated seconds."""
NUDGES_S = (1e-6, 2e-6, 3e-6)
"""Latencies are raised by so little to see how far figures move by chance."""

Given = TypeVar("Given")
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True, kw_only=True)
class Length:
    """How long changes are emulated.

    Attributes:
        duration_s: Emulated seconds of each, warm-up included.
        whole_s: Those of the scenario.
    """

    duration_s: float
    whole_s: float

    @property
    def cut(self) -> bool:
        """Whether it is less than the scenario's."""
        return self.duration_s < self.whole_s


def length_for(spec: EmulationSpec, summary: dict[str, Any], count: int) -> Length:
    """How long ``count`` emulations may be, from what the scenario's own one (``summary``) computed; no clock is read.

    None are taken for no limit. The warm-up stays as it is, and :data:`LEAST_WINDOW_S` of the window.
    """
    batches = sum(node["batches"] for node in summary["nodes"].values())
    per_s = batches / summary["window_s"] if summary["window_s"] > 0 else 0.0
    window_s = spec.duration_s - spec.warm_up_s
    allowed_s = MOST_BATCHES / (per_s * count) - spec.warm_up_s if per_s > 0 and count else window_s
    kept_s = min(window_s, max(allowed_s, LEAST_WINDOW_S))
    return Length(duration_s=spec.warm_up_s + kept_s, whole_s=spec.duration_s)


def emulated(spec: EmulationSpec) -> dict[str, Any] | None:
    """A summary; ``None`` where the cluster cannot run.

    Raises:
        KeyboardInterrupt: Ctrl-C; an interrupted run compares with nothing.
    """
    try:
        summary = Emulation(replace(spec, log_level=LogLevel.REQUESTS)).run()
    except SimulationError:
        return None
    if summary["interrupted"]:
        raise KeyboardInterrupt
    return summary


def granularity(summary: Mapping[str, Any]) -> float:
    """Tokens/s that one iteration of all requests in flight makes, which falls on one side of the window's edge.

    Differences of decode throughput below it say nothing.
    """
    window_s = float(summary["window_s"])
    return summary["requests"]["in_flight"] / window_s if window_s > 0 else 0.0


def nudged(spec: EmulationSpec) -> list[EmulationSpec]:
    """The scenario with changes that are worth nothing: every link a microsecond or some longer."""
    found = []
    for nudge_s in NUDGES_S:
        network = spec.cluster.network
        links, regions = (
            {ends: Link(link.bandwidth_bytes_per_s, link.latency_s + nudge_s) for ends, link in given.items()}
            for given in (network.links, network.regions)
        )
        cluster = replace(spec.cluster, network=Network(links=links, regions=regions))
        found.append(replace(spec, cluster=cluster))
    return found


def for_each(
    work: Callable[[Given], Found],
    items: Sequence[Given],
    executor: Executor | None,
    on_done: Callable[[], None] | None = None,
) -> list[Found]:
    """Results of ``work`` on every item, in their order.

    Args:
        work: A function at a module's top, where an executor is to send it.
        items: What it is called with.
        executor: Who calls it; this process without one.
        on_done: Called after each.

    Raises:
        StudyError: A worker was killed.
    """
    if executor is None:
        found = []
        for item in items:
            found.append(work(item))
            if on_done is not None:
                on_done()
        return found
    futures: list[Future[Found]] = [executor.submit(work, item) for item in items]
    try:
        for future in as_completed(futures):
            future.result()
            if on_done is not None:
                on_done()
        return [future.result() for future in futures]
    except BrokenExecutor as error:
        raise StudyError(
            "a worker process was killed, perhaps for want of memory; run the command again, or with --processes 1"
        ) from error
