"""What machines of a run say to each other within netshape's frames: who they are, and which request goes on.

A message is what one request sends to its next machine, told in the application header of a frame. The payload has the
real number of bytes, so a long prompt's message is cut into frames of at most :data:`MAX_PAYLOAD_BYTES`; the last one
says so.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from hmac import compare_digest
from typing import NamedTuple

from emulator.errors import SimulationError
from netshape.frames import FrameLimits, MalformedFrameError

TOKEN_BYTES = 16
MAX_PAYLOAD_BYTES = 256 * 1024
"""Longest frame: between two of them other connections and events get their turn."""
MAX_PATH = 1024
"""Most links of a pipeline."""
MAX_NAME_BYTES = 512

_GREETING = struct.Struct(f"<{TOKEN_BYTES}sH")
_MESSAGE = struct.Struct("<QIIIIIIIHHBd")
_LINK_BYTES = 4

LAST = 1
PREFILL = 2

LIMITS = FrameLimits(
    max_payload_bytes=MAX_PAYLOAD_BYTES,
    max_header_bytes=_MESSAGE.size + MAX_PATH * _LINK_BYTES,
    # Emulated time may be slowed down as one likes, and a link be down until the end.
    max_hold_s=math.inf,
)
"""What connections of a run take."""


class Message(NamedTuple):
    """One request on its way from one machine to the next.

    Attributes:
        serial: Running number at its sender.
        link: Index of the link that it takes.
        attempt: Number of the attempt at the coordinator's; 0 where sender and receiver share their memory.
        request: Number of the request.
        tokens: Tokens that each layer computes in this iteration.
        context: Tokens whose KV entries earlier iterations left.
        emitted: Tokens that the client has.
        longest: Tokens that the request can reach.
        layer: First layer to run at the receiver; the number of layers for the coordinator.
        hop: Stages completed in this iteration.
        prefill: Whether this iteration is the prefill.
        planned_s: Emulated time at which its last byte is due at the receiver; that of its frames is the same on the
            wall's clock, rounded.
        path: Links taken so far, of a prefill whose receiver does not know them.
    """

    serial: int
    link: int
    attempt: int
    request: int
    tokens: int
    context: int
    emitted: int
    longest: int
    layer: int
    hop: int
    prefill: bool
    planned_s: float
    path: tuple[int, ...] = ()


def frame_sizes(payload_bytes: int) -> Iterator[int]:
    """Payload sizes of the frames that carry ``payload_bytes``; at least one."""
    while payload_bytes > MAX_PAYLOAD_BYTES:
        yield MAX_PAYLOAD_BYTES
        payload_bytes -= MAX_PAYLOAD_BYTES
    yield payload_bytes


def pack(message: Message, *, last: bool) -> bytes:
    """The application header of one of the message's frames."""
    *numbers, prefill, planned_s, path = message
    head = _MESSAGE.pack(*numbers, (LAST if last else 0) | (PREFILL if prefill else 0), planned_s)
    return head + struct.pack(f"<{len(path)}I", *path) if path else head


def unpack(header: bytes) -> tuple[Message, bool]:
    """The message that a frame is of, and whether the frame is its last.

    Raises:
        MalformedFrameError: The header is no message's.
    """
    rest = len(header) - _MESSAGE.size
    if rest < 0 or rest % _LINK_BYTES:
        raise MalformedFrameError(f"malformed frame: a message with a header of {len(header)} bytes")
    *numbers, flags, planned_s = _MESSAGE.unpack_from(header)
    if flags & ~(LAST | PREFILL) or not planned_s >= 0:
        raise MalformedFrameError(f"malformed frame: a message with flags {flags:#x} for emulated time {planned_s!r}")
    path = struct.unpack_from(f"<{rest // _LINK_BYTES}I", header, _MESSAGE.size) if rest else ()
    return Message._make((*numbers, bool(flags & PREFILL), planned_s, path)), bool(flags & LAST)


def greeting(token: bytes, source: str, target: str) -> bytes:
    """What a connection from ``source`` to ``target`` begins with."""
    ends = source.encode(), target.encode()
    if max(map(len, ends)) > MAX_NAME_BYTES:
        raise SimulationError(f"node name {max(source, target, key=len)!r} is longer than {MAX_NAME_BYTES} bytes")
    return _GREETING.pack(token, len(ends[0])) + ends[0] + ends[1]


def read_greeting(data: bytes, token: bytes) -> tuple[str, str]:
    """Source and target of a greeting.

    Raises:
        MalformedFrameError: It belongs to another run, or to none.
    """
    if len(data) < _GREETING.size:
        raise MalformedFrameError(f"malformed frame: a greeting of {len(data)} bytes")
    theirs, source = _GREETING.unpack_from(data)
    if not compare_digest(theirs, token):
        raise MalformedFrameError("malformed frame: a greeting of another run")
    names = data[_GREETING.size :]
    try:
        return names[:source].decode(), names[source:].decode()
    except UnicodeDecodeError as error:
        raise MalformedFrameError("malformed frame: a greeting with names that are no text") from error
