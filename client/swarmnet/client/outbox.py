"""What waits to be written to a stream: what comes together shares a message."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from google.protobuf.message import Message

from swarmnet.core.limits import PIPELINE_SHARED_BYTES

M = TypeVar("M", bound=Message)


class Outbox(Generic[M]):
    """Filled by many, emptied by one writer. Event loop only."""

    def __init__(self, make: Callable[[], M]) -> None:
        self._make = make
        self._messages: deque[M] = deque()
        self._room_bytes = 0
        self._wake = asyncio.Event()
        self._closed = False

    def place(self, size_bytes: int) -> M:
        """The message to add something of that size to, now."""
        if not self._messages or size_bytes > self._room_bytes:
            self._messages.append(self._make())
            self._room_bytes = PIPELINE_SHARED_BYTES
            self._wake.set()
        self._room_bytes -= size_bytes
        return self._messages[-1]

    async def take(self) -> M | None:
        """The next message, once there is one; None when all are taken after `close`."""
        while not self._messages and not self._closed:
            self._wake.clear()
            await self._wake.wait()
        return self._messages.popleft() if self._messages else None

    def close(self) -> None:
        """Nothing is added any more."""
        self._closed = True
        self._wake.set()

    def left(self) -> list[M]:
        """What was not taken."""
        return list(self._messages)
