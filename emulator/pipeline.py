"""Pipelines: the ordered stages that serve one request."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from placement.layers import LayerRange

if TYPE_CHECKING:
    from emulator.links import EmulatedLink
    from emulator.node import GpuNode


class Stage(NamedTuple):
    """A node and the layers of it that a request uses."""

    node: GpuNode
    layers: LayerRange


def stages_of(links: tuple[EmulatedLink, ...]) -> tuple[Stage, ...]:
    """The stages that ``links`` lead to."""
    return tuple(
        Stage(link.node, LayerRange(link.entry_layer, link.node.held.stop)) for link in links if link.node is not None
    )


class Pipeline:
    """Stages in order, shared by all requests that take the same links.

    Attributes:
        links: Coordinator -> first node, ..., last node -> coordinator; shape ``(stages + 1,)``.
        stages: One per node passed.
        after: Node index -> link that leaves it.
        decodes_issued: Decode iterations issued since a policy last looked.
    """

    __slots__ = ("after", "decodes_issued", "links", "stages")

    def __init__(self, links: tuple[EmulatedLink, ...]) -> None:
        self.links = links
        self.stages = stages_of(links)
        self.after: Mapping[int, EmulatedLink] = {link.source.index: link for link in links if link.source is not None}
        self.decodes_issued = 0

    def __str__(self) -> str:
        return " ".join(f"{node.name}:{layers.start}-{layers.stop}" for node, layers in self.stages)


class PipelineBook:
    """Finds the shared :class:`Pipeline` of a sequence of links."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, ...], Pipeline] = {}

    def __len__(self) -> int:
        return len(self._known)

    def of(self, links: tuple[EmulatedLink, ...]) -> Pipeline:
        """The pipeline over ``links``, made on first use."""
        key = tuple(link.index for link in links)
        pipeline = self._known.get(key)
        if pipeline is None:
            pipeline = self._known[key] = Pipeline(links)
        return pipeline

    def forget_all_but(self, links: Iterable[EmulatedLink]) -> None:
        """Forget pipelines over any other link; requests that are on one keep it."""
        kept = {link.index for link in links}
        self._known = {key: pipeline for key, pipeline in self._known.items() if kept.issuperset(key)}
