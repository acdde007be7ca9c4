"""The chaos search: thousands of random runs without a violation, and what the command does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from emulator.churn.invariants import Rule
from emulator.churn.machines import Machine, Role
from emulator.churn.recovery import RECOVERY_NAMES
from emulator.churn.spec import InFlightPolicy, LinkEvent, NodeEvent
from emulator.emulation import Emulation
from emulator.schedulers import POLICY_NAMES
from scenarios.chaos import CheckedRun, judge, search
from scenarios.chaos_cases import chaos_case
from scenarios.cli import main
from scenarios.schema_churn import EVENT_KINDS
from scenarios.yaml_text import dump_yaml

ROOT = Path(__file__).resolve().parents[2]
SEED, RUNS, PARTS = 2026, 2_000, 4


@pytest.mark.parametrize("part", range(PARTS))
def test_nothing_is_violated(part: int) -> None:
    first = part * RUNS // PARTS
    result = search(SEED, range(first, first + RUNS // PARTS))
    told = [f"--seed {SEED} --only {failure.case.number}: {failure.verdict}" for failure in result.failures]
    assert told == []
    assert result.runs == RUNS // PARTS
    # Some ask for what cannot be, such as spares without which nobody can serve.
    assert result.refused < result.runs / 20
    assert result.events > 300 * result.runs


def test_cases_have_everything() -> None:
    """Every kind of event, policy and network is drawn often enough to be looked at in every search."""
    seen: Counter[str] = Counter()
    for number in range(600):
        case = chaos_case(SEED, number)
        spec, churn = case.loaded.spec, case.document["churn"]
        assert spec.churn is not None
        seen.update(kind for event in churn["events"] for kind in EVENT_KINDS if kind in event)
        seen.update(f"random {process.kind}" for process in spec.churn.processes)
        seen.update(f"together {process.together}" for process in spec.churn.processes if process.share)
        seen.update(
            [
                spec.scheduler.policy,
                f"in flight {spec.churn.in_flight.policy}",
                f"recovery {spec.churn.recovery.policy}",
                f"weights {spec.churn.recovery.weights}",
                f"full {spec.when_full}",
                f"sharing {spec.sharing}",
                f"{case.document['workload']['kind']} {case.document['workload'].get('refill')}",
                "down at first" if spec.churn.initially_down else "",
                "regions" if spec.cluster.network.regions else "single links",
                "conditions" if spec.conditions.given else "",
                "schedules" if spec.conditions.change else "",
            ]
        )
        links = [event for event in spec.churn.events if isinstance(event, LinkEvent)]
        ends = [event.at_s + (event.duration_s or 1e9) for event in links]
        seen["overlapping links"] += any(after.at_s < end for after, end in zip(links[1:], ends, strict=False))
        seen["at one time"] += len({event.at_s for event in spec.churn.events}) < len(spec.churn.events)
        seen["for good"] += any(isinstance(event, NodeEvent) and not event.duration_s for event in spec.churn.events)
    expected = [
        *EVENT_KINDS,
        *POLICY_NAMES,
        *(f"recovery {name}" for name in RECOVERY_NAMES),
        *(f"in flight {policy}" for policy in InFlightPolicy),
        *(f"random {kind}" for kind in ("crash", "preempt", "straggler")),
        *(f"together {group}" for group in ("region", "machine_type", "all")),
        *(f"weights {source}" for source in ("disk", "peer", "fastest")),
        *(f"full {what}" for what in ("reject", "wait", "preempt")),
        *(f"sharing {how}" for how in ("clocks", "shares")),
        *(
            "open None",
            "closed constant",
            "closed kv-room",
            "down at first",
            "regions",
            "single links",
            "conditions",
            "schedules",
        ),
        *("overlapping links", "at one time", "for good"),
    ]
    assert {what: seen[what] for what in expected if seen[what] < 8} == {}


def test_runs_are_eventful() -> None:
    """A search in which nothing ever went wrong would find nothing."""
    seen: Counter[str] = Counter()
    for number in range(120):
        emulation = Emulation(chaos_case(SEED, number).loaded.spec)
        CheckedRun(emulation).run()
        state = emulation.state
        assert state.churn is not None
        seen.update(str(outcome) for outcome, count in state.metrics.outcomes.items() if count)
        figures = state.churn.report.figures()
        seen["retried"] += figures["requests_retried"] > 0
        seen["preempted"] += state.metrics.preemptions > 0
        seen["suspected"] += figures["false_suspicions"] > 0
        seen["moved"] += figures["layers_moved"] > 0
        seen["from peers"] += figures["peer_bytes_moved"] > 0
        seen["resumed"] += figures.get("requests_resumed", 0) > 0
        seen["stopped serving"] += any(sample["max_flow_tokens_per_s"] == 0 for sample in figures["timeline"])
    common = {"finished": 60, "rejected": 10, "failed": 10, "retried": 10, "preempted": 3, "suspected": 10}
    rare = {"moved": 10, "from peers": 2, "resumed": 2, "stopped serving": 20}
    assert {what: seen[what] for what, least in (common | rare).items() if seen[what] < least} == {}


def test_the_seed_settles_everything() -> None:
    assert chaos_case(1, 7).document == chaos_case(1, 7).document
    assert chaos_case(1, 7).document != chaos_case(2, 7).document
    assert search(5, range(6)).digest == search(5, range(6)).digest


DIGESTS = """\
from emulator.churn.spec import NodeTarget
from scenarios.chaos import search
print(search(3, range(10)).digest)
among = NodeTarget.among
NodeTarget.among = lambda self, cluster: tuple(set(among(self, cluster)))
print(search(3, range(10)).digest)
"""


def test_logs_do_not_hang_on_hashing() -> None:
    """Processes that order sets differently give the same logs; a planted loop over a set of names is seen."""
    one, other = (
        subprocess.run(
            [sys.executable, "-c", DIGESTS],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": hash_seed},
            timeout=300,
            check=True,
        ).stdout.split()
        for hash_seed in ("1", "2")
    )
    assert one[0] == other[0]
    assert one[1] != other[1]


# ------------------------------------------------------------------------------------------------------- command


class Told(NamedTuple):
    """What the command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def helixemu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Told]:
    """The command, in a directory of its own."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Told:
        monkeypatch.setattr(sys, "argv", ["helixemu", "chaos", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        assert isinstance(code, int)
        return Told(code, *capsys.readouterr())

    return run


def test_runs_are_counted(helixemu: Callable[..., Told]) -> None:
    done = helixemu("--runs", "5", "--seed", "1", "--json", "out.json")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("5 runs (")
    assert ", 0 violations, seed 1, " in done.out
    figures = json.loads(Path("out.json").read_text())
    assert (figures["runs"], figures["violations"], figures["interrupted"]) == (5, [], False)
    assert not Path("chaos").exists()
    assert json.loads(helixemu("--runs", "5", "--seed", "1", "--json", "-").out)["digest"] == figures["digest"]
    assert helixemu("--runs", "1000000", "--time-limit", "1 ms").out.startswith(("0 runs", "1 runs"))


def test_a_failure_is_written_out_and_replayed(helixemu: Callable[..., Told], monkeypatch: pytest.MonkeyPatch) -> None:
    """With a planted defect, machines that are suspected and stay in the routes."""
    with monkeypatch.context() as patch:
        patch.setattr(Machine, "routed", property(lambda self: self.role is Role.SERVING))
        number = next(number for number in range(200) if judge(chaos_case(9, number).loaded.spec).rule is Rule.ROUTES)
        again = f"helixemu chaos --seed 9 --only {number}\n"
        path = f"chaos/chaos-9-{number}.yaml"
        found = helixemu("--runs", "1", "--first", str(number), "--seed", "9")
        assert (found.code, found.err) == (1, "")
        assert f"seed 9, case {number}: routes at " in found.out
        assert f"again: {again}" in found.out
        assert f"helixemu chaos --replay {path}\n" in found.out
        text = Path(path).read_text()
        assert text.startswith(f"# {again}# found: routes at ")
        replayed = helixemu("--replay", path)
        assert replayed.code == 1
        assert f"{path}: routes at " in replayed.out
        assert [each["rule"] for each in json.loads(helixemu(*again.split()[2:], "--json", "-").out)["violations"]] == [
            "routes"
        ]
    whole = helixemu("--replay", path)
    assert (whole.code, whole.err) == (0, "")
    assert f"{path}: no violation (" in whole.out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--runs", "0"), "--runs"),
        (("--only", "-1"), "--only"),
        (("--time-limit", "10"), "--time-limit"),
        (("--replay", "none.yaml"), "none.yaml"),
        (("--replay", "calm.yaml"), "add churn: {}"),
    ],
)
def test_bad_input(helixemu: Callable[..., Told], arguments: tuple[str, ...], told: str) -> None:
    document = {**chaos_case(1, 0).document}
    del document["churn"]
    Path("calm.yaml").write_text(dump_yaml(document))
    done = helixemu(*arguments)
    assert done.code == 2
    assert told in done.err
