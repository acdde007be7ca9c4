"""The run directory: what a run leaves behind."""

from __future__ import annotations

import csv
import errno
import json
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from emulator.requests import Request
from scenarios.errors import Problem, ScenarioError
from scenarios.loader import LoadedScenario
from scenarios.yaml_text import dump_yaml

TOKENS = "tokens.jsonl"
"""File of the times of tokens."""
PACKAGES = ("helix-emulator", "simpy", "numpy", "networkx", "pydantic", "pyyaml")
"""Packages that can change a run's figures; their versions are kept with the results."""

REQUEST_COLUMNS = (
    "request",
    "outcome",
    "reason",
    "arrival_s",
    "admitted_s",
    "first_token_s",
    "end_s",
    "prompt_tokens",
    "output_tokens",
    "emitted_tokens",
    "ttft_s",
    "tpot_s",
    "e2e_s",
    "preemptions",
    "recomputed_tokens",
    "pipeline",
)


def versions() -> dict[str, str]:
    """Versions of everything that can change a run's figures."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


class RunDirectory:
    """Writes ``scenario.yaml``, ``events.jsonl``, ``requests.csv`` while the run goes on, then ``summary.json``.

    Where the scenario asks for it, ``tokens.jsonl`` too: a line for each row of ``requests.csv``, with the times at
    which the request's tokens were at the coordinator, in emulated seconds.

    Attributes:
        path: The directory.
        on_token: To be called with request and time for every token; ``None`` where times are not kept.

    Raises:
        ScenarioError: The directory cannot be made, or holds something already; later, the disk is full.
    """

    def __init__(self, path: Path, loaded: LoadedScenario) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            if any(path.iterdir()):
                raise ScenarioError(
                    Problem("--out", None, "", str(path), "the directory is not empty", "name a new or empty one")
                )
            (path / "scenario.yaml").write_text(dump_yaml(loaded.resolved), encoding="utf-8")
            self._write_json("versions.json", versions())
            self._events = (path / "events.jsonl").open("wb")
            self._requests = (path / "requests.csv").open("w", newline="", encoding="utf-8")
            self._tokens = (path / TOKENS).open("w", encoding="utf-8") if loaded.token_times else None
        except OSError as error:
            raise ScenarioError(
                Problem("--out", None, "", str(path), f"cannot be written: {error.strerror}", "name another directory")
            ) from error
        self._token_times: dict[int, list[float]] = {}
        self.on_token = self._token if loaded.token_times else None
        self._rows = csv.writer(self._requests)
        self._rows.writerow(REQUEST_COLUMNS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Closing writes what is left: where the disk is full already, that fails again, and is no other matter.
        files = [file for file in (self._events, self._requests, self._tokens) if file is not None]
        failed: OSError | None = None
        for file in files:
            try:
                file.close()
            except OSError as error:
                failed = error
        if failed is not None and kind is None:
            raise self._unwritten(failed) from failed

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._unwritten(error) from error

    def _unwritten(self, error: OSError) -> ScenarioError:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        rule = "the disk is full" if full else f"cannot be written: {error.strerror}"
        remedy = "make room, or name a directory elsewhere, and run the scenario again"
        return ScenarioError(Problem("--out", None, "", str(self.path), rule, remedy))

    def log(self, chunk: bytes) -> None:
        """Append to the event log."""
        with self._writing():
            self._events.write(chunk)

    def _token(self, request: Request, time_s: float) -> None:
        self._token_times.setdefault(request.number, []).append(time_s)

    def request(self, request: Request) -> None:
        """Append one request's row, and the times of its tokens; in seconds, empty where there is none."""
        with self._writing():
            self._append(request)

    def _append(self, request: Request) -> None:
        if self._tokens is not None:
            times = ",".join(f"{time_s:.9f}" for time_s in self._token_times.pop(request.number, ()))
            self._tokens.write(f'{{"request":{request.number},"times_s":[{times}]}}\n')
        self._rows.writerow(
            (
                request.number,
                request.outcome,
                request.reason,
                _seconds(request.arrival_s),
                _seconds(request.admitted_s),
                _seconds(request.first_token_s),
                _seconds(request.end_s),
                request.prompt_tokens,
                request.output_tokens,
                request.emitted_tokens,
                _seconds(request.ttft_s),
                _seconds(request.tpot_s),
                _seconds(request.e2e_s),
                request.preemptions,
                request.recomputed_tokens,
                request.pipeline or "",
            )
        )

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write the summary; its presence says that the directory is complete."""
        with self._writing():
            self._events.flush()
            self._requests.flush()
            if self._tokens is not None:
                self._tokens.flush()
            self._write_json("summary.json", summary)

    def _write_json(self, name: str, content: Mapping[str, Any]) -> None:
        part = self.path / f".{name}.part"
        part.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(part, self.path / name)


def next_run_directory(root: Path, scenario: str) -> Path:
    """``root/SCENARIO-1``, or the first number that is free."""
    safe = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in scenario) or "run"
    number = 1
    while (path := root / f"{safe}-{number}").exists():
        number += 1
    return path


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.9f}"


def check_writable(path: str | None) -> None:
    """Refuse an output file that cannot be written before work goes into its content; ``-`` is the terminal.

    Raises:
        ScenarioError: It cannot.
    """
    if path in (None, "-"):
        return
    try:
        with Path(str(path)).open("a", encoding="utf-8"):
            pass
    except OSError as error:
        rule = f"the file cannot be written: {error.strerror}"
        raise ScenarioError(Problem(str(path), None, "", None, rule, "name another file")) from error
