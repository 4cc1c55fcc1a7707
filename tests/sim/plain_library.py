"""pysyncobj as it comes, stepped by hand over the same wire as our engines (tests/unit/raft_replay.py).

What our library.py replaces in its module is put back for the time of a test. Its files are its own journal,
meta and dump; a kill leaves what the kernel has, as SIGKILL does.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pysyncobj.pickle
import pytest
from pysyncobj import FAIL_REASON, SyncObj, SyncObjConf, journal, replicated, serializer, syncobj
from pysyncobj.config import SERIALIZER_STATE
from pysyncobj.node import Node
from pysyncobj.transport import Transport
from tests.unit.raft_replay import NEVER_S, Played


def as_it_comes(patch: pytest.MonkeyPatch) -> None:
    """Put the library's own parts back, and stop its clock: nothing is sent or given up by itself."""
    patch.setattr(syncobj, "createJournal", journal.createJournal)
    patch.setattr(syncobj, "Serializer", serializer.Serializer)
    patch.setattr(syncobj, "pickle", pysyncobj.pickle)
    patch.setattr(syncobj, "monotonicTime", lambda: 1.0)


class _Wire(Transport):  # type: ignore[misc]  # untyped
    def __init__(self, sent: Callable[[str, bytes], None]) -> None:
        super().__init__(None, None, None)
        self._sent = sent

    def send(self, node: Any, message: dict[str, Any]) -> bool:
        self._sent(node.id, pickle.dumps(message))
        return True


class _Words(SyncObj):  # type: ignore[misc]  # untyped
    """A list of words. `poison` cannot be applied."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.applied: list[bytes] = []
        self.attempts = 0

    @replicated  # type: ignore[untyped-decorator]
    def replicate(self, word: bytes) -> None:
        self.attempts += 1
        if word == b"poison":
            raise ValueError("poison")
        self.applied.append(word)


class PlainReplica:
    """One node of the library, with the settings that our engine gives it wherever it has them."""

    def __init__(self, net: PlainNet, node_id: str, folder: Path) -> None:
        self.acknowledged: list[bytes] = []
        self._wire = _Wire(lambda target, message: net.queues[node_id, target].append(message))
        conf = SyncObjConf(
            autoTick=False,
            journalFile=str(folder / f"{node_id}.journal"),
            fullDumpFile=str(folder / f"{node_id}.dump"),
            commandsWaitLeader=False,
            appendEntriesPeriod=0.1,
            raftMinTimeout=NEVER_S,
            raftMaxTimeout=2 * NEVER_S,
            connectionTimeout=3 * NEVER_S,
            leaderFallbackTimeout=NEVER_S,
        )
        others = [Node(each) for each in net.names if each != node_id]
        self.library = _Words(Node(node_id), others, conf, transport=self._wire)

    @property
    def applied(self) -> list[bytes]:
        return list(self.library.applied)

    @property
    def last(self) -> tuple[bytes, int, int]:
        """The log's last entry: command, index, term."""
        entry: tuple[bytes, int, int] = self.library._SyncObj__raftLog[-1]
        return entry

    def connect(self, other: str) -> None:
        self._wire._onNodeConnected(Node(other))

    def step(self) -> None:
        """Two ticks, as an engine's step: one takes in what came, one sends at once."""
        self.library.doTick(0.0)
        self.library._SyncObj__newAppendEntriesTime = 0
        self.library.doTick(0.0)

    def campaign(self) -> None:
        self.library._SyncObj__raftElectionDeadline = 0
        self.library.doTick(0.0)

    def put(self, command: bytes) -> None:
        def told(_result: object, reason: int) -> None:
            if reason == FAIL_REASON.SUCCESS:
                self.acknowledged.append(command)

        self.library.replicate(command, callback=told)
        self.step()

    def receive(self, source: str, messages: list[bytes]) -> None:
        for each in messages:
            self._wire._onMessageReceived(Node(source), pickle.loads(each))
        self.library.doTick(0.0)

    def compact(self) -> None:
        """Start taking a snapshot: the library forks."""
        self.library.forceLogCompaction()
        self.library.doTick(0.0)

    def hold_dump(self) -> int:
        """Leave the fork that writes the dump unheard until `take_dump`; its process id."""
        held = self.library._SyncObj__serializer
        held.checkSerializing = lambda: (SERIALIZER_STATE.SERIALIZING, None)
        pid: int = held._Serializer__pid
        assert pid > 0
        return pid

    def take_dump(self) -> None:
        del self.library._SyncObj__serializer.checkSerializing

    def kill(self) -> None:
        """Forget the process, not its files: the kernel has what was written to the mapped journal."""
        self.library._SyncObj__raftLog._destroy()

    def limit_batches(self, size: int) -> None:
        self.library.conf.appendEntriesBatchSizeBytes = size


class PlainNet(Played[PlainReplica]):
    def __init__(self, names: str, folder: Path) -> None:
        self._folder = folder
        super().__init__(names)

    def make(self, name: str) -> PlainReplica:
        return PlainReplica(self, name, self._folder)
