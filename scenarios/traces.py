"""Request traces: this project's CSV and the published formats, read row by row and checked.

========== ========================================================= =====================================
format     columns or keys                                           time of a request
========== ========================================================= =====================================
helixemu   ``arrival_s, prompt_tokens, output_tokens`` (CSV);        seconds since the start of the run
           without ``arrival_s`` the file gives lengths only         0
azure      ``TIMESTAMP, ContextTokens, GeneratedTokens`` (CSV)       date and time, UTC unless it says else
burstgpt   ``Timestamp, Request tokens, Response tokens`` (CSV)      seconds
mooncake   ``timestamp, input_length, output_length`` (JSON lines)   milliseconds
========== ========================================================= =====================================

Columns are found by name; further ones are ignored. The published formats count from their earliest request on, this
project's own keeps its times. In the published formats a request without output tokens is one that failed: it is
skipped and counted. Rows may be out of order by up to :data:`REORDER_S`, since logs are written by many hands; they are
sorted, and a row farther back is an error.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from emulator.workload import Arrival
from scenarios.errors import Problem, ScenarioError

MAX_FILE_BYTES = 1 << 30
MAX_LINE_BYTES = 1 << 18
MAX_ROWS = 10_000_000
MAX_PROBLEMS = 20
MAX_TOKENS = 10_000_000
MAX_SECONDS = 1e11
"""Greatest time that a row may hold; epoch seconds fit, nonsense does not."""
REORDER_S = 60.0
"""How far a row may lie before an earlier row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """A trace as read.

    Attributes:
        format: Name of its format.
        arrivals: Requests, sorted by time.
        skipped: Rows of requests that failed.
        timed: Whether the file gives times; otherwise every request is at the start.
    """

    format: str
    arrivals: list[Arrival]
    skipped: int
    timed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceSummary:
    """What a trace amounts to.

    Attributes:
        requests: Number of requests.
        span_s: Seconds from the first request to the last.
        requests_per_s: Requests by span; ``None`` without a span.
        tokens_per_s: Prompt and output tokens by span; ``None`` without a span.
        prompt_tokens_mean: Mean prompt length.
        output_tokens_mean: Mean output length.
    """

    requests: int
    span_s: float
    requests_per_s: float | None
    tokens_per_s: float | None
    prompt_tokens_mean: float
    output_tokens_mean: float


def summarise(arrivals: Sequence[Arrival]) -> TraceSummary:
    """Statistics of a trace's requests, which must be sorted and at least one."""
    requests = len(arrivals)
    prompts = sum(arrival.prompt_tokens for arrival in arrivals)
    outputs = sum(arrival.output_tokens for arrival in arrivals)
    span_s = arrivals[-1].at_s - arrivals[0].at_s
    return TraceSummary(
        requests=requests,
        span_s=span_s,
        requests_per_s=requests / span_s if span_s > 0 else None,
        tokens_per_s=(prompts + outputs) / span_s if span_s > 0 else None,
        prompt_tokens_mean=prompts / requests,
        output_tokens_mean=outputs / requests,
    )


def read_trace(
    path: Path,
    *,
    format: str = "auto",
    requests_per_s: float | None = None,
    tokens_per_s: float | None = None,
    limit: int | None = None,
    start_s: float = 0.0,
) -> list[Arrival]:
    """The requests of a trace file; arguments and errors as for :func:`load_trace`."""
    return load_trace(
        path, format=format, requests_per_s=requests_per_s, tokens_per_s=tokens_per_s, limit=limit, start_s=start_s
    ).arrivals


