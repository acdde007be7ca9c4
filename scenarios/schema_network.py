"""Schema of link conditions and their schedules, for proxies and the network sections of scenarios."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, Strict, model_validator
from pydantic_core import PydanticCustomError

from netshape.conditions import (
    MAX_CORRELATION,
    GilbertElliottLoss,
    IndependentLoss,
    Jitter,
    LinkConditions,
    Loss,
)
from netshape.errors import NetworkError
from netshape.schedule import ConditionSchedule, ConditionStep
from netshape.schedule_csv import read_schedule
from scenarios.quantities import Bytes, BytesPerSecond, PositiveSeconds, Seconds
from scenarios.schema_parts import FileName, Flag, Section, exactly_one, one_of_schema

MAX_STEPS = 100_000
Probability = Annotated[float, Strict(), Field(ge=0, le=1, allow_inf_nan=False)]
LossProbability = Annotated[float, Strict(), Field(ge=0, lt=1, allow_inf_nan=False)]
Correlation = Annotated[float, Strict(), Field(ge=0, le=MAX_CORRELATION, allow_inf_nan=False)]
LOSS_FORMS = (("probability",), ("to_bad", "to_good"))


class JitterSection(Section):
    """Deviation of delays from the latency."""

    spread: Seconds = Field(description="Half the width (uniform) or the standard deviation (normal, pareto).")
    distribution: Literal["uniform", "normal", "pareto"] = Field(default="uniform", description="Its shape.")
    correlation: Correlation = Field(default=0.0, description="With the message before.")

    def to_domain(self) -> Jitter:
        """The shaper's value."""
        return Jitter(spread_s=self.spread, distribution=self.distribution, correlation=self.correlation)


class LossSection(Section):
    """Lost packets: each on its own (`probability`), or in bursts (`to_bad`, `to_good`)."""

    model_config = ConfigDict(json_schema_extra=one_of_schema(*LOSS_FORMS))

    probability: LossProbability | None = Field(default=None, description="Of each packet on its own.")
    to_bad: Probability | None = Field(default=None, description="Bursts: step from the good to the bad state.")
    to_good: Probability | None = Field(default=None, description="Bursts: step back; 1 by the mean burst length.")
    loss_good: Probability | None = Field(default=None, description="Bursts: loss in the good state, 0 if not given.")
    loss_bad: Probability | None = Field(default=None, description="Bursts: loss in the bad state, 1 if not given.")

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        exactly_one(self, *LOSS_FORMS)
        if self.probability is not None and (self.loss_good is not None or self.loss_bad is not None):
            _fail("loss_good and loss_bad belong to bursts", "give to_bad and to_good in place of probability")
        checked(self.to_domain)
        return self

    def to_domain(self) -> Loss:
        """The shaper's value."""
        if self.probability is not None:
            return IndependentLoss(probability=self.probability)
        if self.to_bad is None or self.to_good is None:
            raise AssertionError("the schema asks for one form")
        return GilbertElliottLoss(
            to_bad=self.to_bad,
            to_good=self.to_good,
            loss_good=0.0 if self.loss_good is None else self.loss_good,
            loss_bad=1.0 if self.loss_bad is None else self.loss_bad,
        )


