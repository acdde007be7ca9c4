import dataclasses
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import highspy
import pytest
from artifact import ARTIFACT, artifact_model, artifact_profiles, needs_artifact, read_cluster, read_placement
from small_clusters import FAST, chain_links, ranges, small_cluster, small_model, small_node, small_profile

from placement.cluster import COORDINATOR, Link, Network
from placement.errors import PlanError
from placement.flow import build_flow_graph, max_flow
from placement.layers import LayerRange, Placement, check_placement
from placement.plan import PlanStatus, problem_for
from placement.planners import milp_gurobi, planner
from placement.planners.milp import write_model
from placement.planners.milp_inputs import fit_start
from placement.planners.milp_model import Formulation, build_model, kept_links

PUBLISHED = {"redundant": False, "tighten": False}
"""Options that leave the published program as it is."""

_REFUSAL = milp_gurobi.refusal(300, 300)
needs_gurobi = pytest.mark.skipif(_REFUSAL is not None, reason=f"Gurobi: {_REFUSAL}")
both_solvers = pytest.mark.parametrize("solver", ["highs", pytest.param("gurobi", marks=needs_gurobi)])


def problem_of(kinds, layers, *, maxima=None, seed=0, nic=FAST, token_bytes=2.0, **cluster):
    """``kinds``: one letter a node; A holds 2 layers, B 3 and is three times as fast, C 4 and half as fast."""
    maxima = {"A": 2, "B": 3, "C": 4} | (maxima or {})
    speeds = {"A": 1.0, "B": 3.0, "C": 0.5}
    nodes = [small_node(f"n{index}", kind, nic=nic) for index, kind in enumerate(kinds)]
    profiles = {kind: small_profile(kind, maxima[kind], speed=speeds[kind]) for kind in set(kinds)}
    return problem_for(small_cluster(nodes, **cluster), small_model(layers, token_bytes=token_bytes), profiles, seed)


def flow_of(problem, placement, partial) -> float:
    cluster, model = problem.cluster, problem.model
    graph = build_flow_graph(cluster, model, placement, problem.throughput, partial_inference=partial)
    return max_flow(graph).tokens_per_s


def brute_force(problem, partial, *, alike=False) -> float:
    """Greatest exact max flow over all placements; ``alike``: nodes of one type are interchangeable."""
    layers, nodes = problem.model.layers, problem.cluster.nodes
    by_kind: dict[str, list] = {}
    for node in nodes:
        by_kind.setdefault(node.machine_type if alike else node.name, []).append(node)
    choices = []
    for members in by_kind.values():
        counts = range(1, problem.most_layers(members[0]) + 1)
        held = [LayerRange(start, start + count) for count in counts for start in range(layers - count + 1)]
        choices.append(itertools.combinations_with_replacement(held, len(members)))
    order = [node.name for members in by_kind.values() for node in members]
    best = 0.0
    for combination in itertools.product(*choices):
        chosen = [one for group in combination for one in group]
        if len({layer for one in chosen for layer in range(one.start, one.stop)}) == layers:
            best = max(best, flow_of(problem, Placement(dict(zip(order, chosen, strict=True))), partial))
    return best


def random_problem(seed):
    """3 or 4 nodes, 4 to 6 layers, some links missing, and links, cards or the coordinator may be the bottleneck."""
    dice = random.Random(seed)
    kinds = [dice.choice("AB") for _ in range(dice.randint(3, 4))]
    names = [COORDINATOR, *(f"n{index}" for index in range(len(kinds)))]
    pairs = [(a, b) for a in names for b in names if a != b and dice.random() < 0.9]
    links = {pair: dice.choice([1e6, 2.2e6, 6e6, FAST]) for pair in pairs}
    card = dice.choice([FAST, FAST, 1e5])
    nic = dice.choice([FAST, 3e6, 9e6])
    return problem_of(kinds, dice.randint(4, 6), links=links, coordinator_nic=card, nic=nic)


# --- the optimum ----------------------------------------------------------------------------------------------------


