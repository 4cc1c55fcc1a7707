"""What one step of Raft has to send: in order, and with the journal on disk before the first promise."""

from __future__ import annotations

from collections.abc import Callable

from swarmnet.api.v1 import raft_pb2 as raft
from swarmnet.manager.raft import codec
from swarmnet.manager.raft.guard import Message, is_promise
from swarmnet.manager.raft.outlet import Outlet

Messages = list[tuple[str, raft.RaftMessage]]


class Outbox:
    """`sync` makes durable what messages may promise; it is called only if there is a promise."""

    def __init__(self, outlet: Outlet, sync: Callable[[], None]) -> None:
        self._outlet = outlet
        self._sync = sync
        self._waiting: list[tuple[str, raft.RaftMessage, bool]] = []
        self._last: tuple[int, Message, raft.RaftMessage] | None = None

    def add(self, node_id: str, message: Message, term: int) -> None:
        """A message that says the same as the one before it, to another manager, is encoded once."""
        if self._last is None or self._last[0] != term or self._last[1] != message:
            self._last = (term, message, codec.encode(message, term))
        self._waiting.append((node_id, self._last[2], is_promise(message)))

    def flush(self) -> None:
        if not self._waiting:
            return
        waiting, self._waiting, self._last = self._waiting, [], None
        ready: Messages = []
        synced = False
        for node_id, message, promise in waiting:
            if promise and not synced:
                self._send(ready)
                ready = []
                self._sync()
                synced = True
            ready.append((node_id, message))
        self._send(ready)

    def _send(self, messages: Messages) -> None:
        if messages:
            self._outlet.transmit(messages)
