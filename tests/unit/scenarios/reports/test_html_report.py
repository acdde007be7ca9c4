"""Reports: what is in the file, and what a real browser makes of it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from report_browser import check_page, colours, needs_browser, opened, sorted_column

from scenarios.errors import ScenarioError
from scenarios.reports.figures import write_figures
from scenarios.reports.page import write_report
from scenarios.reports.run_files import read_run
from scenarios.reports.series import bins, cumulative, run_series

pytest.importorskip("plotly", reason="reports need plotly (extra report)")


@pytest.fixture(scope="module")
def reports(hops_run: Path, churn_run: Path, requests_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reports")
    for run in (hops_run, churn_run, requests_run):
        write_report(read_run(run), folder / f"{run.name}.html")
    return folder


# -- the figures -------------------------------------------------------------------------------


@pytest.mark.parametrize("run", ["hops_run", "requests_run"])
def test_throughput_over_time_adds_up_to_the_summary(run: str, request: pytest.FixtureRequest) -> None:
    """From batches exactly but for tokens under way; from the requests as near as even spreading comes."""
    files = read_run(request.getfixturevalue(run))
    series = run_series(files).throughput
    widths = series.edges_s[1:] - series.edges_s[:-1]
    inside = series.edges_s[:-1] >= files.window[0] - 1e-9
    decoded = float((series.decode_tokens_per_s * widths)[inside].sum())
    told = files.summary["decode_throughput_tokens_per_s"] * files.summary["window_s"]
    assert decoded == pytest.approx(told, rel=0.03)
    assert series.exact is (run == "hops_run")


def test_busy_shares_add_up_to_utilisation(hops_run: Path) -> None:
    run = read_run(hops_run)
    nodes = run_series(run).over_time
    assert nodes is not None
    widths = nodes.edges_s[1:] - nodes.edges_s[:-1]
    inside = nodes.edges_s[:-1] >= run.window[0] - 1e-9
    for name, row in zip(nodes.nodes, nodes.busy, strict=True):
        busy = float((row * widths)[inside].sum()) / run.summary["window_s"]
        assert busy == pytest.approx(run.summary["nodes"][name]["utilisation"], abs=0.02)
        assert row.max() <= 1 + 1e-9


def test_the_max_flow_follows_the_churn(churn_run: Path) -> None:
    run = read_run(churn_run)
    series = run_series(run).throughput
    timeline = run.summary["churn"]["timeline"]
    assert series.flow_tokens_per_s[0] == timeline[0]["max_flow_tokens_per_s"] > 0
    assert 0.0 in series.flow_tokens_per_s
    assert list(series.flow_s) == sorted(series.flow_s)


def test_bins_are_round_and_end_with_the_run() -> None:
    for end in (1.0, 59.0, 60.0, 600.0, 3601.5, 86_400.0):
        edges = bins(end)
        assert edges[0] == 0
        assert edges[-1] == end
        assert len(edges) <= 250
        assert (edges[1:] > edges[:-1]).all()


def test_cumulative_distributions_are_short_and_rise() -> None:
    import numpy as np

    values = np.sort(np.random.default_rng(0).exponential(size=5_000))
    xs, shares = cumulative(values)
    assert len(xs) == 400
    assert (np.diff(xs) >= 0).all()
    assert (xs[0], xs[-1], shares[-1]) == (values[0], values[-1], 1.0)


# -- the file ----------------------------------------------------------------------------------


def test_the_report_says_what_was_asked_and_the_answer_first(hops_run: Path, reports: Path) -> None:
    text = (reports / "hops.html").read_text(encoding="utf-8")
    summary = read_run(hops_run).summary
    decode = f"It decoded {summary['decode_throughput_tokens_per_s']:,.1f} tokens/s"
    parts = ("What was asked", "Throughput over time", "Latencies", "Cluster and placement", "Figures", "Again")
    places = [text.index(part) for part in (decode, *(f"<h2>{part}</h2>" for part in parts))]
    assert places == sorted(places)
    for part in (summary["event_log_sha256"], "helixemu run ", "Seed 0", "The compute of l4-0", "closed loop with 12"):
        assert part in text
    assert "(E2E - TTFT) / (output tokens - 1)" in text


def test_the_report_names_no_other_file(reports: Path) -> None:
    """Outside of plotly's own script nothing is loaded from anywhere."""
    text = (reports / "churn.html").read_text(encoding="utf-8")
    own = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!data:|#)""", own.replace("xlink:href", "href"))
    assert "Content-Security-Policy" in own


def test_a_name_that_is_html_stays_text(hops_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(hops_run, run)
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    evil = "</script><script>alert(1)</script><b>"
    summary["scenario"] = evil
    summary["nodes"] = {f"{name}{evil}": value for name, value in summary["nodes"].items()}
    (run / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    write_report(read_run(run), run / "report.html")
    text = (run / "report.html").read_text(encoding="utf-8")
    assert evil not in text
    assert "<script>alert" not in text


def test_the_same_run_gives_the_same_file(requests_run: Path, reports: Path, tmp_path: Path) -> None:
    write_report(read_run(requests_run), tmp_path / "again.html")
    assert (tmp_path / "again.html").read_bytes() == (reports / "requests.html").read_bytes()


def test_a_run_whose_scenario_does_not_load_any_more_says_so(requests_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(requests_run, run)
    text = (run / "scenario.yaml").read_text(encoding="utf-8")
    (run / "scenario.yaml").write_text(text + "no_such_field: 1\n", encoding="utf-8")
    write_report(read_run(run), run / "report.html")
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "does not load now" in page
    assert "no_such_field" in page


def test_requests_csv_of_something_else_is_refused(requests_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(requests_run, run)
    (run / "requests.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(ScenarioError, match=r"requests\.csv:1: the columns"):
        write_report(read_run(run), run / "report.html")


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_figures_for_papers(suffix: str, churn_run: Path, tmp_path: Path) -> None:
    written, missing = write_figures(read_run(churn_run), tmp_path, suffix)
    assert missing == []
    assert [path.stem for path in written] == ["throughput", "latencies", "nodes", "links", "placement"]
    for path in written:
        start = path.read_bytes()[:200]
        assert start.startswith(b"\x89PNG") if suffix == ".png" else b"<?xml" in start
        assert path.stat().st_size > 5_000


# -- a browser ---------------------------------------------------------------------------------


@needs_browser
@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("name", ["hops", "churn", "requests"])
def test_in_a_browser(name: str, width: int, browser: Any, reports: Path) -> None:
    check_page(browser, reports / f"{name}.html", width, plots=9 if name != "requests" else 7)


@needs_browser
def test_the_picture_on_the_screen_is_not_blank(browser: Any, reports: Path) -> None:
    opened(browser, reports / "churn.html", 1280)
    for element in ("#plot-1", "#plot-6", ".picture"):
        assert colours(browser, element) > 20, element


@needs_browser
def test_tables_can_be_sorted(browser: Any, reports: Path) -> None:
    opened(browser, reports / "hops.html", 1280)
    for order in ("descending", "ascending"):
        claimed, cells = sorted_column(browser, "nodes", "utilisation")
        values = [float(cell) for cell in cells]
        assert claimed == order
        assert values == sorted(values, reverse=order == "descending")
        assert len(values) == 6
