"""What every scheduler policy is."""

from __future__ import annotations

import difflib
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from emulator.errors import SimulationError

if TYPE_CHECKING:
    from emulator.cluster import ClusterState
    from emulator.links import EmulatedLink, Transfer
    from emulator.node import GpuNode
    from emulator.requests import Attempt


class SchedulerPolicy(ABC):
    """Picks a request's pipeline, whole at admission or hop by hop as its prefill goes along.

    Attributes:
        name: Name in scenarios.
        per_hop: The prefill's next link is chosen as it leaves each node, by :meth:`next_link`.
        observes_hops: :meth:`transfer_sent` and :meth:`stage_left` want to know of every hop.
        follows_flow: It routes by the max flow, so that it matters which of several max flows is taken.
        counts_decodes: Pipelines count the decode iterations issued on them in ``decodes_issued``.
        one_process: Choosing looks at what goes on at other nodes, so that all must be in one process.
        default_options: Known options and their defaults; all are numbers.
        longest_prompt: Longest prompt that it would admit to an idle cluster; ``None`` when it refuses nobody.
    """

    name: ClassVar[str] = "own"
    per_hop: ClassVar[bool] = False
    observes_hops: ClassVar[bool] = False
    follows_flow: ClassVar[bool] = True
    counts_decodes: ClassVar[bool] = False
    one_process: ClassVar[bool] = False
    default_options: ClassVar[Mapping[str, float]] = {}

    def __init__(self, state: ClusterState, options: Mapping[str, object], seed: int) -> None:
        self.state = state
        self.seed = seed
        self.options = checked_options(self.name, self.default_options, options)
        self.longest_prompt: int | None = None

    @abstractmethod
    def admit(self, attempt: Attempt, now_s: float) -> bool:
        """Give ``attempt`` its first link (and its whole pipeline, unless per hop), or say that there is none now."""

    def next_link(self, node: GpuNode, attempt: Attempt, now_s: float) -> EmulatedLink:
        """The link that a prefill takes from ``node``; only per-hop policies are asked."""
        raise NotImplementedError(f"{self.name} chooses pipelines at admission")

    def transfer_sent(self, transfer: Transfer) -> None:
        """``transfer`` was handed to its link."""
        return

    def stage_left(self, node: GpuNode, attempts: list[Attempt], now_s: float) -> None:
        """``attempts`` have finished on ``node`` and are about to be sent on."""
        return

    def closed(self, attempt: Attempt) -> None:
        """``attempt`` finished or was given up."""
        return

    def resumed(self, attempt: Attempt) -> None:
        """``attempt`` goes on with a pipeline that was not chosen here."""
        return

    def take_over(self, before: SchedulerPolicy) -> None:
        """Nodes or links have changed and this policy was made for the new ones: take what ``before`` still knows.

        ``before`` is of the same class, and every attempt that it admitted and that has not been closed is now here.
        """
        return

    def kv_bottleneck(self) -> float | None:
        """Share of KV capacity in use at the fullest layer, as the policy expects it; ``None`` if it does not."""
        return None


class PerHopPolicy(SchedulerPolicy):
    """Base of policies that choose one link at a time."""

    per_hop = True
    follows_flow = False

    @abstractmethod
    def choose(self, links: list[EmulatedLink], now_s: float) -> EmulatedLink:
        """One of ``links``, which leave one machine, in file order."""

    def admit(self, attempt: Attempt, now_s: float) -> bool:
        """Choose the first link; these policies never refuse."""
        attempt.first_link = self.choose(self.state.entry_links, now_s)
        attempt.links = {}
        return True

    def next_link(self, node: GpuNode, attempt: Attempt, now_s: float) -> EmulatedLink:
        """Choose the next link and note it on the attempt."""
        link = self.choose(node.out_links, now_s)
        assert isinstance(attempt.links, dict)
        attempt.links[node.index] = link
        return link

    @staticmethod
    def free_links(links: list[EmulatedLink], now_s: float) -> list[EmulatedLink]:
        """Links that are not sending now, or the one that is free first."""
        free = [link for link in links if link.clock.free_s <= now_s]
        return free or [min(links, key=lambda link: (link.clock.free_s, link.index))]


def require_option(policy: SchedulerPolicy, key: str, lowest: float, highest: float) -> float:
    """The value of an option.

    Raises:
        SimulationError: It is not within ``lowest`` and ``highest``.
    """
    value = policy.options[key]
    if not lowest <= value <= highest:
        raise SimulationError(
            f"scheduler policy {policy.name}: option {key} is {value:g}; it must be at least {lowest:g}"
            + ("" if highest == math.inf else f" and at most {highest:g}")
        )
    return value


def checked_options(policy: str, defaults: Mapping[str, float], options: Mapping[str, object]) -> dict[str, float]:
    """``defaults`` with ``options`` over them.

    Raises:
        SimulationError: Unknown option, or a value that is no finite number.
    """
    chosen = dict(defaults)
    for key, value in options.items():
        if key not in defaults:
            close = difflib.get_close_matches(key, defaults, 1)
            hint = f"; did you mean {close[0]}?" if close else f"; it knows {', '.join(defaults) or 'none'}"
            raise SimulationError(f"scheduler policy {policy} has no option {key!r}{hint}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise SimulationError(f"scheduler policy {policy}: option {key} is {value!r}; it must be a number")
        chosen[key] = float(value)
    return chosen