@both_solvers
@pytest.mark.parametrize("partial", [True, False])
@pytest.mark.parametrize("seed", range(8))
def test_the_optimum_on_random_links_is_that_of_brute_force(seed, partial, solver):
    problem = random_problem(seed)
    best = brute_force(problem, partial)
    maker = planner("milp", solver=solver, partial_inference=partial, exact_bytes=True, start=None, gap=0.0)
    if best == 0:
        with pytest.raises(PlanError, match=r"no placement|missing|no link|no chain"):
            maker.plan(problem)
        return
    plan = maker.plan(problem)
    assert plan.status is PlanStatus.OPTIMAL
    assert plan.flow.tokens_per_s == pytest.approx(best, rel=1e-6)
    assert plan.bound_tokens_per_s == pytest.approx(best, rel=1e-6)
    assert flow_of(problem, plan.placement, partial) == pytest.approx(best, rel=1e-6)


@both_solvers
@pytest.mark.parametrize("partial", [True, False])
@pytest.mark.parametrize(
    ("kinds", "layers", "maxima"), [("AAABBB", 4, {"B": 2}), ("AAAAA", 8, {"A": 3}), ("AAABB", 7, {"A": 2, "B": 2})]
)
def test_the_optimum_of_up_to_six_nodes_and_eight_layers(kinds, layers, maxima, partial, solver):
    problem = problem_of(kinds, layers, maxima=maxima)
    best = brute_force(problem, partial, alike=True)
    plan = planner("milp", solver=solver, partial_inference=partial, gap=0.0).plan(problem)
    assert (plan.status, plan.flow.tokens_per_s) == (PlanStatus.OPTIMAL, pytest.approx(best, rel=1e-6))


@both_solvers
@pytest.mark.parametrize("options", [PUBLISHED, {"redundant": True}, {"tighten": True}, {"switch_on_ends": True}])
def test_the_variants_of_the_program_have_one_optimum(options, solver):
    problem = problem_of("AABB", 6)
    plan = planner("milp", solver=solver, gap=0.0, **(PUBLISHED | options)).plan(problem)
    best = planner("milp", solver="highs", gap=0.0).plan(problem)
    assert plan.flow.tokens_per_s == pytest.approx(best.flow.tokens_per_s, rel=1e-6)


def test_the_published_way_to_count_bytes_is_that_of_tokens_without_ids():
    # 30,000 tokens/s of activations alone, but only 29,400 with 2 bytes of id each.
    slow = {"bandwidth": 98 * 3e4}
    problem, without = problem_of("AAA", 6, **slow), problem_of("AAA", 6, token_bytes=1e-9, **slow)
    assert brute_force(without, True, alike=True) == pytest.approx(3e4)
    published = planner("milp", gap=0.0).plan(problem)
    assert published.bound_tokens_per_s == pytest.approx(3e4)
    assert published.flow.tokens_per_s == pytest.approx(2.94e4)
    assert published.warnings == (
        "milp: the program's objective is 30000 tokens/s, the exact maximum flow 29400: it counts activations alone, "
        "and no network card of the coordinator",
    )
    exact = planner("milp", gap=0.0, exact_bytes=True).plan(problem)
    assert exact.status is PlanStatus.OPTIMAL
    assert exact.bound_tokens_per_s == exact.flow.tokens_per_s == pytest.approx(2.94e4)
    assert exact.warnings == ()


def test_what_the_published_program_does_not_see_the_bound_does():
    # The coordinator's cards let only 500 tokens/s through.
    problem = problem_of("AA", 4, coordinator_nic=1e3)
    for options in ({}, {"exact_bytes": True}, {"max_degree": 1}):
        plan = planner("milp", **options).plan(problem)
        assert plan.flow.tokens_per_s == pytest.approx(500)
        assert plan.bound_tokens_per_s == pytest.approx(500)
        assert plan.status is PlanStatus.OPTIMAL


