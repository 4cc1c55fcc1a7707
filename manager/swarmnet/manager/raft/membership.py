"""Managers that come and go, one at a time: majorities overlap only if each change is final before the next.

A change counts as soon as it is in the leader's log, and is final once it is committed. The second manager of
a swarm must take part before its own joining can be final, so a joiner is told as soon as the change counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final

import grpc.aio
import structlog

from swarmnet.core.errors import FailedPrecondition, SwarmnetError
from swarmnet.manager.raft.engine import Engine
from swarmnet.manager.raft.entries import Change
from swarmnet.manager.raft.link import CONNECT_S, unreachable
from swarmnet.manager.raft.member import Member
from swarmnet.manager.raft.pending import Answer, Pending, outcome_of, settle

log = structlog.get_logger()

Dialer = Callable[[Member], grpc.aio.Channel]
"""Opens a channel to a member's API: mutual TLS, and the other end must prove to be that node id."""

_CHANGE_S: Final = 10.0


class Membership:
    """The leader's changes. Event loop only."""

    def __init__(self, engine: Engine, pending: Pending) -> None:
        self._engine = engine
        self._pending = pending
        self._turn = asyncio.Lock()
        self._finishing: set[asyncio.Task[None]] = set()

    async def make(self, change: Change) -> None:
        """Make a change and wait until it is final. FailedPrecondition when others go on for too long;
        NotLeader; OutcomeUnknown."""
        await (await self.begin(change))

    async def begin(self, change: Change) -> asyncio.Task[None]:
        """Make a change count; the task ends when it is final, or with OutcomeUnknown."""
        await self._take_turn()
        counted, final = self._pending.expect(), self._pending.expect()
        final.add_done_callback(lambda _: self._turn.release())
        post = partial(self._engine.change, change, partial(settle, counted), partial(settle, final))
        self._engine.post(post)
        try:
            await outcome_of(counted, _CHANGE_S)
        except BaseException:
            final.cancel()
            raise
        task = asyncio.create_task(_until_final(change, final))
        self._finishing.add(task)
        task.add_done_callback(self._finished)
        return task

    async def _take_turn(self) -> None:
        try:
            async with asyncio.timeout(_CHANGE_S):
                await self._turn.acquire()
        except TimeoutError:
            raise FailedPrecondition(
                "another manager is still joining or leaving", hint="Try again when it is done."
            ) from None

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._finishing.discard(task)
        if not task.cancelled():
            task.exception()  # it was logged it; whoever awaits the task gets it too


async def check_reachable(channel: grpc.aio.Channel, member: Member) -> None:
    """A joiner must be reachable before it counts in majorities. FailedPrecondition. Closes the channel."""
    try:
        async with asyncio.timeout(CONNECT_S):
            await channel.channel_ready()
    except TimeoutError:
        raise unreachable(member.address, f"no answer within {CONNECT_S:g} s") from None
    finally:
        await channel.close()


async def _until_final(change: Change, final: Answer) -> None:
    try:
        await outcome_of(final, _CHANGE_S)
    except SwarmnetError as error:
        log.warning("membership change not final", node=change.member.node_id, error=error.message)
        raise
    log.info(
        "manager left" if change.remove else "manager joined",
        node=change.member.node_id,
        address=change.member.address,
    )
