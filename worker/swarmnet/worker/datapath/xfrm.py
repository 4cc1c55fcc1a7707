"""SAs and policies as the kernel's XFRM netlink messages, and back. Layouts and numbers of linux/xfrm.h.

The structures are padded as on 64-bit machines: xfrm_usersa_info has 224 bytes, xfrm_userpolicy_info 168.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final

from swarmnet.core.datapath.xfrm import ANY, ANY_V6, Action, Direction, Policy, Sa, fingerprint
from swarmnet.core.keys import split_spi
from swarmnet.core.limits import (
    ENCRYPTED_PORT_FIRST,
    ENCRYPTED_PORT_LAST,
    ESP_ICV_BITS,
    ESP_IN_UDP_PORT,
    ESP_REPLAY_WINDOW_PACKETS,
    ESP_SOFT_LIMIT_BYTES,
    ESP_SOFT_LIMIT_PACKETS,
    MAX_NETWORKS,
)
from swarmnet.worker.datapath.ledger import Count
from swarmnet.worker.datapath.netlink import (
    AF_INET,
    AF_INET6,
    CREATE,
    EXCL,
    Message,
    Netlink,
    attribute,
    attributes,
    family_of,
)

NEW_SA: Final = 0x10
DELETE_SA: Final = 0x11
GET_SA: Final = 0x12
DELETE_POLICY: Final = 0x14
GET_POLICY: Final = 0x15
UPDATE_POLICY: Final = 0x19

_ENCAP: Final = 4
_TEMPLATE: Final = 5
_AEAD: Final = 18
_REPLAY_ESN: Final = 23

_UDP: Final = 17
_ESP: Final = 50
_TRANSPORT: Final = 0
_FLAG_ESN: Final = 128
_ALLOW: Final = 0
_BLOCK: Final = 1
_NO_LIMIT: Final = (1 << 64) - 1
_ALL_ALGORITHMS: Final = (1 << 32) - 1
_CIPHER: Final = b"rfc4106(gcm(aes))"

_SELECTOR: Final = struct.Struct("=16s16sHHHHHBBB3xiI")
"""daddr saddr dport dport_mask sport sport_mask family prefixlen_d prefixlen_s proto ifindex user; ports and
masks are big-endian, which `_big` sees to."""
_ID: Final = struct.Struct("=16s4sB3x")
_LIMITS: Final = struct.Struct("=8Q")
_CURRENT: Final = struct.Struct("=4Q")
_SA_TAIL: Final = struct.Struct("=IIIIIHBBB7x")
"""replay_window, replay and integrity_failed of the statistics; seq reqid family mode replay_window flags."""
_POLICY_TAIL: Final = struct.Struct("=IIBBBB4x")
"""priority index dir action flags share."""
_TEMPLATE_BODY: Final = struct.Struct("=16s4sB3xH2x16sIBBBxIII")
"""daddr spi proto, family saddr reqid mode share optional aalgos ealgos calgos."""
_AEAD_HEAD: Final = struct.Struct("=64sII")
_ESN_HEAD: Final = struct.Struct("=6I")
_ESP_IN_UDP: Final = struct.pack("=H2s2s2x16x", 2, *2 * (struct.pack("!H", ESP_IN_UDP_PORT),))
"""xfrm_encap_tmpl: UDP_ENCAP_ESPINUDP (RFC 3948), source and destination port, no original address."""
SA_INFO_BYTES: Final = 224
_POLICY_INFO_BYTES: Final = 168


@dataclass(frozen=True, slots=True)
class SaUse:
    """What an SA has done so far: counts of packets, but for `octets`; made at `added_at`, Unix time."""

    packets: int
    octets: int
    replay_window: int
    replayed: int
    integrity_failed: int
    added_at: int = 0
    count: Count = field(default_factory=Count)

    @property
    def exhausted(self) -> bool:
        return self.packets >= ESP_SOFT_LIMIT_PACKETS or self.octets >= ESP_SOFT_LIMIT_BYTES


def _raw(address: str) -> bytes:
    return ip_address(address).packed.ljust(16, b"\0")


def _text(raw: bytes, family: int) -> str:
    return str(ip_address(bytes(raw[:4] if family == AF_INET else raw[:16])))


def _big(port: int) -> int:
    """The number whose bytes in the host's order are the port in network order."""
    return int(struct.unpack("=H", struct.pack("!H", port))[0])


def _prefix(address: str) -> int:
    return 0 if address in (ANY, ANY_V6) else ip_address(address).max_prefixlen


