from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from study_runs import TINY, tiny_study
from typer.testing import CliRunner

from scenarios.cli import app
from scenarios.cli_study import answer_table
from scenarios.errors import ScenarioError
from scenarios.json_schema import FileKind, json_schema
from scenarios.library import list_library
from scenarios.studies.definition import read_study
from scenarios.studies.study import Study, StudyResult
from scenarios.studies.sweep import Sweep
from scenarios.yaml_text import dump_yaml, read_yaml

LOAD = "workload.synthetic.requests_per_s"


def helixemu(*words: str) -> Any:
    return CliRunner().invoke(app, ["study", *words])


def test_the_library_has_the_three_studies_and_lists_them() -> None:
    names = [entry.name for entry in list_library("study")]
    assert names == ["geo-links", "max-rate-24", "spot-min-cost"]
    result = helixemu("--list")
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.output.splitlines() if line and not line.startswith(" ")] == names


@pytest.mark.parametrize("name", [entry.name for entry in list_library("study")])
def test_every_cell_of_a_library_study_is_a_scenario(name: str) -> None:
    question = Sweep(read_study(name))
    for cell in question.definition.cells:
        scenario = question.maker.make(cell)
        assert scenario.plans
        assert not scenario.traces


def test_the_schema_takes_the_library_and_refuses_slips() -> None:
    validator = jsonschema.Draft202012Validator(json_schema(FileKind.STUDY))
    validator.check_schema(validator.schema)
    for entry in list_library("study"):
        validator.validate(read_yaml(entry.path).plain())
    validator.validate(tiny_study())
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(tiny_study(axis={}))


def test_a_study_runs_from_its_file_and_answers_in_json_and_parquet(tmp_path: Path) -> None:
    file, out, answer = tmp_path / "study.yaml", tmp_path / "out", tmp_path / "answer.json"
    (tmp_path / "tiny.yaml").write_text(dump_yaml(TINY))
    # A path is relative to the file that has it.
    study = tiny_study(scenario="tiny.yaml", axes={"load": {"path": LOAD, "values": [1, 2]}})
    file.write_text(dump_yaml(study))
    result = helixemu(str(file), "--out", str(out), "--processes", "1", "--json", str(answer))
    assert result.exit_code == 0, result.output
    assert "tiny-study: sweep" in result.output
    found = json.loads(answer.read_text())
    assert [row["load"] for row in found["answer"]] == [1, 2]
    assert {path.name for path in out.iterdir() if not path.name.startswith(".")} == {
        "study.json",
        "results.parquet",
        "answer.parquet",
        "points",
    }


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "--list"),
        (("geo-links", "--resume"), "--out"),
        (("geo-links", "--processes", "2", "--scheduler", "tcp://127.0.0.1:1"), "--processes"),
        (("geo-links", "--processes", "0"), "--processes"),
    ],
)
def test_options_that_do_not_go_together(words: tuple[str, ...], told: str) -> None:
    result = helixemu(*words)
    assert result.exit_code == 2
    assert told in result.output


def test_an_answer_that_cannot_be_written_is_told_before_anything_runs(tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = helixemu("geo-links", "--out", str(out), "--json", str(tmp_path / "missing" / "answer.json"))
    assert isinstance(result.exception, ScenarioError)
    assert "cannot be written" in str(result.exception)
    assert not out.exists()


def test_an_unknown_study_gets_a_suggestion() -> None:
    result = helixemu("geo-link")
    assert isinstance(result.exception, ScenarioError)
    assert "geo-links" in str(result.exception)


def test_the_answers_table_shows_intervals_and_leaves_out_what_says_nothing() -> None:
    answers = (
        {"cell": 0, "bandwidth": "1 GB/s", "bandwidth_bytes_per_s": 1e9, "seeds": 2, "failed": 0}
        | {"ttft_s.p50": 2.0, "ttft_s.p50.low": 1.5, "ttft_s.p50.high": 2.5, "error": None}
        | {"skewed": 2.0, "skewed.low": 1.9, "skewed.high": 9.0},
    )
    table = answer_table(StudyResult(name="s", question="sweep", rows=(), answers=answers))
    columns = [str(column.header) for column in table.columns]
    assert columns == ["bandwidth", "seeds", "ttft_s.p50", "skewed"]
    assert [next(iter(column.cells)) for column in table.columns] == ["1 GB/s", "2", "2 ±0.5", "2 \\[1.9, 9]"]


def test_a_comparison_has_one_column_for_a_figure_and_its_difference() -> None:
    same = {"rate": 2.0, "rate.low": 1.5, "rate.high": 2.5}
    differs = {"rate.difference": -0.5, "rate.difference.low": -0.75, "rate.difference.high": -0.25}
    answers = (
        {"cell": 0, "planner": "petals", **same, "min_cut_kinds": "compute", "baseline": True}
        | {"rate.difference": 0.0, "rate.difference_share": 0.0},
        {"cell": 1, "planner": "swarm", **same, "min_cut_kinds": "compute", "baseline": False}
        | {**differs, "rate.difference_share": -0.2},
        {"cell": 2, "planner": "blocks", "rate": None, "min_cut_kinds": None, "baseline": False}
        | {"rate.difference": None, "rate.difference_share": None},
    )
    table = answer_table(StudyResult(name="s", question="compare", rows=(), answers=answers))
    assert [str(column.header) for column in table.columns] == ["planner", "rate"]
    assert list(table.columns[1].cells) == ["2 ±0.5", "2 ±0.5\ndifference -0.5 ±0.25 (-20.0%)", "-\ndifference -"]


def test_a_study_of_which_no_point_can_run_fails(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    catalogue = {"gpus": {"machine": "A100", "region": "nowhere", "at_most": 1}}
    question = {"kind": "min_cost", "catalogue": catalogue}
    study = tiny_study(prices={"nodes": {"A100": 1.0}}, question=question)
    file.write_text(dump_yaml(study))
    result = helixemu(str(file), "--out", str(tmp_path / "out"), "--processes", "1")
    assert result.exit_code == 1, result.output
    assert "no point could run" in result.output


def test_a_study_without_axes_is_one_cell() -> None:
    assert len(Study(tiny_study()).definition.cells) == 1
