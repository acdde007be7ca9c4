"""A run's summary as the columns of a study's table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from emulator.requests import Outcome, Request
from emulator.spec import EmulationSpec, Slo
from scenarios.expect import figures_at

Figure: TypeAlias = str | int | float | bool | None

CLOCKED = ("wall_s", "cpu_s", "sim_s_per_cpu_s")
"""Figures of the machine that ran the point; they are kept apart, because they differ every time."""
_WIDE = ("nodes", "links", "min_cut", "scenario", "seed", "interrupted", "summary_version", *CLOCKED)
"""Parts of a summary that are no columns: they depend on the cluster, or say nothing about it."""


def flat_figures(summary: Mapping[str, Any], further: Sequence[str] = ()) -> dict[str, Figure]:
    """Figures by their dotted names.

    Args:
        summary: As in ``summary.json``.
        further: Names beside the usual ones, with ``*`` for every entry: ``nodes.*.utilisation``.

    Returns:
        All scalars but those of single nodes and links and those of the clock; ``min_cut`` as text, and
        ``min_cut_kinds``, the kinds of its edges.
    """
    found = {key: value for name, part in summary.items() if name not in _WIDE for key, value in _below(part, name)}
    cut = summary["min_cut"]
    found["min_cut"] = ", ".join(_edge(edge) for edge in cut)
    found["min_cut_kinds"] = "+".join(sorted({edge["kind"]: None for edge in cut}))
    for pattern in further:
        for name, value in figures_at(summary, pattern):
            found |= dict(_below(value, name))
    return found


def _below(part: object, name: str) -> Iterator[tuple[str, Figure]]:
    if isinstance(part, Mapping):
        for key, inner in part.items():
            yield from _below(inner, f"{name}.{key}")
    elif part is None or isinstance(part, (str, int, float)):
        # Lists, such as churn's events, have no fixed number of columns.
        yield name, part


def _edge(edge: Mapping[str, Any]) -> str:
    link = f"->{edge['target']}" if edge["kind"] == "link" else ""
    return f"{edge['kind']} {edge['source']}{link}"


class Attainment:
    """Share of the requests of the window that meet all latency objectives, as far as the run goes.

    Goodput does not say what was asked for, and latencies of finished requests leave out who still waits when the
    cluster falls behind. So a request that arrives in the window counts as soon as it has its first token, or has
    waited for it too long; one in flight at the end counts by its time per token so far. Only who may still be in time
    for the first token, or for an end-to-end objective, does not count.

    Args:
        spec: The run.
    """

    def __init__(self, spec: EmulationSpec) -> None:
        self._slo = spec.slo
        self._from_s, self._until_s = spec.warm_up_s, spec.duration_s
        self.good = self.bad = 0

    def ended(self, request: Request) -> None:
        """A request ended, or was in flight at the end of the run."""
        if request.arrival_s < self._from_s:
            return
        if request.outcome is Outcome.IN_FLIGHT:
            met = self._so_far(request)
        else:
            met = request.outcome is Outcome.FINISHED and _met(request, self._slo)
        if met is not None:
            self.good += met
            self.bad += not met

    def _so_far(self, request: Request) -> bool | None:
        """Whether a request in flight meets the objectives; ``None`` when that is not known yet."""
        slo = self._slo
        age_s = self._until_s - request.arrival_s
        if slo.e2e_s is not None and age_s > slo.e2e_s:
            return False
        if request.first_token_s is None:
            return False if slo.ttft_s is not None and age_s > slo.ttft_s else None
        if slo.ttft_s is not None and request.first_token_s - request.arrival_s > slo.ttft_s:
            return False
        pace_s = (self._until_s - request.first_token_s) / request.emitted_tokens
        if slo.tpot_s is not None and pace_s > slo.tpot_s:
            return False
        return True if slo.e2e_s is None else None

    @property
    def share(self) -> float | None:
        """The share; ``None`` when nothing is known of any request."""
        known = self.good + self.bad
        return self.good / known if known else None


def _met(request: Request, slo: Slo) -> bool:
    return not any(
        limit is not None and value is not None and value > limit
        for value, limit in (
            (request.ttft_s, slo.ttft_s),
            (request.tpot_s, slo.tpot_s),
            (request.e2e_s, slo.e2e_s),
        )
    )
