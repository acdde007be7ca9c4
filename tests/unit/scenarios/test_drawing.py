"""Pictures of plans: what goes where, and that what is written can be read."""

import itertools
import xml.etree.ElementTree as ET

import pytest
from matplotlib.text import Text
from small_clusters import FixedThroughput, ranges, small_cluster, small_model, small_node, small_profile
from typer.testing import CliRunner

from placement.cluster import Cluster
from placement.layers import LayerRange
from placement.plan import Problem, finish_plan, problem_for
from placement.planners import planner
from scenarios.cli import app
from scenarios.drawing import draw_placement, placement_figure, require_drawable
from scenarios.drawing_layout import lay_out
from scenarios.drawing_traces import draw_traces, traces_figure
from scenarios.errors import ScenarioError
from scenarios.planning import plan_scenario


def two_lanes():
    """a [0, 4) feeds b [4, 6) and, in its middle, c [3, 6); b and c end the model of 6 layers."""
    problem = Problem(
        cluster=small_cluster([small_node("a", "A"), small_node("b", "B"), small_node("c", "B")]),
        model=small_model(6),
        profiles={"A": small_profile("A", 4), "B": small_profile("B", 3)},
        throughput=FixedThroughput({"A": 100.0, "B": 50.0}),
    )
    placement = ranges(a=(0, 4), b=(4, 6), c=(3, 6))
    return problem, finish_plan(problem, placement, planner="hand", started_s=0.0)


def test_rows_streams_and_gutters():
    problem, plan = two_lanes()
    layout = lay_out(plan, problem.cluster, problem.model, problem.throughput)
    assert [(row.names, row.held, row.flow, row.capacity) for row in layout.rows] == [
        (("a",), LayerRange(0, 4), 100.0, 100.0),
        (("c",), LayerRange(3, 6), 50.0, 50.0),
        (("b",), LayerRange(4, 6), 50.0, 50.0),
    ]
    named = [
        (one.source and one.source.label, one.target and one.target.label, one.layer, one.tokens_per_s)
        for one in layout.streams
    ]
    assert sorted(named, key=str) == sorted(
        [(None, "a", 0, 100.0), ("a", "b", 4, 50.0), ("a", "c", 4, 50.0), ("b", None, 6, 50.0), ("c", None, 6, 50.0)],
        key=str,
    )
    assert layout.boundaries == (4,)
    assert (layout.before(4), layout.after(4)) == (4.0, 4.0 + layout.gutter)
    assert (layout.before(0), layout.after(0), layout.width) == (0.0, 0.0, 6.0 + layout.gutter)
    assert layout.layer_capacity == (100.0, 100.0, 100.0, 150.0, 100.0, 100.0)
    assert layout.types == {"A": 1, "B": 2}
    assert [row.cut for row in layout.rows] == [("compute",), (), ()]


def test_regions_lie_apart_in_the_order_of_their_layers():
    loaded = plan_scenario("helix-24-geo-70b", planner="blocks")
    spec, plan = loaded.spec, loaded.plan
    layout = lay_out(plan, spec.cluster, spec.model, problem_for(spec.cluster, spec.model, spec.profiles).throughput)
    starts = {row.region: [one.held.start for one in layout.rows if one.region == row.region] for row in layout.rows}
    means = [sum(starts[region]) / len(starts[region]) for region, _, _ in layout.bands]
    assert len(means) == 3
    assert means == sorted(means)
    for (_, _, bottom), (_, top, _) in itertools.pairwise(layout.bands):
        assert bottom < top
    for row in layout.rows:
        (band,) = [band for band in layout.bands if band[0] == row.region]
        assert band[1] < row.y < band[2]
    assert {stream.crossing for stream in layout.streams} == {False, True}
    entering = sum(stream.tokens_per_s for stream in layout.streams if stream.source is None)
    assert entering == pytest.approx(plan.flow.tokens_per_s)