def test_what_neither_program_nor_bound_see_makes_no_optimal_plan():
    # 700 bytes/s between the nodes are 7 tokens/s with the token's id, and 7.14 without.
    problem = problem_of("AA", 4, links=chain_links("n0", "n1") | {("n0", "n1"): 7e2})
    plan = planner("milp").plan(problem)
    assert plan.flow.tokens_per_s == pytest.approx(7.0)
    assert plan.bound_tokens_per_s > 7.0
    exact = planner("milp", exact_bytes=True).plan(problem)
    assert exact.status is PlanStatus.OPTIMAL
    assert exact.bound_tokens_per_s == pytest.approx(7.0)


def test_blocks_as_a_start_keeps_to_its_share_of_the_time():
    problem = hard_problem(80, 24)
    plan = planner("milp", solver="highs", start="blocks", time_limit_s=5.0).plan(problem)
    assert (
        plan.flow.tokens_per_s
        >= planner("milp", solver="highs", start="petals", time_limit_s=1.0).plan(problem).flow.tokens_per_s
    )
    assert plan.trace[0].incumbent_tokens_per_s > 0


def test_network_cards_of_unequal_speed_and_of_nodes_that_hold_everything():
    problem = problem_of("CC", 4, nic=2e4)
    plan = planner("milp", exact_bytes=True, gap=0.0).plan(problem)
    # Alone, either node is limited by 2 bytes a token: 10,000 tokens/s; in a chain by 100.
    assert plan.flow.tokens_per_s == pytest.approx(brute_force(problem, True), rel=1e-6)
    slow_in = [dataclasses.replace(node, nic_in_bytes_per_s=1e6) for node in problem_of("BBA", 6).cluster.nodes]
    problem = problem_of("BBA", 6)
    problem = dataclasses.replace(problem, cluster=dataclasses.replace(problem.cluster, nodes=tuple(slow_in)))
    plan = planner("milp", exact_bytes=True, gap=0.0).plan(problem)
    assert plan.flow.tokens_per_s == pytest.approx(brute_force(problem, True), rel=1e-6)


# --- sizes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("partial", [True, False])
@pytest.mark.parametrize("degree", [None, 1, 2])
def test_sizes_follow_from_nodes_layers_and_links(partial, degree):
    problem = problem_of("AABBA", 6)
    formulation = Formulation(partial_inference=partial, max_degree=degree, coordinator_degree=degree)
    program = build_model(problem, formulation).program
    nodes, holds = 5, 2 * 3 + 3 * 2
    outer, inner = (10, 20) if degree is None else (2 * degree, 5 * degree)
    assert program.columns == nodes + holds + 2 * outer + (4 if partial else 2) * inner
    assert program.rows == 4 * nodes + 2 * outer + (4 if partial else 3) * inner


@pytest.mark.parametrize(
    ("nodes", "holds", "coordinator_links", "links", "columns", "rows"),
    [
        # The published sizes fit 12 links each way at the coordinator and this many between nodes.
        (24, 152, 24, 326, 876, 1122),
        (24, 152, 24, 420, 1064, 1404),
        (24, 152, 48, 552, 1376, 1848),
        (42, 350, 24, 852, 2144, 2772),
        (42, 350, 84, 1722, 4004, 5502),
    ],
)
def test_the_published_sizes_fit_the_same_formula(nodes, holds, coordinator_links, links, columns, rows):
    assert nodes + holds + 2 * coordinator_links + 2 * links == columns
    assert 4 * nodes + 2 * coordinator_links + 3 * links == rows


PARTS = {
    "start": "s",
    "hold": "b",
    "flow": "f",
    "switch": "d",
    "hold_constraint": "one",
    "end_constraint": "end",
    "node_flow_constraint": "keep",
    "node_throughput_constraint": "rate",
    "edge_flow_constr": "cap",
    "edge_disable_constr1": "join1",
    "edge_disable_constr2": "join2",
}


