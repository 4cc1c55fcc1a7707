"""Who stands for election, and when: the timer alone, and managers that talk about it."""

from __future__ import annotations

from pathlib import Path

from tests.unit.raft_replay import Net

from swarmnet.manager.raft.election import Election, LogEnd


def timer(now: float = 0.0) -> Election:
    """Always waits for the shortest time: 1 s."""
    return Election(1.0, 2.0, lambda least, _most: least, now)


def test_a_silent_leader_is_missed_after_a_timeout() -> None:
    election = timer()
    election.heard(10.0)
    assert election.has_leader(10.9)
    assert not election.due(10.9)
    assert election.due(11.0)
    assert not election.has_leader(11.0)


def test_a_leader_whose_connection_broke_is_missed_in_turns() -> None:
    first, second = timer(), timer()
    for turn, election in enumerate((first, second)):
        election.heard(10.0)
        election.lost(10.0, turn)
        assert not election.has_leader(10.0)
    assert first.stand_at < second.stand_at < 11.0
    second.heard(10.05)
    assert second.has_leader(10.05)
    assert second.stand_at == 11.05


def test_answers_count_for_as_long_as_the_question_is_the_same() -> None:
    election = timer()
    election.ask(1.0, 7)
    assert not election.is_backed(7, ["b", "c", "d", "e"])
    election.granted("b", 7)
    election.ask(1.1, 7)
    election.granted("b", 7)
    election.granted("stranger", 7)
    assert not election.is_backed(7, ["b", "c", "d", "e"])
    election.granted("c", 7)
    assert election.is_backed(7, ["b", "c", "d", "e"])
    election.ask(2.0, 8)
    election.granted("d", 7)
    assert not election.is_backed(8, ["b", "c", "d", "e"])


def test_who_hears_a_leader_drops_its_question() -> None:
    election = timer()
    election.ask(1.0, 7)
    election.granted("b", 7)
    election.heard(1.1)
    election.granted("c", 7)
    assert not election.is_backed(7, ["b", "c"])


def test_the_only_manager_backs_itself() -> None:
    election = timer()
    election.ask(1.0, 0)
    assert election.is_backed(0, [])


def test_the_later_log_is_the_one_of_the_later_term() -> None:
    assert LogEnd(2, 5).holds_all_of(LogEnd(1, 9))
    assert LogEnd(2, 5).holds_all_of(LogEnd(2, 5))
    assert not LogEnd(2, 5).holds_all_of(LogEnd(2, 6))


async def led_by_a(folder: Path) -> Net:
    net = Net("ABC", folder)
    net["A"].campaign()
    net.settle()
    assert net["A"].leading == [True]
    return net


async def test_a_manager_that_was_cut_off_asks_for_ever_and_deposes_nobody(tmp_path: Path) -> None:
    net = await led_by_a(tmp_path)
    term = net["A"].raft.term
    for _ in range(5):
        net["C"].miss_leader()
        net.drop("C", "AB")
    net["A"].put(b"meanwhile")
    net.drop("A", "C")
    net.settle("AB")
    assert net["C"].raft.term == term
    net["C"].miss_leader()
    net.settle()
    assert [each.raft.term for each in net.replicas.values()] == [term] * 3
    assert net["A"].leading == [True]
    assert net["C"].applied == [b"meanwhile"]


async def test_managers_that_miss_their_leader_elect_another(tmp_path: Path) -> None:
    net = await led_by_a(tmp_path)
    net["C"].forget_leader()
    net["B"].miss_leader()
    net.settle("BC")
    assert net["B"].leading == [True]
    net.drop("A", "BC")
    net["A"].step()
    net.settle()
    assert net["A"].leading == [True, False]


async def test_a_vote_is_refused_while_the_leader_is_heard(tmp_path: Path) -> None:
    net = await led_by_a(tmp_path)
    net["B"].raft.campaign()
    net["B"].engine._step()
    net.exchange("B", "C")
    net.exchange("B", "A")
    assert net["B"].leading == []
    assert net["C"].raft.term < net["B"].raft.term


async def test_a_candidate_nobody_voted_for_is_taken_back_in(tmp_path: Path) -> None:
    """It began a term that the leader must not ignore for ever: the leader's next append tells it."""
    net = await led_by_a(tmp_path)
    net["C"].raft.campaign()
    net["C"].engine._step()
    net.drop("C", "AB")
    net.settle()
    assert net["A"].leading == [True, False]
    for name in "AB":
        net[name].forget_leader()
    net["A"].miss_leader()
    net.settle()
    assert net["A"].leading[-1]
    net["A"].put(b"after")
    net.settle()
    assert [each.applied for each in net.replicas.values()] == [[b"after"]] * 3


async def test_who_has_more_of_the_log_stands_in_place_of_who_asks(tmp_path: Path) -> None:
    net = await led_by_a(tmp_path)
    net["A"].put(b"word")
    net.exchange("A", "B")
    net.drop_all()
    for name in "BC":
        net[name].forget_leader()
    net["C"].miss_leader()
    net.drop("C", "A")
    net.drop("B", "A")
    net.settle("BC")
    assert net["C"].leading == []
    assert net["B"].leading == [True]
    assert net["C"].applied == [b"word"]
