"""A journal that is damaged, or not whole, or not this manager's is refused, with file and place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.sim.memory_disk import MemoryDisk
from tests.unit.raft_log import KEY, ME, SMALL, command, filled, segments_in

from swarmnet.core.errors import Internal
from swarmnet.manager.raft.journal import Journal

FOLDER = Path("/raft/journal")


def opened(disk: MemoryDisk) -> Journal:
    return Journal.open(disk, FOLDER, KEY, None, SMALL)


def refusal(disk: MemoryDisk) -> str:
    with pytest.raises(Internal) as refused:
        opened(disk)
    assert "Restore" in refused.value.hint
    assert "join again" in refused.value.hint
    return refused.value.message


def overwrite(disk: MemoryDisk, name: str, raw: bytes) -> None:
    file = disk.create(FOLDER / name)
    file.write(0, raw)


def flip(disk: MemoryDisk, name: str, offset: int) -> None:
    raw = bytearray(disk.read(FOLDER / name))
    raw[offset] ^= 1
    overwrite(disk, name, bytes(raw))


def test_a_crash_at_any_byte_loses_only_what_was_not_synced() -> None:
    disk = MemoryDisk()
    journal = Journal.create(disk, FOLDER, KEY, [ME])
    (name,) = segments_in(disk, FOLDER)
    ends = [len(disk.read(FOLDER / name).rstrip(b"\0"))]
    for index in range(2, 6):
        journal.append(command(index, os.urandom(20)))
        journal.sync()
        ends.append(journal._segments._held[-1].end)
    whole = disk.read(FOLDER / name)[: ends[-1]]
    for size in range(ends[0], len(whole) + 1):
        for rest in (b"", bytes(1000)):
            overwrite(disk, name, whole[:size] + rest)
            synced = sum(size >= end for end in ends)
            found = Journal.open(disk, FOLDER, KEY, None)
            assert found.entries == journal.entries[:synced]
            found.append(command(synced + 1, b"after"))
            found.sync()
            assert Journal.open(disk, FOLDER, KEY, None).entries == found.entries


def test_damage_before_the_end_is_refused_with_the_place() -> None:
    disk = MemoryDisk()
    journal = filled(disk, FOLDER, 5, b"x" * 50)
    (name,) = segments_in(disk, FOLDER)
    flip(disk, name, journal._segments._held[-1].end // 2)
    message = refusal(disk)
    assert message.startswith(f"{FOLDER / name} is damaged at byte ")
    assert "good data follows at byte" in message


@pytest.mark.parametrize("offset", [0, 20, 33, 41])
def test_a_changed_header_is_refused(offset: int) -> None:
    disk = MemoryDisk()
    filled(disk, FOLDER, 3)
    (name,) = segments_in(disk, FOLDER)
    flip(disk, name, offset)
    assert FOLDER.name in refusal(disk)


def test_no_byte_of_a_closed_segment_can_change_unnoticed() -> None:
    disk = MemoryDisk()
    filled(disk, FOLDER, 20, b"x" * 100, SMALL)
    first, _ = segments_in(disk, FOLDER)
    whole = disk.read(FOLDER / first)
    for offset in range(len(whole.rstrip(b"\0"))):
        flip(disk, first, offset)
        assert first in refusal(disk)
        overwrite(disk, first, whole)
    opened(disk)


def test_the_lost_end_of_a_closed_segment_is_refused() -> None:
    disk = MemoryDisk()
    journal = filled(disk, FOLDER, 20, b"x" * 100, SMALL)
    first, _ = segments_in(disk, FOLDER)
    whole = disk.read(FOLDER / first)
    for cut in range(1, 600, 7):
        used = len(whole.rstrip(b"\0")) - cut
        overwrite(disk, first, whole[:used] + bytes(len(whole) - used))
        assert "its end is missing" in refusal(disk)
    overwrite(disk, first, whole)
    assert opened(disk).entries == journal.entries


def test_a_missing_segment_is_refused_wherever_it_was() -> None:
    disk = MemoryDisk()
    filled(disk, FOLDER, 60, b"x" * 100, SMALL)
    names = segments_in(disk, FOLDER)
    assert len(names) == 4
    messages = []
    for name in names:
        raw = disk.read(FOLDER / name)
        disk.remove(FOLDER / name)
        messages.append(refusal(disk))
        overwrite(disk, name, raw)
    second_index = int(names[1][17:])
    assert f"lacks entries 1 to {second_index - 1}: an old or no snapshot" in messages[0]
    assert f"{names[0]} is followed by {names[2]}: the segment between them is missing" in messages[1]
    assert f"{names[1]} is followed by {names[3]}: the segment between them is missing" in messages[2]
    assert f"{names[2]} is not the last segment" in messages[3]
    for name in names:
        disk.remove(FOLDER / name)
    assert "holds no segment" in refusal(disk)


def test_segments_of_another_journal_or_under_another_name_are_refused() -> None:
    mine, foreign = MemoryDisk(), MemoryDisk()
    for disk in (mine, foreign):
        filled(disk, FOLDER, 40, b"x" * 100, SMALL)
    names = segments_in(mine, FOLDER)
    kept = mine.read(FOLDER / names[1])
    overwrite(mine, names[1], foreign.read(FOLDER / names[1]))
    assert f"{names[1]} belongs to another journal than {names[0]}" in refusal(mine)
    overwrite(mine, names[1], mine.read(FOLDER / names[2]))
    assert f"is the segment {names[2]}, under another name" in refusal(mine)
    overwrite(mine, names[1], kept)
    opened(mine)


def test_frames_cannot_be_swapped_or_taken_from_another_journal() -> None:
    mine, foreign = MemoryDisk(), MemoryDisk()
    for disk in (mine, foreign):
        filled(disk, FOLDER, 1)
    (name,) = segments_in(mine, FOLDER)
    overwrite(mine, name, mine.read(FOLDER / name)[:56] + foreign.read(FOLDER / name)[56:])
    assert "at byte 56 was sealed with another key, or changed" in refusal(mine)