def test_many_nodes_alike_share_a_row():
    nodes = [small_node(f"n{index}", region="ab"[index // 40]) for index in range(80)]
    network = small_cluster(nodes[:1]).network
    regions = {(x, y): network.regions["default", "default"] for x in ["default", *"ab"] for y in ["default", *"ab"]}
    cluster = Cluster(
        name="many",
        nodes=tuple(nodes),
        coordinator=small_cluster(nodes[:1]).coordinator,
        network=type(network)(regions=regions),
    )
    problem = Problem(
        cluster=cluster,
        model=small_model(2),
        profiles={"M": small_profile("M", 1)},
        throughput=FixedThroughput({"M": 1.0}),
    )
    placement = ranges(**{node.name: (index % 2, index % 2 + 1) for index, node in enumerate(nodes)})
    plan = finish_plan(problem, placement, planner="hand", started_s=0.0)
    layout = lay_out(plan, cluster, problem.model, problem.throughput)
    assert [(row.region, row.held.start, len(row.names), row.capacity) for row in layout.rows] == [
        ("a", 0, 20, 20.0), ("a", 1, 20, 20.0), ("b", 0, 20, 20.0), ("b", 1, 20, 20.0),
    ]  # fmt: skip
    assert layout.rows[0].label == "n0 +19"
    assert sum(row.flow for row in layout.rows if row.held.start == 0) == pytest.approx(40.0)


def texts_of(figure):
    """Every text that is drawn, with its box in pixels."""
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    return [
        (text.get_text(), text.get_window_extent(renderer))
        for text in figure.findobj(Text)
        if text.get_visible() and text.get_text().strip()
    ]


@pytest.mark.parametrize(
    ("scenario", "name"),
    [("helix-10-30b", "blocks"), ("helix-24-geo-70b", "petals"), ("helix-42-70b", "swarm"), ("helix-42-70b", "petals")],
)
def test_no_text_overlaps_another_or_leaves_the_picture(scenario, name):
    loaded = plan_scenario(scenario, planner=name)
    figure = placement_figure(loaded.plan, loaded.spec)
    texts = texts_of(figure)
    page = figure.bbox
    names = [text for text, _ in texts]
    assert set(loaded.plan.placement) <= set(names)
    assert {str(held) for held in loaded.plan.placement.ranges.values()} <= set(names)
    for text, box in texts:
        inside = page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1
        assert inside, f"{text!r} leaves the picture"
    for (one, a), (other, b) in itertools.combinations(texts, 2):
        # A pixel of a letter's box is white.
        apart = a.x1 <= b.x0 + 1 or b.x1 <= a.x0 + 1 or a.y1 <= b.y0 + 1 or b.y1 <= a.y0 + 1
        assert apart, f"{one!r} lies over {other!r}"


def test_an_svg_has_its_text_and_is_the_same_each_time(tmp_path):
    loaded = plan_scenario("helix-24-geo-70b", planner="blocks")
    for name in ("one.svg", "two.svg"):
        draw_placement(loaded.plan, loaded.spec, tmp_path / name)
    content = (tmp_path / "one.svg").read_text()
    assert content == (tmp_path / "two.svg").read_text()
    words = ["".join(one.itertext()).strip() for one in ET.fromstring(content).iter("{http://www.w3.org/2000/svg}text")]
    assert {"a100-0", "t4-c-3", "region b", "in the minimum cut", "between regions", "4 A100"} <= set(words)
    assert any("1,754.4 tokens/s" in word for word in words)


def test_links_and_cards_in_the_cut_are_marked():
    nodes = [small_node("a", nic=1e12), small_node("b", nic=1e12)]
    problem = Problem(
        cluster=small_cluster(nodes, bandwidth=5e2, coordinator_nic=20.0),
        model=small_model(2),
        profiles={"M": small_profile("M", 1)},
        throughput=FixedThroughput({"M": 100.0}),
    )
    plan = finish_plan(problem, ranges(a=(0, 1), b=(1, 2)), planner="hand", started_s=0.0)
    layout = lay_out(plan, problem.cluster, problem.model, problem.throughput)
    # 500 bytes/s are 5 tokens/s between nodes.
    assert plan.flow.tokens_per_s == 5.0
    assert [(one.layer, one.cut) for one in layout.streams if one.cut] == [(1, True)]
    assert not layout.coordinator_cut


def test_a_trace_shows_each_planner(tmp_path):
    plans = [plan_scenario("helix-24-geo-70b", planner=name).plan for name in ("blocks", "petals", "swarm")]
    texts = texts_of(traces_figure(plans, "three planners"))
    for name in ("blocks, optimal", "petals, heuristic", "swarm, heuristic"):
        assert any(text.startswith(name) for text, _ in texts)
    draw_traces(plans, "three planners", tmp_path / "trace.png")
    assert (tmp_path / "trace.png").read_bytes().startswith(b"\x89PNG")
    draw_traces(plans[1:2], "one rule without a trace", tmp_path / "rule.pdf")
    assert (tmp_path / "rule.pdf").read_bytes().startswith(b"%PDF")


def test_other_endings_and_a_missing_matplotlib_are_said(monkeypatch):
    with pytest.raises(ScenarioError, match=r'a.gif: --draw: ".gif": pictures end with .svg, .png, .pdf'):
        require_drawable("a.gif", "--draw")
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(
        ScenarioError, match=r"matplotlib, which is not installed.*pip install 'helix-emulator\[report\]'"
    ):
        require_drawable("a.svg", "--draw")


def test_the_command_draws(tmp_path):
    drawn, traced = tmp_path / "plan.svg", tmp_path / "trace.png"
    arguments = ["plan", "quickstart", "--planner", "blocks", "--draw", str(drawn), "--draw-trace", str(traced)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "a100-0" in drawn.read_text()
    assert traced.stat().st_size > 10_000


def test_a_plan_with_restricted_links_draws_those_only():
    problem, _ = two_lanes()
    plan = planner("separate").plan(
        Problem(
            cluster=small_cluster([small_node("a", "A"), small_node("b", "A")]),
            model=small_model(6),
            profiles={"A": small_profile("A", 4)},
            throughput=FixedThroughput({"A": 10.0}),
        )
    )
    cluster = small_cluster([small_node("a", "A"), small_node("b", "A")])
    layout = lay_out(plan, cluster, problem.model, FixedThroughput({"A": 10.0}))
    assert len(layout.streams) == len(plan.links) == 3
