"""Runs whose outcome is known in closed form."""

import numpy as np
import pytest
from small_runs import DECODE_S, MODEL, PREFILL_S_PER_TOKEN, arrivals, placed, toy_cluster, toy_profile, toy_spec

from emulator.emulation import Emulation
from emulator.spec import FirstToken, HostCost, SchedulerSpec
from emulator.workload import FixedLengths, OpenLoop, RandomArrivals

BANDWIDTH, LATENCY = 1e6, 0.005
HOST = HostCost()


def host_s(tokens: int) -> float:
    size = tokens * MODEL.activation_bytes
    return size / HOST.concat_bytes_per_s + size / HOST.transfer_bytes_per_s


def one_iteration(tokens: int, layer_s: float) -> float:
    """Coordinator -> one node with all layers -> coordinator."""
    wire = 2 * (tokens * MODEL.token_bytes / BANDWIDTH + LATENCY)
    return wire + MODEL.layers * layer_s + host_s(tokens)


def test_one_request_on_one_node() -> None:
    emulation = Emulation(toy_spec(workload=arrivals((1.0, 100, 3))))
    ended = []
    emulation.state.coordinator.on_ended = ended.append
    summary = emulation.run()
    prefill = one_iteration(100, 100 * PREFILL_S_PER_TOKEN)
    decode = one_iteration(1, DECODE_S)
    (request,) = ended
    assert request.ttft_s == pytest.approx(prefill)
    assert request.e2e_s == pytest.approx(prefill + 2 * decode)
    assert request.tpot_s == pytest.approx(decode)
    assert summary["prefill_latency_s"]["mean"] == pytest.approx(prefill)
    assert summary["decode_latency_s"]["count"] == 2
    assert summary["itl_s"]["p50"] == pytest.approx(decode)
    assert summary["decode_throughput_tokens_per_s"] == pytest.approx(2 / 60)
    assert summary["total_throughput_tokens_per_s"] == pytest.approx(102 / 60)


def test_the_other_counting_convention_takes_one_decode_more() -> None:
    emulation = Emulation(toy_spec(first_token=FirstToken.DECODE))
    ended = []
    emulation.state.coordinator.on_ended = ended.append
    summary = emulation.run()
    prefill, decode = one_iteration(100, 100 * PREFILL_S_PER_TOKEN), one_iteration(1, DECODE_S)
    assert ended[0].ttft_s == pytest.approx(prefill + decode)
    assert ended[0].e2e_s == pytest.approx(prefill + 3 * decode)
    assert summary["decode_latency_s"]["count"] == 3
    assert summary["itl_s"]["count"] == 2


def test_a_chain_of_nodes_pays_each_hop_once() -> None:
    spec = toy_spec(
        cluster=toy_cluster(("n0", "n1")),
        placement=placed(n0=(0, 1), n1=(1, 4)),
        workload=arrivals((0.0, 200, 1)),
    )
    ended = []
    emulation = Emulation(spec)
    emulation.state.coordinator.on_ended = ended.append
    emulation.run()
    wires = 3 * LATENCY + (2 * MODEL.token_bytes + MODEL.hop_bytes) * 200 / BANDWIDTH
    assert ended[0].e2e_s == pytest.approx(wires + 4 * 200 * PREFILL_S_PER_TOKEN + 2 * host_s(200))


def test_partial_inference_runs_only_the_missing_layers() -> None:
    spec = toy_spec(
        cluster=toy_cluster(("n0", "n1")),
        placement=placed(n0=(0, 3), n1=(1, 4)),
        workload=arrivals((0.0, 200, 1)),
    )
    emulation = Emulation(spec)
    ended = []
    emulation.state.coordinator.on_ended = ended.append
    emulation.run()
    wires = 3 * LATENCY + (2 * MODEL.token_bytes + MODEL.hop_bytes) * 200 / BANDWIDTH
    # Nobody enters n1 at its first held layer, so no host cost is paid there.
    assert ended[0].e2e_s == pytest.approx(wires + 4 * 200 * PREFILL_S_PER_TOKEN + host_s(200))
    assert str(ended[0].pipeline) == "n0:0-3 n1:3-4"


@pytest.mark.parametrize("load", [0.3, 0.7])
def test_waiting_time_of_an_m_d_1_queue(load: float) -> None:
    """Poisson arrivals, one prompt a batch, constant service: mean wait = load * service / (2 * (1 - load))."""
    prompt = 50
    service = MODEL.layers * prompt * PREFILL_S_PER_TOKEN
    rate = load / service
    requests = 120_000
    spec = toy_spec(
        profiles={"gpu": toy_profile(max_prompts=1)},
        cluster=toy_cluster(bandwidth=1e12, latency=0.0),
        host_cost=HostCost(concat_bytes_per_s=1e18, transfer_bytes_per_s=1e18),
        duration_s=requests / rate,
        workload=OpenLoop(
            source=RandomArrivals(requests_per_s=rate, lengths=FixedLengths(prompt_tokens=prompt, output_tokens=1))
        ),
        scheduler=SchedulerSpec(policy="round-robin"),
    )
    summary = Emulation(spec).run()
    wait = summary["ttft_s"]["mean"] - service
    assert wait == pytest.approx(load * service / (2 * (1 - load)), rel=0.03)
    assert summary["nodes"]["n0"]["utilisation"] == pytest.approx(load, rel=0.02)


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 4.0])
def test_arrivals_have_the_rate_and_burstiness_asked_for(burstiness: float) -> None:
    source = RandomArrivals(
        requests_per_s=5.0, burstiness=burstiness, lengths=FixedLengths(prompt_tokens=1, output_tokens=1)
    )
    stream = source.arrivals(7)
    times = np.array([next(stream).at_s for _ in range(40_000)])
    gaps = np.diff(times)
    assert gaps.mean() == pytest.approx(0.2, rel=0.03)
    assert gaps.var() / gaps.mean() ** 2 == pytest.approx(burstiness, rel=0.06)
