"""The attacks: each gives the packets to send, one call for each, and may prepare the scene for them."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from tests.attack.packets import (
    BROADCAST,
    ESP,
    UDP,
    arp,
    datagram,
    flipped,
    fragments,
    readdressed,
    vxlan,
)
from tests.attack.row import Shot
from tests.attack.scene import FORGED, HOSTILE_SLOT, NETS, A, B, Net, P, Scene
from tests.kernel.hosts import TASK_PORT, Host

from swarmnet.cli.demo.wire import ipv4, udp
from swarmnet.core.endpoints import mac_of
from swarmnet.core.limits import ENCRYPTED_PORT_LAST, ESP_IN_UDP_PORT
from swarmnet.worker.datapath import xfrm

_OTHER_VNIS: Final = (0, 1, 9999, (1 << 24) - 1)
_OTHER_PORTS: Final = (ENCRYPTED_PORT_LAST, 8472)
_FRAGMENT_BYTES: Final = 32
_NO_PEER: Final = "10.0.2.250"


def inner(net: Net, source: int = 2, to: int = 1, *, mac: str = "") -> bytes:
    """A forged datagram from one host's task to another's."""
    return datagram(net.ip(source), net.ip(to), TASK_PORT, FORGED, mac=mac)


def plaintext(net: Net, source: str, to: Host, *, port: int = 0, vni: int = 0) -> bytes:
    """VXLAN in clear with a forged datagram in it."""
    frame = inner(net, 3 - to.number, to.number)
    return ipv4(source, to.address, UDP, udp(port or net.port, vxlan(vni or net.vni, frame)))


def sealed_text(net: Net, *, port: int = 0, vni: int = 0, source: int = 2, mac: str = "") -> bytes:
    """What ESP of the network is to hold: UDP, VXLAN and a forged datagram for w1's task."""
    return udp(port or net.port, vxlan(vni or net.vni, inner(net, source, mac=mac)))


# Plaintext from a host without keys


