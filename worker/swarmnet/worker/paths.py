"""Looks whether the paths to other nodes carry packets as large as this host's interface does.

Where one carries less, connections between tasks hang as soon as they send much, and nobody sees why. So it
is looked at when a node becomes a peer, and now and then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Final, Protocol

import structlog

from swarmnet.api.v1 import dispatcher_pb2 as dispatcher
from swarmnet.core.datapath.desired import Desired
from swarmnet.core.datapath.paths import news_of_path

log = structlog.get_logger()

AGAIN_S: Final = 600.0
_AT_ONCE: Final = 8


class Underlay(Protocol):
    async def underlay_mtu(self, address: str) -> int | None: ...


Measure = Callable[[str, str, int], Awaitable[int]]
"""(source, destination, largest) -> bytes; 0: nothing was answered. OSError: it cannot be measured here."""


class Paths:
    """`notice` is told what operators should know of."""

    def __init__(
        self,
        underlay: Underlay,
        measure: Measure,
        notice: Callable[[Iterable[dispatcher.NodeNotice]], None],
    ) -> None:
        self._underlay = underlay
        self._measure = measure
        self._notice = notice
        self._wish: Desired | None = None
        self._peers: dict[str, tuple[str, bool]] = {}
        """By address: the node, and whether its ESP is in UDP."""
        self._known: dict[str, int] = {}
        self._wake = asyncio.Event()

    def look(self, wish: Desired) -> None:
        """The data path is this now."""
        self._wish = wish
        peers = {
            peer.address: (peer.node_id, wish.encap or peer.encap)
            for network in wish.networks
            for peer in network.peers
        }
        if peers.keys() - self._peers.keys():
            self._wake.set()
        self._peers = peers
        for address in self._known.keys() - peers.keys():
            del self._known[address]

    async def run(self) -> None:
        """For ever: new peers at once, all of them now and then."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), AGAIN_S)
            only_new = self._wake.is_set()
            self._wake.clear()
            due = [each for each in self._peers if not only_new or each not in self._known]
            try:
                await self._look_at(due)
            except OSError as error:
                log.warning("paths to other nodes not measured", error=str(error))

    async def _look_at(self, addresses: list[str]) -> None:
        if self._wish is None or not addresses:
            return
        source = self._wish.address
        if not (mtu := await self._underlay.underlay_mtu(source)):
            return
        for first in range(0, len(addresses), _AT_ONCE):
            some = addresses[first : first + _AT_ONCE]
            found = await asyncio.gather(*(self._measure(source, each, mtu) for each in some))
            for address, carries in zip(some, found, strict=True):
                self._judge(address, carries, mtu)

    def _judge(self, address: str, carries: int, mtu: int) -> None:
        if (peer := self._peers.get(address)) is None:
            return
        node_id, encap = peer
        news = news_of_path(self._known.get(address, 0), carries, mtu, address, encap=encap)
        self._known[address] = carries or self._known.get(address, 0)
        if news:
            log.warning("path to another node", node=node_id, news=news)
            self._notice([dispatcher.NodeNotice(action="path", peer_node_id=node_id, reason=news)])
