"""Random small scenarios for the chaos search: clusters, loads and policies. What goes wrong is drawn elsewhere.

A case is a scenario document in plain data, just as a file would hold it: what is run is what can be written out, and
what is shrunk is what is run.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from emulator.schedulers import POLICY_NAMES
from scenarios.chaos_draws import Draws, seconds
from scenarios.chaos_timelines import TimelineDraw
from scenarios.errors import ScenarioError
from scenarios.loader import LoadedScenario, load_document

LONGEST_PROMPT, LONGEST_OUTPUT = 80, 12
REGIONS = ("west", "east", "north")
MACHINES = ("big", "small")
CHURN_PLACES = ("events", "random")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChaosCase:
    """One random scenario.

    Attributes:
        seed: Seed of the search.
        number: Which case of it.
        document: The scenario, as a file would hold it.
        loaded: The same, ready to run.
    """

    seed: int
    number: int
    document: dict[str, Any]
    loaded: LoadedScenario


def chaos_case(seed: int, number: int) -> ChaosCase:
    """Case ``number`` of the search with ``seed``; both alone determine it."""
    document = _CaseDraw(Draws(seed, f"chaos/case {number}"), f"chaos-{seed}-{number}").document()
    return ChaosCase(seed=seed, number=number, document=document, loaded=_valid(document))


def _valid(document: dict[str, Any]) -> LoadedScenario:
    """Load a document, and take out of it what cannot be: events after those before them, spares that are needed."""
    while True:
        try:
            return load_document(document, document["name"])
        except ScenarioError as error:
            wrong = [tuple(problem.path.split(".")) for problem in error.problems]
            churn = document["churn"]
            size = len(str(churn))
            if any(path[:2] == ("churn", "recovery") for path in wrong):
                churn["recovery"]["options"] = {}
            for key in CHURN_PLACES:
                churn[key] = [
                    event
                    for index, event in enumerate(churn[key])
                    if not any(path[:3] == ("churn", key, str(index)) for path in wrong)
                ]
            if len(str(churn)) == size:
                raise


class _CaseDraw:
    """Draws one case."""

    def __init__(self, draws: Draws, name: str) -> None:
        self._draws = draws
        self._name = name
        self._layers = draws.whole(2, 6)
        self._regions = list(REGIONS[: draws.whole(1, 3)])
        self._tight = draws.chance(0.45)
        self._policy = draws.one(POLICY_NAMES)
        self._shares = draws.chance(0.3)
        self._partial = draws.chance(0.85)
        self._duration_s = draws.number(3.0, 12.0)
        self._ranges = self._placement()
        spares = draws.whole(0, 2) if draws.chance(0.5) else 0
        self._nodes = [*self._ranges, *(f"s{index}" for index in range(spares))]

    def document(self) -> dict[str, Any]:
        """The whole scenario."""
        draws = self._draws
        nodes = [self._node(name) for name in self._nodes]
        options: dict[str, Any] = {}
        if self._policy == "max-flow":
            # With the usual reserve for outputs such small caches would take nobody.
            options = {"expected_output_ratio": 0.05 if self._tight or draws.chance(0.5) else 0.6}
        return {
            "schema_version": 1,
            "name": self._name,
            "seed": draws.whole(0, 1 << 30),
            "duration": seconds(self._duration_s),
            "model": {
                "name": "tiny",
                "layers": self._layers,
                "hidden_size": draws.whole(50, 500),
                "layer_size": f"{draws.scaled(0.1, 6.0)} MB",
            },
            "profiles": [self._profile(machine) for machine in MACHINES],
            "cluster": {
                "name": "tiny",
                "coordinator": {"region": draws.one(self._regions), "nic": f"{draws.scaled(1.0, 100.0)} MB/s"},
                "nodes": nodes,
                "machines": {machine: self._machine() for machine in MACHINES},
                "network": self._network({node["region"]: None for node in nodes}),
            },
            "placement": {"ranges": self._ranges, "partial_inference": self._partial},
            "scheduler": {
                "policy": self._policy,
                "options": options,
                "edge_flows": draws.one(["balanced", "balanced", "any"]),
            },
            "workload": self._workload(),
            "network": {"sharing": "shares" if self._shares else "clocks"},
            "kv_cache": {"when_full": draws.one(["reject", "wait", "preempt"])},
            "admission": {
                "when_no_route": draws.one(["wait", "wait", "reject"]),
                "queue_limit": draws.one([10_000, 10_000, 3]),
            },
            "counting": {"first_token": draws.one(["prefill", "prefill", "decode"])},
            "churn": TimelineDraw(
                draws, self._nodes, list(self._ranges), self._regions, list(MACHINES), self._duration_s
            ).section(),
            "drain": True,
            "output": {"event_log": draws.one(["requests", "batches", "hops"])},
        }

    # -- cluster -------------------------------------------------------------------------------

    def _placement(self) -> dict[str, list[int]]:
        """One to three stages of one to three nodes; some reach back, so that requests enter at middle layers."""
        draws = self._draws
        inner = list(range(1, self._layers))
        cuts = [0, *draws.some(inner, draws.whole(0, min(2, len(inner)))), self._layers]
        ranges: dict[str, list[int]] = {}
        for start, stop in itertools.pairwise(cuts):
            for _ in range(draws.one([1, 2, 2, 3])):
                back = draws.whole(0, 2) if self._partial and draws.chance(0.4) else 0
                ranges[f"n{len(ranges)}"] = [max(0, start - back), stop]
        return ranges

    def _node(self, name: str) -> dict[str, Any]:
        draws = self._draws
        node: dict[str, Any] = {"name": name, "machine": draws.one(MACHINES), "region": draws.one(self._regions)}
        if name in self._ranges and draws.chance(0.7):
            start, stop = self._ranges[name]
            tokens = draws.whole(70, 300) if self._tight else draws.whole(1_000, 4_000)
            node["kv_capacity_layer_tokens"] = tokens * (stop - start)
        return node

    def _machine(self) -> dict[str, Any]:
        draws = self._draws
        return {
            "vram": "1 GB",
            "nic": f"{draws.scaled(0.3, 100.0)} MB/s",
            "disk": f"{draws.scaled(0.5, 50.0)} MB/s",
        }

    def _profile(self, machine: str) -> dict[str, Any]:
        draws = self._draws
        prefill_ms, decode_ms = draws.number(5.0, 60.0), draws.number(4.0, 25.0)
        decodes = draws.whole(1, 8)
        blocks = draws.whole(5, 20) if self._tight else draws.whole(60, 250)
        return {
            "model": "tiny",
            "machine": machine,
            "prefill_ms_per_layer": [[0, 0], [30, round(prefill_ms * draws.number(0.4, 0.8), 3)], [100, prefill_ms]],
            "decode_ms_per_layer": [[0, 0], [1, decode_ms], [8, round(decode_ms * draws.number(1.1, 2.0), 3)]],
            "single_decode_factor": draws.number(1.0, 2.0),
            "max_layers": self._layers,
            "kv_blocks": {"table": {str(layers): blocks for layers in range(1, self._layers + 1)}},
            "max_prompts_per_batch": draws.whole(1, 2),
            "max_prompt_tokens": LONGEST_PROMPT + draws.whole(-10, 40),
            "max_decode_sequences": decodes,
            "decode_context_per_sequence": -(-(LONGEST_PROMPT + LONGEST_OUTPUT) // decodes) + draws.whole(0, 40),
            "typical_layers": {"default": max(1, self._layers // 2), "tight": self._layers},
            "first_perf": draws.number(50.0, 200.0),
        }

    def _network(self, regions_of_nodes: Mapping[str, None]) -> dict[str, Any]:
        draws = self._draws
        if draws.chance(0.25):
            return {"links": self._single_links()}
        entries = [{"from": "*", "to": "*", **self._link(slow=True)}]
        entries += [{"from": region, "to": region, **self._link(slow=False)} for region in regions_of_nodes]
        links: list[dict[str, Any]] = []
        if draws.chance(0.2) and len(self._nodes) > 1:
            one, other = draws.some(self._nodes, 2)
            links.append({"from": one, "to": other, **self._link(slow=True), "symmetric": draws.chance(0.5)})
        return {"regions": entries, "links": links} if links else {"regions": entries}

    def _single_links(self) -> list[dict[str, Any]]:
        """Links that the placement needs, some others, and not always one from each node to the coordinator."""
        draws = self._draws
        ends = ["coordinator", *self._nodes]
        found: list[dict[str, Any]] = []
        for source, target in itertools.permutations(ends, 2):
            needed = self._fits(source, target)
            if draws.chance(0.9 if needed else 0.45):
                found.append({"from": source, "to": target, **self._link(slow=draws.chance(0.5))})
        pairs = {(link["from"], link["to"]) for link in found}
        # One whole way at least: the first node of each stage, one after the other.
        way = ["coordinator", *self._first_of_stages(), "coordinator"]
        missing = [pair for pair in itertools.pairwise(way) if pair not in pairs]
        return found + [{"from": one, "to": other, **self._link(slow=False)} for one, other in missing]

    def _first_of_stages(self) -> list[str]:
        stops: dict[int, str] = {}
        for name, (_, stop) in self._ranges.items():
            stops.setdefault(stop, name)
        return list(stops.values())

    def _fits(self, source: str, target: str) -> bool:
        """Whether work may go from one to the other by their layers."""
        done = 0 if source == "coordinator" else self._ranges.get(source, [0, -1])[1]
        if target == "coordinator":
            return done == self._layers
        start, stop = self._ranges.get(target, [0, 0])
        return start <= done < stop

    def _link(self, *, slow: bool) -> dict[str, Any]:
        draws = self._draws
        link: dict[str, Any] = {
            "bandwidth": f"{draws.scaled(50.0, 5_000.0) if slow else draws.scaled(1_000.0, 50_000.0)} kB/s",
            "latency": f"{draws.scaled(5.0, 200.0) if slow else draws.scaled(0.1, 10.0)} ms",
        }
        if not self._shares and draws.chance(0.1):
            link["jitter"] = {"spread": f"{draws.scaled(0.1, 20.0)} ms"}
        if not self._shares and draws.chance(0.05):
            link["loss"] = {"probability": draws.scaled(0.001, 0.05)}
        if not self._shares and draws.chance(0.06):
            link["schedule"] = self._schedule()
        return link

    def _schedule(self) -> dict[str, Any]:
        """Conditions that change round and round; a link that is down by plan is soon up again."""
        draws = self._draws
        period_s = draws.number(1.0, 6.0)
        one, other = sorted(draws.number(0.0, 0.95) for _ in range(2))
        if draws.chance(0.4):
            changes: tuple[dict[str, Any], dict[str, Any]] = ({"up": False}, {"up": True})
        else:
            slow, fast = f"{draws.scaled(20.0, 1_000.0)} kB/s", f"{draws.scaled(1_000.0, 50_000.0)} kB/s"
            changes = (
                {"bandwidth": slow, "latency": f"{draws.scaled(1.0, 300.0)} ms"},
                {"bandwidth": fast, "latency": f"{draws.scaled(0.1, 50.0)} ms"},
            )
        steps = [
            {"at": seconds(period_s * share), **change} for share, change in zip((one, other), changes, strict=True)
        ]
        # Times that are one time would be no schedule.
        return {"steps": steps if one < other else steps[1:], "repeat": seconds(period_s)}

    # -- load ----------------------------------------------------------------------------------

    def _workload(self) -> dict[str, Any]:
        draws = self._draws
        lengths = self._lengths()
        if draws.chance(0.4):
            synthetic = {
                "requests_per_s": draws.scaled(0.4, 5.0),
                "burstiness": draws.one([1.0, 0.2, 5.0]),
                "lengths": lengths,
            }
            return {"kind": "open", "synthetic": synthetic}
        # A loop that fills caches would fill large ones with hundreds of requests.
        by_room = self._tight and draws.chance(0.5)
        workload: dict[str, Any] = {
            "kind": "closed",
            "initial_requests": draws.whole(1, 8),
            "refill": "kv-room" if by_room else "constant",
            "spacing": seconds(draws.scaled(0.01, 0.5)),
            "lengths": lengths,
        }
        if by_room:
            workload["feed_high_water_mark"] = draws.number(0.3, 0.9)
        return workload

    def _lengths(self) -> dict[str, Any]:
        draws = self._draws
        prompt, output = draws.whole(5, LONGEST_PROMPT), draws.whole(1, LONGEST_OUTPUT)
        if draws.chance(0.5):
            return {"prompt_tokens": prompt, "output_tokens": output}
        quantiles = {
            "prompt_tokens": [1, prompt, LONGEST_PROMPT],
            "output_tokens_by_prompt_bin": {"edges": [], "quantiles": [[1, output, LONGEST_OUTPUT]]},
        }
        return {"quantiles": quantiles}
