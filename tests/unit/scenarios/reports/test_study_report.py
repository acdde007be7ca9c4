"""Reports of studies: what they say, of whole and of broken ones, and what a real browser makes of them."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from report_browser import PLOTS, check_page, needs_browser, opened, sorted_column
from study_runs import PRICES, TINY, HereExecutor, tiny_study

from scenarios.errors import ScenarioError
from scenarios.library import find_in_library
from scenarios.reports.definitions import better, figure_of
from scenarios.reports.frame import Page, document, write_page
from scenarios.reports.study_clouds import Dot, bisections, cluster_costs, on_front, pareto
from scenarios.reports.study_data import Axis, Grid, answered, axes_of, curves, differences, grid, measured
from scenarios.reports.study_figures import write_study_figures
from scenarios.reports.study_files import read_study_files, study_file
from scenarios.reports.study_page import study_page, write_study_report
from scenarios.reports.study_plots import heat_map
from scenarios.studies.store import ANSWER, MANIFEST, POINTS, RESULTS, read_frame
from scenarios.studies.study import Study

pytest.importorskip("plotly", reason="reports need plotly (extra report)")

LOAD = "workload.synthetic.requests_per_s"
BANDWIDTH = "cluster.network.regions.0.bandwidth"
EVIL = "</script><script>alert(1)</script><b>$x%{y}"
STUDIES: dict[str, dict[str, Any]] = {
    "sweep": tiny_study(
        scenario={**TINY, "cluster": "small-6-geo", "duration": "10 s"},
        axes={
            "bandwidth": {"path": BANDWIDTH, "values": ["1 Gbit/s", "10 Mbit/s", "100 Mbit/s"]},
            "load": {"path": LOAD, "values": [1, 3]},
        },
        seeds=2,
        prices={**PRICES, "egress_per_gb": 2.0},
    ),
    "compare": tiny_study(
        scenario="quickstart",
        set={"duration": "6 s", "warm_up": "1 s"},
        axes={"planner": ["petals", "uniform", "swarm"], "scheduler": ["max-flow", "random"]},
        seeds=2,
        question={
            "kind": "compare",
            "baseline": {"planner": "petals"},
            "figures": ["decode_throughput_tokens_per_s", "ttft_s.mean"],
        },
    ),
    "max_rate": tiny_study(
        set={"duration": "12 s"},
        axes={"planner": ["petals", "uniform"]},
        seeds=2,
        prices=PRICES,
        question={"kind": "max_rate", "from": 4, "to": 32, "tolerance": 0.5},
    ),
    "min_cost": tiny_study(
        set={"duration": "10 s"},
        axes={"load": {"path": LOAD, "values": [1, 4]}},
        seeds=2,
        prices=PRICES,
        question={
            "kind": "min_cost",
            "clusters": 8,
            "catalogue": {
                "a100": {"machine": "A100", "at_most": 2},
                "l4": {"machine": "L4", "at_most": 3},
                "t4": {"machine": "T4", "at_most": 4, "spot": True},
            },
        },
    ),
    "evil": tiny_study(
        description=EVIL,
        axes={"day": {"variants": {EVIL: {}, "busy": {LOAD: 2.0}, "broken": {"cluster": EVIL}}}},
        prices={**PRICES, "currency": "$"},
    ),
}  # fmt: skip
PLOTS_OF = {"sweep": 9, "compare": 4, "max_rate": 3, "min_cost": 3, "evil": 5}


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("studies")
    for name, study in STUDIES.items():
        Study(study).run(HereExecutor(), out=folder / name)
    return folder


@pytest.fixture(scope="module")
def pages(studies: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    for name in STUDIES:
        write_study_report(read_study_files(studies / name), folder / f"{name}.html")
    return folder


def killed(study: Path, folder: Path, without: tuple[str, object] | None = None) -> Path:
    """A copy of a study as it is when it was killed before its end, without the points that have a certain value."""
    shutil.copytree(study, folder)
    for name in (RESULTS, ANSWER):
        (folder / name).unlink()
    for path in (folder / POINTS).iterdir():
        row = read_frame(path).to_dicts()[0]
        if without is not None and row.get(without[0]) == without[1]:
            path.unlink()
    return folder


def text_of(page: str) -> str:
    """What a reader sees, without scripts and tags."""
    return re.sub(r"<[^>]+>", " ", re.sub(r"<(script|style)[^>]*>.*?</\1>", "", page, flags=re.DOTALL))


# ---------------------------------------------------------------------------------------------------- the figures


def test_curves_are_the_answer_over_the_axis_with_most_values(studies: Path) -> None:
    study = read_study_files(studies / "sweep")
    bandwidth, load = axes_of(study)
    assert bandwidth.labels == ("10 Mbit/s", "100 Mbit/s", "1 Gbit/s")
    assert bandwidth.values == (1.25e6, 1.25e7, 1.25e8)
    assert (bandwidth.log, load.log, load.title) == (True, False, "load, requests/s")
    name = "decode_throughput_tokens_per_s"
    [drawn] = curves(study, figure_of(name), measured(study, name))
    assert (drawn.x, drawn.by) == (bandwidth, load)
    answers = {(row["bandwidth"], row["load"]): row for row in study.answers}
    [panel] = drawn.panels
    assert [line.name for line in panel.lines] == ["1", "3"]
    for line, rate in zip(panel.lines, (1, 3), strict=True):
        assert line.at == (0, 1, 2)
        for label, found in zip(bandwidth.labels, line.found, strict=True):
            row = answers[label, rate]
            assert (found.mean, found.low, found.high) == (row[name], row[f"{name}.low"], row[f"{name}.high"])
    field = grid(study, figure_of(name), measured(study, name))
    assert field is not None
    assert field.panels == {"": tuple(tuple(one.mean for one in line.found) for line in panel.lines)}


def test_axes_that_are_neither_x_nor_lines_are_chosen_from() -> None:
    """Through the data alone: sixteen cells of four axes, each with its number as its figure."""
    axes = {name: {"path": LOAD, "values": [1, 2]} for name in ("a", "b", "c")}
    definition = Study(tiny_study(axes={**axes, "planner": ["petals", "uniform"]})).definition
    cells = definition.cells
    rows = [
        {"point": str(cell.number), "cell": cell.number, "seed": 0, "status": "ok", "f": cell.number} for cell in cells
    ]
    study = _study_of(definition, rows)
    [drawn] = curves(study, figure_of("f"), measured(study, "f"))
    assert [panel.name for panel in drawn.panels] == [
        f"c {c}, planner {planner}" for c in (1, 2) for planner in ("petals", "uniform")
    ]
    shown = [one.mean for panel in drawn.panels for line in panel.lines for one in line.found]
    assert sorted(value for value in shown if value is not None) == list(range(16))
    for panel in drawn.panels:
        for line, b in zip(panel.lines, (1, 2), strict=True):
            for place, found in zip(line.at, line.found, strict=True):
                labels = cells[int(found.mean or 0)].labels
                assert panel.name == f"c {labels['c']}, planner {labels['planner']}"
                assert (labels["a"], labels["b"]) == ((1, 2)[place], b)


def _study_of(definition: Any, rows: list[dict[str, Any]]) -> Any:
    from scenarios.reports.study_files import StudyFiles
    from scenarios.studies.sweep import Sweep

    return StudyFiles(
        path=Path(), manifest={}, question=Sweep(definition), rows=tuple(rows), answers=(), finished=False
    )


def test_a_random_sample_is_dots_over_each_axis_numbers_first() -> None:
    axes = {"planner": ["petals", "uniform"], "load": {"path": LOAD, "range": {"from": 1, "to": 50, "scale": "log"}}}
    definition = Study(tiny_study(axes=axes, sample={"kind": "random", "points": 12})).definition
    rows = [{"cell": cell.number, "seed": 0, "status": "ok", "f": 1.0} for cell in definition.cells]
    study = _study_of(definition, rows)
    drawn = curves(study, figure_of("f"), measured(study, "f"))
    assert [(one.x.name, one.joined) for one in drawn] == [("load", False), ("planner", False)]
    assert all(len(line.at) == 12 for one in drawn for panel in one.panels for line in panel.lines)
    assert grid(study, figure_of("f"), measured(study, "f")) is None


def test_differences_are_those_of_the_answer_without_the_baselines(studies: Path) -> None:
    study = read_study_files(studies / "compare")
    found = differences(study, "ttft_s.mean")
    wanted = [row for row in study.answers if not row["baseline"] and row["ttft_s.mean.difference"] is not None]
    assert [one.mean for _, one in found] == [row["ttft_s.mean.difference"] for row in wanted]
    assert {name for name, _ in found} == {f"planner uniform, scheduler {name}" for name in ("max-flow", "random")}


def test_bisections_show_every_rate_and_whether_it_met(studies: Path) -> None:
    study = read_study_files(studies / "max_rate")
    [cloud] = bisections(study)
    assert cloud.limit == 0.9
    assert set(cloud.panels) == {"planner petals", "planner uniform"}
    dots = [dot for dots in cloud.panels.values() for dot in dots]
    assert len(dots) == len(study.rows)
    assert all(dot.good == (dot.y >= 0.9) for dot in dots)
    assert len({dot.good for dot in dots}) == 2
    for row in study.answers:
        good = [dot.x for dot in cloud.panels[f"planner {row['planner']}"] if dot.good]
        assert max(good) == row["max_rate.max"]
    assert {
        row["planner"]: found.mean
        for row, found in zip(study.answers, answered(study, "max_rate").values(), strict=True)
    } == {row["planner"]: row["max_rate"] for row in study.answers}


def test_points_of_min_cost_cost_what_the_answer_says(studies: Path) -> None:
    """The catalogue says which nodes are spot; points are priced by that, too."""
    study = read_study_files(studies / "min_cost")
    for row in study.rows:
        if row["status"] == "ok":
            assert row["node_cost_per_h"] == pytest.approx(3 * row["a100"] + row["l4"] + 0.2 * row["t4"])
    costs = cluster_costs(study)
    for row in study.answers:
        assert row["t4"] > 0
        assert sum(costs[f"load {row['load']}"].values()) == pytest.approx(row["cost_per_h"])
    cloud = pareto(study)
    assert cloud is not None
    paid = [row["cost_per_h"] for row in study.rows if row["status"] == "ok" and row["load"] == 4]
    assert cloud.panels["load 4"][0].x == pytest.approx(min(paid))


@pytest.mark.parametrize("seed", range(20))
def test_the_front_is_that_of_brute_force(seed: int) -> None:
    import numpy as np

    draws = np.random.default_rng(seed).integers(0, 6, size=(12, 2))
    dots = [Dot(str(number), float(x), float(y)) for number, (x, y) in enumerate(draws)]
    beaten = {
        dot.name
        for dot in dots
        for other in dots
        if other.x <= dot.x and other.y >= dot.y and (other.x, other.y) != (dot.x, dot.y)
    }
    assert {dot.name for dot in on_front(dots) if not dot.good} == beaten
    assert [dot.x for dot in on_front(dots)] == sorted(dot.x for dot in dots)


def test_every_figure_of_a_point_says_which_way_is_better_or_that_none_is() -> None:
    assert [better(name) for name in ("ttft_s.p99", "goodput_requests_per_s", "cost_per_h", "sim_s")] == [-1, 1, -1, 0]
    figure = figure_of("cost_per_million_decode_tokens", "EUR")
    assert (figure.name, figure.unit) == ("cost of decoded tokens", "EUR/M tokens")
    assert (figure_of("ttft_s.p50").name, figure_of("nodes.a-0.utilisation").name) == (
        "TTFT p50",
        "nodes.a-0.utilisation",
    )


# ------------------------------------------------------------------------------------------------------- the page


@pytest.mark.parametrize("name", STUDIES)
def test_the_answer_comes_first_then_plots_and_tables(name: str, pages: Path) -> None:
    text = (pages / f"{name}.html").read_text(encoding="utf-8")
    parts = ["Answer", "What was asked", {"compare": "Study curves", "max_rate": "Bisection"}.get(name, ""), "Points"]
    parts = [part for part in [*parts, "Definitions", "Again"] if part]
    places = [text.index('class="answer"'), *(text.index(f"<h2>{part}</h2>") for part in parts)]
    assert places == sorted(places)
    assert "helixemu study study.yaml" in text
    assert "Partial" not in text_of(text)


def test_what_pages_say(studies: Path, pages: Path) -> None:
    said = {name: text_of((pages / f"{name}.html").read_text(encoding="utf-8")) for name in STUDIES}
    for part in ("Most decode throughput: ", "at bandwidth", "A100 3, L4 1, T4 0.5 (spot 0.2)", "6, as a grid"):
        assert part in said["sweep"]
    for part in ("compare with planner petals", "duration 6 s", "Decode throughput of planner uniform against"):
        assert part in said["compare"]
    assert "planner swarm: no cell has a difference" in said["compare"]
    assert "4 of 12 points failed" in said["compare"]
    assert "3 nodes are missing" in said["compare"]
    best = max(read_study_files(studies / "max_rate").answers, key=lambda row: row["max_rate"])
    assert f"Greatest rate that meets the conditions: {best['max_rate']:.4g}" in said["max_rate"]
    for row in read_study_files(studies / "min_cost").answers:
        cluster = " + ".join(f"{row[name]} {name}" for name in ("a100", "l4", "t4") if row[name])
        assert f"Load {row['load']}: {cluster} for {row['cost_per_h']:.4g} EUR/h" in said["min_cost"]
    assert "limited by compute" in said["min_cost"]


def test_the_page_holds_the_study_that_gives_the_same_points(studies: Path, pages: Path) -> None:
    study = read_study_files(studies / "sweep")
    again = Study(study_file(study.manifest)).run(HereExecutor())
    assert [row["point"] for row in again.rows] == [
        row["point"] for row in Study(STUDIES["sweep"]).run(HereExecutor()).rows
    ]
    assert {row["point"] for row in again.rows} == {row["point"] for row in study.rows}
    assert "cluster: small-6-geo" in (pages / "sweep.html").read_text(encoding="utf-8")


def test_a_study_of_the_library_is_repeated_by_its_name(studies: Path, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    shutil.copytree(studies / "sweep", folder)
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    manifest["source"] = str(find_in_library("study", "geo-links"))
    (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    assert "helixemu study geo-links\n" in study_page(read_study_files(folder)).replace("</pre>", "\n")


def test_untrusted_text_stays_text(pages: Path) -> None:
    text = (pages / "evil.html").read_text(encoding="utf-8")
    assert EVIL not in text
    assert "<script>alert" not in text
    assert "alert(1)" in text


def test_the_same_study_gives_the_same_file(studies: Path, pages: Path) -> None:
    page = study_page(read_study_files(studies / "min_cost"))
    assert page == (pages / "min_cost.html").read_text(encoding="utf-8")


# ----------------------------------------------------------------------------------------------------- unfinished


@pytest.mark.parametrize("name", ["sweep", "compare", "max_rate", "min_cost"])
def test_points_alone_give_the_answer_of_the_whole_study(name: str, studies: Path, tmp_path: Path) -> None:
    whole, rest = read_study_files(studies / name), read_study_files(killed(studies / name, tmp_path / "killed"))
    assert whole.finished
    assert not rest.finished
    assert {row["point"] for row in rest.rows} == {row["point"] for row in whole.rows}
    # What is left to try, and how one that could not run failed, only the search itself knows.
    loose = ("status", "error") if name == "min_cost" else ()
    assert [_without(row, loose) for row in rest.answers] == [_without(row, loose) for row in whole.answers]


def _without(row: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in names}


@pytest.mark.parametrize(
    ("name", "without", "said"),
    [
        ("sweep", ("load", 3), "6 of 12 points are done"),
        ("sweep", ("seed", 0), "6 of 12 points are done"),
        ("compare", ("planner", "petals"), "8 of 12 points are done"),
        ("max_rate", ("planner", "uniform"), "points are done, and 2 of 4 bisections have come to their end"),
        ("max_rate", ("rate", 16), "points are done, and 0 of 4 bisections have come to their end"),
        ("min_cost", ("load", 4), "no search of the 2 is known to be complete"),
    ],
)
def test_a_study_that_was_killed_is_reported_as_far_as_it_came(
    name: str, without: tuple[str, object], said: str, studies: Path, tmp_path: Path
) -> None:
    page = study_page(read_study_files(killed(studies / name, tmp_path / "killed", without)))
    assert re.search(rf"Partial: .* {said}", text_of(page))
    assert "--resume" in page
    assert page.index("Partial:") < page.index('class="answer"')


def test_a_damaged_point_is_left_out_and_told(studies: Path, tmp_path: Path) -> None:
    folder = killed(studies / "sweep", tmp_path / "killed")
    damaged = min((folder / POINTS).iterdir())
    damaged.write_bytes(damaged.read_bytes()[:150])
    study = read_study_files(folder)
    assert study.damaged == (damaged,)
    assert len(study.rows) == 11
    assert "Damaged files of points: 1" in study_page(study)


def test_points_of_an_earlier_form_of_the_study_are_left_out(studies: Path, tmp_path: Path) -> None:
    """Resumed with other axes, a study's directory has points of both, and no answer until it has finished."""
    folder = tmp_path / "study"
    shutil.copytree(studies / "sweep", folder)
    study = json.loads(json.dumps(STUDIES["sweep"]))
    study["axes"]["load"]["values"] = [1, 4]

    def stop(progress: Any) -> None:
        if progress.done > 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Study(study).run(HereExecutor(), out=folder, resume=True, on_progress=stop)
    assert not (folder / ANSWER).exists()
    found = read_study_files(folder)
    assert not found.finished
    assert found.strays == 6
    assert {row["load"] for row in found.rows} <= {1, 4}
    assert "6 points of an earlier form" in study_page(found)


