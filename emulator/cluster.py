"""The running cluster: builds nodes, links and coordinator from a spec and holds what they share."""

from __future__ import annotations

import math
from collections.abc import Callable

from emulator.coordinator import Coordinator
from emulator.environment import VirtualEnvironment
from emulator.errors import SimulationError
from emulator.eventlog import EventLog
from emulator.kv_pressure import KvPressure
from emulator.links import EmulatedLink, Transfer, VirtualNetwork
from emulator.metrics import Metrics
from emulator.node import GpuNode
from emulator.pipeline import PipelineBook
from emulator.requests import Attempt
from emulator.schedulers import make_policy
from emulator.schedulers.policy import SchedulerPolicy
from emulator.spec import EdgeFlows, EmulationSpec, LinkSharing, LogLevel
from netshape.clock import LinkClock, NicClock
from placement.cluster import COORDINATOR, Node
from placement.flow import MaxFlow, build_flow_graph, flow_upper_bound, max_flow
from placement.layers import check_placement
from placement.planners.balanced_flow import balanced_flow
from placement.throughput import ThroughputModel


class ClusterState:
    """Everything that the parts of one running cluster share.

    Attributes:
        env: The event core.
        log: The event log.
        metrics: What is measured.
        nodes: Nodes that hold layers, in file order.
        links: Usable links, in file order.
        entry_links: Those that leave the coordinator.
        single_entry: Whether there is just one of them.
        flow: Max flow of the placement.
        flow_upper_bound_tokens_per_s: Bound for any placement on an instantaneous network.
        policy: The scheduler policy.
        coordinator: Source and sink.
        pipelines: Shared pipelines.
        longest_context: Most tokens that any admitted request can reach.
        dead: Dropped attempts that are still in a queue, a batch or a transfer.
    """

    def __init__(self, spec: EmulationSpec, env: VirtualEnvironment, log: EventLog) -> None:
        self.spec = spec
        self.env = env
        self.log = log
        self.log_batches = spec.log_level is not LogLevel.REQUESTS
        self.metrics = Metrics(spec.slo)
        self.model_layers = spec.model.layers
        self.longest_context = 0
        self.dead = 0
        self.pipelines = PipelineBook()
        self.kv_pressure = KvPressure(self, spec.when_full)
        check_placement(spec.placement, spec.cluster, spec.model, spec.profiles, allow_over_profile=True)
        self._used_pairs = self._usable_pairs()
        self._solve_flow()
        self.nodes = self._make_nodes()
        self._node_by_name = {node.name: node for node in self.nodes}
        self._longest_prompt = max(node.max_prompt_tokens for node in self.nodes)
        self.coordinator = Coordinator(self, spec)
        self.links = self._make_links()
        self.entry_links = [link for link in self.links if link.source is None]
        self.single_entry = len(self.entry_links) == 1
        self._open_nodes()
        self.policy: SchedulerPolicy = make_policy(spec.scheduler.policy, spec.scheduler.options, self, spec.seed)
        self.network = VirtualNetwork(env)
        self.transmit: Callable[[EmulatedLink, float | list[float], list[Attempt], int], Transfer] = (
            self._transmit_watched
            if self.policy.observes_hops or spec.log_level is LogLevel.HOPS
            else self.network.transmit
        )

    def _transmit_watched(
        self, link: EmulatedLink, ready_s: float | list[float], items: list[Attempt], prefills: int
    ) -> Transfer:
        transfer = self.network.transmit(link, ready_s, items, prefills)
        if self.policy.observes_hops:
            self.policy.transfer_sent(transfer)
        if self.spec.log_level is LogLevel.HOPS:
            self.log.transfer(self.env.now, transfer)
        return transfer

    # -- construction --------------------------------------------------------------------------

    def _usable_pairs(self) -> list[tuple[str, str]]:
        """Linked pairs that lie on some way from the coordinator through all layers and back, in file order."""
        spec = self.spec
        pairs = [
            pair
            for pair in spec.cluster.pairs()
            if spec.placement.usable(*pair, self.model_layers, partial_inference=spec.partial_inference)
        ]
        from_source = reachable(COORDINATOR, pairs)
        to_sink = reachable(COORDINATOR, [(target, source) for source, target in pairs])
        used = [(source, target) for source, target in pairs if source in from_source and target in to_sink]
        if not used:
            raise SimulationError(
                "placement: without partial inference no chain of links leads from the coordinator through all layers "
                "and back; allow it, or let ranges begin where others end"
            )
        return used

    def _solve_flow(self) -> None:
        spec = self.spec
        throughput = ThroughputModel(spec.model, spec.profiles, spec.cluster.machine_counts())
        graph = build_flow_graph(spec.cluster, spec.model, spec.placement, throughput, links=self._used_pairs)
        self.flow: MaxFlow = max_flow(graph)
        if spec.scheduler.edge_flows is EdgeFlows.BALANCED:
            capacity = {
                node.name: self._kv_capacity(node) / len(spec.placement[node.name])
                for node in spec.cluster.nodes
                if node.name in spec.placement
            }
            self.flow = balanced_flow(graph, self.flow, capacity)
        self.flow_upper_bound_tokens_per_s = flow_upper_bound(spec.cluster, spec.model, spec.profiles, throughput)

    def _make_nodes(self) -> list[GpuNode]:
        spec = self.spec
        nodes: list[GpuNode] = []
        for node in spec.cluster.nodes:
            if node.name not in spec.placement:
                continue
            held = spec.placement[node.name]
            profile = spec.profiles[node.machine_type]
            nodes.append(GpuNode(self, len(nodes), node.name, held, profile, self._kv_capacity(node)))
        return nodes

    def _kv_capacity(self, node: Node) -> int:
        """KV capacity of a node in layer-tokens: its own figure, else its profile's."""
        profile = self.spec.profiles[node.machine_type]
        return node.kv_capacity_layer_tokens or profile.kv_capacity_layer_tokens(len(self.spec.placement[node.name]))

    def _make_links(self) -> list[EmulatedLink]:
        spec = self.spec
        used = self._used_pairs
        cards = spec.cluster
        sending = {COORDINATOR: NicClock(cards.coordinator.nic_out_bytes_per_s)}
        receiving = {COORDINATOR: NicClock(cards.coordinator.nic_in_bytes_per_s)}
        for node in cards.nodes:
            sending[node.name] = NicClock(node.nic_out_bytes_per_s)
            receiving[node.name] = NicClock(node.nic_in_bytes_per_s)
        shares = spec.sharing is LinkSharing.SHARES
        rates = self._shared_rates(used) if shares else {}
        links: list[EmulatedLink] = []
        for source, target in used:
            link = cards.link(source, target)
            assert link is not None
            at_coordinator = COORDINATOR in (source, target)
            rate = rates.get((source, target), link.bandwidth_bytes_per_s)
            emulated = EmulatedLink(
                len(links),
                f"{source}->{target}",
                self._node_by_name.get(source),
                self._node_by_name.get(target),
                0 if source == COORDINATOR else spec.placement[source].stop,
                LinkClock(rate, link.latency_s, None if shares else sending[source]),
                spec.model.token_bytes if at_coordinator else spec.model.hop_bytes,
                None if shares else receiving[target],
            )
            emulated.deliver = self.coordinator.receive if emulated.node is None else emulated.node.receive
            if emulated.source is not None:
                emulated.source.out_links.append(emulated)
            links.append(emulated)
        return links

    def _shared_rates(self, used: list[tuple[str, str]]) -> dict[tuple[str, str], float]:
        """Fixed bytes/s of each link under :attr:`LinkSharing.SHARES`.

        The max-flow policy gives a link the part of each card that its flow is of the card's flow;
        other policies split the sending card evenly over the links that leave it.
        """
        spec = self.spec
        cluster = spec.cluster

        def card(name: str, *, out: bool) -> float:
            owner = cluster.coordinator if name == COORDINATOR else cluster.node(name)
            return owner.nic_out_bytes_per_s if out else owner.nic_in_bytes_per_s

        leaving: dict[str, float] = {}
        coming: dict[str, float] = {}
        weight: dict[tuple[str, str], float] = {}
        by_flow = spec.scheduler.policy == "max-flow"
        for pair in used:
            size = spec.model.token_bytes if COORDINATOR in pair else spec.model.hop_bytes
            weight[pair] = self.flow.link_flow.get(pair, 0.0) * size if by_flow else 1.0
            leaving[pair[0]] = leaving.get(pair[0], 0.0) + weight[pair]
            coming[pair[1]] = coming.get(pair[1], 0.0) + weight[pair]
        rates: dict[tuple[str, str], float] = {}
        for pair in used:
            link = cluster.link(*pair)
            assert link is not None
            if not weight[pair]:
                continue
            limits = [link.bandwidth_bytes_per_s, card(pair[0], out=True) * weight[pair] / leaving[pair[0]]]
            if by_flow:
                limits.append(card(pair[1], out=False) * weight[pair] / coming[pair[1]])
            rates[pair] = max(1.0, math.floor(min(limits)) if by_flow else min(limits))
        return rates

    def _open_nodes(self) -> None:
        entries: dict[int, set[int]] = {node.index: set() for node in self.nodes}
        for link in self.links:
            if link.node is not None:
                entries[link.node.index].add(link.entry_layer)
        for node in self.nodes:
            node.open(entries[node.index])
        for link in self.links:
            if link.node is not None:
                link.segment = link.node.segment_at(link.entry_layer)

    # -- questions -----------------------------------------------------------------------------

    def flow_of(self, link: EmulatedLink) -> float:
        """Max flow over a link, in tokens/s."""
        source = COORDINATOR if link.source is None else link.source.name
        target = COORDINATOR if link.node is None else link.node.name
        return self.flow.link_flow.get((source, target), 0.0)

    def why_impossible(self, prompt_tokens: int) -> str:
        """Why nobody could ever take a prompt of this length; empty when somebody could."""
        if prompt_tokens > self._longest_prompt:
            return f"prompt of {prompt_tokens} tokens; no node takes more than {self._longest_prompt} in a batch"
        longest = self.policy.longest_prompt
        if longest is not None and prompt_tokens > longest:
            return (
                f"prompt of {prompt_tokens} tokens; no pipeline takes more than {longest}, "
                "even with nothing else in flight"
            )
        return ""

    def kv_bottleneck(self) -> float:
        """KV use of the fullest layer: as the policy expects it, else as it is."""
        expected = self.policy.kv_bottleneck()
        if expected is not None:
            return expected
        used = [0.0] * self.model_layers
        capacity = [0.0] * self.model_layers
        for node in self.nodes:
            for layer in range(node.held.start, node.held.stop):
                used[layer] += node.kv_used / len(node.held)
                capacity[layer] += node.kv_capacity / len(node.held)
        return max(part / whole for part, whole in zip(used, capacity, strict=True))

    def check_invariants(self) -> None:
        """Assert what must hold between any two events.

        Raises:
            SimulationError: The books do not balance; a defect of the emulator, not of the scenario.
        """
        for node in self.nodes:
            if not 0 <= node.kv_used <= node.kv_capacity:
                raise SimulationError(f"{node.name}: {node.kv_used} KV entries of {node.kv_capacity}; this is a defect")
        metrics = self.metrics
        ended = sum(metrics.outcomes.values())
        open_requests = self.coordinator.open_requests
        if metrics.submitted != ended + open_requests:
            raise SimulationError(
                f"{metrics.submitted} requests submitted, {ended} ended, {open_requests} open; this is a defect"
            )
        if not open_requests and any(node.kv_used for node in self.nodes):
            raise SimulationError("KV entries are left although no request is; this is a defect")


def reachable(start: str, pairs: list[tuple[str, str]]) -> dict[str, None]:
    """Names that can be reached from ``start`` along ``pairs``; ``start`` itself is in it."""
    following: dict[str, list[str]] = {}
    for source, target in pairs:
        following.setdefault(source, []).append(target)
    seen: dict[str, None] = {start: None}
    frontier = [start]
    while frontier:
        for target in following.get(frontier.pop(), []):
            if target not in seen:
                seen[target] = None
                frontier.append(target)
    return seen
