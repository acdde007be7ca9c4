"""What an explanation comes to, in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from placement.throughput import AVERAGE_OUTPUT_TOKENS, AVERAGE_PROMPT_TOKENS
from scenarios.reports.churn_cost import ChurnCost
from scenarios.reports.explain import Explanation, Worth
from scenarios.reports.ttft_parts import PARTS

UNSTEADY = 0.1
"""A shorter run whose throughput differs by more than this share is told of."""
PART_WORDS = {
    "coordinator": "waiting at the coordinator",
    "network": "on the network",
    "queue": "waiting at nodes for the batch before",
    "host": "moving activations to GPUs",
    "compute": "computing",
}


def achieved_in_words(found: Explanation) -> str:
    """Throughput against what was possible."""
    shares, flow = found.shares(), found.flow.tokens_per_s
    bound = found.summary["flow_upper_bound_tokens_per_s"]
    said = (
        f"Prompts and decodes together are {shares['achieved_of_max_flow']:.1%} of the max flow ({flow:,.1f} tokens/s) "
        f"and {shares['achieved_of_compute_bound']:.1%} of the compute bound ({bound:,.1f}); the max flow is "
        f"{shares['max_flow_of_compute_bound']:.1%} of the bound."
    )
    if shares["achieved_of_max_flow"] > 1:
        said += (
            f" That is more than the max flow, which reckons with {AVERAGE_PROMPT_TOKENS} prompt and "
            f"{AVERAGE_OUTPUT_TOKENS} output tokens a request and full KV caches: with more prompt tokens for each "
            "decode, or smaller batches, nodes do more."
        )
    return said


def help_in_words(found: Explanation) -> list[str]:
    """What would help most: planning anew, one more node, a network change; and what first tokens wait for."""
    said = []
    alone = next((one for one in found.worth if one.kind == "replan"), None)
    for kinds, what in ((("replan",), "Without new hardware"), (("node",), "Of one more node, most helps")):
        best = _best(found, kinds)
        if best is not None:
            without = alone is not None and best.replanned and best.kind == "node" and _gained(alone, found) > 0
            of_it = f", of which {_gained(alone, found):+,.1f} without the node" if without and alone else ""
            said.append(f"{what}: {_gain_in_words(best, found)}{of_it}.")
        elif found.worth:
            said.append(
                "Placing everybody anew brings nothing." if "replan" in kinds else "One more node of no type helps."
            )
    best = _best(found, ("bandwidth", "latency"))
    if best is not None:
        said.append(f"Of the network, most helps: {_gain_in_words(best, found)}.")
    elif any(one.kind in ("bandwidth", "latency") for one in found.worth):
        said.append("No single change of the network helps noticeably.")
    if found.arrivals_per_s is not None and not found.summary["requests"]["waiting"]:
        said.append(
            f"All of the {found.arrivals_per_s:,.3g} requests/s that arrive are let in: more capacity shows in "
            "latencies and in the max flow, not in what is decoded. The greatest rate at an objective is a study's "
            "question (max_rate)."
        )
    said += _not_steady(found)
    mean = found.mean_parts()
    if mean:
        part = max(PARTS, key=lambda name: mean[name])
        total = sum(mean.values())
        where = ""
        stages = found.stages()
        if part in PARTS[1:] and stages:
            worst = max(stages, key=lambda row: row["visits"] * row[part])
            towards = "to" if part == "network" else "at"
            where = f", most of all {towards} {worst['node']} ({worst[part]:,.3g} s a visit)"
        share = mean[part] / total if total else 0.0
        said.append(f"Of the mean TTFT of {total:,.3g} s, {share:.0%} goes by {PART_WORDS[part]}{where}.")
    return said


def _not_steady(found: Explanation) -> list[str]:
    """That runs which were cut short served otherwise than the whole one, if they did."""
    whole, cut = found.summary["decode_throughput_tokens_per_s"], found.compared_tokens_per_s
    if cut is None or found.length is None or abs(cut - whole) <= UNSTEADY * whole:
        return []
    return [
        f"Note: emulations of changes were cut to {found.length.duration_s:,.0f} s of {found.length.whole_s:,.0f} s, "
        f"in which the scenario itself decodes {cut:,.1f} tokens/s: gains are against that; --whole emulates all."
    ]


def _gained(one: Worth, found: Explanation) -> float:
    """Tokens/s that a change gains: decoded, or of the max flow where nothing was emulated."""
    return (one.flow_gain_tokens_per_s if found.length is None else one.decode_gain_tokens_per_s) or 0.0


def _best(found: Explanation, kinds: Sequence[str]) -> Worth | None:
    """The change that gains most, if any gains more than chance does."""
    gaining = [one for one in found.worth if one.kind in kinds and not one.within_noise and _gained(one, found) > 0]
    return max(gaining, key=lambda one: _gained(one, found), default=None)


def _gain_in_words(one: Worth, found: Explanation) -> str:
    flow = f"max flow {one.flow_gain_tokens_per_s:+,.1f} tokens/s"
    if one.decode_gain_tokens_per_s is None:
        return f"{one.name} ({flow})"
    before = found.compared_tokens_per_s
    share = f", {one.decode_gain_tokens_per_s / before:+.0%}" if before else ""
    return f"{one.name} (decoded {one.decode_gain_tokens_per_s:+,.1f} tokens/s{share}; {flow})"


def churn_in_words(cost: ChurnCost) -> list[str]:
    """What churn costs."""
    counts = cost.counts
    said = [
        "All of the above is without the scenario's churn, which costs this: "
        f"decode throughput {_change(cost.calm, cost.churning, 'decode_throughput_tokens_per_s')}"
        + (
            f", goodput {_change(cost.calm, cost.churning, 'goodput_requests_per_s')}"
            if "goodput_requests_per_s" in cost.calm
            else " (goodput and SLO debt need objectives: slo)"
        )
        + f"; {cost.tokens_lost:,.0f} tokens less were served in the whole run, prompts included.",
        f"{counts['incidents']:,} events: {counts['requests_failed']:,} requests failed, "
        f"{counts['requests_retried']:,} were tried again, {counts['tokens_recomputed']:,} tokens were computed again, "
        f"{counts['slo_debt_s']:,.0f} s were outside the objectives; {counts['unrecovered']:,} events were not "
        "recovered from.",
    ]
    if cost.events and cost.events[0].tokens_lost > 0:
        worst = cost.events[0]
        said.append(f"The costliest is the {worst.what} at {worst.at_s:,.0f} s: {worst.tokens_lost:,.0f} tokens.")
    return said


def _change(before: Mapping[str, Any], after: Mapping[str, Any], name: str) -> str:
    one, other = before[name], after[name]
    share = f" ({other / one - 1:+.1%})" if one else ""
    return f"{other:,.3g} instead of {one:,.3g}{' requests/s' if 'requests' in name else ' tokens/s'}{share}"
