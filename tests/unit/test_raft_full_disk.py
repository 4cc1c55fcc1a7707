"""A full disk stops new entries and nothing else, loses nothing, and is over when there is room again."""

from __future__ import annotations

import errno
from contextlib import suppress
from pathlib import Path

import pytest
from pysyncobj.node import Node
from tests.sim.memory_disk import MemoryDisk, PowerCut
from tests.unit.raft_log import KEK, KEY, ME, SMALL, command, filled, put, segments_in, snapshot_of
from tests.unit.raft_replay import Net

from swarmnet.core.errors import ResourceExhausted
from swarmnet.manager.raft import storage
from swarmnet.manager.raft.journal import Journal

FOLDER = Path("/raft")
X = b"x" * 100


def fill(disk: MemoryDisk) -> None:
    disk.capacity_bytes = disk.used_bytes()


def free(disk: MemoryDisk) -> None:
    disk.capacity_bytes = 1 << 40


async def led_by_a(names: str = "ABC") -> tuple[Net, dict[str, MemoryDisk]]:
    disks = {name: MemoryDisk() for name in names}
    net = Net(names, FOLDER, disks, SMALL)
    net["A"].campaign()
    net.settle()
    return net, disks


def write(net: Net, leader: str, count: int, prefix: bytes = b"") -> list[bytes]:
    """Put that many words, everybody taking part; returns those that were promised to be kept."""
    replica = net[leader]
    before = len(replica.acknowledged)
    for number in range(count):
        replica.put(prefix + b"%d " % number + X)
        net.settle(rounds=2)
    return replica.acknowledged[before:]


def leaders(net: Net) -> list[str]:
    return [name for name, replica in net.replicas.items() if replica.raft.leads]


def test_entries_are_refused_before_the_reserve_and_votes_are_not() -> None:
    disk = MemoryDisk()
    journal = filled(disk, FOLDER, 0, layout=SMALL)
    fill(disk)
    while journal.has_room(len(X)):
        put(journal, 1, X)
    with pytest.raises(ResourceExhausted, match=r"the disk is full: /raft has 0 bytes free, 4096") as refused:
        journal.claim(len(X))
    assert "goes on by itself" in refused.value.hint
    assert journal.full
    count = len(journal.entries)
    assert count > 10
    for term in range(1, 9):
        journal.set_vote(term, "somebody-with-a-long-name")
        journal.sync()
    assert Journal.open(disk, FOLDER, KEY, None, SMALL).vote == "somebody-with-a-long-name"
    free(disk)
    journal.claim(len(X))
    put(journal, 1, X)
    found = Journal.open(disk, FOLDER, KEY, None, SMALL)
    assert (len(found.entries), found.term) == (count + 1, 8)


def test_room_that_was_promised_to_one_command_is_not_given_to_another() -> None:
    disk = MemoryDisk()
    journal = filled(disk, FOLDER, 0, layout=SMALL)
    fill(disk)
    claimed = 0
    with suppress(ResourceExhausted):
        while claimed < 1000:
            journal.claim(len(X))
            claimed += 1
    assert claimed < 30
    for _ in range(claimed):
        journal.append(command(journal.last.index + 1, X))
    journal.sync()
    assert len(Journal.open(disk, FOLDER, KEY, None, SMALL).entries) == claimed + 1
    assert journal._segments._held[-1].end <= SMALL.limit


def test_a_failed_attempt_at_a_segment_leaves_nothing_on_the_disk() -> None:
    disk = MemoryDisk()
    journal = filled(disk, FOLDER, 0, layout=SMALL)

    def over_quota(operation: str, path: Path) -> None:
        if operation == "allocate":
            raise OSError(errno.EDQUOT, "Disk quota exceeded", str(path))

    disk.fault = over_quota
    assert not journal.has_room(10_000)
    assert disk.names(FOLDER) == segments_in(disk, FOLDER)
    disk.fault = None
    assert journal.has_room(10_000)


def test_spare_segments_of_a_killed_process_are_given_back() -> None:
    disk = MemoryDisk()
    journal = filled(disk, FOLDER, 0, layout=SMALL)
    assert journal.has_room(10_000)
    assert disk.names(FOLDER) != segments_in(disk, FOLDER)
    disk.kill()
    Journal.open(disk, FOLDER, KEY, None, SMALL)
    assert disk.names(FOLDER) == segments_in(disk, FOLDER)


