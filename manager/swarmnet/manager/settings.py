"""What a manager is started with, and which address it tells others."""

from __future__ import annotations

import ctypes
import fcntl
import socket
import struct
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from swarmnet.core.errors import InvalidArgument
from swarmnet.core.limits import BOOTSTRAP_PORT, MANAGER_PORT, METRICS_PORT, RAFT_PORT
from swarmnet.manager.raft.member import Member

_SIOCGIFCONF: Final = 0x8912
_IFREQ_BYTES: Final = 40
_SOMEWHERE: Final = ("192.0.2.1", 9)
"""TEST-NET-1 (RFC 5737): routed like any other place; nothing is sent there."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Addresses are host:port, except `advertise`: a host, which the ports of the listeners go with.

    `metrics` empty: none are served.
    """

    state_dir: Path
    run_dir: Path
    listen: str
    bootstrap: str
    raft: str
    advertise: str
    metrics: str = ""

    @property
    def raft_dir(self) -> Path:
        return self.state_dir / "raft"

    @property
    def socket(self) -> Path:
        return self.run_dir / "manager.sock"

    @property
    def worker_socket(self) -> Path:
        """Of the worker on the same host, if there is one."""
        return self.run_dir / "worker.sock"

    @property
    def address(self) -> str:
        """host:port at which others reach this manager's API."""
        return f"{bracketed(self.advertise)}:{port_of(self.listen, MANAGER_PORT)}"

    @property
    def bootstrap_address(self) -> str:
        return f"{bracketed(self.advertise)}:{port_of(self.bootstrap, BOOTSTRAP_PORT)}"

    @property
    def raft_address(self) -> str:
        """host:port at which other managers reach this one's Raft."""
        return f"{bracketed(self.advertise)}:{port_of(self.raft, RAFT_PORT)}"

    def member(self, node_id: str) -> Member:
        """This manager as Raft's members know it."""
        return Member(node_id, self.address, self.raft_address)


def bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def port_of(address: str, default: int) -> int:
    """The port of host:port, [v6]:port or a bare host."""
    _, colon, port = address.rpartition(":")
    if not colon or address.endswith("]") or (address.count(":") > 1 and "]" not in address):
        return default
    if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise InvalidArgument(f"invalid port in {address!r}", hint="Write the address as HOST:PORT.")
    return int(port)


def with_port(address: str, default: int) -> str:
    """host:port, with the default where no port was given."""
    host = address.rpartition(":")[0] if port_of(address, 0) else address
    return f"{bracketed(host.strip('[]'))}:{port_of(address, default)}"


def checked_loopback(text: str) -> str:
    """host:port on the loopback, or empty. InvalidArgument for anything else: whoever reaches it may read."""
    if not text:
        return ""
    address = with_port(text, METRICS_PORT)
    host = address.rpartition(":")[0].strip("[]")
    try:
        if ip_address(host).is_loopback:
            return address
    except ValueError:
        pass
    raise InvalidArgument(
        f"metrics are served on the loopback only, and {text!r} is not there",
        hint="Give an address such as 127.0.0.1:9477, or '' for no metrics.",
    )


def checked_host(text: str) -> str:
    """An address to advertise. InvalidArgument unless others could use it."""
    try:
        address = ip_address(text)
    except ValueError:
        raise InvalidArgument(
            f"{text!r} is not an IP address", hint="Give this host's address: --advertise-addr 192.0.2.11."
        ) from None
    if address.is_unspecified or address.is_multicast:
        raise InvalidArgument(
            f"others cannot reach this host at {text}",
            hint="Give one of its own addresses: --advertise-addr.",
        )
    return str(address)


def detect_address() -> str:
    """The default route's source address, else the host's only one. InvalidArgument if neither is clear."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(_SOMEWHERE)
            return str(probe.getsockname()[0])
        except OSError:  # no route: decide by the addresses there are
            candidates = [each for each in _addresses(probe) if not ip_address(each).is_loopback]
    if len(candidates) == 1:
        return candidates[0]
    seen = ", ".join(candidates) or "none but loopback"
    raise InvalidArgument(
        f"cannot tell which address to advertise: no default route, and the addresses are: {seen}",
        hint="Say which one others reach this host at: --advertise-addr ADDR.",
    )


def _addresses(any_socket: socket.socket) -> list[str]:
    """Every interface's IPv4 address (netdevice(7), SIOCGIFCONF)."""
    room = bytearray(256 * _IFREQ_BYTES)
    place = ctypes.addressof((ctypes.c_char * len(room)).from_buffer(room))
    used, _ = struct.unpack("iP", fcntl.ioctl(any_socket, _SIOCGIFCONF, struct.pack("iP", len(room), place)))
    found = (bytes(room[at + 20 : at + 24]) for at in range(0, used, _IFREQ_BYTES))
    return sorted({str(ip_address(each)) for each in found})
