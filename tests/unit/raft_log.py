"""Entries, small journals and snapshots for the tests of what Raft keeps on disk."""

from __future__ import annotations

from pathlib import Path

from swarmnet.api.v1 import raft_pb2 as raft
from swarmnet.core.secret import SecretBytes
from swarmnet.manager.raft.disk import Disk
from swarmnet.manager.raft.entries import COMMAND, MEMBERSHIP, Change, Entry, encode_payload, to_proto
from swarmnet.manager.raft.journal import LAYOUT, Journal
from swarmnet.manager.raft.member import Member, message_of
from swarmnet.manager.raft.seal import DataKey, DataKeys
from swarmnet.manager.raft.segments import Layout

KEY = DataKeys([DataKey(SecretBytes(b"d" * 32))], keep=lambda _keys: None)
KEK = SecretBytes(b"k" * 32)
ME = Member("me", "192.0.2.1:2377", "192.0.2.1:2374")
OTHER = Member("other", "192.0.2.2:2377", "192.0.2.2:2374")
SMALL = Layout(segment_bytes=4096, reserve_bytes=1024, frame_bytes=1024)
"""About sixteen entries of 100 bytes, each synced by itself, fill a segment."""


def command(index: int, text: bytes = b"", term: int = 1) -> Entry:
    return Entry(bytes([COMMAND]) + encode_payload(text), index, term)


def change(index: int, member: Member, *, remove: bool = False, term: int = 1) -> Entry:
    return Entry(bytes([MEMBERSHIP]) + encode_payload(Change(remove, member)), index, term)


def put(journal: Journal, count: int, text: bytes = b"", term: int = 1) -> None:
    """Add that many entries, each synced by itself."""
    for _ in range(count):
        journal.append(command(journal.last.index + 1, text, term))
        journal.sync()


def filled(disk: Disk, folder: Path, count: int, text: bytes = b"", layout: Layout = LAYOUT) -> Journal:
    """Entries 1 to count + 1."""
    journal = Journal.create(disk, folder, KEY, [ME], layout)
    put(journal, count, text)
    return journal


def snapshot_of(journal: Journal, index: int) -> raft.RaftSnapshot:
    previous, last = (journal.entries[at - journal.first.index] for at in (index - 1, index))
    return snapshot_at(previous, last)


def snapshot_at(previous: Entry, last: Entry) -> raft.RaftSnapshot:
    members = [message_of(ME)]
    return raft.RaftSnapshot(previous=to_proto(previous), last=to_proto(last), members=members)


def segments_in(disk: Disk, folder: Path) -> list[str]:
    return sorted(name for name in disk.names(folder) if not name.startswith("spare"))
