"""The IPsec part of a worker's data path: which SAs and policies an encrypted network is made of.

Each encrypted network has its own UDP destination port, so selectors alone tell networks apart:

    guard out   any  -> any   udp dport P   block                                 nothing leaves in clear
    guard in    any  -> any   udp dport P   ESP, reqid = network index            nothing else comes in
    peer out    self -> peer  udp dport P   ESP, SPI of the current epoch         what is sent, and how

    epochs      1 previous      2 current     3 next
    inbound     SA of each live epoch, of each peer: whatever is still on its way can be read
    outbound    SA of each live epoch, to each peer: a switch needs nothing but a new SPI in the policy

An SA is AES-256-GCM in transport mode with extended sequence numbers (RFC 4106, RFC 4303). Its selector names
both nodes and the port: an SA carries this network's VXLAN between these two nodes and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from hashlib import sha256
from ipaddress import ip_address
from typing import Final, NamedTuple

from swarmnet.core.datapath.desired import Desired, DesiredNetwork, Peer
from swarmnet.core.epochs import Epoch
from swarmnet.core.keys import esp_key, spi
from swarmnet.core.secret import SecretBytes

PEER_PRIORITY: Final = 1000
GUARD_OUT_PRIORITY: Final = 2000
GUARD_IN_PRIORITY: Final = 1000
"""The kernel takes the matching policy with the lowest number."""
_LABEL: Final = b"swarmnet/1 fingerprint"
ANY: Final = "0.0.0.0"  # noqa: S104 (a selector, nothing binds to it)
ANY_V6: Final = "::"


class SaId(NamedTuple):
    """What the kernel tells SAs apart by."""

    destination: str
    spi: int


@dataclass(frozen=True, slots=True)
class Sa:
    """One direction between two nodes in one epoch. Equal if the kernel would do the same with both.

    `encap`: its packets are ESP in UDP. `fingerprint` stands for the key; it is empty for an SA that differs
    from ours in cipher, mode or window. One read from the kernel has none of the fields after it.
    """

    source: str
    destination: str
    spi: int
    reqid: int
    port: int
    fingerprint: str
    encap: bool = False
    scope: str = field(default="", compare=False)
    epoch: int = field(default=0, compare=False)
    outbound: bool = field(default=False, compare=False)
    key: SecretBytes | None = field(default=None, compare=False, repr=False)

    @property
    def id(self) -> SaId:
        return SaId(self.destination, self.spi)


class Direction(Enum):
    """Values as in linux/xfrm.h."""

    IN = 0
    OUT = 1


class Action(Enum):
    ESP = "esp"
    BLOCK = "block"


class PolicyId(NamedTuple):
    """What the kernel tells policies apart by: direction and selector."""

    direction: Direction
    source: str
    destination: str
    port: int


@dataclass(frozen=True, slots=True)
class Policy:
    """What must have happened to packets from `source` to `destination` at UDP port `port`.

    0.0.0.0 is any IPv4 address, :: any IPv6 address.

    `spi` 0: any SA with that reqid.
    """

    direction: Direction
    source: str
    destination: str
    port: int
    action: Action
    priority: int
    reqid: int = 0
    spi: int = 0

    @property
    def id(self) -> PolicyId:
        return PolicyId(self.direction, self.source, self.destination, self.port)

    @property
    def guard(self) -> bool:
        return self.destination in (ANY, ANY_V6)


def fingerprint(key: bytes) -> str:
    """128 bits of SHA-256 of an SA's key material; safe to keep: the key has 288 random bits."""
    return sha256(_LABEL + key).hexdigest()[:32]


def guards(desired: Desired, network: DesiredNetwork) -> tuple[Policy, Policy]:
    """What stands before the network's first packet and goes after its last one.

    Of the underlay's address family: a VXLAN device with an address of one has no socket of the other.
    """
    any_ = ANY if ip_address(desired.address).version == 4 else ANY_V6
    return (
        Policy(Direction.OUT, any_, any_, network.port, Action.BLOCK, GUARD_OUT_PRIORITY),
        Policy(Direction.IN, any_, any_, network.port, Action.ESP, GUARD_IN_PRIORITY, network.index),
    )


def peer_policy(desired: Desired, network: DesiredNetwork, peer: Peer) -> Policy | None:
    """How packets to the peer leave; None without a current epoch: then the guard blocks them."""
    current = network.epochs.current
    if current is None:
        return None
    return Policy(
        Direction.OUT,
        desired.address,
        peer.address,
        network.port,
        Action.ESP,
        PEER_PRIORITY,
        network.index,
        spi(network.index, desired.node_index, current.number),
    )


def policies(desired: Desired, network: DesiredNetwork) -> list[Policy]:
    """All policies of an encrypted network, guards first."""
    found = (peer_policy(desired, network, peer) for peer in network.peers)
    return [*guards(desired, network), *(policy for policy in found if policy is not None)]


def outbound_id(desired: Desired, network: DesiredNetwork, peer: Peer, epoch: int) -> SaId:
    return SaId(peer.address, spi(network.index, desired.node_index, epoch))


def inbound_id(desired: Desired, network: DesiredNetwork, peer: Peer, epoch: int) -> SaId:
    return SaId(desired.address, spi(network.index, peer.node_index, epoch))


def _pair(desired: Desired, network: DesiredNetwork, peer: Peer, epoch: Epoch) -> Iterator[Sa]:
    """The peer's SA to us, then ours to it."""
    ends = (
        (peer.node_id, desired.node_id, peer.address, inbound_id(desired, network, peer, epoch.number)),
        (desired.node_id, peer.node_id, desired.address, outbound_id(desired, network, peer, epoch.number)),
    )
    for sender, receiver, source, (destination, number) in ends:
        key = esp_key(epoch.secret, sender, receiver)
        print_ = fingerprint(key.reveal())
        yield Sa(
            source,
            destination,
            number,
            network.index,
            network.port,
            print_,
            encap=desired.encap or peer.encap,
            scope=epoch.secret.scope,
            epoch=epoch.number,
            outbound=sender == desired.node_id,
            key=key,
        )


def sas(desired: Desired, network: DesiredNetwork) -> list[Sa]:
    """All SAs of an encrypted network: for each peer and live epoch, one in and one out."""
    return [
        sa
        for peer in network.peers
        for epoch in network.epochs.live
        for sa in _pair(desired, network, peer, epoch)
    ]
