"""A manager's Raft directory: data key, journal, snapshot, and the lock that keeps a second process out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from swarmnet.api.v1 import raft_pb2 as raft
from swarmnet.core.errors import FailedPrecondition
from swarmnet.core.secret import SecretBytes
from swarmnet.manager.raft.disk import REAL_DISK, Disk, Lock, damaged
from swarmnet.manager.raft.entries import FIRST_INDEX
from swarmnet.manager.raft.journal import Journal
from swarmnet.manager.raft.member import Member
from swarmnet.manager.raft.seal import create_data_key, load_data_key
from swarmnet.manager.raft.snapshot import SnapshotFile


@dataclass(slots=True)
class Storage:
    """Opened, and locked until `close`. `snapshot` is the one found at the start."""

    journal: Journal
    snapshots: SnapshotFile
    snapshot: raft.RaftSnapshot | None
    _lock: Lock

    def close(self) -> None:
        self.journal.close()
        self._lock.close()


def create(directory: Path, kek: SecretBytes, members: Iterable[Member], disk: Disk = REAL_DISK) -> Storage:
    """An empty log among these members. FailedPrecondition when the directory has a log already."""
    disk.make_folder(directory)
    lock = _lock(disk, directory)
    try:
        if not {"journal", "snapshot"}.isdisjoint(disk.names(directory)):
            raise FailedPrecondition(
                f"{directory} already holds a manager's state",
                hint="This manager is part of a swarm. Leave it first: `swarmnet swarm leave --force`.",
            )
        key = create_data_key(disk, directory / "data.key", kek)
        journal = Journal.create(disk, _journal(directory), key, members)
    except BaseException:
        lock.close()
        raise
    return Storage(journal, SnapshotFile(disk, directory / "snapshot", key), None, lock)


def open_existing(directory: Path, kek: SecretBytes, disk: Disk = REAL_DISK) -> Storage:
    """What is on disk, checked. Internal for damage: a manager that starts with less than it promised to keep
    could make the whole swarm forget. FailedPrecondition for a wrong key, or a second process."""
    if not disk.is_folder(directory):
        raise damaged(directory, "is missing")
    lock = _lock(disk, directory)
    try:
        key = load_data_key(disk, directory / "data.key", kek)
        snapshots = SnapshotFile(disk, directory / "snapshot", key)
        snapshot = snapshots.read()
        journal = Journal.open(disk, _journal(directory), key)
        _bring_together(directory, journal, snapshot)
    except BaseException:
        lock.close()
        raise
    return Storage(journal, snapshots, snapshot, lock)


def _journal(directory: Path) -> Path:
    return directory / "journal"


def _bring_together(directory: Path, journal: Journal, snapshot: raft.RaftSnapshot | None) -> None:
    """Start the journal where the snapshot ends: the process may have died between writing the two."""
    covered = snapshot.previous.index if snapshot is not None else FIRST_INDEX
    if journal.first.index > covered:
        raise damaged(
            directory, f"lacks entries {covered + 1} to {journal.first.index}: an old or no snapshot"
        )
    if snapshot is not None:
        journal.install(snapshot)
        journal.sync()


def _lock(disk: Disk, directory: Path) -> Lock:
    try:
        return disk.lock(directory / "lock")
    except BlockingIOError:
        raise FailedPrecondition(
            f"another process uses {directory}", hint="Is swarmnet-manager running already? Stop it first."
        ) from None
