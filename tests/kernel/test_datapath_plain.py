"""Plain networks on any kernel: links, forwarding, restart, removal."""

from __future__ import annotations

import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

import pytest
from structlog.testing import capture_logs
from tests.kernel.hosts import (
    NETWORK,
    PLAIN_PORT,
    VNI,
    Host,
    Lab,
    desired,
    exchange,
    silent,
    task_id,
    task_ip,
    udp_ports,
    vxlan_datagram,
)

from swarmnet.core.datapath.desired import Desired, network_name, task_name
from swarmnet.core.endpoints import mac_of
from swarmnet.worker.datapath import ingress, probe, xfrm
from swarmnet.worker.datapath import rtnetlink as rt
from swarmnet.worker.datapath.datapath import Capability
from swarmnet.worker.datapath.guard import Guard, Iptables, Nftables, install
from swarmnet.worker.datapath.ingress import arp_is_guarded
from swarmnet.worker.datapath.links import VXLAN
from swarmnet.worker.datapath.namespaces import Namespaces
from swarmnet.worker.datapath.netlink import Message

_DELETE_QDISC: Final = 37


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def pair(lab: Lab) -> tuple[Host, Host]:
    """Two hosts with one task each on a plain network."""
    hosts = lab.host("w1"), lab.host("w2")
    for host, other in (hosts, hosts[::-1]):
        report = host.apply(desired(host, other, encrypted=False))
        assert report.tasks == {}
        assert report.networks[NETWORK].error == ""
    return hosts


def test_tasks_on_two_hosts_reach_each_other(lab: Lab, pair: tuple[Host, Host]) -> None:
    one, two = pair
    with one.task_socket(task_id(one)) as a, two.task_socket(task_id(two)) as b, lab.capture(one) as frames:
        assert exchange(a, b, task_ip(two)) == b"hello back"
        assert exchange(b, a, task_ip(one)) == b"hello back"
    assert udp_ports(frames) == {PLAIN_PORT}


def test_two_tasks_on_one_host_reach_each_other_without_the_underlay(lab: Lab) -> None:
    host, other = lab.host("w1"), lab.host("w2")
    host.apply(desired(host, other, encrypted=False, slots=2))
    one, two = task_id(host, 1), task_id(host, 2)
    with host.task_socket(one) as a, host.task_socket(two) as b, lab.capture(host) as frames:
        assert exchange(a, b, task_ip(host, 2)) == b"hello back"
    assert udp_ports(frames) == set()


def test_addresses_that_nobody_has_are_never_flooded(lab: Lab, pair: tuple[Host, Host]) -> None:
    one, _ = pair
    with one.task_socket(task_id(one)) as a, lab.capture(one) as frames:
        a.sendto(b"anybody?", ("10.0.1.250", 7000))
        assert silent(a)
    assert udp_ports(frames) == set()


def test_a_frame_with_a_stolen_mac_is_dropped(lab: Lab, pair: tuple[Host, Host]) -> None:
    """On a plain network anybody on the underlay can send, but only as a MAC that is known to be remote."""
    one, two = pair
    with one.task_socket(task_id(one)) as a, two.udp() as sender:
        sender.sendto(vxlan_datagram(task_ip(two), task_ip(one)), (one.address, PLAIN_PORT))
        assert a.recv(100) == b"forged"
        for stolen in (mac_of(task_ip(one, 1)), "02:42:0a:00:01:fe"):
            packet = vxlan_datagram(task_ip(two), task_ip(one), mac=stolen)
            sender.sendto(packet, (one.address, PLAIN_PORT))
            assert silent(a)


def claim(operation: int, ip: str, mac: str, to_ip: str, to_mac: str) -> bytes:
    """ARP: `ip` is at `mac`."""
    ends = rt.raw_mac(mac) + IPv4Address(ip).packed + rt.raw_mac(to_mac) + IPv4Address(to_ip).packed
    head = rt.raw_mac(to_mac) + rt.raw_mac(mac) + struct.pack("!HHHBBH", 0x0806, 1, 0x0800, 6, 4, operation)
    return head + ends


@contextmanager
def raw_sockets(*places: tuple[Host, int]) -> Iterator[list[socket.socket]]:
    """One for each task: a host, and which of its tasks."""
    with ExitStack() as stack:
        made = []
        for host, slot in places:
            path = host.datapath.task_namespace(task_id(host, slot))

            def make(path: Path = path) -> socket.socket:
                with Namespaces(path.parent).entered(path.name):
                    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806))
                    opened.bind(("eth0", 0x0806))
                    return opened

            made.append(stack.enter_context(host.here(make)))
            made[-1].settimeout(2.0)
        yield made


