"""Endpoints that the managers vouch for: (network, task, IP, MAC, node), signed with Ed25519 (RFC 8032).

A worker believes an endpoint only with such a signature, so one that turns bad cannot take over an address
that was given to somebody else.

Endpoints that are made together are signed together: to verify a signature takes 100 us, to hash a path 5.

    leaf        hash(0 . signed_bytes)                  hash: SHA-256, its first 20 bytes
    node        hash(1 . left . right)                  of two neighbours; who has none stays for the next row
    signed      label . root
    signature   64 bytes of Ed25519 . turns (u8) . the path: 20 bytes for each neighbour, from the leaf up
                turns: bit i is set where neighbour i stands left

An endpoint that is alone has the 64 bytes over its `signed_bytes`, and no path.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from swarmnet.core.secret import SecretBytes

_LABEL: Final = b"swarmnet/1 endpoint"
_U16: Final = struct.Struct("!H")
_LABEL_ROOT: Final = b"swarmnet/1 batch of endpoints"
_ED25519_BYTES: Final = 64
_HASH_BYTES: Final = 20
"""Short, as it travels with each endpoint: a forgery takes 2^160 hashes, with 2^32 leaves to hit 2^128."""
_LONGEST_PATH: Final = 5
BATCH: Final = 1 << _LONGEST_PATH
"""Endpoints under one signature: more cost bytes and save next to nothing."""
MIN_SIGNATURE_BYTES: Final = _ED25519_BYTES
MAX_SIGNATURE_BYTES: Final = _ED25519_BYTES + 1 + _LONGEST_PATH * _HASH_BYTES


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A task's place on one network. `mac` is written 02:42:0a:00:01:03."""

    network_id: str
    task_id: str
    ip: IPv4Address | IPv6Address
    mac: str
    node_id: str

    def signed_bytes(self) -> bytes:
        """What the signature covers: the label, then each field with its length (u16) before it."""
        network, task, node = self.network_id.encode(), self.task_id.encode(), self.node_id.encode()
        ip, mac = self.ip.packed, bytes.fromhex(self.mac.replace(":", ""))
        parts = [_LABEL]
        for part in (network, task, ip, mac, node):
            parts += (_U16.pack(len(part)), part)
        return b"".join(parts)


def mac_of(address: str) -> str:
    """The MAC of an overlay address: 02:42 and the last four bytes of it, as docker gives them out."""
    return "02:42:" + ip_address(address).packed[-4:].hex(":")


def public_key(private: SecretBytes) -> bytes:
    """The 32-byte public key of a 32-byte private key."""
    return Ed25519PrivateKey.from_private_bytes(private.reveal()).public_key().public_bytes_raw()


class Claim(NamedTuple):
    """What the managers are said to have signed: one claim stands for all endpoints of its batch."""

    message: bytes
    ed25519: bytes


def sign(private: SecretBytes, endpoint: Endpoint) -> bytes:
    """One that is alone: 64 bytes."""
    return Ed25519PrivateKey.from_private_bytes(private.reveal()).sign(endpoint.signed_bytes())


def sign_all(private: SecretBytes, endpoints: Sequence[Endpoint]) -> list[bytes]:
    """The signature of each, in as many batches as it takes."""
    signatures = []
    for start in range(0, len(endpoints), BATCH):
        batch = endpoints[start : start + BATCH]
        signatures += [sign(private, batch[0])] if len(batch) == 1 else _sign_batch(private, batch)
    return signatures


def claim(endpoint: Endpoint, signature: bytes) -> Claim | None:
    """What has to be verified for that endpoint; None if that cannot be a signature."""
    ed25519, start = signature[:_ED25519_BYTES], _ED25519_BYTES + 1
    if len(signature) == _ED25519_BYTES:
        return Claim(endpoint.signed_bytes(), ed25519)
    length, rest = divmod(len(signature) - start, _HASH_BYTES)
    if rest or not 1 <= length <= _LONGEST_PATH:
        return None
    node, turns = _leaf(endpoint), signature[_ED25519_BYTES]
    for at in range(start, len(signature), _HASH_BYTES):
        neighbour = signature[at : at + _HASH_BYTES]
        node = _node(neighbour, node) if turns & 1 else _node(node, neighbour)
        turns >>= 1
    return None if turns else Claim(_LABEL_ROOT + node, ed25519)


def holds(public: bytes, said: Claim) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(said.ed25519, said.message)
    except (InvalidSignature, ValueError):
        return False
    return True


def verify(public: bytes, endpoint: Endpoint, signature: bytes) -> bool:
    said = claim(endpoint, signature)
    return said is not None and holds(public, said)


def _sign_batch(private: SecretBytes, batch: Sequence[Endpoint]) -> list[bytes]:
    row = [_leaf(each) for each in batch]
    places, turns, paths = list(range(len(row))), [0] * len(row), [b""] * len(row)
    while len(row) > 1:
        for index, place in enumerate(places):
            if (neighbour := place ^ 1) < len(row):
                turns[index] |= (place & 1) << len(paths[index]) // _HASH_BYTES
                paths[index] += row[neighbour]
        pairs = [row[at : at + 2] for at in range(0, len(row), 2)]
        row = [_node(*pair) if len(pair) == 2 else pair[0] for pair in pairs]
        places = [place // 2 for place in places]
    key = Ed25519PrivateKey.from_private_bytes(private.reveal())
    ed25519 = key.sign(_LABEL_ROOT + row[0])
    return [ed25519 + bytes([turn]) + path for turn, path in zip(turns, paths, strict=True)]


def _leaf(endpoint: Endpoint) -> bytes:
    return sha256(b"\0" + endpoint.signed_bytes()).digest()[:_HASH_BYTES]


def _node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\1" + left + right).digest()[:_HASH_BYTES]
