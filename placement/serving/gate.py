"""Who gets in, and on which pipeline: the max-flow scheduler's rules in the model (HELIX.md section 4)."""

from __future__ import annotations

from collections.abc import Sequence

from placement.serving.network import StationNetwork, Way


class Gate:
    """Weighted round robin over the ways that leave each machine, past stations whose KV caches are full.

    Attributes:
        longest: A request that needs more tokens than this fits no station even when nobody else is there.
    """

    def __init__(self, network: StationNetwork, mean_output: float) -> None:
        self._network = network
        routing = network.routing
        self._expected_output = routing.expected_output_tokens
        self._mean_output = mean_output
        self._room = [routing.high_water_mark * station.kv_tokens for station in network.stations]
        self._longest_prompt = [
            station.profile.limits_at(station.held[1] - station.held[0]).max_prompts * station.profile.max_prompt_tokens
            for station in network.stations
        ]
        self._used = [0.0] * len(network.stations)
        # Index -1, the coordinator's, is the last one.
        self._loads = [[0.0] * len(station.ways) for station in network.stations] + [[0.0] * len(network.entries)]
        self._layers = _distinct_layers(network)
        stations = network.stations
        self._capacity = [sum(stations[index].kv_tokens for index in holders) for holders in self._layers]

    def route(self, prompt_tokens: int) -> list[tuple[int, int]] | None:
        """The pipeline of a request that comes now, as (station, position of the way that leaves it), or none.

        The first pair is the coordinator's, -1. The KV entries that it is expected to need are taken on every station.
        """
        expected = int(prompt_tokens + self._expected_output)
        weight = prompt_tokens + self._mean_output
        path: list[tuple[int, int]] = []
        at, ways = -1, self._network.entries
        while True:
            position = self._least_loaded(self._loads[at], ways, weight, prompt_tokens, expected)
            if position < 0:
                for station, taken in path:
                    self._loads[station][taken] -= weight / self._ways(station)[taken].share
                return None
            self._loads[at][position] += weight / ways[position].share
            path.append((at, position))
            at = ways[position].target
            if at < 0:
                break
            ways = self._network.stations[at].ways
        self._take(path, expected)
        return path

    def release(self, path: Sequence[tuple[int, int]], prompt_tokens: int) -> None:
        """A request is gone."""
        self._take(path, -int(prompt_tokens + self._expected_output))

    def fullest(self) -> float:
        """Expected KV use at the fullest layer, its holders taken together, as a share of capacity."""
        used = self._used
        return max(
            sum(used[index] for index in holders) / capacity
            for holders, capacity in zip(self._layers, self._capacity, strict=True)
        )

    def _ways(self, station: int) -> tuple[Way, ...]:
        return self._network.entries if station < 0 else self._network.stations[station].ways

    def _least_loaded(
        self, loads: list[float], ways: tuple[Way, ...], weight: float, prompt_tokens: int, expected: int
    ) -> int:
        best, least = -1, float("inf")
        for position, way in enumerate(ways):
            target = way.target
            if target >= 0 and (
                prompt_tokens > self._longest_prompt[target] or self._used[target] + expected > self._room[target]
            ):
                continue
            load = loads[position] + weight / way.share
            if load < least:
                best, least = position, load
        return best

    def _take(self, path: Sequence[tuple[int, int]], expected: int) -> None:
        for station, position in path:
            way = self._ways(station)[position]
            if way.target >= 0:
                target = self._network.stations[way.target]
                layers = target.layers
                used = sum(layers[way.segment :]) / sum(layers)
                self._used[way.target] += expected * used


def _distinct_layers(network: StationNetwork) -> list[tuple[int, ...]]:
    """Stations that hold a layer, for each layer that has others than the one before."""
    last = max(station.held[1] for station in network.stations)
    holders = (
        tuple(index for index, station in enumerate(network.stations) if station.held[0] <= layer < station.held[1])
        for layer in range(last)
    )
    return list(dict.fromkeys(holders))