def every_vni(scene: Scene, count: int, *, spoofed: bool) -> Iterator[Shot]:
    """Every VNI in use and others, at every port in use and others, but for the plain network's own."""
    source = scene.w2.address if spoofed else scene.stranger.address
    for port in (*(net.port for net in NETS), *_OTHER_PORTS):
        for vni in (*(net.vni for net in NETS), *_OTHER_VNIS):
            if (port, vni) != (P.port, P.vni):
                net = next((each for each in NETS if each.vni == vni), A)
                body = udp(port, vxlan(vni, inner(net)))
                packet = ipv4(source, scene.w1.address, UDP, body)
                yield from _times(count // 5 or 1, partial(scene.put, scene.stranger, scene.w1, packet))


def _times(count: int, shot: Shot) -> Iterator[Shot]:
    for _ in range(count):
        yield shot


def in_clear(scene: Scene, count: int, *, net: Net = A, spoofed: bool = True) -> Iterator[Shot]:
    source = scene.w2.address if spoofed else scene.stranger.address
    packet = plaintext(net, source, scene.w1)
    yield from _times(count, partial(scene.put, scene.stranger, scene.w1, packet))


def in_clear_at_both(scene: Scene, count: int) -> Iterator[Shot]:
    for _ in range(count):
        for net in (A, B):
            for to, other in ((scene.w1, scene.w2), (scene.w2, scene.w1)):
                yield partial(scene.put, scene.stranger, to, plaintext(net, other.address, to))


def in_fragments(scene: Scene, count: int, *, net: Net = A) -> Iterator[Shot]:
    parts = fragments(plaintext(net, scene.w2.address, scene.w1), _FRAGMENT_BYTES)
    yield from _times(count, partial(_put_all, scene, parts))


def _put_all(scene: Scene, packets: Sequence[bytes]) -> None:
    for each in packets:
        scene.put(scene.stranger, scene.w1, each)


def plain_wrong_mac(scene: Scene, count: int) -> Iterator[Shot]:
    for mac in (mac_of(P.ip(1)), mac_of(_NO_PEER)):
        body = udp(P.port, vxlan(P.vni, inner(P, mac=mac)))
        packet = ipv4(scene.w2.address, scene.w1.address, UDP, body)
        yield from _times(count, partial(scene.put, scene.stranger, scene.w1, packet))


# Captured ESP


def captured(scene: Scene, count: int) -> list[bytes]:
    """Packets of network a from w2 to w1, which have been delivered."""
    return [scene.packet_of(A, 2, 1, FORGED) for _ in range(count)]


def replayed(scene: Scene, count: int) -> Iterator[Shot]:
    for packet in captured(scene, count):
        yield partial(scene.put, scene.stranger, scene.w1, packet)


def replayed_while_rotating(scene: Scene, count: int) -> Iterator[Shot]:
    packets = captured(scene, count)
    scene.prepare_rotation()
    for packet in packets:
        yield partial(scene.put, scene.stranger, scene.w1, packet)


def replayed_after_rotation(scene: Scene, count: int) -> Iterator[Shot]:
    packets = captured(scene, count)
    scene.rotate()
    for packet in packets:
        yield partial(scene.put, scene.stranger, scene.w1, packet)


def replayed_elsewhere(scene: Scene, count: int) -> Iterator[Shot]:
    """To w3, which has no key of the network, back to w2, and to w2 as if from w1."""
    for packet in captured(scene, count):
        yield partial(scene.put, scene.stranger, scene.w3, readdressed(packet, to=scene.w3.address))
        yield partial(scene.put, scene.stranger, scene.w2, readdressed(packet, to=scene.w2.address))
        back = readdressed(packet, source=scene.w1.address, to=scene.w2.address)
        yield partial(scene.put, scene.stranger, scene.w2, back)


def replayed_to_who_forgot(scene: Scene, count: int) -> Iterator[Shot]:
    """To a receiver that has forgotten what it took: its SA is made anew before each."""
    for packet in captured(scene, count):

        def shot(packet: bytes = packet) -> None:
            _forget(scene)
            scene.put(scene.stranger, scene.w1, packet)

        yield shot


def _forget(scene: Scene) -> None:
    wanted = scene.seal(A, scene.w2, scene.w1)
    netlink = scene.w1.xfrm()
    found = next(sa for sa, _ in xfrm.list_sas(netlink) if sa.spi == wanted.spi)
    netlink.execute(xfrm.delete_sa(found), xfrm.new_sa(replace(found, key=wanted.key)))
    netlink.close()


# ESP made or changed by an attacker


def esp_from(scene: Scene, source: str, esp: bytes) -> bytes:
    return ipv4(source, scene.w1.address, ESP, esp)


def genuine(scene: Scene) -> bytes:
    """ESP that w1 would take: w2's own key, a number that it has not seen."""
    seal = scene.seal(A, scene.w2, scene.w1)
    return seal.esp(scene.next_number(seal), sealed_text(A))


def put_esp(scene: Scene, esp: bytes, *, source: str = "", by: Host | None = None) -> None:
    packet = esp_from(scene, source or scene.w2.address, esp)
    scene.put(by or scene.stranger, scene.w1, packet)


def unchanged(scene: Scene, count: int) -> Iterator[Shot]:
    for _ in range(count):
        yield partial(put_esp, scene, genuine(scene))


def with_flipped_bits(scene: Scene, count: int) -> Iterator[Shot]:
    """One bit anywhere: SPI, number, IV, text, checksum; each byte of the packet once, at least."""
    chance = random.Random(1)
    for at in range(len(genuine(scene))):
        for _ in range(count // 5 or 1):
            yield partial(put_esp, scene, flipped(genuine(scene), 8 * at + chance.randrange(8)))


def with_wrong_spi(scene: Scene, count: int) -> Iterator[Shot]:
    """Sealed with the right key for: other networks, nodes and epochs, none, and any."""
    seal = scene.seal(A, scene.w2, scene.w1)
    chance = random.Random(2)
    others = [scene.seal(B, scene.w2, scene.w1).spi, scene.seal(B, scene.w3, scene.w1).spi]
    others += [scene.seal(A, scene.w1, scene.w2).spi, seal.spi ^ 1, 0, 1, 0xFFFFFFFF]
    for spi in (*others, *(chance.getrandbits(32) for _ in range(count))):
        esp = seal.esp(scene.next_number(seal), sealed_text(A), spi)
        yield partial(put_esp, scene, esp)


def truncated(scene: Scene, count: int) -> Iterator[Shot]:
    """To every length below its own."""
    for length in range(len(genuine(scene))):
        yield from (partial(put_esp, scene, genuine(scene)[:length]) for _ in range(count // 5 or 1))


def changed_in_fragments(scene: Scene, count: int) -> Iterator[Shot]:
    for at in range(count):
        packet = esp_from(scene, scene.w2.address, flipped(genuine(scene), 8 * (20 + at)))
        yield partial(_put_all, scene, fragments(packet, _FRAGMENT_BYTES))


def unchanged_in_fragments(scene: Scene, count: int) -> Iterator[Shot]:
    for _ in range(count):
        packet = esp_from(scene, scene.w2.address, genuine(scene))
        yield partial(_put_all, scene, fragments(packet, _FRAGMENT_BYTES))


# A worker with its own keys: w3, of network b


def by_member(scene: Scene, text: bytes, *, spi: int | None = None, source: str = "") -> Shot:
    """Sealed by w3 with its key of network b."""
    seal = scene.seal(B, scene.w3, scene.w1)
    esp = seal.esp(scene.next_number(seal), text, spi)
    return partial(put_esp, scene, esp, source=source or scene.w3.address, by=scene.w3)


def for_another_network(scene: Scene, count: int) -> Iterator[Shot]:
    """Network a's packets by b's key: at a's port, with a's SPI, and with a's VNI in b's port."""
    for _ in range(count):
        yield by_member(scene, sealed_text(A))
        yield by_member(scene, sealed_text(A), spi=scene.seal(A, scene.w2, scene.w1).spi)
        yield by_member(scene, sealed_text(A, port=B.port))
        yield by_member(scene, sealed_text(P))
        yield by_member(scene, sealed_text(P, port=B.port))


def as_another_worker(scene: Scene, count: int) -> Iterator[Shot]:
    """From w2's address, by w3's SA and by w2's SPI; and from an address of nobody's."""
    for _ in range(count):
        text = sealed_text(B)
        yield by_member(scene, text, source=scene.w2.address)
        yield by_member(scene, text, source=scene.w2.address, spi=scene.seal(B, scene.w2, scene.w1).spi)
        yield by_member(scene, text, source="10.133.0.99")


def as_itself(scene: Scene, count: int) -> Iterator[Shot]:
    for _ in range(count):
        yield by_member(scene, sealed_text(B, source=3))


def with_macs_of_others(scene: Scene, count: int) -> Iterator[Shot]:
    """Inside network b: w2's task's, the victim's own, one of nobody's."""
    for mac in (mac_of(B.ip(2)), mac_of(B.ip(1)), mac_of(_NO_PEER)):
        for _ in range(count):
            yield by_member(scene, sealed_text(B, source=2, mac=mac))


def with_mac_of_another(scene: Scene, count: int) -> Iterator[Shot]:
    for _ in range(count):
        yield by_member(scene, sealed_text(B, source=2))


def arp_by_member(scene: Scene, count: int) -> Iterator[Shot]:
    """w2's and the victim's addresses are at w3's task: to all, and to the victim alone."""
    own = mac_of(B.ip(3))
    for _ in range(count):
        for claimed in (B.ip(2), B.ip(1)):
            for frame in _claims(claimed, own, B.ip(1)):
                yield by_member(scene, udp(B.port, vxlan(B.vni, frame)))


def _claims(ip: str, mac: str, victim: str) -> Iterator[bytes]:
    for operation in (1, 2):
        yield arp(operation, ip, mac, ip, BROADCAST)
        yield arp(operation, ip, mac, victim, mac_of(victim))


# A task that has raw sockets


def from_task(scene: Scene, frames: list[bytes]) -> Iterator[Shot]:
    """From the hostile task on w2, in network a."""
    for frame in frames:
        yield partial(_send, scene, frame)


def _send(scene: Scene, frame: bytes) -> None:
    scene.hostile.send(frame)


def macs_from_task(scene: Scene, count: int) -> Iterator[Shot]:
    """To tasks on the same host and on another, as each other, as themselves, as nobody."""
    frames = [
        datagram(A.ip(source), A.ip(to), TASK_PORT, FORGED, mac=mac)
        for source, to in ((2, 1), (1, 2))
        for mac in (mac_of(A.ip(source)), mac_of(A.ip(to)), mac_of(_NO_PEER))
    ]
    yield from from_task(scene, frames * count)


def arp_from_task(scene: Scene, count: int) -> Iterator[Shot]:
    """Others' addresses are at its own MAC: to all, to the task beside it, to one on another host."""
    own = mac_of(A.ip(2, HOSTILE_SLOT))
    frames = [
        frame for claimed, victim in ((1, 2), (2, 1)) for frame in _claims(A.ip(claimed), own, A.ip(victim))
    ]
    yield from from_task(scene, frames * count)


def honest_from_task(scene: Scene, count: int) -> Iterator[Shot]:
    own = A.ip(2, HOSTILE_SLOT)
    yield from from_task(scene, [datagram(own, A.ip(to), TASK_PORT, FORGED) for to in (1, 2)] * count)


# ESP in UDP


def junk_in_udp(scene: Scene, count: int, *, encap: bool) -> Iterator[Shot]:
    """Keepalives, IKE's marker, VXLAN in clear, noise, and ESP that was changed or cut."""
    _encapsulate(scene, on=encap)
    chance = random.Random(3)
    esp = genuine(scene)
    bodies = [b"", b"\xff", bytes(4) + inner(A), vxlan(A.vni, inner(A)), udp(A.port, vxlan(A.vni, inner(A)))]
    bodies += [chance.randbytes(chance.randrange(1, 400)) for _ in range(4 * count)]
    bodies += [flipped(esp, chance.randrange(8 * len(esp))) for _ in range(count)]
    bodies += [esp[:length] for length in range(0, len(esp), 7)]
    for body in bodies:
        yield partial(scene.put, scene.stranger, scene.w1, in_udp(scene, body))


def in_udp(scene: Scene, body: bytes) -> bytes:
    packet = struct.pack("!HHHH", ESP_IN_UDP_PORT, ESP_IN_UDP_PORT, 8 + len(body), 0) + body
    return ipv4(scene.w2.address, scene.w1.address, UDP, packet)


def genuine_in_udp(scene: Scene, count: int, *, encap: bool) -> Iterator[Shot]:
    _encapsulate(scene, on=encap)
    for _ in range(count):
        yield partial(scene.put, scene.stranger, scene.w1, in_udp(scene, genuine(scene)))


def genuine_not_in_udp(scene: Scene, count: int) -> Iterator[Shot]:
    _encapsulate(scene, on=True)
    yield from unchanged(scene, count)


def _encapsulate(scene: Scene, *, on: bool) -> None:
    if on != scene.encap:
        scene.encap = on
        scene.rotate()