class ConditionsSection(Section):
    """Conditions of one direction of a link; what is not given does not limit it."""

    bandwidth: BytesPerSecond | None = Field(default=None, description="Rate; not limited without it.")
    latency: Seconds | None = Field(default=None, description="One-way delay; none without it.")
    jitter: JitterSection | None = Field(default=None, description="Deviation of delays from the latency.")
    loss: LossSection | None = Field(default=None, description="Lost packets; on streams, sent again.")
    duplicate: Probability | None = Field(default=None, description="Packets that come twice; packet backends only.")
    reorder: Probability | None = Field(default=None, description="Packets that overtake; packet backends only.")
    queue_limit: Bytes | None = Field(default=None, description="What may wait for the link; not limited without it.")
    mtu: Bytes | None = Field(default=None, description="Most payload of a packet.")
    overhead: Bytes | None = Field(default=None, description="What a packet takes up beside its payload; needs mtu.")
    up: Flag | None = Field(default=None, description="Whether anything passes; true if not given.")

    @model_validator(mode="after")
    def _valid(self) -> Self:
        self._check()
        return self

    def _check(self) -> None:
        checked(self.to_domain)

    def changes(self) -> dict[str, Any]:
        """What is given, by the names of :class:`~netshape.conditions.LinkConditions`."""
        given: dict[str, Any] = {
            "bandwidth_bytes_per_s": self.bandwidth,
            "latency_s": self.latency,
            "jitter": None if self.jitter is None else self.jitter.to_domain(),
            "loss": None if self.loss is None else self.loss.to_domain(),
            "duplicate_probability": self.duplicate,
            "reorder_probability": self.reorder,
            "queue_limit_bytes": self.queue_limit,
            "mtu_bytes": None if self.mtu is None else self.mtu if self.mtu % 1 else int(self.mtu),
            "overhead_bytes_per_packet": self.overhead,
            "up": self.up,
        }
        return {name: value for name, value in given.items() if value is not None}

    def to_domain(self) -> LinkConditions:
        """The shaper's value.

        Raises:
            NetworkError: Values that do not go together; validation has told that already.
        """
        return LinkConditions(**self.changes())


class StepSection(ConditionsSection):
    """What changes at one time of a schedule; conditions that are not given stay as they are.

    A jitter of spread 0 or a loss of probability 0 ends what was before.
    """

    at: Seconds = Field(description="When, from the schedule's beginning.")

    def _check(self) -> None:
        # Whether a step goes together with what was before, the schedule knows.
        if not self.changes():
            _fail("nothing changes here", "give at least one condition, or remove the step")

    def to_step(self) -> ConditionStep:
        """The shaper's value."""
        return ConditionStep(time_s=self.at, changes=tuple(self.changes().items()))


SCHEDULE_FORMS = (("steps",), ("trace",))


class ScheduleSection(Section):
    """Conditions that change at set times: listed, or from a CSV trace."""

    model_config = ConfigDict(json_schema_extra=one_of_schema(*SCHEDULE_FORMS))

    steps: tuple[StepSection, ...] | None = Field(
        default=None, min_length=1, max_length=MAX_STEPS, description="In the order of time."
    )
    trace: FileName | None = Field(default=None, description="CSV trace, relative to the file that names it.")
    repeat: PositiveSeconds | None = Field(
        default=None, description="Period after which it begins again; later than the last step."
    )

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        exactly_one(self, *SCHEDULE_FORMS)
        if self.steps is not None:
            checked(lambda: self.to_domain(Path()))
        return self

    def to_domain(self, folder: Path, first: LinkConditions | None = None) -> ConditionSchedule:
        """The shaper's value; reads the trace, if there is one.

        Args:
            folder: Folder of the file that this stands in.
            first: Conditions that the link begins with, to check the steps against.

        Raises:
            NetworkError: A trace that cannot be read, or steps that do not go together, with each other or ``first``.
        """
        if self.trace is not None:
            schedule = read_schedule(folder / self.trace, repeat_s=self.repeat)
        elif self.steps is not None:
            steps = tuple(step.to_step() for step in self.steps)
            schedule = ConditionSchedule(steps=steps, repeat_s=self.repeat)
        else:
            raise AssertionError("the schema asks for one form")
        if first is not None:
            schedule.one_period(first)
        return schedule


class LinkConditionsSection(ConditionsSection):
    """Conditions of one direction of a link from the beginning on, and how they change."""

    schedule: ScheduleSection | None = Field(default=None, description="How they change.")

    @model_validator(mode="after")
    def _steps_fit(self) -> Self:
        if self.schedule is not None and self.schedule.steps is not None:
            schedule = self.schedule
            checked(lambda: schedule.to_domain(Path(), self.to_domain()))
        return self


def checked(crossing: Any) -> None:
    """Turn what the shaper finds wrong into a problem of the file."""
    try:
        crossing()
    except NetworkError as error:
        rule, _, remedy = str(error).rpartition("; ")
        _fail(rule or str(error), remedy if rule else "change it")


def _fail(rule: str, remedy: str) -> None:
    raise PydanticCustomError("network", "{rule}; {remedy}", {"rule": rule, "remedy": remedy})
