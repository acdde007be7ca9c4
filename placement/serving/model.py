"""The serving model: what clients of a placement will see."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from placement.serving.convoys import Convoys, Window
from placement.serving.load import Load
from placement.serving.network import StationNetwork, Way

SETTLING, WINDOW = 4, 10
BUSY = 1.5
"""A guess, until the first pass knows better, of how much longer an iteration takes than alone."""
SAMPLES, EVERY_S = 100, 0.0973
"""Queues are looked at so often and so far apart, which is in step with no batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How long the convoys are played through; emulated seconds.

    Attributes:
        settling_s: Before the stations' times are measured, and again before the window; at least :data:`SETTLING`
            decode iterations.
        least_s: Shortest window; at least :data:`WINDOW` decode iterations.
        most_s: Longest window.
        ends: The window goes on until so many requests have ended: what a prefill does to everybody is seen then.
    """

    settling_s: float = 10.0
    least_s: float = 30.0
    most_s: float = 400.0
    ends: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Objectives:
    """Latency objectives in seconds; infinite where there is none."""

    ttft_s: float = math.inf
    tpot_s: float = math.inf
    e2e_s: float = math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What the model expects.

    Attributes:
        decode_tokens_per_s: Decode iterations that end in a second.
        requests_per_s: Requests that end in a second, from the decode throughput and the mean length.
        in_flight: Requests in flight.
        decode_latency_s: Mean time of a decode iteration.
        decode_latency_s_p50: Its median.
        ttft_s: Mean time from a request's arrival to its first token; infinite where the load is more than it can bear.
        tpot_s: Mean time of an output token after the first, by requests.
        good_share: Part of the requests that meets the objectives.
        stays_s: Station name -> mean time that an iteration spends there, waiting included.
    """

    decode_tokens_per_s: float
    requests_per_s: float
    in_flight: float
    decode_latency_s: float
    decode_latency_s_p50: float
    ttft_s: float
    tpot_s: float
    good_share: float
    stays_s: dict[str, float]

    @property
    def good_requests_per_s(self) -> float:
        """Requests a second that meet the objectives."""
        return self.requests_per_s * self.good_share


def predict(
    network: StationNetwork, load: Load, objectives: Objectives | None = None, effort: Effort | None = None
) -> Prediction:
    """Play the convoys through twice: to find how long requests stay where, and, begun with that, to measure.

    Args:
        network: Stations and ways of a placement.
        load: What clients ask of it.
        objectives: What a good request meets; every request is good without any.
        effort: How long to play.
    """
    effort = effort or Effort()
    at_start: int | None = None
    rate, idle_s = load.requests_per_s, idle_latency_s(network)
    if rate is not None:
        at_start = round(rate * load.mean_decodes * idle_s * BUSY)
    convoys = Convoys(network, load, spread_s=idle_s, at_start=at_start)
    convoys.run(max(effort.settling_s, SETTLING * idle_s))
    convoys.start_window()
    stays_s = convoys.stays_s(SAMPLES, EVERY_S)
    first = convoys.end_window()
    latency_s = _mean(first.decode_s, idle_s)
    if rate is not None:
        at_start = round(rate * (load.mean_decodes * latency_s + _mean(first.prefill_s, 0.0)))
    convoys = Convoys(network, load, spread_s=latency_s, at_start=at_start, stay_s=stays_s)
    convoys.run(max(effort.settling_s, SETTLING * latency_s))
    convoys.start_window()
    least_s = max(effort.least_s, WINDOW * latency_s)
    convoys.run(convoys.now_s + least_s)
    while convoys.window.ended < effort.ends and convoys.now_s - convoys.window.since_s < effort.most_s:
        convoys.run(convoys.now_s + least_s / 2)
    names = (station.name for station in network.stations)
    return _prediction(convoys, load, objectives or Objectives(), dict(zip(names, stays_s, strict=True)))


def idle_latency_s(network: StationNetwork) -> float:
    """Mean time of a decode iteration that is alone in the network."""
    onward = [0.0] * len(network.stations)

    def over(ways: Sequence[Way]) -> float:
        return sum(
            way.share
            * (
                way.latency_s
                + way.seconds_per_token
                + (_service_s(network, way) + onward[way.target] if way.target >= 0 else 0.0)
            )
            for way in ways
        )

    for index in reversed(range(len(network.stations))):
        onward[index] = over(network.stations[index].ways)
    return over(network.entries)


def _service_s(network: StationNetwork, way: Way) -> float:
    station = network.stations[way.target]
    return sum(station.layers[way.segment :]) * station.profile.decode.at(1) * station.profile.single_decode_factor


def _prediction(convoys: Convoys, load: Load, objectives: Objectives, stays_s: dict[str, float]) -> Prediction:
    window = convoys.end_window()
    seconds = convoys.now_s - window.since_s
    decodes_per_s = len(window.decode_s) / seconds
    times = sorted(window.decode_s)
    overloaded = load.requests_per_s is not None and _overloaded(window, load.requests_per_s * seconds)
    paced = sum(count for _, count in window.paces)
    return Prediction(
        decode_tokens_per_s=decodes_per_s,
        requests_per_s=decodes_per_s / load.mean_decodes if load.mean_decodes else window.ended / seconds,
        in_flight=window.in_flight,
        decode_latency_s=_mean(times, math.inf),
        decode_latency_s_p50=times[len(times) // 2] if times else math.inf,
        ttft_s=math.inf if overloaded else _mean(window.ttft_s, math.inf),
        tpot_s=sum(pace * count for pace, count in window.paces) / paced if paced else math.inf,
        good_share=0.0 if overloaded else _good_share(window, load, objectives),
        stays_s=stays_s,
    )


def _overloaded(window: Window, arrivals: float) -> bool:
    """Whether more wait at the end than chance explains."""
    return window.waiting > 3 * math.sqrt(arrivals) + 3


def _good_share(window: Window, load: Load, objectives: Objectives) -> float:
    """Part of the requests that meets all objectives, first-token times and paces taken as independent."""
    if not window.ttft_s or not window.paces:
        return 0.0
    quick = [ttft_s for ttft_s in window.ttft_s if ttft_s <= objectives.ttft_s]
    steady = [(pace, count) for pace, count in window.paces if pace <= objectives.tpot_s]
    share = len(quick) / len(window.ttft_s) * sum(n for _, n in steady) / sum(n for _, n in window.paces)
    if objectives.e2e_s == math.inf or not share:
        return share
    # Each length with a pair of times, both in order of measuring.
    triples = list(zip(itertools.cycle(quick), itertools.cycle(steady), load.lengths, strict=False))
    met = sum(ttft_s + pace * (output - 1) <= objectives.e2e_s for ttft_s, (pace, _), (_, output) in triples)
    return share * met / len(triples)


def _mean(values: Sequence[float], none: float) -> float:
    return sum(values) / len(values) if values else none
