"""What workers say of their keys, taken in a few at a time: after a step of a rotation all say it at once."""

from __future__ import annotations

import asyncio

from swarmnet.api.v1 import dispatcher_pb2 as dispatcher
from swarmnet.manager.dispatcher_acks import Acknowledgements
from swarmnet.manager.dispatcher_pusher import SLICE_S


class Reports:
    """Event loop only. Of a node only the latest counts: each says all that it has."""

    def __init__(self, acks: Acknowledgements) -> None:
        self._acks = acks
        self._waiting: dict[str, dispatcher.KeyReport] = {}

    def offer(self, node_id: str, report: dispatcher.KeyReport) -> None:
        """Have it taken in, in a turn of the event loop that is not too long yet."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._take_some)
        self._waiting[node_id] = report

    def forget(self, node_id: str) -> None:
        """The node starts a session: what it said before counts no more."""
        self._waiting.pop(node_id, None)
        self._acks.forget(node_id)

    def clear(self) -> None:
        self._waiting.clear()
        self._acks.clear()

    def _take_some(self) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + SLICE_S
        while self._waiting and loop.time() < end:
            node_id = next(iter(self._waiting))
            self._acks.put(node_id, self._waiting.pop(node_id))
        if self._waiting:
            loop.call_soon(self._take_some)
