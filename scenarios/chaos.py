"""The chaos search: runs random scenarios, checks what must hold after every event, and shrinks what fails."""

from __future__ import annotations

import hashlib
import math
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from emulator.churn.invariants import InvariantError, Invariants, Rule
from emulator.emulation import Emulation
from emulator.errors import SimulationError
from emulator.spec import EmulationSpec
from scenarios.chaos_cases import ChaosCase, chaos_case
from scenarios.chaos_shrinking import Shrunk, shrink
from scenarios.errors import printable
from scenarios.loader import LoadedScenario
from scenarios.yaml_text import dump_yaml

MOST_EVENTS = 400_000
"""A case that takes more events is stopped; what it has shown by then counts."""
DRAIN_FACTOR, DRAIN_S = 20.0, 600.0
"""After so many durations and so much time on top, whoever is left in a case is not going to end."""
MOST_TRIES = 600
"""Scenarios that are tried to make a failing one small."""
TWICE_EVERY = 8
"""Every so many-th case is run twice, to see whether it repeats."""
SURE = 3
"""So many times in a row a scenario must give two logs to count as one that does."""
QUIET_S = 0.5
"""Quiet time after the last request before the books are closed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of one run.

    Attributes:
        rule: What was violated; ``None`` when nothing was.
        at_s: When, in emulated time.
        detail: By what.
        events: How many events there were.
        log_sha256: Hash of the event log; empty when it broke off.
        refused: Why the scenario cannot run at all; empty when it can.
    """

    rule: Rule | None = None
    at_s: float = 0.0
    detail: str = ""
    events: int = 0
    log_sha256: str = ""
    refused: str = ""

    def __str__(self) -> str:
        return "no violation" if self.rule is None else f"{self.rule} at {self.at_s:.6f} s: {self.detail}"


