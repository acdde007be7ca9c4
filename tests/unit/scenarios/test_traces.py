"""Traces: formats, detection, scaling, broken rows, bounds."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import scenarios.traces as traces
from emulator.workload import Arrival, ListedArrivals
from scenarios.errors import Problem, ScenarioError
from scenarios.traces import FORMATS, load_trace, read_trace, summarise

ARTIFACT = Path(__file__).resolve().parents[3].parent / "shared" / "helix-artifact"

OWN = "arrival_s,prompt_tokens,output_tokens\n0.5,100,10\n1.25,200,20\n2.5,300,30\n"
AZURE = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    "2023-11-16 18:15:46.6805900,374,44\n"
    "2023-11-16 18:15:50.9951690,396,109\n"
    "2023-11-16 18:15:51.2224670,879,55\n"
)
BURSTGPT = (
    "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    "5,ChatGPT,472,18,490,Conversation log\n"
    "45,ChatGPT,1087,0,1087,Conversation log\n"
    '118,"GPT-4, new",417,276,693,API log\n'
)
MOONCAKE = (
    '{"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47]}\n'
    '{"timestamp": 30535, "input_length": 6472, "output_length": 26, "hash_ids": [46]}\n'
)


def written(folder: Path, text: str, name: str = "trace.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def problems_of(path: Path, **options: object) -> tuple[Problem, ...]:
    with pytest.raises(ScenarioError) as caught:
        read_trace(path, **options)  # type: ignore[arg-type]
    for problem in caught.value.problems:
        assert problem.rule
        assert problem.remedy
    return caught.value.problems


def test_own_format_keeps_its_times(tmp_path: Path) -> None:
    trace = load_trace(written(tmp_path, OWN))
    assert trace.arrivals == [Arrival(0.5, 100, 10), Arrival(1.25, 200, 20), Arrival(2.5, 300, 30)]
    assert (trace.format, trace.skipped, trace.timed) == ("helixemu", 0, True)


def test_lengths_only_arrive_at_once(tmp_path: Path) -> None:
    trace = load_trace(written(tmp_path, "prompt_tokens,output_tokens\n7,8\n9,10\n"))
    assert trace.arrivals == [Arrival(0.0, 7, 8), Arrival(0.0, 9, 10)]
    assert not trace.timed


def test_azure_counts_from_the_first_request_with_seven_digits(tmp_path: Path) -> None:
    arrivals = read_trace(written(tmp_path, AZURE))
    assert arrivals == [Arrival(0.0, 374, 44), Arrival(4.314579, 396, 109), Arrival(4.541877, 879, 55)]


@pytest.mark.parametrize(
    ("first", "second", "gap_s"),
    [
        ("2024-05-10T00:00:00.009930Z", "2024-05-10T00:00:01.009930Z", 1.0),
        ("2024-05-10 00:00:00.009930+00:00", "2024-05-10 02:00:00.5+02:00", 0.49007),
        ("2024-02-28 23:59:59", "2024-02-29 00:00:00,25", 1.25),
        ("2023-11-16 18:15:46.6805900", "2023-11-16 18:15:46.6805901", 1e-7),
    ],
)
def test_azure_timestamps(tmp_path: Path, first: str, second: str, gap_s: float) -> None:
    rows = "\r\n".join(f'"{moment}",1,1' for moment in (first, second))
    arrivals = read_trace(written(tmp_path, f"\ufeffTIMESTAMP,ContextTokens,GeneratedTokens\r\n{rows}"))
    assert arrivals[1].at_s == gap_s


def test_burstgpt_by_header_skips_failed_requests(tmp_path: Path) -> None:
    trace = load_trace(written(tmp_path, BURSTGPT))
    assert trace.arrivals == [Arrival(0.0, 472, 18), Arrival(113.0, 417, 276)]
    assert (trace.format, trace.skipped) == ("burstgpt", 1)


def test_mooncake(tmp_path: Path) -> None:
    trace = load_trace(written(tmp_path, MOONCAKE, "trace.jsonl"))
    assert trace.arrivals == [Arrival(0.0, 6955, 52), Arrival(3.053, 6472, 26)]
    assert trace.format == "mooncake"


@pytest.mark.parametrize(
    ("text", "name"), [(OWN, "helixemu"), (AZURE, "azure"), (BURSTGPT, "burstgpt"), (MOONCAKE, "mooncake")]
)
def test_named_format_reads_the_same_and_others_refuse(tmp_path: Path, text: str, name: str) -> None:
    path = written(tmp_path, text)
    assert read_trace(path, format=name) == read_trace(path)
    for other in set(FORMATS) - {"auto", name}:
        (problem,) = problems_of(path, format=other)
        assert problem.line == 1
        assert other in problem.rule


def test_columns_in_any_order_and_case(tmp_path: Path) -> None:
    path = written(tmp_path, "Output_Tokens, note ,ARRIVAL_S,prompt_tokens\n3,x,1.5,2\n\n4,y,1.75,5.0\n")
    assert read_trace(path) == [Arrival(1.5, 2, 3), Arrival(1.75, 5, 4)]


@pytest.mark.parametrize("text", [OWN, AZURE, BURSTGPT, MOONCAKE])
def test_scaling_to_a_rate(tmp_path: Path, text: str) -> None:
    path = written(tmp_path, text)
    plain = read_trace(path)
    by_requests = summarise(read_trace(path, requests_per_s=3.5))
    by_tokens = summarise(read_trace(path, tokens_per_s=1234.0, start_s=100.0))
    assert by_requests.requests_per_s == pytest.approx(3.5)
    assert by_tokens.tokens_per_s == pytest.approx(1234.0)
    assert by_requests.requests == by_tokens.requests == len(plain)
    scaled = read_trace(path, requests_per_s=3.5)
    stretch = scaled[-1].at_s / plain[-1].at_s
    assert [each.at_s for each in scaled] == pytest.approx([each.at_s * stretch for each in plain])


def test_limit_and_start(tmp_path: Path) -> None:
    path = written(tmp_path, OWN + "broken\n")
    assert read_trace(path, limit=2, start_s=10.0) == [Arrival(10.5, 100, 10), Arrival(11.25, 200, 20)]


def test_small_disorder_is_sorted_and_large_is_an_error(tmp_path: Path) -> None:
    head = "arrival_s,prompt_tokens,output_tokens\n"
    arrivals = read_trace(written(tmp_path, head + "100,1,1\n70,2,2\n100,3,3\n"))
    assert arrivals == [Arrival(70.0, 2, 2), Arrival(100.0, 1, 1), Arrival(100.0, 3, 3)]
    ListedArrivals(arrivals)
    (problem,) = problems_of(written(tmp_path, head + "100,1,1\n39,2,2\n"))
    assert (problem.line, problem.path, problem.value) == (3, "arrival_s", "39")


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ("x,1,1", "arrival_s"),
        ("nan,1,1", "arrival_s"),
        ("inf,1,1", "arrival_s"),
        ("1e999,1,1", "arrival_s"),
        ("-1,1,1", "arrival_s"),
        ("1_0,1,1", "arrival_s"),
        (",1,1", "arrival_s"),
        ("1,-5,1", "prompt_tokens"),
        ("1,2.5,1", "prompt_tokens"),
        ("1,0,1", "prompt_tokens"),
        ("1,nan,1", "prompt_tokens"),
        ("1,99999999999999999999,1", "prompt_tokens"),
        ("1,1,0", "output_tokens"),
        ("1,1,", "output_tokens"),
        ("1,1,٣", "output_tokens"),
        ("1,1", ""),
        ("1", ""),
        ('"1,1,1', ""),
    ],
)
def test_broken_rows_name_their_line_and_value(tmp_path: Path, row: str, column: str) -> None:
    path = written(tmp_path, f"{OWN}{row}\n9,9,9\n")
    (problem,) = problems_of(path)
    assert (problem.file, problem.line, problem.path) == (str(path), 5, column)


@pytest.mark.parametrize(
    "row",
    [
        "{}",
        "[1]",
        "{",
        '{"timestamp": "x", "input_length": 1, "output_length": 1}',
        '{"timestamp": NaN, "input_length": 1, "output_length": 1}',
        '{"timestamp": 1e400, "input_length": 1, "output_length": 1}',
        '{"timestamp": -1, "input_length": 1, "output_length": 1}',
        '{"timestamp": true, "input_length": 1, "output_length": 1}',
        '{"timestamp": 1, "input_length": 1.5, "output_length": 1}',
        '{"timestamp": 1, "input_length": -1, "output_length": 1}',
        '{"timestamp": 1, "input_length": 1, "output_length": true}',
        '{"timestamp": 1' + "0" * 5000 + ', "input_length": 1, "output_length": 1}',
        '{"timestamp": ' + "[" * 100_000,
    ],
)
def test_broken_json_lines(tmp_path: Path, row: str) -> None:
    (problem,) = problems_of(written(tmp_path, f"{MOONCAKE}{row}\n"))
    assert problem.line == 3


@pytest.mark.parametrize("moment", ["2023-13-16 18:15:46", "2023-11-16", "12.5", "", "0000-01-01 00:00:00", "9" * 100])
def test_broken_moments(tmp_path: Path, moment: str) -> None:
    (problem,) = problems_of(written(tmp_path, f"{AZURE}{moment},1,1\n"))
    assert (problem.line, problem.path) == (5, "TIMESTAMP")


def test_at_most_twenty_problems(tmp_path: Path) -> None:
    assert len(problems_of(written(tmp_path, OWN + "x,x,x\n" * 500))) == 20


@pytest.mark.parametrize("text", ["", "\n\n", "arrival_s,prompt_tokens,output_tokens\n", "a,b,c\n1,2,3\n", "1,2,3\n"])
def test_no_requests_or_no_known_header(tmp_path: Path, text: str) -> None:
    assert len(problems_of(written(tmp_path, text))) == 1


def test_only_failed_requests(tmp_path: Path) -> None:
    (problem,) = problems_of(written(tmp_path, "Timestamp,Request tokens,Response tokens\n1,5,0\n2,0,0\n"))
    assert "no requests" in problem.rule


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"format": "csv"}, "format"),
        ({"requests_per_s": 0.0}, "requests_per_s"),
        ({"requests_per_s": math.nan}, "requests_per_s"),
        ({"tokens_per_s": -1.0}, "tokens_per_s"),
        ({"tokens_per_s": math.inf}, "tokens_per_s"),
        ({"requests_per_s": 1.0, "tokens_per_s": 1.0}, "tokens_per_s"),
        ({"requests_per_s": 1e-300}, "requests_per_s"),
        ({"limit": 0}, "limit"),
        ({"limit": 1, "requests_per_s": 1.0}, "requests_per_s"),
        ({"start_s": -1.0}, "start"),
        ({"start_s": math.nan}, "start"),
    ],
)
def test_options_that_make_no_sense(tmp_path: Path, options: dict[str, object], where: str) -> None:
    (problem,) = problems_of(written(tmp_path, OWN), **options)
    assert problem.path == where


def test_lengths_have_no_rate(tmp_path: Path) -> None:
    path = written(tmp_path, "prompt_tokens,output_tokens\n7,8\n9,10\n")
    (problem,) = problems_of(path, tokens_per_s=5.0)
    assert problem.path == "tokens_per_s"


def test_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, OWN)
    with monkeypatch.context() as patch:
        patch.setattr(traces, "MAX_FILE_BYTES", 10)
        assert "bytes" in problems_of(path)[0].rule
    with monkeypatch.context() as patch:
        patch.setattr(traces, "MAX_LINE_BYTES", 50)
        (problem,) = problems_of(written(tmp_path, OWN + "1" * 51))
        assert problem.line == 5
    with monkeypatch.context() as patch:
        patch.setattr(traces, "MAX_ROWS", 2)
        assert problems_of(path)[0].line == 4


def test_no_file_a_directory_and_binary(tmp_path: Path) -> None:
    assert len(problems_of(tmp_path / "none.csv")) == 1
    assert len(problems_of(tmp_path)) == 1
    path = tmp_path / "binary"
    path.write_bytes(bytes(range(256)) * 100)
    assert len(problems_of(path)) == 1


@pytest.mark.skipif(not ARTIFACT.is_dir(), reason="the Helix artifact's data files are not beside the checkout")
def test_artifact_traces() -> None:
    lengths = load_trace(ARTIFACT / "traces" / "offline_seed0.csv")
    assert (len(lengths.arrivals), lengths.timed) == (20_000, False)
    online = load_trace(ARTIFACT / "traces" / "online_700.csv")
    assert online.arrivals[0] == Arrival(1.261715, 405, 103)
    assert summarise(online.arrivals).tokens_per_s == pytest.approx(700, rel=0.1)
    ListedArrivals(online.arrivals)


REQUESTS = st.lists(
    st.tuples(
        st.floats(min_value=0, max_value=1e9, allow_nan=False),
        st.integers(min_value=1, max_value=traces.MAX_TOKENS),
        st.integers(min_value=1, max_value=traces.MAX_TOKENS),
    ),
    min_size=1,
    max_size=20,
)


@given(requests=REQUESTS)
def test_own_format_round_trip(
    tmp_path_factory: pytest.TempPathFactory, requests: list[tuple[float, int, int]]
) -> None:
    arrivals = [Arrival(*request) for request in sorted(requests, key=lambda request: request[0])]
    rows = "".join(f"{at!r},{prompt},{output}\n" for at, prompt, output in arrivals)
    path = written(tmp_path_factory.mktemp("trace"), f"arrival_s,prompt_tokens,output_tokens\n{rows}")
    assert read_trace(path) == arrivals


@settings(max_examples=60)
@given(head=st.sampled_from([OWN, AZURE, BURSTGPT, MOONCAKE, ""]), tail=st.binary(max_size=60))
def test_any_bytes_give_requests_or_a_scenario_error(
    tmp_path_factory: pytest.TempPathFactory, head: str, tail: bytes
) -> None:
    path = tmp_path_factory.mktemp("trace") / "trace.csv"
    path.write_bytes(head.encode() + tail)
    try:
        arrivals = read_trace(path)
    except ScenarioError:
        return
    ListedArrivals(arrivals)
    assert all(min(arrival.prompt_tokens, arrival.output_tokens) >= 1 for arrival in arrivals)
