"""Do packets between two hosts of an encrypted network really go encrypted? Sent, and watched on the wire.

Probes are what the network's VXLAN device would send to a peer, from a socket of the host: the same addresses
and port, so the kernel treats them as it treats tasks' packets. Inside is a frame that bridges never forward.
"""

from __future__ import annotations

import socket
import struct
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from swarmnet.core.datapath.desired import Desired, DesiredNetwork
from swarmnet.core.datapath.xfrm import Sa
from swarmnet.core.limits import ESP_IN_UDP_PORT
from swarmnet.worker.datapath.netlink import family_of
from swarmnet.worker.datapath.xfrm import SaUse

WATCH_S: Final = 3.0
"""How long the underlay is watched: all nodes are asked within a second of each other."""
_SEND_AFTER_S: Final = 1.0
PROBES: Final = 10
_PAUSE_S: Final = 0.02
_FRAME: Final = bytes.fromhex("0180c200000e" + "024200000000" + "88b5") + b"swarmnet probe".ljust(46, b"\0")
"""To a group address that bridges never forward (IEEE 802.1Q, 8.6.3); ethertype for local experiments."""
_ETH_P_ALL: Final = 3
_OUTGOING: Final = 4
_BUFFER_BYTES: Final = 1 << 24
_RCVBUFFORCE: Final = 33
_IPV4, _IPV6 = b"\x08\x00", b"\x86\xdd"
_UDP, _ESP = 17, 50


@dataclass(frozen=True, slots=True)
class Seen:
    """One packet on the underlay: ESP with its `spi`, or UDP in clear to `port`; the other is 0."""

    outgoing: bool
    other: str
    spi: int = 0
    port: int = 0


@dataclass(frozen=True, slots=True)
class Sightings:
    """By the other host's address and direction (True is out): ESP packets, and those in clear."""

    esp: Counter[tuple[str, bool]]
    clear: Counter[tuple[str, bool]]


@dataclass(frozen=True, slots=True)
class PeerProbes:
    """Counts of packets, to and from one peer, while it was probed.

    `sent` probes; `encrypted` and `decrypted` by the SAs with it; `seen_*` as ESP of these SAs on the
    underlay; `plaintext_*` of the network there in clear.
    """

    peer: str
    sent: int
    encrypted: int
    decrypted: int
    seen_out: int
    seen_in: int
    plaintext_out: int
    plaintext_in: int


Uses = list[tuple[Sa, SaUse]]


def peer_probes(
    desired: Desired, network: DesiredNetwork, seen: list[Seen], before: Uses, after: Uses
) -> list[PeerProbes]:
    """What came of the probes, by peer."""
    spis = frozenset(sa.spi for sa, _ in after if sa.reqid == network.index)
    sightings = count(seen, spis, network.port)

    past = {(sa.id, sa.fingerprint): use.packets for sa, use in before}

    def grown(source: str, destination: str) -> int:
        """Of all SAs in that direction, whatever their epoch."""
        return sum(
            use.packets - past.get((sa.id, sa.fingerprint), 0)
            for sa, use in after
            if (sa.source, sa.destination, sa.reqid) == (source, destination, network.index)
        )

    return [
        PeerProbes(
            peer.node_id,
            PROBES,
            grown(desired.address, peer.address),
            grown(peer.address, desired.address),
            sightings.esp[peer.address, True],
            sightings.esp[peer.address, False],
            sightings.clear[peer.address, True],
            sightings.clear[peer.address, False],
        )
        for peer in network.peers
    ]


def parse(frame: bytes, *, outgoing: bool) -> Seen | None:
    """An Ethernet frame with ESP, ESP in UDP, or UDP of IPv4 or IPv6; None for anything else, or damaged."""
    kind = frame[12:14]
    if kind == _IPV4 and len(frame) >= 34:
        protocol, start = frame[23], 14 + 4 * (frame[14] & 15)
        source, destination = frame[26:30], frame[30:34]
    elif kind == _IPV6 and len(frame) >= 54:
        protocol, start = frame[20], 54
        source, destination = frame[22:38], frame[38:54]
    else:
        return None
    body = frame[start : start + 12]
    other = str(ip_address(destination if outgoing else source))
    if protocol == _ESP and len(body) >= 4:
        return Seen(outgoing, other, spi=int.from_bytes(body[:4], "big"))
    if protocol == _UDP and len(body) >= 12:
        port = int.from_bytes(body[2:4], "big")
        spi = int.from_bytes(body[8:12], "big") if port == ESP_IN_UDP_PORT else 0
        return Seen(outgoing, other, spi=spi) if spi else Seen(outgoing, other, port=port)
    return None


def count(packets: Iterable[Seen], spis: frozenset[int], port: int) -> Sightings:
    """Those of a network: with one of its SPIs, or in clear to its UDP port."""
    esp: Counter[tuple[str, bool]] = Counter()
    clear: Counter[tuple[str, bool]] = Counter()
    for each in packets:
        if each.spi in spis:
            esp[each.other, each.outgoing] += 1
        elif not each.spi and each.port == port:
            clear[each.other, each.outgoing] += 1
    return Sightings(esp, clear)


def exchange(network: DesiredNetwork, address: str, interface: str) -> list[Seen]:
    """Watch the interface for `WATCH_S`, and send probes to every peer meanwhile. Blocks as long. OSError."""
    began = time.monotonic()
    pending = _probes(network, address)
    due = began + _SEND_AFTER_S
    seen: list[Seen] = []
    with _tap(interface) as tap:
        while (now := time.monotonic()) < began + WATCH_S:
            if pending and now >= due:
                _send(*pending.pop())
                due = now + _PAUSE_S / max(len(network.peers), 1)
            tap.settimeout(max(min(due if pending else began + WATCH_S, began + WATCH_S) - now, 1e-4))
            try:
                frame, (_, _, kind, *_) = tap.recvfrom(128)
            except TimeoutError:
                continue
            if (packet := parse(frame, outgoing=kind == _OUTGOING)) is not None:
                seen.append(packet)
    return seen


def _probes(network: DesiredNetwork, address: str) -> list[tuple[str, tuple[str, int], bytes]]:
    """(from, to, datagram), one peer after the other, again and again."""
    datagram = struct.pack("!II", 0x08000000, network.vni << 8) + _FRAME  # RFC 7348, section 5
    return [(address, (peer.address, network.port), datagram) for peer in network.peers * PROBES]


def _send(source: str, destination: tuple[str, int], datagram: bytes) -> None:
    """What the kernel refuses to send shows in the counts."""
    with socket.socket(family_of(source), socket.SOCK_DGRAM) as sender:
        sender.bind((source, 0))
        try:
            sender.sendto(datagram, destination)
        except OSError:
            return


@contextmanager
def _tap(interface: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL)) as tap:
        tap.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, _BUFFER_BYTES)
        tap.bind((interface, _ETH_P_ALL))
        yield tap
