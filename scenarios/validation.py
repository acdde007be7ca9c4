"""Turns what pydantic has to say into problems with file, line, path, rule and remedy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from scenarios.errors import Problem
from scenarios.library import suggestion
from scenarios.schema import ScenarioSection
from scenarios.tree import Plain, Tree, TreePath, dotted

_TYPES = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "tuple_type": "a list",
    "list_type": "a list",
    "finite_number": "a finite number",
    "int_parsing": "a whole number",
}
_LIMITS = {
    "greater_than": ("greater than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}


def problem_at(tree: Tree, path: TreePath, rule: str, remedy: str, *, value: object = None) -> Problem:
    """A problem with what is at ``path``, or with the innermost part around it that exists.

    Args:
        tree: The whole scenario.
        path: Where the problem is.
        rule: What is wrong.
        remedy: What to do.
        value: Offending value; the scalar at ``path`` when not given.
    """
    part = tree.at(path)
    if value is None and part is not None and not isinstance(part.content, (dict, list)):
        value = part.content
    origin = (part or tree.nearest(path)).origin
    return Problem(origin.file, origin.line, dotted(path), value, rule, remedy)


def validate(tree: Tree, broken: Iterable[TreePath]) -> tuple[dict[str, Any], list[Problem]]:
    """Check the whole scenario against the schema.

    Args:
        tree: The scenario with all references replaced by what they stand for.
        broken: Paths where that did not work; they have had their say.

    Returns:
        The sections that are in order, by key (everything, defaults included, when there is no problem), and the
        problems. Unknown keys alone do not make a section useless.
    """
    found = _errors(tree.plain())
    problems: list[Problem] = []
    pruned = tree
    for error in found:
        path = _tree_path(tree, error["loc"])
        if error["type"] == "extra_forbidden":
            pruned = pruned.without(path)
        if not any(path[: len(part)] == part for part in broken):
            problems.append(_problem(tree, path, error))
    unusable = {part[0] for part in broken if part}
    return _sections(pruned, unusable), problems


def schema_problems(tree: Tree, error: ValidationError, path: TreePath) -> list[Problem]:
    """What the schema has to say about the part at ``path``, which was checked on its own."""
    found: list[Problem] = []
    for detail in error.errors(include_url=False):
        detail["loc"] = (*path, *detail["loc"])
        found.append(_problem(tree, _tree_path(tree, detail["loc"]), detail))
    return found


def _errors(plain: Plain) -> list[ErrorDetails]:
    try:
        ScenarioSection.model_validate(plain)
    except ValidationError as error:
        return error.errors(include_url=False)
    return []


def _sections(tree: Tree, unusable: set[Any]) -> dict[str, Any]:
    """Each top-level key on its own, so that one bad section does not hide what is wrong with the others."""
    sections: dict[str, Any] = {}
    for key, adapter in _adapters().items():
        field = ScenarioSection.model_fields[key]
        part = tree.child(key)
        if key in unusable:
            continue
        if part is None:
            if not field.is_required():
                sections[key] = field.get_default(call_default_factory=True, validated_data={})
            continue
        try:
            sections[key] = adapter.validate_python(part.plain())
        except ValidationError:
            continue
    return sections


@cache
def _adapters() -> Mapping[str, TypeAdapter[Any]]:
    fields = ScenarioSection.model_fields
    return {key: TypeAdapter(field.rebuild_annotation()) for key, field in fields.items()}


def _tree_path(tree: Tree, location: tuple[int | str, ...]) -> TreePath:
    """The path of a pydantic location, which also names the chosen members of unions."""
    path: list[int | str] = []
    node: Tree | None = tree
    for index, key in enumerate(location):
        inner = node.child(key) if node is not None else None
        last = index == len(location) - 1
        # A member of a union is no part of the tree, but neither is a key that is missing.
        if inner is None and (not last or _is_tag(key)):
            continue
        path.append(key)
        node = inner
    return tuple(path)


def _is_tag(key: int | str) -> bool:
    return isinstance(key, str) and (key.startswith("<") or key in ("open", "closed", "[key]"))


def _problem(tree: Tree, path: TreePath, error: ErrorDetails) -> Problem:
    rule, remedy = _rule(tree, path, error)
    part = tree.at(path)
    value = part.content if part is not None and not isinstance(part.content, (dict, list)) else None
    if part is not None and part.content is None and error["type"] != "extra_forbidden":
        rule = f"it is empty (null); {rule}" if not rule.startswith("it is empty") else rule
    return problem_at(tree, path, rule, remedy, value=value)


def _rule(tree: Tree, path: TreePath, error: ErrorDetails) -> tuple[str, str]:
    kind, context = error["type"], error.get("ctx", {})
    if "rule" in context:
        return str(context["rule"]), str(context["remedy"])
    if kind == "missing":
        return "this key is missing", f"add {dotted(path[-1:])}{_described(error['loc'])}"
    if kind == "extra_forbidden":
        return _unknown_key(tree, path, error["loc"])
    if kind in _TYPES:
        return f"{_TYPES[kind]} belongs here", _type_remedy(kind)
    if kind in _LIMITS:
        words, key = _LIMITS[kind]
        return f"it must be {words} {context[key]:,.12g}", "change the number"
    if kind in ("enum", "literal_error"):
        expected = str(context["expected"]).replace("'", "").replace(" or ", ", ").split(", ")
        part = tree.at(path)
        return f"it must be one of {', '.join(expected)}", suggestion(str(part.content if part else ""), expected)
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        tags = str(context.get("expected_tags", "'open', 'closed'")).replace("'", "")
        return f"its kind must be one of {tags}", "add or correct kind"
    if kind in ("too_short", "too_long", "string_too_short", "string_too_long"):
        return _length_rule(kind, context), "check the number of entries or characters"
    if kind == "string_pattern_mismatch":
        return "it has blanks or commas, or another form than expected", f"it must match {context['pattern']}"
    return str(error["msg"])[:1].lower() + str(error["msg"])[1:], "see `helixemu schema`"


def _type_remedy(kind: str) -> str:
    if kind == "bool_type":
        return "write true or false, without quotes (yes, no, on and off are text)"
    if kind == "string_type":
        return "write text; put it in quotes when it looks like a number"
    if kind in ("dict_type", "model_type", "model_attributes_type"):
        return "write `key: value` lines below it"
    if kind in ("tuple_type", "list_type"):
        return "write [a, b] or lines that start with a dash"
    return "write digits without quotes or unit"


def _length_rule(kind: str, context: Mapping[str, Any]) -> str:
    least, most = context.get("min_length"), context.get("max_length")
    what = "characters" if kind.startswith("string") else "entries"
    return f"it has fewer than {least} {what}" if kind.endswith("short") else f"it has more than {most} {what}"


def _unknown_key(tree: Tree, path: TreePath, location: tuple[int | str, ...]) -> tuple[str, str]:
    key = str(path[-1])
    if key == "include":
        around = tree.at(path[:-1])
        if around is not None and isinstance(around.content, dict) and len(around.content) > 1:
            return "include must be the only key of its mapping", "change included values with overrides or --set"
        places = "model, cluster, cluster.network, profiles, placement, workload, churn and lengths"
        return "nothing can be included here", f"include is for {places}"
    known = sorted(_properties(location[:-1]))
    return "there is no such key", suggestion(key, known)


def _described(location: tuple[int | str, ...]) -> str:
    found = _subschemas(location)
    text = next((str(each["description"]) for each in found if each.get("description")), "")
    return f" ({text.rstrip('.')})" if text else ""


@cache
def _schema() -> dict[str, Any]:
    return ScenarioSection.model_json_schema()


def _properties(location: tuple[int | str, ...]) -> set[str]:
    """Keys that the schema knows at a pydantic location."""
    return {key for each in _spread(_subschemas(location)) for key in each.get("properties", {})} - {"include"}


def _subschemas(location: tuple[int | str, ...]) -> list[dict[str, Any]]:
    found = [_schema()]
    for key in location:
        inner: list[dict[str, Any]] = []
        for each in _spread(found):
            if key in each.get("properties", {}):
                inner.append(each["properties"][key])
            elif isinstance(key, int) and "items" in each:
                inner.append(each["items"])
            elif isinstance(each.get("additionalProperties"), dict):
                inner.append(each["additionalProperties"])
        # A location also names union members: open, closed, <mapping>.
        tagged = [each for each in _spread(found) if each.get("properties", {}).get("kind", {}).get("const") == key]
        tagged += [each for each in _spread(found) if f"<{each.get('title')}>" == key]
        found = inner or tagged or found
    return found


def _spread(schemas: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The schemas with references followed and alternatives side by side."""
    result: list[dict[str, Any]] = []
    for each in schemas:
        if "$ref" in each:
            result += _spread([_schema()["$defs"][each["$ref"].rpartition("/")[2]]])
        result += _spread([part for key in ("anyOf", "oneOf") for part in each.get(key, []) if "required" not in part])
        result.append(each)
    return result
