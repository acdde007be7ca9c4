import math

import numpy as np
import pytest

from netshape.conditions import DISTRIBUTIONS, Distribution, GilbertElliottLoss, IndependentLoss, Jitter
from netshape.draws import MAX_ROUNDS, JitterDraws, LossDraws, UniformDraws
from netshape.randomness import generator

DEVIATION = {"uniform": 0.002 / math.sqrt(3), "normal": 0.002, "pareto": 0.002}
MEDIAN = {"uniform": 0.0, "normal": 0.0, "pareto": 0.002 * (2 ** (1 / 3) - 1.5) / (math.sqrt(3) / 2)}


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("correlation", [0.0, 0.6])
def test_jitter_has_the_distribution_it_says(distribution: Distribution, correlation: float) -> None:
    jitter = Jitter(distribution=distribution, spread_s=0.002, correlation=correlation)
    draw = JitterDraws(jitter, generator(1, "jitter test"))
    values = np.array([draw() for _ in range(60_000)])
    assert np.median(values) == pytest.approx(MEDIAN[distribution], abs=0.0001)
    assert values.mean() == pytest.approx(0.0, abs=0.0001)
    if distribution == "pareto":
        assert values.min() >= -0.002 * 0.5 / (math.sqrt(3) / 2) - 1e-12
        # The tail falls with the cube of the distance from the distribution's own zero: by 8 per octave.
        zero = -0.002 * 1.5 / (math.sqrt(3) / 2)
        octaves = [np.mean(values - zero > level) for level in (0.004, 0.008)]
        assert octaves[0] / octaves[1] == pytest.approx(8, rel=0.25)
    else:
        assert values.std() == pytest.approx(DEVIATION[distribution], rel=0.03)
    ranks = values.argsort().argsort()
    assert np.corrcoef(ranks[:-1], ranks[1:])[0, 1] == pytest.approx(correlation, abs=0.03)


def test_uniform_jitter_stays_within_its_spread() -> None:
    for correlation in (0.0, 0.9):
        draw = JitterDraws(Jitter(spread_s=0.01, correlation=correlation), generator(2, "jitter test"))
        assert max(abs(draw()) for _ in range(10_000)) <= 0.01


def test_independent_losses_and_rounds() -> None:
    draws = LossDraws(IndependentLoss(probability=0.02), generator(3, "loss test"))
    assert np.mean([draws.lost() for _ in range(100_000)]) == pytest.approx(0.02, rel=0.08)
    rounds = [draws.rounds(50) for _ in range(40_000)]
    for most in range(3):
        expected = (1 - 0.02 ** (most + 1)) ** 50
        assert np.mean([count <= most for count in rounds]) == pytest.approx(expected, abs=0.01)
    hopeless = LossDraws(IndependentLoss(probability=0.9999999), generator(3, "loss test"))
    assert hopeless.rounds(10**6) == MAX_ROUNDS


def test_bursts_have_the_length_and_the_share_they_say() -> None:
    loss = GilbertElliottLoss(to_bad=0.01, to_good=0.2, loss_bad=1.0)
    draws = LossDraws(loss, generator(4, "loss test"))
    lost = np.array([draws.lost() for _ in range(400_000)])
    assert lost.mean() == pytest.approx(loss.mean_probability, rel=0.06)
    starts = np.count_nonzero(lost[1:] & ~lost[:-1])
    assert lost.sum() / starts == pytest.approx(5.0, rel=0.06)
    assert starts / len(lost) == pytest.approx(loss.event_probability, rel=0.06)


def test_a_burst_hits_few_messages_but_those_hard() -> None:
    bursts = GilbertElliottLoss(to_bad=0.0005, to_good=0.1)
    independent = IndependentLoss(probability=bursts.mean_probability)
    shares = {}
    for loss in (bursts, independent):
        draws = LossDraws(loss, generator(5, "loss test"))
        shares[type(loss)] = np.mean([draws.rounds(20) > 0 for _ in range(150_000)])
    # A message of 20 packets meets no burst when the first meets none and none begins after it.
    none_bursts = (1 - bursts.bad_share) * (1 - 0.0005) ** 19
    assert shares[GilbertElliottLoss] == pytest.approx(1 - none_bursts, rel=0.1)
    assert shares[IndependentLoss] == pytest.approx(1 - (1 - independent.probability) ** 20, rel=0.1)


def test_a_message_of_many_packets_is_drawn_in_bounded_steps() -> None:
    draws = LossDraws(GilbertElliottLoss(to_bad=0.5, to_good=0.5, loss_bad=0.5), generator(6, "loss test"))
    assert 1 <= draws.rounds(10**9) <= MAX_ROUNDS


def test_draws_hang_on_seed_and_name_alone() -> None:
    def first(seed: int, name: str) -> list[float]:
        draw = UniformDraws(generator(seed, name))
        return [draw() for _ in range(300)]

    assert first(1, "a") == first(1, "a")
    assert first(1, "a") != first(2, "a")
    assert first(1, "a") != first(1, "b")
