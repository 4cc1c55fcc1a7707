"""The disk of the simulations loses what a real one may lose, and nothing else."""

from __future__ import annotations

import errno
from pathlib import Path
from random import Random

import pytest
from tests.sim.memory_disk import MemoryDisk, PowerCut

from swarmnet.manager.raft.disk import replace_file

FOLDER = Path("/raft")
PATH = FOLDER / "file"


def new(seed: int = 0) -> MemoryDisk:
    disk = MemoryDisk(Random(seed))
    disk.make_folder(FOLDER)
    return disk


def test_a_power_cut_takes_only_what_was_not_synced() -> None:
    found = set()
    for seed in range(50):
        disk = new(seed)
        replace_file(disk, PATH, b"a" * 2000)
        file = disk.open(PATH)
        file.write(2000, b"b" * 2000)
        disk.restart()
        content = disk.read(PATH)
        assert content[:2000] == b"a" * 2000
        found.add(content[2000:])
    assert {b"", b"b" * 2000} < found
    assert any(b"\0" in each for each in found), "sectors in the middle are lost, too"


def test_names_are_undone_unless_the_folder_was_synced() -> None:
    kept = set()
    for seed in range(20):
        disk = new(seed)
        file = disk.create(PATH)
        file.write(0, b"synced")
        file.sync()
        disk.restart()
        kept.add(tuple(disk.names(FOLDER)))
    assert kept == {(), ("file",)}


def test_a_replaced_file_is_the_old_or_the_new_whenever_the_power_goes() -> None:
    for seed in range(20):
        after = 0
        while True:
            disk = new(seed)
            replace_file(disk, PATH, b"old")
            disk.cut_after = after
            try:
                replace_file(disk, PATH, b"new content")
            except PowerCut:
                disk.restart()
                assert disk.read(PATH) in (b"old", b"new content")
                after += 1
                continue
            disk.restart()
            assert disk.read(PATH) == b"new content"
            break
        assert after == 5


def test_a_killed_process_leaves_what_it_wrote_and_no_lock() -> None:
    disk = new()
    replace_file(disk, PATH, b"one")
    disk.lock(FOLDER / "lock")
    with pytest.raises(BlockingIOError):
        disk.lock(FOLDER / "lock")
    file = disk.open(PATH)
    file.write(3, b" two")
    disk.kill()
    disk.lock(FOLDER / "lock").close()
    assert disk.read(PATH) == b"one two"
    with pytest.raises(AssertionError, match="dead"):
        file.sync()


def test_a_full_disk_refuses_and_takes_again_when_there_is_room() -> None:
    disk = new()
    disk.capacity_bytes = 100
    file = disk.create(PATH)
    file.allocate(60)
    file.write(0, b"x" * 60)
    with pytest.raises(OSError, match="No space left") as refused:
        file.write(60, b"x" * 60)
    assert refused.value.errno == errno.ENOSPC
    assert len(disk.read(PATH)) == 100
    disk.capacity_bytes = 120
    file.write(60, b"x" * 60)
    assert disk.free_bytes(FOLDER) == 0


def test_faults_are_what_the_test_says() -> None:
    disk = new()

    def fault(operation: str, path: Path) -> None:
        if operation == "sync":
            raise OSError(errno.EIO, "Input/output error", str(path))

    disk.fault = fault
    with pytest.raises(OSError, match="Input/output"):
        replace_file(disk, PATH, b"data")
    assert disk.operations[-1] == "sync file.new"
