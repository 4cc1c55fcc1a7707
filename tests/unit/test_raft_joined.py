"""A manager that comes back under its node id with an empty disk has forgotten what it promised: those who
count on that must get nothing from it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.unit.raft_replay import Net

from swarmnet.api.v1 import raft_pb2 as raft
from swarmnet.manager.raft.entries import Change
from swarmnet.manager.raft.member import Member

B = Member("B", "B", "B")


def change(net: Net, change: Change) -> None:
    net["A"].engine.change(change, lambda _error: None, lambda _error: None)
    net["A"].step()


async def with_b_anew(folder: Path, *, told: bool) -> Net:
    """C was away while B was removed, emptied, and added again."""
    net = Net("ABCDE", folder)
    net["A"].campaign()
    net.settle()
    net["A"].put(b"known to all")
    net.settle()
    change(net, Change(remove=True, member=B))
    net.settle("ADE")
    net.kill("B")
    shutil.rmtree(folder / "B")
    change(net, Change(remove=False, member=B))
    if told:
        net.joined_at["B"] = net["A"].stored.journal.admission_of("B")
    net.start("B")
    for other in "ACDE":
        net[other].connect("B")
    net.settle("ADE")
    net.drop_all()
    return net


def said(net: Net, source: str, target: str) -> set[str | None]:
    return {raft.RaftMessage.FromString(each).WhichOneof("body") for each in net.queues[source, target]}


def backed(net: Net) -> set[str | None]:
    """What B says to D once all would elect it."""
    net["B"].miss_leader()
    for other in "ADE":
        net["B"].engine._election.granted(other, net["B"].raft.term)
    net["B"].step()
    return said(net, "B", "D")


@pytest.mark.parametrize("told", [True, False])
async def test_it_votes_for_nobody_who_does_not_know_that_it_came_back(tmp_path: Path, told: bool) -> None:
    net = await with_b_anew(tmp_path, told=told)
    net["B"].forget_leader()
    net["C"].miss_leader()
    net.deliver("C", "B")
    assert ("pre_vote" in said(net, "B", "C")) is not told
    net.drop_all()
    net["C"].campaign()
    net.deliver("C", "B")
    assert ("vote" in said(net, "B", "C")) is not told


async def test_it_does_not_stand_before_it_has_the_entry_that_made_it_a_member(tmp_path: Path) -> None:
    net = await with_b_anew(tmp_path, told=True)
    assert backed(net) == {"pre_vote_request"}
    net.settle("ABDE", 10)
    assert net["B"].applied == [b"known to all"]
    net.drop_all()
    assert "vote_request" in backed(net)


async def test_it_remembers_that_over_a_restart(tmp_path: Path) -> None:
    net = await with_b_anew(tmp_path, told=True)
    net["B"].step()
    net.kill("B")
    net.start("B")
    assert net["B"].stored.journal.joined_at == net.joined_at["B"]
    assert net["B"].raft.term >= net["A"].raft.term
