"""pysyncobj 0.3.17, held by its hooks: the only module that knows the library's names.

Three of its module globals are replaced (there is no setting for them): what makes the journal, what makes
the serializer, and `pickle`. Two private attributes are written: the poller, for it has no sockets, and the
time of the next append, to send new entries at once instead of at the next period; two are read: how far each
follower has the log, and who the others are. Commands go into its queue, out of it before a tick, and to the
state machine without its layer of replicated methods. A test compares the library's source with the one that
this was written for.
"""
# ruff: noqa: SLF001  the library's hooks for its owner have leading underscores

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, Protocol, cast

from pysyncobj import SyncObj, SyncObjConf, syncobj
from pysyncobj.config import FAIL_REASON, SERIALIZER_STATE
from pysyncobj.journal import Journal as LibraryJournal
from pysyncobj.node import Node
from pysyncobj.transport import Transport
from pysyncobj.version import VERSION

from swarmnet.core.errors import Internal, NotLeader, OutcomeUnknown, ResourceExhausted, SwarmnetError
from swarmnet.core.limits import MAX_COMMAND_BYTES
from swarmnet.manager.raft import entries
from swarmnet.manager.raft.entries import Change, Entry
from swarmnet.manager.raft.guard import Message
from swarmnet.manager.raft.journal import Journal
from swarmnet.manager.raft.member import Member
from swarmnet.manager.raft.snapshot import Chunk

SUPPORTED_VERSION: Final = "0.3.17"
_NEVER_S: Final = 1e9
"""When the library stands for election by itself: engine.py says when."""
_APPEND_BYTES: Final = 1024 * 1024
assert _APPEND_BYTES > MAX_COMMAND_BYTES + 2, "the library would cut such an entry into pickled pieces"

Callback = Callable[[SwarmnetError | None], None]
"""Told once, on the engine's thread, what became of a request: None when it was applied."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """A leader is missed after `election_min_s` to `election_max_s` without a heartbeat.

    A leader whose connection broke is missed much sooner (election.py), so these need not be short: they have
    to outlast a busy machine. A leader without a majority steps down after `fallback_s`. After `log_entries`,
    or `log_age_s` if there are any, a snapshot is taken and the log cut.
    """

    heartbeat_s: float = 0.15
    election_min_s: float = 0.6
    election_max_s: float = 1.2
    fallback_s: float = 1.0
    log_entries: int = 4096
    log_age_s: float = 600.0


class SnapshotStatus(IntEnum):
    """Where the snapshot being taken stands; DONE and FAILED are told once."""

    IDLE = SERIALIZER_STATE.NOT_SERIALIZING
    WRITING = SERIALIZER_STATE.SERIALIZING
    DONE = SERIALIZER_STATE.SUCCESS
    FAILED = SERIALIZER_STATE.FAILED


class Snapshots(Protocol):
    """What the library asks of whoever keeps the snapshots."""

    def status(self) -> tuple[SnapshotStatus, int | None]: ...
    def take(self, previous: Entry, last: Entry) -> None: ...
    def install(self) -> tuple[Entry, Entry, Iterable[Member]]: ...
    def next_chunk(self, node_id: str) -> Chunk | None: ...
    def receive(self, chunk: Chunk) -> bool: ...
    def cancel(self, node_id: str) -> None: ...
    def __fspath__(self) -> str: ...


class Host(Protocol):
    """What the library calls, on the thread that ticks it."""

    def apply(self, index: int, command: bytes) -> None: ...
    def send(self, node_id: str, message: Message) -> bool: ...
    def broken(self, error: Exception) -> None: ...


class Consensus:
    """One pysyncobj node. Everything here is called on one thread, and calls back on it."""

    def __init__(
        self,
        node_id: str,
        peers: Iterable[Member],
        *,
        host: Host,
        journal: Journal,
        snapshots: Snapshots,
        tuning: Tuning,
    ) -> None:
        if VERSION != SUPPORTED_VERSION:
            raise ImportError(f"pysyncobj {VERSION} is installed; swarmnet is made for {SUPPORTED_VERSION}")
        self._transport = _HostTransport(host)
        self._counted: object = None
        self._peers: Mapping[str, Member] = {}
        conf = _configuration(_HostJournal(journal, host), _HostSnapshots(snapshots, host), tuning)
        self._library = _Library(host, Node(node_id), [_node(each) for each in peers], conf, self._transport)

    @property
    def term(self) -> int:
        return cast("int", self._library.raftCurrentTerm)

    @property
    def commit_index(self) -> int:
        return cast("int", self._library.raftCommitIndex)

    @property
    def applied_index(self) -> int:
        return cast("int", self._library.raftLastApplied)

    @property
    def leads(self) -> bool:
        return bool(self._library._isLeader())

    @property
    def leader_id(self) -> str | None:
        leader = self._library._getLeader()
        return None if leader is None else cast("str", leader.id)

    @property
    def peers(self) -> Mapping[str, Member]:
        """The other members: the same object until they change."""
        others = self._library._SyncObj__otherNodes
        if self._transport.changed or self._counted is not others:
            self._transport.changed = False
            self._counted, self._peers = others, {node.id: _member(node) for node in others}
        return self._peers

    def matched(self) -> dict[str, int]:
        """Up to which entry each other member has the log, as far as this leader knows."""
        known = self._library._SyncObj__raftMatchIndex
        return {node.id: known.get(node, 0) for node in self._library._SyncObj__otherNodes}

    def can_commit(self) -> bool:
        """Whether a leader's next tick may find more to be committed than the last one did."""
        matched = sorted(self.matched().values(), reverse=True)
        beside_me = (len(matched) + 1) // 2
        return not matched or matched[beside_me - 1] > self.commit_index

    def take_commands(self) -> None:
        """Append what was submitted."""
        self._library._checkCommandsToApply()

    def tick(self) -> None:
        """Commit, apply, and send what is due."""
        self._library.doTick(0.0)

    def append_soon(self) -> None:
        """Send what followers lack at the next tick, not at the next period."""
        self._library._SyncObj__newAppendEntriesTime = 0

    def submit(self, command: bytes, callback: Callback) -> None:
        """Have a command appended by `take_commands`; on the leader only."""
        payload = entries.encode_payload(command)
        self._library._applyCommand(payload, _reasoned(callback), entries.COMMAND)

    def change(self, change: Change, callback: Callback) -> None:
        """Have a membership change appended by `take_commands`; on the leader only, one at a time."""
        act = self._library.removeNodeFromCluster if change.remove else self._library.addNodeToCluster
        act(_node(change.member), callback=_reasoned(callback))

    def receive(self, node_id: str, message: Message) -> None:
        self._transport._onMessageReceived(Node(node_id), message)

    def connected(self, node_id: str) -> None:
        self._transport._onNodeConnected(Node(node_id))

    def disconnected(self, node_id: str) -> None:
        self._transport._onNodeDisconnected(Node(node_id))

    def campaign(self) -> None:
        """Stand for election at the next tick: what a leader's TimeoutNow does, without the leader."""
        message = {"type": "timeout_now", "term": self.term}
        self._transport._onMessageReceived(self._library._getLeader(), message)

    def observe(self, term: int) -> None:
        """Others are in a later term: enter it, as a follower. A vote request nobody can grant does that."""
        impossible = {"type": "request_vote", "term": term, "last_log_index": 0, "last_log_term": -1}
        if term > self.term:
            self._transport._onMessageReceived(Node(""), impossible)

    def transfer(self, node_id: str | None = None) -> bool:
        """Ask a follower to take over: that one, or the one with most of the log.

        False when it was not asked: it does not have all of the log (yet).
        """
        reasons: list[int] = []
        node = None if node_id is None else Node(node_id)
        self._library.transferLeadership(node, lambda _result, reason: reasons.append(reason))
        return reasons == [FAIL_REASON.SUCCESS]

    def compact(self) -> None:
        """Take a snapshot and cut the log, soon."""
        self._library.forceLogCompaction()


