"""Leaders that a manager's own log does not name: it must follow them, or it is left behind for good."""

from __future__ import annotations

from pathlib import Path

from tests.unit.raft_replay import Net

from swarmnet.core.errors import SwarmnetError
from swarmnet.manager.raft.acquaintances import Acquaintances
from swarmnet.manager.raft.entries import Change
from swarmnet.manager.raft.member import Member

ONE, OTHER = Member("one", "h1:2377", "h1:2374"), Member("other", "h2:2377", "h2:2374")


def test_an_acquaintance_is_listened_to_for_a_while() -> None:
    met = Acquaintances()
    met.introduced([ONE, OTHER], 100.0)
    assert met.beside({"one": ONE}, 101.0) == {"other": OTHER}
    assert met.may_say("other", "append_entries", 109.9)
    assert not met.may_say("other", "append_entries", 110.0)


def test_nothing_that_counts_is_taken_from_one_that_is_no_member() -> None:
    met = Acquaintances()
    met.introduced([ONE], 100.0)
    for kind in ("next_node_idx", "response_vote", "pre_vote", "probe_reply", "introduction"):
        assert not met.may_say("one", kind, 100.0)
    assert not met.may_say("stranger", "append_entries", 100.0)


async def led_by_a(names: str, folder: Path) -> Net:
    net = Net(names, folder)
    net["A"].campaign()
    net.settle()
    assert net["A"].leading == [True]
    return net


def change(net: Net, change: Change) -> None:
    told: list[SwarmnetError | None] = []
    net["A"].engine.change(change, told.append, lambda _error: None)
    net["A"].step()
    assert told == [None]


async def test_a_follower_that_was_away_follows_a_leader_that_joined_meanwhile(tmp_path: Path) -> None:
    net = await led_by_a("ABC", tmp_path)
    change(net, Change(remove=False, member=Member("D", "D", "D")))
    net.names = "ABCD"
    net.start("D")
    net["A"].connect("D")
    net["B"].connect("D")
    net.drop("A", "C")
    net.settle("ABD")
    net["D"].campaign()
    net.drop("D", "C")
    net.settle("ABD")
    assert net["D"].leading == [True]
    net["D"].put(b"word")
    net.settle()
    assert net["C"].applied == []
    net["C"].miss_leader()
    net.settle(rounds=10)
    assert net["C"].applied == [b"word"]
    assert set(net["C"].raft.peers) == {"A", "B", "D"}


async def test_a_deposed_leader_follows_the_one_whose_removal_it_began(tmp_path: Path) -> None:
    net = await led_by_a("ABC", tmp_path)
    change(net, Change(remove=True, member=Member("C", "C", "C")))
    net.drop_all()
    assert set(net["A"].raft.peers) == {"B"}
    net["C"].campaign()
    net.exchange("C", "B")
    net.settle("BC")
    assert net["C"].leading == [True]
    net["C"].put(b"word")
    net.settle()
    assert net["A"].applied == []
    net["A"].forget_leader()
    net["A"].miss_leader()
    net.settle(rounds=10)
    assert net["A"].applied == [b"word"]
    assert set(net["A"].raft.peers) == {"B", "C"}
