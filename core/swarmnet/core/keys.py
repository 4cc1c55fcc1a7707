"""What is made from an epoch secret.

Glossary
  scope         what a key protects: `gossip` for the cluster, or one network's id
  epoch         one generation of a scope's secret, numbered from 1
  epoch secret  32 random bytes; nobody uses them directly, everything below is HKDF-SHA256 (RFC 5869) of them
  node index    16 bits, network index 12 bits, both given out by the managers
  SPI           network index (12 bits) . source node index (16 bits) . epoch mod 16 (4 bits)

Every (network, epoch, source, destination) has its own AES-256 key and salt, so that two senders, or two
directions, never share a GCM nonce space (RFC 4106, section 9). Every (scope, epoch, sender) has its own
gossip key for the same reason.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from swarmnet.core.limits import (
    EPOCH_BITS,
    EPOCH_SECRET_BYTES,
    ESP_KEY_BYTES,
    ESP_SALT_BYTES,
    MAX_NETWORKS,
    MAX_NODES,
    NODE_INDEX_BITS,
)
from swarmnet.core.secret import SecretBytes

GOSSIP_SCOPE: Final = "gossip"
_LABEL_ESP: Final = b"swarmnet/1 esp"
_LABEL_GOSSIP: Final = b"swarmnet/1 gossip"


@dataclass(frozen=True, slots=True)
class EpochSecret:
    """One generation of a scope's secret, as the managers hand it out."""

    scope: str
    epoch: int
    secret: SecretBytes

    def __post_init__(self) -> None:
        if self.epoch < 1 or len(self.secret) != EPOCH_SECRET_BYTES:
            raise ValueError("an epoch starts at 1 and its secret has 32 bytes")


def _expand(epoch: EpochSecret, label: bytes, parts: tuple[str, ...], length: int) -> bytes:
    """HKDF-SHA256 without salt; info = label, epoch (u64), then each part with its length (u16) before it."""
    info = bytearray(label)
    info += struct.pack("!Q", epoch.epoch)
    for part in (epoch.scope, *parts):
        raw = part.encode()
        info += struct.pack("!H", len(raw)) + raw
    return HKDF(SHA256(), length, salt=None, info=bytes(info)).derive(epoch.secret.reveal())


def esp_key(epoch: EpochSecret, source: str, destination: str) -> SecretBytes:
    """Key material of the SA from node `source` to node `destination` (node ids).

    36 bytes: AES-256 key, then the 4-byte salt, in the order that the kernel's rfc4106(gcm(aes)) takes them.
    """
    return SecretBytes(_expand(epoch, _LABEL_ESP, (source, destination), ESP_KEY_BYTES + ESP_SALT_BYTES))


def gossip_key(epoch: EpochSecret, sender: str) -> SecretBytes:
    """The AES-256-GCM key of everything that node `sender` gossips in this scope and epoch: 32 bytes."""
    return SecretBytes(_expand(epoch, _LABEL_GOSSIP, (sender,), 32))


def spi(network_index: int, source_index: int, epoch: int) -> int:
    """The SPI of what node `source_index` sends on the network in the epoch. ValueError if out of range."""
    if not 1 <= network_index <= MAX_NETWORKS or not 0 <= source_index <= MAX_NODES or epoch < 1:
        raise ValueError(f"no SPI for network {network_index}, node {source_index}, epoch {epoch}")
    return (
        network_index << (NODE_INDEX_BITS + EPOCH_BITS)
        | source_index << EPOCH_BITS
        | epoch % (1 << EPOCH_BITS)
    )


def split_spi(value: int) -> tuple[int, int, int]:
    """(network index, source node index, epoch mod 16) of an SPI."""
    return (
        value >> (NODE_INDEX_BITS + EPOCH_BITS),
        value >> EPOCH_BITS & ((1 << NODE_INDEX_BITS) - 1),
        value & ((1 << EPOCH_BITS) - 1),
    )