async def test_a_full_follower_acknowledges_nothing_new_and_catches_up_by_itself() -> None:
    net, disks = await led_by_a()
    fill(disks["C"])
    written = write(net, "A", 60)
    assert len(written) == 60
    assert net["B"].applied == written
    end = net["C"].stored.journal.last.index
    assert end < 25
    assert net["A"].raft._library._SyncObj__raftMatchIndex[Node("C")] <= end
    assert net["C"].raft.leader_id == "A"
    free(disks["C"])
    net.settle(rounds=10)
    assert net["C"].applied == written


async def test_a_full_leader_says_so_and_hands_over() -> None:
    net, disks = await led_by_a()
    fill(disks["A"])
    written = write(net, "A", 60)
    assert 5 < len(written) < 25
    first = net["A"].refused[0]
    assert isinstance(first, ResourceExhausted)
    assert "/raft/A/journal has 0 bytes free" in first.message
    (leader,) = leaders(net)
    assert leader in "BC"
    more = write(net, leader, 40, b"more ")
    assert len(more) == 40
    free(disks["A"])
    net.settle(rounds=10)
    assert all(replica.applied == written + more for replica in net.replicas.values())


async def test_where_all_are_full_nobody_writes_nobody_wanders_and_everything_goes_on_after() -> None:
    net, disks = await led_by_a()
    for disk in disks.values():
        fill(disk)
    written = write(net, "A", 60)
    assert len(written) < 25
    assert leaders(net) == ["A"]
    assert len(net["A"].refused) == 60 - len(written)
    for name in "BCA":
        net[name].campaign()
        net.settle()
        assert leaders(net) == [name]
    for disk in disks.values():
        free(disk)
    more = write(net, "A", 40, b"more ")
    assert len(more) == 40
    net.settle()
    assert all(replica.applied == written + more for replica in net.replicas.values())


async def test_what_was_acknowledged_on_full_disks_survives_a_power_cut() -> None:
    net, disks = await led_by_a()
    for disk in disks.values():
        fill(disk)
    written = write(net, "A", 60)
    assert written
    for name, disk in disks.items():
        disk.restart()
        found = storage.open_existing(FOLDER / name, KEK, disk, SMALL).journal
        held = [each.command[2:] for each in found.entries if each.command[0] == 0]
        assert [each for each in written if each not in held] == []


def test_what_a_crash_left_of_a_snapshot_is_given_back() -> None:
    disk = MemoryDisk()
    stored = storage.create(FOLDER, KEK, [ME], disk)
    put(stored.journal, 5)
    before = disk.used_bytes()
    disk.cut_after = 2
    with pytest.raises(PowerCut):
        stored.snapshots.write(snapshot_of(stored.journal, 5))
    disk.kill()
    assert disk.used_bytes() > before
    storage.open_existing(FOLDER, KEK, disk)
    assert disk.used_bytes() == before


async def test_a_snapshot_waits_for_room_and_leaves_none_taken() -> None:
    disk = MemoryDisk()
    stored = storage.create(FOLDER, KEK, [ME], disk)
    put(stored.journal, 5)
    stored.snapshots.write(snapshot_of(stored.journal, 3))
    disk.capacity_bytes = disk.used_bytes() + 100
    larger = snapshot_of(stored.journal, 5)
    larger.state = bytes(5000)
    with pytest.raises(OSError, match="No space left"):
        stored.snapshots.write(larger)
    assert disk.free_bytes(FOLDER) == 100
    kept = stored.snapshots.read()
    assert kept is not None
    assert kept.last.index == 3


async def test_a_disk_that_fails_stops_the_engine_at_once() -> None:
    net, disks = await led_by_a("A")

    def fault(operation: str, path: Path) -> None:
        if operation == "sync":
            raise OSError(errno.EIO, "Input/output error", str(path))

    disks["A"].fault = fault
    with pytest.raises(OSError, match="Input/output error"):
        net["A"].put(b"word")
    assert net["A"].acknowledged == []
