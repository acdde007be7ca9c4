"""Schema of whom something happens to: machines, ends of links, groups."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Self

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from scenarios.schema_parts import Count, Flag, Section, Text

MOST_NAMES = 5_000


@dataclass(frozen=True, slots=True, eq=False)
class Shorthand:
    """Marks a field with a shorter form, spelled out before validation.

    Attributes:
        spell_out: Turns the short form into the long one, and leaves everything else as it is.
        forms: JSON Schemas of the short forms.
    """

    spell_out: Callable[[object], object]
    forms: tuple[dict[str, Any], ...]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Spell out, then validate."""
        return core_schema.no_info_before_validator_function(self.spell_out, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The short forms beside the long one."""
        return {"anyOf": [*self.forms, handler(schema)]}


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


def under(key: str) -> Callable[[object], object]:
    """Spells out text, or a list, as a mapping with that one key."""
    return lambda value: {key: value} if isinstance(value, (str, list)) else value


WORD: dict[str, Any] = {"type": "string", "minLength": 1}
_WORDS: dict[str, Any] = {"type": "array", "items": WORD, "minItems": 1}
Pattern = Annotated[Text, Field(min_length=1, max_length=200)]
Names = Annotated[
    tuple[Pattern, ...], Field(min_length=1, max_length=MOST_NAMES), Shorthand(_listed, ({**WORD, "maxLength": 200},))
]


class TargetSection(Section):
    """Machines: those that meet every condition."""

    nodes: Names | None = Field(default=None, description="Names or patterns such as t4-*; any when absent.")
    region: Names | None = Field(default=None, description="Regions; any when absent.")
    machine: Names | None = Field(default=None, description="Machine types; any when absent.")
    choose: Count | None = Field(
        default=None, le=MOST_NAMES, description="So many of them, drawn at random when it happens; all when absent."
    )

    @model_validator(mode="after")
    def _some_condition(self) -> Self:
        if self.nodes is None and self.region is None and self.machine is None and self.choose is None:
            context = {"rule": "it names nobody", "remedy": 'give nodes, region, machine or choose; "*" is every node'}
            raise PydanticCustomError("target", "{rule}; {remedy}", context)
        return self


class EndSection(Section):
    """One end of links, or one group of a partition; whoever meets one of the conditions belongs to it."""

    named: Names | None = Field(default=None, description="Nodes, patterns, regions, or coordinator.")
    nodes: Names | None = Field(default=None, description="Names or patterns of nodes.")
    region: Names | None = Field(default=None, description="Regions; the coordinator is in one of them, too.")
    machine: Names | None = Field(default=None, description="Machine types.")
    coordinator: Flag = Field(default=False, description="Whether the coordinator belongs to it.")

    @model_validator(mode="after")
    def _some_condition(self) -> Self:
        if self.named is self.nodes is self.region is self.machine is None and not self.coordinator:
            context = {"rule": "it names nobody", "remedy": "name a node, a pattern, a region or coordinator"}
            raise PydanticCustomError("target", "{rule}; {remedy}", context)
        return self


Target = Annotated[TargetSection, Shorthand(under("nodes"), (WORD, _WORDS))]
End = Annotated[EndSection, Shorthand(under("named"), (WORD, _WORDS))]


class LinksSection(Section):
    """All links from one end to the other."""

    source: End = Field(alias="from", description="Sending end: node, pattern, region or coordinator.")
    target: End = Field(alias="to", description="Receiving end: node, pattern, region or coordinator.")
    both_ways: Flag = Field(default=True, description="Whether the links back are meant, too.")
