"""One node's membership, driven by hand: what it sends, whom it believes."""

from __future__ import annotations

from random import Random

from swarmnet.api.v1 import gossip_pb2 as pb
from swarmnet.core.gossip.events import Event, MemberDown, MemberUp
from swarmnet.core.gossip.members import Rumor, State
from swarmnet.core.gossip.swim import Swim
from swarmnet.core.gossip.timing import MAX_JUMP, Timing

ME = Rumor("me", "10.0.0.1:7946", 1000, State.ALIVE)


class Bench:
    """A Swim whose wire is a list. Members a, b, c ... live at 10.0.0.<letter>."""

    def __init__(self, *members: str) -> None:
        self.sent: list[tuple[str, pb.ClusterDatagram]] = []
        self.events: list[Event] = []
        self.swim = Swim(ME, Timing(), Random(1), lambda *each: self.sent.append(each), self.events.append)
        for member in members:
            self.hear(member, State.ALIVE)
        self.events.clear()

    def rumor(self, member: str, state: State, incarnation: int = 1000, by: str = "") -> Rumor:
        return Rumor(member, address(member), incarnation, state, by)

    def hear(
        self, member: str, state: State, incarnation: int = 1000, *, by: str = "", now: float = 0.0
    ) -> bool:
        return self.swim.on_rumor(self.rumor(member, state, incarnation, by), now)

    def state(self, member: str) -> State | None:
        found = self.swim.members.get(member)
        return found.state if found else None

    def pings(self, member: str) -> list[pb.ClusterDatagram]:
        return [body for to, body in self.sent if to == address(member) and body.HasField("ping")]

    def run_until(self, end: float) -> None:
        """Let the timers fire in their order; nobody answers anything."""
        while (at := self.swim.timers.next_deadline()) <= end:
            self.swim.tick(at)


def address(member: str) -> str:
    return ME.address if member == "me" else f"10.0.0.{ord(member)}:7946"


def test_a_new_member_is_taken_in_and_passed_on() -> None:
    bench = Bench()
    bench.hear("a", State.ALIVE)
    assert bench.events == [MemberUp("a")]
    assert [each.node_id for each in bench.swim.rumors.peek(1000)] == ["a"]


def test_a_silent_member_is_suspected_then_given_up() -> None:
    bench = Bench("a")
    bench.swim.start(0.0)
    bench.run_until(2.2)
    assert bench.state("a") is State.SUSPECT
    bench.run_until(6.0)
    assert bench.state("a") is State.DEAD
    assert bench.events == [MemberDown("a", left=False)]


def test_others_are_asked_to_try_before_anybody_is_suspected() -> None:
    bench = Bench("a", "b", "c")
    bench.swim.start(0.0)
    while not any(body.HasField("ping_request") for _, body in bench.sent):
        bench.swim.tick(bench.swim.timers.next_deadline())
    asked = [(to, body.ping_request.target) for to, body in bench.sent if body.HasField("ping_request")]
    assert len(asked) == 2
    assert all(to != address(target) for to, target in asked)
    assert {bench.state(each) for each in "abc"} == {State.ALIVE}


def test_an_ack_ends_the_probe() -> None:
    bench = Bench("a")
    bench.swim.start(0.0)
    while not bench.pings("a"):
        bench.swim.tick(bench.swim.timers.next_deadline())
    bench.swim.on_ack("a", pb.Ack(sequence=bench.pings("a")[0].ping.sequence))
    bench.run_until(bench.swim.timers.next_deadline() + 0.9)  # past its end, not past the next probe's
    assert len(bench.pings("a")) == 2
    assert bench.state("a") is State.ALIVE


def test_a_suspicion_that_one_hears_of_is_checked_at_once() -> None:
    bench = Bench("a", "b")
    bench.hear("a", State.SUSPECT, by="b")
    (ping,) = bench.pings("a")
    assert [(each.node_id, each.state) for each in ping.rumors] == [("a", pb.MEMBER_STATE_SUSPECT)]


def test_nobody_is_given_up_on_hearsay() -> None:
    for state in (State.DEAD, State.LEFT):
        bench = Bench("a", "b")
        bench.hear("a", state)
        assert bench.state("a") is State.SUSPECT
        (ping,) = bench.pings("a")
        bench.swim.on_ack("a", pb.Ack(sequence=ping.ping.sequence))
        bench.hear("a", State.ALIVE, 1001)  # the refutation, which comes with the ack
        bench.run_until(60.0)
        assert bench.state("a") is State.ALIVE
        assert bench.events == []


