"""The exact configuration that the kernel would get. netem is not in every kernel, so it is compared, not run."""

import math
import statistics
import struct

import pytest

from netshape.conditions import GilbertElliottLoss, IndependentLoss, Jitter, LinkConditions
from netshape.draws import JitterDraws
from netshape.kernel.errors import KernelError
from netshape.kernel.qdisc import (
    ROOT,
    TcRequest,
    burst_bytes,
    distribution_table,
    netem_requests,
    tbf_requests,
)
from netshape.kernel.topology import Link
from netshape.randomness import generator

RATE = 12.5e6
MAX = 2**32 - 1


def link(**conditions: object) -> Link:
    return Link(source="a", target="b", conditions=LinkConditions(**conditions))  # type: ignore[arg-type]


def netem(**conditions: object) -> dict[str, object]:
    """netem's own options, and its attributes by name."""
    options = netem_requests(link(**conditions))[-1].options
    fields = {key: value for key, value in options.items() if key != "attrs"}
    return fields | dict(options["attrs"])


def test_a_rate_and_a_latency_are_htb_with_netem_in_its_class() -> None:
    root, inner, leaf = netem_requests(link(bandwidth_bytes_per_s=RATE, latency_s=0.05))
    assert (root.command, root.kind, root.parent, root.handle) == ("qdisc", "htb", ROOT, 0x10000)
    # What no filter sorts goes to class 1:1, so all of it.
    assert dict(root.options["attrs"])["TCA_HTB_INIT"]["defcls"] == 1
    assert (inner.command, inner.kind, inner.parent, inner.handle) == ("class", "htb", 0x10000, 0x10001)
    parameters = dict(inner.options["attrs"])["TCA_HTB_PARMS"]
    assert parameters["rate"] == parameters["ceil"] == RATE
    # 4 ms in ticks of 64 ns: a burst of rate / 250.
    assert parameters["buffer"] == parameters["cbuffer"] == 62_500
    assert (leaf.command, leaf.kind, leaf.parent, leaf.handle) == ("qdisc", "netem", 0x10001, 0x100000)
    assert leaf.options == {
        "delay": 781_250,  # 50 ms in ticks
        "limit": 1000 + 417,  # waiting, and on its way: 12.5e6 * 0.05 / 1500
        "loss": 0,
        "gap": 0,
        "duplicate": 0,
        "jitter": 0,
        "attrs": [],
    }


def test_without_a_rate_netem_is_alone() -> None:
    (only,) = netem_requests(link(latency_s=0.001))
    assert (only.kind, only.parent) == ("netem", ROOT)


def test_rates_beyond_32_bits_are_told_in_64() -> None:
    _, inner, _ = netem_requests(link(bandwidth_bytes_per_s=1e10))
    attributes = dict(inner.options["attrs"])
    assert attributes["TCA_HTB_PARMS"]["rate"] == MAX
    assert attributes["TCA_HTB_RATE64"] == attributes["TCA_HTB_CEIL64"] == 10**10


def test_overhead_beyond_the_ethernet_header_is_added_by_the_kernel() -> None:
    more = link(bandwidth_bytes_per_s=RATE, mtu_bytes=1500, overhead_bytes_per_packet=38)
    parameters = dict(netem_requests(more)[1].options["attrs"])["TCA_HTB_PARMS"]
    assert (parameters["rate_overhead"], parameters["ceil_overhead"]) == (24, 24)
    less = link(bandwidth_bytes_per_s=RATE, mtu_bytes=1500, overhead_bytes_per_packet=4)
    assert dict(netem_requests(less)[1].options["attrs"])["TCA_HTB_PARMS"]["rate_overhead"] == 0


def test_independent_loss_and_duplication_are_shares_of_32_bits() -> None:
    options = netem(loss=IndependentLoss(probability=0.01), duplicate_probability=0.5)
    assert options["loss"] == round(0.01 * MAX)
    assert options["duplicate"] == round(0.5 * MAX)
    assert "TCA_NETEM_LOSS" not in options


def test_gilbert_elliott_loss_is_told_in_the_kernels_own_terms() -> None:
    options = netem(loss=GilbertElliottLoss(to_bad=0.01, to_good=0.1, loss_good=0.001, loss_bad=0.75))
    model = options["TCA_NETEM_LOSS"]["attrs"]  # type: ignore[index]
    # h is the share that passes in the bad state.
    expected = {"p": 0.01 * MAX, "r": 0.1 * MAX, "h": 0.25 * MAX, "k1": 0.001 * MAX}
    assert model == [["NETEM_LOSS_GE", {name: round(value) for name, value in expected.items()}]]
    assert options["loss"] == 0


