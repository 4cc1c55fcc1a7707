"""One node's membership, driven by hand: what it sends, whom it believes."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import pytest

from swarmnet.api.v1 import gossip_pb2 as pb
from swarmnet.core.gossip import messages
from swarmnet.core.gossip.broadcast import Broadcast
from swarmnet.core.gossip.events import Event, MemberChanged, MemberDown, MemberUp
from swarmnet.core.gossip.limits import MAX_JUMP, MAX_RELAYS
from swarmnet.core.gossip.members import Member, Rumor, State
from swarmnet.core.gossip.pace import Pace
from swarmnet.core.gossip.swim import Surroundings, Swim
from swarmnet.core.gossip.timing import Timing
from swarmnet.core.gossip.turns import Turns

ME = Rumor("me", "10.0.0.1:7946", 1000, State.ALIVE)


class Bench:
    """A Swim whose wire is a list. Members a, b, c ... live at 10.0.0.<letter>."""

    def __init__(self, *members: str) -> None:
        self.sent: list[tuple[str, pb.ClusterDatagram]] = []
        self.asked: list[str] = []
        self.met: list[tuple[str, int]] = []
        self.events: list[Event] = []
        around = Surroundings(
            send=lambda member, message: self.sent.append((member.address, message)),
            ask=lambda member: self.asked.append(member.node_id),
            happened=self.events.append,
            meet=lambda *each: self.met.append(each),
            ping=lambda target, sequence: pb.Ping(sequence=sequence),
        )
        rumors = Broadcast(Timing(), Pace(Timing(), Random(1)))
        self.swim = Swim(ME, Timing(), Random(1), rumors, around)
        for member in members:
            self.hear(member, State.ALIVE)
        self.events.clear()

    def rumor(self, member: str, state: State, incarnation: int = 1000, by: str = "") -> Rumor:
        return Rumor(member, address(member), incarnation, state, by)

    def hear(
        self, member: str, state: State, incarnation: int = 1000, *, by: str = "", now: float = 0.0
    ) -> bool:
        return self.swim.on_rumor(self.rumor(member, state, incarnation, by), now)

    def member(self, name: str) -> Member:
        found = self.swim.members.get(name)
        assert found is not None
        return found

    def state(self, member: str) -> State | None:
        found = self.swim.members.get(member)
        return found.state if found else None

    def pings(self, member: str) -> list[pb.ClusterDatagram]:
        return [body for to, body in self.sent if to == address(member) and body.HasField("ping")]

    def answer(self, member: str, now: float = 0.0) -> None:
        """To the last ping."""
        self.swim.on_ack(self.member(member), pb.Ack(sequence=self.pings(member)[-1].ping.sequence), now)

    def told(self) -> list[Rumor]:
        body = pb.ClusterDatagram.FromString(self.swim.rumors.frames(10_000))
        return messages.rumors(body.rumors)

    def run_until(self, end: float) -> None:
        """Let the timers fire in their order; nobody answers anything."""
        while (at := self.swim.timers.next_deadline()) <= end:
            self.swim.tick(at)


def address(member: str) -> str:
    return ME.address if member == "me" else f"10.0.0.{ord(member)}:7946"


def test_a_new_member_is_taken_in_met_and_passed_on() -> None:
    bench = Bench()
    bench.hear("a", State.ALIVE)
    assert bench.events == [MemberUp("a")]
    assert bench.met == [("a", 0)]
    assert [each.node_id for each in bench.told()] == ["a"]


def test_a_silent_member_is_suspected_then_given_up() -> None:
    bench = Bench("a")
    bench.swim.start(0.0)
    bench.run_until(0.6)
    assert bench.state("a") is State.SUSPECT
    bench.run_until(3.0)
    assert bench.state("a") is State.DEAD
    assert bench.events == [MemberDown("a", left=False)]


def test_others_are_asked_to_try_and_it_itself_by_tcp_before_it_is_suspected() -> None:
    bench = Bench("a", "b", "c")
    bench.swim.start(0.0)
    while not any(body.HasField("ping_request") for _, body in bench.sent):
        bench.swim.tick(bench.swim.timers.next_deadline())
    asked = [
        (to, body.ping_request.target.decode()) for to, body in bench.sent if body.HasField("ping_request")
    ]
    assert len(asked) == 2
    assert all(to != address(target) for to, target in asked)
    assert bench.asked == [asked[0][1]]
    assert {bench.state(each) for each in "abc"} == {State.ALIVE}


def test_who_answers_by_tcp_is_not_suspected() -> None:
    bench = Bench("a", "b")
    bench.swim.start(0.0)
    while not bench.asked:
        bench.swim.tick(bench.swim.timers.next_deadline())
    bench.swim.spoke(bench.asked[0])
    bench.run_until(bench.swim.timers.next_deadline() + 0.21)
    assert {bench.state(each) for each in "ab"} == {State.ALIVE}


def test_an_ack_ends_the_probe() -> None:
    bench = Bench("a")
    bench.swim.start(0.0)
    while not bench.pings("a"):
        bench.swim.tick(bench.swim.timers.next_deadline())
    bench.answer("a")
    probed_again = bench.swim.timers.next_deadline()
    assert probed_again > 0.9  # nothing else is to come of it
    bench.run_until(probed_again + 0.1)
    assert bench.state("a") is State.ALIVE
    assert bench.asked == []


def test_each_member_is_probed_once_a_period_by_nodes_whose_clocks_agree() -> None:
    names = [chr(ord("a") + index) for index in range(20)]
    for period in range(5):
        probed = []
        for name in names:
            turns = Turns(name, 1.0, 1_700_000_000_000)
            turns.start(100.0)
            probed.append(turns.next([each for each in names if each != name], object(), 100.5 + period))
        assert sorted(map(str, probed)) == names


def test_a_suspicion_that_one_hears_of_is_checked_at_once() -> None:
    bench = Bench("a", "b")
    bench.hear("a", State.SUSPECT, by="b")
    (ping,) = bench.pings("a")
    (said,) = messages.rumors(ping.rumors)
    assert (said.node_id, said.state) == ("a", State.SUSPECT)


def test_nobody_is_given_up_on_hearsay() -> None:
    for state in (State.DEAD, State.LEFT):
        bench = Bench("a", "b")
        bench.hear("a", state)
        assert bench.state("a") is State.SUSPECT
        bench.answer("a")
        bench.hear("a", State.ALIVE, 1001)  # the refutation, which comes with the ack
        bench.run_until(60.0)
        assert bench.state("a") is State.ALIVE
        assert bench.events == []


def test_even_without_a_refutation_a_member_that_answers_is_not_given_up() -> None:
    bench = Bench("a", "b")
    for accuser in "bcde":
        bench.hear("a", State.SUSPECT, by=accuser)
    while (now := bench.swim.timers.next_deadline()) < 20:
        bench.answer("a", now)
        bench.swim.tick(now)
    assert bench.state("a") is State.SUSPECT


def test_who_falls_silent_while_suspected_is_given_up_once_there_is_a_verdict() -> None:
    bench = Bench("a", "b", "c")
    bench.hear("a", State.LEFT)
    bench.run_until(0.3)
    assert bench.state("a") is State.SUSPECT
    bench.run_until(0.5)
    assert bench.state("a") is State.LEFT
    assert bench.events == [MemberDown("a", left=True)]


def test_who_was_held_up_itself_concludes_nothing_before_it_has_read_what_came_meanwhile() -> None:
    bench = Bench("a", "b")
    bench.swim.start(0.0)
    while not bench.sent:
        bench.swim.tick(bench.swim.timers.next_deadline())
    sent_at = bench.swim.timers.next_deadline()
    bench.swim.tick(sent_at + 30.0)
    assert bench.swim.awareness.score > 0
    assert {bench.state(each) for each in "ab"} == {State.ALIVE}
    assert bench.asked == []


def test_a_false_rumor_about_oneself_is_refuted_with_a_higher_incarnation() -> None:
    for state in (State.SUSPECT, State.DEAD, State.LEFT):
        bench = Bench("a")
        bench.hear("me", state, 1005)
        assert (bench.swim.me.state, bench.swim.me.incarnation) == (State.ALIVE, 1006)
        assert ("me", 1006) in {(each.node_id, each.incarnation) for each in bench.told()}


@pytest.mark.parametrize("lie", [{"address": "10.6.6.6:7946"}, {"boot": 9}, {"meta": b"mine"}])
def test_what_others_make_up_of_oneself_is_refuted(lie: dict[str, Any]) -> None:
    bench = Bench("a")
    bench.swim.on_rumor(replace(ME, **lie), 0.0)
    assert bench.swim.me == replace(ME, incarnation=1001)


def test_who_accuses_is_not_believed_about_address_and_boot() -> None:
    bench = Bench("a", "b")
    bench.swim.on_rumor(Rumor("a", "10.6.6.6:1", 1005, State.SUSPECT, "b", 7, b"x"), 0.0)
    assert bench.member("a").address == address("a")
    assert bench.met == [("a", 0), ("b", 0)]


def test_who_missed_the_refutation_is_told_with_the_ack() -> None:
    bench = Bench("a")
    bench.hear("me", State.SUSPECT)
    bench.swim.rumors.clear()
    bench.hear("me", State.SUSPECT)
    bench.swim.on_ping(bench.member("a"), pb.Ping(sequence=1))
    assert bench.swim.me.incarnation == 1001
    assert [each.incarnation for each in messages.rumors(bench.sent[-1][1].rumors)] == [1001]


def test_nobody_can_push_an_incarnation_to_its_end() -> None:
    bench = Bench("a")
    assert not bench.hear("me", State.DEAD, 1000 + MAX_JUMP + 1)
    assert not bench.hear("a", State.ALIVE, 1000 + MAX_JUMP + 1)
    assert bench.swim.me.incarnation == 1000


def test_old_rumors_change_nothing() -> None:
    bench = Bench("a")
    bench.hear("a", State.ALIVE, 1010)
    bench.hear("a", State.SUSPECT, 1009, by="b")
    bench.hear("a", State.DEAD, 1009)
    assert bench.state("a") is State.ALIVE
    assert bench.pings("a") == []


def test_a_dead_member_comes_back_with_a_higher_incarnation_only() -> None:
    bench = Bench("a")
    bench.hear("a", State.DEAD)
    bench.run_until(2.0)
    assert bench.state("a") is State.DEAD
    bench.hear("a", State.ALIVE, 1000)
    assert bench.state("a") is State.DEAD
    bench.hear("a", State.ALIVE, 1001)
    assert bench.events[-1] == MemberUp("a")


def test_a_member_that_says_something_else_of_itself_is_reported() -> None:
    bench = Bench("a")
    bench.swim.on_rumor(Rumor("a", address("a"), 1001, State.ALIVE, meta=b"more memory"), 0.0)
    assert bench.events == [MemberChanged("a")]


def test_the_dead_whom_nobody_knew_are_not_taken_in() -> None:
    bench = Bench()
    bench.hear("x", State.DEAD)
    assert len(bench.swim.members) == 0


def test_the_digest_is_of_who_is_there_and_the_same_everywhere() -> None:
    one, other = Bench("a"), Bench("a", "b")
    assert one.swim.digest != other.swim.digest
    one.hear("b", State.ALIVE)
    assert one.swim.digest == other.swim.digest
    one.hear("b", State.ALIVE, 1001)
    assert one.swim.digest != other.swim.digest
    one.hear("b", State.DEAD, 1001)
    one.run_until(2.0)
    assert one.swim.digest == Bench("a").swim.digest


def test_a_ping_is_answered_where_its_sender_is_known_to_live() -> None:
    bench = Bench("a")
    bench.swim.on_ping(bench.member("a"), pb.Ping(sequence=7))
    assert [(to, body.ack.sequence) for to, body in bench.sent] == [(address("a"), 7)]


def test_a_relayed_ping_passes_the_ack_on_or_says_that_there_was_none() -> None:
    for answered in (True, False):
        bench = Bench("a", "b")
        request = pb.PingRequest(sequence=77, target=b"b")
        bench.swim.on_ping_request(bench.member("a"), request, "b", 0.0)
        if answered:
            bench.answer("b")
        bench.run_until(0.17)
        to, body = bench.sent[-1]
        assert (to, body.WhichOneof("message")) == (address("a"), "ack" if answered else "nack")
        assert (body.ack if answered else body.nack).sequence == 77
        assert len(bench.sent) == 2


def test_pings_for_others_are_bounded() -> None:
    bench = Bench("a", "b")
    for sequence in range(MAX_RELAYS + 5):
        bench.swim.on_ping_request(bench.member("a"), pb.PingRequest(sequence=sequence), "b", 0.0)
    assert len(bench.pings("b")) == bench.swim.load() == MAX_RELAYS


def test_who_leaves_says_so_and_answers_no_more() -> None:
    bench = Bench("a")
    bench.swim.leave(0.0)
    bench.swim.on_ping(bench.member("a"), pb.Ping(sequence=7))
    bench.hear("me", State.SUSPECT)
    assert bench.sent == []
    assert bench.swim.me.state is State.LEFT


def test_who_misses_many_answers_becomes_patient() -> None:
    bench = Bench("a", "b", "c", "d", "e")
    bench.swim.start(0.0)
    bench.run_until(5.0)
    assert bench.swim.awareness.score > 0