def _selector(source: str, destination: str, port: int) -> bytes:
    return _SELECTOR.pack(
        _raw(destination),
        _raw(source),
        _big(port),
        0xFFFF,
        0,
        0,
        family_of(destination),
        _prefix(destination),
        _prefix(source),
        _UDP,
        0,
        0,
    )


def _limits(packets: int = _NO_LIMIT, octets: int = _NO_LIMIT) -> bytes:
    """Soft limits; no hard one, so that nothing stops for want of a manager."""
    return _LIMITS.pack(octets, _NO_LIMIT, packets, _NO_LIMIT, 0, 0, 0, 0)


def new_sa(sa: Sa, begin: int = 0) -> Message:
    """Add the SA; EEXIST if its id is taken. ValueError for one without a key.

    It begins after sequence number `begin`: sends none up to it, or takes none up to it for new.
    """
    if sa.key is None:
        raise ValueError(f"no key for SA {sa.spi:#010x}")
    key = sa.key.reveal()
    info = (
        _selector(sa.source, sa.destination, sa.port)
        + _ID.pack(_raw(sa.destination), struct.pack("!I", sa.spi), _ESP)
        + _raw(sa.source)
        + _limits(ESP_SOFT_LIMIT_PACKETS, ESP_SOFT_LIMIT_BYTES)
        + _CURRENT.pack(0, 0, 0, 0)
        + _SA_TAIL.pack(0, 0, 0, 0, sa.reqid, family_of(sa.destination), _TRANSPORT, 0, _FLAG_ESN)
    )
    words = ESP_REPLAY_WINDOW_PACKETS // 32
    high, low = divmod(begin, 1 << 32)
    numbers = (low, 0, high, 0) if sa.outbound else (0, low, 0, high)
    seen = (b"\xff" if begin and not sa.outbound else b"\0") * (4 * words)
    esn = _ESN_HEAD.pack(words, *numbers, ESP_REPLAY_WINDOW_PACKETS) + seen
    aead = _AEAD_HEAD.pack(_CIPHER, len(key) * 8, ESP_ICV_BITS) + key
    parts = attribute(_AEAD, aead) + attribute(_REPLAY_ESN, esn)
    if sa.encap:
        parts += attribute(_ENCAP, _ESP_IN_UDP)
    return Message(NEW_SA, info + parts, CREATE | EXCL)


def delete_sa(sa: Sa) -> Message:
    number = struct.pack("!I", sa.spi)
    family = family_of(sa.destination)
    return Message(DELETE_SA, struct.pack("=16s4sHBx", _raw(sa.destination), number, family, _ESP))


def put_policy(policy: Policy) -> Message:
    """Add the policy or replace the one with the same selector; packets meet the old one or the new one."""
    action = _BLOCK if policy.action is Action.BLOCK else _ALLOW
    info = (
        _selector(policy.source, policy.destination, policy.port)
        + _limits()
        + _CURRENT.pack(0, 0, 0, 0)
        + _POLICY_TAIL.pack(policy.priority, 0, policy.direction.value, action, 0, 0)
    )
    template = b"" if policy.action is Action.BLOCK else attribute(_TEMPLATE, _template(policy))
    return Message(UPDATE_POLICY, info + template, CREATE)


def _template(policy: Policy) -> bytes:
    return _TEMPLATE_BODY.pack(
        _raw(policy.destination),
        struct.pack("!I", policy.spi),
        _ESP,
        family_of(policy.destination),
        _raw(policy.source),
        policy.reqid,
        _TRANSPORT,
        0,
        0,
        _ALL_ALGORITHMS,
        _ALL_ALGORITHMS,
        _ALL_ALGORITHMS,
    )


def delete_policy(policy: Policy) -> Message:
    selector = _selector(policy.source, policy.destination, policy.port)
    return Message(DELETE_POLICY, selector + struct.pack("=IB3x", 0, policy.direction.value))


def list_sas(netlink: Netlink) -> list[tuple[Sa, SaUse]]:
    """Our own SAs in the socket's namespace, without their keys."""
    found = (read_sa(body) for body in netlink.dump(GET_SA, bytes(24)))
    return [each for each in found if each is not None]


def list_policies(netlink: Netlink) -> list[Policy]:
    """Our own policies in the socket's namespace."""
    found = (read_policy(body) for body in netlink.dump(GET_POLICY, bytes(64)))
    return [each for each in found if each is not None]


