"""Cuts large TCP packets as a network card would, so that links can lose or delay each packet on the wire alone.

A large packet carries one IP and one TCP header and many segments' data. A run of neighbouring segments is again one
(large) packet: so what no link tears apart is never copied apart.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from netshape.kernel.tun import GSO_ECN, GSO_NONE, GSO_TCP4, HEADER, NEEDS_CHECKSUM

_FIN_PSH = 0x09
_CWR = 0x80
_MIN_IP_BYTES = _MIN_TCP_BYTES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class LargePacket:
    """A packet of several TCP segments.

    Attributes:
        packet: virtio header, IP header, TCP header, data.
        header_bytes: IP and TCP header together.
        segment_bytes: Data in each segment but the last.
        data_bytes: Data of all segments.
    """

    packet: bytes
    header_bytes: int
    segment_bytes: int
    data_bytes: int

    @property
    def count(self) -> int:
        """Number of segments."""
        return -(-self.data_bytes // self.segment_bytes)

    @property
    def wire_bytes(self) -> int:
        """IP bytes of all segments when each has its own headers."""
        return self.data_bytes + self.count * self.header_bytes

    def segment_wire_bytes(self, index: int) -> int:
        """IP bytes of one segment."""
        return self.header_bytes + min(self.segment_bytes, self.data_bytes - index * self.segment_bytes)

    def run(self, start: int, stop: int) -> bytes:
        """The segments ``[start, stop)`` as one packet with its virtio header."""
        if start == 0 and stop == self.count:
            return self.packet
        begin = HEADER.size
        ip_bytes = (self.packet[begin] & 0x0F) * 4
        head = bytearray(self.packet[begin : begin + self.header_bytes])
        first, last = start * self.segment_bytes, min(stop * self.segment_bytes, self.data_bytes)
        data = self.packet[begin + self.header_bytes + first : begin + self.header_bytes + last]
        old_total = struct.unpack_from("!H", head, 2)[0]
        total = self.header_bytes + len(data)
        (identity,) = struct.unpack_from("!H", head, 4)
        struct.pack_into("!HH", head, 2, total, (identity + start) & 0xFFFF)
        struct.pack_into("!H", head, 10, 0)
        struct.pack_into("!H", head, 10, _inverted_sum(bytes(head[:ip_bytes])))
        (sequence,) = struct.unpack_from("!I", head, ip_bytes + 4)
        struct.pack_into("!I", head, ip_bytes + 4, (sequence + first) & 0xFFFFFFFF)
        if last < self.data_bytes:
            head[ip_bytes + 13] &= ~_FIN_PSH & 0xFF
        if start > 0:
            head[ip_bytes + 13] &= ~_CWR & 0xFF
        # The checksum field holds the sum of the pseudo header, and the length is part of that.
        (pseudo,) = struct.unpack_from("!H", head, ip_bytes + 16)
        struct.pack_into("!H", head, ip_bytes + 16, _folded(pseudo + total + (~old_total & 0xFFFF)))
        return self._virtio_header(stop - start) + bytes(head) + data

    def _virtio_header(self, segments: int) -> bytes:
        flags, kind, header_bytes, size, start, offset = HEADER.unpack_from(self.packet)
        if segments == 1:
            kind, size = GSO_NONE, 0
        return HEADER.pack(flags, kind, header_bytes, size, start, offset)


def large_packet(packet: bytes) -> LargePacket | None:
    """The packet as several segments; ``None`` when it is one on the wire, too.

    Args:
        packet: virtio header and IPv4 packet, as a TUN device hands them over.
    """
    flags, kind, _, segment_bytes, start, offset = HEADER.unpack_from(packet)
    if kind & ~GSO_ECN != GSO_TCP4 or segment_bytes == 0 or not flags & NEEDS_CHECKSUM or offset != 16:
        return None
    # Packets of the kernel's TCP are well-formed; a packet socket may send others, which are passed on as they are.
    if len(packet) < HEADER.size + start + _MIN_TCP_BYTES or start != (packet[HEADER.size] & 0x0F) * 4:
        return None
    tcp_bytes = (packet[HEADER.size + start + 12] >> 4) * 4
    if start < _MIN_IP_BYTES or tcp_bytes < _MIN_TCP_BYTES:
        return None
    header_bytes = start + tcp_bytes
    data_bytes = len(packet) - HEADER.size - header_bytes
    if data_bytes <= segment_bytes:
        return None
    return LargePacket(packet=packet, header_bytes=header_bytes, segment_bytes=segment_bytes, data_bytes=data_bytes)


def _folded(total: int) -> int:
    """A sum of 16-bit words in ones' complement (RFC 1071)."""
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def _inverted_sum(header: bytes) -> int:
    """Checksum of an IP header (RFC 1071); its own field is 0."""
    return ~_folded(sum(struct.unpack(f"!{len(header) // 2}H", header))) & 0xFFFF
