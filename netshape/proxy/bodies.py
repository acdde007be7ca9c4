"""Bodies of the API's requests, read into values; nothing in them is trusted."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from netshape.proxy.addresses import ANY_PORT, parse_address
from netshape.proxy.errors import bad_body, invalid_stream, invalid_toxic_type, missing_field
from netshape.proxy.links import SIDES
from netshape.proxy.toxics import TOXICS
from netshape.proxy.toxics.toxic import DIRECTIONS, Direction, Toxic, shown

MAX_NAME_CHARACTERS = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyBody:
    """What a body says of a proxy; ``None`` where it says nothing.

    Attributes:
        name: Name of the proxy.
        listen: Address to listen at.
        upstream: Address of the upstream.
        enabled: Whether it is to listen.
        links: Links by direction and names of cards by side, as written; ``None`` in place of one removes it.
    """

    name: str | None = None
    listen: str | None = None
    upstream: str | None = None
    enabled: bool | None = None
    links: Mapping[str, Any] | None = None


def parse_json(body: bytes) -> Any:
    """The JSON value that a body is.

    Raises:
        ApiError: It is none.
    """
    if not body.strip():
        raise bad_body("EOF")
    try:
        return json.loads(body, parse_constant=_refuse_constant)
    except RecursionError:
        raise bad_body("nested too deeply") from None
    except ValueError as error:
        # Also what is no Unicode, and numbers of thousands of digits.
        raise bad_body(f"no JSON: {str(error)[:200]}") from error


def read_proxy(value: Any) -> ProxyBody:
    """What a JSON value says of a proxy; fields that are not known are passed over, as clients' versions differ.

    Raises:
        ApiError: No object, or a field of another type.
    """
    fields = _fields(value)
    return ProxyBody(
        name=_text(fields, "name", MAX_NAME_CHARACTERS),
        listen=_text(fields, "listen"),
        upstream=_text(fields, "upstream"),
        enabled=_flag(fields, "enabled"),
        links=_links(fields.get("links")),
    )


def read_new_proxy(value: Any, place: str = "") -> ProxyBody:
    """What a JSON value says of a proxy that is to be made.

    Args:
        value: The value.
        place: Where it stands in a list, for errors.

    Raises:
        ApiError: As of :func:`read_proxy`, or no name or upstream.
    """
    body = read_proxy(value)
    for name in ("name", "upstream"):
        if not getattr(body, name):
            raise missing_field(f"{name}{place}")
    parse_address(body.listen or ANY_PORT, "listen")
    parse_address(body.upstream or "", "upstream")
    return replace(body, listen=body.listen or "", enabled=body.enabled is not False)


def read_proxy_list(value: Any) -> list[ProxyBody]:
    """What a JSON list says of proxies that are to be made.

    Raises:
        ApiError: No list, or an entry that is no new proxy.
    """
    if not isinstance(value, list):
        raise bad_body(f"a list of proxies is expected, not {shown(value)}")
    bodies = [read_new_proxy(entry, f" at proxy {number}") for number, entry in enumerate(value, start=1)]
    for name, count in Counter(body.name for body in bodies).items():
        if count > 1:
            raise bad_body(f"{count} proxies are named {shown(name)}")
    return bodies


def read_new_toxic(value: Any) -> Toxic:
    """A toxic from a JSON value.

    Raises:
        ApiError: No object, a field of another type, an unknown type or direction, an attribute that it cannot have.
    """
    fields = _fields(value)
    stream = _stream(_text(fields, "stream"))
    kind = _text(fields, "type") or ""
    name = _text(fields, "name", MAX_NAME_CHARACTERS) or f"{kind}_{stream}"
    if kind not in TOXICS:
        raise invalid_toxic_type()
    toxicity = _toxicity(fields)
    attributes = TOXICS[kind].read(fields.get("attributes"))
    return Toxic(name=name, stream=stream, toxicity=1.0 if toxicity is None else toxicity, attributes=attributes)


def read_changed_toxic(value: Any, toxic: Toxic) -> Toxic:
    """``toxic`` with the attributes and the toxicity of a JSON value; its name, type and direction stay.

    Raises:
        ApiError: As of :func:`read_new_toxic`.
    """
    fields = _fields(value)
    toxicity = _toxicity(fields)
    return replace(
        toxic,
        toxicity=toxic.toxicity if toxicity is None else toxicity,
        attributes=toxic.attributes.changed(fields.get("attributes")),
    )


def _fields(value: Any) -> dict[str, Any]:
    """Fields by name in small letters, for Toxiproxy does not tell apart capitals either."""
    if not isinstance(value, dict):
        raise bad_body(f"an object is expected, not {shown(value)}")
    return {str(key).lower(): entry for key, entry in value.items()}


def _text(fields: Mapping[str, Any], name: str, most: int = 1024) -> str | None:
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise bad_body(f"{name} must be a string, not {shown(value)}")
    if len(value) > most:
        raise bad_body(f"{name} has {len(value)} characters; at most {most} are allowed")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise bad_body(f"{name} {shown(value)} is no Unicode text")
    if name == "name" and value in (".", ".."):
        raise bad_body(f"name {value!r} cannot stand in a path, where requests name it")
    return value


def _flag(fields: Mapping[str, Any], name: str) -> bool | None:
    value = fields.get(name)
    if value is not None and not isinstance(value, bool):
        raise bad_body(f"{name} must be true or false, not {shown(value)}")
    return value


def _stream(text: str | None) -> Direction:
    if text is None:
        return "downstream"
    stream = text.lower()
    if stream not in DIRECTIONS:
        raise invalid_stream()
    return stream


def _toxicity(fields: Mapping[str, Any]) -> float | None:
    value = fields.get("toxicity")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise bad_body(f"toxicity must be a number from 0 to 1, not {shown(value)}")
    return float(value)


def _links(value: Any) -> Mapping[str, Any] | None:
    if value is None:
        return None
    links = _fields(value)
    known = (*DIRECTIONS, *SIDES)
    for name in links:
        if name not in known:
            raise bad_body(f"links has {', '.join(known)}, not {shown(name)}")
    return links


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON number")
