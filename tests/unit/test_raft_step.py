"""A step of Raft: as little as a command needs, in an order that promises nothing too early."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.unit.raft_cluster import until
from tests.unit.raft_replay import Net

from swarmnet.api.v1 import raft_pb2 as raft
from swarmnet.manager.raft import codec
from swarmnet.manager.raft.entries import Change
from swarmnet.manager.raft.guard import Message, acknowledgement
from swarmnet.manager.raft.journal import Journal
from swarmnet.manager.raft.link import batches
from swarmnet.manager.raft.member import Member
from swarmnet.manager.raft.outbox import Messages, Outbox
from swarmnet.manager.raft.thread import Pacer, RaftThread

HEARTBEAT: Message = {
    "type": "append_entries",
    "commit_index": 1,
    "entries": [],
    "prevLogIdx": 1,
    "prevLogTerm": 0,
}
REPLY = {**acknowledgement(3), "full": False}


class Watched:
    """What leaves, and when the journal was synced."""

    def __init__(self) -> None:
        self.seen: list[object] = []

    def transmit(self, messages: Messages) -> None:
        self.seen.append([node_id for node_id, _ in messages])

    def sync(self) -> None:
        self.seen.append("sync")


def test_only_promises_wait_for_the_disk_and_all_stay_in_order() -> None:
    watched = Watched()
    outbox = Outbox(watched, watched.sync)  # type: ignore[arg-type]  # the one method of an outlet
    outbox.add("B", HEARTBEAT, 1)
    outbox.add("C", HEARTBEAT, 1)
    outbox.add("B", REPLY, 1)
    outbox.add("B", HEARTBEAT, 1)
    outbox.add("C", REPLY, 1)
    outbox.flush()
    assert watched.seen == [["B", "C"], "sync", ["B", "B", "C"]]
    outbox.flush()
    outbox.add("C", HEARTBEAT, 1)
    outbox.flush()
    assert watched.seen[3:] == [["C"]]


def test_what_several_are_told_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[raft.RaftMessage] = []
    watched = Watched()
    monkeypatch.setattr(watched, "transmit", lambda messages: sent.extend(each for _, each in messages))
    outbox = Outbox(watched, watched.sync)  # type: ignore[arg-type]
    for node_id, message, term in (
        ("B", HEARTBEAT, 1),
        ("C", dict(HEARTBEAT), 1),
        ("C", {**HEARTBEAT, "commit_index": 2}, 1),
        ("B", {**HEARTBEAT, "commit_index": 2}, 2),
    ):
        outbox.add(node_id, message, term)
    outbox.flush()
    assert sent[0] is sent[1]
    assert [(each.term, each.append.commit_index) for each in sent] == [(1, 1), (1, 1), (1, 2), (2, 2)]


def test_a_batch_is_cut_where_it_gets_too_large() -> None:
    chunk = raft.RaftMessage(term=1, snapshot_chunk=raft.RaftSnapshotChunk(data=bytes(1_500_000)))
    found = [raft.RaftBatch.FromString(each) for each in batches([chunk] * 3)]
    assert [len(each.messages) for each in found] == [2, 1]
    assert list(batches([])) == []


async def led_by_a(folder: Path) -> Net:
    net = Net("ABC", folder)
    net["A"].campaign()
    net.settle()
    net.drop_all()
    return net


def posted(net: Net, source: str, target: str) -> None:
    """Deliver as the thread does: posted, for the step after."""
    queue, engine = net.queues[source, target], net[target].engine
    while queue:
        message = raft.RaftMessage.FromString(queue.popleft())
        engine.take(source, message.term, codec.decode(message))


def ticks(net: Net, name: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ticks of the library from now on."""
    seen: list[str] = []
    tick = net[name].raft.tick

    def watched() -> None:
        seen.append(name)
        tick()

    monkeypatch.setattr(net[name].raft, "tick", watched)
    return seen


async def test_a_reply_that_lets_nothing_be_committed_costs_no_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = await led_by_a(tmp_path)
    seen = ticks(net, "A", monkeypatch)
    net["A"].put(b"word")
    assert len(seen) == 1, "taken into the log and sent by one tick"
    for follower in "BC":
        net.deliver("A", follower)
    posted(net, "B", "A")
    net["A"].engine._step()
    assert (net["A"].acknowledged, len(seen)) == ([b"word"], 2)
    posted(net, "C", "A")
    net["A"].engine._step()
    assert len(seen) == 2
    assert net["A"].raft.matched() == dict.fromkeys("BC", net["A"].stored.journal.last.index)
    net["A"].engine._step()
    assert len(seen) == 3, "when it is time, the step is made"