def own_name(name) -> str:
    """What a column or row of a published model is called here."""
    words, labels = [], []
    for word in name.split("_"):
        number = {"source": "S", "sink": "T"}.get(word, word)
        (labels if number in "ST" or number.isdigit() else words).append(number)
    head = "_".join(words)
    if head in ("edge_disable_constr", "edge_enable_constr"):
        head = ("first" if labels[0] == "S" else "last") + ("_on" if "enable" in head else "")
    return "_".join([PARTS.get(head, head), *labels])


def entries(starts, indices, values):
    for line in range(len(starts) - 1):
        for entry in range(starts[line], starts[line + 1]):
            yield line, indices[entry], values[entry]


@needs_artifact
@pytest.mark.parametrize(
    ("folder", "model", "size"),
    [
        ("layout_llama70b/ilp", "llama-2-70b", (1376, 1848, 13960)),
        ("layout_llama30b/ilp/a100", "llama-1-30b", (116, 76, 988)),
        ("layout_llama30b/ilp/l4", "llama-1-30b", (240, 248, 2416)),
        ("layout_llama30b/ilp/t4", "llama-1-30b", (408, 516, 3912)),
    ],
)
def test_the_program_is_the_published_one_to_the_last_coefficient(folder, model, size):
    folder = ARTIFACT / "single_cluster" / folder
    program = build_model(
        published_problem(folder, model),
        Formulation(partial_inference=False, switch_on_ends=model == "llama-1-30b"),
    ).program
    assert (program.columns, program.rows, program.nonzeros) == size
    theirs = read_back(folder / "ilp_model.lp").getLp()
    columns, rows = [own_name(name) for name in theirs.col_names_], [own_name(name) for name in theirs.row_names_]
    matrix = theirs.a_matrix_
    found = list(entries(matrix.start_, matrix.index_, matrix.value_))
    if matrix.format_ == highspy.MatrixFormat.kColwise:
        found = [(row, column, value) for column, row, value in found]
    expected = {(rows[row], columns[column]): value for row, column, value in found}
    own = {
        (program.row_names[row], program.column_names[column]): value
        for row, column, value in entries(program.first, program.index, program.value)
    }
    assert own == pytest.approx(expected, rel=1e-12)
    limits = dict(zip(rows, zip(theirs.row_lower_, theirs.row_upper_, strict=True), strict=True))
    assert limits == dict(zip(program.row_names, zip(program.row_lower, program.row_upper, strict=True), strict=True))
    costs = dict(zip(columns, theirs.col_cost_, strict=True))
    assert costs == dict(zip(program.column_names, program.cost, strict=True))


def published_problem(folder, model):
    cluster = dataclasses.replace(
        read_cluster(folder / "simulator_cluster.ini"), network=Network(regions={("default",) * 2: Link(1e9, 0.001)})
    )
    return problem_for(cluster, artifact_model(model), artifact_profiles(model))


def read_back(path) -> highspy.Highs:
    solver = highspy.Highs()
    solver.setOptionValue("output_flag", False)
    assert solver.readModel(str(path)) == highspy.HighsStatus.kOk
    return solver


@needs_artifact
def test_the_published_placement_is_a_solution_of_the_program():
    folder = ARTIFACT / "single_cluster" / "layout_llama70b" / "ilp"
    problem = published_problem(folder, "llama-2-70b")
    formulation = Formulation(partial_inference=False)
    start = fit_start(problem, formulation, read_placement(folder / "ilp_sol.ini"))
    model = build_model(problem, formulation)
    values = model.solution(start.placement, start.flow.link_flow)
    assert model.program.violation(values) < 1e-6
    assert model.program.objective(values) == pytest.approx(1289.56, abs=0.01)


# --- pruning --------------------------------------------------------------------------------------------------------


