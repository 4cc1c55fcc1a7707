"""XFRM and netlink messages, byte for byte, and back."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

import pytest
from tests.unit.datapath_cases import desired, network

from swarmnet.core.datapath.layout import layout
from swarmnet.core.datapath.xfrm import ANY, Action, Direction, Policy, Sa, fingerprint, guards
from swarmnet.core.secret import SecretBytes
from swarmnet.worker.datapath import rtnetlink as rt
from swarmnet.worker.datapath import xfrm
from swarmnet.worker.datapath.expiry import EXPIRE, expired
from swarmnet.worker.datapath.netlink import Message, NetlinkError, attribute, attributes, nested

KEY = bytes(range(36))
SA = Sa("10.133.0.1", "10.133.0.2", 0x0010_0011, 1, 20001, fingerprint(KEY), key=SecretBytes(KEY))
POLICY = Policy(Direction.OUT, "10.133.0.1", "10.133.0.2", 20001, Action.ESP, 1000, 1, 0x0010_0011)
NO_LIMIT = "ff" * 8

SELECTOR = (
    "0a850002" + "00" * 12 + "0a850001" + "00" * 12  # daddr, saddr
    + "4e21" + "ffff" + "0000" + "0000"  # dport 20001 and its mask, sport
    + "0200" + "20" + "20" + "11" + "000000" + "00000000" + "00000000"  # AF_INET, /32, /32, UDP, no interface
)  # fmt: skip
GOLDEN_SA = (
    SELECTOR
    + "0a850002" + "00" * 12 + "00100011" + "32" + "000000"  # id: daddr, SPI, ESP
    + "0a850001" + "00" * 12  # saddr
    + "0000000000010000" + NO_LIMIT + "0000000001000000" + NO_LIMIT + "00" * 32  # soft limits
    + "00" * 32  # current lifetime
    + "00" * 12 + "00000000" + "01000000" + "0200" + "00" + "00" + "80" + "00" * 7  # stats, reqid 1, ESN
    + "7000" + "1200" + b"rfc4106(gcm(aes))".hex() + "00" * 47 + "20010000" + "80000000" + KEY.hex()
    + "9c00" + "1700" + "20000000" + "00" * 16 + "00040000" + "00" * 128  # window of 1024 in 32 words
)  # fmt: skip
GOLDEN_POLICY = (
    SELECTOR
    + NO_LIMIT * 4 + "00" * 32 + "00" * 32
    + "e8030000" + "00000000" + "01" + "00" + "00" + "00" + "00000000"  # priority 1000, out, allow
    + "4400" + "0500"
    + "0a850002" + "00" * 12 + "00100011" + "32" + "000000" + "0200" + "0000"
    + "0a850001" + "00" * 12 + "01000000" + "00" * 4 + "ff" * 12
)  # fmt: skip


def test_an_sa_byte_for_byte() -> None:
    message = xfrm.new_sa(SA)
    assert (message.type, message.flags) == (0x10, 0x600)
    assert message.body.hex() == GOLDEN_SA


def test_a_policy_byte_for_byte() -> None:
    message = xfrm.put_policy(POLICY)
    assert (message.type, message.flags) == (0x19, 0x400)
    assert message.body.hex() == GOLDEN_POLICY


def test_sas_and_policies_come_back_as_they_were_sent() -> None:
    wanted = layout(desired(network(phase="switched"), network(2)), 1500)
    for sa in wanted.sas.values():
        found = xfrm.read_sa(memoryview(xfrm.new_sa(sa).body))
        assert found is not None
        assert found[0] == sa
        assert found[0].key is None
    for policy in wanted.policies.values():
        assert xfrm.read_policy(memoryview(xfrm.put_policy(policy).body)) == policy


@pytest.mark.parametrize(
    "change",
    [{"port": 4500}, {"reqid": 0}, {"reqid": 2}, {"spi": 0x1234}],
    ids=["port", "no reqid", "reqid and SPI disagree", "SPI of nobody"],
)
def test_a_foreign_sa_is_not_ours(change: dict[str, int]) -> None:
    assert xfrm.read_sa(memoryview(xfrm.new_sa(replace(SA, **change)).body)) is None  # type: ignore[arg-type]


@pytest.mark.parametrize("changes", [{"encap": True}, {"source": "fd00::1", "destination": "fd00::2"}])
def test_ipv6_and_esp_in_udp_survive_the_trip(changes: dict[str, Any]) -> None:
    sa = replace(SA, **changes)
    found = xfrm.read_sa(memoryview(xfrm.new_sa(sa).body))
    assert found is not None
    assert found[0] == sa
    assert found[0] != replace(sa, encap=not sa.encap)


def test_an_sa_in_udp_at_another_port_equals_none_of_ours() -> None:
    body = xfrm.new_sa(replace(SA, encap=True)).body.replace(b"\x11\x94", b"\x11\x95")
    found = xfrm.read_sa(memoryview(body))
    assert found is not None
    assert found[0].fingerprint == ""


def test_an_ipv6_policy_survives_the_trip() -> None:
    policy = replace(POLICY, source="fd00::1", destination="fd00::2")
    assert xfrm.read_policy(memoryview(xfrm.put_policy(policy).body)) == policy
    for guard in guards(replace(desired(), address="fd00::1"), network()):
        assert xfrm.read_policy(memoryview(xfrm.put_policy(guard).body)) == guard


def test_a_foreign_policy_is_not_ours() -> None:
    assert xfrm.read_policy(memoryview(xfrm.put_policy(replace(POLICY, port=500)).body)) is None


def test_an_sa_without_the_window_or_with_another_cipher_equals_none_of_ours() -> None:
    body = xfrm.new_sa(SA).body
    for weaker in (body[: 224 + 112], body.replace(b"rfc4106(gcm(aes))", b"rfc4309(ccm(aes))")):
        found = xfrm.read_sa(memoryview(weaker))
        assert found is not None
        assert found[0].fingerprint == ""
        assert found[0] != SA


def test_a_policy_that_lets_packets_pass_in_clear_equals_none_of_ours() -> None:
    for policy in (POLICY, guards(desired(), network())[1]):
        passing = xfrm.put_policy(policy).body[:168]
        assert xfrm.read_policy(memoryview(passing)) not in (None, policy)


def test_a_blocking_guard_has_no_template() -> None:
    out, _ = guards(desired(), network())
    body = xfrm.put_policy(out).body
    assert len(body) == 168
    assert body[161] == 1
    assert out.source == out.destination == ANY


def test_an_sa_without_a_key_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="no key"):
        xfrm.new_sa(replace(SA, key=None))


def test_no_key_shows_in_a_message() -> None:
    assert KEY.hex() not in repr(xfrm.new_sa(SA))
    assert str(KEY)[2:-1] not in repr(Message(1, KEY))


def test_uses_count_against_the_soft_limits() -> None:
    assert xfrm.SaUse(1 << 32, 0, 0, 0, 0).exhausted
    assert xfrm.SaUse(0, 1 << 40, 0, 0, 0).exhausted
    assert not xfrm.SaUse((1 << 32) - 1, (1 << 40) - 1, 9, 9, 9).exhausted


def test_attributes_survive_the_trip_and_a_lying_length_is_refused() -> None:
    raw = attribute(1, b"abc") + nested(2, attribute(3, b"x"))
    found = attributes(memoryview(raw))
    assert {kind: bytes(data) for kind, data in found.items()} == {1: b"abc", 2: attribute(3, b"x")}
    with pytest.raises(ValueError, match="where 8 are left"):
        attributes(memoryview(struct.pack("=HHI", 40, 1, 0)))


def test_errors_that_mean_absence() -> None:
    assert NetlinkError(3).missing
    assert NetlinkError(2).missing
    assert not NetlinkError(17).missing
    assert str(NetlinkError(22, "Invalid key length")) == "[Errno 22] Invalid key length"


def test_a_remote_mac_goes_to_the_device_and_to_its_bridge() -> None:
    body = rt.new_remote_mac(5, "02:42:0a:00:01:02", "10.133.0.2").body
    assert body.hex() == "07000000" + "05000000" + "4200" + "06" + "00" + (
        "0a000200" + "02420a000102" + "0000" + "08000100" + "0a850002"
    )


def expiry(body: bytes, kind: int = EXPIRE) -> bytes:
    """As the kernel sends it: xfrm_user_expire is an xfrm_usersa_info and `hard`, padded to 8 bytes."""
    whole = body[: xfrm.SA_INFO_BYTES] + bytes(8)
    return struct.pack("=IHHII", 16 + len(whole), kind, 0, 0, 0) + whole


def test_the_kernels_word_of_an_expiry_is_read() -> None:
    ours, foreign = xfrm.new_sa(SA).body, xfrm.new_sa(replace(SA, reqid=SA.reqid + 1)).body
    assert expired(memoryview(expiry(ours) + expiry(foreign) + expiry(ours))) == [SA.spi, SA.spi]
    assert expired(memoryview(expiry(ours, kind=xfrm.NEW_SA))) == []
    for length in range(len(expiry(ours))):
        assert expired(memoryview(expiry(ours)[:length])) in ([], [SA.spi])
    assert expired(memoryview(bytes(64))) == []
