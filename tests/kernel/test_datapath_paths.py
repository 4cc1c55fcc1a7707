"""Other ways between the hosts: an IPv6 underlay, ESP in UDP, addresses translated on the way, MTUs."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from tests.kernel.hosts import (
    NETWORK,
    PORT,
    TASK_PORT,
    Host,
    Lab,
    desired,
    esp_count,
    exchange,
    silent,
    spoofed,
    task_id,
    task_ip,
    udp_ports,
    vxlan_datagram,
)

from swarmnet.core.datapath.desired import Desired, RemoteEndpoint
from swarmnet.core.endpoints import mac_of
from swarmnet.core.limits import ESP_IN_UDP_PORT
from swarmnet.worker.datapath import rtnetlink as rt
from swarmnet.worker.datapath import xfrm
from swarmnet.worker.datapath.report import NetworkReport

Change = Callable[[Desired], Desired]
Sockets = tuple[socket.socket, socket.socket]
_MTU_DISCOVER, _DONT_FRAGMENT = 10, 2
"""IP_MTU_DISCOVER and IP_PMTUDISC_DO of linux/in.h."""


def unchanged(wanted: Desired) -> Desired:
    return wanted


def in_udp(wanted: Desired) -> Desired:
    return replace(wanted, encap=True)


@contextmanager
def connected(
    lab: Lab, change: Change = unchanged, *, encrypted: bool = True, family: int = socket.AF_INET
) -> Iterator[tuple[Host, Host, Sockets]]:
    """Two hosts with a task each, and a socket in each task."""
    one, two = lab.host("w1"), lab.host("w2")
    for host, other in ((one, two), (two, one)):
        report = host.apply(change(desired(host, other, encrypted=encrypted)))
        assert report.tasks == {}
        assert report.networks[NETWORK] == NetworkReport(installed=(1,), sending=1)
    with (
        one.task_socket(task_id(one), family=family) as a,
        two.task_socket(task_id(two), family=family) as b,
    ):
        yield one, two, (a, b)


@pytest.fixture(params=[4, 6], ids=["ipv4", "ipv6"])
def lab(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Lab]:
    made = Lab(tmp_path, request.param)
    try:
        yield made
    finally:
        made.close()


def test_a_plain_network_on_either_underlay(lab: Lab) -> None:
    with connected(lab, encrypted=False) as (one, two, sockets), lab.capture(one) as frames:
        assert exchange(*sockets, task_ip(two)) == b"hello back"
    assert any(b"hello" in frame for frame in frames)


@pytest.mark.kernel
def test_an_encrypted_network_on_either_underlay(lab: Lab) -> None:
    with connected(lab) as (one, two, sockets), lab.capture(one) as frames:
        assert exchange(*sockets, task_ip(two)) == b"hello back"
        two.restart()
        assert two.apply(desired(two, one)).networks[NETWORK].installed == (1,)
        assert exchange(*sockets, task_ip(two)) == b"hello back"
    assert esp_count(frames) == 4
    assert udp_ports(frames) == set()
    assert not any(b"hello" in frame for frame in frames)


@pytest.mark.kernel
def test_plaintext_is_let_in_on_neither_underlay(lab: Lab) -> None:
    """By each of the two guards alone; without both it is, so the test can fail."""
    with connected(lab) as (one, two, (_, receiver)):
        forged = spoofed(one, two, PORT, vxlan_datagram(task_ip(one), task_ip(two)))
        guard = two.datapath._guard
        assert guard is not None

        def attack() -> bool:
            lab.replay(forged, two)
            return not silent(receiver)

        two.run(guard.remove())
        assert not attack()
        assert two.run(two.datapath.counters())["XfrmInTmplMismatch"] == 1
        two.run(guard.install())
        netlink = two.xfrm()
        netlink.execute(*(xfrm.delete_policy(each) for each in xfrm.list_policies(netlink)))
        assert not attack()
        two.run(guard.remove())
        assert attack()
        netlink.close()


@pytest.mark.kernel
def test_esp_in_udp_where_one_side_asks_for_it(lab: Lab) -> None:
    """And it outlives the worker as long as somebody holds the descriptor, as tasks do."""

    def only_first(wanted: Desired) -> Desired:
        (network,) = wanted.networks
        peers = tuple(replace(each, encap=each.node_index == 1) for each in network.peers)
        return replace(wanted, encap=wanted.node_index == 1, networks=(replace(network, peers=peers),))

    with connected(lab, only_first) as (one, two, sockets), lab.capture(one) as frames:
        assert exchange(*sockets, task_ip(two)) == b"hello back"
        assert esp_count(frames) == 0
        held = [socket.socket(fileno=socket.dup(each.datapath.descriptor_to_hold())) for each in (one, two)]
        one.run(one.datapath.close())
        two.run(two.datapath.close())
        assert exchange(*sockets, task_ip(two)) == b"hello back"
        for host, other in ((one, two), (two, one)):
            host.datapath = host.new_datapath()
            host.start()
            assert host.apply(only_first(desired(host, other))).networks[NETWORK].installed == (1,)
        for each in held:
            each.close()
        assert exchange(*sockets, task_ip(two)) == b"hello back"
    if lab.ip_version == 4:
        assert udp_ports(frames) == {ESP_IN_UDP_PORT}
    assert not any(b"hello" in frame for frame in frames)


@pytest.mark.kernel
def test_without_its_udp_port_a_network_says_so_and_sends_nothing(lab: Lab) -> None:
    one = lab.host("w1")
    family = socket.AF_INET if lab.ip_version == 4 else socket.AF_INET6
    with one.here(lambda: socket.socket(family, socket.SOCK_DGRAM)) as taken:
        taken.bind((one.address, ESP_IN_UDP_PORT))
        report = one.apply(in_udp(desired(one)))
        assert f"UDP port {ESP_IN_UDP_PORT} of {one.address}" in report.networks[NETWORK].error
        assert report.networks[NETWORK].installed == ()
    assert one.apply(in_udp(desired(one))).networks[NETWORK].error == ""


@pytest.mark.kernel
@pytest.mark.parametrize("change", [unchanged, in_udp])
def test_packets_of_the_largest_size_pass_whole(lab: Lab, change: Change) -> None:
    """They fill the underlay's packets to the padding; one byte more does not fit the task's interface."""
    with connected(lab, change) as (one, two, (sender, receiver)):
        mtu = task_link_mtu(one)
        sender.setsockopt(socket.IPPROTO_IP, _MTU_DISCOVER, _DONT_FRAGMENT)
        with lab.capture(one) as frames:
            sender.sendto(bytes(mtu - 28), (task_ip(two), TASK_PORT))
            assert len(receiver.recv(1 << 16)) == mtu - 28
        assert 1500 - 3 <= max(len(frame) for frame in frames) - 14 <= 1500
        with pytest.raises(OSError, match="too long"):
            sender.sendto(bytes(mtu - 27), (task_ip(two), TASK_PORT))


def task_link_mtu(host: Host) -> int:
    path = host.datapath.task_namespace(task_id(host))
    lab_namespaces = type(host.lab.namespaces)(path.parent)
    mtu = rt.list_links(lab_namespaces.netlink(path.name))["eth0"].mtu
    lab_namespaces.close()
    return mtu


@pytest.mark.kernel
def test_another_mtu_leaves_connections_alone(lab: Lab) -> None:
    with connected(lab) as (one, two, sockets):
        for host, other in ((one, two), (two, one)):
            (network,) = (wanted := desired(host, other)).networks
            assert host.apply(replace(wanted, networks=(replace(network, mtu=1300),))).tasks == {}
            assert task_link_mtu(host) == 1300
        assert exchange(*sockets, task_ip(two)) == b"hello back"


def test_a_network_with_addresses_of_both_versions_and_a_second_subnet(lab: Lab) -> None:
    def dual(wanted: Desired) -> Desired:
        (network,) = wanted.networks
        # The second host's task is in the second subnet.
        (end,) = network.endpoints
        ip = end.ip if end.node_id == "w1" else far_ip(end.ip)
        ends = tuple(RemoteEndpoint(each, mac_of(ip), end.node_id) for each in (ip, six(end.ip)))
        subnets = ("10.0.1.0/24", "10.0.2.0/24", "fd00:1::/64")
        network = replace(network, subnets=subnets, endpoints=ends)
        (task,) = wanted.tasks
        (place,) = task.attachments
        own = place.addresses[0].partition("/")[0]
        first = own if wanted.node_index == 1 else far_ip(own)
        place = replace(place, addresses=(f"{first}/24", f"{six(own)}/64"), mac=mac_of(first))
        return replace(wanted, networks=(network,), tasks=(replace(task, attachments=(place,)),))

    with connected(lab, dual, encrypted=False, family=socket.AF_INET6) as (one, two, sockets):
        assert exchange(*sockets, six(task_ip(two))) == b"hello back"
        assert one.run(one.datapath.reconcile()).tasks == {}
        assert exchange(*sockets, f"::ffff:{far_ip(task_ip(two))}") == b"hello back"


def six(ip: str) -> str:
    return f"fd00:1::{ip.rpartition('.')[2]}"


def far_ip(ip: str) -> str:
    return ip.replace("10.0.1.", "10.0.2.")
