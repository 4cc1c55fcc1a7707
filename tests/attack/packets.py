"""What an attacker sends: VXLAN, ARP, ESP, whole or damaged. Pure: bytes in, bytes out."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from swarmnet.cli.demo.wire import checksum, ipv4, udp
from swarmnet.core.endpoints import mac_of
from swarmnet.core.secret import SecretBytes

IPV4: Final = 0x0800
ARP: Final = 0x0806
ESP: Final = 50
UDP: Final = 17
BROADCAST: Final = "ff:ff:ff:ff:ff:ff"
_IP_BYTES: Final = 20
_MORE_FRAGMENTS: Final = 0x2000


def raw_mac(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def ethernet(to: str, source: str, kind: int, body: bytes) -> bytes:
    return raw_mac(to) + raw_mac(source) + struct.pack("!H", kind) + body


def datagram(source: str, to: str, port: int, text: bytes, *, mac: str = "", to_mac: str = "") -> bytes:
    """The Ethernet frame of a UDP datagram between two tasks; its MACs go by the addresses unless given."""
    packet = ipv4(source, to, UDP, udp(port, text))
    return ethernet(to_mac or mac_of(to), mac or mac_of(source), IPV4, packet)


def arp(operation: int, ip: str, mac: str, to_ip: str, to_mac: str) -> bytes:
    """Says that `ip` is at `mac` (RFC 826), and comes from that MAC. Operation 1 asks, 2 answers."""
    ends = raw_mac(mac) + IPv4Address(ip).packed + raw_mac(to_mac) + IPv4Address(to_ip).packed
    return ethernet(to_mac, mac, ARP, struct.pack("!HHBBH", 1, IPV4, 6, 4, operation) + ends)


def vxlan(vni: int, frame: bytes) -> bytes:
    """RFC 7348, section 5."""
    return struct.pack("!II", 0x08 << 24, vni << 8) + frame


@dataclass(frozen=True, slots=True)
class Seal:
    """An SA as who sends by it sees it: ESP of RFC 4303 and 4106 in transport mode, with ESN."""

    spi: int
    key: SecretBytes

    def esp(self, number: int, payload: bytes, spi: int | None = None) -> bytes:
        """The packet with that sequence number around a UDP datagram; `spi` stands in its header instead."""
        shown = self.spi if spi is None else spi
        secret = self.key.reveal()
        padding = -(len(payload) + 2) % 4
        text = payload + bytes(range(1, padding + 1)) + bytes((padding, UDP))
        vector = struct.pack("!Q", number)
        sealed = AESGCM(secret[:32]).encrypt(secret[32:] + vector, text, struct.pack("!IQ", shown, number))
        return struct.pack("!II", shown, number & 0xFFFFFFFF) + vector + sealed


def flipped(data: bytes, bit: int) -> bytes:
    return data[: bit // 8] + bytes((data[bit // 8] ^ 1 << bit % 8,)) + data[bit // 8 + 1 :]


def fragments(packet: bytes, size: int) -> Sequence[bytes]:
    """An IPv4 packet in fragments with `size` bytes of it each, a multiple of 8 (RFC 791)."""
    body = packet[_IP_BYTES:]
    return [
        _fragment(packet, start // 8 | (_MORE_FRAGMENTS if start + size < len(body) else 0), part)
        for start in range(0, len(body), size)
        for part in (body[start : start + size],)
    ]


def _fragment(packet: bytes, place: int, part: bytes) -> bytes:
    head = bytearray(packet[:_IP_BYTES])
    struct.pack_into("!H", head, 2, _IP_BYTES + len(part))
    struct.pack_into("!H", head, 6, place)
    return _checked(head) + part


def readdressed(packet: bytes, *, source: str = "", to: str = "") -> bytes:
    """The IPv4 packet as if it were from and to others."""
    head = bytearray(packet[:_IP_BYTES])
    head[12:16] = IPv4Address(source).packed if source else head[12:16]
    head[16:20] = IPv4Address(to).packed if to else head[16:20]
    return _checked(head) + packet[_IP_BYTES:]


def _checked(head: bytearray) -> bytes:
    struct.pack_into("!H", head, 10, 0)
    struct.pack_into("!H", head, 10, checksum(bytes(head)))
    return bytes(head)
