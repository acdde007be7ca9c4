"""Frames of a shaped connection: their form, their limits, and their reading.

A frame is 32 bytes of fixed header, little-endian, then an application header (opaque), then the payload:

======== ============================================================================================
bytes    meaning
======== ============================================================================================
0 to 3   bytes of application header and payload together
4 to 5   bytes of the application header
6        kind (:class:`Kind`)
7        version of the format, 1
8 to 15  planned delivery, seconds of CLOCK_MONOTONIC as a double; infinite while the link is down
16 to 23 when the sender handed it over, the same clock
24 to 31 seconds that the message takes up on its link
======== ============================================================================================

CLOCK_MONOTONIC is one clock for all processes of a machine (of one time namespace); the first frame of a connection
names the clock, so that two machines cannot be connected by mistake.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path

from netshape.errors import NetworkError
from netshape.slabs import MAX_SLAB_BYTES, MIN_SLAB_BYTES, SLABS, Slab

HEADER = struct.Struct("<IHBBddd")
HEADER_BYTES = HEADER.size
VERSION = 1
CONTROL_BYTES = 1 << 16
"""Longest body of a frame that is not data."""
_MIN_ROOM_BYTES = 1 << 14


class Kind(enum.IntEnum):
    """What a frame is."""

    HELLO = 1
    """First frame each way: magic, clock, and a greeting of the application."""
    DATA = 2
    """A message."""
    END = 3
    """The last frame: nothing comes after it, and it is delivered right after what came before."""
    REPLAN = 4
    """New delivery times of messages under way."""
    HEARTBEAT = 5
    """Nothing, to show that the peer is there."""
    CONDITIONS = 6
    """Bandwidth and latency that hold from now on, for the receiver's report."""


KINDS = frozenset(int(kind) for kind in Kind)


class ConnectionFailedError(NetworkError):
    """A connection that ended otherwise than by its peer's end frame."""


class MalformedFrameError(ConnectionFailedError):
    """Bytes that are no frame, or a frame beyond the limits; the connection is closed."""


class PeerLostError(ConnectionFailedError):
    """The peer is gone without an end frame: closed, killed or reset, perhaps in the middle of a frame."""


class PeerSilentError(ConnectionFailedError):
    """Nothing came from the peer for too long, not even a heartbeat: the connection is half open."""