async def test_a_reply_that_a_handover_waits_for_is_acted_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = await led_by_a(tmp_path)
    net["A"].put(b"word")
    for follower in "BC":
        net.deliver("A", follower)
    posted(net, "B", "A")
    net["A"].engine._step()
    net["A"].engine.transfer("C")
    seen = ticks(net, "A", monkeypatch)
    posted(net, "C", "A")
    net["A"].engine._step()
    assert len(seen) == 1


async def test_a_second_answer_to_a_probe_costs_no_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = await led_by_a(tmp_path)
    answers = net["A"].read()
    for follower in "BC":
        net.deliver("A", follower)
    seen = ticks(net, "A", monkeypatch)
    posted(net, "B", "A")
    net["A"].engine._step()
    assert (answers, len(seen)) == ([True], 1)
    posted(net, "C", "A")
    net["A"].engine._step()
    assert (answers, len(seen)) == ([True], 1)


async def test_a_follower_has_it_on_disk_before_it_replies_and_replies_before_it_applies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = await led_by_a(tmp_path)
    net["A"].put(b"first")
    net.settle()
    net["A"].put(b"second")
    done: list[str] = []
    monkeypatch.setattr(Journal, "sync", noted(done, "sync", Journal.sync))
    monkeypatch.setattr(net["B"], "transmit", noted(done, "reply", net["B"].transmit))
    monkeypatch.setattr(net["B"].raft, "tick", noted(done, "tick", net["B"].raft.tick))
    net.deliver("A", "B")
    assert done[:3] == ["sync", "reply", "tick"]


def noted(done: list[str], what: str, act: Callable[..., Any]) -> Callable[..., Any]:
    def watched(*given: Any) -> Any:
        done.append(what)
        return act(*given)

    return watched


class Paced:
    """A pacer on a thread; `pause_s` is what its next steps return."""

    def __init__(self) -> None:
        self.thread = RaftThread()
        self.steps: list[float] = []
        self.pause_s: float | None = None

    async def start(self) -> Pacer:
        self.thread.start()
        return Pacer(self.thread, self._step)

    def _step(self) -> float | None:
        self.steps.append(self.thread.loop.time())
        return self.pause_s

    async def do(self, *acts: Callable[[], None]) -> None:
        async def work() -> None:
            for act in acts:
                act()

        await self.thread.call(work())
        await self.thread.call(asyncio.sleep(0))


async def test_who_wakes_it_several_times_gets_one_step() -> None:
    paced = Paced()
    pacer = await paced.start()
    await paced.do(pacer.wake, pacer.nudge, pacer.wake)
    assert len(paced.steps) == 1
    await paced.do(pacer.wake, pacer.run)
    assert len(paced.steps) == 2, "a step made meanwhile has taken everything"
    await paced.do(pacer.run, pacer.wake)
    assert len(paced.steps) == 4
    await paced.thread.stop()


async def test_it_steps_again_when_it_is_due_and_not_before() -> None:
    paced = Paced()
    pacer = await paced.start()
    paced.pause_s = 0.02
    await paced.do(pacer.run)
    paced.pause_s = 0.1
    await paced.do(pacer.run)
    paced.pause_s = None
    await until(lambda: len(paced.steps) == 3)
    assert paced.steps[2] - paced.steps[1] >= 0.1, "the timer of the first step goes off too early"
    paced.pause_s = 30.0
    await paced.do(pacer.run)
    paced.pause_s = 0.01
    await paced.do(pacer.run)
    paced.pause_s = None
    await until(lambda: len(paced.steps) == 6)
    assert paced.steps[5] - paced.steps[4] >= 0.01
    await paced.thread.stop()


async def test_the_members_are_worked_out_when_they_change(tmp_path: Path) -> None:
    net = await led_by_a(tmp_path)
    members = net["A"].raft.peers
    net["A"].put(b"word")
    net.settle()
    assert net["A"].raft.peers is members
    change = Change(remove=True, member=Member("C", "C", "C"))
    net["A"].engine.change(change, lambda _error: None, lambda _error: None)
    assert list(net["A"].raft.peers) == ["B"]
    assert set(members) == {"B", "C"}, "what was handed out does not change"
