import math

import pytest

from netshape.conditions import LinkConditions
from netshape.kernel.errors import KernelError
from netshape.kernel.topology import Host, Link, Topology, full_mesh

A, B = Host(name="a", address="10.77.0.1"), Host(name="b", address="10.77.0.2")
PLAIN = LinkConditions()


def test_a_full_mesh_joins_all_both_ways() -> None:
    mesh = full_mesh(["a", "b", "c"], PLAIN)
    assert [host.address for host in mesh.hosts] == ["10.77.0.1", "10.77.0.2", "10.77.0.3"]
    assert [link.name for link in mesh.links] == ["a->b", "a->c", "b->a", "b->c", "c->a", "c->b"]


@pytest.mark.parametrize("name", ["", "A", "-a", "a-", "a_b", "a.b", "a b", "x" * 33])
def test_malformed_host_names(name: str) -> None:
    with pytest.raises(KernelError, match=r"host name .*: it must be 1 to 32 lower-case letters"):
        Host(name=name, address="10.0.0.1")


@pytest.mark.parametrize("address", ["", "10.0.0", "10.0.0.256", "::1", "127.0.0.1", "224.0.0.1", "0.0.0.0", "a"])
def test_malformed_addresses(address: str) -> None:
    with pytest.raises(KernelError, match=r"host a: address .*: it must be"):
        Host(name="a", address=address)


def test_doubles_and_strangers() -> None:
    with pytest.raises(KernelError, match="host name 'a' stands there more than once"):
        Topology(hosts=(A, Host(name="a", address="10.0.0.9")), links=())
    with pytest.raises(KernelError, match=r"host address '10\.77\.0\.1' stands there more than once"):
        Topology(hosts=(A, Host(name="b", address=A.address)), links=())
    link = Link(source="a", target="b", conditions=PLAIN)
    with pytest.raises(KernelError, match="link 'a->b' stands there more than once"):
        Topology(hosts=(A, B), links=(link, link))
    with pytest.raises(KernelError, match="link a->b: there is no host 'b'; add it to hosts"):
        Topology(hosts=(A,), links=(link,))
    with pytest.raises(KernelError, match="1 to 250 hosts"):
        Topology(hosts=(), links=())
    with pytest.raises(KernelError, match="1 to 250 hosts; this one has 25"):
        full_mesh([f"h{index}" for index in range(300)], PLAIN)


def test_a_link_joins_two_hosts_and_has_a_size_that_ip_can_carry() -> None:
    with pytest.raises(KernelError, match="it must join two hosts"):
        Link(source="a", target="a", conditions=PLAIN)
    with pytest.raises(KernelError, match="link a->b: mtu_bytes must be from 576 to 65535"):
        Link(source="a", target="b", conditions=LinkConditions(mtu_bytes=100))


def test_without_a_limit_a_thousand_packets_may_wait() -> None:
    limit = Link(source="a", target="b", conditions=PLAIN).effective.queue_limit_bytes
    assert limit == 1_500_000
    own = LinkConditions(mtu_bytes=9000, overhead_bytes_per_packet=38)
    assert Link(source="a", target="b", conditions=own).effective.queue_limit_bytes == 9_038_000
    given = LinkConditions(queue_limit_bytes=5000)
    assert Link(source="a", target="b", conditions=given).effective.queue_limit_bytes == 5000


def test_socket_buffers_hold_what_is_on_its_way_twice() -> None:
    assert full_mesh(["a", "b"], PLAIN).buffer_bytes == 256 << 20
    slow = LinkConditions(bandwidth_bytes_per_s=1e6)
    assert full_mesh(["a", "b"], slow).buffer_bytes == 4 << 20
    long = LinkConditions(bandwidth_bytes_per_s=125e6, latency_s=0.05)
    assert full_mesh(["a", "b"], long).buffer_bytes == 2 * (12_500_000 + 1_500_000)
    assert math.isfinite(full_mesh(["a", "b"], LinkConditions(latency_s=1.0)).buffer_bytes)
    own = Topology(hosts=(A, B), links=(), tcp_buffer_bytes=65_536)
    assert own.buffer_bytes == 65_536
    with pytest.raises(KernelError, match="tcp_buffer_bytes = 1: it must be from 4 KiB to 1 GiB"):
        Topology(hosts=(A, B), links=(), tcp_buffer_bytes=1)
