"""HiGHS as a backend of the MILP planner: always there, no licence."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import highspy
import numpy as np

from placement.errors import PlanError
from placement.planners.milp_program import Floats, Program
from placement.planners.milp_solve import Limits, Outcome, SolverResult, Watch

_HIGHS: Any = highspy.Highs
"""Its stubs lack annotations."""

_OUTCOMES = {
    highspy.HighsModelStatus.kOptimal: Outcome.OPTIMAL,
    highspy.HighsModelStatus.kTimeLimit: Outcome.STOPPED,
    highspy.HighsModelStatus.kInterrupt: Outcome.STOPPED,
    highspy.HighsModelStatus.kInfeasible: Outcome.INFEASIBLE,
}


def solve(program: Program, limits: Limits, watch: Watch, start: Floats | None = None) -> SolverResult:
    """Solve a program with HiGHS; meant for a thread of its own (:meth:`Watch.run`).

    Args:
        program: What to solve.
        limits: When to end.
        watch: Is told every progress and asked whether to stop.
        start: A feasible solution to begin with; shape ``(columns,)``.
    """
    # The scheduler belongs to the process and keeps the thread count of its first use.
    _HIGHS.resetGlobalScheduler(True)
    solver = _load(program)
    _set_options(solver, limits)
    if start is not None:
        given = highspy.HighsSolution()
        given.col_value = start.tolist()
        solver.setSolution(given)

    def follow(event: Any) -> None:
        watch.report(event.data_out.mip_primal_bound, event.data_out.mip_dual_bound)

    def ask(event: Any) -> None:
        if watch.stopping:
            event.interrupt()

    for source in (solver.cbMipImprovingSolution, solver.cbMipLogging):
        source.subscribe(follow)
    for source in (solver.cbSimplexInterrupt, solver.cbIpmInterrupt, solver.cbMipInterrupt):
        source.subscribe(ask)
    solver.run()
    return _result(solver, program)


def _set_options(solver: Any, limits: Limits) -> None:
    options: dict[str, Any] = {
        "mip_rel_gap": limits.gap,
        "threads": limits.threads,
        "parallel": "on" if limits.threads > 1 else "off",
        "random_seed": limits.seed % 2**31,
        "mip_min_logging_interval": 1.0,
    }
    if math.isfinite(limits.time_limit_s):
        options["time_limit"] = limits.time_limit_s
    for name, value in options.items():
        solver.setOptionValue(name, value)


def _result(solver: Any, program: Program) -> SolverResult:
    info, status = solver.getInfo(), solver.getModelStatus()
    values = None
    if info.primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible:
        values = np.array(solver.getSolution().col_value, dtype=np.float64)
    outcome = _OUTCOMES.get(status, Outcome.FAILED)
    bound = float(info.mip_dual_bound)
    if not program.integer.any() and values is not None and outcome is Outcome.OPTIMAL:
        bound = program.objective(values)
    return SolverResult(
        outcome=outcome,
        values=values,
        bound=bound if math.isfinite(bound) else math.inf,
        message=solver.modelStatusToString(status),
    )


def _load(program: Program) -> Any:
    model = highspy.HighsLp()
    model.num_col_, model.num_row_ = program.columns, program.rows
    model.sense_ = highspy.ObjSense.kMaximize
    model.col_cost_, model.col_lower_, model.col_upper_ = program.cost, program.lower, program.upper
    model.row_lower_, model.row_upper_ = program.row_lower, program.row_upper
    model.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    model.a_matrix_.num_col_, model.a_matrix_.num_row_ = program.columns, program.rows
    model.a_matrix_.start_, model.a_matrix_.index_ = program.first, program.index
    model.a_matrix_.value_ = program.value
    kinds = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
    model.integrality_ = [kinds[int(integer)] for integer in program.integer]
    model.col_names_, model.row_names_ = list(program.column_names), list(program.row_names)
    solver: Any = _HIGHS()
    solver.setOptionValue("output_flag", False)
    status = solver.passModel(model)
    assert status != highspy.HighsStatus.kError, "the program is well-formed"
    return solver


def write(program: Program, path: Path) -> None:
    """Write a program to a file in LP or MPS format, as its suffix says (``.lp``, ``.mps``).

    Raises:
        PlanError: Another suffix, or the file cannot be written.
    """
    if path.suffix.lower() not in (".lp", ".mps"):
        raise PlanError(f"milp: cannot write {path}: the suffix says the format; use .lp or .mps")
    try:
        path.touch()
    except OSError as error:
        raise PlanError(f"milp: cannot write {path}: {error.strerror}") from None
    if _load(program).writeModel(str(path)) == highspy.HighsStatus.kError:
        raise PlanError(f"milp: HiGHS cannot write {path}; check the disk")
