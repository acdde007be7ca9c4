"""What travels on a connection between two machines of a run: a greeting, then frames of a header and zero bytes.

A message is what one request sends to its next machine. Its payload has the real number of bytes, so a long prompt's
is cut into frames of at most :data:`MAX_PAYLOAD_BYTES`; the last one says so.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from hmac import compare_digest
from typing import NamedTuple

from emulator.errors import SimulationError

MAGIC = b"helixemu"
VERSION = 1
TOKEN_BYTES = 16
MAX_PAYLOAD_BYTES = 256 * 1024
"""Longest frame: between two of them other connections and events get their turn."""
MAX_PATH = 1024
"""Most links of a pipeline."""
MAX_NAME_BYTES = 512

_GREETING = struct.Struct(f"<8sH{TOKEN_BYTES}sHH")
_HEADER = struct.Struct("<HIQIIIIIIIHHBd")
_PATH_LENGTH = struct.Struct("<H")
_LINK = struct.Struct("<I")

LAST = 1
PREFILL = 2


class FrameError(SimulationError):
    """Bytes that are no frame of this run."""


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
        planned_s: Emulated time at which its last byte is due at the receiver.
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


def pack(message: Message, payload_bytes: int, *, last: bool) -> bytes:
    """The header of a frame with ``payload_bytes`` of ``message``."""
    header = _HEADER.pack(
        len(message.path),
        payload_bytes,
        message.serial,
        message.link,
        message.attempt,
        message.request,
        message.tokens,
        message.context,
        message.emitted,
        message.longest,
        message.layer,
        message.hop,
        (LAST if last else 0) | (PREFILL if message.prefill else 0),
        message.planned_s,
    )
    return header + struct.pack(f"<{len(message.path)}I", *message.path)


class FrameParser:
    """Takes a connection's bytes apart, whatever pieces they come in; never holds more than a header.

    Args:
        on_begun: Gets each message of several frames as soon as the header of its first one is here.

    Attributes:
        within_frame: Whether a frame has begun and is not complete.
    """

    __slots__ = ("_begun", "_head", "_last", "_message", "_on_begun", "_skip")

    def __init__(self, on_begun: Callable[[Message], None] | None = None) -> None:
        self._on_begun = on_begun
        self._begun: int | None = None
        self._head = bytearray()
        self._skip = 0
        self._message: Message | None = None
        self._last = False

    @property
    def within_frame(self) -> bool:
        """Whether bytes of the present message are missing."""
        return bool(self._head) or self._message is not None

    def feed(self, data: memoryview) -> Iterator[Message]:
        """Messages that ``data`` completes.

        Raises:
            FrameError: The bytes are no frames.
        """
        at, size = 0, len(data)
        while at < size or (self._message is not None and not self._skip):
            if self._message is not None:
                taken = min(self._skip, size - at)
                self._skip -= taken
                at += taken
                if not self._skip:
                    message, self._message = self._message, None
                    if self._last:
                        yield message
                continue
            need = _HEADER.size
            if len(self._head) >= need:
                need += self._path_length(self._head) * _LINK.size
            taken = min(need - len(self._head), size - at)
            self._head += data[at : at + taken]
            at += taken
            if len(self._head) == _HEADER.size + self._path_length(self._head) * _LINK.size:
                self._begin(self._head)
                self._head = bytearray()

    @staticmethod
    def _path_length(head: bytearray) -> int:
        """Links in the path of a header; as long as that is open, none."""
        if len(head) < _HEADER.size:
            return 0
        (length,) = _PATH_LENGTH.unpack_from(head)
        if length > MAX_PATH:
            raise FrameError(f"a frame with a path of {length} links; at most {MAX_PATH} are possible")
        return int(length)

    def _begin(self, head: bytearray) -> None:
        length, payload, *numbers, flags, planned_s = _HEADER.unpack_from(head)
        if payload > MAX_PAYLOAD_BYTES:
            raise FrameError(f"a frame of {payload} bytes; at most {MAX_PAYLOAD_BYTES} are allowed")
        if flags & ~(LAST | PREFILL) or not planned_s >= 0:
            raise FrameError(f"a frame with flags {flags:#x} for time {planned_s}; neither is possible")
        path = struct.unpack_from(f"<{length}I", head, _HEADER.size)
        self._skip, self._last = payload, bool(flags & LAST)
        self._message = Message._make((*numbers, bool(flags & PREFILL), planned_s, path))
        if self._last:
            self._begun = None
        elif self._begun != self._message.serial:
            self._begun = self._message.serial
            if self._on_begun is not None:
                self._on_begun(self._message)


def greeting(token: bytes, source: str, target: str) -> bytes:
    """The first bytes of a connection from ``source`` to ``target``."""
    ends = source.encode(), target.encode()
    if max(map(len, ends)) > MAX_NAME_BYTES:
        raise SimulationError(f"node name {max(source, target, key=len)!r} is longer than {MAX_NAME_BYTES} bytes")
    return _GREETING.pack(MAGIC, VERSION, token, len(ends[0]), len(ends[1])) + ends[0] + ends[1]


def greeting_length(data: bytes | bytearray) -> int:
    """Bytes that a greeting beginning with ``data`` has, or, as long as that is open, those needed to tell.

    Raises:
        FrameError: It does not begin like one.
    """
    prefix = data[: len(MAGIC)]
    if prefix != MAGIC[: len(prefix)]:
        raise FrameError("the connection does not begin with a greeting")
    if len(data) < _GREETING.size:
        return _GREETING.size
    _, version, _, source, target = _GREETING.unpack_from(data)
    if version != VERSION:
        raise FrameError(f"a greeting of version {version}; this one speaks {VERSION}")
    if max(source, target) > MAX_NAME_BYTES:
        raise FrameError("a greeting with an endless name")
    return _GREETING.size + int(source) + int(target)


def read_greeting(data: bytes | bytearray, token: bytes) -> tuple[str, str]:
    """Source and target of a whole greeting.

    Raises:
        FrameError: It belongs to another run.
    """
    _, _, theirs, source, _ = _GREETING.unpack_from(data)
    if not compare_digest(theirs, token):
        raise FrameError("a greeting of another run")
    names = bytes(data[_GREETING.size :])
    try:
        return names[:source].decode(), names[source:].decode()
    except UnicodeDecodeError as error:
        raise FrameError("a greeting with names that are no text") from error
