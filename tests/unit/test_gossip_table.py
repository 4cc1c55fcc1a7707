from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from tests.sim.cluster import signed

from swarmnet.core.endpoints import Endpoint
from swarmnet.core.gossip.table import Entry, LamportClock, Outcome, Table, digest
from swarmnet.core.gossip.timing import MAX_ENTRIES, MAX_JUMP

START = 1000


def table(me: str = "me") -> Table:
    return Table(me, LamportClock(START))


def entry(owner: str = "other", task: str = "t", time: int = START + 1, *, deleted: bool = False) -> Entry:
    endpoint, signature = signed(owner, "10.0.1.3", task_id=task)
    return Entry(owner, task, time) if deleted else Entry(owner, task, time, endpoint, signature)


def nobody(_: str) -> bool:
    return False


def wanted(*ips: str) -> dict[str, tuple[Endpoint, bytes]]:
    return {each[0].task_id: each for each in (signed("me", ip) for ip in ips)}


def test_publishing_makes_entries_and_tombstones_only_for_what_changed() -> None:
    mine = table()
    assert [e.deleted for e in mine.publish(wanted("10.0.1.3", "10.0.1.4"), 0.0)] == [False, False]
    assert mine.publish(wanted("10.0.1.3", "10.0.1.4"), 0.0) == []
    (gone,) = mine.publish(wanted("10.0.1.4"), 0.0)
    assert (gone.task_id, gone.deleted) == ("task-10.0.1.3", True)


def test_the_higher_time_holds_and_a_tombstone_at_the_same_time() -> None:
    others = table()
    assert others.apply(entry(time=START + 5), 0.0) is Outcome.NEWS
    assert others.apply(entry(time=START + 5), 0.0) is Outcome.STALE
    assert others.apply(entry(time=START + 4, deleted=True), 0.0) is Outcome.STALE
    assert others.apply(entry(time=START + 5, deleted=True), 0.0) is Outcome.NEWS
    assert others.apply(entry(time=START + 5), 0.0) is Outcome.STALE
    assert others.visible(nobody) == []


def test_a_tombstone_for_nothing_is_no_news_and_takes_no_memory() -> None:
    others = table()
    assert others.apply(entry(deleted=True), 0.0) is Outcome.STALE
    assert len(others) == 0


def test_what_the_owner_did_not_say_is_disputed_and_its_answer_is_newer() -> None:
    mine = table()
    (said,) = mine.publish(wanted("10.0.1.3"), 0.0)
    forged = Entry("me", said.task_id, said.time + 50)
    assert mine.apply(forged, 0.0) is Outcome.DISPUTED
    answer = mine.refuted(forged, 0.0)
    assert answer.overrides(forged)
    assert answer.endpoint == said.endpoint


def test_an_endpoint_of_an_earlier_boot_is_withdrawn_by_its_owner() -> None:
    mine = table()
    ghost = entry("me", "ghost", time=START + 50)
    assert mine.apply(ghost, 0.0) is Outcome.DISPUTED
    assert mine.refuted(ghost, 0.0).deleted
    assert mine.visible(nobody) == []


def test_old_copies_of_own_entries_are_left_alone() -> None:
    mine = table()
    (said,) = mine.publish(wanted("10.0.1.3"), 0.0)
    assert mine.apply(replace(said, time=said.time - 1), 0.0) is Outcome.STALE
    assert mine.apply(said, 0.0) is Outcome.STALE


def test_a_time_that_nobody_can_have_is_not_believed() -> None:
    others = table()
    assert others.apply(entry(time=START + MAX_JUMP + 1), 0.0) is Outcome.STALE
    assert others.publish(wanted("10.0.1.3"), 0.0)[0].time == START + 1


def test_entries_of_gone_owners_are_hidden_and_come_back() -> None:
    others = table()
    others.apply(entry("dead"), 0.0)
    others.apply(entry("alive"), 0.0)
    assert [e.owner for e in others.visible(lambda node: node == "dead")] == ["alive"]
    assert {e.owner for e in others.visible(nobody)} == {"dead", "alive"}


def test_tombstones_and_lost_owners_are_forgotten() -> None:
    others = table()
    for owner in ("a", "b", "c"):
        others.apply(entry(owner), 0.0)
    others.apply(entry("a", time=START + 2, deleted=True), 10.0)
    others.forget_buried(before=10.0)
    assert len(others) == 3
    others.forget_buried(before=10.5)
    others.forget_owners(["b"])
    assert [e.owner for e in others] == ["c"]


def test_a_full_table_still_changes_but_takes_no_more() -> None:
    full = table()
    for number in range(MAX_ENTRIES):
        full.apply(Entry("other", str(number), START, entry().endpoint, b""), 0.0)
    assert full.apply(entry(task="one more"), 0.0) is Outcome.STALE
    assert full.apply(Entry("other", "7", START + 1), 0.0) is Outcome.NEWS


entries = st.builds(entry, st.sampled_from("ab"), st.sampled_from("tu"), st.integers(1, 9).map(START.__add__))


@given(st.lists(entries, max_size=12), st.randoms(use_true_random=False))
def test_the_order_of_arrival_does_not_matter(told: list[Entry], shuffle: object) -> None:
    one, other = table("x"), table("y")
    again = list(told)
    shuffle.shuffle(again)  # type: ignore[attr-defined]
    for first, second in zip(told, again, strict=True):
        one.apply(first, 0.0)
        other.apply(second, 0.0)
    assert set(one) == set(other)
    assert digest(one) == digest(other)


def test_the_digest_sees_every_difference() -> None:
    base = digest([entry()])
    assert digest([]) != base != digest([entry(time=START + 2)])
    assert digest([entry(), entry(task="u")]) == digest([entry(task="u"), entry()])