@pytest.mark.parametrize("operation", [1, 2], ids=["question", "answer"])
def test_a_task_cannot_say_that_anothers_address_is_its_own(lab: Lab, operation: int) -> None:
    """To the task beside it; what is true arrives, so the forged claim would have."""
    host, other = lab.host("w1"), lab.host("w2")
    host.apply(desired(host, other, encrypted=False, slots=2))
    hostile, victim = (task_ip(host, slot) for slot in (1, 2))
    own = mac_of(hostile)
    with raw_sockets((host, 1), (host, 2)) as (sender, receiver):
        for to in (mac_of(victim), "ff:ff:ff:ff:ff:ff"):
            sender.send(claim(operation, task_ip(other), own, victim, to))
            assert silent(receiver)
            true = claim(operation, hostile, own, victim, to)
            sender.send(true)
            assert receiver.recv(100)[:42] == true


def test_arp_from_the_underlay_is_believed_only_if_true(lab: Lab, pair: tuple[Host, Host]) -> None:
    one, two = pair
    victim, mac = task_ip(one), mac_of(task_ip(two))
    header = struct.pack("!II", 0x08000000, VNI << 8)
    with raw_sockets((one, 1)) as (receiver,), two.udp() as sender:
        for to in (mac_of(victim), "ff:ff:ff:ff:ff:ff"):
            sender.sendto(header + claim(2, "10.0.1.250", mac, victim, to), (one.address, PLAIN_PORT))
            assert silent(receiver)
            true = claim(2, task_ip(two), mac, victim, to)
            sender.sendto(header + true, (one.address, PLAIN_PORT))
            assert receiver.recv(100)[:42] == true


