"""Endpoints that the managers vouch for: (network, task, IP, MAC, node), signed with Ed25519 (RFC 8032).

A worker believes an endpoint only with such a signature, so one that turns bad cannot take over an address
that was given to somebody else.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from swarmnet.core.secret import SecretBytes

_LABEL: Final = b"swarmnet/1 endpoint"
MIN_SIGNATURE_BYTES: Final = 64
MAX_SIGNATURE_BYTES: Final = 64


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
        out = bytearray(_LABEL)
        mac = bytes.fromhex(self.mac.replace(":", ""))
        for part in (
            self.network_id.encode(),
            self.task_id.encode(),
            self.ip.packed,
            mac,
            self.node_id.encode(),
        ):
            out += struct.pack("!H", len(part)) + part
        return bytes(out)


def mac_of(address: str) -> str:
    """The MAC of an overlay address: 02:42 and the last four bytes of it, as docker gives them out."""
    return "02:42:" + ip_address(address).packed[-4:].hex(":")


def public_key(private: SecretBytes) -> bytes:
    """The 32-byte public key of a 32-byte private key."""
    return Ed25519PrivateKey.from_private_bytes(private.reveal()).public_key().public_bytes_raw()


def sign(private: SecretBytes, endpoint: Endpoint) -> bytes:
    """64 bytes."""
    return Ed25519PrivateKey.from_private_bytes(private.reveal()).sign(endpoint.signed_bytes())


def verify(public: bytes, endpoint: Endpoint, signature: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, endpoint.signed_bytes())
    except (InvalidSignature, ValueError):
        return False
    return True
