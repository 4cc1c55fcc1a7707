"""A manager's Raft directory: data keys, journal, snapshot, and the lock that keeps a second process out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from swarmnet.api.v1 import raft_pb2 as raft
from swarmnet.core.errors import FailedPrecondition, ResourceExhausted, SwarmnetError
from swarmnet.core.secret import SecretBytes
from swarmnet.manager.raft import member
from swarmnet.manager.raft.disk import REAL_DISK, Disk, Lock, damaged, is_full, remove_unfinished
from swarmnet.manager.raft.election import LogEnd
from swarmnet.manager.raft.entries import NO_OP, Entry, to_proto
from swarmnet.manager.raft.journal import LAYOUT, Journal
from swarmnet.manager.raft.member import Member
from swarmnet.manager.raft.seal import DataKeys, Keep, create_data_keys, keeper, load_data_keys
from swarmnet.manager.raft.segments import Layout, Segments
from swarmnet.manager.raft.snapshot import SnapshotFile

_FIRST_TERM: Final = 1
_KEYS: Final = "data.keys"


@dataclass(slots=True)
class Storage:
    """Opened, and locked until `close`. `snapshot` is the one found at the start, until it is taken."""

    keys: DataKeys
    journal: Journal
    snapshots: SnapshotFile
    snapshot: raft.RaftSnapshot | None
    _lock: Lock
    _keep_under: Callable[[SecretBytes], Keep]

    def take_snapshot(self) -> raft.RaftSnapshot | None:
        """It is kept no longer: what it holds may have to be forgotten."""
        taken, self.snapshot = self.snapshot, None
        return taken

    def seal_under(self, kek: SecretBytes) -> SwarmnetError | None:
        """Keep the data keys under another key-encryption key from now on, or say why not yet.

        OSError when nothing is known of the disk any more.
        """
        try:
            self.keys.keep_by(self._keep_under(kek))
        except OSError as error:
            if not is_full(error):
                raise
            return ResourceExhausted("the disk is full", hint="Free space in the state directory.")
        return None

    def close(self) -> None:
        self.journal.close()
        self._lock.close()


def create(
    directory: Path,
    kek: SecretBytes,
    members: Iterable[Member],
    disk: Disk = REAL_DISK,
    layout: Layout = LAYOUT,
    *,
    joined_at: LogEnd | None = None,
) -> Storage:
    """An empty log among these members, of a founder or a joiner (member.Joined).

    FailedPrecondition when the directory has a log already.
    """
    disk.make_folder(directory)
    lock = _lock(disk, directory)
    try:
        if Segments.exist(disk, directory / "journal") or "snapshot" in disk.names(directory):
            raise FailedPrecondition(
                f"{directory} already holds a manager's state",
                hint="This manager is part of a swarm. Leave it first: `swarmnet swarm leave --force`.",
            )
        keys = create_data_keys(disk, directory / _KEYS, kek)
        journal = Journal.create(disk, directory / "journal", keys, members, layout, joined_at=joined_at)
    except BaseException:
        lock.close()
        raise
    keep_under = partial(keeper, disk, directory / _KEYS)
    return Storage(keys, journal, SnapshotFile(disk, directory / "snapshot", keys), None, lock, keep_under)


def has_log(directory: Path, disk: Disk = REAL_DISK) -> bool:
    """Whether a manager has its part in Raft there already, as a whole."""
    return disk.is_folder(directory) and Segments.exist(disk, directory / "journal")


def fitting(directory: Path, keks: Sequence[SecretBytes], disk: Disk = REAL_DISK) -> SecretBytes:
    """The one of these key-encryption keys that opens the directory; the last, the newest, if none does."""
    for kek in reversed(keks):
        with suppress(FailedPrecondition, FileNotFoundError):
            load_data_keys(disk, directory / _KEYS, kek)
            return kek
    return keks[-1]


def open_existing(
    directory: Path, kek: SecretBytes, disk: Disk = REAL_DISK, layout: Layout = LAYOUT
) -> Storage:
    """What is on disk, checked. Internal for damage: a manager that starts with less than it promised to keep
    could make the whole swarm forget. FailedPrecondition for a wrong key, or a second process."""
    if not disk.is_folder(directory):
        raise damaged(directory, "is missing")
    lock = _lock(disk, directory)
    try:
        keys = load_data_keys(disk, directory / _KEYS, kek)
        snapshots = SnapshotFile(disk, directory / "snapshot", keys)
        snapshot = snapshots.read()
        remove_unfinished(disk, directory)
        disk.sync_folder(directory)  # or a power cut could bring an older one back, after the log is cut
        journal = Journal.open(disk, directory / "journal", keys, snapshot, layout)
    except BaseException:
        lock.close()
        raise
    return Storage(keys, journal, snapshots, snapshot, lock, partial(keeper, disk, directory / _KEYS))


def create_from(directory: Path, kek: SecretBytes, me: Member, state: bytes, index: int) -> None:
    """A log of this one member that starts with a state as of `index` (3 or more). Whoever is stopped in here
    must start again with an empty directory. FailedPrecondition as `create`."""
    stored = create(directory, kek, [me])
    try:
        stored.journal.set_vote(_FIRST_TERM, None)
        restart_from(stored, me, state, index)
    finally:
        stored.close()


def restart_from(stored: Storage, me: Member, state: bytes, index: int) -> None:
    """Put this state, as of `index`, in place of all of the log, with `me` as the only member.

    `index` is 2 or more above the log's end. Durable at one stroke: that of replacing the snapshot.
    """
    term = stored.journal.term
    previous, last = (Entry(bytes([NO_OP]), at, term) for at in (index - 1, index))
    snapshot = raft.RaftSnapshot(
        previous=to_proto(previous), last=to_proto(last), members=member.to_proto([me]), state=state
    )
    stored.snapshots.write(snapshot)
    stored.journal.install(snapshot)
    stored.journal.sync()


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes on disk."""

    journal_bytes: int
    snapshot_bytes: int


def sizes(directory: Path) -> Sizes:
    """Of a directory in use: a file may come or go meanwhile."""
    return Sizes(_bytes_of(directory.glob("journal")), _bytes_of(directory.glob("snapshot")))


def _bytes_of(paths: Iterable[Path]) -> int:
    total = 0
    for path in paths:
        with suppress(FileNotFoundError):
            total += _bytes_of(path.iterdir()) if path.is_dir() else path.stat().st_size
    return total


def _lock(disk: Disk, directory: Path) -> Lock:
    try:
        return disk.lock(directory / "lock")
    except BlockingIOError:
        raise FailedPrecondition(
            f"another process uses {directory}", hint="Is swarmnet-manager running already? Stop it first."
        ) from None
