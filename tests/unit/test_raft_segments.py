"""The journal's files: begun, dropped and left half done at any moment, and always opened right."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from random import Random

from tests.sim.memory_disk import MemoryDisk, PowerCut
from tests.unit.raft_log import (
    KEK,
    KEY,
    ME,
    SMALL,
    command,
    filled,
    put,
    segments_in,
    snapshot_at,
    snapshot_of,
)

from swarmnet.api.v1 import raft_pb2 as raft
from swarmnet.manager.raft import storage
from swarmnet.manager.raft.entries import FIRST_ENTRY, Entry
from swarmnet.manager.raft.journal import Journal
from swarmnet.manager.raft.segments import Segments
from swarmnet.manager.raft.storage import Storage

FOLDER = Path("/raft/journal")
X = b"x" * 100


def test_segments_follow_each_other_and_are_named_by_place_and_first_index() -> None:
    disk = MemoryDisk()
    journal = filled(disk, FOLDER, 40, X, SMALL)
    names = segments_in(disk, FOLDER)
    assert [name[:16] for name in names] == [f"{number:016}" for number in range(1, len(names) + 1)]
    starts = [int(name[17:]) for name in names]
    assert starts[0] == 1
    assert all(12 < after - before < 20 for before, after in pairwise(starts))
    assert all(len(disk.read(FOLDER / name)) == SMALL.segment_bytes for name in names)
    assert Journal.open(disk, FOLDER, KEY, None, SMALL).entries == journal.entries


def test_an_append_is_one_write_and_one_sync_and_needs_no_room() -> None:
    disk = MemoryDisk()
    journal = filled(disk, FOLDER, 1, X)
    used, before = disk.used_bytes(), len(disk.operations)
    for index in range(3, 50):
        journal.append(command(index, X))
    journal.set_vote(7, "other")
    journal.sync()
    assert [each.split()[0] for each in disk.operations[before:]] == ["write", "sync"]
    assert disk.used_bytes() == used


def test_what_is_too_large_for_one_frame_becomes_several_each_synced() -> None:
    disk = MemoryDisk()
    journal = filled(disk, FOLDER, 0, layout=SMALL)
    for index in range(2, 60):
        journal.append(command(index, X))
    syncs = disk.syncs
    journal.sync()
    assert disk.syncs - syncs > 58 // 5
    assert Journal.open(disk, FOLDER, KEY, None, SMALL).entries == journal.entries


def test_room_for_several_segments_can_be_taken_while_some_of_it_is_used() -> None:
    disk = MemoryDisk()
    journal = filled(disk, FOLDER, 0, layout=SMALL)
    for number in range(8):
        assert journal.has_room(6000)
        put(journal, 60 if number % 2 else 20, X)
    assert Journal.open(disk, FOLDER, KEY, None, SMALL).entries == journal.entries


def test_the_front_is_dropped_by_whole_segments_that_a_snapshot_covers() -> None:
    disk = MemoryDisk()
    journal = filled(disk, FOLDER, 60, X, SMALL)
    names = segments_in(disk, FOLDER)
    third = int(names[2][17:])
    for index, gone in ((third - 3, 1), (third - 2, 2), (third - 1, 2)):
        snapshot = snapshot_of(journal, index + 1)
        journal.trim(index)
        before = len(disk.operations)
        journal.sync()
        assert segments_in(disk, FOLDER) == names[gone:]
        assert not any(each.startswith("write") for each in disk.operations[before:])
        found = Journal.open(disk, FOLDER, KEY, snapshot, SMALL)
        assert found.entries == journal.entries


def test_a_segment_of_entries_that_were_cut_off_later_goes_with_the_one_before() -> None:
    disk = MemoryDisk()
    journal = filled(disk, FOLDER, 60, X, SMALL)
    journal.truncate(5)
    put(journal, 10, b"other", term=2)
    journal.trim(6)
    journal.sync()
    assert len(segments_in(disk, FOLDER)) == 1 + (len(segments_in(disk, FOLDER)) > 1)
    snapshot = snapshot_at(*journal.entries[:2])
    assert Journal.open(disk, FOLDER, KEY, snapshot, SMALL).entries == journal.entries


@dataclass
class Run:
    """A manager's storage put to work; `promised` is what others were told is on its disk."""

    disk: MemoryDisk
    promised: dict[int, Entry] = field(default_factory=dict)
    vote: tuple[int, str | None] = (0, None)
    opened: Storage | None = None

    def work(self) -> None:
        """All that a journal's files go through, with promises after each sync."""
        stored = self.opened = storage.create(FOLDER.parent, KEK, [ME], self.disk, SMALL)
        self.grow(stored, 25, term=1)
        self.vote_in(stored, 2, "other")
        stored.journal.truncate(20)
        self.forget(20)
        self.grow(stored, 20, term=2)
        self.snapshot(stored, snapshot_of(stored.journal, 30), stored.journal.trim)
        self.vote_in(stored, 3, None)
        self.grow(stored, 5, term=3)
        theirs = snapshot_at(command(99, b"p", 4), command(100, b"l", 4))
        self.vote_in(stored, 4, "third")
        self.snapshot(stored, theirs, None)
        self.grow(stored, 15, term=4)
        self.snapshot(stored, snapshot_of(stored.journal, 112), stored.journal.trim)
        self.grow(stored, 3, term=4)

    def grow(self, stored: Storage, count: int, term: int) -> None:
        journal = stored.journal
        for number in range(count):
            entry = command(journal.last.index + 1, bytes([number]) * 120, term)
            journal.append(entry)
            if number % 3 == 0:
                journal.sync()
                self.promised.update((each.index, each) for each in journal.entries)
        journal.sync()
        self.promised.update((each.index, each) for each in journal.entries)

    def vote_in(self, stored: Storage, term: int, vote: str | None) -> None:
        stored.journal.set_vote(term, vote)
        stored.journal.sync()
        self.vote = (term, vote)

    def forget(self, index: int) -> None:
        """From now on it may be gone: it is cut off, and may be so on disk at any moment."""
        for each in [each for each in self.promised if each >= index]:
            del self.promised[each]

    def snapshot(
        self, stored: Storage, snapshot: raft.RaftSnapshot, trim: Callable[[int], None] | None
    ) -> None:
        """Made here (`trim`), or received."""
        index = snapshot.last.index
        for each in [each for each in self.promised if each < index or trim is None]:
            del self.promised[each]
        stored.snapshots.write(snapshot)
        if trim is not None:
            trim(snapshot.previous.index)
        else:
            stored.journal.install(snapshot)
        stored.journal.sync()

    def check(self) -> None:
        """What is found holds every promise, and can be worked with."""
        stored = storage.open_existing(FOLDER.parent, KEK, self.disk, SMALL)
        journal = stored.journal
        found = {each.index: each for each in journal.entries}
        covered = journal.first.index
        assert {index: found.get(index) for index in self.promised if index > covered} == {
            index: each for index, each in self.promised.items() if index > covered
        }
        assert journal.term >= self.vote[0]
        if journal.term == self.vote[0]:
            assert journal.vote == self.vote[1]
        assert list(found) == list(range(covered, journal.last.index + 1))
        journal.append(command(journal.last.index + 1, b"after", journal.term))
        journal.sync()
        expected = list(journal.entries)
        self.disk.restart()
        again = storage.open_existing(FOLDER.parent, KEK, self.disk, SMALL)
        assert again.journal.entries == expected


