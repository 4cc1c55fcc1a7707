"""What nodes notice and tell, as events of the swarm: each under its own name, and only so many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import partial
from typing import Final

from swarmnet.api.v1 import dispatcher_pb2 as dispatcher
from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.events import NOTICES
from swarmnet.core.state import State
from swarmnet.manager.gathering import WINDOW_S, Deliver, Gathering

TOLD_APART: Final = 16
"""Different notices of a node in a window; what is beyond is dropped."""
_LONGEST_REASON: Final = 300


class Notices:
    """A runner of the leader."""

    name = "notices"

    def __init__(self, state: State, deliver: Deliver, window_s: float = WINDOW_S) -> None:
        self._state = state
        self._pending = Gathering(self.name, deliver, window_s)
        self._of_node: Counter[str] = Counter()

    def note(self, node_id: str, notices: Iterable[dispatcher.NodeNotice]) -> None:
        """What the node in that session said."""
        if not len(self._pending):
            self._of_node.clear()
        for each in notices:
            key = (node_id, each.action, each.network_id, each.peer_node_id, each.reason)
            if each.action not in NOTICES:
                continue
            if key not in self._pending:
                self._of_node[node_id] += 1
            if self._of_node[node_id] <= TOLD_APART:
                self._pending.add(key, partial(self._event, node_id, each))

    async def run(self) -> None:
        await self._pending.run()

    def _event(self, node_id: str, notice: dispatcher.NodeNotice) -> types.Event:
        network = self._state.get(types.Network, notice.network_id)
        peer = self._state.get(types.Node, notice.peer_node_id)
        return types.Event(
            type=types.EVENT_TYPE_NODE,
            action=notice.action,
            subjects=[types.EventSubject(id=network.meta.id, name=network.name)]
            if network is not None
            else [],
            nodes=[node_id, *([peer.meta.id] if peer is not None else [])],
            reason=notice.reason[:_LONGEST_REASON],
        )