def _configuration(journal: _HostJournal, snapshots: _HostSnapshots, tuning: Tuning) -> SyncObjConf:
    return SyncObjConf(
        autoTick=False,
        journalFile=journal,
        fullDumpFile=snapshots,
        dynamicMembershipChange=True,
        commandsWaitLeader=False,
        appendEntriesUseBatch=True,
        appendEntriesBatchSizeBytes=_APPEND_BYTES,
        appendEntriesPeriod=tuning.heartbeat_s,
        raftMinTimeout=_NEVER_S,
        raftMaxTimeout=2 * _NEVER_S,
        connectionTimeout=2 * _NEVER_S,  # of its own wire, but checked
        leaderFallbackTimeout=tuning.fallback_s,
        logCompactionMinEntries=tuning.log_entries,
        logCompactionMinTime=tuning.log_age_s,
    )


class _Library(SyncObj):  # type: ignore[misc]  # untyped
    def __init__(
        self, host: Host, me: Node, others: list[Node], conf: SyncObjConf, transport: Transport
    ) -> None:
        self._host = host
        super().__init__(me, others, conf, transport=transport)
        self._poller = _NoPoller()

    def _SyncObj__doApplyCommand(self, command: bytes) -> None:
        """Not for changes of members: they count since they were appended, or since the start. To apply one
        again would undo later ones that are in the log already."""
        if command[0] == entries.COMMAND:
            self._host.apply(self.raftLastApplied + 1, entries.command_of(command))


class _HostTransport(Transport):  # type: ignore[misc]  # untyped
    def __init__(self, host: Host) -> None:
        super().__init__(None, None, None)
        self._host = host
        self.changed = True

    def addNode(self, _node: Node) -> None:
        self.changed = True

    def dropNode(self, _node: Node) -> None:
        self.changed = True

    def send(self, node: Node, message: Message) -> bool:
        return self._host.send(node.id, message)