def test_pruning_keeps_the_fastest_links_of_every_node_and_all_of_the_coordinator():
    names = [f"n{index}" for index in range(6)]
    links = {(COORDINATOR, name): FAST for name in names} | {(name, COORDINATOR): FAST for name in names}
    links |= {(a, b): 1e6 for a in names for b in names if a != b}
    links |= {("n0", "n3"): 5e6, ("n0", "n4"): 4e6, ("n1", "n3"): 3e6}
    problem = problem_of("AAAAAA", 6, links=links)
    kept = kept_links(problem, Formulation(max_degree=2))
    inner = [pair for pair in kept if COORDINATOR not in pair]
    assert len(kept) - len(inner) == 12
    assert {("n0", "n3"), ("n0", "n4"), ("n1", "n3")} <= set(inner)
    for name in names:
        assert sum(source == name for source, _ in inner) >= 2
        assert sum(target == name for _, target in inner) >= 2
    assert kept == kept_links(problem, Formulation(max_degree=2))
    assert set(kept_links(problem, Formulation(max_degree=2), keep=[("n5", "n2")])) == {*kept, ("n5", "n2")}


@both_solvers
def test_a_pruned_search_claims_no_bound_for_the_whole_problem(solver):
    problem = problem_of("AAABB", 7)
    pruned = planner("milp", solver=solver, max_degree=1, gap=0.0).plan(problem)
    whole = planner("milp", solver=solver, gap=0.0).plan(problem)
    assert whole.flow.tokens_per_s <= pruned.bound_tokens_per_s * (1 + 1e-9)
    assert any("bounds only placements without them" in said for said in pruned.warnings)
    assert pruned.status is PlanStatus.FEASIBLE or pruned.gap <= 1e-9


# --- start, limits, progress ----------------------------------------------------------------------------------------


