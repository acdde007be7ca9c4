import pytest
from artifact import artifact_model, artifact_profiles, needs_artifact
from small_clusters import small_model, small_profile

from placement.throughput import KvLimitedThroughput, ThroughputModel


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


def test_a_long_round_trip_leaves_a_node_what_its_kv_cache_holds():
    model, profiles, counts = small_model(8), {"M": small_profile("M", 4)}, {"M": 4}
    own = ThroughputModel(model, profiles, counts, prompt_tokens=75, output_tokens=50)

    def limited(round_trip_s: float) -> ThroughputModel:
        return KvLimitedThroughput(model, profiles, counts, 75, 50, round_trip_s=round_trip_s)

    # With 4 layers 5,000 blocks of 16 tokens: 800 requests of 75 + 25 tokens, each worth 125 tokens in 50 round trips.
    assert limited(1000.0).tokens_per_s("M", 4) == pytest.approx(800 * 125 / (50 * 1000.0), rel=1e-12)
    assert limited(1000.0).tokens_per_s("M", 1) == pytest.approx(4 * limited(1000.0).tokens_per_s("M", 4), rel=1e-12)
    assert limited(1e-3).tokens_per_s("M", 4) == own.tokens_per_s("M", 4)