def test_where_arp_cannot_be_guarded_no_network_is_built(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    host, other = lab.host("w1"), lab.host("w2")
    monkeypatch.setattr(ingress, "NEW_FILTER", 0x7F)
    report = host.apply(desired(host, other, encrypted=False))
    assert "sch_ingress and cls_bpf" in report.networks[NETWORK].error
    assert "its network is not up" in report.tasks[task_id(host)]
    assert not host.datapath.task_namespace(task_id(host)).exists()
    monkeypatch.undo()
    assert host.run(host.datapath.reconcile()).tasks == {}


@pytest.mark.parametrize("link", [VXLAN, task_name("task11xxxxxx")])
def test_a_port_whose_arp_program_a_hand_took_away_is_mended(
    lab: Lab, pair: tuple[Host, Host], link: str
) -> None:
    one, two = pair
    network = Namespaces(lab.directory / "w1" / "run" / "netns")
    with closing(network):
        netlink = one.here(lambda: network.netlink(network_name(NETWORK)))
        index = rt.list_links(netlink)[link].index
        netlink.execute(Message(_DELETE_QDISC, struct.pack("=B3xiIII", 0, index, 0, 0xFFFFFFF1, 0)))
        assert not arp_is_guarded(netlink, index)
        assert one.run(one.datapath.reconcile()).tasks == {}
        assert arp_is_guarded(netlink, rt.list_links(netlink)[link].index)
    with one.task_socket(task_id(one)) as a, two.task_socket(task_id(two)) as b:
        assert exchange(a, b, task_ip(two)) == b"hello back"


def test_a_restarted_worker_touches_nothing_that_is_right(lab: Lab, pair: tuple[Host, Host]) -> None:
    one, two = pair
    wanted = desired(one, two, encrypted=False)
    with one.task_socket(task_id(one)) as a, two.task_socket(task_id(two)) as b:
        one.restart()
        with capture_logs() as logs:
            report = one.apply(wanted)
        assert report.networks[NETWORK].error == ""
        assert [each for each in logs if each["event"] == "data path programmed"] == []
        assert exchange(a, b, task_ip(two)) == b"hello back"


def test_what_a_hand_broke_is_mended(lab: Lab, pair: tuple[Host, Host]) -> None:
    one, two = pair
    network = Namespaces(lab.directory / "w1" / "run" / "netns")
    netlink = one.here(lambda: network.netlink(network_name(NETWORK)))
    sockets = (one.task_socket(task_id(one)), two.task_socket(task_id(two)))
    with closing(network), sockets[0] as a, sockets[1] as b:
        for name, owner, what in (
            (VXLAN, NETWORK, "1 bridge or VXLAN device put back"),
            (task_name(task_id(one)), "", "1 task connected again"),
        ):
            assert one.run(one.datapath.reconcile()).repairs == {}
            netlink.execute(rt.delete_link(rt.list_links(netlink)[name].index))
            report = one.run(one.datapath.reconcile())
            assert (report.networks[NETWORK].error, report.tasks) == ("", {})
            assert report.repairs[owner].startswith(what)
            assert exchange(a, b, task_ip(two)) == b"hello back"


def test_nothing_is_left_of_a_network_without_tasks(lab: Lab, pair: tuple[Host, Host]) -> None:
    one, _ = pair
    report = one.apply(Desired(one.name, one.number, one.address))
    assert report.networks == {}
    assert list((lab.directory / "w1" / "run" / "netns").iterdir()) == []


def test_an_encrypted_network_is_refused_where_the_kernel_cannot_encrypt(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "new_sa", lambda *_: Message(0x7F, b""))
    host, other = lab.host("w1"), lab.host("w2")
    capability = host.capability
    report = host.apply(desired(host, other))
    assert capability is not None
    assert not capability.esp
    assert "Load the kernel modules" in capability.reason
    assert report.networks[NETWORK].error == report.tasks[task_id(host)] == capability.reason
    assert not host.datapath.task_namespace(task_id(host)).exists()


def test_where_sas_fail_nothing_is_built_and_the_guards_stand(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fail closed: the kernel refuses every SA after the probe was passed."""
    host, other = lab.host("w1"), lab.host("w2")
    monkeypatch.setattr(host.datapath, "_capability", Capability(esp=True))
    monkeypatch.setattr(xfrm, "new_sa", lambda *_: Message(0x7F, b""))
    report = host.apply(desired(host, other))
    found = report.networks[NETWORK]
    assert (found.installed, found.sending) == ((), 0)
    assert found.error.startswith("SA 0x001")
    assert "its network is not up: SA 0x001" in report.tasks[task_id(host)]
    assert list((lab.directory / "w1" / "run" / "netns").iterdir()) == []
    with closing(host.xfrm()) as netlink:
        assert [policy.guard for policy in xfrm.list_policies(netlink)] == [True, True]


def test_leaving_takes_the_guard_along(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    host = lab.host("w1")
    guard = host.run(install())
    monkeypatch.setattr(host.datapath, "_guard", guard)
    listing = ["nft", "list", "tables"] if guard.name == "nftables" else [guard.name, "-S"]
    rules = host.here(lambda: subprocess.check_output(listing, text=True))
    assert "swarmnet" in rules or "--pol none" in rules
    host.run(host.datapath.remove_all())
    rules = host.here(lambda: subprocess.check_output(listing, text=True))
    assert "swarmnet" not in rules
    assert "--pol none" not in rules


@pytest.mark.parametrize("guard", [Nftables(), Iptables("iptables-legacy")], ids=lambda each: each.name)
def test_a_flushed_firewall_is_put_back(lab: Lab, monkeypatch: pytest.MonkeyPatch, guard: Guard) -> None:
    host = lab.host("w1")
    host.run(guard.install())
    monkeypatch.setattr(host.datapath, "_guard", guard)
    flush = ["nft", "flush", "ruleset"] if guard.name == "nftables" else [guard.name, "-F"]
    listing = ["nft", "list", "ruleset"] if guard.name == "nftables" else [guard.name, "-S"]
    before = host.here(lambda: subprocess.check_output(listing, text=True))
    assert host.run(host.datapath.reconcile()).repairs == {}
    host.here(lambda: subprocess.run(flush, check=True))
    assert host.run(host.datapath.reconcile()).repairs == {"": f"rules of {guard.name} put back"}
    assert host.here(lambda: subprocess.check_output(listing, text=True)) == before
    assert host.run(host.datapath.reconcile()).repairs == {}


def test_a_firewall_that_takes_no_rules_any_more_is_told(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    host = lab.host("w1")
    monkeypatch.setattr(host.datapath, "_guard", Iptables("no-such-iptables"))
    told = host.run(host.datapath.reconcile()).repairs[""]
    assert told.startswith("rules of no-such-iptables NOT put back: ")
    assert "No such file" in told


def test_counters_are_the_kernels_own(lab: Lab) -> None:
    host = lab.host("w1")
    found = host.run(host.datapath.counters())
    assert found["esp_sas"] == 0
    assert all(isinstance(value, int) for value in found.values())


def test_a_data_path_address_that_the_host_lacks_is_named(lab: Lab) -> None:
    host, other = lab.host("w1"), lab.host("w2")
    wanted = replace(desired(host, other, encrypted=False), address="10.133.0.99")
    report = host.apply(wanted)
    assert "10.133.0.99" in report.networks[NETWORK].error


def test_programming_a_network_is_fast(lab: Lab) -> None:
    host, others = lab.host("w1"), (lab.host("w2"), lab.host("w3"))
    started = time.perf_counter()
    host.apply(desired(host, *others, encrypted=False))
    took = time.perf_counter() - started
    print(f"programmed in {took * 1000:.1f} ms")
    assert took < 0.5