def hard_problem(layers=40, nodes=16):
    return problem_of("ABC" * (nodes // 3) + "A" * (nodes % 3), layers, maxima={"A": 5, "B": 7, "C": 9})


@both_solvers
@pytest.mark.parametrize("partial", [True, False])
def test_a_start_is_a_solution_and_the_plan_is_no_worse(partial, solver):
    problem = hard_problem()
    formulation = Formulation(partial_inference=partial, redundant=True, tighten=True, max_degree=4)
    given = planner("uniform").plan(problem).placement
    start = fit_start(problem, formulation, given)
    model = build_model(problem, formulation, start.used_links)
    values = model.solution(start.placement, start.flow.link_flow)
    assert model.program.violation(values) < 1e-6
    assert model.program.objective(values) == pytest.approx(start.flow.tokens_per_s)
    assert model.placement(values) == start.placement
    options = {"partial_inference": partial, "max_degree": 4, "solver": solver, "time_limit_s": 0.3}
    for form in (given, "uniform", {name: [held.start, held.stop] for name, held in given.ranges.items()}):
        plan = planner("milp", start=form, **options).plan(problem)
        assert plan.flow.tokens_per_s >= start.flow.tokens_per_s * (1 - 1e-6)


@both_solvers
def test_a_time_limit_gives_the_start_and_calls_it_feasible(solver):
    problem = hard_problem()
    plan = planner("milp", solver=solver, time_limit_s=1e-3).plan(problem)
    assert plan.status is PlanStatus.FEASIBLE
    assert plan.flow.tokens_per_s >= planner("petals").plan(problem).flow.tokens_per_s * (1 - 1e-6)
    assert plan.gap > 0
    assert plan.bound_tokens_per_s >= plan.flow.tokens_per_s


@both_solvers
def test_a_time_limit_without_a_start_is_an_error(solver):
    with pytest.raises(PlanError, match="in the time limit; raise time_limit_s or give it a start"):
        planner("milp", solver=solver, start=None, partial_inference=False, time_limit_s=1e-3).plan(
            hard_problem(80, 24)
        )


@both_solvers
def test_the_trace_is_what_progress_saw_and_it_closes_in(solver):
    seen = []
    plan = planner("milp", solver=solver, start="uniform", gap=0.0, progress=seen.append).plan(problem_of("AABB", 6))
    assert tuple(seen) == plan.trace
    for before, after in itertools.pairwise(plan.trace):
        assert before.seconds <= after.seconds
        assert before.incumbent_tokens_per_s <= after.incumbent_tokens_per_s
        assert before.bound_tokens_per_s >= after.bound_tokens_per_s
    last = plan.trace[-1]
    assert last.incumbent_tokens_per_s == pytest.approx(plan.flow.tokens_per_s, rel=1e-6)
    assert last.bound_tokens_per_s == pytest.approx(plan.bound_tokens_per_s, rel=1e-6)


@both_solvers
def test_the_search_stops_at_a_wished_flow(solver):
    problem = hard_problem()
    enough = planner("petals").plan(problem).flow.tokens_per_s
    plan = planner("milp", solver=solver, stop_at_tokens_per_s=enough, time_limit_s=None).plan(problem)
    assert plan.flow.tokens_per_s >= enough * (1 - 1e-6)
    assert plan.status is PlanStatus.FEASIBLE


@both_solvers
def test_a_wide_gap_ends_early_and_the_plan_keeps_it(solver):
    plan = planner("milp", solver=solver, gap=5.0, time_limit_s=None).plan(hard_problem())
    assert plan.status is PlanStatus.OPTIMAL
    assert plan.gap <= 5.0


@both_solvers
def test_what_progress_raises_stops_the_search(solver):
    def refuse(point):
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        planner("milp", solver=solver, progress=refuse, time_limit_s=None).plan(hard_problem())


def test_a_start_is_fitted_to_the_options_and_the_plan_says_so():
    problem = problem_of("AABB", 6)
    plan = planner("milp", start=ranges(n0=(0, 6), n2=(2, 5)), forbidden=["n2"], pinned={"n1": (0, 1)}).plan(problem)
    assert "milp: the start was changed to fit limits and options at n0, n2" in plan.warnings
    assert "milp: the start serves no tokens under these options and is not used" in plan.warnings


SCRIPT = """
import sys
sys.path[:0] = {path!r}
from test_milp import *
plan = planner("milp", {options}).plan({problem})
print(plan.status.name, *plan.warnings, sep="|")
"""


def script(options, problem) -> list[str]:
    path = [str(Path(__file__).parent), str(Path(__file__).parents[2]), str(Path(__file__).parents[3])]
    return [sys.executable, "-c", SCRIPT.format(path=path, options=options, problem=problem)]


@both_solvers
def test_ctrl_c_gives_the_best_so_far(solver):
    options = f"solver={solver!r}, start='swarm', time_limit_s=None, partial_inference=False"
    options += ", progress=lambda point: print(flush=True)"
    with subprocess.Popen(script(options, "hard_problem(80, 24)"), stdout=subprocess.PIPE, text=True) as run:
        run.stdout.readline()
        # Gurobi takes Ctrl-C over when it starts, and writes a line of its own until it is taken back.
        time.sleep(1.0)
        run.send_signal(signal.SIGINT)
        printed = [line for line in run.stdout.read().splitlines() if line]
        status, *warnings = printed[-1].split("|")
    assert len(printed) == 1
    assert run.returncode == 0
    assert status == "FEASIBLE"
    assert "milp: stopped by Ctrl-C; this is the best placement until then" in warnings


def test_a_start_that_reaches_the_bound_needs_no_solver():
    # Four equal nodes in two stages: every node works all the time.
    plan = planner("milp", start="petals", progress=None).plan(problem_of("AAAA", 4))
    assert (plan.status, plan.warnings) == (PlanStatus.OPTIMAL, ())
    assert plan.flow.tokens_per_s == pytest.approx(plan.bound_tokens_per_s)
    assert len(plan.trace) == 2


# --- Gurobi's licence -----------------------------------------------------------------------------------------------


EXPIRED = "TYPE=PIP\nVERSION=13\nHOSTNAME=x\nHOSTID=0\nUSERNAME=x\nEXPIRATION=2020-01-01\nKEY=ABCDEFGH\n"


@pytest.mark.parametrize(
    ("licence", "says"), [(None, "Unable to open Gurobi license file"), (EXPIRED, "License expired 2020-01-01")]
)
def test_without_a_licence_highs_takes_over_and_gurobi_refuses(tmp_path, licence, says):
    path = tmp_path / "gurobi.lic"
    if licence is not None:
        path.write_text(licence)
    environment = os.environ | {"GRB_LICENSE_FILE": str(path)}
    run = subprocess.run(script("", "problem_of('AAA', 6)"), env=environment, capture_output=True, text=True)
    assert run.stdout.startswith("OPTIMAL|milp: HiGHS solves this model, because Gurobi does not take it: " + says)
    assert len(run.stdout.splitlines()) == 1
    run = subprocess.run(
        script("solver='gurobi'", "problem_of('AAA', 6)"), env=environment, capture_output=True, text=True
    )
    assert f"PlanError: milp: Gurobi does not take this model: {says}" in run.stderr


@needs_gurobi
def test_a_model_above_the_licences_size_is_found_before_solving():
    says = milp_gurobi.refusal(2001, 10)
    if says is None:
        pytest.skip("this Gurobi licence has no size limit")
    assert says == "Model too large for size-limited license (this model: 2001 columns, 10 rows)"
    assert milp_gurobi.refusal(10, 2001) is not None
    assert milp_gurobi.refusal(2000, 2000) is None
    problem = hard_problem(60, 24)
    with pytest.raises(PlanError, match="Gurobi does not take this model: Model too large"):
        planner("milp", solver="gurobi").plan(problem)
    plan = planner("milp", time_limit_s=1e-3).plan(problem)
    assert plan.warnings[0].startswith(
        "milp: HiGHS solves this model, because Gurobi does not take it: Model too large"
    )


# --- export ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".lp", ".mps"])
@pytest.mark.parametrize("partial", [True, False])
def test_an_exported_model_has_the_same_size_and_optimum(tmp_path, suffix, partial):
    problem = problem_of("AABB", 6, bandwidth=1.3e6)
    maker = planner("milp", partial_inference=partial, gap=0.0)
    path = tmp_path / f"model{suffix}"
    write_model(problem, path, maker)
    program = maker.prepare(problem).model.program
    solver = read_back(path)
    assert (solver.getNumCol(), solver.getNumRow(), solver.getNumNz()) == (
        program.columns,
        program.rows,
        program.nonzeros,
    )
    solver.setOptionValue("mip_rel_gap", 0.0)
    solver.run()
    value = solver.getInfo().objective_function_value
    assert abs(value) == pytest.approx(maker.plan(problem).bound_tokens_per_s, rel=1e-6)


def test_what_cannot_be_written_says_why(tmp_path):
    problem = problem_of("AAA", 6)
    with pytest.raises(PlanError, match=r"the suffix says the format; use \.lp or \.mps"):
        write_model(problem, tmp_path / "model.txt")
    with pytest.raises(PlanError, match=r"cannot write .*model\.lp: No such file or directory"):
        write_model(problem, tmp_path / "nowhere" / "model.lp")


# --- pinned and forbidden nodes -------------------------------------------------------------------------------------


@both_solvers
def test_pinned_and_forbidden_nodes_are_what_they_were_told(solver):
    problem = problem_of("ABABA", 6)
    options = {"pinned": {"n1": [3, 5], "n2": LayerRange(0, 2)}, "forbidden": ["n3"], "gap": 0.0, "solver": solver}
    plan = planner("milp", **options).plan(problem)
    assert plan.placement["n1"] == LayerRange(3, 5)
    assert plan.placement["n2"] == LayerRange(0, 2)
    assert "n3" not in plan.placement
    assert plan.unused == ("n3",)
    check_placement(plan.placement, problem.cluster, problem.model, problem.profiles)
    best = max(
        flow_of(problem, Placement({"n1": LayerRange(3, 5), "n2": LayerRange(0, 2), "n0": one, "n4": two}), True)
        for one, two in itertools.product(
            [LayerRange(start, start + count) for count in (1, 2) for start in range(7 - count)], repeat=2
        )
    )
    assert plan.flow.tokens_per_s == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"pinned": {"n0": (0, 3)}},
            r"node n0 \(A\) cannot hold its pinned range \[0, 3\): 3 layers, but at most 2 fit; "
            r"1 layers \(1.0 GB of weights\) are too many",
        ),
        ({"pinned": {"n0": (5, 7)}}, r"node n0 is pinned to \[5, 7\), but small has only 6 layers"),
        ({"pinned": {"x": (0, 1)}}, "pinned node x is no node of cluster little"),
        ({"forbidden": ["x"]}, "forbidden node x is no node of cluster little"),
        ({"pinned": {"n0": (0, 1)}, "forbidden": ["n0"]}, "n0 is both pinned to .* and forbidden"),
        ({"pinned": {"n0": (0, 1, 2)}}, "the pinned range of n0 is .*; write .start, stop."),
        (
            {"forbidden": ["n0"]},
            r"small has 6 layers, but cluster little without n0 holds at most 4 \(2 A x 2 layers\); "
            r"2 layers \(2.0 GB of weights\) are missing",
        ),
        (
            {"pinned": {"n0": (0, 2), "n1": (0, 2)}},
            r"small has 4 layers that pinned nodes do not hold \(4 of 6\), .* holds at most 2 \(1 A x 2 layers\)",
        ),
        ({"start": {"x": (0, 1)}}, "the start places x, which is no node"),
        ({"start": {"n0": (5, 7)}}, r"the start gives n0 \[5, 7\), but small has only 6 layers"),
    ],
)
def test_options_that_do_not_fit_the_problem(options, says):
    with pytest.raises(PlanError, match=says):
        planner("milp", **options).plan(problem_of("AAA", 6))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"time_limit_s": 0}, "time_limit_s is 0; it must be greater than 0"),
        ({"time_limit_s": -3.0}, "time_limit_s is -3; it must be greater than 0"),
        ({"time_limit_s": float("nan")}, "time_limit_s is nan"),
        ({"gap": -0.1}, "gap is -0.1; it must be at least 0"),
        ({"stop_at_tokens_per_s": 0}, "stop_at_tokens_per_s is 0"),
        ({"solver": "cplex"}, "solver is 'cplex'; choose auto, gurobi, highs"),
        ({"max_degree": 0}, "max_degree is 0; it must be a whole number of at least 1"),
        ({"threads": None}, "threads is None"),
        ({"redundant": "yes"}, "redundant is 'yes'; it must be true or false"),
        ({"forbidden": "n0"}, "forbidden is 'n0'; write a list"),
        ({"start": "milp"}, "start is milp itself"),
    ],
)
def test_options_that_make_no_sense(options, says):
    with pytest.raises(PlanError, match=says):
        planner("milp", **options)


# --- infeasible problems --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lost", "says"),
    [
        ((COORDINATOR, "n0"), "no link coordinator -> node for any node that may hold layer 0"),
        (("n2", COORDINATOR), "no link node -> coordinator for any node that may hold layer 5"),
        (("n1", "n2"), "no chain of links in cluster little leads from coordinator .* link from it: n0; .* to it: n2"),
    ],
)
def test_missing_links_are_named(lost, says):
    links = {pair: rate for pair, rate in chain_links("n0", "n1", "n2").items() if pair != lost}
    with pytest.raises(PlanError, match=says):
        planner("milp").plan(problem_of("AAA", 6, links=links))


@both_solvers
def test_links_that_join_too_few_layers_are_found_by_the_solver(solver):
    links = chain_links("n0", "n1") | chain_links("n2")
    with pytest.raises(PlanError) as caught:
        planner("milp", solver=solver, partial_inference=False).plan(problem_of("AAA", 6, links=links))
    assert str(caught.value) == (
        "milp: no placement on cluster little serves tokens under the options partial_inference off (proven by the "
        "solver): no chain of links leads over nodes that can hold all 6 layers one after the other; add links or "
        "machines, or relax the options"
    )
