"""Makes a failing scenario small: tries simpler documents, one change at a time, and keeps what still fails.

The order of the tries depends on the document alone, so the same failure always shrinks to the same scenario.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from scenarios.chaos_draws import seconds
from scenarios.errors import ScenarioError
from scenarios.loader import LoadedScenario, load_document
from scenarios.quantities import QuantityError
from scenarios.quantities import seconds as in_seconds

Document = dict[str, Any]
Pass = Callable[[Document], Iterator[Document]]
NODE_KINDS = ("crash", "drain", "preempt", "join", "straggler", "gpu_memory_loss")
LINK_KINDS = ("degrade", "flap", "down")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shrunk:
    """The outcome.

    Attributes:
        document: The simplest scenario found that still fails.
        loaded: The same, ready to run.
        tries: Scenarios tried.
    """

    document: Document
    loaded: LoadedScenario
    tries: int


def shrink(document: Document, fails: Callable[[LoadedScenario], bool], most_tries: int) -> Shrunk:
    """Simplify a failing scenario.

    Args:
        document: The scenario; it is left as it is.
        fails: Whether a scenario fails in the same way.
        most_tries: At most so many scenarios are tried.
    """
    loaded = load_document(document, str(document["name"]))
    tries = 0
    better = True
    while better:
        better = False
        for simpler in PASSES:
            position = 0
            while tries < most_tries:
                options = list(simpler(copy.deepcopy(document)))
                if position >= len(options):
                    break
                candidate = options[position]
                found = _loaded(candidate) if candidate != document else None
                tries += found is not None
                if found is not None and fails(found):
                    # What was behind it has moved to this position.
                    document, loaded, better = candidate, found, True
                else:
                    position += 1
    return Shrunk(document=document, loaded=loaded, tries=tries)


def _loaded(document: Document) -> LoadedScenario | None:
    try:
        return load_document(document, str(document["name"]))
    except ScenarioError:
        # A change that makes nonsense of the rest is just not taken.
        return None


# ------------------------------------------------------------------------------------------------ fewer things


def _fewer_events(document: Document) -> Iterator[Document]:
    """Without half of the events, then without each."""
    churn = document["churn"]
    for key in ("events", "random"):
        count = len(churn.get(key, ()))
        if count > 3:
            for kept in (churn[key][: count // 2], churn[key][count // 2 :]):
                yield _with(document, ("churn", key), kept)
        for index in range(count):
            yield _with(document, ("churn", key), churn[key][:index] + churn[key][index + 1 :])
    if "initially_down" in churn:
        yield _without(document, ("churn", "initially_down"))


def _fewer_nodes(document: Document) -> Iterator[Document]:
    for node in document["cluster"]["nodes"]:
        yield _without_node(document, node["name"])


def _without_node(document: Document, name: str) -> Document:
    """The document without one node and all that names it."""
    new = copy.deepcopy(document)
    new["cluster"]["nodes"] = [node for node in new["cluster"]["nodes"] if node["name"] != name]
    new["placement"]["ranges"].pop(name, None)
    network = new["cluster"]["network"]
    if "links" in network:
        network["links"] = [link for link in network["links"] if name not in (link["from"], link["to"])]
    regions = {node["region"] for node in new["cluster"]["nodes"]} | {new["cluster"]["coordinator"]["region"], "*"}
    if "regions" in network:
        network["regions"] = [link for link in network["regions"] if {link["from"], link["to"]} <= regions]
    churn = new["churn"]
    for key in ("events", "random"):
        churn[key] = [event for event in (_forgetting(event, name) for event in churn.get(key, ())) if event]
    down = [each for each in churn.get("initially_down", ()) if each != name]
    churn.pop("initially_down", None)
    if down:
        churn["initially_down"] = down
    options = churn.get("recovery", {}).get("options", {})
    if name in options.get("spares", ()):
        options["spares"] = [each for each in options["spares"] if each != name]
    return new


def _forgetting(event: dict[str, Any], name: str) -> dict[str, Any] | None:
    """An event that does not name a node any more; ``None`` when it named nobody else."""
    for kind in NODE_KINDS:
        if kind in event:
            return None if (rest := _others(event[kind], name)) is None else {**event, kind: rest}
    for kind in LINK_KINDS:
        if kind in event:
            ends = {key: _others(event[kind][key], name) for key in ("from", "to")}
            return None if None in ends.values() else {**event, kind: {**event[kind], **ends}}
    if "partition" in event:
        groups = [rest for group in event["partition"] if (rest := _others(group, name)) is not None]
        return {**event, "partition": groups} if len(groups) > 1 else None
    return event


def _others(target: Any, name: str) -> Any:
    if isinstance(target, list):
        return [each for each in target if each != name] or None
    return None if target == name else target


# ---------------------------------------------------------------------------------------------- smaller figures


def _shorter(document: Document) -> Iterator[Document]:
    duration_s = _seconds(document["duration"])
    for value in (duration_s / 2, duration_s * 0.8):
        if value > 0.2:
            yield _with(document, ("duration",), seconds(_short(value, 2)))


def _less_work(document: Document) -> Iterator[Document]:
    workload = document["workload"]
    where: tuple[str, ...] = ("workload", "lengths")
    if workload["kind"] == "open":
        rate = workload["synthetic"]["requests_per_s"]
        where = ("workload", "synthetic", "lengths")
        lengths = workload["synthetic"]["lengths"]
        yield _with(document, ("workload", "synthetic", "burstiness"), 1.0)
        if rate > 0.05:
            yield _with(document, ("workload", "synthetic", "requests_per_s"), _short(rate / 2, 2))
    else:
        lengths = workload["lengths"]
        if "feed_high_water_mark" in workload:
            yield _without(document, ("workload", "feed_high_water_mark"))
        for count in _halves(workload["initial_requests"], 1):
            yield _with(document, ("workload", "initial_requests"), count)
        yield _with(document, ("workload", "refill"), "constant")
    if "quantiles" in lengths:
        yield _with(document, where, {"prompt_tokens": 20, "output_tokens": 4})
        return
    for key in ("prompt_tokens", "output_tokens"):
        for count in _halves(lengths.get(key, 1), 1):
            yield _with(document, (*where, key), count)


def _halves(value: int, least: int) -> list[int]:
    return list(dict.fromkeys(max(least, new) for new in (value // 2, value - 1) if value > least))


def _fewer_layers(document: Document) -> Iterator[Document]:
    """One layer less, out of each place, with ranges that go round it."""
    layers = document["model"]["layers"]
    if layers < 2:
        return
    for gone in range(layers):
        new = _with(document, ("model", "layers"), layers - 1)
        ranges = {
            name: [start - (start > gone), stop - (stop > gone)]
            for name, (start, stop) in document["placement"]["ranges"].items()
        }
        new["placement"]["ranges"] = ranges
        for profile in new["profiles"]:
            profile["max_layers"] = layers - 1
        yield new


# ---------------------------------------------------------------------------------------------- simpler choices

_PLAIN: dict[tuple[str, ...], tuple[Any, ...]] = {
    ("churn", "recovery"): ({"policy": "none"}, {"policy": "reroute"}),
    ("churn", "recovery", "weights"): ("disk",),
    ("churn", "recovery", "options"): ({},),
    ("churn", "in_flight"): ({"policy": "fail"}, {"policy": "retry"}, {"policy": "replicate"}),
    ("churn", "detection"): ({"interval": "1 s", "timeout": "3 s"},),
    ("churn", "detection", "heartbeat"): ("64 B",),
    ("scheduler",): ({"policy": "round-robin"}, {"policy": "max-flow", "options": {"expected_output_ratio": 0.05}}),
    ("scheduler", "edge_flows"): ("any",),
    ("network",): ({"sharing": "clocks"},),
    ("kv_cache",): ({"when_full": "preempt"},),
    ("admission",): ({"when_no_route": "wait"},),
    ("counting",): ({"first_token": "prefill"},),
    ("placement", "partial_inference"): (True,),
    ("output",): ({"event_log": "requests"},),
    ("cluster", "coordinator", "nic"): ("100 MB/s",),
}
"""Usual choices, plainest first."""


def _plainer(document: Document) -> Iterator[Document]:
    """Usual choices in place of drawn ones, then nothing at all where that means the same."""
    for path, values in _PLAIN.items():
        present = _at(document, path)
        if present is not None:
            plainer = values[: values.index(present)] if present in values else values
            yield from (_with(document, path, value) for value in plainer)
    for path in (("network",), ("kv_cache",), ("admission",), ("counting",), ("output",), ("churn", "detection")):
        if _at(document, path) is not None:
            yield _without(document, path)
    for key in ("initially_down", "random", "events"):
        if _at(document, ("churn", key)) == []:
            yield _without(document, ("churn", key))


def _plainer_cluster(document: Document) -> Iterator[Document]:
    """One region, one kind of machine, one kind of link."""
    cluster = document["cluster"]
    network = cluster["network"]
    if "regions" in network:
        entries = network["regions"]
        if network.get("links"):
            yield _with(document, ("cluster", "network", "links"), [])
        elif "links" in network:
            yield _without(document, ("cluster", "network", "links"))
        if len(entries) > 1:
            yield _with(document, ("cluster", "network", "regions"), entries[:1])
    else:
        every = [{"from": "*", "to": "*", "bandwidth": "10 MB/s", "latency": "1 ms"}]
        yield _with(document, ("cluster", "network"), {"regions": every})
        for index in range(len(network["links"])):
            rest = network["links"][:index] + network["links"][index + 1 :]
            yield _with(document, ("cluster", "network", "links"), rest)
    for key in ("regions", "links"):
        for index, link in enumerate(network.get(key, ())):
            plain = {"from": link["from"], "to": link["to"], "bandwidth": "10 MB/s", "latency": "1 ms"}
            new = copy.deepcopy(document)
            new["cluster"]["network"][key][index] = plain
            yield new
    for index, node in enumerate(cluster["nodes"]):
        for change in ({"machine": "big"}, {"region": cluster["coordinator"]["region"]}):
            new = copy.deepcopy(document)
            new["cluster"]["nodes"][index].update(change)
            yield new
        if "kv_capacity_layer_tokens" in node:
            new = copy.deepcopy(document)
            del new["cluster"]["nodes"][index]["kv_capacity_layer_tokens"]
            yield new
    used = [node["machine"] for node in cluster["nodes"]]
    for machine in list(cluster["machines"]):
        if machine not in used:
            new = copy.deepcopy(document)
            del new["cluster"]["machines"][machine]
            new["profiles"] = [profile for profile in new["profiles"] if profile["machine"] != machine]
            yield new


def _plainer_events(document: Document) -> Iterator[Document]:
    """Events that last for good, at rounder times, to one target."""
    names = [node["name"] for node in document["cluster"]["nodes"]]
    for key in ("events", "random"):
        for index, event in enumerate(document["churn"].get(key, ())):
            for change in _plainer_event(event, names):
                new = copy.deepcopy(document)
                new["churn"][key][index] = change
                yield new


def _plainer_event(event: dict[str, Any], names: list[str]) -> Iterator[dict[str, Any]]:
    for key in ("for", "together", "law", "mttr", "notice"):
        if key in event:
            yield {name: value for name, value in event.items() if name not in (key, "shape" if key == "law" else key)}
    for key in ("at", "for", "notice", "mtbf", "mttr", "stop", "period", "coordinator_restart"):
        if key in event:
            for digits in (1, 2):
                rounder = seconds(_short(_seconds(event[key]), digits))
                if len(rounder) < len(event[key]):
                    yield {**event, key: rounder}
    for kind in NODE_KINDS:
        if kind in event and event[kind] not in names:
            for name in names:
                yield {**event, kind: name}
    for kind in LINK_KINDS:
        if kind in event:
            for end in ("from", "to"):
                if event[kind][end] not in (*names, "coordinator"):
                    for name in (*names, "coordinator"):
                        yield {**event, kind: {**event[kind], end: name}}
            if event[kind].get("both_ways"):
                yield {**event, kind: {**event[kind], "both_ways": False}}


PASSES: tuple[Pass, ...] = (
    _fewer_events,
    _shorter,
    _less_work,
    _fewer_nodes,
    _plainer,
    _plainer_cluster,
    _fewer_layers,
    _plainer_events,
)


# ----------------------------------------------------------------------------------------------------- documents


def _at(document: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        if not isinstance(document, dict) or key not in document:
            return None
        document = document[key]
    return document


def _with(document: Document, path: tuple[str, ...], value: Any) -> Document:
    new = copy.deepcopy(document)
    inner = new
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return new


def _without(document: Document, path: tuple[str, ...]) -> Document:
    new = copy.deepcopy(document)
    inner = new
    for key in path[:-1]:
        inner = inner[key]
    inner.pop(path[-1], None)
    return new


def _seconds(text: str) -> float:
    try:
        return in_seconds(text)
    except QuantityError:
        # Whoever loads it will say so.
        return 0.0


def _short(value: float, digits: int) -> float:
    return float(f"{value:.{digits}g}")
