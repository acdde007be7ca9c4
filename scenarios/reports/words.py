"""What was asked of a run and what came out, in sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

LIMITS = {
    "compute": "the compute of {source}",
    "nic-in": "the receiving network card of {source}",
    "nic-out": "the sending network card of {source}",
    "link": "the link {source} -> {target}",
}
MOST_PARTS = 4
"""Parts of a cut that are named one by one."""


def limit_in_words(edge: Mapping[str, Any]) -> str:
    """One edge of a minimum cut."""
    return LIMITS[edge["kind"]].format(source=edge["source"], target=edge["target"])


def cut_in_words(cut: Sequence[Mapping[str, Any]]) -> str:
    """What limits the max flow, with the tokens/s that each part can carry.

    Args:
        cut: ``min_cut`` of a summary: edges with kind, source, target and capacity.
    """
    if not cut:
        return "nothing limits the max flow"
    parts = sorted(cut, key=lambda edge: -edge["capacity_tokens_per_s"])
    said = [f"{limit_in_words(edge)} ({edge['capacity_tokens_per_s']:,.1f} tokens/s)" for edge in parts[:MOST_PARTS]]
    rest = parts[MOST_PARTS:]
    if rest:
        kinds = Counter(edge["kind"] for edge in rest)
        left = ", ".join(f"{count} more of kind {kind}" for kind, count in kinds.items())
        said.append(f"{left} ({sum(edge['capacity_tokens_per_s'] for edge in rest):,.1f} tokens/s)")
    return f"{listed(said)} limit{'s' if len(said) == 1 else ''} the max flow"


def asked(scenario: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a scenario asks for: heading and sentence; parts may be references, as in a file that is not resolved."""
    placement, scheduler = scenario.get("placement") or {}, scenario.get("scheduler") or {}
    planned = placement.get("planned_by") or placement if isinstance(placement, Mapping) else {}
    model = scenario.get("model") or {}
    told = [
        ("model", str(model.get("name", "")) if isinstance(model, Mapping) else str(model)),
        ("cluster", _cluster_asked(scenario.get("cluster") or {})),
        ("workload", workload_in_words(scenario.get("workload") or {})),
        ("placement", str(planned.get("planner") or planned.get("objective") or "as written in the scenario")),
        ("scheduler", str(scheduler.get("policy", "max-flow"))),
        ("time", f"{scenario.get('duration')}, of which {scenario.get('warm_up', '0 s')} warm-up"),
    ]
    if scenario.get("slo"):
        told.append(("objectives", ", ".join(f"{key.upper()} {value}" for key, value in scenario["slo"].items())))
    if scenario.get("churn"):
        told.append(("churn", _churn_asked(scenario["churn"])))
    return told


def _cluster_asked(cluster: Mapping[str, Any] | str) -> str:
    if isinstance(cluster, str):
        return cluster
    groups = cluster.get("nodes", [])
    kinds: Counter[str] = Counter()
    for group in groups:
        kinds[str(group.get("machine"))] += int(group.get("count", 1))
    regions = list(dict.fromkeys(str(group["region"]) for group in groups if group.get("region")))
    return (
        f"{cluster.get('name', '')}: {sum(kinds.values())} nodes, "
        + ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        + (f", in {len(regions)} regions ({', '.join(regions)})" if len(regions) > 1 else "")
    )


def workload_in_words(workload: Mapping[str, Any] | str) -> str:
    """How requests come."""
    if isinstance(workload, str):
        return workload
    if workload.get("kind") == "closed":
        number = workload.get("initial_requests")
        if workload.get("refill") == "constant":
            return f"closed loop with {number} requests at all times"
        return f"closed loop, {number} requests at first, refilled while the KV caches have room"
    synthetic = workload.get("synthetic")
    if synthetic:
        bursts = float(synthetic.get("burstiness", 1.0))
        how = "Poisson arrivals" if bursts == 1 else f"arrivals with burstiness {bursts:g}"
        return f"{how}, {float(synthetic['requests_per_s']):g} requests/s"
    trace = workload.get("trace") or {}
    return f"arrivals of the trace {trace.get('file', '')}"


