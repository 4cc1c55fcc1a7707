"""What made pysyncobj lose acknowledged writes or get stuck, played again under the guard."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.raft_replay import Net

from swarmnet.core.errors import FailedPrecondition, Internal, NotLeader
from swarmnet.manager.raft.entries import COMMAND, Change, Entry, encode_payload
from swarmnet.manager.raft.guard import Guard, acknowledgement, is_promise
from swarmnet.manager.raft.member import Member


async def led_by_a(names: str, folder: Path) -> Net:
    net = Net(names, folder)
    net["A"].campaign()
    net.settle()
    assert net["A"].leading == [True]
    return net


async def test_a_resent_append_does_not_make_a_follower_forget(tmp_path: Path) -> None:
    """Early acks make the leader send later entries again, in parts; the library alone cuts the rest."""
    net = await led_by_a("ABC", tmp_path)
    words = [b"%d" % number + bytes(30_000) for number in range(6)]
    net["A"].raft._library.conf.appendEntriesBatchSizeBytes = 65_536
    for word in words:
        net["A"].put(word)
    net.deliver("A", "B")
    net.deliver("B", "A", 1)
    net["A"].step()
    net.deliver("B", "A")
    net["A"].step()
    assert net["A"].acknowledged == words
    end = net["B"].stored.journal.last
    net.deliver("A", "B", 1)
    assert net["B"].stored.journal.last == end
    net.drop("A", "BC")
    net["B"].campaign()
    net.settle("BC", 8)
    assert net["B"].applied == net["C"].applied == words


async def test_an_ack_of_an_earlier_term_is_not_counted(tmp_path: Path) -> None:
    net = await led_by_a("ABCDE", tmp_path)
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
    assert net["A"].acknowledged == []


async def test_a_follower_with_another_tail_far_behind_catches_up(tmp_path: Path) -> None:
    net = await led_by_a("ABC", tmp_path)
    for name in "ABC":
        net[name].raft._library.conf.appendEntriesBatchSizeBytes = 65_536
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
    assert net["A"].applied == net["B"].applied
    assert len(net["A"].applied) == 60


async def test_a_vote_counts_once(tmp_path: Path) -> None:
    net = Net("ABCDE", tmp_path)
    net["A"].campaign()
    net.deliver("A", "B")
    vote = net.queues["B", "A"][0]
    net.queues["B", "A"].extend([vote] * 3)
    net.deliver("B", "A")
    assert not net["A"].raft.leads


async def test_promises_leave_after_the_disk_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = await led_by_a("ABC", tmp_path)
    journal = net["B"].stored.journal
    dirty: list[bool] = []
    monkeypatch.setattr(net["B"], "transmit", lambda _messages: dirty.append(journal.dirty))
    net["A"].put(b"word")
    net.deliver("A", "B")
    assert dirty == [False]
    assert journal.last.command.endswith(b"word")
    assert [is_promise({"type": name}) for name in ("response_vote", "request_vote", "append_entries")] == [
        True,
        True,
        False,
    ]


class At:
    """A position that is put."""

    term, commit_index, applied_index = 5, 3, 3


async def test_a_leader_that_contradicts_what_is_committed_is_not_followed(tmp_path: Path) -> None:
    net = await led_by_a("ABC", tmp_path)
    for number in range(3):
        net["A"].put(b"%d" % number)
    net.settle()
    journal = net["B"].stored.journal
    other = Entry(bytes([COMMAND]) + encode_payload(b"other"), 3, 9)
    message = {
        "type": "append_entries",
        "term": 9,
        "commit_index": 1,
        "prevLogIdx": 2,
        "prevLogTerm": journal.term_at(2),
        "entries": [other],
    }
    with pytest.raises(Internal, match="contradicts the committed entry 3"):
        net["B"].engine.received("C", 9, message)


async def test_after_a_snapshot_only_its_last_entry_is_acknowledged(tmp_path: Path) -> None:
    net = await led_by_a("ABC", tmp_path)
    guard = Guard(net["A"].stored.journal, At())
    chunk = {"type": "append_entries", "term": 5, "commit_index": 99, "serialized": None}
    verdict = guard.incoming("B", 5, chunk)
    assert verdict.message is not None
    assert verdict.message["commit_index"] == 0
    guard.snapshot_installed(7)
    assert guard.outgoing(acknowledgement(12))["next_node_idx"] == 8
    guard.incoming("B", 5, {"type": "timeout_now", "term": 5})
    assert guard.outgoing(acknowledgement(12))["next_node_idx"] == 13


async def test_a_reset_asks_for_no_more_than_what_follows_the_commit(tmp_path: Path) -> None:
    net = await led_by_a("ABC", tmp_path)
    guard = Guard(net["A"].stored.journal, At())
    reset = {"type": "next_node_idx", "next_node_idx": 50, "reset": True, "success": False}
    assert guard.outgoing(reset)["next_node_idx"] == 4


async def test_a_read_needs_a_majority_that_still_follows(tmp_path: Path) -> None:
    net = await led_by_a("ABC", tmp_path)
    answer = net["A"].read()
    assert answer == []
    net.exchange("A", "B")
    assert answer == [True]
    net.drop_all()
    net["C"].campaign()
    net.exchange("C", "B")
    net.settle("BC", 4)
    assert net["C"].leading == [True]
    net.drop_all()
    late = net["A"].read()
    net.deliver("A", "B")
    net.deliver("A", "C")
    net.deliver("B", "A")
    assert True not in late


async def test_one_change_of_members_at_a_time(tmp_path: Path) -> None:
    net = await led_by_a("ABC", tmp_path)
    told: list[object] = []
    for name in "DE":
        change = Change(remove=False, member=Member(name, name, name))
        net["A"].engine.change(change, told.append, lambda _error: None)
    net["A"].step()
    assert told[0] is None
    assert isinstance(told[1], FailedPrecondition)
    assert set(net["A"].raft.peers) == {"B", "C", "D"}


async def test_only_the_leader_appends(tmp_path: Path) -> None:
    net = await led_by_a("ABC", tmp_path)
    net["B"].put(b"word")
    assert isinstance(net["B"].refused[0], NotLeader)
    net.settle()
    assert net["A"].applied == []


async def test_members_are_those_of_the_whole_log_whatever_of_it_is_applied(tmp_path: Path) -> None:
    """The library makes a change when it is appended, and again when it is applied, after later ones."""
    net = await led_by_a("ABCD", tmp_path)
    removed, added = (Change(remove, Member("D", "D", "D")) for remove in (True, False))
    for change in (removed, added):
        net["A"].engine.change(change, lambda _: None, lambda _: None)
        net["A"].step()
        net.drop("A", "B")
        if change is removed:
            net.exchange("A", "C")
            net["A"].step()
    net.settle("AB", 1)
    net["A"].step()
    net.deliver("A", "B")
    log = net["B"].stored.journal
    assert net["B"].raft.applied_index == log.last.index - 1
    assert set(log.members()) == set("ABCD")
    assert set(net["B"].raft.peers) == set("ACD")
