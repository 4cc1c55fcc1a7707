"""A control loop: plan on what the state says, commit, wait for a change or the time that the plan named.

A plan is a pure function of a transaction and the time. It reads the whole of what it is about, so a lost
event, a restart or a new leader needs no care: the next pass sees what is left to do. A pass that does only
a part of it (see Batch) is followed by another one, woken by its own commit.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeAlias

import structlog
from google.protobuf.message import Message

from swarmnet.core.errors import NotLeader
from swarmnet.core.limits import MAX_COMMAND_BYTES
from swarmnet.core.state import Object, Transaction
from swarmnet.manager.store import Store, Subscription

log = structlog.get_logger()

Plan: TypeAlias = Callable[[Transaction, float], "float | None"]
"""(transaction, now) -> when to run again though nothing changed; None: only on a change."""

BATCH: Final = 200
BATCH_BYTES: Final = MAX_COMMAND_BYTES // 4
"""What one pass changes at most, so that no command comes near MAX_COMMAND_BYTES."""
_SHORTEST_WAIT_S: Final = 0.01
_LONGEST_WAIT_S: Final = 60.0
"""Due times are by the wall clock, which may be set back."""
_REST: Final = 2.0
_LONGEST_REST_S: Final = 0.1
"""After a pass a loop rests for twice the time that planning took: what comes in large moments, such as a
thousand acknowledgements, is looked at together, and other work has its turn."""
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 5.0


class Batch:
    """How much a pass has changed, of at most `most` objects. What is added last may go beyond the limit: it
    has to go somewhere."""

    def __init__(self, most: int = BATCH) -> None:
        self._most = most
        self._objects = 0
        self._bytes = 0

    def add(self, changed: Message) -> None:
        self._objects += 1
        self._bytes += changed.ByteSize()

    @property
    def full(self) -> bool:
        return self._objects >= self._most or self._bytes >= BATCH_BYTES


class Loop:
    """Runs a plan whenever an object of `kinds` changes, when `wake` is called, and when the plan is due."""

    def __init__(
        self,
        name: str,
        store: Store,
        kinds: tuple[type[Object], ...],
        plan: Plan,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        self._store = store
        self._kinds = kinds
        self._plan = plan
        self._clock = clock
        self._changes: Subscription | None = None
        self._planning_s = 0.0

    def wake(self) -> None:
        """Plan again soon; without effect while the loop is not running, as it plans when it starts."""
        if self._changes is not None:
            self._changes.reset()

    async def run(self) -> None:
        """Until this manager no longer leads. Any other error is logged, and the pass tried again."""
        pause_s, caught_up = _FIRST_PAUSE_S, False
        with self._store.subscribe(*self._kinds) as self._changes:
            while True:
                try:
                    if not caught_up:
                        await self._store.read_barrier()
                        caught_up = True
                    due = await self._store.transact(self._planned)
                except NotLeader:
                    log.info("control loop ended", loop=self.name, reason="another manager leads")
                    return
                except Exception:
                    log.exception("control loop pass failed", loop=self.name, retry_in_s=pause_s)
                    await asyncio.sleep(pause_s)
                    pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                    continue
                pause_s = _FIRST_PAUSE_S
                await asyncio.sleep(min(_REST * self._planning_s, _LONGEST_REST_S))
                await self._wait(self._changes, due)

    def _planned(self, transaction: Transaction) -> float | None:
        began = time.perf_counter()
        due = self._plan(transaction, self._clock())
        self._planning_s = time.perf_counter() - began
        return due

    async def _wait(self, changes: Subscription, due: float | None) -> None:
        left_s = _LONGEST_WAIT_S if due is None else due - self._clock()
        with suppress(TimeoutError):
            async with asyncio.timeout(min(max(left_s, _SHORTEST_WAIT_S), _LONGEST_WAIT_S)):
                await changes.next()
