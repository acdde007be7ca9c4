"""What a run costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from placement.cluster import COORDINATOR, Cluster
from scenarios.studies.schema import PricesSection


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceTable:
    """Prices, all in one currency.

    Attributes:
        on_demand: Machine type -> price per node-hour.
        spot: Machine type -> price per node-hour of a spot instance.
        spot_nodes: Names, patterns or machine types of the nodes that are spot.
        egress_per_gb: Price of 10^9 bytes that leave a region.
    """

    on_demand: Mapping[str, float]
    spot: Mapping[str, float]
    spot_nodes: tuple[str, ...] = ()
    egress_per_gb: float = 0.0

    def node_price(self, name: str, machine: str, *, spot: bool | None = None) -> float:
        """Price of a node for an hour; see :meth:`missing` for what has none.

        Args:
            name: The node.
            machine: Its machine type.
            spot: Whether it is spot; by default ``spot_nodes`` says it.
        """
        cheap = any(fnmatchcase(name, each) or each == machine for each in self.spot_nodes) if spot is None else spot
        return self.spot[machine] if cheap else self.on_demand[machine]

    def missing(self, nodes: Sequence[tuple[str, str]]) -> list[str]:
        """Which prices there are none of, for nodes given by name and machine type."""
        found: dict[str, None] = {}
        for name, machine in nodes:
            try:
                self.node_price(name, machine)
            except KeyError:
                found[machine if machine not in self.on_demand else f"{machine} (spot)"] = None
        return list(found)


def price_table(section: PricesSection) -> PriceTable:
    """The table of a study's file."""
    return PriceTable(
        on_demand={name: price.on_demand for name, price in section.nodes.items()},
        spot={name: price.spot for name, price in section.nodes.items() if price.spot is not None},
        spot_nodes=section.spot,
        egress_per_gb=section.egress_per_gb,
    )


def cost_figures(prices: PriceTable, cluster: Cluster, summary: Mapping[str, Any]) -> dict[str, float | None]:
    """Cost figures of a run.

    Args:
        prices: The prices.
        cluster: The cluster; every node is paid for all the time, also while it is down or holds no layers.
        summary: The run's summary.

    Returns:
        ``node_cost_per_h``, ``egress_gb_per_h``, ``cost_per_h``, and ``cost_per_million_decode_tokens`` and
        ``cost_per_million_total_tokens``: cost per hour / (tokens per hour / 10^6), none without tokens.
    """
    nodes_per_h = sum(prices.node_price(node.name, node.machine_type) for node in cluster.nodes)
    regions = {node.name: node.region for node in cluster.nodes} | {COORDINATOR: cluster.coordinator.region}
    crossing = 0.0
    for link, figures in summary["links"].items():
        source, _, target = link.partition("->")
        if regions[source] != regions[target]:
            crossing += figures["bytes"]
    window_h = summary["window_s"] / 3600
    egress_gb_per_h = crossing / 1e9 / window_h if window_h else 0.0
    per_h = nodes_per_h + egress_gb_per_h * prices.egress_per_gb
    costs: dict[str, float | None] = {
        "node_cost_per_h": nodes_per_h,
        "egress_gb_per_h": egress_gb_per_h,
        "cost_per_h": per_h,
    }
    for kind in ("decode", "total"):
        tokens_per_h = summary[f"{kind}_throughput_tokens_per_s"] * 3600
        costs[f"cost_per_million_{kind}_tokens"] = per_h / tokens_per_h * 1e6 if tokens_per_h else None
    return costs
