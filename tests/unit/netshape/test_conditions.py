import math
import re
from typing import Any

import pytest

from netshape.conditions import GilbertElliottLoss, IndependentLoss, Jitter, LinkConditions
from netshape.errors import NetworkError


@pytest.mark.parametrize(
    ("kind", "values", "told"),
    [
        (LinkConditions, {"bandwidth_bytes_per_s": 0.0}, "bandwidth_bytes_per_s = 0.0: it must be above 0"),
        (LinkConditions, {"bandwidth_bytes_per_s": math.nan}, "bandwidth_bytes_per_s = nan"),
        (LinkConditions, {"bandwidth_bytes_per_s": 1e16}, "or infinite for no limit"),
        (LinkConditions, {"bandwidth_bytes_per_s": True}, "bandwidth_bytes_per_s = True: it must be a number"),
        (LinkConditions, {"latency_s": -0.1}, "latency_s = -0.1: it must be from 0 to 86400"),
        (LinkConditions, {"latency_s": math.inf}, "latency_s = inf"),
        (LinkConditions, {"latency_s": "40 ms"}, "latency_s = '40 ms': it must be a number"),
        (LinkConditions, {"duplicate_probability": 1.1}, "duplicate_probability = 1.1: it must be a probability"),
        (LinkConditions, {"reorder_probability": math.nan}, "reorder_probability = nan"),
        (LinkConditions, {"queue_limit_bytes": 0}, "queue_limit_bytes = 0: it must be above 0"),
        (LinkConditions, {"mtu_bytes": 0}, "mtu_bytes = 0: it must be from 1"),
        (LinkConditions, {"mtu_bytes": 1.5}, "mtu_bytes = 1.5: it must be a whole number"),
        (LinkConditions, {"overhead_bytes_per_packet": 40}, "overhead_bytes_per_packet needs mtu_bytes"),
        (LinkConditions, {"overhead_bytes_per_packet": -1, "mtu_bytes": 10}, "overhead_bytes_per_packet = -1"),
        (Jitter, {"spread_s": -1.0}, "jitter spread_s = -1.0"),
        (Jitter, {"spread_s": 1.0, "correlation": 1.0}, "jitter correlation = 1.0: it must be from 0 to 0.999"),
        (Jitter, {"spread_s": 1.0, "distribution": "gauss"}, "jitter distribution 'gauss': it must be one of uniform"),
        (IndependentLoss, {"probability": 1.0}, "loss probability = 1.0: it must be a probability from 0 to below 1"),
        (GilbertElliottLoss, {"to_bad": 0.0, "to_good": 0.1}, "loss to_bad = 0.0: it must be at least 1e-9"),
        (GilbertElliottLoss, {"to_bad": 0.1, "to_good": 0.1, "loss_good": 1.0}, "every packet would be lost"),
        (GilbertElliottLoss, {"to_bad": 0.1, "to_good": 0.1, "loss_bad": 2}, "loss loss_bad = 2"),
    ],
)
def test_a_value_out_of_range_is_told(kind: type, values: dict[str, Any], told: str) -> None:
    with pytest.raises(NetworkError, match=re.escape(told)):
        kind(**values)


def test_a_message_takes_up_its_packets_overhead() -> None:
    conditions = LinkConditions(mtu_bytes=1000, overhead_bytes_per_packet=50)
    assert [conditions.wire_bytes(size) for size in (0, 1, 1000, 1001, 10_000)] == [50, 51, 1050, 1101, 10_500]
    assert LinkConditions().wire_bytes(10_000) == 10_000
    assert LinkConditions().packets(1449) == 2


def test_mean_and_event_probability_of_bursts() -> None:
    bursts = GilbertElliottLoss(to_bad=0.01, to_good=0.25)
    assert bursts.mean_probability == pytest.approx(1 / 26)
    # Bursts of 4 packets on average: a quarter of the lost packets begins one.
    assert bursts.event_probability == pytest.approx(bursts.mean_probability / 4)
    # A chain whose states are alike is independent loss.
    alike = GilbertElliottLoss(to_bad=0.3, to_good=0.2, loss_good=0.1, loss_bad=0.1)
    assert alike.mean_probability == pytest.approx(0.1)
    assert alike.event_probability == pytest.approx(IndependentLoss(probability=0.1).event_probability)
