"""Looking at packets and making them: raw sockets in the lab's network namespaces.

What counts as what, on the underlay:
    ESP              IP protocol 50
    plaintext VXLAN  UDP to 4789 or to an encrypted network's port (20000-24095), or whatever holds the marker
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address
from types import TracebackType
from typing import Final, Self, TypeVar

from swarmnet.cli.lab import linux
from swarmnet.core.limits import ENCRYPTED_PORT_FIRST, ENCRYPTED_PORT_LAST, PLAIN_VXLAN_PORT

MARKER: Final = b"swarmnet-demo-payload"
_ETH_P_ALL: Final = 3
_ETH_P_IP: Final = 0x0800
_ESP: Final = 50
_UDP: Final = 17
_FRAME_BYTES: Final = 2048
_POLL_S: Final = 0.1
_SO_RCVBUFFORCE: Final = 33  # <asm-generic/socket.h>
_BUFFER_BYTES: Final = 8 << 20

MadeT = TypeVar("MadeT")


def inside(namespace: str, make: Callable[[], MadeT]) -> MadeT:
    """What `make` returns when called in a network namespace; a thread of its own goes there and ends."""
    results: list[MadeT] = []
    errors: list[OSError] = []

    def go() -> None:
        try:
            linux.setns(namespace, linux.CLONE_NEWNET)
            results.append(make())
        except OSError as error:
            errors.append(error)

    thread = threading.Thread(target=go)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


@dataclass(slots=True)
class Counts:
    """Packets seen so far."""

    frames: int = 0
    esp: int = 0
    plaintext: int = 0
    marked: int = 0
    """That hold the marker readably."""

    def add(self, frame: bytes) -> None:
        self.frames += 1
        protocol, port = _ip_protocol_and_port(frame)
        self.esp += protocol == _ESP
        marked = MARKER in frame
        self.marked += marked
        self.plaintext += marked or (protocol == _UDP and is_vxlan_port(port))


def is_vxlan_port(port: int) -> bool:
    return port == PLAIN_VXLAN_PORT or ENCRYPTED_PORT_FIRST <= port <= ENCRYPTED_PORT_LAST


def _ip_protocol_and_port(frame: bytes) -> tuple[int, int]:
    """IP protocol and UDP destination port of an Ethernet frame; zeros where it has none."""
    if len(frame) < 34 or int.from_bytes(frame[12:14]) != _ETH_P_IP:
        return 0, 0
    protocol, header = frame[23], 14 + (frame[14] & 15) * 4
    return protocol, int.from_bytes(frame[header + 2 : header + 4]) if protocol == _UDP else 0


class Capture:
    """Counts what arrives at interfaces of a network namespace, from entering the context to leaving it."""

    def __init__(self, namespace: str, interfaces: frozenset[str]) -> None:
        self.counts = Counts()
        self._interfaces = interfaces
        self._socket = inside(namespace, _sniffer)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        self._socket.close()

    def _read(self) -> None:
        while True:
            try:
                frame, (interface, _, packet_type, *_) = self._socket.recvfrom(_FRAME_BYTES)
            except TimeoutError:
                if self._done.is_set():
                    return
                continue
            if interface in self._interfaces and packet_type != socket.PACKET_OUTGOING:
                self.counts.add(frame)


def _sniffer() -> socket.socket:
    sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
    sniffer.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
    sniffer.settimeout(_POLL_S)
    return sniffer


@dataclass(frozen=True, slots=True)
class Target:
    """A task, as an attacker who knows everything but the keys would aim at it."""

    host_address: str
    vni: int
    port: int
    task_address: str
    task_mac: str
    neighbour_address: str
    neighbour_mac: str


def inject(namespace: str, target: Target, count: int, *, spoofed_source: str = "") -> None:
    """Sends VXLAN in clear at a task; with the address of another host as its source if one is given."""
    payload = encapsulated(target)

    def send() -> None:
        if not spoofed_source:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain:
                for _ in range(count):
                    plain.sendto(payload, (target.host_address, target.port))
            return
        packet = ipv4(spoofed_source, target.host_address, _UDP, udp(target.port, payload))
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
            for _ in range(count):
                raw.sendto(packet, (target.host_address, 0))

    inside(namespace, send)


def encapsulated(target: Target) -> bytes:
    """A VXLAN payload (RFC 7348, section 5) that the task would take for its neighbour's ping."""
    return struct.pack("!II", 0x08 << 24, target.vni << 8) + _inner_frame(target)


def _inner_frame(target: Target) -> bytes:
    """A ping that seems to come from the task's neighbour, with the marker in it."""
    echo = struct.pack("!BBHHH", 8, 0, 0, 0x5357, 1) + MARKER + b"\0"
    echo = echo[:2] + struct.pack("!H", checksum(echo)) + echo[4:]
    ethernet = _mac(target.task_mac) + _mac(target.neighbour_mac) + struct.pack("!H", _ETH_P_IP)
    return ethernet + ipv4(target.neighbour_address, target.task_address, socket.IPPROTO_ICMP, echo)


def ipv4(source: str, destination: str, protocol: int, body: bytes) -> bytes:
    """RFC 791, without options."""
    ends = IPv4Address(source).packed + IPv4Address(destination).packed
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 1, 0, 64, protocol, 0) + ends
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + body


def udp(port: int, payload: bytes) -> bytes:
    """RFC 768; checksum 0: none, as VXLAN has it (RFC 7348, section 5)."""
    return struct.pack("!HHHH", 49152, port, 8 + len(payload), 0) + payload


def checksum(data: bytes) -> int:
    """Of IPv4 and ICMP headers (RFC 1071); `data` has an even length."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))
