"""What the schema models share: their base class, checked scalars and the marks that JSON Schema needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, JsonValue, Strict, StringConstraints
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

# Strict, because a "4" or a true where a number belongs is a slip that should be told, not guessed away.
Whole = Annotated[int, Strict(), Field(ge=0, le=10**12)]
Count = Annotated[int, Strict(), Field(ge=1, le=10**12)]
Number = Annotated[float, Strict(), Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Strict(), Field(gt=0, le=1, allow_inf_nan=False)]
Flag = Annotated[bool, Strict()]
Text = Annotated[str, Strict()]
Name = Annotated[str, Strict(), StringConstraints(min_length=1, max_length=200, pattern=r"^[^\s,]+$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Options = dict[str, JsonValue]
FileName = Annotated[str, Strict(), StringConstraints(min_length=1, max_length=4000)]


class Section(BaseModel):
    """A mapping in a scenario file: no key beside the ones given, immutable once read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class FileSection(Section):
    """A mapping that may be a file of its own, or stand inside another file."""

    schema_version: Literal[1] | None = Field(default=None, description="Version of this format: 1.")
    description: Text = Field(default="", description="One line for lists.")
    source: Text = Field(default="", description="Where the figures come from.")


def exactly_one(section: Section, *groups: tuple[str, ...]) -> None:
    """Check that one of several ways to say something is used.

    Args:
        section: The section.
        *groups: Keys that belong together; one group must be there whole, the others not at all.

    Raises:
        PydanticCustomError: None, several or only a part.
    """
    used = [group for group in groups if any(getattr(section, key) is not None for key in group)]
    names = [" with ".join(group) for group in groups]
    ways = f"{', '.join(names[:-1])} or {names[-1]}"
    if len(used) != 1:
        found = f"it has {' and '.join('/'.join(group) for group in used)}" if used else "it has none of them"
        raise PydanticCustomError(
            "exactly_one",
            "{rule}; {remedy}",
            {"rule": f"it needs exactly one of {ways}; {found}", "remedy": "keep one"},
        )
    missing = [key for key in used[0] if getattr(section, key) is None]
    if missing:
        rule = f"{used[0][0]} and {' and '.join(used[0][1:])} belong together; {', '.join(missing)} is missing"
        raise PydanticCustomError("exactly_one", "{rule}; {remedy}", {"rule": rule, "remedy": f"add {missing[0]}"})


def one_of_schema(*groups: tuple[str, ...]) -> dict[str, Any]:
    """The same for an editor: ``json_schema_extra`` of a section that uses :func:`exactly_one`."""
    return {"oneOf": [{"required": list(group)} for group in groups]}


@dataclass(frozen=True, slots=True)
class Reference:
    """Marks a field whose mapping may also be given as a file or a library name.

    The loader puts the mapping in its place before validation, so only the JSON Schema shows the other forms.

    Attributes:
        kind: Kind of the file.
        library: Whether the library has entries of this kind.
    """

    kind: str
    library: bool = False

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Text or ``{include: FILE}`` beside the mapping."""
        what = "Library name, or path" if self.library else "Path"
        text = {"type": "string", "minLength": 1, "description": f"{what} of a {self.kind} file."}
        include = {
            "type": "object",
            "properties": {"include": {"type": "string", "description": f"Path of a {self.kind} file."}},
            "required": ["include"],
            "additionalProperties": False,
        }
        return {"anyOf": [text, include, handler(schema)]}