# ----------------------------------------------------------------------------------------------------- bad input


def _empty(folder: Path) -> None:
    for path in (folder / POINTS).iterdir():
        path.unlink()
    for name in (RESULTS, ANSWER):
        (folder / name).unlink()


def _cut(name: str, length: int) -> Any:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:length])


def _other_table(folder: Path) -> None:
    (folder / RESULTS).write_bytes((folder / ANSWER).read_bytes())


@pytest.mark.parametrize(
    ("spoil", "rule"),
    [
        (_empty, "no finished points yet"),
        (_cut(RESULTS, 200), r"results\.parquet: it is damaged"),
        (_cut(ANSWER, 0), r"answer\.parquet: it is damaged"),
        (_cut(MANIFEST, 60), r"study\.json: this is no JSON"),
        (lambda folder: (folder / MANIFEST).write_text("[]"), "no JSON object"),
        (lambda folder: (folder / MANIFEST).write_text("{}"), "study is missing"),
        (lambda folder: (folder / MANIFEST).write_text('{"study": {"a": 1}, "scenario": {}}'), "none of this version"),
        (lambda folder: (folder / MANIFEST).unlink(), "no study directory"),
        (_other_table, "not those of a study"),
    ],
    ids=["empty", "results-cut", "answer-cut", "manifest-cut", "list", "object", "schema", "none", "other-table"],
)
def test_what_is_no_study_is_refused(spoil: Any, rule: str, studies: Path, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    shutil.copytree(studies / "sweep", folder)
    spoil(folder)
    with pytest.raises(ScenarioError, match=rule) as caught:
        read_study_files(folder)
    assert all(problem.remedy for problem in caught.value.problems)


# -------------------------------------------------------------------------------------------------------- figures


@pytest.mark.parametrize(
    ("name", "suffix", "files"),
    [
        ("sweep", ".svg", ["decode_throughput_tokens_per_s", "decode_throughput_tokens_per_s-map", "pareto"]),
        ("compare", ".png", ["ttft_s.mean", "ttft_s.mean-difference"]),
        ("max_rate", ".png", ["max_rate", "bisection-slo_attainment-1", "bisection-slo_attainment-2", "pareto"]),
        ("min_cost", ".svg", ["cost_per_h", "clusters", "pareto-1", "pareto-2"]),
        ("evil", ".png", ["ttft_s.p50", "pareto"]),
    ],
)
def test_figures_for_papers(name: str, suffix: str, files: list[str], studies: Path, tmp_path: Path) -> None:
    written = write_study_figures(read_study_files(studies / name), tmp_path, suffix)
    assert set(files) <= {path.name.removesuffix(suffix) for path in written}
    for path in written:
        start = path.read_bytes()[:200]
        assert start.startswith(b"\x89PNG") if suffix == ".png" else b"<?xml" in start
        assert path.stat().st_size > 5_000


# ------------------------------------------------------------------------------------------------------ a browser


@needs_browser
@pytest.mark.parametrize(
    ("name", "width"), [*((name, width) for name in STUDIES if name != "evil" for width in (1280, 400)), ("evil", 400)]
)
def test_in_a_browser(name: str, width: int, browser: Any, pages: Path) -> None:
    check_page(browser, pages / f"{name}.html", width, plots=PLOTS_OF[name])


@needs_browser
def test_what_is_chosen_is_what_is_seen(browser: Any, pages: Path) -> None:
    opened(browser, pages / "max_rate.html", 1280)
    script = """
      const place = document.getElementById(document.querySelector("select[data-plot]").dataset.plot);
      const list = document.querySelector("select[data-plot]");
      list.value = arguments[0];
      list.dispatchEvent(new Event("change"));
      return [list.selectedOptions[0].textContent, place.data.map(trace => trace.visible)]"""
    assert browser.execute_script(script, "1") == ["planner uniform", [False, False, True, True]]
    assert all(plot["marks"] > 0 for plot in browser.execute_script(PLOTS))
    assert browser.execute_script(script, "0") == ["planner petals", [True, True, False, False]]
    assert browser.get_log("browser") == []


@needs_browser
def test_quantities_are_sorted_by_what_they_come_to(browser: Any, pages: Path) -> None:
    opened(browser, pages / "sweep.html", 400)
    for order, wanted in (("descending", [1.25e8, 1.25e7, 1.25e6]), ("ascending", [1.25e6, 1.25e7, 1.25e8])):
        for table in ("the answer", "all points"):
            claimed, cells = sorted_column(browser, table, "bandwidth")
            assert claimed == order
            assert list(dict.fromkeys(map(float, cells))) == wanted


@needs_browser
@pytest.mark.parametrize(("width", "written"), [(1280, 24), (400, 0)])
def test_a_wide_map_has_figures_where_they_can_be_read(width: int, written: int, browser: Any, tmp_path: Path) -> None:
    across = tuple(10.0**step for step in range(12))
    x = Axis(name="rate", title="rate", labels=across, values=across)
    y = Axis(name="load", title="load", labels=(1, 2), values=(1.0, 2.0))
    rows = tuple(tuple(load * value for value in across) for load in (0.001, 0.002))
    page = Page()
    page.plot(heat_map(Grid(figure=figure_of("ttft_s.p50"), x=x, y=y, panels={"": rows})).figure, "map")
    write_page(document("map", page), tmp_path / "map.html")
    check_page(browser, tmp_path / "map.html", width, plots=1)
    count = "return document.querySelectorAll('.heatmap-label text').length"
    assert browser.execute_script(count) == written