def test_a_link_that_is_down_loses_everything() -> None:
    assert netem(up=False, loss=IndependentLoss(probability=0.1))["loss"] == MAX


def test_uniform_jitter_needs_no_table_and_keeps_the_order_by_a_rate() -> None:
    options = netem(latency_s=0.05, jitter=Jitter(spread_s=0.005, correlation=0.25))
    assert options["jitter"] == 78_125
    assert options["TCA_NETEM_CORR"] == {"delay_corr": round(0.25 * MAX), "loss_corr": 0, "dup_corr": 0}
    assert options["TCA_NETEM_RATE"] == {"rate": MAX, "packet_overhead": 0, "cell_size": 0, "cell_overhead": 0}
    assert "TCA_NETEM_DELAY_DIST" not in options


def test_overtaking_packets_switch_the_order_off() -> None:
    options = netem(latency_s=0.05, jitter=Jitter(spread_s=0.001), reorder_probability=0.02)
    assert options["gap"] == 1
    assert options["TCA_NETEM_REORDER"] == {"prob_reorder": round(0.02 * MAX), "corr_reorder": 0}
    assert "TCA_NETEM_RATE" not in options


@pytest.mark.parametrize("distribution", ["normal", "pareto"])
def test_the_tables_hold_the_quantiles_of_the_link_model(distribution: str) -> None:
    jitter = Jitter(spread_s=1.0, distribution=distribution)  # type: ignore[arg-type]
    table = struct.unpack("=4096h", distribution_table(jitter))
    values = [value / 8192 for value in table]
    assert values == sorted(values)
    assert statistics.mean(values) == pytest.approx(0, abs=0.05)
    draw = JitterDraws(jitter, generator(1, "table"))
    drawn = sorted(draw() for _ in range(40_000))
    for share in (0.05, 0.25, 0.5, 0.75, 0.9, 0.97):
        assert values[int(share * 4096)] == pytest.approx(drawn[int(share * 40_000)], abs=0.08)
    assert netem(latency_s=1.0, jitter=jitter)["TCA_NETEM_DELAY_DIST"] == distribution_table(jitter)


def test_the_normal_table_is_the_normal_distributions() -> None:
    table = struct.unpack("=4096h", distribution_table(Jitter(spread_s=1.0, distribution="normal")))
    inside = sum(1 for value in table if abs(value) <= 8192)
    assert inside / 4096 == pytest.approx(math.erf(1 / math.sqrt(2)), abs=0.001)


def test_the_queue_limit_counts_packets_that_wait_and_those_on_their_way() -> None:
    options = netem(
        bandwidth_bytes_per_s=RATE, latency_s=0.05, jitter=Jitter(spread_s=0.01), queue_limit_bytes=30_000.0
    )
    assert options["limit"] == 20 + math.ceil(RATE * 0.09 / 1500)


def test_times_that_do_not_fit_are_told() -> None:
    with pytest.raises(KernelError, match=r"link a->b: latency_s is 300 s; the kernel takes at most 275 s"):
        netem_requests(link(latency_s=300.0))


def test_tbf_has_the_rate_a_burst_of_4_ms_and_the_queue() -> None:
    (only,) = tbf_requests(link(bandwidth_bytes_per_s=RATE, queue_limit_bytes=1.5e6))
    assert (only.kind, only.parent, only.handle) == ("tbf", ROOT, 0x10000)
    parameters = dict(only.options["attrs"])["TCA_TBF_PARMS"]
    assert (parameters["rate"], parameters["limit"], parameters["buffer"]) == (RATE, 1_500_000, 62_500)


def test_a_burst_holds_at_least_one_packet() -> None:
    slow = link(bandwidth_bytes_per_s=1000.0)
    assert burst_bytes(slow) == 1514
    (only,) = tbf_requests(slow)
    assert dict(only.options["attrs"])["TCA_TBF_PARMS"]["buffer"] == round(1.514 * 15_625_000)


def test_tbf_without_a_rate_is_nothing() -> None:
    assert tbf_requests(link()) == ()


@pytest.mark.parametrize(
    ("conditions", "told"),
    [
        ({"latency_s": 0.01}, "latency_s"),
        ({"jitter": Jitter(spread_s=0.1)}, "jitter"),
        ({"loss": IndependentLoss(probability=0.1), "up": False}, "loss, up = false"),
        ({"duplicate_probability": 0.1, "reorder_probability": 0.1}, "duplicate_probability, reorder_probability"),
    ],
)
def test_tbf_refuses_what_it_would_leave_out(conditions: dict[str, object], told: str) -> None:
    with pytest.raises(KernelError, match=f"link a->b: {told}: backend tbf has rates only; use backend tun or netem"):
        tbf_requests(link(bandwidth_bytes_per_s=RATE, **conditions))


