"""The journal keeps what was synced, through crashes at any byte, and refuses what is damaged."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmnet.api.v1 import raft_pb2 as raft
from swarmnet.core.errors import FailedPrecondition, Internal
from swarmnet.core.secret import SecretBytes
from swarmnet.manager.raft import storage
from swarmnet.manager.raft.disk import REAL_DISK
from swarmnet.manager.raft.entries import (
    COMMAND,
    FIRST_ENTRY,
    MEMBERSHIP,
    Change,
    Entry,
    encode_payload,
    to_proto,
)
from swarmnet.manager.raft.journal import Journal
from swarmnet.manager.raft.member import Member, message_of
from swarmnet.manager.raft.seal import DataKey, create_data_key, load_data_key

KEY = DataKey(SecretBytes(b"d" * 32))
KEK = SecretBytes(b"k" * 32)
ME = Member("me", "192.0.2.1:2377", "192.0.2.1:2374")
OTHER = Member("other", "192.0.2.2:2377", "192.0.2.2:2374")


def command(index: int, text: bytes = b"", term: int = 1) -> Entry:
    return Entry(bytes([COMMAND]) + encode_payload(text), index, term)


def change(index: int, member: Member, *, remove: bool = False, term: int = 1) -> Entry:
    return Entry(bytes([MEMBERSHIP]) + encode_payload(Change(remove, member)), index, term)


def filled(path: Path, count: int, text: bytes = b"") -> Journal:
    """Entries 2 to count + 1, each synced by itself."""
    journal = Journal.create(REAL_DISK, path, KEY, [ME])
    for index in range(2, count + 2):
        journal.append(command(index, text))
        journal.sync()
    return journal


def snapshot_of(journal: Journal, index: int) -> raft.RaftSnapshot:
    previous, last = (journal.entries[at - journal.first.index] for at in (index - 1, index))
    members = [message_of(ME)]
    return raft.RaftSnapshot(previous=to_proto(previous), last=to_proto(last), members=members)


def test_what_was_synced_is_there_after_a_restart(tmp_path: Path) -> None:
    journal = filled(tmp_path / "journal", 3)
    journal.set_vote(7, "other")
    journal.truncate(4)
    journal.sync()
    journal.append(command(4, b"never synced", 7))
    found = Journal.open(REAL_DISK, tmp_path / "journal", KEY)
    assert (found.entries, found.term, found.vote) == ([FIRST_ENTRY, command(2), command(3)], 7, "other")
    assert found.members() == {"me": ME}


def test_a_crash_at_any_byte_loses_only_what_was_not_synced(tmp_path: Path) -> None:
    path, torn = tmp_path / "journal", tmp_path / "torn"
    journal = Journal.create(REAL_DISK, path, KEY, [ME])
    ends = [path.stat().st_size]
    for index in range(2, 6):
        journal.append(command(index, os.urandom(20)))
        journal.sync()
        ends.append(path.stat().st_size)
    whole = path.read_bytes()
    for size in range(ends[0], len(whole) + 1):
        torn.write_bytes(whole[:size])
        synced = sum(size >= end for end in ends)
        found = Journal.open(REAL_DISK, torn, KEY)
        assert found.entries == journal.entries[:synced]
        found.append(command(synced + 1, b"after"))
        found.sync()
        assert Journal.open(REAL_DISK, torn, KEY).entries == found.entries


def test_damage_before_the_end_is_refused_with_the_place(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    filled(path, 5, b"x" * 50)
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    with pytest.raises(
        Internal, match=r"journal is damaged at byte \d+: good data follows at byte \d+"
    ) as refused:
        Journal.open(REAL_DISK, path, KEY)
    assert "join again" in refused.value.hint


def test_frames_cannot_be_swapped_or_taken_from_another_journal(tmp_path: Path) -> None:
    for name in ("mine", "foreign"):
        filled(tmp_path / name, 1)
    mine, foreign = ((tmp_path / name).read_bytes() for name in ("mine", "foreign"))
    (tmp_path / "mine").write_bytes(mine[:32] + foreign[32:])
    with pytest.raises(Internal, match="sealed with another key, or changed"):
        Journal.open(REAL_DISK, tmp_path / "mine", KEY)


def test_nothing_is_in_clear_on_disk(tmp_path: Path) -> None:
    secret = b"a secret that must not be found"
    stored = storage.create(tmp_path / "raft", KEK, [ME])
    stored.journal.append(command(2, secret))
    stored.journal.set_vote(1, "who-got-the-vote")
    stored.journal.sync()
    stored.snapshots.write(raft.RaftSnapshot(state=secret))
    files = sorted(each for each in (tmp_path / "raft").iterdir() if each.name != "lock")
    assert [each.name for each in files] == ["data.key", "journal", "snapshot"]
    for each in files:
        assert each.stat().st_mode & 0o777 == 0o600
        assert not any(
            word in each.read_bytes() for word in (secret, b"who-got-the-vote", ME.address.encode())
        )


def test_another_key_opens_nothing(tmp_path: Path) -> None:
    create_data_key(REAL_DISK, tmp_path / "data.key", KEK)
    with pytest.raises(FailedPrecondition, match="does not open"):
        load_data_key(REAL_DISK, tmp_path / "data.key", SecretBytes(b"w" * 32))
    filled(tmp_path / "journal", 1)
    with pytest.raises(Internal, match="sealed with another key"):
        Journal.open(REAL_DISK, tmp_path / "journal", DataKey(SecretBytes(b"w" * 32)))


def test_cutting_the_front_off_keeps_the_members_of_then(tmp_path: Path) -> None:
    journal = Journal.create(REAL_DISK, tmp_path / "journal", KEY, [ME])
    for entry in (change(2, OTHER), command(3), change(4, OTHER, remove=True), command(5)):
        journal.append(entry)
    assert set(journal.members()) == {"me"}
    assert set(journal.members(3)) == {"me", "other"}
    journal.trim(3)
    journal.sync()
    found = Journal.open(REAL_DISK, tmp_path / "journal", KEY)
    assert [entry.index for entry in found.entries] == [3, 4, 5]
    assert set(found.base) == {"me", "other"}
    assert set(found.members()) == {"me"}


def test_a_snapshot_keeps_the_entries_that_follow_it_only_if_they_fit(tmp_path: Path) -> None:
    journal = filled(tmp_path / "journal", 5)
    fits, other = snapshot_of(journal, 4), snapshot_of(journal, 4)
    other.last.term = 2
    journal.install(fits)
    assert [entry.index for entry in journal.entries] == [3, 4, 5, 6]
    journal.install(other)
    assert [entry.index for entry in journal.entries] == [3, 4]


def test_the_start_is_refused_without_the_snapshot_that_the_log_needs(tmp_path: Path) -> None:
    stored = storage.create(tmp_path, KEK, [ME])
    for index in range(2, 6):
        stored.journal.append(command(index))
    stored.snapshots.write(snapshot_of(stored.journal, 4))
    stored.journal.trim(3)
    stored.journal.sync()
    stored.close()
    (tmp_path / "kept").write_bytes((tmp_path / "snapshot").read_bytes())
    (tmp_path / "snapshot").unlink()
    with pytest.raises(Internal, match="lacks entries 2 to 3"):
        storage.open_existing(tmp_path, KEK)
    shutil.move(tmp_path / "kept", tmp_path / "snapshot")
    storage.open_existing(tmp_path, KEK).close()
    (tmp_path / "snapshot").write_bytes(b"torn")
    with pytest.raises(Internal, match="snapshot is damaged"):
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
        st.tuples(st.just("append"), st.binary(max_size=30)),
        st.tuples(st.just("truncate"), st.integers(0, 10)),
        st.tuples(st.just("trim"), st.integers(0, 10)),
        st.tuples(st.just("sync"), st.none()),
    ),
    max_size=30,
)


@settings(max_examples=60, deadline=None)
@given(ACTIONS)
def test_whatever_is_done_the_last_sync_is_what_a_restart_finds(actions: list[tuple[str, object]]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "journal"
        journal = Journal.create(REAL_DISK, path, KEY, [ME])
        synced = list(journal.entries)
        for verb, value in actions:
            if verb == "append":
                assert isinstance(value, bytes)
                journal.append(command(journal.last.index + 1, value))
            elif verb == "truncate":
                assert isinstance(value, int)
                journal.truncate(journal.first.index + value)
            elif verb == "trim":
                assert isinstance(value, int)
                journal.trim(journal.first.index + value)
            else:
                journal.sync()
                synced = list(journal.entries)
        found = Journal.open(REAL_DISK, path, KEY)
        assert found.entries == synced
        assert found.size_bytes == sum(len(entry.command) for entry in synced)
