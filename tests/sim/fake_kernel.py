"""A host's kernel in memory, for the data path as it is: XFRM by its netlink messages, links by their names.

It takes the messages byte for byte, keeps what they say, and gives it back in a dump. `before` is called
ahead of every change: a test may look there, or end the worker.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from swarmnet.core.datapath.layout import Forward, Interface, NetworkLinks
from swarmnet.core.datapath.xfrm import Direction, Policy, Sa
from swarmnet.worker.datapath import xfrm
from swarmnet.worker.datapath.links import NetworkSeen
from swarmnet.worker.datapath.netlink import Message, NetlinkError, attributes

_SELECTOR_BYTES: Final = 56
_POLICY_BYTES: Final = 168
_DIRECTION_AT: Final = 160
_MTU: Final = 1500
_AEAD: Final = 18
_REPLAY_ESN: Final = 23


def _count_on(sa: bytearray, packets: int, used: dict[bytes, int]) -> None:
    """What xfrm_replay_overflow_esn does for each packet. AssertionError for a number sent before."""
    found = attributes(memoryview(sa)[xfrm.SA_INFO_BYTES :])
    key, numbers = bytes(found[_AEAD]), found[_REPLAY_ESN]
    low, _, high = struct.unpack_from("=III", numbers, 4)
    sent = high << 32 | low
    assert sent >= used.get(key, 0), f"sequence number {sent + 1} comes twice under one key"
    used[key] = sent + packets
    struct.pack_into("=I", numbers, 4, used[key] & 0xFFFFFFFF)
    struct.pack_into("=I", numbers, 12, used[key] >> 32)


@dataclass
class FakeKernel:
    """What survives the worker's process; `wipe` is the host's reboot."""

    before: Callable[[str], None] = lambda what: None
    sas: dict[tuple[bytes, bytes], bytearray] = field(default_factory=dict)
    policies: dict[tuple[int, bytes], bytes] = field(default_factory=dict)
    networks: dict[str, tuple[NetworkLinks, dict[str, Forward]]] = field(default_factory=dict)
    tasks: dict[str, tuple[Interface, ...]] = field(default_factory=dict)

    def transmit(self, packets: int, used: dict[bytes, int]) -> None:
        """So many packets leave by each policy. `used`: of each key, the last sequence number sent."""
        for each in self.seen_policies():
            found = next(
                (sa for (_, spi), sa in self.sas.items() if each.spi and spi == each.spi.to_bytes(4)), None
            )
            if found is not None and each.direction is Direction.OUT:
                _count_on(found, packets, used)

    def wipe(self) -> None:
        for each in (self.sas, self.policies, self.networks, self.tasks):
            each.clear()

    # As the data path's XFRM socket

    def batch(self, messages: Sequence[Message]) -> list[NetlinkError | None]:
        return [self._take(message) for message in messages]

    def dump(self, kind: int, body: bytes) -> list[memoryview]:
        found: Iterable[bytes | bytearray] = (
            self.sas.values() if kind == xfrm.GET_SA else self.policies.values()
        )
        return [memoryview(each) for each in found]

    def _take(self, message: Message) -> NetlinkError | None:
        body = message.body
        match message.type:
            case xfrm.NEW_SA:
                self.before("put SA")
                key = (body[56:72], body[72:76])
                if key in self.sas:
                    return NetlinkError(errno.EEXIST)
                self.sas[key] = bytearray(body)
            case xfrm.DELETE_SA:
                self.before("drop SA")
                if self.sas.pop((body[:16], body[16:20]), None) is None:
                    return NetlinkError(errno.ESRCH)
            case xfrm.UPDATE_POLICY:
                self.before("put policy")
                self.policies[body[_DIRECTION_AT], body[:_SELECTOR_BYTES]] = body
            case xfrm.DELETE_POLICY:
                self.before("drop policy")
                (direction,) = struct.unpack_from("=B", body, _SELECTOR_BYTES + 4)
                if self.policies.pop((direction, body[:_SELECTOR_BYTES]), None) is None:
                    return NetlinkError(errno.ENOENT)
        return None

    def seen_sas(self) -> list[Sa]:
        found = (xfrm.read_sa(memoryview(each)) for each in self.sas.values())
        return [each[0] for each in found if each is not None]

    def seen_policies(self) -> list[Policy]:
        found = (xfrm.read_policy(memoryview(each)) for each in self.policies.values())
        return [each for each in found if each is not None]

    # As the data path's links

    def underlay_mtu(self, address: str) -> int | None:
        return _MTU

    def names(self, prefix: str) -> list[str]:
        return [name for name in (*self.networks, *self.tasks) if name.startswith(prefix)]

    def see_network(self, name: str) -> NetworkSeen:
        links, forwards = self.networks[name]
        return NetworkSeen(links, dict(forwards), {})

    def see_task(self, name: str, networks: object) -> tuple[Interface, ...]:
        return self.tasks[name]

    def build_network(self, name: str, wanted: NetworkLinks) -> None:
        self.before("build network")
        self.networks[name] = (wanted, {})

    def remove_network(self, name: str) -> None:
        self.before("remove network")
        self.networks.pop(name, None)

    def put_forwards(self, name: str, forwards: Sequence[Forward]) -> list[NetlinkError | None]:
        self.networks[name][1].update({each.ip: each for each in forwards})
        return [None] * len(forwards)

    def drop_forwards(self, name: str, forwards: Sequence[Forward]) -> list[NetlinkError | None]:
        for each in forwards:
            self.networks[name][1].pop(each.ip, None)
        return [None] * len(forwards)

    def build_task(self, name: str, interfaces: Sequence[Interface]) -> None:
        self.before("build task")
        self.tasks[name] = tuple(interfaces)

    def remove_task(self, name: str) -> None:
        self.before("remove task")
        self.tasks.pop(name, None)
