"""What all toxics have in common: a name, a direction, a probability, and attributes that make stages.

Attributes carry the names and units of Toxiproxy's HTTP API (milliseconds, kilobytes per second), for they are what the
API reads and shows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, Literal, Self

from netshape.proxy.errors import bad_body
from netshape.proxy.stages import Place, Stage

Direction = Literal["upstream", "downstream"]
DIRECTIONS: tuple[Direction, ...] = ("upstream", "downstream")
MAX_ATTRIBUTE = 2**63 - 1
MAX_SHOWN = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributes(ABC):
    """What one type of toxic can be told; every attribute is a whole number from 0.

    Raises:
        ApiError: An attribute out of its range.
    """

    TYPE: ClassVar[str]

    @abstractmethod
    def stage(self, place: Place, name: str) -> Stage:
        """The stage that does it to one direction of one connection.

        Args:
            place: The pipe around the stage.
            name: The toxic's name, from which its random draws derive.
        """

    @classmethod
    def read(cls, given: object) -> Self:
        """Attributes from a JSON object; those that are not given are 0.

        Raises:
            ApiError: No object, an attribute that does not exist, or a value that it cannot have.
        """
        return cls(**cls._values(given))

    def changed(self, given: object) -> Self:
        """These attributes with those of a JSON object in their place; errors as of :meth:`read`."""
        return replace(self, **self._values(given))

    @classmethod
    def _values(cls, given: object) -> dict[str, int]:
        if given is None:
            return {}
        if not isinstance(given, Mapping):
            raise bad_body(f"attributes must be an object, not {shown(given)}")
        known = [field.name for field in fields(cls)]
        values: dict[str, int] = {}
        for key, value in given.items():
            name = str(key).lower()
            if name not in known:
                takes = ", ".join(known) if known else "none"
                raise bad_body(f"a {cls.TYPE} toxic has no attribute {shown(key)} (it has: {takes})")
            values[name] = _whole_number(name, value)
        return values

    def shown(self) -> dict[str, int]:
        """The attributes as a JSON object."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Toxic:
    """A toxic on one direction of a proxy.

    Attributes:
        name: Unique within the proxy.
        stream: Direction that it works on; ``upstream`` is from client to server.
        toxicity: Probability that it works on a connection, 0 to 1.
        attributes: What it does.
    """

    name: str
    stream: Direction
    toxicity: float
    attributes: Attributes

    def shown(self) -> dict[str, Any]:
        """The toxic as the API shows it."""
        return {
            "attributes": self.attributes.shown(),
            "name": self.name,
            "type": self.attributes.TYPE,
            "stream": self.stream,
            "toxicity": self.toxicity,
        }


def shown(value: object) -> str:
    """An offending value for a message: printable and short."""
    text = ascii(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def _whole_number(name: str, value: object) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_ATTRIBUTE:
        raise bad_body(f"attributes.{name} must be a whole number from 0, not {shown(value)}")
    return value
