"""The running cluster: builds nodes, links and coordinator from a spec and holds what they share."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence

from emulator.churn.control import ChurnControl
from emulator.churn.network import ChurningNetwork
from emulator.conditions import wire_clock
from emulator.coordinator import Coordinator
from emulator.environment import VirtualEnvironment
from emulator.errors import SimulationError
from emulator.eventlog import EventLog
from emulator.kv_pressure import KvPressure
from emulator.links import EmulatedLink, Transfer, VirtualNetwork, Wire
from emulator.metrics import Metrics
from emulator.node import GpuNode
from emulator.pipeline import PipelineBook
from emulator.requests import Attempt
from emulator.schedulers import make_policy, policy_class
from emulator.schedulers.policy import SchedulerPolicy
from emulator.spec import EmulationSpec, LinkSharing, LogLevel
from emulator.topology import NO_FLOW, Pair, flow_graph, serving_pairs, shared_rates, solve_flow
from netshape.clock import LinkClock, NicClock
from placement.cluster import COORDINATOR, Link
from placement.flow import FlowGraph, MaxFlow, flow_upper_bound
from placement.layers import LayerRange, Placement, check_placement
from placement.throughput import ThroughputModel


class ClusterState:
    """Everything that the parts of one running cluster share.

    Attributes:
        env: The event core.
        log: The event log.
        metrics: What is measured.
        nodes: Nodes that new requests may be routed to, in file order.
        latest: Machine name -> the node that runs, or last ran, on it; in file order.
        links: Usable links, in file order.
        entry_links: Those that leave the coordinator.
        single_entry: Whether there is, and ever was, just one of them.
        flow: Max flow of the placement.
        flow_upper_bound_tokens_per_s: Bound for any placement on an instantaneous network.
        policy: The scheduler policy.
        coordinator: Source and sink.
        pipelines: Shared pipelines.
        longest_context: Most tokens that any admitted request can reach.
        dead: Dropped attempts that are still in a queue, a batch or a transfer.
        can_serve: Whether some chain of links leads through all layers now.
        churn: What can go wrong in this run; ``None`` when nothing can.
        on_rewired: Is told, when set, of the graph that :attr:`flow` was solved on, each time that it is solved anew;
            of ``None`` when other links are used without a new solution.
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
        self.can_serve = True
        self.churn: ChurnControl | None = None
        self.on_rewired: Callable[[FlowGraph | None], None] | None = None
        self.pipelines = PipelineBook()
        self.kv_pressure = KvPressure(self, spec.when_full)
        check_placement(spec.placement, spec.cluster, spec.model, spec.profiles, allow_over_profile=True)
        self._throughput = ThroughputModel(spec.model, spec.profiles, spec.cluster.machine_counts())
        self.flow_upper_bound_tokens_per_s = flow_upper_bound(spec.cluster, spec.model, spec.profiles, self._throughput)
        policy = policy_class(spec.scheduler.policy)
        self._follows_flow = policy.follows_flow
        watched = policy.observes_hops or spec.log_level is LogLevel.HOPS
        watch = self._transfer_sent if watched else None
        changes = spec.churn is not None or spec.conditions.change
        self.network = ChurningNetwork(self, watch) if changes else VirtualNetwork(env, watch)
        self.transmit = self.network.transmit
        self._make_cards()
        self._wires: dict[Pair, Wire] = {}
        self._known_links: dict[Pair, EmulatedLink] = {}
        self._nodes_made = self._links_made = 0
        self.latest: dict[str, GpuNode] = {}
        self.nodes = [
            self.make_node(node.name, spec.placement[node.name])
            for node in spec.cluster.nodes
            if node.name in spec.placement
        ]
        self._longest_prompt = max(node.max_prompt_tokens for node in self.nodes)
        self.coordinator = Coordinator(self, spec)
        pairs = serving_pairs(spec, spec.placement)
        if not pairs:
            raise SimulationError(
                "placement: without partial inference no chain of links leads from the coordinator through all layers "
                "and back; allow it, or let ranges begin where others end"
            )
        self.flow: MaxFlow = self._solve(self.nodes, pairs, {}, {})
        self._connect(pairs, {node.name: node for node in self.nodes})
        for node in self.nodes:
            node.start()
        self.single_entry = len(self.entry_links) == 1
        for node in self.nodes:
            node.only_link = node.out_links[0] if len(node.out_links) == 1 else None
        self.policy: SchedulerPolicy = make_policy(spec.scheduler.policy, spec.scheduler.options, self, spec.seed)
        if spec.churn is not None:
            self.churn = ChurnControl(self, spec.churn)

    def start_window(self) -> None:
        """Nodes and wires forget what they measured so far."""
        for node in self.latest.values():
            node.start_window()
        for wire in self.used_wires():
            wire.start_window()

    def carry_by(self, network: VirtualNetwork) -> None:
        """Let ``network`` carry all transfers from now on."""
        network.watch = self.network.watch
        self.network = network
        self.transmit = network.transmit

    def _transfer_sent(self, transfer: Transfer) -> None:
        if self.policy.observes_hops:
            self.policy.transfer_sent(transfer)
        if self.spec.log_level is LogLevel.HOPS:
            self.log.transfer(self.env.now, transfer)

    # -- construction --------------------------------------------------------------------------

    def _make_cards(self) -> None:
        cluster = self.spec.cluster
        self._sending = {COORDINATOR: NicClock(cluster.coordinator.nic_out_bytes_per_s)}
        self._receiving = {COORDINATOR: NicClock(cluster.coordinator.nic_in_bytes_per_s)}
        for node in cluster.nodes:
            self._sending[node.name] = NicClock(node.nic_out_bytes_per_s)
            self._receiving[node.name] = NicClock(node.nic_in_bytes_per_s)

    def make_node(self, name: str, held: LayerRange) -> GpuNode:
        """A node on machine ``name`` that holds ``held``; it serves once it is routed to and started."""
        machine = self.spec.cluster.node(name)
        profile = self.spec.profiles[machine.machine_type]
        capacity = machine.kv_capacity_layer_tokens
        if capacity is None or held != self.spec.placement.ranges.get(name):
            capacity = profile.kv_capacity_layer_tokens(len(held))
        node = GpuNode(self, self._nodes_made, name, held, profile, capacity)
        self._nodes_made += 1
        before = self.latest.get(name)
        if before is not None:
            node.inherit(before)
        self.latest[name] = node
        return node

    def wire(self, source: str, target: str) -> Wire | None:
        """What carries messages from ``source`` to ``target``; ``None`` where the cluster has no link."""
        known = self._wires.get((source, target))
        if known is not None:
            return known
        link = self.spec.cluster.link(source, target)
        if link is None:
            return None
        shares = self.spec.sharing is LinkSharing.SHARES
        wire = Wire(source, target, self._clock(source, target, link), None if shares else self._receiving[target])
        self._wires[source, target] = wire
        behaviour = self.spec.conditions.of(self.spec.cluster, (source, target))
        if behaviour is not None and behaviour.schedule is not None:
            assert isinstance(self.network, ChurningNetwork)
            self.network.follow(wire, behaviour)
        return wire

    def _clock(self, source: str, target: str, link: Link) -> LinkClock:
        sender = None if self.spec.sharing is LinkSharing.SHARES else self._sending[source]
        return wire_clock(self.spec, (source, target), link, sender)

    def machine_stopped(self, name: str) -> None:
        """Machine ``name`` has stopped: what it had not sent is lost, and its card and wires are empty again."""
        assert isinstance(self.network, ChurningNetwork)
        self._sending[name].free_s = self._receiving[name].free_s = self.env.now
        for (source, target), wire in self._wires.items():
            if source == name:
                self.network.sender_stopped(wire)
                link = self.spec.cluster.link(source, target)
                assert link is not None
                wire.clock = self._clock(source, target, link)
                self.network.refresh(wire)
        self.network.machine_stopped(name)

    def lose(self, attempt: Attempt) -> None:
        """``attempt`` has gone down with what carried it."""
        if attempt.dead:
            self.dead -= 1
        else:
            attempt.lost = True

    def used_wires(self) -> list[Wire]:
        """Wires over which requests go or went, in order of first use."""
        return list(self._wires.values())

    def _connect(self, pairs: list[Pair], nodes: Mapping[str, GpuNode]) -> None:
        """Make ``links`` those over ``pairs``, keeping links between nodes that had one, and cut the nodes' layers."""
        spec = self.spec
        rates = shared_rates(spec, pairs, self.flow) if spec.sharing is LinkSharing.SHARES else {}
        known, self._known_links = self._known_links, {}
        self.links: list[EmulatedLink] = []
        for node in nodes.values():
            node.out_links = []
        for pair in pairs:
            source, target = nodes.get(pair[0]), nodes.get(pair[1])
            link = known.get(pair)
            if link is None or link.source is not source or link.node is not target:
                link = self._make_link(pair, source, target)
            if pair in rates:
                self._set_rate(link, rates[pair])
            if source is not None:
                source.out_links.append(link)
            if target is not None:
                link.segment = target.enter_at(link.entry_layer)
            self._known_links[pair] = link
            self.links.append(link)
        self.entry_links = [link for link in self.links if link.source is None]

    def _set_rate(self, link: EmulatedLink, bytes_per_s: float) -> None:
        if isinstance(self.network, ChurningNetwork):
            self.network.set_rate(link.wire, bytes_per_s)
        else:
            link.clock.bytes_per_s = bytes_per_s

    def _make_link(self, pair: Pair, source: GpuNode | None, target: GpuNode | None) -> EmulatedLink:
        wire = self.wire(*pair)
        assert wire is not None, "usable pairs are linked"
        link = EmulatedLink(
            self._links_made,
            source,
            target,
            0 if source is None else source.held.stop,
            wire,
            self.spec.model.token_bytes if COORDINATOR in pair else self.spec.model.hop_bytes,
        )
        self._links_made += 1
        link.deliver = self.coordinator.receive if target is None else target.receive
        return link

    def _solve(
        self,
        nodes: Sequence[GpuNode],
        pairs: list[Pair],
        slowdown: Mapping[str, float],
        bandwidth: Mapping[Pair, float],
    ) -> MaxFlow:
        return solve_flow(
            self.spec,
            self._throughput,
            Placement({node.name: node.held for node in nodes}),
            pairs,
            {node.name: node.kv_capacity / len(node.held) for node in nodes},
            balance=self._follows_flow,
            slowdown=slowdown,
            bandwidth=bandwidth,
        )

    def max_flow_of(
        self,
        placement: Placement,
        blocked: Collection[Pair],
        slowdown: Mapping[str, float],
        bandwidth: Mapping[Pair, float],
    ) -> float:
        """Max flow in tokens/s under a placement on this cluster; 0 where it does not serve the whole model."""
        pairs = serving_pairs(self.spec, placement, blocked=blocked)
        if not pairs:
            return 0.0
        flow = solve_flow(
            self.spec, self._throughput, placement, pairs, {}, balance=False, slowdown=slowdown, bandwidth=bandwidth
        )
        return flow.tokens_per_s

    # -- changes -------------------------------------------------------------------------------

    def rewire(
        self,
        serving: Sequence[GpuNode],
        *,
        closed: Sequence[GpuNode] = (),
        blocked: Collection[Pair] = (),
        slowdown: Mapping[str, float],
        bandwidth: Mapping[Pair, float],
        solve: bool = True,
    ) -> None:
        """Route new requests over ``serving`` nodes from now on; requests under way keep their pipelines.

        Args:
            serving: Nodes that may get requests, in file order.
            closed: Nodes that finish what they have.
            blocked: Pairs that must not be used.
            slowdown: Machine -> factor on its compute time, where it counts in the flow.
            bandwidth: Pair -> factor on its bandwidth, where it counts in the flow.
            solve: Whether to solve the max flow anew; if not, links keep the flow that they have.
        """
        nodes = {node.name: node for node in (*serving, *closed)}
        placement = Placement({name: node.held for name, node in nodes.items()})
        closed_names = dict.fromkeys(node.name for node in closed)
        pairs = serving_pairs(self.spec, placement, closed=closed_names, blocked=blocked)
        held = Placement({node.name: node.held for node in serving})
        flow_pairs = serving_pairs(self.spec, held, blocked=blocked)
        if not flow_pairs:
            self.flow = NO_FLOW if solve else self.flow
        elif solve:
            self.flow = self._solve(serving, flow_pairs, slowdown, bandwidth)
        self.can_serve = bool(flow_pairs) and self.flow.tokens_per_s > 0
        self.nodes = [node for node in serving if self.can_serve]
        self._connect(pairs, nodes)
        self.single_entry = False
        for node in nodes.values():
            node.only_link = None
        self.pipelines.forget_all_but(self.links)
        if self.can_serve or self.policy.per_hop:
            # Even if nobody is let in, closed nodes still send prefills on, and not over links that are gone.
            before = self.policy
            self.policy = make_policy(self.spec.scheduler.policy, self.spec.scheduler.options, self, self.spec.seed)
            self.policy.take_over(before)
        if self.on_rewired is not None:
            graph = None
            if solve and flow_pairs:
                graph = flow_graph(self.spec, self._throughput, held, flow_pairs, slowdown, bandwidth)
            self.on_rewired(graph)

    # -- questions -----------------------------------------------------------------------------

    def flow_of(self, link: EmulatedLink) -> float:
        """Max flow over a link, in tokens/s."""
        return self.flow.link_flow.get((link.wire.source, link.wire.target), 0.0)

    def links_through(self, nodes: Sequence[GpuNode]) -> tuple[EmulatedLink, ...] | None:
        """The links from the coordinator through ``nodes`` and back; ``None`` where one is not there now."""
        stops: list[GpuNode | None] = [None, *nodes, None]
        found: list[EmulatedLink] = []
        for source, target in itertools.pairwise(stops):
            names = (COORDINATOR if source is None else source.name, COORDINATOR if target is None else target.name)
            link = self._known_links.get(names)
            if link is None or link.source is not source or link.node is not target:
                return None
            found.append(link)
        return tuple(found)

    def why_impossible(self, prompt_tokens: int) -> str:
        """Why nobody could ever take a prompt of this length; empty when somebody could."""
        if prompt_tokens > self._longest_prompt:
            return f"prompt of {prompt_tokens} tokens; no node takes more than {self._longest_prompt} in a batch"
        longest = self.policy.longest_prompt
        if longest is not None and prompt_tokens > longest and self.churn is None:
            return (
                f"prompt of {prompt_tokens} tokens; no pipeline takes more than {longest}, "
                "even with nothing else in flight"
            )
        return ""

    def kv_bottleneck(self) -> float:
        """KV use of the fullest layer: as the policy expects it, else as it is; all of it while nothing can serve."""
        if not self.can_serve:
            return 1.0
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
        for node in self.latest.values():
            if not 0 <= node.kv_used <= node.kv_capacity:
                raise SimulationError(f"{node.name}: {node.kv_used} KV entries of {node.kv_capacity}; this is a defect")
        metrics = self.metrics
        ended = sum(metrics.outcomes.values())
        open_requests = self.coordinator.open_requests
        if metrics.submitted != ended + open_requests:
            raise SimulationError(
                f"{metrics.submitted} requests submitted, {ended} ended, {open_requests} open; this is a defect"
            )
        if not open_requests and any(node.kv_used for node in self.latest.values()):
            raise SimulationError("KV entries are left although no request is; this is a defect")
