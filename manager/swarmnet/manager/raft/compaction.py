"""Taking, sending and taking over snapshots, so that the log stays short.

A snapshot is taken in three steps on three threads: the engine says up to which entry, the event loop freezes
the state machine once it has applied just that much, and a thread of its own encodes, seals and writes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Final

import structlog

from swarmnet.api.v1 import raft_pb2 as raft
from swarmnet.manager.raft import entries, member
from swarmnet.manager.raft.disk import is_full
from swarmnet.manager.raft.entries import Entry
from swarmnet.manager.raft.journal import Journal
from swarmnet.manager.raft.library import SnapshotStatus
from swarmnet.manager.raft.member import Member
from swarmnet.manager.raft.snapshot import Chunk, Incoming, Outgoing, SnapshotFile

log = structlog.get_logger()

Encode = Callable[[], bytes]
Freeze = Callable[[Callable[[Encode], None]], None]
"""Has the machine frozen when it has applied all that it was given so far, and passes the result on."""

LOG_BYTES: Final = 32 * 1024 * 1024
"""The log is cut at this size, whatever the number of its entries."""
_RETRY_S: Final = 10.0
_NOT_NOW: Final = Chunk(b"", first=True, last=True)


def in_a_thread(work: Callable[[], None]) -> None:
    """Have it done beside everything else."""
    threading.Thread(target=work, name="raft-snapshot", daemon=True).start()


class Compaction:
    """The engine's snapshots. Called on its thread, but for what `take` starts.

    `newest` is the last entry in the snapshot on disk; 0 = there is none.
    """

    def __init__(
        self,
        file: SnapshotFile,
        journal: Journal,
        current: raft.RaftSnapshot | None,
        *,
        freeze: Freeze,
        installed: Callable[[raft.RaftSnapshot], None],
        applied_index: Callable[[], int],
        is_full: Callable[[str], bool],
        broken: Callable[[Exception], None],
        wake: Callable[[], None],
        clock: Callable[[], float],
        run_aside: Callable[[Callable[[], None]], None],
    ) -> None:
        self._file = file
        self._journal = journal
        self._to_install = current
        self._freeze = freeze
        self._installed = installed
        self._applied_index = applied_index
        self._is_full = is_full
        self._broken = broken
        self._wake = wake
        self._clock = clock
        self._run_aside = run_aside
        self._outgoing: dict[str, Outgoing] = {}
        self._incoming = Incoming()
        self._writing = threading.Lock()
        self.newest = current.last.index if current is not None else 0
        self._taking: int | None = None
        self._result: SnapshotStatus | None = None
        self._retry_at = 0.0
        self._lacks_bytes = 0
        self._resealing = False

    @property
    def sealed_under(self) -> int:
        """The number of the data key of the snapshot on disk."""
        return self._file.sealed_under

    def __fspath__(self) -> str:
        return self._file.__fspath__()

    def status(self) -> tuple[SnapshotStatus, int | None]:
        if self._taking is None:
            waiting = self._clock() < self._retry_at
            return (SnapshotStatus.WRITING if waiting else SnapshotStatus.IDLE), None
        if self._result is None:
            return SnapshotStatus.WRITING, None
        taken, self._taking = self._taking, None
        result, self._result = self._result, None
        if result is SnapshotStatus.FAILED:
            self._retry_at = self._clock() + _RETRY_S
        return result, taken

    def take(self, previous: Entry, last: Entry) -> None:
        """Start taking a snapshot as of `last`."""
        self._taking, self._result = previous[1], None
        snapshot = raft.RaftSnapshot(
            previous=entries.to_proto(entries.without_command(previous)),
            last=entries.to_proto(last),
            members=member.to_proto(self._journal.members(last[1]).values()),
        )
        self._freeze(partial(self._write_aside, snapshot))

    def install(self) -> tuple[Entry, Entry, list[Member]]:
        """Hand the snapshot just received, or found at the start, to the library and the state machine."""
        snapshot, self._to_install = self._to_install, None
        assert snapshot is not None, "no snapshot was given"
        self._installed(snapshot)
        found = self._journal.members()
        return entries.from_proto(snapshot.previous), entries.from_proto(snapshot.last), list(found.values())

    def next_chunk(self, node_id: str) -> Chunk | None:
        """The next piece for a manager that lags, empty while it has no room; None without a snapshot."""
        if self._is_full(node_id):
            self.cancel(node_id)
            return _NOT_NOW
        if node_id not in self._outgoing:
            if (snapshot := self._file.read()) is None:
                return None
            self._outgoing[node_id] = Outgoing(snapshot)
        chunk = self._outgoing[node_id].next_chunk()
        if chunk.last:
            del self._outgoing[node_id]
        return chunk

    def receive(self, chunk: Chunk) -> bool:
        """Take in a piece; True when a snapshot is whole, newer than what is here, and on disk.

        A full disk is no error: the leader is told so (`lacks_room`), and sends it again when there is room.
        """
        snapshot = self._incoming.add(chunk)
        if snapshot is None or snapshot.last.index <= self._applied_index() or not self._store(snapshot):
            return False
        self._journal.install(snapshot)
        self._to_install = snapshot
        log.info("snapshot received", index=snapshot.last.index, bytes=len(snapshot.state))
        return True

    def reseal(self) -> None:
        """Have the snapshot on disk sealed under the newest data key that may see it, soon."""
        if not self._resealing and self._clock() >= self._retry_at:
            self._resealing = True
            self._run_aside(self._reseal)

    def lacks_room(self) -> bool:
        """Whether a snapshot that was sent here could still not be stored."""
        if self._lacks_bytes and self._file.free_bytes() > self._lacks_bytes:
            self._lacks_bytes = 0
        return self._lacks_bytes > 0

    def cancel(self, node_id: str) -> None:
        self._outgoing.pop(node_id, None)

    def _write_aside(self, snapshot: raft.RaftSnapshot, encode: Encode) -> None:
        self._run_aside(partial(self._write, snapshot, encode))

    def _write(self, snapshot: raft.RaftSnapshot, encode: Encode) -> None:
        """Whatever goes wrong, it ends with a result: the log stays as long as it is, which is safe."""
        self._result = SnapshotStatus.FAILED if not self._written(snapshot, encode) else SnapshotStatus.DONE
        self._wake()

    def _written(self, snapshot: raft.RaftSnapshot, encode: Encode) -> bool:
        try:
            snapshot.state = encode()
        except Exception:
            log.exception("the state could not be encoded for a snapshot", index=snapshot.last.index)
            return False
        try:
            return self._store(snapshot)
        except Exception as error:
            self._broken(error)
            return False

    def _reseal(self) -> None:
        """A full disk leaves the old one; it is tried again."""
        try:
            with self._writing:
                if (snapshot := self._file.read()) is not None:
                    self._file.write(snapshot)
        except Exception as error:
            if not isinstance(error, OSError) or not is_full(error):
                self._broken(error)
            self._retry_at = self._clock() + _RETRY_S
        self._resealing = False
        self._wake()

    def _store(self, snapshot: raft.RaftSnapshot) -> bool:
        """Make it the one on disk, unless a newer one is. False on a full disk; any other OSError is one."""
        try:
            with self._writing:
                if snapshot.last.index > self.newest:
                    self._file.write(snapshot)
                    self.newest = snapshot.last.index
        except OSError as error:
            if not is_full(error):
                raise
            self._lacks_bytes = snapshot.ByteSize()
            path, free = self._file.__fspath__(), self._file.free_bytes()
            log.error("no room for a snapshot", path=path, bytes=self._lacks_bytes, free=free)  # noqa: TRY400
            return False
        log.debug("snapshot stored", index=snapshot.last.index, bytes=len(snapshot.state))
        return True
