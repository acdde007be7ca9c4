"""Cutting large TCP packets: every segment is the packet that a network card would have sent."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netshape.kernel.segments import large_packet
from netshape.kernel.tun import GSO_ECN, GSO_NONE, GSO_TCP4, HEADER, NEEDS_CHECKSUM

SOURCE, TARGET = bytes([10, 77, 0, 1]), bytes([10, 77, 0, 2])
IP_BYTES = 20
CWR, PSH, FIN, ACK = 0x80, 0x08, 0x01, 0x10


def ones_sum(data: bytes) -> int:
    """Sum of 16-bit words in ones' complement."""
    total = sum(struct.unpack(f"!{len(data + b'0') // 2}H", data + b"\0" * (len(data) % 2)))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def tcp_packet(data: bytes, *, sequence: int, identity: int, flags: int, options: bytes, partial: bool) -> bytes:
    """An IP packet; with ``partial``, its TCP checksum covers the pseudo header only, as behind an offloading card."""
    tcp_bytes = 20 + len(options) + len(data)
    ip = bytearray(
        struct.pack("!BBHHHBBH", 0x45, 0, IP_BYTES + tcp_bytes, identity, 0x4000, 64, 6, 0) + SOURCE + TARGET
    )
    struct.pack_into("!H", ip, 10, ~ones_sum(bytes(ip)) & 0xFFFF)
    offset = (20 + len(options)) // 4 << 4
    tcp = bytearray(struct.pack("!HHIIBBHHH", 5000, 80, sequence, 99, offset, flags, 512, 0, 0) + options + data)
    pseudo = SOURCE + TARGET + struct.pack("!BBH", 0, 6, tcp_bytes)
    checksum = ones_sum(pseudo) if partial else ~ones_sum(pseudo + bytes(tcp)) & 0xFFFF
    struct.pack_into("!H", tcp, 16, checksum)
    return bytes(ip + tcp)


def finished(packet: bytes) -> bytes:
    """An IP packet behind its virtio header with the checksum that the card fills in."""
    flags, _, _, _, start, offset = HEADER.unpack_from(packet)
    assert flags == NEEDS_CHECKSUM
    body = bytearray(packet[HEADER.size :])
    struct.pack_into("!H", body, start + offset, ~ones_sum(bytes(body[start:])) & 0xFFFF)
    return bytes(body)


def offloaded(data: bytes, segment: int, *, kind: int = GSO_TCP4, **fields: int | bytes) -> bytes:
    options = fields["options"]
    assert isinstance(options, bytes)
    header = HEADER.pack(NEEDS_CHECKSUM, kind, IP_BYTES + 20 + len(options), segment, IP_BYTES, 16)
    return header + tcp_packet(data, partial=True, **fields)  # type: ignore[arg-type]


@given(
    st.binary(min_size=1, max_size=400),
    st.integers(1, 150),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**16 - 1),
    st.sampled_from([ACK, ACK | PSH, ACK | FIN | PSH, ACK | CWR]),
    st.sampled_from([b"", b"\1\1\x08\x0a" + bytes(range(8))]),
    st.data(),
)
def test_every_run_is_what_the_sender_would_have_sent(
    data: bytes, segment: int, sequence: int, identity: int, flags: int, options: bytes, draw: st.DataObject
) -> None:
    packet = offloaded(data, segment, sequence=sequence, identity=identity, flags=flags, options=options)
    large = large_packet(packet)
    if len(data) <= segment:
        assert large is None
        return
    assert large is not None
    assert large.count == -(-len(data) // segment)
    header_bytes = IP_BYTES + 20 + len(options)
    assert large.wire_bytes == len(data) + large.count * header_bytes
    assert large.wire_bytes == sum(map(large.segment_wire_bytes, range(large.count)))
    start = draw.draw(st.integers(0, large.count - 1))
    stop = draw.draw(st.integers(start + 1, large.count))
    run = large.run(start, stop)
    part = data[start * segment : stop * segment]
    expected_flags = flags
    if stop < large.count:
        expected_flags &= ~(PSH | FIN)
    if start > 0:
        expected_flags &= ~CWR
    expected = tcp_packet(
        part,
        sequence=(sequence + start * segment) % 2**32,
        identity=(identity + start) % 2**16,
        flags=expected_flags,
        options=options,
        partial=False,
    )
    ours = finished(run)
    # 0 and 0xFFFF are one checksum in ones' complement.
    for place in (slice(10, 12), slice(IP_BYTES + 16, IP_BYTES + 18)):
        assert int.from_bytes(ours[place]) % 0xFFFF == int.from_bytes(expected[place]) % 0xFFFF
    blank = bytearray(ours), bytearray(expected)
    for each in blank:
        each[10:12] = each[IP_BYTES + 16 : IP_BYTES + 18] = b"\0\0"
    assert blank[0] == blank[1]
    _, kind, _, size, _, _ = HEADER.unpack_from(run)
    assert (kind, size) == ((GSO_TCP4, segment) if stop - start > 1 else (GSO_NONE, 0))


@pytest.mark.parametrize(
    "header",
    [
        HEADER.pack(0, GSO_NONE, 0, 0, 0, 0),
        HEADER.pack(NEEDS_CHECKSUM, GSO_NONE, 0, 0, 20, 16),
        HEADER.pack(NEEDS_CHECKSUM, 3, 40, 100, 20, 6),  # UDP fragments
        HEADER.pack(NEEDS_CHECKSUM, GSO_TCP4, 40, 0, 20, 16),  # no size of segments
    ],
)
def test_other_packets_are_left_alone(header: bytes) -> None:
    packet = tcp_packet(bytes(500), sequence=1, identity=1, flags=ACK, options=b"", partial=True)
    assert large_packet(header + packet) is None


def test_marked_packets_are_cut_too() -> None:
    fields = {"sequence": 1, "identity": 1, "flags": ACK, "options": b""}
    large = large_packet(offloaded(bytes(500), 100, kind=GSO_TCP4 | GSO_ECN, **fields))
    assert large is not None
    assert large.count == 5


@given(
    st.tuples(
        st.integers(0, 255), st.sampled_from([GSO_TCP4, GSO_TCP4 | GSO_ECN, 5]), *[st.integers(0, 2**16 - 1)] * 4
    ),
    st.sampled_from([(20, 16), (24, 16), (60, 16), (0, 0)]),
    st.binary(max_size=300),
    st.booleans(),
)
def test_nothing_that_a_packet_socket_may_send_is_cut_wrongly(
    fields: tuple[int, ...], place: tuple[int, int], body: bytes, sensible: bool
) -> None:
    header = HEADER.pack(*fields)
    if sensible:
        header = HEADER.pack(NEEDS_CHECKSUM, GSO_TCP4, 40, fields[3] % 50 + 1, *place)
        body = bytes([0x40 | place[0] // 4]) + body
    packet = header + body
    large = large_packet(packet)
    if large is None:
        return
    runs = [large.run(index, index + 1) for index in range(large.count)]
    # All data, once.
    assert b"".join(run[HEADER.size + large.header_bytes :] for run in runs) == body[large.header_bytes :]
    assert large.run(0, large.count) == packet
