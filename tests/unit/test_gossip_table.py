from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from tests.sim.cluster import signed

from swarmnet.core.endpoints import Endpoint
from swarmnet.core.gossip.limits import MAX_ENTRIES_PER_OWNER, MAX_GAPS, MAX_JUMP
from swarmnet.core.gossip.messages import delta_frames
from swarmnet.core.gossip.table import Delta, Entry, LamportClock, Outcome, Table

START = 1000


def table(me: str = "me", start: int = START) -> Table:
    return Table(me, LamportClock(start))


def wanted(*ips: str, owner: str = "me") -> dict[str, tuple[Endpoint, bytes]]:
    return {each[0].task_id: each for each in (signed(owner, ip) for ip in ips)}


def tasks(found: Table) -> set[str]:
    return {entry.task_id for entry in found.visible()}


def made(owner: Table, *ips: str) -> Delta:
    delta = owner.publish(wanted(*ips), 0.0)
    assert delta is not None
    return delta


def test_publishing_makes_deltas_of_what_changed_and_the_first_one_is_the_whole() -> None:
    mine = table()
    first = made(mine, "10.0.1.3", "10.0.1.4")
    assert (first.since, [e.deleted for e in first.entries]) == (0, [False, False])
    assert mine.publish(wanted("10.0.1.3", "10.0.1.4"), 0.0) is None
    second = made(mine, "10.0.1.4")
    assert second.since == first.until
    assert [(e.task_id, e.deleted) for e in second.entries] == [("task-10.0.1.3", True)]


def test_even_nothing_is_said_once() -> None:
    mine = table()
    delta = made(mine)
    assert (delta.since, delta.entries) == (0, ())
    assert mine.publish({}, 0.0) is None


def test_deltas_in_order_and_each_once() -> None:
    mine, other = table(), table("other")
    for ips in (["10.0.1.3"], ["10.0.1.3", "10.0.1.4"], ["10.0.1.4"]):
        delta = made(mine, *ips)
        assert other.apply(delta, 0.0) is Outcome.NEWS
        assert other.apply(delta, 0.0) is Outcome.STALE
        assert tasks(other) == {f"task-{ip}" for ip in ips}
        assert other.digest == mine.digest


def test_a_gap_holds_what_came_and_waits_for_what_did_not() -> None:
    mine, other = table(), table("other")
    deltas = [made(mine, "10.0.1.3"), made(mine, "10.0.1.3", "10.0.1.4"), made(mine, "10.0.1.4")]
    assert other.apply(deltas[2], 0.0) is Outcome.NEWS
    assert other.apply(deltas[2], 0.0) is Outcome.STALE
    assert other.known("me") == 0
    assert other.apply(deltas[0], 0.0) is Outcome.NEWS
    assert tasks(other) == set()  # deleted since
    assert other.apply(deltas[1], 0.0) is Outcome.NEWS
    assert (tasks(other), other.digest) == ({"task-10.0.1.4"}, mine.digest)


def test_who_lacks_something_is_told_exactly_that() -> None:
    mine, other = table(), table("other")
    other.apply(made(mine, "10.0.1.3", "10.0.1.4"), 0.0)
    known = other.known("me")
    for ips in (["10.0.1.4"], ["10.0.1.4", "10.0.1.5"]):
        mine.publish(wanted(*ips), 0.0)
    row = mine.row("me")
    assert row is not None
    repair = row.since(known)
    assert {(e.task_id, e.deleted) for e in repair.entries} == {
        ("task-10.0.1.3", True),
        ("task-10.0.1.5", False),
    }
    other.apply(repair, 0.0)
    assert (tasks(other), other.digest) == (tasks(mine), mine.digest)


def test_who_knows_less_than_the_tombstones_tell_gets_the_whole() -> None:
    mine, late = table(), table("late")
    late.apply(made(mine, "10.0.1.3", "10.0.1.4"), 0.0)
    mine.publish(wanted("10.0.1.4"), 5.0)
    mine.reap(before=5.0)
    assert len(mine) == 2
    mine.reap(before=5.1)
    assert len(mine) == 1
    row = mine.row("me")
    assert row is not None
    repair = row.since(late.known("me"))
    assert (repair.since, len(repair.entries)) == (0, 1)
    late.apply(repair, 6.0)
    assert (tasks(late), late.digest) == (tasks(mine), mine.digest)


def test_a_gap_that_outlives_its_tombstone_has_to_be_told_again() -> None:
    mine, other = table(), table("other")
    first, second = made(mine, "10.0.1.3"), made(mine)
    other.apply(second, 0.0)
    other.reap(before=1.0)
    other.apply(first, 1.0)
    assert other.digest != mine.digest
    row = mine.row("me")
    assert row is not None
    other.apply(row.since(other.known("me")), 2.0)
    assert (tasks(other), other.digest) == (set(), mine.digest)


def test_what_an_earlier_boot_has_left_goes_with_the_first_word_of_the_next() -> None:
    other = table("other")
    other.apply(made(table(), "10.0.1.3", "10.0.1.4"), 0.0)
    again = table(start=START + 60_000)
    other.apply(made(again, "10.0.1.4"), 1.0)
    assert (tasks(other), other.digest) == ({"task-10.0.1.4"}, again.digest)


