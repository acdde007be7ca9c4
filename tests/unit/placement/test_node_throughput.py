import pytest
from artifact import artifact_model, artifact_profiles, needs_artifact
from small_clusters import small_model, small_profile

from placement.throughput import ThroughputModel


@needs_artifact
@pytest.mark.parametrize(
    ("machine", "count", "layers", "expected"),
    [
        # Capacities of the published one-type 30B clusters.
        ("A100", 4, 15, 1044.5333450564908),
        ("L4", 8, 8, 214.9814019613291),
        ("T4", 12, 5, 397.6850640835782),
    ],
)
def test_reference_capacities_of_30b(machine, count, layers, expected):
    throughput = ThroughputModel(artifact_model("llama-1-30b"), artifact_profiles("llama-1-30b"), {machine: count})
    assert throughput.tokens_per_s(machine, layers) == pytest.approx(expected, rel=1e-12)


def test_a_machine_twice_as_fast_beside_its_like_serves_twice_the_tokens():
    def alone(speed: float) -> float:
        profiles = {"M": small_profile("M", 4, speed=speed)}
        return ThroughputModel(small_model(8), profiles, {"M": 4}).tokens_per_s("M", 4)

    # Batches depend on the ratio of speeds only, so with one type of machine the speed is a plain factor.
    assert alone(2.0) == pytest.approx(2 * alone(1.0), rel=1e-9)


def test_more_layers_on_a_node_mean_fewer_tokens_per_second():
    throughput = ThroughputModel(small_model(8), {"M": small_profile("M", 4)}, {"M": 4})
    rates = [throughput.tokens_per_s("M", layers) for layers in (1, 2, 3, 4)]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < rates[0]
