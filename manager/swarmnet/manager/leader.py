"""What only the leading manager does: all control loops, started and stopped together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Final, Protocol

import structlog

from swarmnet.core.errors import NotLeader
from swarmnet.manager import allocator, keymanager, orchestrator, reaper, root_rotation, scheduler
from swarmnet.manager.dispatcher import DispatcherService
from swarmnet.manager.loop import Loop
from swarmnet.manager.role_manager import RoleManager
from swarmnet.manager.store import Store

log = structlog.get_logger()

_RESTART_PAUSE_S: Final = 0.5


class Runner(Protocol):
    """Something that runs for as long as this manager leads."""

    @property
    def name(self) -> str: ...
    async def run(self) -> None: ...


class Leader:
    """Start it when this manager comes to lead, stop it when it no longer does; it can be started again.

    A loop that ends meanwhile, by an error or because it was told that another manager leads, is started
    again after a pause: only `stop` ends the work.
    """

    def __init__(
        self,
        store: Store,
        dispatcher: DispatcherService,
        roles: RoleManager,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._roles = roles
        self._store = store
        self._dispatcher = dispatcher
        self._clock = clock
        self._running: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        if not self._running:
            log.info("leading", loops="started")
            self._running = [
                asyncio.create_task(keep_running(runner), name=runner.name) for runner in self._runners()
            ]

    async def stop(self) -> None:
        """The workers' sessions end too; the workers look for the new leader."""
        running, self._running = self._running, []
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        if running:
            log.info("no longer leading", loops="stopped")
        self._dispatcher.close_sessions(NotLeader("this manager no longer leads", hint="Ask another one."))

    def _runners(self) -> Iterable[Runner]:
        keys = keymanager.KeyManager(self._dispatcher.acks.of)
        key_loop = Loop("keymanager", self._store, keymanager.KINDS, keys.plan, self._clock)
        self._dispatcher.acks.on_change = key_loop.wake
        planned = (
            Loop("orchestrator", self._store, orchestrator.KINDS, orchestrator.plan, self._clock),
            Loop("allocator", self._store, allocator.KINDS, allocator.plan, self._clock),
            Loop("scheduler", self._store, scheduler.KINDS, scheduler.plan, self._clock),
            Loop("reaper", self._store, reaper.KINDS, reaper.plan, self._clock),
            Loop("root rotation", self._store, root_rotation.KINDS, root_rotation.plan, self._clock),
        )
        return (*planned, key_loop, self._roles, *self._dispatcher.begin())


async def keep_running(runner: Runner, pause_s: float = _RESTART_PAUSE_S) -> None:
    """Run it again whenever it ends, until cancelled."""
    while True:
        try:
            await runner.run()
            log.warning("control loop ended; starting it again", loop=runner.name, pause_s=pause_s)
        except Exception:
            log.exception("control loop failed; starting it again", loop=runner.name, pause_s=pause_s)
        await asyncio.sleep(pause_s)
