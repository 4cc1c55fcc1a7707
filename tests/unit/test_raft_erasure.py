"""What was taken out of the state can be read in no file of any manager, with whatever keys are left."""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from random import Random

import pytest
from pysyncobj import syncobj
from tests.sim.memory_disk import MemoryDisk, PowerCut
from tests.sim.raft_world import _Files
from tests.unit.raft_log import SMALL, segments_in
from tests.unit.raft_opened import files_of, holds, keys_in, opened
from tests.unit.raft_replay import KEK, Net, Replica

from swarmnet.core.errors import Internal
from swarmnet.manager.raft import erasure
from swarmnet.manager.raft import storage as raft_storage
from swarmnet.manager.raft.member import Member

FOLDER = Path("/raft")
SECRET = b"the secret of an epoch that is retired"
KEPT = b"the secret of an epoch that is in use"
RETIRE = b"-retired"
"""Takes out what ends in this word, and does not name it."""


@pytest.fixture(autouse=True)
def snapshots_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library looks for its dump on the real disk."""
    monkeypatch.setattr(syncobj, "os", _Files)


class Machine(Replica):
    """A state machine of words; RETIRE takes some out."""

    def apply(self, index: int, command: bytes) -> None:
        if command == RETIRE:
            self.applied = [each for each in self.applied if not each.endswith(RETIRE[1:])]
        else:
            self.applied.append(command)

    @property
    def keys(self) -> int:
        return 1 + len(self.stored.keys.old)


class Managers(Net):
    def __init__(self, names: str, random: Random | None = None) -> None:
        self.disks = {name: MemoryDisk(random or Random(0)) for name in names}
        super().__init__(names, FOLDER, self.disks, SMALL)

    def make(self, name: str) -> Machine:
        members = [Member(each, each, each) for each in self.names]
        return Machine(self, name, members, FOLDER, self.disks[name], SMALL)

    def machine(self, name: str) -> Machine:
        found = self[name]
        assert isinstance(found, Machine)
        return found

    def finds(self, name: str, word: bytes) -> bool:
        return holds(FOLDER / name, word, KEK, self.disks[name])

    def erase(self, *names: str) -> None:
        for name in names:
            self[name].engine.renew_data_key()
        self.settle(names, rounds=10)


def led_by_a(names: str) -> Managers:
    net = Managers(names)
    net["A"].campaign()
    net.settle()
    for word in (b"before", SECRET, KEPT):
        net["A"].put(word)
    net.settle()
    return net


def retire(net: Managers) -> None:
    net["A"].put(RETIRE)
    net.settle()
    assert all(SECRET not in net[name].applied for name in net.names)


async def test_nothing_is_left_of_a_retired_secret_on_any_manager() -> None:
    net = led_by_a("ABC")
    retire(net)
    assert [net.finds(name, SECRET) for name in "ABC"] == [True] * 3, "the search finds what is there"
    before = {name: files_of(FOLDER / name, net.disks[name]) for name in "ABC"}
    net.erase(*"ABC")
    for name in "ABC":
        assert not net.finds(name, SECRET)
        assert net.finds(name, KEPT)
        assert net.machine(name).keys == 1
        keys = keys_in(FOLDER / name, KEK, net.disks[name])
        assert SECRET not in opened(before[name], keys), "a copy of the old files is of no use either"
        assert opened(before[name], keys) == b""


async def test_an_idle_swarm_erases_too_and_goes_on() -> None:
    net = led_by_a("ABC")
    retire(net)
    last = net["A"].stored.journal.last.index
    net.erase(*"ABC")
    assert net["A"].stored.journal.last.index == last, "nothing was written meanwhile"
    for _ in range(2):  # again after a restart, with nobody leading
        net.kill("ABC")
        for name in "ABC":
            net.start(name)
        net.erase(*"ABC")
        assert [net.machine(name).keys for name in "ABC"] == [1] * 3
    net["A"].campaign()
    net.settle()
    net["A"].put(b"after")
    net.settle()
    net.kill("ABC")
    for name in "ABC":
        net.start(name)
    net["B"].campaign()
    net.settle()
    assert [net[name].applied for name in "ABC"] == [[b"before", KEPT, b"after"]] * 3


async def test_the_entry_before_the_one_that_took_it_out_is_not_kept_either() -> None:
    """A snapshot says which two entries the log goes on from."""
    net = led_by_a("A")
    net["A"].put(SECRET)
    retire(net)
    net.erase("A")
    assert not net.finds("A", SECRET)


async def test_a_snapshot_that_was_under_way_keeps_its_old_key() -> None:
    """It may hold what is to go; under the new key it would stay readable until the next one."""
    net = led_by_a("A")
    late: list[object] = []
    compaction = net["A"].engine._snapshots
    compaction._run_aside = late.append
    net["A"].raft.compact()
    net["A"].step()
    assert len(late) == 1
    retire(net)
    net["A"].engine.renew_data_key()
    net["A"].step()
    late.pop()()  # type: ignore[operator]
    (new,) = {keys_in(FOLDER / "A", KEK, net.disks["A"]).newest.number}
    assert compaction.sealed_under == new - 1
    compaction._run_aside = lambda work: work()
    net.settle(rounds=10)
    assert (net.finds("A", SECRET), net.machine("A").keys) == (False, 1)


async def test_a_snapshot_of_the_last_entry_is_sealed_anew() -> None:
    """It was received, say, and nothing is written since."""
    net = led_by_a("ABC")
    for word in (b"more", b"and more", RETIRE):
        net["A"].put(word)
        net.settle("AB")
    net["A"].raft.compact()
    net.settle("AB")
    net.drop_all()
    net.settle(rounds=12)
    stored = net["C"].stored
    assert stored.journal.last.index == net["C"].engine._snapshots.newest
    net.erase("C")
    assert (net.finds("C", SECRET), net.finds("C", KEPT), net.machine("C").keys) == (False, True, 1)


async def test_entries_behind_what_is_agreed_on_hold_up_no_more_than_themselves() -> None:
    net = led_by_a("ABC")
    retire(net)
    net["A"].put(b"not agreed on")
    net["A"].engine.renew_data_key()
    for _ in range(5):
        net["A"].step()
    assert net.machine("A").keys == 2
    net.settle(rounds=10)
    assert (net.finds("A", SECRET), net.machine("A").keys) == (False, 1)
    assert b"not agreed on" in net["A"].applied


async def test_a_second_wish_waits_for_the_first() -> None:
    net = led_by_a("A")
    net["A"].engine.renew_data_key()
    net["A"].engine.renew_data_key()
    assert net.machine("A").keys == 2


def full_after(allowed: int) -> Callable[[str, Path], None]:
    """That many new files find room, no more."""
    made = count()

    def fault(operation: str, path: Path) -> None:
        if operation in {"create", "allocate"} and next(made) >= allowed:
            raise OSError(errno.ENOSPC, "full", str(path))

    return fault


async def test_without_room_it_is_done_when_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasure, "_RETRY_S", 0.0)
    net = led_by_a("A")
    retire(net)
    disk = net.disks["A"]
    for allowed in range(4):
        disk.capacity_bytes, disk.fault = disk.used_bytes(), full_after(allowed)
        net["A"].engine.renew_data_key()
        for _ in range(3):
            net["A"].step()
        net["A"].put(b"written %d" % allowed)
    disk.fault, disk.capacity_bytes = None, 1 << 40
    net.erase("A")
    assert (net.finds("A", SECRET), net.machine("A").keys) == (False, 1)
    assert net["A"].applied[-4:] == [b"written %d" % number for number in range(4)]


async def test_a_full_disk_is_asked_for_room_now_and_then_and_the_reserve_is_left_alone() -> None:
    net = led_by_a("A")
    retire(net)
    disk = net.disks["A"]
    net["A"].engine.renew_data_key()
    disk.fault = full_after(0)
    net["A"].step()
    before = len(disk.operations)
    for _ in range(20):
        net["A"].step()
    assert disk.operations[before:] == []
    assert net.machine("A").keys == 2


def story(net: Managers, words: list[bytes]) -> None:
    """Two secrets come and go, with writes before, between and after; `words` is what was acknowledged."""
    net["A"].campaign()
    net.settle()
    for word in (b"1", SECRET, b"2", RETIRE):
        net["A"].put(word)
        net.settle()
    words += net["A"].acknowledged
    net.erase("A")
    net["A"].put(b"3")
    net.erase("A")
    net["A"].put(b"4")
    net.settle()
    words += net["A"].acknowledged[4:]


async def test_a_power_cut_after_any_operation_loses_nothing_and_the_rest_is_done_later() -> None:
    whole = Managers("A")
    begun = len(whole.disks["A"].operations)
    story(whole, [])
    total = len(whole.disks["A"].operations)
    assert total - begun > 60
    for operations in range(total - begun):
        for seed in range(3):
            words: list[bytes] = []
            net = Managers("A", Random(seed))
            net.disks["A"].cut_after = operations
            with suppress(PowerCut):
                story(net, words)
            net.disks["A"].restart()
            recovered(net, words)


def recovered(net: Managers, words: list[bytes]) -> None:
    net.replicas.clear()
    net.start("A")
    net["A"].campaign()
    net.settle()
    wanted = [each for each in words if each not in {SECRET, RETIRE}]
    found = [each for each in net["A"].applied if each != SECRET]
    assert found[: len(wanted)] == wanted
    net["A"].put(RETIRE)
    net.erase("A")  # the one that the cut may have left half done
    net.erase("A")
    assert (net.finds("A", SECRET), net.machine("A").keys) == (False, 1)
    assert len(segments_in(net.disks["A"], FOLDER / "A/journal")) == 1
    net["A"].put(b"after")
    net.kill("A")
    net.start("A")
    assert net["A"].stored.journal.last.command.endswith(b"after")


async def test_a_key_that_is_gone_opens_no_segment_that_somebody_puts_back() -> None:
    net = led_by_a("A")
    retire(net)
    kept = files_of(FOLDER / "A", net.disks["A"])
    net.erase("A")
    net.kill("A")
    (name,) = (path for path in kept if path.parent.name == "journal" and "spare" not in path.name)
    net.disks["A"].create(name).write(0, kept[name])
    with pytest.raises(Internal, match="sealed with data key 1, which is not"):
        raft_storage.open_existing(FOLDER / "A", KEK, net.disks["A"], SMALL)