class SendQueueFullError(NetworkError):
    """More was sent without waiting than may pile up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameLimits:
    """What a connection takes.

    Attributes:
        max_payload_bytes: Longest payload of a frame.
        max_header_bytes: Longest application header, at most 65535.
        max_held_bytes: Bytes that a receiver holds, be it for their time or for a slow reader, before it stops reading
            from the socket. It must cover rate times latency of the link, since bytes under way are held here.
        max_unsent_bytes: Bytes that may pile up unsent under ``send_nowait``.
        max_hold_s: How far ahead a delivery may be planned.
        handshake_s: How soon the first frame must be there.
        heartbeat_s: Quiet time after which a heartbeat is sent.
        silence_s: Quiet time after which the peer is taken for gone; infinite for never.

    Raises:
        NetworkError: A value out of its range.
    """

    max_payload_bytes: int = 1 << 26
    max_header_bytes: int = 4096
    max_held_bytes: int = 1 << 28
    max_unsent_bytes: int = 1 << 28
    max_hold_s: float = 3600.0
    handshake_s: float = 10.0
    heartbeat_s: float = 5.0
    silence_s: float = 20.0

    def __post_init__(self) -> None:
        for name in ("max_payload_bytes", "max_held_bytes", "max_unsent_bytes"):
            if not 1 <= getattr(self, name) <= 1 << 34:
                raise NetworkError(f"{name} = {getattr(self, name)!r}: it must be from 1 to {1 << 34}")
        if self.max_payload_bytes > 1 << 31:
            raise NetworkError(f"max_payload_bytes = {self.max_payload_bytes!r}: it must be at most {1 << 31}")
        if not 0 <= self.max_header_bytes <= 0xFFFF:
            raise NetworkError(f"max_header_bytes = {self.max_header_bytes!r}: it must be from 0 to 65535")
        for name in ("max_hold_s", "handshake_s", "heartbeat_s", "silence_s"):
            if not getattr(self, name) > 0:
                raise NetworkError(f"{name} = {getattr(self, name)!r}: it must be above 0")


DEFAULT_LIMITS = FrameLimits()


def header_problem(
    limits: FrameLimits,
    length: int,
    header_length: int,
    kind: int,
    version: int,
    planned: float,
    handed: float,
    transmission: float,
    *,
    latest: float,
) -> str:
    """What is wrong with a fixed header; empty for a good one.

    Args:
        limits: What is too long.
        length: This and what follows are the fields of the header, in order.
        latest: Latest finite time to be allowed.
    """
    if version != VERSION:
        return f"version {version}, but only {VERSION} is known"
    if kind not in KINDS:
        return f"kind {kind} is unknown"
    if header_length > length or header_length > limits.max_header_bytes:
        return f"{header_length} bytes of header in {length} bytes; at most {limits.max_header_bytes} are allowed"
    longest = limits.max_payload_bytes if kind == Kind.DATA else CONTROL_BYTES
    if length - header_length > longest:
        return f"{length - header_length} bytes of payload; at most {longest} are allowed"
    if not (0 <= planned <= latest or planned == math.inf):
        return f"it is planned for {planned!r}, which is no time within {limits.max_hold_s:g} s"
    if not (0 <= handed <= latest and 0 <= transmission <= limits.max_hold_s):
        return f"it was handed over at {handed!r} and takes {transmission!r} s, which are no such times"
    return ""


Frame = tuple[int, float, float, float, Slab, int, int, int]
"""Kind, planned, handed over, transmission; slab, start of the header, of the payload, and end of the payload in it."""


class FrameReader:
    """Finds frames in received bytes without copying them; no I/O of its own.

    Args:
        limits: What is too long.

    Attributes:
        problem: What was malformed; once there is something, all further bytes are ignored.
    """

    def __init__(self, limits: FrameLimits = DEFAULT_LIMITS) -> None:
        self._limits = limits
        self.problem: MalformedFrameError | None = None
        self._slab_bytes = MIN_SLAB_BYTES
        self._slab = _NOTHING
        self._start = self._end = 0
        self._wanted = HEADER_BYTES

    @property
    def partial_bytes(self) -> int:
        """Bytes received of a frame that is not complete."""
        return self._end - self._start

    def buffer(self) -> memoryview:
        """Where the next bytes go; at least 1 byte."""
        missing = self._wanted - (self._end - self._start)
        if self._slab.size_bytes - self._end < max(missing, _MIN_ROOM_BYTES):
            self._next_slab()
        return self._slab.view[self._end :]

    def received(self, count: int, now_s: float) -> list[Frame]:
        """The frames that ``count`` more bytes in the buffer complete, in order, up to the first malformed one.

        Every frame counts as held in its slab until :meth:`release`.

        Args:
            count: Bytes received.
            now_s: Now, for the limit of planned times.
        """
        if self.problem is not None:
            return []
        self._end += count
        if 2 * count >= self._slab_bytes < MAX_SLAB_BYTES:
            self._slab_bytes *= 2  # the sender is faster than the slab is large
        slab, limits = self._slab, self._limits
        latest, longest = now_s + limits.max_hold_s, limits.max_payload_bytes
        start, end, view = self._start, self._end, slab.view
        frames: list[Frame] = []
        wanted = HEADER_BYTES
        while end - start >= HEADER_BYTES:
            length, header_length, kind, version, planned, handed, transmission = HEADER.unpack_from(view, start)
            if not (
                kind == Kind.DATA
                and version == VERSION
                and header_length <= limits.max_header_bytes
                and header_length <= length <= longest + header_length
                and 0 <= planned <= latest
                and 0 <= handed <= latest
                and 0 <= transmission <= limits.max_hold_s
            ):
                problem = header_problem(
                    limits, length, header_length, kind, version, planned, handed, transmission, latest=latest
                )
                if problem:
                    self.problem = MalformedFrameError(f"malformed frame: {problem}")
                    start = end
                    break
            begin = start + HEADER_BYTES
            if end - begin < length:
                wanted = HEADER_BYTES + length
                break
            start = begin + length
            slab.holds += 1
            frames.append((kind, planned, handed, transmission, slab, begin, begin + header_length, start))
        self._start = start
        self._wanted = wanted
        return frames

    def release(self, slab: Slab) -> None:
        """Give up one frame in ``slab``."""
        slab.holds -= 1
        if slab.holds:
            return
        if slab is self._slab:
            if self._start != self._end:
                return
            # The connection that reads next goes on in memory that is still in the processor's caches.
            self._slab = _NOTHING
            self._start = self._end = 0
        SLABS.give_back(slab)

    def close(self) -> None:
        """Give the buffer back; there is nothing to receive any more."""
        slab = self._slab
        self._slab = _NOTHING
        self._start = self._end = 0
        if not slab.holds and slab is not _NOTHING:
            SLABS.give_back(slab)

    def _next_slab(self) -> None:
        """Go on in another slab, with the begun frame copied to its beginning."""
        old, begun = self._slab, self._end - self._start
        while self._slab_bytes < MAX_SLAB_BYTES and self._slab_bytes < 2 * self._wanted:
            self._slab_bytes *= 2
        size = self._slab_bytes
        if self._wanted + _MIN_ROOM_BYTES > size:
            size = self._wanted + _MIN_ROOM_BYTES
        slab = SLABS.take(size)
        slab.view[:begun] = old.view[self._start : self._end]
        self._slab, self._start, self._end = slab, 0, begun
        if not old.holds and old is not _NOTHING:
            SLABS.give_back(old)


_NOTHING = Slab(0)


def packed(
    kind: Kind,
    body: bytes = b"",
    *,
    header_bytes: int = 0,
    planned_s: float = 0.0,
) -> bytes:
    """A whole frame that is not data.

    Args:
        kind: What it is.
        body: Application header and payload.
        header_bytes: How much of it is the application header.
        planned_s: Planned delivery.
    """
    return HEADER.pack(len(body), header_bytes, kind, VERSION, planned_s, 0.0, 0.0) + body


def data_beginning(header: bytes, payload_bytes: int, planned_s: float) -> bytes:
    """A message's frame up to its payload, for whoever writes that to the socket without a connection's help.

    Args:
        header: The application's.
        payload_bytes: How long the payload is.
        planned_s: Planned delivery.
    """
    return HEADER.pack(len(header) + payload_bytes, len(header), Kind.DATA, VERSION, planned_s, 0.0, 0.0) + header


MAGIC = b"helixemu shaped\x01"
_HELLO = struct.Struct("<16s16s")


@functools.cache
def clock_identity() -> bytes:
    """16 bytes that are the same for all processes which share this one's CLOCK_MONOTONIC.

    From the kernel's boot id and the time namespace, which can shift that clock.
    """
    boot = Path("/proc/sys/kernel/random/boot_id")
    namespace = Path("/proc/self/ns/time")
    parts = [
        boot.read_text() if boot.exists() else os.uname().nodename,
        os.readlink(namespace) if namespace.exists() else "",
    ]
    return hashlib.sha256("\x00".join(parts).encode()).digest()[:16]


def hello(greeting: bytes) -> bytes:
    """The first frame of a connection.

    Args:
        greeting: The application's, for instance the name of the link.
    """
    return packed(Kind.HELLO, greeting + _HELLO.pack(MAGIC, clock_identity()), header_bytes=len(greeting))


def checked_greeting(kind: int, header: bytes | memoryview, payload: bytes | memoryview) -> bytes:
    """The greeting in a connection's first frame.

    Raises:
        MalformedFrameError: It is no hello, or the peer's clock is another one.
    """
    if kind != Kind.HELLO:
        raise MalformedFrameError(f"malformed frame: the first one must be a hello, not kind {kind}")
    if len(payload) != _HELLO.size:
        raise MalformedFrameError(f"malformed frame: a hello of {len(payload)} bytes; it must have {_HELLO.size}")
    magic, clock = _HELLO.unpack(payload)
    if magic != MAGIC:
        raise MalformedFrameError("malformed frame: a hello of another protocol")
    if clock != clock_identity():
        raise MalformedFrameError(
            "the peer has another clock: shaped connections need both ends on one machine and in one time namespace"
        )
    return bytes(header)


_REPLAN = struct.Struct("<QI")
_REPLAN_MOST = (CONTROL_BYTES - _REPLAN.size) // 8


def replan_frames(first: int, planned_s: list[float]) -> list[bytes]:
    """Frames that give messages ``first``, ``first + 1`` ... of a connection new delivery times."""
    frames = []
    for begin in range(0, len(planned_s), _REPLAN_MOST):
        part = planned_s[begin : begin + _REPLAN_MOST]
        body = _REPLAN.pack(first + begin, len(part)) + struct.pack(f"<{len(part)}d", *part)
        frames.append(packed(Kind.REPLAN, body))
    return frames


def read_replan(payload: memoryview, latest_s: float) -> tuple[int, tuple[float, ...]]:
    """First message and new delivery times in a replan frame.

    Args:
        payload: Of the frame.
        latest_s: Latest finite time to be allowed.

    Raises:
        MalformedFrameError: Its length does not fit, or a time is none.
    """
    if len(payload) < _REPLAN.size:
        raise MalformedFrameError(f"malformed frame: a replan of {len(payload)} bytes")
    first, count = _REPLAN.unpack_from(payload)
    if len(payload) != _REPLAN.size + 8 * count:
        raise MalformedFrameError(f"malformed frame: a replan of {count} times in {len(payload)} bytes")
    times = struct.unpack_from(f"<{count}d", payload, _REPLAN.size)
    if not all(0 <= time <= latest_s or time == math.inf for time in times):
        raise MalformedFrameError("malformed frame: a replan for what is no time")
    return first, times


_CONDITIONS = struct.Struct("<dd")


def conditions_frame(bytes_per_s: float, latency_s: float) -> bytes:
    """A frame that tells the receiver what the link is like now."""
    return packed(Kind.CONDITIONS, _CONDITIONS.pack(bytes_per_s, latency_s))


def read_conditions(payload: memoryview) -> tuple[float, float]:
    """Rate and latency in a conditions frame.

    Raises:
        MalformedFrameError: Wrong length, or values that are none.
    """
    if len(payload) != _CONDITIONS.size:
        raise MalformedFrameError(f"malformed frame: conditions of {len(payload)} bytes")
    rate, latency = _CONDITIONS.unpack(payload)
    if not (rate > 0 and 0 <= latency < math.inf):
        raise MalformedFrameError(f"malformed frame: conditions of {rate!r} bytes/s and {latency!r} s")
    return rate, latency
