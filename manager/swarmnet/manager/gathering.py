"""Events that come in any number, told as few: the same ones in a window of time become one, with a count."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias

import structlog

from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.errors import SwarmnetError

log = structlog.get_logger()

WINDOW_S: Final = 10.0

Deliver: TypeAlias = Callable[[Sequence[types.Event], str], Awaitable[object]]
"""Commit these events, once for the request id. SwarmnetError: not now."""
Key: TypeAlias = tuple[str, ...]


class Gathering:
    """`name` is what the log calls them. Event loop only."""

    def __init__(self, name: str, deliver: Deliver, window_s: float = WINDOW_S) -> None:
        self.name = name
        self._deliver = deliver
        self._window_s = window_s
        self._pending: dict[Key, types.Event] = {}
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        return len(self._pending)

    def __contains__(self, key: Key) -> bool:
        return key in self._pending

    def add(self, key: Key, make: Callable[[], types.Event]) -> None:
        """One more of those with that key; `make` the event if it is the first in this window."""
        if (event := self._pending.get(key)) is None:
            event = self._pending[key] = make()
        event.count += 1
        self._wake.set()

    async def run(self) -> None:
        """For ever: what a window brought is told at its end, or as soon as somebody can take it."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            await asyncio.sleep(self._window_s)
            events, self._pending = list(self._pending.values()), {}
            await self._tell(events, secrets.token_hex(16))

    async def _tell(self, events: Sequence[types.Event], request_id: str) -> None:
        while True:
            try:
                await self._deliver(events, request_id)
            except SwarmnetError as error:
                log.warning("events not told yet", of=self.name, events=len(events), error=error.message)
            else:
                return
            await asyncio.sleep(self._window_s)
