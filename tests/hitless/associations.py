"""The security associations of every host: each change as the kernel tells it, and all of them at the end.

The kernel announces every SA that it adds or deletes (XFRMNLGRP_SA of linux/xfrm.h), in order. So how many
epochs a host can receive is known at every instant, not only when somebody looks.
"""

from __future__ import annotations

import errno
import select
import socket
import struct
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Final, NamedTuple, Self

from swarmnet.cli.demo.wire import inside
from swarmnet.cli.lab.place import Host, Lab
from swarmnet.core.datapath.xfrm import Policy, Sa
from swarmnet.core.keys import split_spi
from swarmnet.worker.datapath import xfrm
from swarmnet.worker.datapath.netlink import NETLINK_XFRM, Netlink

_GROUP_SA: Final = 1 << 2
_NEW: Final = (0x10, 0x1A)
"""XFRM_MSG_NEWSA and XFRM_MSG_UPDSA."""
_DELETED: Final = 0x11
_FLUSHED: Final = 0x1C
_ID_OF_NEW: Final = 56
"""Where xfrm_usersa_info has its xfrm_id."""
_SO_RCVBUFFORCE: Final = 33
_BUFFER_BYTES: Final = 16 << 20
_HEADER: Final = struct.Struct("=IHHII")
_POLL_S: Final = 0.2


class _Id(NamedTuple):
    destination: bytes
    spi: int


class Monitor:
    """From entering the context to its end. Must begin before a host has its first SA."""

    def __init__(self, lab: Lab, hosts: tuple[Host, ...]) -> None:
        self._sockets = {inside(lab.network_namespace(host), _listener): host.name for host in hosts}
        self._known: dict[str, set[_Id]] = {host.name: set() for host in hosts}
        self._of_host: dict[tuple[str, int], Counter[int]] = defaultdict(Counter)
        self._of_network: dict[int, Counter[int]] = defaultdict(Counter)
        self.most_on_a_host = 0
        self.most_in_the_swarm = 0
        self.changes = 0
        self.missed = 0
        """How often the kernel had to throw announcements away."""
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def known(self, host: Host) -> int:
        """As many SAs as the host must have by what was announced."""
        return len(self._known[host.name])

    def _watch(self) -> None:
        while not self._done.is_set():
            for each in select.select(list(self._sockets), [], [], _POLL_S)[0]:
                self._read(each, self._sockets[each])

    def _read(self, listener: socket.socket, host: str) -> None:
        try:
            data = listener.recv(1 << 16)
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            self.missed += 1
            return
        for kind, body in _messages(data):
            self.changes += 1
            if kind in _NEW:
                self._add(host, _id_at(body, _ID_OF_NEW))
            elif kind == _DELETED:
                self._remove(host, _id_at(body, 0))
            elif kind == _FLUSHED:
                for each in list(self._known[host]):
                    self._remove(host, each)

    def _add(self, host: str, id_: _Id) -> None:
        if id_ in self._known[host]:
            return
        self._known[host].add(id_)
        network, _, epoch = split_spi(id_.spi)
        for counter in (self._of_host[host, network], self._of_network[network]):
            counter[epoch] += 1
        self.most_on_a_host = max(self.most_on_a_host, len(self._of_host[host, network]))
        self.most_in_the_swarm = max(self.most_in_the_swarm, len(self._of_network[network]))

    def _remove(self, host: str, id_: _Id) -> None:
        if id_ not in self._known[host]:
            return
        self._known[host].remove(id_)
        network, _, epoch = split_spi(id_.spi)
        for counter in (self._of_host[host, network], self._of_network[network]):
            counter[epoch] -= 1
            if not counter[epoch]:
                del counter[epoch]


def _listener() -> socket.socket:
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_XFRM)
    made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
    made.bind((0, _GROUP_SA))
    return made


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, *_ = _HEADER.unpack_from(data, at)
        yield kind, data[at + _HEADER.size : at + length]
        at += length + (-length % 4)


def _id_at(body: bytes, offset: int) -> _Id:
    return _Id(body[offset : offset + 4], int.from_bytes(body[offset + 16 : offset + 20], "big"))


def listed(lab: Lab, host: Host) -> tuple[list[Sa], list[Policy]]:
    """The SAs and policies of the host as `ip xfrm` would list them, without keys."""
    netlink = inside(lab.network_namespace(host), lambda: Netlink(NETLINK_XFRM))
    try:
        return [sa for sa, _ in xfrm.list_sas(netlink)], xfrm.list_policies(netlink)
    finally:
        netlink.close()


def leftovers(lab: Lab, monitor: Monitor, hosts: tuple[Host, ...], networks: Mapping[int, int]) -> list[str]:
    """What differs from exactly one SA for each direction between any two hosts, of the current epoch, at
    both ends; and from what the monitor knows.

    `networks`: the current epoch of each network, by its index; each has a task on every host.
    """
    found = []
    everywhere = {host.name: listed(lab, host) for host in hosts}
    for host in hosts:
        sas, policies = everywhere[host.name]
        wanted = Counter(
            (index, epoch % 16, source, target)
            for index, epoch in networks.items()
            for peer in hosts
            if peer is not host
            for source, target in ((host.address, peer.address), (peer.address, host.address))
        )
        seen = Counter((sa.reqid, split_spi(sa.spi)[2], sa.source, sa.destination) for sa in sas)
        found += [f"{host.name} has {dict(seen - wanted)} too many"] if seen - wanted else []
        found += [f"{host.name} lacks {dict(wanted - seen)}"] if wanted - seen else []
        known = monitor.known(host)
        found += [f"{host.name}: {len(sas)} SAs, {known} by what was announced"] if len(sas) != known else []
        expected = len(networks) * (2 + len(hosts) - 1)
        found += [f"{host.name} has {len(policies)} policies"] if len(policies) != expected else []
    return found + _unpaired(everywhere)


def _unpaired(everywhere: dict[str, tuple[list[Sa], list[Policy]]]) -> list[str]:
    """SAs that only one of their two ends has, or that have another key there."""
    ends = Counter(
        (sa.source, sa.destination, sa.spi, sa.fingerprint) for sas, _ in everywhere.values() for sa in sas
    )
    return [
        f"SA {spi:#010x} {source} to {to} is at {n} ends"
        for (source, to, spi, _), n in ends.items()
        if n != 2
    ]
