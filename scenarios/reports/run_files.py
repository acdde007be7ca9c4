"""Reads a run directory: what :class:`scenarios.results.RunDirectory` wrote, or an honest error."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scenarios.errors import Problem, ScenarioError
from scenarios.results import REQUEST_COLUMNS, TOKENS
from scenarios.yaml_text import read_yaml

MAX_LINE_BYTES = 16 << 20
"""Longest line of an event log that is read."""
MAX_JSON_BYTES = 256 << 20
"""Largest summary that is read."""
MAX_FIELD_CHARACTERS = 1 << 20
"""Longest cell of ``requests.csv``; pipelines of many stages are long."""

AGAIN = "run the scenario again"

_WHOLE = ("request", "prompt_tokens", "output_tokens", "emitted_tokens", "preemptions", "recomputed_tokens")
_TEXT = ("outcome", "reason", "pipeline")


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRow:
    """One request of a run, as ``requests.csv`` tells it; times in emulated seconds, ``None`` where there is none."""

    request: int
    outcome: str
    reason: str
    arrival_s: float
    admitted_s: float | None
    first_token_s: float | None
    end_s: float | None
    prompt_tokens: int
    output_tokens: int
    emitted_tokens: int
    ttft_s: float | None
    tpot_s: float | None
    e2e_s: float | None
    preemptions: int
    recomputed_tokens: int
    pipeline: str

    @property
    def finished(self) -> bool:
        """Whether it got all its tokens."""
        return self.outcome == "finished"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFiles:
    """A finished run.

    Attributes:
        path: The directory.
        summary: ``summary.json``.
        versions: ``versions.json``; empty when it is missing.
    """

    path: Path
    summary: dict[str, Any]
    versions: dict[str, str]

    @property
    def window(self) -> tuple[float, float]:
        """Begin and end of the window, in emulated seconds."""
        end = float(self.summary["sim_s"])
        return end - float(self.summary["window_s"]), end

    def scenario(self) -> dict[str, Any]:
        """``scenario.yaml`` as plain data."""
        plain = read_yaml(self.path / "scenario.yaml").plain()
        if not isinstance(plain, dict):
            raise _problem(self.path / "scenario.yaml", None, "this is no scenario", "name the directory of a run")
        return plain

    def event_log_level(self) -> str:
        """What the scenario's ``output.event_log`` says."""
        output = self.scenario().get("output")
        return str(output.get("event_log", "requests")) if isinstance(output, dict) else "requests"

    def requests(self) -> Iterator[RequestRow]:
        """The requests, in the order in which they ended."""
        path = self.path / "requests.csv"
        csv.field_size_limit(MAX_FIELD_CHARACTERS)
        with _opened(path) as file:
            rows = csv.DictReader(line.decode("utf-8", "replace") for line in file)
            if tuple(rows.fieldnames or ()) != REQUEST_COLUMNS:
                rule = f"the columns are not those of this version: {', '.join(REQUEST_COLUMNS)}"
                raise _problem(path, 1, rule, "run the scenario again with this version")
            try:
                for row in rows:
                    yield _request(path, rows.line_num, row)
            except csv.Error as error:
                raise _problem(path, rows.line_num, f"this is no CSV: {error}", AGAIN) from error

    def has_token_times(self) -> bool:
        """Whether the run kept when every token came."""
        return (self.path / TOKENS).is_file()

    def token_times(self) -> Iterator[list[float]]:
        """When the tokens of each request came, in emulated seconds; in the order of :meth:`requests`."""
        path = self.path / TOKENS
        if not self.has_token_times():
            rule = "the run did not keep when its tokens came, so inter-token latencies are not known"
            raise _problem(path, None, rule, "run the scenario again with --set output.token_times=true")
        with _opened(path) as file:
            for number, line in enumerate(file, start=1):
                try:
                    times = [float(time_s) for time_s in json.loads(line)["times_s"]]
                except (ValueError, TypeError, KeyError, RecursionError) as error:
                    rule = f"this is no line of times of tokens, or only a part of one: {type(error).__name__}"
                    raise _problem(path, number, rule, "run the scenario again") from error
                yield times

    def requests_with_token_times(self) -> Iterator[tuple[RequestRow, list[float]]]:
        """Each request with the times of its tokens.

        Raises:
            ScenarioError: The run did not keep them, or they are not those of its requests.
        """
        times = self.token_times()
        for row in self.requests():
            found = next(times, None)
            if found is None or len(found) != row.emitted_tokens:
                count = "no line" if found is None else f"{len(found)} times"
                rule = f"request {row.request} has {row.emitted_tokens} tokens in requests.csv, but {count} here"
                raise _problem(self.path / TOKENS, None, rule, "run the scenario again")
            yield row, found

    def events(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """The events of the log with their line numbers; every one has a finite ``t``, but for ``truncated``."""
        path = self.path / "events.jsonl"
        with _opened(path) as file:
            number = 0
            while line := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(line) > MAX_LINE_BYTES:
                    rule = f"the line is longer than {MAX_LINE_BYTES} bytes"
                    raise _problem(path, number, rule, AGAIN)
                yield number, _event(path, number, line)

    def broken_event(self, number: int, error: Exception) -> ScenarioError:
        """What to say of an event that lacks something, or holds something else than it should."""
        rule = f"this event lacks something or holds something else: {type(error).__name__}: {error}"
        return _problem(self.path / "events.jsonl", number, rule, "run the scenario again with this version")


def is_run(path: Path) -> bool:
    """Whether a directory is that of a run that has begun."""
    return (path / "summary.json").is_file() or (path / "events.jsonl").is_file()


def read_run(path: Path) -> RunFiles:
    """Look into a run directory.

    Raises:
        ScenarioError: It is none, or its run has not ended.
    """
    if not path.is_dir():
        raise _problem(path, None, "there is no such directory", "name the directory that `helixemu run` wrote")
    if not (path / "summary.json").is_file():
        begun = (path / "events.jsonl").is_file()
        rule = "the run did not end: summary.json is missing" if begun else "this is no run directory"
        raise _problem(path, None, rule, AGAIN if begun else "name one that `helixemu run` wrote")
    summary = read_json(path / "summary.json")
    for key in ("sim_s", "window_s"):
        value = summary.get(key)
        if not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
            raise _problem(path / "summary.json", None, f"{key} is missing or no time", AGAIN)
    for key in ("nodes", "links", "requests"):
        if not isinstance(summary.get(key), dict):
            raise _problem(path / "summary.json", None, f"{key} is missing", AGAIN)
    versions = read_json(path / "versions.json") if (path / "versions.json").is_file() else {}
    return RunFiles(path=path, summary=summary, versions={key: str(value) for key, value in versions.items()})


def read_json(path: Path, remedy: str = AGAIN) -> dict[str, Any]:
    """A file that holds a JSON object.

    Raises:
        ScenarioError: It cannot be read, or does not.
    """
    with _opened(path, remedy) as file:
        text = file.read(MAX_JSON_BYTES + 1)
    if len(text) > MAX_JSON_BYTES:
        raise _problem(path, None, f"the file is larger than {MAX_JSON_BYTES} bytes", remedy)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _problem(path, None, f"this is no JSON: {error}", remedy) from error
    if not isinstance(content, dict):
        raise _problem(path, None, "this is no JSON object", remedy)
    return content


def _event(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        event = json.loads(line)
        fine = isinstance(event["event"], str) and (event["event"] == "truncated" or math.isfinite(event["t"]))
    except (ValueError, TypeError, KeyError, RecursionError):
        fine = False
    if not fine:
        rule = "this is no event of a run, or only a part of one"
        raise _problem(path, number, rule, "run the scenario again; a log that was cut short cannot be read")
    assert isinstance(event, dict)
    return event


def _request(path: Path, number: int, row: dict[str, Any]) -> RequestRow:
    try:
        values: dict[str, Any] = {
            name: int(text) if name in _WHOLE else text if name in _TEXT else float(text) if text else None
            for name, text in row.items()
        }
    except (TypeError, ValueError) as error:
        raise _problem(path, number, f"this is no request: {error}", AGAIN) from error
    if values.keys() != set(REQUEST_COLUMNS) or values["arrival_s"] is None:
        raise _problem(path, number, "this is no whole request", AGAIN)
    return RequestRow(**values)


def _opened(path: Path, remedy: str = AGAIN) -> Any:
    try:
        return path.open("rb")
    except OSError as error:
        rule = f"the file cannot be read: {error.strerror}"
        raise _problem(path, None, rule, remedy) from error


def _problem(path: Path, line: int | None, rule: str, remedy: str) -> ScenarioError:
    return ScenarioError(Problem(str(path), line, "", None, rule, remedy))