def _read_selector(body: memoryview) -> tuple[str, str, int] | None:
    """(source, destination, port) of one of our selectors; None for a foreign one."""
    to, from_, dport, dmask, _, smask, family, bits_to, bits_from, proto, ifindex, _ = _SELECTOR.unpack_from(
        body
    )
    port = _big(dport)
    if family not in (AF_INET, AF_INET6) or (proto, dmask, smask, ifindex) != (_UDP, 0xFFFF, 0, 0):
        return None
    source, destination = _text(from_, family), _text(to, family)
    if (bits_to, bits_from) != (_prefix(destination), _prefix(source)):
        return None
    return (source, destination, port) if ENCRYPTED_PORT_FIRST <= port <= ENCRYPTED_PORT_LAST else None


def read_sa(body: memoryview) -> tuple[Sa, SaUse] | None:
    """One SA of a dump; None if it is not ours. Its key is turned into a fingerprint at once."""
    octets, packets, added_at, _ = _CURRENT.unpack_from(body, 160)
    window, replayed, failed, _, reqid, family, mode, _, flags = _SA_TAIL.unpack_from(body, 192)
    selector = _read_selector(body)
    destination, raw_spi, proto = _ID.unpack_from(body, 56)
    number = int.from_bytes(raw_spi, "big")
    if selector is None or proto != _ESP or not _own(reqid, number):
        return None
    to = _text(destination, family)
    found = attributes(body[SA_INFO_BYTES:])
    regular = (mode, flags) == (_TRANSPORT, _FLAG_ESN) and _window(found) == ESP_REPLAY_WINDOW_PACKETS
    print_ = _fingerprint(found) if regular and selector[1] == to and _known_encap(found) else ""
    source = _text(bytes(body[80:96]), family)
    sa = Sa(source, to, number, reqid, selector[2], print_, encap=_ENCAP in found)
    return sa, SaUse(packets, octets, window, replayed, failed, added_at, _count(found))


def is_own(body: memoryview) -> int:
    """The SPI of the SA that an xfrm_usersa_info is of; 0 for a foreign one."""
    _, raw_spi, proto = _ID.unpack_from(body, 56)
    reqid, number = _SA_TAIL.unpack_from(body, 192)[4], int.from_bytes(raw_spi, "big")
    return number if proto == _ESP and _own(reqid, number) else 0


def _own(reqid: int, number: int) -> bool:
    return 1 <= reqid <= MAX_NETWORKS and split_spi(number)[0] == reqid


def _known_encap(found: dict[int, memoryview]) -> bool:
    """Whether it has no encapsulation, or ours."""
    return bytes(found.get(_ENCAP, _ESP_IN_UDP)[:6]) == _ESP_IN_UDP[:6]


def _count(found: dict[int, memoryview]) -> Count:
    if _REPLAY_ESN not in found:
        return Count()
    _, sent, received, sent_high, received_high, _ = _ESN_HEAD.unpack_from(found[_REPLAY_ESN])
    return Count(sent_high << 32 | sent, received_high << 32 | received)


def _window(found: dict[int, memoryview]) -> int:
    if _REPLAY_ESN not in found:
        return 0
    return int(_ESN_HEAD.unpack_from(found[_REPLAY_ESN])[5])


def _fingerprint(found: dict[int, memoryview]) -> str:
    """Of the key; empty if the cipher is another one."""
    aead = found.get(_AEAD)
    if aead is None:
        return ""
    name, _, icv_bits = _AEAD_HEAD.unpack_from(aead)
    if name.rstrip(b"\0") != _CIPHER or icv_bits != ESP_ICV_BITS:
        return ""
    return fingerprint(bytes(aead[_AEAD_HEAD.size :]))


def read_policy(body: memoryview) -> Policy | None:
    """One policy of a dump; None if it is not ours."""
    selector = _read_selector(body)
    priority, _, direction, action, _, _ = _POLICY_TAIL.unpack_from(body, 152)
    if selector is None or direction not in (Direction.IN.value, Direction.OUT.value):
        return None
    head = (Direction(direction), *selector)
    template = attributes(body[_POLICY_INFO_BYTES:]).get(_TEMPLATE)
    if action == _BLOCK:
        return Policy(*head, Action.BLOCK, priority)
    if template is None or len(template) != _TEMPLATE_BODY.size:
        return Policy(*head, Action.ESP, priority)  # lets packets pass in clear: never equal to one of ours
    _, raw_spi, proto, _, _, reqid, mode, _, optional, *_ = _TEMPLATE_BODY.unpack(template)
    if (proto, mode, optional) != (_ESP, _TRANSPORT, 0):
        return Policy(*head, Action.ESP, priority)
    return Policy(*head, Action.ESP, priority, reqid, int.from_bytes(raw_spi, "big"))
