"""The journal is after a restart as it was last synced, from where a snapshot ends, under its key only."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.sim.memory_disk import MemoryDisk
from tests.unit.raft_log import (
    KEK,
    KEY,
    ME,
    OTHER,
    SMALL,
    change,
    command,
    filled,
    put,
    segments_in,
    snapshot_at,
    snapshot_of,
)

from swarmnet.core.errors import FailedPrecondition, Internal
from swarmnet.core.secret import SecretBytes
from swarmnet.manager.raft import storage
from swarmnet.manager.raft.disk import REAL_DISK
from swarmnet.manager.raft.entries import FIRST_ENTRY
from swarmnet.manager.raft.journal import Journal
from swarmnet.manager.raft.seal import DataKey, DataKeys, create_data_keys, load_data_keys

FOLDER = Path("/raft/journal")


def test_what_was_synced_is_there_after_a_restart(tmp_path: Path) -> None:
    journal = filled(REAL_DISK, tmp_path / "journal", 3)
    journal.set_vote(7, "other")
    journal.truncate(4)
    journal.sync()
    journal.append(command(4, b"never synced", 7))
    found = Journal.open(REAL_DISK, tmp_path / "journal", KEY, None)
    assert (found.entries, found.term, found.vote) == ([FIRST_ENTRY, command(2), command(3)], 7, "other")
    assert found.members() == {"me": ME}


def test_another_key_opens_nothing(tmp_path: Path) -> None:
    create_data_keys(REAL_DISK, tmp_path / "data.keys", KEK)
    with pytest.raises(FailedPrecondition, match="does not open"):
        load_data_keys(REAL_DISK, tmp_path / "data.keys", SecretBytes(b"w" * 32))
    filled(REAL_DISK, tmp_path / "journal", 1)
    with pytest.raises(Internal, match="sealed with another key"):
        Journal.open(REAL_DISK, tmp_path / "journal", keys_of(b"w" * 32), None)
    with pytest.raises(Internal, match=r"sealed with data key 1, which is not \(or no longer\) there"):
        Journal.open(REAL_DISK, tmp_path / "journal", keys_of(b"d" * 32, number=2), None)
    raw = bytearray((tmp_path / "data.keys").read_bytes())
    raw[40] ^= 1
    (tmp_path / "data.keys").write_bytes(raw)
    with pytest.raises(Internal, match="holds no sealed data keys"):
        load_data_keys(REAL_DISK, tmp_path / "data.keys", KEK)


def keys_of(secret: bytes, number: int = 1) -> DataKeys:
    return DataKeys([DataKey(SecretBytes(secret), number)], keep=lambda _keys: None)


def test_cutting_the_front_off_keeps_the_members_of_then() -> None:
    journal = Journal.create(MemoryDisk(), FOLDER, KEY, [ME])
    for entry in (change(2, OTHER), command(3), change(4, OTHER, remove=True), command(5)):
        journal.append(entry)
    assert set(journal.members()) == {"me"}
    assert set(journal.members(3)) == {"me", "other"}
    journal.trim(3)
    assert [entry.index for entry in journal.entries] == [3, 4, 5]
    assert set(journal.base) == {"me", "other"}
    assert set(journal.members()) == {"me"}


def test_a_snapshot_keeps_the_entries_that_follow_it_only_if_they_fit(tmp_path: Path) -> None:
    journal = filled(REAL_DISK, tmp_path / "journal", 5)
    fits, other = snapshot_of(journal, 4), snapshot_of(journal, 4)
    other.last.term = 2
    journal.install(fits)
    assert [entry.index for entry in journal.entries] == [3, 4, 5, 6]
    journal.install(other)
    assert [entry.index for entry in journal.entries] == [3, 4]


def test_the_start_is_refused_without_the_snapshot_that_the_log_needs(tmp_path: Path) -> None:
    stored = storage.create(tmp_path, KEK, [ME], layout=SMALL)
    put(stored.journal, 40, b"x" * 100)
    stored.snapshots.write(snapshot_of(stored.journal, 36))
    stored.journal.trim(35)
    stored.journal.sync()
    stored.close()
    start = int(segments_in(REAL_DISK, tmp_path / "journal")[0][-16:])
    assert 10 < start <= 37
    shutil.move(tmp_path / "snapshot", tmp_path / "kept")
    with pytest.raises(Internal, match=f"lacks entries 1 to {start - 1}"):
        storage.open_existing(tmp_path, KEK)
    shutil.move(tmp_path / "kept", tmp_path / "snapshot")
    found = storage.open_existing(tmp_path, KEK)
    assert found.journal.entries == stored.journal.entries
    found.close()
    (tmp_path / "snapshot").write_bytes(b"torn")
    with pytest.raises(Internal, match="snapshot is damaged"):
        storage.open_existing(tmp_path, KEK)


def test_a_snapshot_that_the_log_does_not_meet_takes_its_place(tmp_path: Path) -> None:
    stored = storage.create(tmp_path, KEK, [ME])
    put(stored.journal, 3)
    theirs = snapshot_at(command(99, b"p", 5), command(100, b"l", 5))
    stored.snapshots.write(theirs)
    stored.journal.install(theirs)
    stored.journal.append(command(101, b"after", 5))
    stored.journal.sync()
    stored.close()
    found = storage.open_existing(tmp_path, KEK)
    assert found.journal.entries == [command(99, b"p", 5), command(100, b"l", 5), command(101, b"after", 5)]
    assert found.journal.commit_index == 100
    found.close()
    (tmp_path / "snapshot").unlink()
    with pytest.raises(Internal, match="lacks entries 1 to 100: an old or no snapshot"):
        storage.open_existing(tmp_path, KEK)


def test_a_crash_between_snapshot_and_log_is_made_good(tmp_path: Path) -> None:
    stored = storage.create(tmp_path, KEK, [ME])
    for index in range(2, 6):
        stored.journal.append(command(index))
    stored.journal.sync()
    stored.snapshots.write(snapshot_of(stored.journal, 4))
    stored.close()
    found = storage.open_existing(tmp_path, KEK)
    assert [entry.index for entry in found.journal.entries] == [3, 4, 5]
    found.close()


def test_a_directory_is_for_one_process_and_one_swarm(tmp_path: Path) -> None:
    stored = storage.create(tmp_path, KEK, [ME])
    with pytest.raises(FailedPrecondition, match="another process uses"):
        storage.open_existing(tmp_path, KEK)
    stored.close()
    with pytest.raises(FailedPrecondition, match="already holds"):
        storage.create(tmp_path, KEK, [ME])


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 300)),
        st.tuples(st.just("truncate"), st.integers(1, 10)),
        st.tuples(st.just("snapshot"), st.integers(1, 10)),
        st.tuples(st.just("install"), st.integers(1, 10)),
        st.tuples(st.just("sync"), st.just(0)),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(ACTIONS)
def test_whatever_is_done_the_last_sync_is_what_a_restart_finds(actions: list[tuple[str, int]]) -> None:
    disk = MemoryDisk()
    journal = Journal.create(disk, FOLDER, KEY, [ME], SMALL)
    synced, snapshot = list(journal.entries), None
    for verb, value in actions:
        last = journal.last.index
        if verb == "append":
            journal.append(command(last + 1, bytes(value)))
        elif verb == "truncate":
            journal.truncate(max(last - value, snapshot.last.index if snapshot else 1) + 1)
        else:
            journal.sync()
            if verb == "snapshot" and len(journal.entries) > 2:
                snapshot = snapshot_of(journal, min(journal.first.index + value, last))
                journal.trim(snapshot.previous.index)
            elif verb == "install":
                snapshot = snapshot_at(command(last + value, b"p", 2), command(last + value + 1, b"l", 2))
                journal.install(snapshot)
            journal.sync()
            synced = list(journal.entries)
    disk.kill()
    found = Journal.open(disk, FOLDER, KEY, snapshot, SMALL)
    start = found.first.index
    assert found.entries == [each for each in synced if each.index >= start]
    assert found.first.index == (snapshot.previous.index if snapshot else 1)
    assert found.size_bytes == sum(len(entry.command) for entry in found.entries)
