"""What the demo's capture calls ESP, plaintext or neither, and the packets that it injects."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address

import pytest

from swarmnet.cli.demo.wire import MARKER, Counts, Target, checksum, encapsulated

TARGET = Target(
    host_address="10.133.0.21", vni=4097, port=20001, task_address="10.0.0.2", task_mac="02:42:0a:00:00:02",
    neighbour_address="10.0.0.3", neighbour_mac="02:42:0a:00:00:03",
)  # fmt: skip


def frame(protocol: int, body: bytes, ether_type: int = 0x0800) -> bytes:
    ends = IPv4Address("10.133.0.21").packed + IPv4Address("10.133.0.22").packed
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 1, 0, 64, protocol, 0) + ends
    return bytes(12) + struct.pack("!H", ether_type) + header + body


def udp(port: int, payload: bytes = b"x") -> bytes:
    return struct.pack("!HHHH", 40000, port, 8 + len(payload), 0) + payload


@pytest.mark.parametrize(
    ("seen", "esp", "plaintext", "marked"),
    [
        (frame(50, bytes(40)), 1, 0, 0),
        (frame(17, udp(4789)), 0, 1, 0),
        (frame(17, udp(20000)), 0, 1, 0),
        (frame(17, udp(24095)), 0, 1, 0),
        (frame(17, udp(24096)), 0, 0, 0),
        (frame(17, udp(7946)), 0, 0, 0),
        (frame(6, MARKER), 0, 1, 1),
        (frame(50, MARKER), 1, 1, 1),
        (frame(17, udp(4789), ether_type=0x86DD), 0, 0, 0),
        (b"short", 0, 0, 0),
    ],
)
def test_counts_each_frame_for_what_it_is(seen: bytes, esp: int, plaintext: int, marked: int) -> None:
    counts = Counts()
    counts.add(seen)
    assert (counts.esp, counts.plaintext, counts.marked) == (esp, plaintext, marked)


def test_a_checksummed_header_sums_to_zero() -> None:
    header = bytes.fromhex("45000073000040004011000 0c0a80001c0a800c7".replace(" ", ""))
    summed = header[:10] + struct.pack("!H", checksum(header)) + header[12:]
    assert summed[10:12].hex() == "b861"
    assert checksum(summed) == 0


def test_injected_packets_are_vxlan_of_the_network_for_the_task() -> None:
    packet = encapsulated(TARGET)
    flags, vni = struct.unpack_from("!II", packet)
    assert (flags, vni >> 8) == (0x08000000, 4097)
    inner = packet[8:]
    assert inner[:12].hex() == "02420a00000202420a000003"
    assert IPv4Address(inner[30:34]) == IPv4Address("10.0.0.2")
    assert checksum(inner[14:34]) == 0
    assert MARKER in inner
