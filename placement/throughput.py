"""Node throughput T(machine, n), the compute capacity of the flow graph (HELIX.md section 2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from placement.model import ModelSpec
from placement.profile import MachineProfile

AVERAGE_PROMPT_TOKENS = 750
AVERAGE_OUTPUT_TOKENS = 240
"""Averages of the Azure conversation trace that Helix plans with."""
KV_HIGH_WATER_MARK = 0.3
TIGHT_CAPACITY_FACTOR = 1.2
REFINEMENT_ROUNDS = 10


@dataclass(slots=True)
class ThroughputModel:
    """T(machine type, held layers) for one model and one mix of machines.

    Every node is assumed to run the batch that it would see when all machines work at their typical
    speed; that speed is found by a fixed-point iteration over the machine types.

    Attributes:
        model: The served model.
        profiles: Machine type -> profile; must cover ``machine_counts``.
        machine_counts: Machine type -> number of nodes in the cluster.
        prompt_tokens: Average prompt length.
        output_tokens: Average output length.
    """

    model: ModelSpec
    profiles: Mapping[str, MachineProfile]
    machine_counts: Mapping[str, int]
    prompt_tokens: int = AVERAGE_PROMPT_TOKENS
    output_tokens: int = AVERAGE_OUTPUT_TOKENS
    _perf: dict[str, float] = field(init=False, repr=False)
    _typical: dict[str, float] = field(init=False, repr=False)
    _known: dict[tuple[str, int], float] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        kinds = list(self.machine_counts)
        room = sum(self.machine_counts[kind] * self.profiles[kind].typical_layers for kind in kinds)
        tight = room < TIGHT_CAPACITY_FACTOR * self.model.layers
        self._typical = {
            kind: self.profiles[kind].tight_typical_layers if tight else self.profiles[kind].typical_layers
            for kind in kinds
        }
        self._perf = {kind: self.profiles[kind].first_perf for kind in kinds}
        for _ in range(REFINEMENT_ROUNDS):
            mean = self._mean_layer_time()
            self._perf = {
                kind: self._tokens_per_s(kind, int(self._typical[kind]), mean) * self._typical[kind] for kind in kinds
            }

    def tokens_per_s(self, machine_type: str, layers: int) -> float:
        """Throughput in tokens/s of a ``machine_type`` that holds ``layers`` layers."""
        key = (machine_type, layers)
        if key not in self._known:
            self._known[key] = self._tokens_per_s(machine_type, layers, self._mean_layer_time())
        return self._known[key]

    def _mean_layer_time(self) -> float:
        weight = {kind: self.machine_counts[kind] * self._typical[kind] for kind in self.machine_counts}
        return sum(weight[kind] / self._perf[kind] for kind in weight) / sum(weight.values())

    def _tokens_per_s(self, machine_type: str, layers: int, mean_layer_time: float) -> float:
        profile = self.profiles[machine_type]
        batch_time = layers / self._perf[machine_type]
        ratio = batch_time / ((self.model.layers - layers) * mean_layer_time + batch_time)
        entries = int(KV_HIGH_WATER_MARK * profile.kv_capacity_layer_tokens(layers) / layers)
        in_flight = entries / (self.prompt_tokens + self.output_tokens) * ratio
        prompts = in_flight / self.output_tokens
        prompt_tokens, decodes = round(prompts * self.prompt_tokens), round(in_flight)
        if prompt_tokens == decodes == 0:
            # A KV cache for less than half a request: the node can still decode one sequence at a time.
            decodes = 1
        if prompts > 1:
            prompts, prompt_tokens, decodes = 1.0, self.prompt_tokens, self.output_tokens
        if prompts >= 1:
            spent = layers * (profile.prefill.at(prompt_tokens) + profile.decode.at(decodes))
            return (prompt_tokens + decodes) / spent
        # Less than one prompt a batch: spread one prompt over 1/prompts decode iterations.
        iterations = 1 / prompts
        spent = layers * (profile.prefill.at(int(prompt_tokens * iterations)) + iterations * profile.decode.at(decodes))
        return iterations * (prompt_tokens + decodes) / spent


@dataclass(slots=True)
class KvLimitedThroughput(ThroughputModel):
    """T(machine type, held layers), but no more than the requests that a KV cache holds can use.

    A node serves at most the r requests whose tokens its cache holds, prompts and on average half of their output. In
    a round trip of W seconds each decodes one token, so with prompts of p and outputs of o tokens they are worth
    ``r (p + o) / (o W)`` tokens/s in the units of T, which counts prompts too. T itself knows no round trip: it lets
    nodes hold so many layers that their caches keep few requests.

    Attributes:
        round_trip_s: W, greater than 0.
    """

    round_trip_s: float = field(kw_only=True)

    def tokens_per_s(self, machine_type: str, layers: int) -> float:
        """Throughput in tokens/s of a ``machine_type`` that holds ``layers`` layers."""
        kept = self.profiles[machine_type].kv_capacity_layer_tokens(layers) / layers
        requests = kept / (self.prompt_tokens + self.output_tokens / 2)
        served = requests * (self.prompt_tokens + self.output_tokens) / (self.output_tokens * self.round_trip_s)
        # Not super(): a dataclass with slots is another class than the one that was written.
        return min(ThroughputModel.tokens_per_s(self, machine_type, layers), served)