def _churn_asked(churn: Mapping[str, Any]) -> str:
    recovery = (churn.get("recovery") or {}).get("policy")
    events, processes = len(churn.get("events") or ()), len(churn.get("random") or ())
    parts = [f"{events} written event{'s' if events > 1 else ''}"] if events else []
    parts += [f"{processes} random process{'es' if processes > 1 else ''}"] if processes else []
    parts += [f"recovery policy {recovery}"] if recovery else []
    return ", ".join(parts) or "as the scenario says"


def answer(summary: Mapping[str, Any]) -> list[str]:
    """What came out, the most important first."""
    decode, total = summary["decode_throughput_tokens_per_s"], summary["total_throughput_tokens_per_s"]
    flow, bound = summary["max_flow_tokens_per_s"], summary["flow_upper_bound_tokens_per_s"]
    said = [f"It decoded {decode:,.1f} tokens/s, and with prompts {total:,.1f} tokens/s."]
    if flow:
        share = f"{total / flow:.0%} of the placement's max flow of {flow:,.1f} tokens/s"
        placed = f", itself {flow / bound:.0%} of what the machines could compute" if bound else ""
        said.append(f"That is {share}{placed}.")
        said.append(f"{capital(cut_in_words(summary['min_cut']))}.")
    busiest = max(summary["nodes"].items(), key=lambda item: item[1]["utilisation"], default=None)
    if busiest is not None:
        name, figures = busiest
        said.append(f"The busiest node, {name}, computed {figures['utilisation']:.0%} of the time.")
    said += _latency_answer(summary)
    counts = summary["requests"]
    ends = ", ".join(
        f"{counts[key]} {key.replace('_', ' ')}" for key in ("finished", "rejected", "failed", "in_flight")
    )
    said.append(f"Of {counts['submitted']} requests: {ends}.")
    if "churn" in summary:
        said.append(_churn_answer(summary["churn"]))
    if summary.get("interrupted"):
        said.append("The run was interrupted: its figures are of the time until then.")
    return said


def _latency_answer(summary: Mapping[str, Any]) -> list[str]:
    told = []
    for key, name in (("ttft_s", "TTFT"), ("tpot_s", "TPOT"), ("e2e_s", "E2E")):
        figures = summary[key]
        if figures.get("p50") is not None:
            told.append(f"{name} {figures['p50']:.3g} s (p50), {figures['p95']:.3g} s (p95)")
    said = [f"Latencies: {'; '.join(told)}."] if told else ["No request finished in the window."]
    if "slo" in summary and summary["request_throughput_per_s"]:
        share = summary["goodput_requests_per_s"] / summary["request_throughput_per_s"]
        goals = ", ".join(f"{key.removesuffix('_s').upper()} {value:g} s" for key, value in summary["slo"].items())
        said.append(
            f"{share:.0%} of the requests met the objectives ({goals}): "
            f"goodput {summary['goodput_requests_per_s']:.3g} requests/s."
        )
    return said


def _churn_answer(churn: Mapping[str, Any]) -> str:
    recovery = churn["recovery_s"]
    back = "" if recovery["p50"] is None else f", throughput back after {recovery['p50']:.3g} s (median)"
    open_ = f", {churn['unrecovered']} not recovered from" if churn["unrecovered"] else ""
    return (
        f"{churn['incidents']} churn events{back}{open_}; {churn['requests_retried']} requests were tried again, "
        f"{churn['requests_failed']} failed, {churn['tokens_recomputed']:,} tokens were computed again."
    )


def listed(parts: Sequence[str]) -> str:
    """Parts of a sentence, at least one."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def capital(text: str) -> str:
    """A sentence with its first letter large."""
    return text[:1].upper() + text[1:]