def load_trace(
    path: Path,
    *,
    format: str = "auto",
    requests_per_s: float | None = None,
    tokens_per_s: float | None = None,
    limit: int | None = None,
    start_s: float = 0.0,
) -> Trace:
    """Read a trace file.

    Args:
        path: The file.
        format: ``auto`` (found by header or first line), ``helixemu``, ``azure``, ``burstgpt`` or ``mooncake``.
        requests_per_s: Stretch time evenly, so that requests by span (first to last request) come to this.
        tokens_per_s: The same for prompt and output tokens together; not beside ``requests_per_s``.
        limit: Take this many requests from the start of the file.
        start_s: Seconds added to every time, after stretching.

    Raises:
        ScenarioError: The file is missing, too large, of another format or has broken rows (the first
            :data:`MAX_PROBLEMS` of them); an option makes no sense; or a rate is asked for and the trace has no span.
    """
    file = str(path)
    _check_options(file, format, requests_per_s, tokens_per_s, limit, start_s)
    reader = _Reader(file=file, limit=limit)
    reader.read(_lines(path), None if format == "auto" else format)
    return reader.trace(requests_per_s, tokens_per_s, start_s)


@dataclass(frozen=True, slots=True)
class _Format:
    name: str
    time: str
    prompt: str
    output: str
    parse_time: Callable[[object], float]
    units_per_s: int = 1
    published: bool = True

    @property
    def columns(self) -> list[str]:
        return [column for column in (self.time, self.prompt, self.output) if column]


class _BadRowError(Exception):
    def __init__(self, column: str, value: object, rule: str, remedy: str) -> None:
        super().__init__(rule)
        self.column, self.value, self.rule, self.remedy = column, value, rule, remedy


