"""Raft on its thread: takes what peers and the event loop send, ticks the library, hands back results.

Each step, in this order: what was posted, commands and messages; answers to those messages leave, promises
among them only after the journal is on disk; commands are appended; a tick commits, applies, and sends
followers what is new; then results go to the event loop; then the journal is synced, at the latest. A
follower's reply to new entries is only looked at in a later step, so the leader never counts itself before
its own disk has them. Without other members there is no reply to wait for: sync before each tick.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

import structlog

from swarmnet.api.v1 import raft_pb2 as raft
from swarmnet.core.errors import FailedPrecondition, NotLeader, SwarmnetError
from swarmnet.manager.raft import codec
from swarmnet.manager.raft.acquaintances import Acquaintances
from swarmnet.manager.raft.compaction import LOG_BYTES, Compaction, in_a_thread
from swarmnet.manager.raft.election import Election, LogEnd, Uniform
from swarmnet.manager.raft.entries import CHANGE_BYTES, Change, change_of
from swarmnet.manager.raft.erasure import Erasure
from swarmnet.manager.raft.guard import Guard, Message, acknowledgement
from swarmnet.manager.raft.handover import Handover
from swarmnet.manager.raft.library import Callback, Consensus, Tuning
from swarmnet.manager.raft.measures import Measures
from swarmnet.manager.raft.member import Member
from swarmnet.manager.raft.news import News
from swarmnet.manager.raft.outbox import Outbox
from swarmnet.manager.raft.outlet import Outlet, Results
from swarmnet.manager.raft.reads import Reader, Reads
from swarmnet.manager.raft.report import Report
from swarmnet.manager.raft.room import Room
from swarmnet.manager.raft.standing import Standing, standing_of
from swarmnet.manager.raft.storage import Storage
from swarmnet.manager.raft.thread import Pacer, RaftThread, Unpaced

log = structlog.get_logger()

_TICK_S: Final = 0.05
_PROBE_AGAIN_S: Final = 0.05


class Engine:
    """Made on the event loop. `post` is for any thread, the rest for the engine's."""

    def __init__(
        self,
        me: Member,
        storage: Storage,
        outlet: Outlet,
        tuning: Tuning,
        *,
        clock: Callable[[], float] = time.monotonic,
        uniform: Uniform = random.uniform,
        run_aside: Callable[[Callable[[], None]], None] = in_a_thread,
    ) -> None:
        self._me = me
        self._outlet = outlet
        self._loop = asyncio.get_running_loop()
        self._clock = clock
        self._journal = storage.journal
        self._posted: deque[Callable[[], None]] = deque()
        self._pacer: Pacer | Unpaced = Unpaced()
        self._stopping = False
        self._damage: Exception | None = None
        self._outbox = Outbox(outlet, self._sync)
        self._passed_over = 0
        self._results = Results(self._to_loop, self._not_taken)
        self._result = self._results.add
        self._news = News()
        self._acquaintances = Acquaintances()
        self._election = Election(tuning.election_min_s, tuning.election_max_s, uniform, self._clock())
        self._handed_over = False
        self.measures = Measures()
        self._handover = Handover()
        self._room = Room()
        self._reads = Reads()
        self._probe_again_at = 0.0
        self._snapshots = Compaction(
            storage.snapshots,
            self._journal,
            storage.take_snapshot(),
            freeze=lambda done: self._result(partial(outlet.freeze, done)),
            installed=self._installed,
            applied_index=lambda: self._raft.applied_index,
            is_full=self._room.is_full,
            broken=self.broken,
            wake=lambda: self.post(lambda: None),
            clock=clock,
            run_aside=run_aside,
        )
        self._erasure = Erasure(storage.keys, self._journal, self._snapshots, clock)
        peers = [each for node_id, each in self._journal.members().items() if node_id != me.node_id]
        self._raft = Consensus(
            me.node_id, peers, host=self, journal=self._journal, snapshots=self._snapshots, tuning=tuning
        )
        self._guard = Guard(self._journal, self._raft)
        self._changes = Report(
            me, self._raft, self._journal, self._acquaintances, outlet=outlet, result=self._result
        )

    # Any thread

    def post(self, *acts: Callable[[], None]) -> None:
        """Have `acts` called on the engine's thread, in order."""
        self._posted.extend(acts)
        self._pacer.wake()

    # The engine's thread

    def run_on(self, thread: RaftThread) -> None:
        """Take part from now on."""
        self._pacer = Pacer(thread, self._step_or_fail)
        if not self._raft.peers:
            self._raft.campaign()
        self._pacer.nudge()

    def handle(self, act: Callable[[], None]) -> None:
        """The same as `post`, from the thread itself."""
        self._posted.append(act)
        self._pacer.nudge()

    def take(self, node_id: str, term: int, message: Message) -> None:
        """A message of a peer that was in `term`, for the step that `act` makes."""
        self._posted.append(partial(self.received, node_id, term, message))

    def act(self) -> None:
        """Make a step, on the thread itself, if there is something new."""
        if self._posted:
            self._pacer.run()

    def finish(self) -> None:
        """Take part no more; what was written is on disk, or `failed_with` tells."""
        self._stopping = True
        self._pacer.stop()
        try:
            self._sync()
        except OSError as error:
            self._fail(error)

    # What the event loop posts

    def received(self, node_id: str, term: int, message: Message) -> None:
        """A message of a peer that was in `term`."""
        is_member = node_id in self._raft.peers
        if not is_member and not self._acquaintances.may_say(node_id, message["type"], self._clock()):
            return
        if message["type"] == codec.PRE_VOTE_REQUEST:
            self.send(
                node_id, {"type": codec.INTRODUCTION, "members": list(self._changes.members().values())}
            )
        match message["type"]:
            case codec.PROBE:
                self.send(node_id, {**message, "type": codec.PROBE_REPLY})
            case codec.PROBE_REPLY:
                self._passed_over += not self._reads.replied(node_id, term, message["number"])
            case codec.STALE:
                self._raft.observe(term)
            case codec.INTRODUCTION:
                self._acquaintances.introduced(message["members"], self._clock())
            case "append_entries" | "request_vote" | codec.PRE_VOTE_REQUEST if term < self._raft.term:
                self.send(node_id, {"type": codec.STALE})
            case codec.PRE_VOTE_REQUEST:
                self._consider_candidate(node_id, term, message)
            case codec.PRE_VOTE:
                self._election.granted(node_id, message["asked_in_term"])
            case _:
                self._consider(node_id, term, message)

    def connected(self, node_id: str) -> None:
        self._raft.connected(node_id)
        if node_id == self._raft.leader_id:
            self._election.rest(self._clock())

    def disconnected(self, node_id: str, *, refused: bool) -> None:
        """A leader that refuses this manager is not lost: standing against it would undo our own removal."""
        self._raft.disconnected(node_id)
        self._snapshots.cancel(node_id)
        if node_id == self._raft.leader_id and not refused:
            rivals = self._raft.peers.keys() - {node_id}
            self._election.lost(self._clock(), sum(each < self._me.node_id for each in rivals))

    def propose(self, command: bytes, outcome: Callback) -> None:
        """Append a command. `outcome` is told on the loop, right after the command was applied there."""
        if (refusal := self._refusal() or self._room_refusal(len(command))) is not None:
            self.measures.failed += 1
            self._result(partial(outcome, refusal))
        else:
            self._raft.submit(command, partial(self._decided, outcome, self._clock()))

    def change(self, change: Change, appended: Callback, committed: Callback) -> None:
        """Append a membership change: it counts from then on, and is final when it is committed."""
        refusal = self._refusal() or self._change_refusal() or self._room_refusal(CHANGE_BYTES)
        if refusal is None:
            self._raft.change(change, lambda error: self._result(partial(committed, error)))
            self._raft.take_commands()
            here = change.member.node_id in self._raft.peers
            if here is change.remove:
                refusal = NotLeader("this manager has only just been elected", hint="Try again in a moment.")
        self._result(partial(appended, refusal))

    def read(self, reader: Reader) -> None:
        self._reads.ask(lambda ok: self._result(partial(reader, ok)))

    def transfer(self, node_id: str | None = None) -> None:
        """Hand over leadership, to `node_id` or whoever has most of the log, as soon as it has all of it."""
        if self._raft.leads:
            self._handover.begin(node_id, self._clock())

    def tell_standing(self, told: Callable[[Standing], None]) -> None:
        self._result(partial(told, standing_of(self._raft, self._journal, self._snapshots.newest)))

    def tell_admission(self, node_id: str, told: Callable[[LogEnd], None]) -> None:
        self._result(partial(told, self._journal.admission_of(node_id)))

    def renew_data_key(self) -> None:
        self._erasure.begin(self._raft.applied_index)

    # What the library calls (library.Host)

    def apply(self, index: int, command: bytes) -> None:
        self._result(partial(self._outlet.apply, index, command))

    def send(self, node_id: str, message: Message) -> bool:
        if message["type"] == "apply_command":
            return False  # only leaders are given commands; one that just lost office must not pass them on
        if message["type"] == "request_vote":
            message = {**message, "handed_over": self._handed_over}
        elif message["type"] == "response_vote":
            self._election.rest(self._clock())
        elif message["type"] == "next_node_idx":
            message = {**message, "full": self._journal.full or self._snapshots.lacks_room()}
        self._outbox.add(node_id, self._guard.outgoing(message), self._raft.term)
        return True

    def broken(self, error: Exception) -> None:
        """The library swallows errors while it takes over a snapshot; this step must not promise anything."""
        self._damage = error

    # A step

    def _step_or_fail(self) -> float | None:
        """A step; returns in how many seconds there is something to do again, or None for never."""
        if self._stopping:
            return None
        try:
            self._step()
            return self._pause_s()
        except Exception as error:
            self._fail(error)
            return None

    def _fail(self, error: Exception) -> None:
        log.exception("raft stopped")
        self._stopping = True
        self._to_loop(partial(self._outlet.failed_with, error))

    def _pause_s(self) -> float:
        due_at = self._news.due_at if self._raft.leads else self._election.stand_at
        return min(_TICK_S, max(0.0, due_at - self._clock()))

    def _step(self) -> None:
        if not self._take_posted():
            return
        self._transmit()
        self._stand_for_election()
        self._tick()
        self._handed_over = False
        if self._erasure.step(self._raft.applied_index) or self._journal.size_bytes > LOG_BYTES:
            self._raft.compact()
        self._hand_over()
        self._serve_reads()
        self._transmit()
        self._changes.tell(self._clock(), self.measures)
        self._results.flush()
        self._sync()
        self._journal.release()

    def _take_posted(self) -> bool:
        """Whether the step has to go on: there was something new, or nothing, and it is time."""
        taken, self._passed_over = len(self._posted), 0
        for _ in range(taken):
            self._posted.popleft()()
        return taken == 0 or self._passed_over < taken

    def _tick(self) -> None:
        raft_, journal = self._raft, self._journal
        raft_.take_commands()
        if not raft_.peers:
            self._sync()
        tells = raft_.leads and self._news.is_due(journal, self._clock())
        if tells:
            raft_.append_soon()
        raft_.tick()
        if tells:
            self._news.told(journal, raft_)
        elif raft_.leads:
            self._news.look(raft_, self._clock())

    def _stand_for_election(self) -> None:
        now, term, peers = self._clock(), self._raft.term, self._raft.peers
        if self._raft.leads:
            self._election.rest(now)
        elif self._journal.complete and self._election.is_backed(term, peers):
            self._election.rest(now)
            log.info("standing for election", term=term + 1, last_leader=self._raft.leader_id)
            self.measures.elections += 1
            self._raft.campaign()
        elif self._election.due(now):
            self._election.ask(now, term)
            end = {"last_log_index": self._journal.end.index, "last_log_term": self._journal.end.term}
            for node_id in peers:
                self.send(node_id, {"type": codec.PRE_VOTE_REQUEST, **end})

    def _consider_candidate(self, node_id: str, term: int, message: Message) -> None:
        """Somebody asks whether this manager would vote for it."""
        if self._is_loyal():
            return
        if self._holds_enough(message):
            self.send(node_id, {"type": codec.PRE_VOTE, "asked_in_term": term})
        else:
            self._election.hurry(self._clock())

    def _holds_enough(self, message: Message) -> bool:
        """Whether a candidate has all that this manager may have promised to keep."""
        theirs = LogEnd(message["last_log_term"], message["last_log_index"])
        return theirs.holds_all_of(self._journal.end) and theirs.holds_all_of(self._journal.joined_at)

    def _is_loyal(self) -> bool:
        """Whether nobody gets this manager's vote now: it leads, or hears who does."""
        return self._raft.leads or self._election.has_leader(self._clock())

    def _decided(self, outcome: Callback, proposed_at: float, error: SwarmnetError | None) -> None:
        if error is None:
            self.measures.commits.observe(self._clock() - proposed_at)
        else:
            self.measures.failed += 1
        self._result(partial(outcome, error))

    def _sync(self) -> None:
        began = self._clock() if self._journal.dirty else None
        self._journal.sync()
        if began is not None:
            self.measures.syncs.observe(self._clock() - began)

    def _hand_over(self) -> None:
        now = self._clock()
        if not self._raft.leads:
            self._handover.end()
        elif self._handover.is_due(now) and self._raft.transfer(self._handover.target):
            self._handover.asked(now)

    def _consider(self, node_id: str, term: int, message: Message) -> None:
        counted = False
        match message["type"]:
            case "request_vote" if not message["handed_over"] and self._is_loyal():
                return
            case "request_vote" if not self._holds_enough(message):
                return
            case "append_entries":
                self._election.heard(self._clock())
            case "next_node_idx":
                self._room.heard(node_id, self._clock(), full=message["full"])
                counted = True
            case "timeout_now" if node_id == self._raft.leader_id:
                self._handed_over = True
                self.measures.elections += 1
        verdict = self._guard.incoming(node_id, term, message)
        if verdict.message is not None:
            self._raft.receive(node_id, verdict.message)
        if verdict.acknowledge is not None and self._raft.term == term:
            self.send(node_id, acknowledgement(verdict.acknowledge))
        if counted and not self._is_awaited():
            self._passed_over += 1

    def _is_awaited(self) -> bool:
        """Whether a follower's reply, now counted, lets something happen that cannot wait."""
        return self._raft.can_commit() or self._handover.goes_on(self._clock())

    def _installed(self, snapshot: raft.RaftSnapshot) -> None:
        self._guard.snapshot_installed(snapshot.last.index)
        self._result(partial(self._outlet.restore, snapshot.state))

    def _refusal(self) -> SwarmnetError | None:
        if not self._raft.leads:
            return NotLeader("this manager does not lead", hint="Ask the manager that leads.")
        if self._handover.goes_on(self._clock()):
            return NotLeader("this manager is handing over its lead", hint="Ask again in a moment.")
        return None

    def _room_refusal(self, size_bytes: int) -> SwarmnetError | None:
        """No room to store that many bytes: whoever has some is to lead."""
        refusal = self._room.claim(self._journal, size_bytes)
        if refusal and (successor := self._room.successor(self._raft.peers, self._clock())) is not None:
            self.transfer(successor)
        return refusal

    def _change_refusal(self) -> SwarmnetError | None:
        """Raft allows one change at a time; the library does not look."""
        if any(change_of(entry) for entry in self._journal.after(self._raft.commit_index)):
            return FailedPrecondition("another manager is just joining or leaving", hint="Try again shortly.")
        return None

    def _serve_reads(self) -> None:
        if self._reads.idle:
            return
        raft_ = self._raft
        if raft_.leads and self._journal.term_at(raft_.commit_index) == raft_.term:
            number = self._reads.start(raft_.term, raft_.commit_index)
            self._probe([] if number is None else [number])
        if raft_.leads and self._clock() >= self._probe_again_at:
            self._probe(self._reads.pending())
        for reader in self._reads.refused(raft_.term if raft_.leads else None):
            reader(False)
        for reader in self._reads.answered(raft_.term, raft_.applied_index, raft_.peers.keys()):
            reader(True)

    def _probe(self, rounds: list[int]) -> None:
        for number in rounds:
            for node_id in self._raft.peers:
                self.send(node_id, {"type": codec.PROBE, "number": number})
        if rounds:
            self._probe_again_at = self._clock() + _PROBE_AGAIN_S

    def _transmit(self) -> None:
        """Send what is to be sent, if nothing that happened in this step forbids every promise."""
        if self._damage is not None:
            raise self._damage
        self._outbox.flush()

    def _to_loop(self, act: Callable[[], None]) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(act)

    def _not_taken(self, error: Exception) -> None:
        """On the loop: the state machine failed."""
        self._stopping = True
        self._outlet.failed_with(error)
