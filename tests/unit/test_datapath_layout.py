"""Which SAs, policies, links and entries a wish is made of; MTUs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.datapath_cases import SELF, desired, network, peer, task

from swarmnet.core.datapath.desired import Peer, RemoteEndpoint, without_stale_peers
from swarmnet.core.datapath.layout import Forward, layout, task_mtu
from swarmnet.core.datapath.xfrm import Action, Direction, guards
from swarmnet.core.endpoints import mac_of
from swarmnet.core.errors import FailedPrecondition
from swarmnet.core.keys import esp_key, split_spi
from swarmnet.core.limits import MIN_TASK_MTU


def esp_packet(task_packet: int, ip_version: int, *, encap: bool) -> int:
    """Bytes on the wire, the padding found by counting (RFC 4303, section 2.4)."""
    inside = 8 + 8 + 14 + task_packet
    padding = next(pad for pad in range(4) if (inside + pad + 2) % 4 == 0)
    outside = {4: 20, 6: 40}[ip_version] + (8 if encap else 0)
    return outside + 8 + 8 + inside + padding + 2 + 16


@given(st.integers(700, 9216), st.sampled_from((4, 6)), st.booleans())
def test_the_mtu_of_an_encrypted_network_is_the_largest_that_fits(
    underlay: int, ip_version: int, encap: bool
) -> None:
    mtu = task_mtu(underlay, encrypted=True, ip_version=ip_version, encap=encap)
    assert esp_packet(mtu, ip_version, encap=encap) <= underlay
    assert esp_packet(mtu + 1, ip_version, encap=encap) > underlay


def test_mtus_on_an_ethernet() -> None:
    assert (task_mtu(1500, encrypted=False), task_mtu(1500, encrypted=True)) == (1450, 1416)
    assert task_mtu(1500, encrypted=False, ip_version=6) == 1430


def test_one_peer_behind_udp_leaves_room_for_it_on_the_whole_network() -> None:
    net = network(peers=(2, 3))
    behind = replace(net, peers=(net.peers[0], replace(net.peers[1], encap=True)))
    found = layout(desired(behind), 1500)
    assert [links.mtu for links in found.networks.values()] == [1408]
    assert {sa.encap for sa in found.sas.values() if "10.133.0.3" in (sa.source, sa.destination)} == {True}
    assert {sa.encap for sa in found.sas.values() if "10.133.0.2" in (sa.source, sa.destination)} == {False}


def test_a_network_has_the_mtu_it_was_given_unless_that_does_not_fit() -> None:
    net = network()
    found = layout(desired(replace(net, mtu=1300)), 1500)
    assert [links.mtu for links in found.networks.values()] == [1300]
    with pytest.raises(FailedPrecondition, match=r"1417 bytes does not fit: .* 1500 leaves 1416"):
        layout(desired(replace(net, mtu=1417)), 1500)


def test_the_guards_are_of_the_underlays_ip_version() -> None:
    net = replace(network(peers=(2,)), peers=(Peer("node2", 2, "fd00::2"),))
    wish = replace(desired(net), address="fd00::1")
    found = layout(wish, 1500)
    assert {each.destination for each in found.policies.values()} == {"::", "fd00::2"}
    assert all(each.guard for each in guards(wish, net))


def test_other_subnets_of_a_network_are_on_the_link() -> None:
    net = replace(network(), subnets=("10.0.1.0/24", "10.7.0.0/16", "fd01::/64"))
    place = replace(task(1, net).attachments[0], addresses=("10.0.1.101/24", "fd01::5/64"))
    found = layout(desired(net, tasks=(replace(task(1, net), attachments=(place,)),)), 1500)
    ((interface,),) = found.tasks.values()
    assert interface.addresses == ("10.0.1.101/24", "fd01::5/64")
    assert interface.routes == ("10.7.0.0/16",)


def test_an_underlay_that_is_too_narrow_is_refused_with_both_numbers() -> None:
    with pytest.raises(FailedPrecondition, match="600 bytes leaves 516 to tasks; 576"):
        task_mtu(600, encrypted=True)
    assert task_mtu(MIN_TASK_MTU + 50, encrypted=False) == MIN_TASK_MTU


def test_each_peer_and_epoch_has_one_sa_in_and_one_out_with_their_own_keys() -> None:
    net = network(phase="prepared")
    found = layout(desired(net), 1500)
    assert len(found.sas) == 2 * 2 * 2
    assert len({sa.fingerprint for sa in found.sas.values()}) == 8
    for sa in found.sas.values():
        index, sender, epoch = split_spi(sa.spi)
        assert (index, sa.reqid, sa.port) == (1, 1, 20001)
        assert sa.source == f"10.133.0.{sender}"
        assert sa.outbound == (sender == 1)
        other = "node" + (sa.source if sender != 1 else sa.destination)[-1]
        ends = (SELF, other) if sender == 1 else (other, SELF)
        assert sa.key == esp_key(net.epochs.live[epoch - 1].secret, *ends)


def test_policies_send_with_the_current_epoch_only() -> None:
    for phase, epoch in (("stable", 1), ("prepared", 1), ("switched", 2), ("retired", 2)):
        found = layout(desired(network(phase=phase)), 1500).policies.values()
        sent = [policy for policy in found if not policy.guard]
        assert {split_spi(policy.spi) for policy in sent} == {(1, 1, epoch)}
        assert {policy.destination for policy in sent} == {"10.133.0.2", "10.133.0.3"}


def test_without_a_current_epoch_only_the_guards_stand() -> None:
    net = network(phase="none")
    assert list(layout(desired(net), 1500).policies.values()) == list(guards(desired(net), net))


def test_the_guards_block_what_leaves_and_demand_esp_of_what_comes() -> None:
    out, in_ = guards(desired(), network())
    assert (out.direction, out.action, out.reqid) == (Direction.OUT, Action.BLOCK, 0)
    assert (in_.direction, in_.action, in_.reqid) == (Direction.IN, Action.ESP, 1)
    assert out.priority > 1000, "peer policies have the lower number and so come first"


def test_a_plain_network_has_no_ipsec() -> None:
    found = layout(desired(network(encrypted=False)), 1500)
    assert (found.sas, found.policies) == ({}, {})
    assert [links.mtu for links in found.networks.values()] == [1450]


def test_entries_that_nobody_vouches_for_are_left_out() -> None:
    net = network(peers=(2,))
    mine = "10.0.1.101"
    bad = (
        RemoteEndpoint("10.0.1.9", mac_of("10.0.1.9"), "node9"),
        RemoteEndpoint("10.9.9.9", mac_of("10.9.9.9"), "node2"),
        RemoteEndpoint(mine, mac_of("10.0.1.50"), "node2"),
        RemoteEndpoint("10.0.1.51", mac_of(mine), "node2"),
    )
    wish = desired(replace(net, endpoints=net.endpoints + bad), tasks=(task(1, net),))
    (entries,) = layout(wish, 1500).forwards.values()
    assert list(entries.values()) == [Forward("10.0.1.2", mac_of("10.0.1.2"), "10.133.0.2")]


def test_a_peer_that_moved_gets_new_sas_and_entries() -> None:
    net = network(peers=(2,))
    moved = replace(net, peers=(Peer("node2", 2, "10.133.0.77"),))
    assert peer(2) not in moved.peers
    found = layout(desired(moved), 1500)
    assert {sa.source for sa in found.sas.values()} == {"10.133.0.1", "10.133.0.77"}
    assert [each.vtep for entries in found.forwards.values() for each in entries.values()] == ["10.133.0.77"]


def test_of_two_nodes_at_one_address_the_newer_counts_and_none_at_our_own() -> None:
    old, new, self_before = peer(2), Peer("node7", 7, "10.133.0.2"), Peer("node6", 6, "10.133.0.1")
    net = replace(network(peers=()), peers=(new, self_before, old, peer(3)))
    (found,) = without_stale_peers(desired(net)).networks
    assert set(found.peers) == {new, peer(3)}


def test_no_key_shows_in_a_layout() -> None:
    found = layout(desired(network()), 1500)
    for sa in found.sas.values():
        assert sa.key is not None
        assert "key" not in repr(sa)
        assert sa.key.reveal().hex() not in repr(found)
