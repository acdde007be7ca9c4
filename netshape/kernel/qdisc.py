"""Queueing disciplines that give a network card a link's conditions: htb with netem inside, or tbf alone.

The configuration is a value (netlink attributes in the names of include/uapi/linux/pkt_sched.h), so that it can be
looked at, and tested, on machines whose kernel lacks netem.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from netshape.conditions import GilbertElliottLoss, IndependentLoss, Jitter, LinkConditions
from netshape.kernel.errors import KernelError
from netshape.kernel.topology import Link

ROOT = 0xFFFFFFFF
TICKS_PER_S = 15_625_000
"""Times in the older attributes are in ticks of 64 ns."""
BURST_S = 1 / 250
"""A token bucket holds what passes in this time: within 0.5 % of the rate from 10 Mbit/s to 10 Gbit/s."""
ETHERNET_HEADER_BYTES = 14
"""Queueing disciplines count it with every packet, so a smaller overhead cannot be had from them."""

_U32 = 0xFFFFFFFF
_MAX_OVERHEAD_BYTES = 0xFFFF
_LINK_LAYER_ETHERNET = 1
_HTB_ROOT, _HTB_CLASS, _NETEM = 0x10000, 0x10001, 0x100000
_HTB_QUANTUM_BYTES = 60_000
_KEEP_ORDER_BYTES_PER_S = _U32
"""netem delivers in order only where it has a rate; this one, 34 Gbit/s, is there for the order alone."""
_DISTRIBUTION_SIZE = 4096
_DISTRIBUTION_SCALE = 8192
_PARETO_SHAPE = 3.0
_MAX_LATENCY_S = _U32 / TICKS_PER_S


@dataclass(frozen=True, slots=True, kw_only=True)
class TcRequest:
    """One request to the kernel's traffic control.

    Attributes:
        command: ``qdisc`` or ``class``, to be added or replaced.
        kind: Name of the queueing discipline.
        parent: Handle of what it hangs on; :data:`ROOT` for the card itself.
        handle: Its own.
        options: Content of TCA_OPTIONS in pyroute2's form: fields of the leading structure, and ``attrs``, pairs of an
            attribute's name and value.
    """

    command: str
    kind: str
    parent: int
    handle: int
    options: Mapping[str, Any]


def netem_requests(link: Link) -> tuple[TcRequest, ...]:
    """htb for the rate, netem in its only class for the rest.

    What netem does differently from the link model: the correlation of jitter changes its distribution, and an
    overtaking packet is sent at once although others wait.

    Raises:
        KernelError: Conditions that netem cannot express.
    """
    conditions = link.effective
    rate = conditions.bandwidth_bytes_per_s
    leaf = TcRequest(command="qdisc", kind="netem", parent=_HTB_CLASS, handle=_NETEM, options=_netem(link))
    if rate == math.inf:
        return (TcRequest(command="qdisc", kind="netem", parent=ROOT, handle=_NETEM, options=leaf.options),)
    initial = {"version": 3, "rate2quantum": 10, "defcls": _HTB_CLASS & 0xFFFF, "debug": 0, "direct_pkts": 0}
    root = TcRequest(
        command="qdisc", kind="htb", parent=ROOT, handle=_HTB_ROOT, options={"attrs": [["TCA_HTB_INIT", initial]]}
    )
    inner = TcRequest(
        command="class", kind="htb", parent=_HTB_ROOT, handle=_HTB_CLASS, options=_htb_class(link, conditions)
    )
    return root, inner, leaf


def tbf_requests(link: Link) -> tuple[TcRequest, ...]:
    """tbf for the rate; nothing for a link without one.

    Raises:
        KernelError: Conditions beside rate, queue limit and MTU.
    """
    conditions = link.effective
    asked = {
        "latency_s": conditions.latency_s > 0,
        "jitter": conditions.jitter is not None,
        "loss": conditions.loss is not None,
        "duplicate_probability": conditions.duplicate_probability > 0,
        "reorder_probability": conditions.reorder_probability > 0,
        "up = false": not conditions.up,
    }
    beyond = [name for name, is_asked in asked.items() if is_asked]
    if beyond:
        raise KernelError(
            f"link {link.name}: {', '.join(beyond)}: backend tbf has rates only; use backend tun or netem"
        )
    rate = conditions.bandwidth_bytes_per_s
    if rate == math.inf:
        return ()
    parameters = {
        **_rate("rate", rate, link),
        "limit": min(_U32, math.ceil(conditions.queue_limit_bytes)),
        "buffer": _ticks(burst_bytes(link) / rate, link, "the burst"),
        "mtu": 0,
    }
    options = {"attrs": [["TCA_TBF_PARMS", parameters]]}
    return (TcRequest(command="qdisc", kind="tbf", parent=ROOT, handle=_HTB_ROOT, options=options),)


def burst_bytes(link: Link) -> float:
    """Size of the token bucket: 4 ms of the rate, at least one packet."""
    packet = link.mtu_bytes + ETHERNET_HEADER_BYTES
    return max(link.conditions.bandwidth_bytes_per_s * BURST_S, packet)


def _overhead(link: Link) -> int:
    """Bytes to add to a packet as the card sees it; the kernel takes no negative number."""
    overhead = max(0, round(link.conditions.overhead_bytes_per_packet) - ETHERNET_HEADER_BYTES)
    if overhead > _MAX_OVERHEAD_BYTES:
        raise KernelError(f"link {link.name}: overhead_bytes_per_packet: the kernel takes at most 65,549")
    return overhead


def _rate(name: str, bytes_per_s: float, link: Link) -> dict[str, int]:
    """A ``struct tc_ratespec``."""
    return {
        name: min(_U32, round(bytes_per_s)),
        f"{name}_overhead": _overhead(link),
        f"{name}___reserved": _LINK_LAYER_ETHERNET,
    }


def _htb_class(link: Link, conditions: LinkConditions) -> dict[str, Any]:
    rate = conditions.bandwidth_bytes_per_s
    burst = _ticks(burst_bytes(link) / rate, link, "the burst")
    parameters = {
        **_rate("rate", rate, link),
        **_rate("ceil", rate, link),
        "buffer": burst,
        "cbuffer": burst,
        "quantum": _HTB_QUANTUM_BYTES,
        "level": 0,
        "prio": 0,
    }
    attributes: list[list[Any]] = [["TCA_HTB_PARMS", parameters]]
    if rate > _U32:
        attributes += [["TCA_HTB_RATE64", round(rate)], ["TCA_HTB_CEIL64", round(rate)]]
    return {"attrs": attributes}


def _netem(link: Link) -> dict[str, Any]:
    conditions = link.effective
    jitter = conditions.jitter
    loss = conditions.loss
    # In tc's order.
    attributes: list[list[Any]] = []
    if jitter is not None and jitter.correlation:
        correlation = {"delay_corr": _share(jitter.correlation), "loss_corr": 0, "dup_corr": 0}
        attributes.append(["TCA_NETEM_CORR", correlation])
    if conditions.reorder_probability:
        reorder = {"prob_reorder": _share(conditions.reorder_probability), "corr_reorder": 0}
        attributes.append(["TCA_NETEM_REORDER", reorder])
    independent = 0
    if not conditions.up:
        independent = _U32
    elif isinstance(loss, IndependentLoss):
        independent = _share(loss.probability)
    elif isinstance(loss, GilbertElliottLoss):
        attributes.append(["TCA_NETEM_LOSS", {"attrs": [["NETEM_LOSS_GE", _gilbert_elliott(loss)]]}])
    if jitter is not None and not conditions.reorder_probability:
        keep = {"rate": _KEEP_ORDER_BYTES_PER_S, "packet_overhead": 0, "cell_size": 0, "cell_overhead": 0}
        attributes.append(["TCA_NETEM_RATE", keep])
    if jitter is not None and jitter.distribution != "uniform":
        attributes.append(["TCA_NETEM_DELAY_DIST", distribution_table(jitter)])
    return {
        "delay": _ticks(conditions.latency_s, link, "latency_s"),
        "limit": _limit_packets(link),
        "loss": independent,
        "gap": 1 if conditions.reorder_probability else 0,
        "duplicate": _share(conditions.duplicate_probability),
        "jitter": 0 if jitter is None else _ticks(jitter.spread_s, link, "jitter spread_s"),
        "attrs": attributes,
    }


def _gilbert_elliott(loss: GilbertElliottLoss) -> dict[str, int]:
    """``struct tc_netem_gemodel``: h is the share that passes in the bad state, k1 the share lost in the good one."""
    return {
        "p": _share(loss.to_bad),
        "r": _share(loss.to_good),
        "h": _share(1 - loss.loss_bad),
        "k1": _share(loss.loss_good),
    }


def _limit_packets(link: Link) -> int:
    """Packets in netem: those that wait for the rate, and those that the latency holds."""
    conditions = link.effective
    packet = link.mtu_bytes + conditions.overhead_bytes_per_packet
    held_s = conditions.latency_s + (0.0 if conditions.jitter is None else 4 * conditions.jitter.spread_s)
    # A rate without a limit still has to pass some card; 34 Gbit/s is the most that netem itself can count.
    rate = min(conditions.bandwidth_bytes_per_s, _KEEP_ORDER_BYTES_PER_S)
    return min(_U32, math.ceil(conditions.queue_limit_bytes / packet) + math.ceil(rate * held_s / packet))


def distribution_table(jitter: Jitter) -> bytes:
    """netem's table of a distribution: its quantiles in units of the spread, scaled by 8192, clipped at 4 spreads.

    Returns:
        4096 signed 16-bit numbers in the machine's byte order.
    """
    shares = [(index + 0.5) / _DISTRIBUTION_SIZE for index in range(_DISTRIBUTION_SIZE)]
    if jitter.distribution == "normal":
        normal = NormalDist()
        quantiles = [normal.inv_cdf(share) for share in shares]
    else:
        mean = _PARETO_SHAPE / (_PARETO_SHAPE - 1)
        deviation = math.sqrt(_PARETO_SHAPE / (_PARETO_SHAPE - 2)) / (_PARETO_SHAPE - 1)
        quantiles = [((1 - share) ** (-1 / _PARETO_SHAPE) - mean) / deviation for share in shares]
    scaled = [max(-32768, min(32767, round(value * _DISTRIBUTION_SCALE))) for value in quantiles]
    return struct.pack(f"={_DISTRIBUTION_SIZE}h", *scaled)


def _share(probability: float) -> int:
    """A probability as a share of 2**32 - 1, as tc rounds it."""
    return round(probability * _U32)


def _ticks(seconds: float, link: Link, what: str) -> int:
    if seconds > _MAX_LATENCY_S:
        raise KernelError(f"link {link.name}: {what} is {seconds:g} s; the kernel takes at most {_MAX_LATENCY_S:.0f} s")
    return round(seconds * TICKS_PER_S)
