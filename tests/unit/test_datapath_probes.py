"""What is read off the underlay, and what follows from it and from the SAs' counts."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.datapath_cases import desired, network

from swarmnet.core.datapath.layout import layout
from swarmnet.core.epochs import Role
from swarmnet.worker.datapath.probes import PROBES, PeerProbes, Seen, parse, peer_probes
from swarmnet.worker.datapath.tunnels import network_tunnels
from swarmnet.worker.datapath.xfrm import SaUse

SPI = 0x0010_0011
NET = network(phase="prepared", peers=(2,))
WISH = desired(NET)
WANTED = layout(WISH, 1500)


def ethernet(source: str, destination: str, protocol: int, payload: bytes) -> bytes:
    ends = ip_address(source).packed + ip_address(destination).packed
    if ip_address(source).version == 4:
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol, 0)
        return bytes(12) + b"\x08\x00" + head + ends + payload
    head = struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64)
    return bytes(12) + b"\x86\xdd" + head + ends + payload


def udp(port: int, payload: bytes) -> bytes:
    return struct.pack("!HHHH", 40000, port, 8 + len(payload), 0) + payload


@pytest.mark.parametrize(("here", "there"), [("10.133.0.1", "10.133.0.2"), ("fd00::1", "fd00::2")])
@pytest.mark.parametrize(
    ("protocol", "payload", "seen"),
    [
        (50, struct.pack("!II", SPI, 1), {"spi": SPI}),
        (17, udp(4500, struct.pack("!II", SPI, 1)), {"spi": SPI}),
        (17, udp(4500, bytes(8)), {"port": 4500}),
        (17, udp(20001, b"vxlan..."), {"port": 20001}),
        (6, bytes(20), None),
        (17, b"short", None),
    ],
)
def test_packets_are_told_apart(
    here: str, there: str, protocol: int, payload: bytes, seen: dict[str, int] | None
) -> None:
    out = parse(ethernet(here, there, protocol, payload), outgoing=True)
    back = parse(ethernet(there, here, protocol, payload), outgoing=False)
    assert out == (Seen(True, there, **seen) if seen else None)
    assert back == (Seen(False, there, **seen) if seen else None)


@given(st.binary(max_size=80), st.booleans())
def test_nothing_on_the_wire_can_hurt(frame: bytes, outgoing: bool) -> None:
    parse(frame, outgoing=outgoing)
    parse(bytes(12) + b"\x08\x00" + frame, outgoing=outgoing)
    parse(bytes(12) + b"\x86\xdd" + frame, outgoing=outgoing)


def use(packets: int) -> SaUse:
    return SaUse(packets, packets * 100, 0, 0, 0)


def test_a_peer_is_counted_over_all_its_sas_and_seen_in_both_directions() -> None:
    sas = list(WANTED.sas.values())
    before = [(sa, use(5)) for sa in sas[:2]]
    after = [(sa, use(9 if sa.outbound else 6)) for sa in sas]
    spi = next(sa.spi for sa in sas if sa.outbound)
    seen = [
        Seen(True, "10.133.0.2", spi=spi),
        Seen(False, "10.133.0.2", spi=next(sa.spi for sa in sas if not sa.outbound)),
        Seen(False, "10.133.0.2", port=20001),
        Seen(True, "10.133.0.2", port=20002),
        Seen(True, "10.133.0.9", spi=spi),
        Seen(True, "10.133.0.2", spi=0x0020_0011),
    ]
    assert peer_probes(WISH, NET, seen, before, after) == [
        PeerProbes("node2", PROBES, 9 - 5 + 9, 6 - 5 + 6, 1, 1, 0, 1)
    ]


def test_an_sa_that_went_meanwhile_takes_nothing_away() -> None:
    sas = list(WANTED.sas.values())
    before = [(sa, use(1000)) for sa in sas]
    after = [(sa, use(1010)) for sa in sas[2:]]
    (found,) = peer_probes(WISH, NET, [], before, after)
    assert (found.encrypted, found.decrypted) == (10, 10)


def test_tunnels_are_told_by_peer_and_epoch_with_what_is_missing() -> None:
    sas = [sa for sa in WANTED.sas.values() if sa.outbound or sa.epoch == 1]
    (found,) = network_tunnels(WISH, WANTED, [(sa, use(sa.epoch)) for sa in sas])
    assert (found.network_id, found.sending, found.guarded) == (NET.id, 1, True)
    first, second = found.tunnels
    assert (first.peer, first.epoch, first.role) == ("node2", 1, Role.CURRENT)
    assert (first.outbound, first.inbound) == (use(1), use(1))
    assert (second.epoch, second.outbound, second.inbound) == (2, use(2), None)
    assert second.spis == (0x0010_0012, 0x0010_0022)


def test_a_network_without_one_of_its_guards_is_told() -> None:
    actual = layout(WISH, 1500)
    guard = next(id_ for id_, policy in actual.policies.items() if policy.guard)
    del actual.policies[guard]
    (found,) = network_tunnels(WISH, actual, [])
    assert not found.guarded
