"""The ways in which pysyncobj alone loses acknowledged writes or stands still, each played twice: the plain
library must fail, or the scenario shows nothing; our engine must not."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from unittest.mock import Mock, patch

import pytest
from pysyncobj import journal
from tests.sim.plain_library import PlainNet, PlainReplica, as_it_comes
from tests.unit.raft_replay import Net, Replica

from swarmnet.manager.raft import disk
from swarmnet.manager.raft.guard import Guard, Message, Verdict
from swarmnet.manager.raft.journal import LAYOUT
from swarmnet.manager.raft.library import SnapshotStatus
from swarmnet.manager.raft.segments import Layout

TINY = Layout(segment_bytes=1280, reserve_bytes=256, frame_bytes=512)
"""Several segments, so that there is something to cut."""
Nets = PlainNet | Net
Scenario = Callable[[Nets], list[bytes]]


def lost(net: Nets, acknowledged: list[bytes], names: Sequence[str]) -> list[bytes]:
    """What was acknowledged and is in the state of none of these managers."""
    return [each for each in acknowledged if not any(each in net[name].applied for name in names)]


def led_by_a(net: Nets) -> None:
    net["A"].campaign()
    net.settle()


def needless_truncation(net: Nets) -> list[bytes]:
    """Early acks make the leader send later entries again, in parts: a follower drops what it had."""
    led_by_a(net)
    for name in net.names:
        net[name].limit_batches(65_536)
    for number in range(6):
        net["A"].put(b"%d" % number + bytes(30_000))
    net.deliver("A", "B")
    net.deliver("B", "A", 1)
    net["A"].step()
    net.deliver("B", "A")
    net["A"].step()
    acknowledged = list(net["A"].acknowledged)
    assert len(acknowledged) == 6
    net.deliver("A", "B", 1)
    net.drop("A", "BC")
    net["B"].campaign()
    net.settle("BC", 8)
    return lost(net, acknowledged, "BC")


def acks_without_a_term(net: Nets) -> list[bytes]:
    """An append reply comes late, when its receiver leads again: other entries stand at that index now."""
    led_by_a(net)
    net.drop_all()
    for number in range(5):
        net["A"].put(b"old %d" % number)
    net.deliver("A", "B")
    delayed = list(net.queues["B", "A"])
    assert delayed
    net.drop_all()
    net["C"].campaign()
    net.drop("C", "AB")
    for other in "DE":
        net.exchange("C", other)
    for _ in range(8):
        net["C"].step()
        for other in "ABDE":
            net.exchange("C", other)
    net["A"].campaign()
    net.drop("A", "B")
    for other in "CDE":
        net.exchange("A", other)
    for number in range(4):
        net["A"].put(b"new %d" % number)
    net.drop("A", "BCD")
    for _ in range(3):
        net.exchange("A", "E")
        net["A"].step()
        net.drop("A", "BCD")
    net.queues["B", "A"].extend(delayed)
    net.deliver("B", "A")
    net["A"].step()
    acknowledged = list(net["A"].acknowledged)
    net.kill("AE")
    net["C"].campaign()
    net.settle("BCD", 8)
    return lost(net, acknowledged, "BCD")


def snapshot_outlives_its_process(net: Nets) -> list[bytes]:
    """All are killed while they compact, after more was acknowledged than the snapshot holds."""
    finish, acknowledged = written_on_while_compacting(net)
    net.kill("ABC")
    for done in finish:
        done()
    return after_a_restart(net, acknowledged)


def written_on_while_compacting(net: Nets) -> tuple[list[Callable[[], object]], list[bytes]]:
    """How each snapshot comes to its end, and what was acknowledged before that."""
    led_by_a(net)
    for number in range(30):
        net["A"].put(b"%d" % number)
    net.settle()
    finish = [start_snapshot(net[name]) for name in net.names]
    for number in range(30, 50):
        net["A"].put(b"%d" % number)
        for other in "BC":
            net.exchange("A", other)
    net["A"].step()
    acknowledged = list(net["A"].acknowledged)
    assert len(acknowledged) == 50
    return finish, acknowledged


def start_snapshot(replica: PlainReplica | Replica) -> Callable[[], object]:
    """Returns what to do once the processes are dead: let that which outlives them come to its end."""
    if isinstance(replica, Replica):
        return hold_snapshot(replica)
    replica.compact()
    dumper = replica.hold_dump()
    return lambda: os.waitid(os.P_PID, dumper, os.WEXITED | os.WNOWAIT)


def hold_snapshot(replica: Replica) -> Callable[[], None]:
    """Start it; it counts as unfinished until what is returned is called."""
    held = patch.object(replica.engine._snapshots, "status", return_value=(SnapshotStatus.WRITING, None))
    replica.raft.compact()
    replica.step()
    assert replica.stored.snapshots.read() is not None
    held.start()
    return held.stop


def killed_while_cutting_the_log(net: Nets) -> list[bytes]:
    """The library cuts by emptying its file and writing it again."""
    finish, acknowledged = written_on_while_compacting(net)
    for name, done in zip(net.names, finish, strict=True):
        done()
        die_while_cutting(net[name])
    net.kill("ABC")
    return after_a_restart(net, acknowledged)


class Killed(BaseException):
    """Here the process ended."""


def die_while_cutting(replica: PlainReplica | Replica) -> None:
    """The snapshot is on disk; the process ends in the midst of the step that cuts the log."""
    if isinstance(replica, Replica):
        with patch.object(disk.RealDisk, "remove", Mock(side_effect=Killed)), pytest.raises(Killed):
            replica.step()
        return
    replica.take_dump()
    file = replica.library._SyncObj__raftLog._FileJournal__journalFile
    write, killed = file.write, Mock(side_effect=[None, None, None, Killed])

    def write_or_die(offset: int, values: bytes) -> None:
        killed()
        write(offset, values)

    with patch.object(file, "write", write_or_die), pytest.raises(Killed):
        replica.library.doTick(0.0)


def catch_up_with_another_tail(net: Nets) -> list[bytes]:
    """A follower has another tail and is more than one append behind: what does it never get?"""
    led_by_a(net)
    for name in net.names:
        net[name].limit_batches(65_536)
    for number in range(5):
        net["A"].put(b"orphan %d" % number)
    net.drop_all()
    net["B"].campaign()
    net.drop("B", "A")
    net.settle("BC", 3)
    for number in range(60):
        net["B"].put(b"%d" % number + bytes(3000))
        net.exchange("B", "C")
        net.drop("B", "A")
    net.settle("BC", 3)
    net.drop_all()
    net.settle(rounds=10)
    acknowledged = net["B"].acknowledged
    assert len(acknowledged) == 60
    return lost(net, acknowledged, "A")


def after_a_restart(net: Nets, acknowledged: list[bytes]) -> list[bytes]:
    for name in net.names:
        net.start(name)
    net["B"].step()
    net["B"].campaign()
    net.settle(rounds=10)
    return lost(net, acknowledged, net.names)


CASES: list[tuple[Scenario, str]] = [
    (needless_truncation, "ABC"),
    (acks_without_a_term, "ABCDE"),
    (snapshot_outlives_its_process, "ABC"),
    (killed_while_cutting_the_log, "ABC"),
    (catch_up_with_another_tail, "ABC"),
]


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.parametrize(("scenario", "names"), CASES, ids=[case.__name__ for case, _ in CASES])
async def test_the_plain_library_loses_acknowledged_writes(
    scenario: Scenario, names: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_it_comes(monkeypatch)
    net = PlainNet(names, tmp_path)
    try:
        assert scenario(net) != []
    finally:
        net.close()


@pytest.mark.parametrize(("scenario", "names"), CASES, ids=[case.__name__ for case, _ in CASES])
async def test_our_engine_keeps_them(scenario: Scenario, names: str, tmp_path: Path) -> None:
    net = Net(names, tmp_path, layout=TINY if scenario is killed_while_cutting_the_log else LAYOUT)
    try:
        assert scenario(net) == []
    finally:
        net.close()


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
async def test_the_plain_library_keeps_nothing_through_a_power_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It never has the disk keep anything, so what the power cut leaves of its files is up to the kernel."""
    as_it_comes(monkeypatch)
    synced = Mock()

    class Mapped(mmap.mmap):
        def flush(self, offset: int = 0, size: int = 0) -> None:
            synced()

    monkeypatch.setattr(journal, "mmap", Mock(mmap=Mapped))
    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "fdatasync", synced)
    net = PlainNet("ABC", tmp_path)
    led_by_a(net)
    net["A"].put(b"word")
    net.settle()
    assert net["A"].acknowledged == [b"word"]
    assert synced.call_count == 0
    net.close()
    assert synced.called, "it would have been seen"


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
async def test_the_plain_library_tries_what_cannot_be_applied_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And applies nothing after it; tests/e2e/test_raft_members.py shows what ours does."""
    as_it_comes(monkeypatch)
    net = PlainNet("ABC", tmp_path)
    led_by_a(net)
    for _ in range(10):
        with suppress(ValueError):
            net["A"].put(b"poison")
        for name in net.names:
            with suppress(ValueError):
                net[name].step()
            for other in net.names:
                with suppress(ValueError):
                    net.deliver(other, name)
    assert net["A"].library.attempts >= 10
    assert net["A"].acknowledged == []
    net.close()


def count_acks_of_any_term(patched: pytest.MonkeyPatch) -> None:
    guarded = Guard.incoming

    def incoming(guard: Guard, node_id: str, term: int, message: Message) -> Verdict:
        if message["type"] == "next_node_idx":
            return Verdict(message)
        return guarded(guard, node_id, term, message)

    patched.setattr(Guard, "incoming", incoming)


def cut_what_matches(patched: pytest.MonkeyPatch) -> None:
    patched.setattr(Guard, "_append", lambda _guard, message: Verdict(message))


def ask_beyond_the_commit(patched: pytest.MonkeyPatch) -> None:
    patched.setattr(Guard, "outgoing", lambda _guard, message: message)


NEEDED = [
    (needless_truncation, "ABC", cut_what_matches),
    (acks_without_a_term, "ABCDE", count_acks_of_any_term),
    (catch_up_with_another_tail, "ABC", ask_beyond_the_commit),
]


@pytest.mark.parametrize(("scenario", "names", "without"), NEEDED, ids=[each.__name__ for *_, each in NEEDED])
async def test_without_its_rule_the_guard_keeps_no_more_than_the_library(
    scenario: Scenario,
    names: str,
    without: Callable[[pytest.MonkeyPatch], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without(monkeypatch)
    net = Net(names, tmp_path)
    try:
        assert scenario(net) != []
    finally:
        net.close()