def run_until_cut(operations: int | None, seed: int) -> Run:
    run = Run(MemoryDisk(Random(seed), cut_after=operations))
    with suppress(PowerCut):
        run.work()
    return run


def begun(run: Run) -> bool:
    """Whether the founding itself was over."""
    return run.opened is not None


def test_a_power_cut_after_any_operation_loses_nothing_that_was_promised() -> None:
    total = len(run_until_cut(None, 0).disk.operations)
    assert total > 120
    checked = 0
    for operations in range(total + 1):
        for seed in range(4):
            run = run_until_cut(operations, seed)
            run.disk.restart()
            if begun(run):
                run.check()
                checked += 1
    assert checked > total * 3


def test_a_kill_after_any_operation_and_a_power_cut_after_the_next_start_lose_nothing() -> None:
    """What a killed process wrote is found, and others are told of it: it has to be on the disk by then."""
    total = len(run_until_cut(None, 0).disk.operations)
    for operations in range(total + 1):
        run = run_until_cut(operations, operations)
        if not begun(run):
            continue
        run.disk.kill()
        found = storage.open_existing(FOLDER.parent, KEK, run.disk, SMALL)
        run.promised = {each.index: each for each in found.journal.entries}
        run.vote = (found.journal.term, found.journal.vote)
        run.disk.restart()
        run.check()


def test_a_founding_that_was_cut_off_is_done_again_or_found_done() -> None:
    found = set()
    for operations in range(40):
        for seed in range(4):
            disk = MemoryDisk(Random(seed), cut_after=operations)
            with suppress(PowerCut):
                storage.create(FOLDER.parent, KEK, [ME], disk, SMALL)
            disk.restart()
            done = Segments.exist(disk, FOLDER)
            start = storage.open_existing if done else partial(storage.create, members=[ME])
            stored = start(FOLDER.parent, KEK, disk=disk, layout=SMALL)
            assert stored.journal.entries == [FIRST_ENTRY]
            assert stored.journal.members() == {"me": ME}
            found.add(done)
    assert found == {False, True}


def test_a_crash_while_opening_loses_nothing_either() -> None:
    total = len(run_until_cut(None, 0).disk.operations)
    for operations in range(0, total, 7):
        for steps in range(12):
            run = run_until_cut(operations, operations)
            if not begun(run):
                break
            run.disk.restart()
            run.disk.cut_after = steps
            with suppress(PowerCut):
                storage.open_existing(FOLDER.parent, KEK, run.disk, SMALL)
            run.disk.restart()
            run.check()


def test_what_a_failed_sync_left_in_memory_is_written_again_at_the_next_start() -> None:
    """After a failed fdatasync the kernel takes its pages for clean: a later one would write nothing."""
    disk = MemoryDisk()
    filled(disk, FOLDER, 3, X)
    (name,) = segments_in(disk, FOLDER)
    lost = len(disk.read(FOLDER / name).rstrip(b"\0"))
    inode = disk._files[FOLDER / name]
    start = inode.content.rindex(b"\xf0SNF")
    inode.synced[start:lost] = bytes(lost - start)
    found = Journal.open(disk, FOLDER, KEY, None)
    disk.restart()
    assert Journal.open(disk, FOLDER, KEY, None).entries == found.entries
