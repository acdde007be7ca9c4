"""Gurobi as a backend of the MILP planner: faster, where its licence takes the model."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from placement.planners.milp_program import Floats, Program
from placement.planners.milp_solve import Limits, Outcome, SolverResult, Watch


@contextlib.contextmanager
def _environment() -> Iterator[Any]:
    import gurobipy

    with gurobipy.Env(empty=True) as environment:
        environment.setParam("OutputFlag", 0)
        environment.start()
        yield environment


def refusal(columns: int, rows: int) -> str | None:
    """Why Gurobi would not solve a program of this size, found out without solving it; ``None`` when it would.

    A program of that size without an objective is solved at once, or refused as the real one would be.
    """
    try:
        import gurobipy
    except ImportError as error:
        return f"gurobipy cannot be imported ({error})"
    try:
        with _environment() as environment, gurobipy.Model(env=environment) as model:
            one = model.addVars(columns)
            model.addConstrs(one[row % columns] <= 1 for row in range(rows))
            model.optimize()
    except gurobipy.GurobiError as error:
        return f"{_sentence(error)} (this model: {columns} columns, {rows} rows)"
    return None


def _sentence(error: Exception) -> str:
    return str(error).split(";")[0].strip().rstrip(".")


def solve(program: Program, limits: Limits, watch: Watch, start: Floats | None = None) -> SolverResult:
    """Solve a program with Gurobi; arguments as for :func:`placement.planners.milp_highs.solve`."""
    import gurobipy

    with _environment() as environment, gurobipy.Model(env=environment) as model:
        columns = _load(gurobipy, model, program)
        model.Params.MIPGap = limits.gap
        model.Params.Threads = limits.threads
        model.Params.Seed = limits.seed % 2_000_000_000
        model.Params.IntFeasTol = 1e-9
        if math.isfinite(limits.time_limit_s):
            model.Params.TimeLimit = limits.time_limit_s
        if start is not None:
            columns.Start = start

        def follow(running: Any, where: int) -> None:
            callback = gurobipy.GRB.Callback
            if where == callback.MIP:
                watch.report(_known(running.cbGet(callback.MIP_OBJBST)), _known(running.cbGet(callback.MIP_OBJBND)))
            elif where == callback.MIPSOL:
                best, bound = running.cbGet(callback.MIPSOL_OBJBST), running.cbGet(callback.MIPSOL_OBJBND)
                watch.report(_known(best), _known(bound))
            if watch.stopping:
                running.terminate()

        model.optimize(follow)
        if model.Status == gurobipy.GRB.INTERRUPTED and not watch.stopping:
            # Gurobi catches Ctrl-C itself.
            watch.interrupted = True
        return _result(gurobipy.GRB, model, columns)


def _known(value: float) -> float:
    """Gurobi writes 1e100 where it knows nothing."""
    return value if abs(value) < 1e99 else math.inf


def _load(gurobipy: Any, model: Any, program: Program) -> Any:
    kinds = np.where(program.integer, gurobipy.GRB.INTEGER, gurobipy.GRB.CONTINUOUS)
    columns = model.addMVar(program.columns, lb=program.lower, ub=program.upper, vtype=kinds)
    # Row by row, since the matrix form needs scipy.
    single = columns.tolist()
    for row in range(program.rows):
        entries = range(program.first[row], program.first[row + 1])
        left = gurobipy.LinExpr(
            [float(program.value[entry]) for entry in entries], [single[program.index[entry]] for entry in entries]
        )
        least, most = float(program.row_lower[row]), float(program.row_upper[row])
        if least == most:
            model.addLConstr(left, "=", most)
            continue
        if math.isfinite(most):
            model.addLConstr(left, "<", most)
        if math.isfinite(least):
            model.addLConstr(left, ">", least)
    model.setObjective(gurobipy.LinExpr(program.cost.tolist(), single), gurobipy.GRB.MAXIMIZE)
    model.update()
    return columns


def _result(grb: Any, model: Any, columns: Any) -> SolverResult:
    names = {getattr(grb, name): name for name in dir(grb.Status) if name.isupper() and hasattr(grb, name)}
    status = model.Status
    if status == grb.OPTIMAL:
        outcome = Outcome.OPTIMAL
    elif status in (grb.TIME_LIMIT, grb.INTERRUPTED):
        outcome = Outcome.STOPPED
    elif status in (grb.INFEASIBLE, grb.INF_OR_UNBD):
        outcome = Outcome.INFEASIBLE
    else:
        outcome = Outcome.FAILED
    values = np.array(columns.X, dtype=np.float64) if model.SolCount > 0 else None
    return SolverResult(
        outcome=outcome, values=values, bound=_known(model.ObjBound), message=names.get(status, str(status)).lower()
    )
