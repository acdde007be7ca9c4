"""A run as a trace for Chrome's and Perfetto's viewers.

The format is the "Trace Event Format" (JSON object form): ``X`` slices are batches on their node's track, ``b``/``e``
pairs are requests and transfers, ``s``/``t``/``f`` flows lead a request through its batches, ``C`` are KV entries and
max flow, ``i`` is churn, ``M`` names processes and threads. ``ts`` and ``dur`` are microseconds.

Two passes over the event log keep memory bounded: the first finds names and how far back an event can reach (a batch is
logged at its end), the second writes events in rising order, holding back no more than that.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import IO, Any

from placement.cluster import COORDINATOR
from scenarios.errors import Problem, ScenarioError
from scenarios.reports.run_files import RunFiles
from scenarios.reports.writing import whole_file

REQUESTS, NODES, LINKS, CLUSTER = 1, 2, 3, 4
"""Processes of the trace."""
FIRST_TRACKS = {CLUSTER: "churn", LINKS: "sent over links that are down"}
"""Names of the tracks of instants."""
PROCESSES = {CLUSTER: "cluster", NODES: "nodes", LINKS: "links", REQUESTS: "requests"}
ENDS = ("finished", "failed", "rejected")
STARTS_AGAIN = ("preempted", "retried")


class Flows(StrEnum):
    """Which ways of requests through their batches are drawn."""

    PREFILL = "prefill"
    ALL = "all"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceCounts:
    """What a trace holds: numbers of batches, transfers, requests, flows and churn events."""

    batches: int
    transfers: int
    requests: int
    flows: int
    churn: int
    truncated: bool


@dataclass(slots=True)
class _Outlook:
    """What the first pass finds."""

    nodes: dict[str, int] = field(default_factory=dict)
    layers: dict[str, tuple[int, int]] = field(default_factory=dict)
    reach_ns: int = 0
    last_ns: int = 0
    transfers: bool = False
    truncated: bool = False


def write_trace(run: RunFiles, out: Path, flows: Flows = Flows.PREFILL) -> TraceCounts:
    """Write a run's trace.

    Args:
        run: The run; its event log must tell of batches.
        out: File to write.
        flows: ``prefill`` draws each request's way to its first token, ``all`` that of every token too.

    Raises:
        ScenarioError: The event log is too coarse, or broken; or the file cannot be written.
    """
    outlook = _look_ahead(run, flows)
    if not outlook.nodes:
        level = run.event_log_level()
        rule = f"the event log has no batches: it was written with output.event_log: {level}"
        remedy = "run again with --set output.event_log=batches, or =hops for links and the requests' ways too"
        raise ScenarioError(Problem(str(run.path / "events.jsonl"), None, "", None, rule, remedy))
    with whole_file(out) as file:
        return _write(file, run, outlook, flows)


def _write(file: IO[str], run: RunFiles, outlook: _Outlook, flows: Flows) -> TraceCounts:
    about = {
        "scenario": run.summary.get("scenario"),
        "seed": run.summary.get("seed"),
        "event_log_sha256": run.summary.get("event_log_sha256"),
        "truncated": outlook.truncated,
        **run.versions,
    }
    file.write('{"displayTimeUnit":"ms","otherData":' + json.dumps(about) + ',\n"traceEvents":[\n')
    tracer = _Tracer(outlook, flows)
    lead = ""
    for event in (*_names(outlook), *tracer.events(run)):
        file.write(lead + json.dumps(event, separators=(",", ":")))
        lead = ",\n"
    file.write("\n]}\n")
    return TraceCounts(
        batches=tracer.batches,
        transfers=tracer.transfers,
        requests=tracer.requests,
        flows=tracer.flow_count,
        churn=tracer.churn,
        truncated=outlook.truncated,
    )


def _look_ahead(run: RunFiles, flows: Flows) -> _Outlook:
    """Nodes in the order of the summary, then of appearance; how far back a line can tell of."""
    outlook = _Outlook()
    ways = _Ways(flows)
    for number, event in run.events():
        kind = event["event"]
        if kind == "truncated":
            outlook.truncated = True
            continue
        at_ns = _ns(event["t"])
        outlook.reach_ns = max(outlook.reach_ns, outlook.last_ns - at_ns)
        outlook.last_ns = max(outlook.last_ns, at_ns)
        try:
            if kind == "batch":
                begin_ns = at_ns - _ns(event["duration_s"])
                outlook.reach_ns = max(outlook.reach_ns, at_ns - begin_ns)
                outlook.nodes.setdefault(event["node"], 0)
                start, stop = event["layers"]
                first, last = outlook.layers.get(event["node"], (start, stop))
                outlook.layers[event["node"]] = (min(first, start), max(last, stop))
                ways.batch(event["node"], at_ns, begin_ns)
            elif kind == "transfer":
                outlook.transfers = True
                for way in ways.transfer(event, at_ns):
                    outlook.reach_ns = max(outlook.reach_ns, at_ns - way[0][1])
            elif kind != "churn":
                ways.request(kind, event["request"])
        except (KeyError, TypeError, ValueError) as error:
            raise run.broken_event(number, error) from error
    known = [name for name in run.summary["nodes"] if name in outlook.nodes]
    others = [name for name in outlook.nodes if name not in run.summary["nodes"]]
    outlook.nodes = {name: index for index, name in enumerate([*known, *others], start=1)}
    return outlook


def _names(outlook: _Outlook) -> Iterator[dict[str, Any]]:
    for order, (pid, name) in enumerate(PROCESSES.items()):
        if pid == LINKS and not outlook.transfers:
            continue
        yield {"ph": "M", "pid": pid, "tid": 0, "name": "process_name", "args": {"name": name}}
        yield {"ph": "M", "pid": pid, "tid": 0, "name": "process_sort_index", "args": {"sort_index": order}}
        if pid in FIRST_TRACKS:
            yield {"ph": "M", "pid": pid, "tid": 0, "name": "thread_name", "args": {"name": FIRST_TRACKS[pid]}}
    for name, tid in outlook.nodes.items():
        start, stop = outlook.layers[name]
        label = f"{name} [{start}, {stop})"
        yield {"ph": "M", "pid": NODES, "tid": tid, "name": "thread_name", "args": {"name": label}}
        yield {"ph": "M", "pid": NODES, "tid": tid, "name": "thread_sort_index", "args": {"sort_index": tid}}


class _Ways:
    """Follows requests through their batches.

    The log names a batch's requests only when it sends them on: transfers that leave a node at the very time at which
    its batch ends, carry that batch's requests.
    """

    def __init__(self, flows: Flows) -> None:
        self._flows = flows
        self._latest: dict[str, tuple[int, int]] = {}
        self._open: dict[int, list[tuple[str, int]]] = {}
        self._answered: set[int] = set()

    def batch(self, node: str, end_ns: int, begin_ns: int) -> None:
        """A batch has ended."""
        self._latest[node] = (end_ns, begin_ns)

    def transfer(self, event: dict[str, Any], at_ns: int) -> list[list[tuple[str, int]]]:
        """The ways that end with this transfer: node and begin of each batch, two at least."""
        source, _, target = event["link"].partition("->")
        requests = event["requests"]
        if self._flows is Flows.NONE:
            return []
        if source == COORDINATOR:
            for request in requests:
                if self._flows is Flows.ALL or request not in self._answered:
                    self._open[request] = []
            return []
        end_ns, begin_ns = self._latest.get(source, (-1, -1))
        done = []
        for request in requests:
            way = self._open.get(request)
            if way is None:
                continue
            if end_ns == at_ns:
                way.append((source, begin_ns))
            if target == COORDINATOR:
                del self._open[request]
                if len(way) > 1:
                    done.append(way)
        return done

    def request(self, kind: str, request: int) -> None:
        """Something happened to a request."""
        if kind == "first_token":
            self._answered.add(request)
        elif kind in STARTS_AGAIN or kind in ENDS:
            self._answered.discard(request)
            self._open.pop(request, None)


class _Tracer:
    """Turns events of the log into trace events in rising order of time."""

    def __init__(self, outlook: _Outlook, flows: Flows) -> None:
        self._outlook = outlook
        self._ways = _Ways(flows)
        self._heap: list[tuple[int, int, dict[str, Any]]] = []
        self._serial = 0
        self._free_ns: dict[str, int] = {}
        self._latest: dict[str, tuple[int, dict[str, Any]]] = {}
        self._open: dict[int, None] = {}
        self._now_ns = 0
        self.batches = self.transfers = self.requests = self.flow_count = self.churn = 0

    def events(self, run: RunFiles) -> Iterator[dict[str, Any]]:
        """All of the run's trace events."""
        for number, event in run.events():
            if event["event"] == "truncated":
                continue
            self._now_ns = max(self._now_ns, _ns(event["t"]))
            try:
                self._take(event, _ns(event["t"]))
            except (KeyError, TypeError, ValueError) as error:
                raise run.broken_event(number, error) from error
            yield from self._due(self._now_ns - self._outlook.reach_ns)
        for request in self._open:
            # Neither finished nor failed: it ends with the run.
            self._put(self._now_ns, _async("e", "request", request, REQUESTS, "request", {"outcome": "in_flight"}))
        yield from self._due(None)

    def _due(self, before_ns: int | None) -> Iterator[dict[str, Any]]:
        heap = self._heap
        while heap and (before_ns is None or heap[0][0] < before_ns):
            at_ns, _, event = heapq.heappop(heap)
            event["ts"] = at_ns / 1000
            yield event

    def _put(self, at_ns: int, event: dict[str, Any]) -> None:
        self._serial += 1
        heapq.heappush(self._heap, (at_ns, self._serial, event))

    def _take(self, event: dict[str, Any], at_ns: int) -> None:
        kind = event["event"]
        if kind == "batch":
            self._batch(event, at_ns)
        elif kind == "transfer":
            self._transfer(event, at_ns)
        elif kind == "churn":
            self._churn(event, at_ns)
        else:
            self._request(kind, event, at_ns)

    def _batch(self, event: dict[str, Any], at_ns: int) -> None:
        node = event["node"]
        # Times are rounded to nanoseconds one by one: a batch must not begin before its predecessor ended.
        begin_ns = max(at_ns - _ns(event["duration_s"]), self._free_ns.get(node, 0))
        self._free_ns[node] = at_ns
        start, stop = event["layers"]
        args = {key: event[key] for key in ("prompts", "prompt_tokens", "decodes")}
        args["layers"] = f"[{start}, {stop})"
        parts = [f"{event['prompts']} prefill"] if event["prompts"] else []
        parts += [f"{event['decodes']} decode"] if event["decodes"] else []
        kind = "mixed" if len(parts) == 2 else "prefill" if event["prompts"] else "decode"
        slice_ = {
            "ph": "X", "pid": NODES, "tid": self._outlook.nodes[node], "cat": f"batch,{kind}",
            "name": " + ".join(parts) or "empty", "dur": (at_ns - begin_ns) / 1000, "args": args,
        }  # fmt: skip
        self._put(begin_ns, slice_)
        counter = {"ph": "C", "pid": NODES, "name": f"KV {node}", "args": {"layer_tokens": event["kv_used"]}}
        self._put(at_ns, counter)
        self._latest[node] = (at_ns, args)
        self._ways.batch(node, at_ns, begin_ns)
        self.batches += 1

    def _transfer(self, event: dict[str, Any], at_ns: int) -> None:
        self.transfers += 1
        link, requests = event["link"], event["requests"]
        source = link.partition("->")[0]
        end_ns, args = self._latest.get(source, (-1, {}))
        if end_ns == at_ns:
            args.setdefault("requests", []).extend(requests)
        if event["last_s"] is not None:
            about = {"tokens": event["tokens"], "requests": requests, "first_arrival_s": event["first_s"]}
            self._put(at_ns, _async("b", "transfer", self.transfers, LINKS, link, about))
            self._put(max(at_ns, _ns(event["last_s"])), _async("e", "transfer", self.transfers, LINKS, link))
        else:
            lost = {"ph": "i", "s": "p", "pid": LINKS, "tid": 0, "cat": "transfer", "name": f"{link} is down"}
            self._put(at_ns, {**lost, "args": {"requests": requests}})
        for way in self._ways.transfer(event, at_ns):
            self.flow_count += 1
            for position, (node, begin_ns) in enumerate(way):
                phase = "s" if position == 0 else "f" if position == len(way) - 1 else "t"
                step = {
                    "ph": phase, "pid": NODES, "tid": self._outlook.nodes[node], "cat": "way", "name": "way",
                    "id": self.flow_count, "bp": "e",
                }  # fmt: skip
                self._put(begin_ns, step)

    def _request(self, kind: str, event: dict[str, Any], at_ns: int) -> None:
        request = int(event["request"])
        about = {key: value for key, value in event.items() if key not in ("t", "event", "request")}
        self._ways.request(kind, request)
        if kind in ("arrival", "adopted") and request not in self._open:
            self._open[request] = None
            self.requests += 1
            self._put(at_ns, _async("b", "request", request, REQUESTS, "request", {"request": request, **about}))
        elif kind in ENDS:
            if request in self._open:
                del self._open[request]
                self._put(at_ns, _async("e", "request", request, REQUESTS, "request", {"outcome": kind, **about}))
        else:
            self._put(at_ns, _async("n", "request", request, REQUESTS, kind, about))

    def _churn(self, event: dict[str, Any], at_ns: int) -> None:
        about = {key: value for key, value in event.items() if key not in ("t", "event", "what")}
        if event["what"] == "max_flow":
            flow = {"tokens_per_s": event["tokens_per_s"]}
            self._put(at_ns, {"ph": "C", "pid": CLUSTER, "name": "max flow", "args": flow})
            return
        self.churn += 1
        name = f"{event['what']} {event['node']}" if isinstance(event.get("node"), str) else str(event["what"])
        self._put(at_ns, {"ph": "i", "s": "g", "pid": CLUSTER, "tid": 0, "cat": "churn", "name": name, "args": about})


def _async(
    phase: str, category: str, number: int, pid: int, name: str, args: dict[str, Any] | None = None
) -> dict[str, Any]:
    event = {"ph": phase, "pid": pid, "tid": 0, "cat": category, "id": number, "name": name}
    return event if args is None else {**event, "args": args}


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