def test_even_without_a_refutation_an_answering_member_is_probed_again_before_it_is_given_up() -> None:
    bench = Bench("a", "b")
    for accuser in "bcde":
        bench.hear("a", State.SUSPECT, by=accuser)
    for _ in range(2):
        bench.swim.on_ack("a", pb.Ack(sequence=bench.pings("a")[-1].ping.sequence))
        count = len(bench.pings("a"))
        while len(bench.pings("a")) == count and bench.swim.timers.next_deadline() < 60:
            bench.swim.tick(bench.swim.timers.next_deadline())
    assert bench.state("a") is State.SUSPECT


def test_a_rumor_of_death_and_the_own_failed_probe_together_suffice() -> None:
    bench = Bench("a", "b", "c")
    bench.hear("a", State.LEFT)
    bench.run_until(1.1)
    assert bench.state("a") is State.LEFT
    assert bench.events == [MemberDown("a", left=True)]


def test_a_false_rumor_about_oneself_is_refuted_with_a_higher_incarnation() -> None:
    for state in (State.SUSPECT, State.DEAD, State.LEFT):
        bench = Bench("a")
        bench.hear("me", state, 1005)
        assert (bench.swim.me.state, bench.swim.me.incarnation) == (State.ALIVE, 1006)
        assert ("me", 1006) in {(each.node_id, each.incarnation) for each in bench.swim.rumors.peek(1000)}


def test_another_address_for_oneself_is_refuted() -> None:
    bench = Bench("a")
    bench.swim.on_rumor(Rumor("me", "10.6.6.6:7946", 1000, State.ALIVE), 0.0)
    assert (bench.swim.me.address, bench.swim.me.incarnation) == (ME.address, 1001)


def test_who_missed_the_refutation_is_told_again() -> None:
    bench = Bench("a")
    bench.hear("me", State.SUSPECT)
    bench.swim.rumors.clear()
    bench.hear("me", State.SUSPECT)
    assert bench.swim.me.incarnation == 1001
    assert [each.incarnation for each in bench.swim.rumors.peek(1000)] == [1001]


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


def test_the_dead_whom_nobody_knew_are_not_taken_in() -> None:
    bench = Bench()
    bench.hear("x", State.DEAD)
    assert len(bench.swim.members) == 0


def test_a_ping_is_answered_where_its_sender_is_known_to_live() -> None:
    bench = Bench("a")
    bench.swim.on_ping("a", "10.6.6.6:1", pb.Ping(sequence=7, target="me"))
    bench.swim.on_ping("stranger", "10.6.6.6:1", pb.Ping(sequence=8, target="me"))
    bench.swim.on_ping("a", "10.6.6.6:1", pb.Ping(sequence=9, target="somebody else"))
    assert [(to, body.ack.sequence) for to, body in bench.sent] == [(address("a"), 7), ("10.6.6.6:1", 8)]


def test_a_relayed_ping_passes_the_ack_on_or_says_that_there_was_none() -> None:
    for answered in (True, False):
        bench = Bench("a", "b")
        request = pb.PingRequest(sequence=77, target="b", address=address("b"))
        bench.swim.on_ping_request("a", "10.6.6.6:1", request, 0.0)
        (ping,) = bench.pings("b")
        if answered:
            bench.swim.on_ack("b", pb.Ack(sequence=ping.ping.sequence))
        bench.run_until(0.45)
        to, body = bench.sent[-1]
        assert (to, body.WhichOneof("message")) == (address("a"), "ack" if answered else "nack")
        assert (body.ack if answered else body.nack).sequence == 77
        assert len(bench.sent) == 2


def test_who_leaves_says_so_and_answers_no_more() -> None:
    bench = Bench("a")
    bench.swim.leave(0.0)
    bench.swim.on_ping("a", address("a"), pb.Ping(sequence=7, target="me"))
    bench.hear("me", State.SUSPECT)
    assert bench.sent == []
    assert bench.swim.me.state is State.LEFT


def test_who_misses_many_answers_becomes_patient() -> None:
    bench = Bench("a", "b", "c", "d", "e")
    bench.swim.start(0.0)
    bench.run_until(5.0)
    assert bench.swim.awareness.score > 0
