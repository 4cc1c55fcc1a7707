"""Hands the workers' sessions their assignments: only to whom a change may concern, a few at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import Final

from swarmnet.api.v1 import dispatcher_pb2 as dispatcher
from swarmnet.core.state import Event
from swarmnet.manager.dispatcher_assignment import KINDS, Picture
from swarmnet.manager.store import Store, Subscription

COALESCE_S: Final = 0.005
"""Changes so close together go as one."""
SLICE_S: Final = 0.002
"""So long it works before others have their turn."""


class Pusher:
    """Runs on the leader. `push` gives one node's session what the picture has for it."""

    name = "assignments"

    def __init__(
        self,
        store: Store,
        managers: Callable[[], Sequence[dispatcher.ManagerAddress]],
        sessions: Callable[[], Collection[str]],
        push: Callable[[str, Picture], None],
    ) -> None:
        self._store = store
        self._managers = managers
        self._sessions = sessions
        self._push = push
        self._changes: Subscription | None = None
        self._waiting: dict[str, None] = {}
        """Nodes whose sessions are to be looked at, in turn."""

    def push_to(self, node_id: str) -> None:
        """The node has a new session."""
        self._waiting[node_id] = None
        if self._changes is not None:
            self._changes.nudge()

    async def run(self) -> None:
        with self._store.subscribe(*KINDS) as self._changes:
            managers = self._managers()
            picture = self._everybody(managers)
            while True:
                self._push_some(picture)
                if self._waiting:
                    await asyncio.sleep(0)
                else:
                    await self._changes.wait()
                    await asyncio.sleep(COALESCE_S)
                changes = self._changes.take()
                if changes is None or managers != self._managers():
                    managers = self._managers()
                    picture = self._everybody(managers)
                else:
                    self._note(picture, changes)

    def _everybody(self, managers: Sequence[dispatcher.ManagerAddress]) -> Picture:
        self._waiting.update(dict.fromkeys(self._sessions()))
        return Picture(self._store.state, managers)

    def _note(self, picture: Picture, changes: Sequence[Event]) -> None:
        if not changes:
            return
        concerned = picture.note(changes)
        self._waiting.update(dict.fromkeys(self._sessions() if concerned is None else concerned))

    def _push_some(self, picture: Picture) -> None:
        """Until the time is up. The picture is of this very moment: nothing changes meanwhile."""
        now = asyncio.get_running_loop().time
        end = now() + SLICE_S
        while self._waiting and now() < end:
            node_id = next(iter(self._waiting))
            del self._waiting[node_id]
            self._push(node_id, picture)
