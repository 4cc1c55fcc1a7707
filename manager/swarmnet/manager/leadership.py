"""Runs the control loops exactly while this manager leads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

import structlog

from swarmnet.api.v1 import types_pb2 as types
from swarmnet.core.errors import SwarmnetError
from swarmnet.manager.store import Store

log = structlog.get_logger()


class Loops(Protocol):
    """The control loops as a whole."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


class Leadership:
    """Told of every change, it starts new loops after gaining the lead and stops them after losing it.

    A start waits until the state is current and the cluster founded; a loss meanwhile calls it off. `running`
    says whether the loops run.
    """

    def __init__(self, store: Store, make: Callable[[], Loops]) -> None:
        self._store = store
        self._make = make
        self._changed = asyncio.Event()
        self._leads = False
        self.running = False

    def tell(self, leads: bool) -> None:
        """Raft's callback."""
        if leads != self._leads:
            self._leads = leads
            self._changed.set()

    async def run(self) -> None:
        """Until cancelled, which stops the loops."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            if self._leads:
                await self._lead()

    async def _lead(self) -> None:
        over = asyncio.create_task(self._changed.wait())
        ready = asyncio.create_task(self._ready())
        try:
            await asyncio.wait((over, ready), return_when=asyncio.FIRST_COMPLETED)
            if ready.done() and _succeeded(ready):
                await self._run_loops(over)
        finally:
            over.cancel()
            ready.cancel()

    async def _ready(self) -> None:
        await self._store.read_barrier()
        with self._store.subscribe(types.Cluster) as founded:
            while self._store.state.cluster() is None:
                await founded.next()

    async def _run_loops(self, over: asyncio.Task[bool]) -> None:
        loops = self._make()
        await loops.start()
        self.running = True
        try:
            await over
        finally:
            self.running = False
            await loops.stop()


def _succeeded(ready: asyncio.Task[None]) -> bool:
    error = ready.exception()
    if error is None:
        return True
    if not isinstance(error, SwarmnetError):
        raise error
    log.warning("lost the lead before it began", error=str(error))
    return False