_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,4})?", re.ASCII)
_WHOLE = re.compile(r"\d{1,18}(\.0*)?", re.ASCII)
_MOMENT = re.compile(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(?:[.,](\d{1,9})\d*)?(Z|[+-]\d\d:?\d\d)?", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _plain_time(value: object) -> float:
    """A number of seconds or milliseconds; raises ValueError with the rule."""
    if isinstance(value, str):
        if not _NUMBER.fullmatch(value):
            raise ValueError("it must be a number")
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("it must be a number")
    if not 0 <= value <= MAX_SECONDS * 1000:
        raise ValueError("it must be a finite number, at least 0")
    return value


def _moment_ns(value: object) -> float:
    """Nanoseconds since 1970, whole; raises ValueError with the rule."""
    match = _MOMENT.fullmatch(value) if isinstance(value, str) else None
    rule = "it must be a date and time such as 2023-11-16 18:15:46.6805900"
    if match is None:
        raise ValueError(rule)
    day, clock, fraction, zone = match.groups()
    try:
        moment = datetime.fromisoformat(f"{day}T{clock}{zone or 'Z'}")
        since = moment - _EPOCH
    except (ValueError, OverflowError) as error:
        raise ValueError(rule) from error
    return (since.days * 86_400 + since.seconds) * 10**9 + int((fraction or "0").ljust(9, "0"))


_OWN = _Format("helixemu", "arrival_s", "prompt_tokens", "output_tokens", _plain_time, published=False)
_LENGTHS = _Format("helixemu", "", "prompt_tokens", "output_tokens", lambda _: 0, published=False)
_AZURE = _Format("azure", "TIMESTAMP", "ContextTokens", "GeneratedTokens", _moment_ns, 10**9)
_BURSTGPT = _Format("burstgpt", "Timestamp", "Request tokens", "Response tokens", _plain_time)
_MOONCAKE = _Format("mooncake", "timestamp", "input_length", "output_length", _plain_time, 1000)
_CSV_FORMATS = (_OWN, _LENGTHS, _AZURE, _BURSTGPT)
FORMATS = ("auto", "helixemu", "azure", "burstgpt", "mooncake")
"""Names that ``format`` may take."""


def _tokens(column: str, value: object, minimum: int) -> int:
    whole: int | None = None
    if isinstance(value, str):
        whole = int(value.partition(".")[0]) if _WHOLE.fullmatch(value) else None
    elif isinstance(value, int) and not isinstance(value, bool):
        whole = value
    if whole is None or not minimum <= whole <= MAX_TOKENS:
        rule = f"it must be a whole number of tokens, {minimum} to {MAX_TOKENS}"
        raise _BadRowError(column, value, rule, "correct the row or remove it")
    return whole


@dataclass(slots=True, kw_only=True)
class _Reader:
    """Reads lines one by one; holds what came of them."""

    file: str
    limit: int | None
    form: _Format | None = None
    columns: list[int] = field(default_factory=list)
    rows: list[tuple[float, int, int]] = field(default_factory=list)
    skipped: int = 0
    latest: float = -math.inf
    in_order: bool = True
    problems: list[Problem] = field(default_factory=list)

    def read(self, lines: Iterator[tuple[int, str]], name: str | None) -> None:
        """Read up to the limit of rows or of problems; raises ScenarioError when there are any."""
        for number, line in lines:
            if not line or line.isspace():
                continue
            try:
                if self.form is None:
                    self._begin(line, name)
                    if self.form is not _MOONCAKE:
                        continue
                self._row(line.strip())
            except _BadRowError as bad:
                self.problems.append(Problem(self.file, number, bad.column, bad.value, bad.rule, bad.remedy))
            if self.form is None or len(self.problems) >= MAX_PROBLEMS or len(self.rows) == self.limit:
                break
        if not self.rows and not self.problems:
            rule, remedy = "the trace holds no requests", "give at least one row whose output tokens are not 0"
            self.problems.append(Problem(self.file, None, "", f"{self.skipped} rows of failed requests", rule, remedy))
        if self.problems:
            raise ScenarioError(tuple(self.problems))

    def _begin(self, line: str, name: str | None) -> None:
        if line.lstrip().startswith("{") and name in (None, "mooncake"):
            self.form = _MOONCAKE
            return
        header = [cell.strip().lower() for cell in _cells(line)]
        for form in _CSV_FORMATS:
            wanted = [column.lower() for column in form.columns]
            if name in (None, form.name) and all(header.count(column) == 1 for column in wanted):
                self.form, self.columns = form, [header.index(column) for column in wanted]
                return
        forms = [form for form in (*_CSV_FORMATS, _MOONCAKE) if name in (None, form.name)]
        known = "; ".join(f"{form.name}: {', '.join(form.columns)}" for form in forms)
        rule = f"the first line must show {'a known format' if name is None else f'the format {name}'}"
        raise _BadRowError("", line.strip(), rule, f"name the columns as in {known}")

    def _row(self, line: str) -> None:
        form = self._form()
        values = _json_values(line, form) if form is _MOONCAKE else self._csv_values(line)
        moment, prompt, output = values if form.time else (None, *values)
        try:
            at = form.parse_time(moment)
        except ValueError as error:
            raise _BadRowError(form.time, moment, str(error), "correct the row or remove it") from error
        output_tokens = _tokens(form.output, output, 0 if form.published else 1)
        prompt_tokens = _tokens(form.prompt, prompt, 1 if output_tokens else 0)
        if at < self.latest - REORDER_S * form.units_per_s:
            rule = f"a row may lie at most {REORDER_S:g} s before an earlier row"
            raise _BadRowError(
                form.time, moment, rule, "sort the trace by time, or split it where the time starts anew"
            )
        self.in_order = self.in_order and at >= self.latest
        self.latest = max(self.latest, at)
        if len(self.rows) >= MAX_ROWS:
            raise _BadRowError("", line, f"a trace has at most {MAX_ROWS} rows", "take a part of it with limit")
        if output_tokens == 0:
            self.skipped += 1
        else:
            self.rows.append((at, prompt_tokens, output_tokens))

    def _csv_values(self, line: str) -> list[object]:
        cells = _cells(line)
        if len(cells) <= max(self.columns):
            rule = f"a row needs at least {max(self.columns) + 1} columns, as the header has"
            raise _BadRowError("", line, rule, "complete the row or remove it")
        return [cells[column].strip() for column in self.columns]

    def _form(self) -> _Format:
        assert self.form is not None, "the first line decides the format"
        return self.form

    def trace(self, requests_per_s: float | None, tokens_per_s: float | None, start_s: float) -> Trace:
        """What was read, stretched and moved in time."""
        form = self._form()
        if not self.in_order:
            self.rows.sort(key=lambda row: row[0])
        units = form.units_per_s
        first, last = self.rows[0][0], self.rows[-1][0]
        origin = first if form.published else 0
        stretch = 1.0
        if requests_per_s is not None or tokens_per_s is not None:
            wanted = requests_per_s or tokens_per_s or 0.0
            amount = len(self.rows) if requests_per_s is not None else sum(p + o for _, p, o in self.rows)
            span_s = (last - first) / units
            stretch = amount / span_s / wanted if span_s > 0 else math.nan
            if not 0 < (last - origin) / units * stretch <= MAX_SECONDS:
                option = "tokens_per_s" if requests_per_s is None else "requests_per_s"
                rule = f"to be scaled to a rate, a trace needs requests at different times (its span is {span_s:g} s)"
                remedy = "leave the rate out, or use a synthetic workload with the trace's lengths"
                raise ScenarioError((Problem(self.file, None, option, wanted, rule, remedy),))
        arrivals = [Arrival((at - origin) / units * stretch + start_s, p, o) for at, p, o in self.rows]
        return Trace(format=form.name, arrivals=arrivals, skipped=self.skipped, timed=bool(form.time))


def _json_values(line: str, form: _Format) -> list[object]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise _BadRowError("", line, "a line must be one JSON object", "correct the line or remove it")
    for key in form.columns:
        if key not in row:
            raise _BadRowError(key, line, f"a line must have {', '.join(form.columns)}", f"add {key}")
    return [row[key] for key in form.columns]


def _cells(line: str) -> list[str]:
    if '"' not in line:
        return line.split(",")
    try:
        return next(csv.reader([line]), [])
    except csv.Error as error:
        raise _BadRowError("", line, "a row must be comma-separated values", "correct the quotes") from error


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines, with bounds on file and line length."""

    def bad(line: int | None, value: object, rule: str, remedy: str) -> ScenarioError:
        return ScenarioError((Problem(str(path), line, "", value, rule, remedy),))

    try:
        if not path.is_file():
            raise bad(None, None, "it must be a file that exists", "check the path of the trace")
        if (size := path.stat().st_size) > MAX_FILE_BYTES:
            raise bad(None, f"{size} bytes", f"a trace file has at most {MAX_FILE_BYTES} bytes", "split it")
        with path.open("rb") as stream:
            number = 0
            while line := stream.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(line) > MAX_LINE_BYTES:
                    rule = f"a line has at most {MAX_LINE_BYTES} bytes"
                    raise bad(number, line[:60].decode("ascii", "replace"), rule, "check that it is a text file")
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8", "replace")
    except OSError as error:
        raise bad(None, str(error), "it must be readable", "check the file and its permissions") from error


def _check_options(
    file: str,
    format: str,
    requests_per_s: float | None,
    tokens_per_s: float | None,
    limit: int | None,
    start_s: float,
) -> None:
    problems: list[Problem] = []
    if format not in FORMATS:
        remedy = f"use one of {', '.join(FORMATS)}"
        problems.append(Problem(file, None, "format", format, "it must be a known trace format", remedy))
    for name, rate in (("requests_per_s", requests_per_s), ("tokens_per_s", tokens_per_s)):
        if rate is not None and not 0 < rate < math.inf:
            problems.append(Problem(file, None, name, rate, "a rate must be above 0", "correct it or leave it out"))
    if requests_per_s is not None and tokens_per_s is not None:
        rule, remedy = "a trace is scaled to one rate", "give either requests_per_s or tokens_per_s"
        problems.append(Problem(file, None, "tokens_per_s", tokens_per_s, rule, remedy))
    if limit is not None and limit < 1:
        problems.append(Problem(file, None, "limit", limit, "it must be at least 1", "correct it or leave it out"))
    if not 0 <= start_s <= MAX_SECONDS:
        problems.append(Problem(file, None, "start", start_s, "it must be finite and at least 0 s", "correct it"))
    if problems:
        raise ScenarioError(tuple(problems))
