"""A manager's part in Raft: propose commands, read what is current, come and go as a member.

The state machine lives on the event loop and is only touched there; Raft itself has a thread of its own
(engine.py). What the engine hands over is run in order, so results, snapshots and leadership always match
what the state machine has applied.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from swarmnet.api.v1 import raft_pb2 as raft
from swarmnet.core.errors import (
    FailedPrecondition,
    Internal,
    NoLeader,
    NotFound,
    NotLeader,
    OutcomeUnknown,
    ResourceExhausted,
    SwarmnetError,
    Unavailable,
)
from swarmnet.core.limits import MAX_COMMAND_BYTES
from swarmnet.core.secret import SecretBytes
from swarmnet.manager.raft import storage
from swarmnet.manager.raft.compaction import Encode
from swarmnet.manager.raft.disk import REAL_DISK, Disk
from swarmnet.manager.raft.election import LogEnd
from swarmnet.manager.raft.engine import Engine
from swarmnet.manager.raft.entries import Change
from swarmnet.manager.raft.guard import Message
from swarmnet.manager.raft.library import Tuning
from swarmnet.manager.raft.measures import Measures
from swarmnet.manager.raft.member import Joined, Member
from swarmnet.manager.raft.membership import Dialer, Membership, check_reachable
from swarmnet.manager.raft.outlet import StateMachine
from swarmnet.manager.raft.pending import Answer, Pending, outcome_of, settle, settle_read
from swarmnet.manager.raft.seal import DataKey
from swarmnet.manager.raft.service import RaftService
from swarmnet.manager.raft.standing import Standing
from swarmnet.manager.raft.thread import Turn
from swarmnet.manager.raft.wire import Wire

log = structlog.get_logger()

__all__ = ["Dialer", "Member", "RaftNode", "RaftService", "Tuning", "Wire"]

_TRANSFER_S: Final = 1.5
"""Longer than the engine tries, and a vote after that."""
_STOP_S: Final = 0.5
"""A stop waits no longer for another leader: the others may be stopping, too."""
_STANDING_S: Final = 2.0


class RaftNode:
    """Event loop only. `servicer` is to be served on the managers' port, at the member's address; `wire` is
    open already, and closed by `stop`.

    `failed` is done, with the error, when the disk failed or the cluster's safety is in doubt: the manager
    must stop then. Nothing was promised that is not kept.
    """

    def __init__(
        self,
        stored: storage.Storage,
        machine: StateMachine,
        *,
        directory: Path,
        wire: Wire,
        dial: Dialer,
        on_leadership: Callable[[bool], None],
        servicer: RaftService,
        tuning: Tuning,
    ) -> None:
        self.servicer = servicer
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._me = me = wire.me
        self._loop = asyncio.get_running_loop()
        self._directory = directory
        self._machine = machine
        self._dial = dial
        self._on_leadership = on_leadership
        self._storage = stored
        self._leads = False
        self._succeeded = asyncio.Event()  # another manager leads
        self._leader_id: str | None = None
        self._members: Mapping[str, Member] = stored.journal.members() | {me.node_id: me}
        self._acquaintances: Mapping[str, Member] = {}
        self._announced: dict[str, Member] = {me.node_id: me}
        self._heard: dict[str, float] = {}
        self._result: object = None
        self._pending = Pending()
        self._leader_silent_s = 2 * tuning.election_max_s
        self._engine = Engine(me, stored, self, tuning)
        self._post = Turn(self._loop, self._engine.post).add
        self._membership = Membership(self._engine, self._pending)
        self._wire = wire

    @classmethod
    async def start(
        cls,
        *,
        wire: Wire,
        directory: Path,
        kek: SecretBytes,
        machine: StateMachine,
        dial: Dialer,
        found: bool = False,
        join: Joined | None = None,
        on_leadership: Callable[[bool], None],
        servicer: RaftService | None = None,
        tuning: Tuning | None = None,
        disk: Disk = REAL_DISK,
    ) -> RaftNode:
        """Found a cluster, become part of one (`join`: what its leader said), or go on from the directory
        (neither).

        FailedPrecondition for a wrong key, a directory in use, or one that has a log already; Internal for a
        damaged one.
        """
        founders = (wire.me,) if found else join.members if join is not None else ()
        joined_at = join.at if join is not None else None
        opened = (
            partial(storage.create, directory, kek, founders, disk, joined_at=joined_at)
            if founders
            else partial(storage.open_existing, directory, kek, disk)
        )
        stored = await asyncio.to_thread(opened)
        node = cls(
            stored,
            machine,
            directory=directory,
            wire=wire,
            dial=dial,
            on_leadership=on_leadership,
            servicer=servicer or RaftService(),
            tuning=tuning or Tuning(),
        )
        node.servicer.part = node
        await wire.thread.call(node._begin())
        return node

    async def _begin(self) -> None:
        self._wire.attach(self)
        self._wire.set_managers(self._members)
        self._engine.run_on(self._wire.thread)

    @property
    def is_leader(self) -> bool:
        """Whether this manager leads and its state machine has all that was committed before it did."""
        return self._leads

    @property
    def leader(self) -> Member | None:
        """Who leads, as far as this manager knows; None once that one is not heard any more."""
        if self._leader_id is None or not self._is_heard(self._leader_id):
            return None
        return self._members.get(self._leader_id)

    @property
    def members(self) -> Mapping[str, Member]:
        """All members, this one among them, by node id."""
        return self._members

    def reachable(self, node_id: str) -> bool:
        """Whether this manager has a connection to that one now."""
        return node_id == self._me.node_id or self._wire.is_connected(node_id)

    @property
    def measures(self) -> Measures:
        return self._engine.measures

    @property
    def data_key(self) -> DataKey:
        """The newest one, which seals what is written."""
        return self._storage.keys.newest

    def renew_data_key(self) -> None:
        """Have all become unreadable on this manager's disk that was taken out of the state by now, soon."""
        self._engine.post(self._engine.renew_data_key)

    async def seal_under(self, kek: SecretBytes) -> None:
        """Keep the data keys under another key-encryption key. ResourceExhausted, OutcomeUnknown: not yet."""
        answer = self._pending.expect()

        def reseal() -> None:
            self._loop.call_soon_threadsafe(settle, answer, self._storage.seal_under(kek))

        self._engine.post(reseal)
        await outcome_of(answer, _STANDING_S)

    def heard_ago_s(self, node_id: str) -> float | None:
        """How long ago a message of that manager came in; None if none ever did."""
        heard = self._heard.get(node_id)
        return None if heard is None else time.monotonic() - heard

    async def standing(self) -> Standing:
        """Where Raft stands here. Unavailable when its thread does not answer: a disk that hangs, say."""
        answer: Answer = asyncio.get_running_loop().create_future()
        self._post(partial(self._engine.tell_standing, partial(settle, answer)))
        try:
            async with asyncio.timeout(_STANDING_S):
                standing = await answer
        except TimeoutError:
            raise Unavailable(
                f"this manager's Raft did not answer within {_STANDING_S:g} s",
                hint="Look at its log, and at the disk of its state directory.",
            ) from None
        assert isinstance(standing, Standing)
        return standing if self._is_heard(standing.leader_id) else replace(standing, leader_id=None)

    async def sizes(self) -> storage.Sizes:
        return await asyncio.to_thread(storage.sizes, self._directory)

    async def transfer(self, node_id: str | None = None) -> str:
        """Hand over leadership, to that manager or whoever has most of the log; returns who leads then.

        NotLeader, NoLeader; FailedPrecondition when there is nobody to take it; Unavailable if nobody did in
        time: then this manager leads on.
        """
        self._check_leads()
        if node_id == self._me.node_id:
            return node_id
        if not any(map(self._wire.is_connected, self._members if node_id is None else [node_id])):
            who = "no other manager can" if node_id is None else f"manager {node_id} cannot"
            raise FailedPrecondition(
                f"{who} be reached", hint="`swarmnet raft status` shows which managers can be reached."
            )
        if not await self._hand_over(node_id, _TRANSFER_S) or (taken_by := self._leader_id) is None:
            raise Unavailable(
                "no other manager took over in time",
                hint="A manager can only take over once it has all of the log: see `swarmnet raft status`.",
            )
        return taken_by

    async def propose(self, command: bytes, timeout_s: float = 5.0) -> object:
        """Have all managers apply a command; returns what this one's state machine returned.

        NotLeader, NoLeader: it was not applied. OutcomeUnknown: not known in time. ResourceExhausted: too
        large, or too many waiting. Internal: the state machine raised.
        """
        if len(command) > MAX_COMMAND_BYTES:
            raise ResourceExhausted(
                f"a command of {len(command)} bytes is above the limit of {MAX_COMMAND_BYTES}",
                hint="Make the change in smaller steps.",
            )
        self._check_leads()
        answer = self._pending.expect()
        self._post(partial(self._engine.propose, command, partial(self._answer, answer)))
        return await outcome_of(answer, timeout_s)

    async def read_barrier(self, timeout_s: float = 5.0) -> None:
        """After this, the state machine has all that was committed before the call. NotLeader, NoLeader."""
        self._check_leads()
        answer = self._pending.expect()
        self._post(partial(self._engine.read, partial(settle_read, answer)))
        try:
            async with asyncio.timeout(timeout_s):
                await answer
        except TimeoutError:
            raise NoLeader from None

    async def add_member(self, member: Member) -> None:
        """Make `member` a manager; returns when that is final. A known one is given its addresses anew.

        NotLeader, NoLeader; FailedPrecondition while another change goes on; OutcomeUnknown.
        """
        self._check_leads()
        if not self._known(member):
            await self._membership.make(Change(remove=False, member=member))

    async def admit(self, member: Member) -> Joined:
        """Like add_member, for a joiner whose ports are open: returns as soon as it counts as a member.

        FailedPrecondition if it cannot be reached: it would count in majorities and be missing in them.
        """
        self._check_leads()
        if not self._known(member):
            await check_reachable(self._dial(member), member)
            await self._wire.check(member)
            await self._membership.begin(Change(remove=False, member=member))
        answer = self._pending.expect()
        self._post(partial(self._engine.tell_admission, member.node_id, partial(settle, answer)))
        at = await outcome_of(answer, _STANDING_S)
        assert isinstance(at, LogEnd)
        return Joined(tuple({**self._members, member.node_id: member}.values()), at)

    async def remove_member(self, node_id: str) -> None:
        """Take a manager out; returns when that is final. NotFound; FailedPrecondition for the only one.

        Asked to remove itself, the leader hands over its leadership and raises NotLeader: ask the next one.
        """
        self._check_leads()
        if node_id not in self._members:
            raise NotFound(f"no manager {node_id}", hint="`swarmnet node ls` shows the managers.")
        if not self._members.keys() - {node_id}:
            raise FailedPrecondition(
                "the only manager cannot leave the swarm",
                hint="Its state would be lost: use `swarmnet swarm leave --force` to dissolve the swarm.",
            )
        if node_id == self._me.node_id:
            self._post(self._engine.transfer)
            raise NotLeader("this manager leads, and is handing over", hint="Ask again in a moment.")
        await self._membership.make(Change(remove=True, member=self._members[node_id]))

    async def hand_over(self) -> None:
        """Before a stop, while the servers still run: give up leadership, if there is somebody to take it."""
        if self._leads and any(map(self._wire.is_connected, self._members)):
            await self._hand_over(None, _STOP_S)

    async def stop(self) -> None:
        """Hand over leadership if possible, then stop; what was promised is on disk."""
        await self.hand_over()
        self.servicer.part = None
        await self._wire.thread.call(self._finish())
        await self._wire.close()
        self._storage.close()
        self._pending.give_up(OutcomeUnknown("this manager is stopping", hint="Ask another one."))

    async def _finish(self) -> None:
        self._engine.finish()

    # The engine's outlet (outlet.Outlet)

    def transmit(self, messages: list[tuple[str, raft.RaftMessage]]) -> None:
        """On Raft's thread."""
        self._wire.send(messages)

    def apply(self, index: int, command: bytes) -> None:
        try:
            self._result = self._machine.apply(index, command)
        except Exception as error:
            # The same everywhere, since commands are deterministic: a result, not a reason to stop the log.
            log.exception("a command could not be applied", index=index)
            self._result = Internal(f"the command could not be applied: {type(error).__name__}")

    def restore(self, state: bytes) -> None:
        self._machine.restore(state)

    def freeze(self, done: Callable[[Encode], None]) -> None:
        done(self._machine.freeze())

    def elected(self, leads: bool) -> None:
        self._leads = leads
        if leads:
            self._succeeded.clear()
        log.info("leading the swarm" if leads else "no longer leading the swarm")
        self._on_leadership(leads)

    def view(
        self, leader_id: str | None, members: Mapping[str, Member], acquaintances: Mapping[str, Member]
    ) -> None:
        self._leader_id, self._members = leader_id, members
        self._acquaintances = acquaintances
        if leader_id not in {None, self._me.node_id}:
            self._succeeded.set()
        self._place()

    def failed_with(self, error: Exception) -> None:
        self._pending.give_up(
            OutcomeUnknown(f"this manager's Raft stopped: {error}", hint="Ask another manager.")
        )
        if self._leads:
            self.elected(leads=False)
        self._leader_id = None
        if not self.failed.done():
            self.failed.set_exception(error)

    # The wire's events, on Raft's thread (wire.Events)

    def received(self, node_id: str, term: int, message: Message) -> None:
        self._heard[node_id] = time.monotonic()
        self._engine.take(node_id, term, message)

    def paused(self) -> None:
        self._engine.act()

    def connected(self, node_id: str) -> None:
        self._engine.handle(partial(self._engine.connected, node_id))

    def disconnected(self, node_id: str, *, refused: bool) -> None:
        self._engine.handle(partial(self._engine.disconnected, node_id, refused=refused))

    def announced(self, member: Member) -> None:
        self._loop.call_soon_threadsafe(self._learn, member)

    # Inside

    def _learn(self, member: Member) -> None:
        """A member says where it is now."""
        self._announced[member.node_id] = member
        self._place()

    def _place(self) -> None:
        """Put what managers announced themselves in place of what the log says."""
        self._members = self._where_they_are(self._members)
        spoken_with = {**self._where_they_are(self._acquaintances), **self._members}
        self._wire.thread.post(partial(self._wire.set_managers, spoken_with))

    def _where_they_are(self, managers: Mapping[str, Member]) -> dict[str, Member]:
        return {node_id: self._announced.get(node_id, each) for node_id, each in managers.items()}

    def _check_leads(self) -> None:
        if self.failed.done():
            raise NoLeader("this manager's Raft has stopped", hint="See its log; ask another manager.")
        if self._leads:
            return
        leader = self.leader
        if leader is None or leader.node_id == self._me.node_id:
            raise NoLeader
        raise NotLeader("this manager does not lead", hint=f"Ask the leader at {leader.address}.")

    def _known(self, member: Member) -> bool:
        """Whether it is a member; it is where it says now."""
        if member.node_id not in self._members:
            return False
        self._learn(member)
        return True

    def _answer(self, answer: Answer, error: SwarmnetError | None) -> None:
        """The command applied last is the one that `answer` is about, unless it failed."""
        settle(answer, self._result if error is None else error)

    def _is_heard(self, leader_id: str | None) -> bool:
        """The library goes on naming a leader that is gone, until another one is there."""
        if leader_id is None or leader_id == self._me.node_id:
            return True
        silent_s = self.heard_ago_s(leader_id)
        return silent_s is not None and silent_s < self._leader_silent_s

    async def _hand_over(self, node_id: str | None, timeout_s: float) -> bool:
        """Whether another manager leads now."""
        self._post(partial(self._engine.transfer, node_id))
        try:
            async with asyncio.timeout(timeout_s):
                await self._succeeded.wait()
        except TimeoutError:
            log.info("leadership not handed over", reason="no manager has all of the log")
            return False
        return True
