"""The derived profiles: formula by hand, against measured profiles, and the files that ship."""

import re

import numpy as np
import pytest
import yaml

from placement.plan import problem_for
from scenarios.library import library_folder
from scenarios.loader import load_scenario
from scenarios.roofline import (
    CARDS,
    MEASURED,
    MODELS,
    Card,
    Transformer,
    decode_ms,
    generate,
    main,
    most_layers,
    prefill_ms,
    ridge,
)

LLAMA = MODELS[0]
LIBRARY = library_folder()
MEASURED_CARDS = {
    "a100": Card(name="A100", title="", memory="HBM", vram_gb=40, memory_gb_per_s=1555, matrix_tflops=312),
    "v100": Card(name="V100", title="", memory="HBM", vram_gb=16, memory_gb_per_s=900, matrix_tflops=125),
    "l4": Card(name="L4", title="", memory="GDDR", vram_gb=24, memory_gb_per_s=300, matrix_tflops=121),
    "t4": Card(name="T4", title="", memory="GDDR", vram_gb=16, memory_gb_per_s=320, matrix_tflops=65),
}
"""Data sheets of the machines that were measured."""


def test_the_model_is_the_published_one():
    # 67.1 M each for query and output, 8.4 M each for key and value, 704.6 M for the MLP, 2 norms of 8,192.
    assert LLAMA.parameters == 2 * 67_108_864 + 2 * 8_388_608 + 704_643_072 + 16_384 == 855_654_400
    # 80 of them, embeddings and output head are the 70.6 billion parameters of the model card.
    assert 80 * LLAMA.parameters + 2 * 128_256 * 8_192 + 8_192 == pytest.approx(70.6e9, rel=1e-3)
    assert LLAMA.kv_bytes == 4096


def test_times_by_hand():
    card = Card(name="x", title="", memory="HBM", vram_gb=100, memory_gb_per_s=1000, matrix_tflops=100)
    small = Transformer(name="s", title="", layers=4, hidden=1000, intermediate=0, heads=10, kv_heads=10, source="")
    assert small.parameters == 4_002_000
    # 8 MB over 700 GB/s; 75 TFLOPS.
    reading = 8.004e6 / 700e9 * 1e3
    assert decode_ms(small, card, 1) == pytest.approx(reading + 870 * 4000 / 700e9 * 1e3)
    assert prefill_ms(small, card, 1) == reading
    assert prefill_ms(small, card, 10_000) == pytest.approx(10_000 * (8.004e6 + 2 * 870 * 1000) / 75e12 * 1e3)
    assert ridge(small, card) == 108  # 75 TFLOPS / 700 GB/s = 107.1 flops a byte, and a 16-bit weight takes one a byte
    assert most_layers(small, card) == 4
    assert most_layers(LLAMA, card) == int(45e9 // 1_711_308_800) == 26


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_the_knots_say_what_the_formula_says(card):
    profile = yaml.safe_load((LIBRARY / "profiles" / LLAMA.name / f"{card.name.lower()}.yaml").read_text())
    for phase, formula in (("prefill", prefill_ms), ("decode", decode_ms)):
        sizes, times = np.array(profile[f"{phase}_ms_per_layer"][1:]).T
        tried = np.unique(np.linspace(1, sizes[-1], 200).round())
        said = np.interp(tried, sizes, times)
        assert said == pytest.approx([formula(LLAMA, card, n) for n in tried], rel=5e-3)


def test_the_formula_is_as_far_from_measurements_as_it_says():
    shape = Transformer(
        name="llama-2-70b", title="", layers=80, hidden=8192, intermediate=28672, heads=64, kv_heads=8, source=""
    )
    off, medians = [], {"prefill": {}, "decode": {}}
    for name, card in MEASURED_CARDS.items():
        profile = yaml.safe_load((LIBRARY / "profiles/llama-2-70b" / f"{name}.yaml").read_text())
        for phase, formula in (("prefill", prefill_ms), ("decode", decode_ms)):
            ratios = [formula(shape, card, n) / ms for n, ms in profile[f"{phase}_ms_per_layer"] if n > 1]
            medians[phase][name] = np.median(ratios)
            off += [max(ratio, 1 / ratio) for ratio in ratios]
    median, most, worst, *_ = np.percentile(off, [50, 90, 100])
    assert f"{median:.2f}" == re.search(r"factor of (\S+) in the median", MEASURED)[1]
    assert most < 1.5
    assert f"{worst:.1f} times" in MEASURED
    assert max(abs(ratio - 1) for ratio in medians["prefill"].values()) < 0.06
    slower = [1 - ratio for ratio in medians["decode"].values()]
    assert (f"{min(slower):.0%}", f"{max(slower):.0%}") == ("8%", "26%")
    assert "8 to 26 % too fast" in MEASURED


def test_the_command_writes_the_shipped_files_again(tmp_path):
    written = generate(tmp_path)
    assert len(written) == len(CARDS) * 2 + 1
    for path in written:
        assert path.read_text() == (LIBRARY / path.relative_to(tmp_path)).read_text()


def test_every_derived_profile_says_that_it_is_derived():
    for path in (LIBRARY / "profiles" / LLAMA.name).glob("*.yaml"):
        profile = yaml.safe_load(path.read_text())
        assert profile["source"].startswith("Derived, not measured:")
        assert profile["accuracy"].startswith("Derived, not measured.")
        assert "data sheet" in profile["source"]


def test_faster_cards_serve_more():
    spec = load_scenario("modern-20-70b").spec
    throughput = problem_for(spec.cluster, spec.model, spec.profiles).throughput
    rates = [throughput.tokens_per_s(kind, 8) for kind in ("H200", "H100", "A100-80G", "L40S")]
    assert rates == sorted(rates, reverse=True)


def test_a_folder_that_cannot_be_written_is_an_error_without_a_traceback(tmp_path, capsys):
    (tmp_path / "machines").write_text("in the way")
    assert main([str(tmp_path)]) == 2
    assert "machines" in capsys.readouterr().err
