"""The published placement of the 24-node cluster (``layout_llama70b/ilp``), on the library's names."""

from __future__ import annotations

from artifact import ARTIFACT, needs_artifact, read_cluster, read_placement

from placement.cluster import Cluster
from placement.layers import LayerRange, Placement

__all__ = ["needs_artifact", "published_placement"]


def published_placement(cluster: Cluster) -> Placement:
    """Each published range on a node of its machine type, in file order."""
    folder = ARTIFACT / "single_cluster" / "layout_llama70b" / "ilp"
    published = read_placement(folder / "ilp_sol.ini")
    free: dict[str, list[str]] = {}
    for node in cluster.nodes:
        free.setdefault(node.machine_type, []).append(node.name)
    held: dict[str, LayerRange] = {}
    for node in read_cluster(folder / "simulator_cluster.ini").nodes:
        held[free[node.machine_type].pop(0)] = published[node.name]
    return Placement(held)
