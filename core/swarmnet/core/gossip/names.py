"""Ids and addresses as they travel: in bytes, in 8 bytes, and what is checked of those that others say."""

from __future__ import annotations

from functools import lru_cache
from hashlib import sha256
from ipaddress import ip_address
from typing import Final

from swarmnet.core.gossip.limits import MAX_ID_BYTES
from swarmnet.core.ids import from_base36, is_id, make_id

SCOPE_TAG_BYTES: Final = 6
HANDLE_BYTES: Final = 8
_REMEMBERED: Final = 16_384


class Malformed(Exception):
    """Something that no member sends."""


@lru_cache(_REMEMBERED)
def scope_tag(scope: str) -> bytes:
    return sha256(b"swarmnet/1 scope" + scope.encode()).digest()[:SCOPE_TAG_BYTES]


@lru_cache(_REMEMBERED)
def short_tag(scope: str) -> int:
    """The start of the scope's tag as a number that is not 0."""
    return int.from_bytes(scope_tag(scope)[:4], "big") or 1


@lru_cache(_REMEMBERED)
def handle(node_id: str) -> bytes:
    """A node's id in 8 bytes."""
    return sha256(b"swarmnet/1 sender" + node_id.encode()).digest()[:HANDLE_BYTES]


@lru_cache(_REMEMBERED)
def handle_number(node_id: str) -> int:
    return int.from_bytes(handle(node_id), "big")


@lru_cache(_REMEMBERED)
def pack_id(text: str) -> bytes:
    """0 and 16 bytes for an id of ours, the ASCII of another."""
    if is_id(text):
        try:
            return b"\0" + from_base36(text, 16)
        except ValueError:
            pass  # 25 digits above 2^128: no id that was ever made
    return text.encode()


@lru_cache(_REMEMBERED)
def unpack_id(packed: bytes) -> str:
    """What pack_id wrote; it ends up in logs and dictionaries, so nothing else. Malformed otherwise."""
    if packed[:1] == b"\0" and len(packed) == 17:
        return make_id(packed[1:])
    try:
        text = packed.decode("ascii")
    except UnicodeDecodeError as error:
        raise Malformed("id") from error
    if not 1 <= len(text) <= MAX_ID_BYTES or not all(c.isalnum() or c in "-_." for c in text):
        raise Malformed("id")
    return text


@lru_cache(_REMEMBERED)
def check_address(text: str) -> str:
    """IP:port, a literal: no name that others choose is ever looked up."""
    host, _, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        address = ip_address(host[1:-1] if bracketed else host)
    except ValueError as error:
        raise Malformed("address") from error
    if "%" in host or bracketed != (address.version == 6):
        raise Malformed("address")
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 65535):
        raise Malformed("port")
    return text