def test_a_whole_in_pieces_is_the_same_whole() -> None:
    mine, other, late = table(), table("other"), table("late")
    late.apply(made(mine, "10.0.9.1"), 0.0)
    whole = made(mine, *(f"10.0.1.{last}" for last in range(3, 43)))
    row = mine.row("me")
    assert row is not None
    mine.reap(before=1.0)
    pieces = [piece for piece, _ in delta_frames(row.since(0))]
    assert len(pieces) > 2
    for piece in pieces:
        other.apply(piece, 0.0)
    for piece in reversed(pieces):
        late.apply(piece, 0.0)
    assert other.digest == late.digest == mine.digest
    assert tasks(other) == tasks(late) == tasks(mine)
    assert len(tasks(mine)) == 40
    assert whole.until == pieces[-1].until


def test_what_the_owner_did_not_say_is_disputed_and_its_answer_is_newer_and_whole() -> None:
    mine, other = table(), table("other")
    other.apply(made(mine, "10.0.1.3"), 0.0)
    forged = Delta("me", 0, START + 500, (Entry("me", "ghost", START + 400),))
    assert other.apply(forged, 0.0) is Outcome.NEWS
    assert tasks(other) == set()
    assert mine.apply(forged, 0.0) is Outcome.DISPUTED
    answer = mine.anew(0.0)
    assert answer.until > forged.until
    other.apply(answer, 0.0)
    assert (tasks(other), other.digest) == (tasks(mine), mine.digest)
    assert tasks(mine) == {"task-10.0.1.3"}


def test_old_copies_of_own_deltas_are_left_alone() -> None:
    mine = table()
    assert mine.apply(made(mine, "10.0.1.3"), 0.0) is Outcome.STALE


def test_a_time_that_nobody_can_have_is_not_believed() -> None:
    others = table()
    assert others.apply(Delta("other", 0, START + MAX_JUMP + 1, ()), 0.0) is Outcome.STALE
    assert made(others, "10.0.1.3").until == START + 1


def test_rows_of_gone_owners_are_hidden_and_come_back() -> None:
    others = table()
    others.apply(made(table("dead")), 0.0)
    before = others.digest
    assert not others.hide("dead", hidden=True)
    assert others.digest != before
    endpoint, signature = signed("alive", "10.0.1.3")
    others.apply(Delta("alive", 0, START + 1, (Entry("alive", "t", START + 1, endpoint, signature),)), 0.0)
    assert others.hide("alive", hidden=True)
    assert others.visible() == []
    assert others.hide("alive", hidden=False)
    assert not others.hide("alive", hidden=False)
    assert [entry.owner for entry in others.visible()] == ["alive"]


def test_lost_owners_are_forgotten() -> None:
    others = table()
    empty = others.digest
    others.apply(made(table("a"), "10.0.1.3"), 0.0)
    assert others.forget(["a", "b"])
    assert not others.forget(["a"])
    assert (len(others), others.digest) == (0, empty)


def test_a_full_row_takes_no_more() -> None:
    full = table()
    many = tuple(Entry("other", str(number), START) for number in range(MAX_ENTRIES_PER_OWNER))
    assert full.apply(Delta("other", 0, START, many), 0.0) is Outcome.NEWS
    more = Delta("other", START, START + 1, (Entry("other", "more", START + 1),))
    assert full.apply(more, 0.0) is Outcome.STALE
    assert len(full) == MAX_ENTRIES_PER_OWNER


def test_gaps_are_bounded() -> None:
    others = table()
    outcomes = [others.apply(Delta("other", 10 * n, 10 * n + 1, ()), 0.0) for n in range(1, MAX_GAPS + 9)]
    assert outcomes == [Outcome.NEWS] * MAX_GAPS + [Outcome.STALE] * 8
    assert others.apply(Delta("other", 0, 10, ()), 0.0) is Outcome.NEWS


def test_what_came_before_its_time_makes_room_for_what_goes_on() -> None:
    mine, other = table(), table("other")
    other.apply(made(mine), 0.0)
    junk = tuple(Entry("me", str(number), START + 100) for number in range(MAX_ENTRIES_PER_OWNER))
    assert other.apply(Delta("me", START + 50, START + 100, junk), 0.0) is Outcome.NEWS
    assert other.apply(made(mine, "10.0.1.3"), 0.0) is Outcome.NEWS
    assert tasks(other) == {"task-10.0.1.3"}
    assert len(other) == 1


@given(
    st.lists(st.sets(st.sampled_from(["10.0.1.3", "10.0.1.4", "10.0.1.5"])), min_size=1, max_size=8),
    st.randoms(use_true_random=False),
)
def test_the_order_of_arrival_does_not_matter(history: list[set[str]], shuffle: object) -> None:
    """Deltas and repairs, in any order, some of them twice, and the last whole once."""
    mine, other = table(), table("other")
    told = []
    for ips in history:
        if (delta := mine.publish(wanted(*sorted(ips)), 0.0)) is not None:
            row = mine.row("me")
            assert row is not None
            told += [delta, row.since(shuffle.choice([0, delta.since]))]  # type: ignore[attr-defined]
    shuffle.shuffle(told)  # type: ignore[attr-defined]
    for delta in told:
        other.apply(delta, 0.0)
    assert other.digest == mine.digest
    assert tasks(other) == tasks(mine)