# What iproute2 6.1 sends for the same, taken down with `strace -e sendmsg -xx tc ...`: from struct tcmsg on, card 3.
TC = {
    # tc qdisc add dev v0 parent 1:1 handle 10: netem limit 1417 delay 50ms
    "latency": (
        "00000000030000000000100001000100000000000a0001006e6574656d0000001c000200"
        "c2eb0b008905000000000000000000000000000000000000"
    ),
    # ... netem limit 3918 delay 50ms 5ms 25% loss gemodel 1% 10% 70% 0.1% duplicate 0.5% rate 34359738360bit
    "bursts": (
        "00000000030000000000100001000100000000000a0001006e6574656d00000058000200"
        "c2eb0b004e0f0000000000000000000014ae47012d310100100001000000004000000000000000001800058014000200"
        "295c8f029a999919cdcccc4c3789410014000600ffffffff000000000000000000000000"
    ),
    # tc qdisc add dev v0 root handle 10: netem limit 1000 delay 50ms loss 1% reorder 2%
    "reorder": (
        "000000000300000000001000ffffffff000000000a0001006e6574656d00000028000200"
        "c2eb0b00e8030000295c8f020100000000000000000000000c00030052b81e0500000000"
    ),
    # tc qdisc add dev v0 root handle 1: htb default 1
    "htb": (
        "000000000300000000000100ffffffff0000000008000100687462001c00020018000200030000000a000000"
        "010000000000000000000000"
    ),
}
ASKED: dict[str, tuple[dict[str, object], int]] = {
    "latency": ({"bandwidth_bytes_per_s": RATE, "latency_s": 0.05}, 2),
    "bursts": (
        {
            "bandwidth_bytes_per_s": RATE,
            "latency_s": 0.05,
            "queue_limit_bytes": 5e6,
            "jitter": Jitter(spread_s=0.005, correlation=0.25),
            "loss": GilbertElliottLoss(to_bad=0.01, to_good=0.1, loss_bad=0.7, loss_good=0.001),
            "duplicate_probability": 0.005,
        },
        2,
    ),
    "htb": ({"bandwidth_bytes_per_s": RATE}, 0),
}


def message(request: TcRequest) -> bytes:
    """The message for card 3, without the netlink header."""
    pytest.importorskip("pyroute2", reason="pyroute2 (extra [kernel]) writes the messages")
    from netshape.kernel.wiring import tc_bytes

    return tc_bytes(request, 3)[16:]


@pytest.mark.parametrize("case", ASKED)
def test_the_message_is_byte_for_byte_the_one_that_tc_sends(case: str) -> None:
    conditions, index = ASKED[case]
    assert message(netem_requests(link(**conditions))[index]).hex() == TC[case]


def test_reordering_is_byte_for_byte_the_one_that_tc_sends() -> None:
    # Without a rate, the limit has room for what 34 Gbit/s would have on its way; tc was told 1000.
    asked = link(latency_s=0.05, loss=IndependentLoss(probability=0.01), reorder_probability=0.02)
    (request,) = netem_requests(asked)
    assert request.options["limit"] == 1000 + math.ceil(MAX * 0.05 / 1500)
    same = TcRequest(
        command="qdisc",
        kind=request.kind,
        parent=request.parent,
        handle=request.handle,
        options={**request.options, "limit": 1000},
    )
    assert message(same).hex() == TC["reorder"]


def test_the_rates_of_tbf_and_htb_are_those_that_tc_sends() -> None:
    # tc qdisc add dev v0 root handle 1: tbf rate 100mbit burst 50000b limit 1500000b overhead 24; tc adds a table of
    # transmission times, which the kernel leaves unread where the link layer is told.
    shaped = link(bandwidth_bytes_per_s=RATE, mtu_bytes=1500, overhead_bytes_per_packet=38, queue_limit_bytes=1.5e6)
    (tbf,) = tbf_requests(shaped)
    ours = message(tbf)
    assert ours[36:].hex() == "03011800ffff000020bcbe00" + "00" * 12 + "60e31600" + "24f40000" + "00000000"
    # tc class add dev v0 parent 1: classid 1:1 htb rate 100mbit burst 50000b cburst 50000b quantum 60000 overhead 24
    htb = message(netem_requests(shaped)[1])
    assert htb[36:].hex() == "03011800ffff000020bcbe00" * 2 + "24f40000" * 2 + "60ea0000" + "00" * 8
