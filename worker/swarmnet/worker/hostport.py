"""Addresses as operators write them, and the one of this host that others should use."""

from __future__ import annotations

import fcntl
import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Final

from swarmnet.core.errors import InvalidArgument

_SIOCGIFADDR: Final = 0x8915
_SOMEWHERE: Final = ("192.0.2.1", 9)
"""TEST-NET-1 (RFC 5737): routed like any other place; nothing is sent there."""


def split(text: str, default_port: int) -> tuple[str, int]:
    """HOST, HOST:PORT, [V6]:PORT or a bare V6. InvalidArgument for anything else."""
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]") or (":" in host and not host.startswith("[")):
        host, port = text, str(default_port)
    host = host.removeprefix("[").removesuffix("]")
    usable_port = port.isascii() and port.isdecimal() and 0 < int(port) < 1 << 16
    if not host or any(c.isspace() or c in "/,[]" for c in host) or not usable_port:
        raise InvalidArgument(f"invalid address {text!r}", hint="Write HOST or HOST:PORT.")
    return host, int(port)


def join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def checked_host(text: str, flag: str) -> str:
    """An address of this host for others to use. InvalidArgument, naming the flag, unless it is one."""
    try:
        address = ip_address(text)
    except ValueError:
        raise InvalidArgument(f"{text!r} is not an IP address", hint=f"Use {flag} ADDR.") from None
    if address.is_unspecified or address.is_multicast:
        raise InvalidArgument(f"others cannot reach this host at {text}", hint=f"Use {flag} ADDR.")
    return str(address)


def detect(flag: str) -> str:
    """The default route's source address, else the only one besides loopback. InvalidArgument if neither."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(_SOMEWHERE)
            return str(probe.getsockname()[0])
        except OSError:  # there is no such route
            candidates = sorted({each for each in _addresses(probe) if not ip_address(each).is_loopback})
    if len(candidates) == 1:
        return candidates[0]
    raise InvalidArgument(
        f"cannot choose an address of this host: no default route; it has {', '.join(candidates) or 'none'}",
        hint=f"Name one with {flag} ADDR.",
    )


def _addresses(probe: socket.socket) -> Iterator[str]:
    """The IPv4 address of each interface that has one (netdevice(7))."""
    for _, name in socket.if_nameindex():
        request = struct.pack("256s", name.encode())
        try:
            reply = fcntl.ioctl(probe, _SIOCGIFADDR, request)
        except OSError:  # an interface without an address
            continue
        yield socket.inet_ntoa(reply[20:24])