def judge(spec: EmulationSpec, *, twice: bool = False) -> Verdict:
    """Run a scenario with churn in virtual time and check what must hold.

    Args:
        spec: The scenario.
        twice: Whether to run it again and compare the event logs.
    """
    verdict = _judged(spec)
    if verdict.rule is not None or verdict.refused or not twice:
        return verdict
    again = _judged(spec)
    if again.log_sha256 != verdict.log_sha256:
        detail = f"the same scenario gives another event log: {verdict.log_sha256[:16]}, {again.log_sha256[:16]}"
        return Verdict(rule=Rule.DETERMINISM, at_s=0.0, detail=detail, events=verdict.events)
    return verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A case that violates something.

    Attributes:
        case: The case.
        verdict: What it violates.
        small: A small scenario that fails in the same way; ``None`` when there are several like it.
    """

    case: ChaosCase
    verdict: Verdict
    small: Shrunk | None


@dataclass(slots=True)
class SearchResult:
    """What a search has found.

    Attributes:
        runs: Cases run.
        refused: Those of them that cannot run at all.
        events: Events of all of them.
        failures: Cases that violate something.
        digest: SHA-256 over the event logs of all cases, in order.
        interrupted: Whether Ctrl-C ended it.
    """

    runs: int = 0
    refused: int = 0
    events: int = 0
    failures: list[Failure] = field(default_factory=list)
    digest: str = ""
    interrupted: bool = False


def search(
    seed: int,
    numbers: Iterable[int],
    *,
    time_limit_s: float = math.inf,
    on_failure: Callable[[Failure], None] | None = None,
) -> SearchResult:
    """Run cases of the search with ``seed``; of failures by one rule the first is made small.

    Args:
        seed: Seed of the search.
        numbers: Which cases.
        time_limit_s: No new case begins after this time.
        on_failure: Is told of each failure.
    """
    result = SearchResult()
    digest = hashlib.sha256()
    end_s = time.monotonic() + time_limit_s
    try:
        for number in numbers:
            if time.monotonic() >= end_s:
                break
            case = chaos_case(seed, number)
            verdict = judge(case.loaded.spec, twice=number % TWICE_EVERY == 0)
            result.runs += 1
            result.refused += bool(verdict.refused)
            result.events += verdict.events
            digest.update(f"{number} {verdict.log_sha256}\n".encode())
            if verdict.rule is None:
                continue
            known = any(same_failure(failure.verdict, verdict) for failure in result.failures)
            failure = Failure(case=case, verdict=verdict, small=None if known else shrunk(case, verdict))
            result.failures.append(failure)
            if on_failure is not None:
                on_failure(failure)
    except KeyboardInterrupt:
        result.interrupted = True
    result.digest = digest.hexdigest()
    return result


def failure_text(failure: Failure) -> str:
    """The file of a failure: its small scenario, with what it shows and how to see it again."""
    assert failure.small is not None
    case = failure.case
    told_by = judge(failure.small.loaded.spec, twice=failure.verdict.rule is Rule.DETERMINISM)
    head = [
        f"helixemu chaos --seed {case.seed} --only {case.number}",
        f"found: {failure.verdict}",
        f"this smaller scenario: {told_by}",
        "again: helixemu chaos --replay THIS_FILE",
    ]
    return "".join(f"# {printable(line)}\n" for line in head) + dump_yaml(failure.small.document)


def same_failure(one: Verdict, other: Verdict) -> bool:
    """Whether two runs failed in the same way: by one rule, and, where the engine failed itself, with one error."""
    kinds = [verdict.detail.partition(":")[0].partition(" (")[0] for verdict in (one, other)]
    return one.rule is other.rule and (one.rule is not Rule.EXCEPTION or kinds[0] == kinds[1])


def shrunk(case: ChaosCase, verdict: Verdict, most_tries: int = MOST_TRIES) -> Shrunk:
    """A small scenario that fails as ``case`` did."""
    # What differs by chance may agree by chance; so that the small one can be trusted to differ, it must do so often.
    times = SURE if verdict.rule is Rule.DETERMINISM else 1

    def fails(loaded: LoadedScenario) -> bool:
        return all(same_failure(judge(loaded.spec, twice=times > 1), verdict) for _ in range(times))

    return shrink(case.document, fails, most_tries=most_tries)


def _judged(spec: EmulationSpec) -> Verdict:
    try:
        emulation = Emulation(spec)
    except SimulationError as error:
        # Nothing has happened yet: these are the user's errors, such as spares without which nobody can serve.
        return Verdict(refused=str(error).splitlines()[0])
    except Exception as error:
        return Verdict(rule=Rule.EXCEPTION, detail=told(error))
    checked = CheckedRun(emulation)
    try:
        checked.run()
    except InvariantError as violation:
        return Verdict(rule=violation.rule, at_s=violation.at_s, detail=violation.detail, events=checked.events)
    except Exception as error:
        # Whatever the engine raises in the middle of a run is a defect of its own: that is what is looked for.
        return Verdict(rule=Rule.EXCEPTION, at_s=emulation.env.now, detail=told(error), events=checked.events)
    return Verdict(events=checked.events, log_sha256=emulation.state.log.sha256())


class CheckedRun:
    """Steps through a run, checking after every event.

    Attributes:
        events: Events so far.
    """

    def __init__(self, emulation: Emulation) -> None:
        self._emulation = emulation
        self._invariants = Invariants(emulation)
        self.events = 0

    def run(self) -> None:
        """Run to the end of the last request, and on until all has been quiet for a while.

        Raises:
            InvariantError: Something does not hold.
        """
        emulation, invariants = self._emulation, self._invariants
        env, coordinator, duration_s = emulation.env, emulation.state.coordinator, emulation.spec.duration_s
        deadline_s = duration_s * DRAIN_FACTOR + DRAIN_S
        while env.peek() <= duration_s and self.events < MOST_EVENTS:
            self._step()
        quiet_from_s = env.now
        while self.events < MOST_EVENTS and env.peek() <= deadline_s:
            if coordinator.open_requests or not invariants.quiet:
                quiet_from_s = env.now
            elif env.now - quiet_from_s >= QUIET_S:
                break
            self._step()
        if self.events < MOST_EVENTS:
            invariants.at_end()

    def _step(self) -> None:
        self._emulation.env.step()
        self.events += 1
        self._invariants.after_event()


def told(error: Exception) -> str:
    """An exception in one line: what, and where in the engine."""
    # SimPy raises a copy of what a process raised.
    frames = traceback.extract_tb((error.__cause__ or error).__traceback__)
    where = f" ({Path(frames[-1].filename).name}, {frames[-1].name})" if frames else ""
    text = str(error).splitlines()[0] if str(error) else ""
    return f"{type(error).__name__}{': ' if text else ''}{text}{where}"