class _HostJournal(LibraryJournal):  # type: ignore[misc]  # untyped
    """Our journal under the library's names. Taking over a snapshot is done before the library hears of it:
    its clear-and-add-two is only checked."""

    def __init__(self, journal: Journal, host: Host) -> None:
        self._journal = journal
        self._host = host
        self._expected: list[Entry] = []

    def add(self, command: bytes, idx: int, term: int) -> None:
        entry = Entry(command, idx, term)
        if self._expected:
            if entry != self._expected.pop(0):
                self._host.broken(Internal("pysyncobj installed another snapshot than it was given"))
        else:
            self._journal.append(entry)

    def clear(self) -> None:
        self._expected = self._journal.entries[:2]

    def deleteEntriesFrom(self, entry_from: int) -> None:
        self._journal.truncate(self._journal.first.index + entry_from)

    def deleteEntriesTo(self, entry_to: int) -> None:
        self._journal.trim(self._journal.first.index + entry_to)

    def __getitem__(self, item: int | slice) -> Entry | list[Entry]:
        return self._journal.entries[item]

    def __len__(self) -> int:
        return len(self._journal.entries)

    def _destroy(self) -> None:
        pass

    def setRaftCommitIndex(self, index: int) -> None:
        self._journal.commit_index = index

    def getRaftCommitIndex(self) -> int:
        return self._journal.commit_index

    def setCurrentTerm(self, term: int, vote: str | None) -> None:
        self._journal.set_vote(term, vote)

    def getCurrentTerm(self) -> int:
        return self._journal.term

    def getVotedForNodeId(self) -> str | None:
        return self._journal.vote


@dataclass(frozen=True, slots=True)
class _HostSnapshots(os.PathLike[str]):
    """What the library takes for the name of its dump file."""

    snapshots: Snapshots
    host: Host

    def __fspath__(self) -> str:
        return self.snapshots.__fspath__()


class _HostSerializer:
    """Snapshots under the library's names, in place of its own serializer."""

    def __init__(self, snapshots: _HostSnapshots, *_settings: object) -> None:
        self._snapshots = snapshots.snapshots
        self._host = snapshots.host

    def checkSerializing(self) -> tuple[int, int | None]:
        return self._snapshots.status()

    def serialize(self, data: tuple[Any, ...], _index: int) -> None:
        _, last, previous, _ = data
        self._snapshots.take(previous, last)

    def deserialize(self) -> tuple[None, Entry, Entry, list[Node]]:
        try:
            previous, last, members = self._snapshots.install()
        except Exception as error:
            self._host.broken(error)
            raise
        return None, last, previous, [_node(each) for each in members]

    def getTransmissionData(self, node: Node) -> Chunk | None:
        return self._snapshots.next_chunk(node.id)

    def setTransmissionData(self, chunk: Chunk | None) -> bool:
        return chunk is not None and self._snapshots.receive(chunk)

    def cancelTransmisstion(self, node: Node) -> None:
        self._snapshots.cancel(node.id)


class _NoPoller:
    """The library has no sockets of its own."""

    def poll(self, _timeout_s: float) -> None:
        pass


class _EntryCodec:
    """In place of pickle: membership changes, and nothing else."""

    @staticmethod
    def dumps(value: object) -> bytes:
        match value:
            case ["add" | "rem" as verb, str(), Node() as node]:
                return entries.encode_payload(Change(verb == "rem", _member(node)))
        raise TypeError("only membership changes go into the log by this way")

    @staticmethod
    def loads(payload: bytes) -> object:
        content = entries.decode_payload(payload)
        if isinstance(content, bytes):
            raise ValueError("not a membership change")  # noqa: TRY004  as all that cannot be decoded
        return ["rem" if content.remove else "add", content.member.node_id, _node(content.member)]


def _node(member: Member) -> Node:
    return Node(member.node_id, address=member.address, raft_address=member.raft_address)


def _member(node: Node) -> Member:
    return Member(node.id, node.address, node.raft_address)


def _reasoned(callback: Callback) -> Callable[[object, int], None]:
    return lambda _result, reason: callback(_failure(reason))


def _failure(reason: int) -> SwarmnetError | None:
    """What a reason of the library means. It never forwards, so a change of leaders is a definite no."""
    if reason == FAIL_REASON.SUCCESS:
        return None
    if reason == FAIL_REASON.QUEUE_FULL:
        return ResourceExhausted(
            "too many changes are waiting to be agreed on", hint="Try again in a moment."
        )
    if reason == FAIL_REASON.UNKNOWN_OUTCOME:
        return OutcomeUnknown(
            "the change may or may not have been made", hint="Look first, or repeat it with its request id."
        )
    return NotLeader("this manager no longer leads; the change was not made", hint="Ask the new leader.")


syncobj.createJournal = lambda journal: journal
syncobj.Serializer = _HostSerializer
syncobj.pickle = _EntryCodec
