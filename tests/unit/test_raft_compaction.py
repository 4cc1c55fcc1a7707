"""Snapshots are taken and taken over whole or not at all, and whatever goes wrong, Raft goes on or stops: it
never waits for ever."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from tests.sim.memory_disk import MemoryDisk
from tests.unit.raft_log import SMALL, segments_in
from tests.unit.raft_replay import Net

from swarmnet.api.v1 import raft_pb2 as raft
from swarmnet.manager.raft import compaction

FOLDER = Path("/raft")


@pytest.fixture
def prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again at once."""
    monkeypatch.setattr(compaction, "_RETRY_S", 0.0)


async def led_by_a(names: str) -> tuple[Net, dict[str, MemoryDisk]]:
    disks = {name: MemoryDisk() for name in names}
    net = Net(names, FOLDER, disks, SMALL)
    net["A"].campaign()
    net.settle()
    return net, disks


def write(net: Net, count: int, names: str) -> list[bytes]:
    for number in range(count):
        net["A"].put(b"%d" % number + b"x" * 100)
        net.settle(names, rounds=2)
    return net["A"].acknowledged


def compact(net: Net) -> None:
    net["A"].raft.compact()
    for _ in range(4):
        net["A"].step()


def fails(disk: MemoryDisk, operation: str, name: str, number: int) -> None:
    def fault(asked: str, path: Path) -> None:
        if asked == operation and path.name.startswith(name):
            raise OSError(number, "no", str(path))

    disk.fault = fault


async def test_the_log_is_cut_only_after_the_snapshot_is_on_disk() -> None:
    net, disks = await led_by_a("A")
    write(net, 60, "A")
    many = len(segments_in(disks["A"], FOLDER / "A/journal"))
    before = len(disks["A"].operations)
    compact(net)
    done = [each.split()[0] + " " + each.split()[-1][:8] for each in disks["A"].operations[before:]]
    assert done.index("remove 00000000") > done.index("rename snapshot") + 1
    assert done[done.index("rename snapshot") + 1] == "sync A"
    assert len(segments_in(disks["A"], FOLDER / "A/journal")) == 1 < many


@pytest.mark.usefixtures("prompt")
async def test_a_snapshot_that_finds_no_room_is_tried_again_and_the_log_stays() -> None:
    net, disks = await led_by_a("A")
    write(net, 60, "A")
    fails(disks["A"], "write", "snapshot", errno.ENOSPC)
    compact(net)
    assert net["A"].stored.journal.first.index == 1
    assert "snapshot.new" not in disks["A"].names(FOLDER / "A")
    disks["A"].fault = None
    compact(net)
    assert net["A"].stored.journal.first.index > 50


@pytest.mark.usefixtures("prompt")
async def test_a_state_that_cannot_be_encoded_stops_no_later_snapshot() -> None:
    net, _ = await led_by_a("A")
    write(net, 5, "A")

    def unable() -> bytes:
        raise ValueError("a defect")

    snapshots = net["A"].engine._snapshots
    able, snapshots._freeze = snapshots._freeze, lambda done: done(unable)
    compact(net)
    assert net["A"].stored.journal.first.index == 1
    snapshots._freeze = able
    compact(net)
    assert net["A"].stored.journal.first.index > 1


async def test_a_disk_that_fails_under_a_snapshot_stops_the_manager() -> None:
    net, disks = await led_by_a("A")
    write(net, 5, "A")
    fails(disks["A"], "sync", "snapshot", errno.EIO)
    with pytest.raises(OSError, match="no"):
        compact(net)


async def test_a_lagging_manager_without_room_gets_the_snapshot_when_it_has_some(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net, disks = await led_by_a("ABC")
    written = write(net, 60, "AB")
    net.drop("A", "C")
    compact(net)
    assert net["A"].stored.journal.first.index > net["C"].stored.journal.last.index
    disks["C"].capacity_bytes = disks["C"].used_bytes()
    net.settle(rounds=10)
    assert net["C"].applied == []
    assert net["A"].engine._room.is_full("C")
    chunks = chunks_sent(net, "A", monkeypatch)
    net.settle(rounds=10)
    assert chunks
    assert set(chunks) == {b""}, "nothing is sent to be thrown away"
    disks["C"].capacity_bytes = 1 << 40
    net.settle(rounds=10)
    assert net["C"].applied == written


def chunks_sent(net: Net, source: str, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Of snapshots, from now on."""
    chunks: list[bytes] = []
    transmit = net[source].transmit

    def watched(messages: list[tuple[str, raft.RaftMessage]]) -> None:
        chunks.extend(each.snapshot_chunk.data for _, each in messages if each.HasField("snapshot_chunk"))
        transmit(messages)

    monkeypatch.setattr(net[source], "transmit", watched)
    return chunks
