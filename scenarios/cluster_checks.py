"""What is wrong with a cluster beyond its schema: names that clash, and links and regions that lead nowhere."""

from __future__ import annotations

from collections.abc import Iterator

from placement.cluster import COORDINATOR
from scenarios.errors import Problem
from scenarios.library import suggestion
from scenarios.schema_cluster import MAX_NODES, ClusterSection
from scenarios.tree import Tree
from scenarios.validation import problem_at


def cluster_problems(section: ClusterSection, tree: Tree) -> Iterator[Problem]:
    """Problems of a cluster, each with its place.

    Args:
        section: The cluster.
        tree: The scenario that holds it.
    """
    total = sum(group.count or 1 for group in section.nodes)
    if total > MAX_NODES:
        rule = f"the cluster has {total:,} nodes; at most {MAX_NODES:,} are supported"
        yield problem_at(tree, ("cluster", "nodes"), rule, "use smaller counts")
        return
    yield from _clashing_names(section, tree)
    yield from _lost_regions(section, tree)
    yield from _lost_links(section, tree)
    if not section.network.regions and not section.network.links:
        rule = "the network has no links: neither regions nor links are given"
        yield problem_at(tree, ("cluster", "network"), rule, "add at least {from: '*', to: '*', bandwidth, latency}")


def _clashing_names(section: ClusterSection, tree: Tree) -> Iterator[Problem]:
    taken = {COORDINATOR}
    for index, group in enumerate(section.nodes):
        clash = [name for name in group.names() if name in taken]
        taken.update(group.names())
        if clash:
            rule = f"the name {clash[0]} is taken already"
            yield problem_at(tree, ("cluster", "nodes", index, "name"), rule, "choose another name")


def _lost_regions(section: ClusterSection, tree: Tree) -> Iterator[Problem]:
    known = section.regions()
    for index, entry in enumerate(section.network.regions):
        for key, region in (("from", entry.source), ("to", entry.target)):
            if region != "*" and region not in known:
                # A slip here would silently leave a slow link at the speed of an earlier "*" entry.
                rule = "neither a node nor the coordinator is in this region"
                path = ("cluster", "network", "regions", index, key)
                yield problem_at(tree, path, rule, suggestion(region, [*known, "*"]))


def _lost_links(section: ClusterSection, tree: Tree) -> Iterator[Problem]:
    known = {COORDINATOR: None} | {name: None for group in section.nodes for name in group.names()}
    given: set[tuple[str, str]] = set()
    for index, link in enumerate(section.network.links):
        path = ("cluster", "network", "links", index)
        for key, end in (("from", link.source), ("to", link.target)):
            if end not in known:
                rule = "there is no such node"
                yield problem_at(tree, (*path, key), rule, suggestion(end, list(known)))
        if link.source == link.target:
            yield problem_at(tree, path, f"the link joins {link.source} to itself", "remove it", value=link.source)
        pairs = [(link.source, link.target), (link.target, link.source)][: 2 if link.symmetric else 1]
        double = [pair for pair in pairs if pair in given]
        if double and link.source != link.target:
            rule = f"the link {double[0][0]} -> {double[0][1]} is given twice"
            yield problem_at(tree, path, rule, "remove one, or symmetric from the other")
        given.update(pairs)
