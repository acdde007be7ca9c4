from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from netshape.conditions import GilbertElliottLoss, IndependentLoss, Jitter, LinkConditions
from netshape.errors import NetworkError
from scenarios.schema_network import ConditionsSection, LinkConditionsSection, ScheduleSection


def test_quantities_become_conditions() -> None:
    section = ConditionsSection.model_validate(
        {
            "bandwidth": "100 Mbit/s",
            "latency": "40 ms",
            "jitter": {"spread": "2 ms", "distribution": "pareto", "correlation": 0.25},
            "loss": {"to_bad": 0.01, "to_good": 0.3, "loss_bad": 0.5},
            "duplicate": 0.001,
            "reorder": 0.002,
            "queue_limit": "1 MB",
            "mtu": "1500 B",
            "overhead": "38 B",
            "up": False,
        }
    )
    assert section.to_domain() == LinkConditions(
        bandwidth_bytes_per_s=12.5e6,
        latency_s=0.04,
        jitter=Jitter(spread_s=0.002, distribution="pareto", correlation=0.25),
        loss=GilbertElliottLoss(to_bad=0.01, to_good=0.3, loss_bad=0.5),
        duplicate_probability=0.001,
        reorder_probability=0.002,
        queue_limit_bytes=1e6,
        mtu_bytes=1500,
        overhead_bytes_per_packet=38,
        up=False,
    )
    assert ConditionsSection().to_domain() == LinkConditions()


def test_listed_steps_become_a_schedule() -> None:
    section = LinkConditionsSection.model_validate(
        {
            "latency": "10 ms",
            "mtu": "1448 B",
            "schedule": {
                "steps": [
                    {"at": "1 s", "bandwidth": "1 MB/s", "loss": {"probability": 0.1}},
                    {"at": "2 s", "up": False, "overhead": "90 B", "loss": {"probability": 0}},
                ],
                "repeat": "1 min",
            },
        }
    )
    assert section.schedule is not None
    schedule = section.schedule.to_domain(Path())
    assert schedule.repeat_s == 60.0
    first = LinkConditions(
        bandwidth_bytes_per_s=1e6, latency_s=0.01, mtu_bytes=1448, loss=IndependentLoss(probability=0.1)
    )
    assert schedule.one_period(section.to_domain())[0] == (1.0, first)
    second = schedule.one_period(section.to_domain())[1][1]
    assert (second.up, second.overhead_bytes_per_packet, second.loss) == (False, 90.0, IndependentLoss(probability=0.0))


def test_a_trace_is_read_relative_to_its_file(tmp_path: Path) -> None:
    (tmp_path / "trace.csv").write_text("time_s,latency_ms\n3,7\n")
    section = ScheduleSection.model_validate({"trace": "trace.csv", "repeat": "5 s"})
    assert section.to_domain(tmp_path).one_period(LinkConditions()) == ((3.0, LinkConditions(latency_s=0.007)),)
    with pytest.raises(NetworkError, match=r"none\.csv: it cannot be read"):
        ScheduleSection.model_validate({"trace": "none.csv"}).to_domain(tmp_path)


@pytest.mark.parametrize(
    ("model", "content", "told"),
    [
        (ConditionsSection, {"latency": 5}, "it is a bare number, but a duration needs a unit"),
        (ConditionsSection, {"bandwidth": "0 bit/s"}, "must be greater than 0 here"),
        (ConditionsSection, {"latency": "2 d"}, "latency_s = 172800.0: it must be from 0 to 86400"),
        (ConditionsSection, {"overhead": "40 B"}, "overhead_bytes_per_packet needs mtu_bytes"),
        (ConditionsSection, {"mtu": "0.5 kB", "overhead": "0 B"}, "must be greater than 0 here"),
        (ConditionsSection, {"mtu": "1.5 B"}, "mtu_bytes = 1.5: it must be a whole number"),
        (ConditionsSection, {"loss": {"probability": 1}}, "less than 1"),
        (ConditionsSection, {"loss": {}}, "it needs exactly one of probability or to_bad with to_good"),
        (ConditionsSection, {"loss": {"probability": 0.1, "to_bad": 0.1}}, "it needs exactly one of"),
        (ConditionsSection, {"loss": {"to_bad": 0.1}}, "to_good is missing"),
        (ConditionsSection, {"loss": {"probability": 0.1, "loss_bad": 1}}, "loss_good and loss_bad belong to bursts"),
        (ConditionsSection, {"loss": {"to_bad": 0, "to_good": 1}}, "loss to_bad = 0.0: it must be at least 1e-9"),
        (ConditionsSection, {"loss": {"to_bad": 1, "to_good": 1, "loss_good": 1}}, "every packet would be lost"),
        (ConditionsSection, {"jitter": {"spread": "1 ms", "correlation": 1}}, "less than or equal to 0.999"),
        (ConditionsSection, {"speed": "1 MB/s"}, "Extra inputs are not permitted"),
        (ScheduleSection, {}, "it needs exactly one of steps or trace"),
        (ScheduleSection, {"steps": []}, "at least 1 item"),
        (ScheduleSection, {"steps": [{"at": "1 s"}]}, "nothing changes here"),
        (ScheduleSection, {"steps": [{"at": "1 s", "up": True}] * 2}, "times must rise"),
        (ScheduleSection, {"steps": [{"at": "1 s", "up": True}], "repeat": "1 s"}, "must be later than the last step"),
        (LinkConditionsSection, {"schedule": {"steps": [{"at": "1 s", "overhead": "9 B"}]}}, "step at 1 s: overhead"),
    ],
)
def test_what_is_wrong_is_told(model: Any, content: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(content)
    assert told in str(caught.value)


def test_the_json_schema_takes_what_the_model_takes() -> None:
    validator = Draft202012Validator(LinkConditionsSection.model_json_schema())
    assert validator.is_valid(
        {
            "bandwidth": "1 Gbit/s",
            "loss": {"probability": 0.1},
            "schedule": {"steps": [{"at": "1 s", "up": False}]},
        }
    )
    assert not validator.is_valid({"loss": {"probability": 0.1, "to_bad": 0.1, "to_good": 0.1}})
    assert not validator.is_valid({"schedule": {}})
