"""Keys in use: the kernel says when an SA wears out, and an SA that is made anew repeats no number."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.kernel.hosts import (
    CURRENT,
    NETWORK,
    PREPARED,
    SWITCHED,
    TASK_PORT,
    Host,
    Lab,
    desired,
    exchange,
    silent,
    task_id,
    task_ip,
)

from swarmnet.core.datapath.desired import Desired
from swarmnet.core.epochs import Epoch
from swarmnet.worker.datapath import xfrm
from swarmnet.worker.datapath.report import NetworkReport

pytestmark = pytest.mark.kernel
LIMIT_PACKETS = 50


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Host, Host]]:
    """Two hosts whose SAs last for few packets."""
    monkeypatch.setattr(xfrm, "ESP_SOFT_LIMIT_PACKETS", LIMIT_PACKETS)
    lab = Lab(tmp_path)
    try:
        yield lab.host("w1"), lab.host("w2")
    finally:
        lab.close()


def reports(one: Host, two: Host, live: tuple[Epoch, ...]) -> list[NetworkReport]:
    return [a.apply(desired(a, b, live=live)).networks[NETWORK] for a, b in ((one, two), (two, one))]


def test_the_kernel_says_when_an_sa_wears_out_and_a_rotation_helps(hosts: tuple[Host, Host]) -> None:
    one, two = hosts
    worn = threading.Event()
    one.datapath.worn = worn.set
    assert not any(each.exhausted for each in reports(one, two, CURRENT))
    with one.task_socket(task_id(one)) as a, two.task_socket(task_id(two)) as b:
        for _ in range(LIMIT_PACKETS - 1):
            exchange(a, b, task_ip(two))
        assert not worn.is_set()
        assert not any(each.exhausted for each in reports(one, two, CURRENT))
        for _ in range(3):
            exchange(a, b, task_ip(two))
        assert worn.wait(5), "the kernel said nothing"
        assert all(each.exhausted for each in reports(one, two, CURRENT))
        assert exchange(a, b, task_ip(two)) == b"hello back"  # nothing stops for want of a manager
        assert all(each.exhausted for each in reports(one, two, PREPARED))
        assert not any(each.exhausted for each in reports(one, two, SWITCHED))
        assert exchange(a, b, task_ip(two)) == b"hello back"


def nothing(host: Host) -> Desired:
    return Desired(host.name, host.number, host.address)


def test_who_comes_back_in_the_same_epoch_goes_on_and_takes_no_replay(hosts: tuple[Host, Host]) -> None:
    """The last task left, and another one came: the SAs are new, their numbers go on."""
    one, two = hosts
    reports(one, two, CURRENT)
    with (
        one.lab.capture(two) as frames,
        one.task_socket(task_id(one)) as a,
        two.task_socket(task_id(two)) as b,
    ):
        for _ in range(5):
            exchange(a, b, task_ip(two))
    for host in hosts:
        host.apply(nothing(host))
    assert not any(each.exhausted for each in reports(one, two, CURRENT))
    with one.task_socket(task_id(one)) as a, two.task_socket(task_id(two)) as b:
        captured = [frame for frame in frames if frame[23] == 50 and frame[29] == one.number]
        assert len(captured) == 5
        for frame in captured:
            one.lab.replay(frame, two)
        assert silent(b)
        assert exchange(a, b, task_ip(two)) == b"hello back"
        assert [use.count.sent > 1 << 20 for use in outbound(one, two)] == [True]


def outbound(one: Host, two: Host) -> list[xfrm.SaUse]:
    netlink = one.xfrm()
    try:
        return [use for sa, use in xfrm.list_sas(netlink) if sa.destination == two.address]
    finally:
        netlink.close()


def test_after_a_flush_no_number_is_sent_twice(hosts: tuple[Host, Host]) -> None:
    """Nobody knows how far the SA had come: until the rotation that it asks for, nothing gets through."""
    one, two = hosts
    reports(one, two, CURRENT)
    with one.task_socket(task_id(one)) as a, two.task_socket(task_id(two)) as b:
        exchange(a, b, task_ip(two))
        netlink = one.xfrm()
        netlink.execute(*(xfrm.delete_sa(sa) for sa, _ in xfrm.list_sas(netlink)))
        netlink.close()
        assert one.run(one.datapath.reconcile()).networks[NETWORK].exhausted
        a.sendto(b"lost", (task_ip(two), TASK_PORT))
        assert silent(b)
        assert [use.count.sent for use in outbound(one, two)] == [(1 << 48) + 1]
        for live in (PREPARED, SWITCHED):
            reports(one, two, live)
        assert exchange(a, b, task_ip(two)) == b"hello back"
