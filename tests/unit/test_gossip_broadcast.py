from __future__ import annotations

from math import inf

import pytest

from swarmnet.api.v1 import gossip_pb2 as pb
from swarmnet.core.gossip.broadcast import Broadcast, rounds_for
from swarmnet.core.gossip.timing import MAX_QUEUED, Timing

TIMING = Timing()


def rumor(name: str, incarnation: int = 1) -> pb.Rumor:
    return pb.Rumor(node_id=name, incarnation=incarnation)


def queue() -> Broadcast[pb.Rumor]:
    return Broadcast(TIMING)


@pytest.mark.parametrize(("members", "rounds"), [(0, 1), (1, 2), (9, 2), (10, 3), (99, 3), (1000, 5)])
def test_news_is_repeated_log_n_times(members: int, rounds: int) -> None:
    assert rounds_for(members) == rounds
    news = queue()
    news.put("a", rumor("a"), 0.0)
    told = 0
    while news.due < inf:
        told += len(news.round(1000, members, news.due))
    assert told == rounds


def test_the_first_round_is_due_at_once_the_next_a_period_later() -> None:
    news = queue()
    news.put("a", rumor("a"), 10.0)
    assert news.due == 10.0
    news.round(1000, 5, 10.0)
    assert news.due == 10.0 + TIMING.gossip_period_s
    news.put("b", rumor("b"), 10.001)
    assert news.due == pytest.approx(10.0 + TIMING.coalesce_s)


def test_newer_news_of_the_same_thing_takes_its_place_and_starts_afresh() -> None:
    news = queue()
    news.put("a", rumor("a", 1), 0.0)
    news.round(1000, 5, 0.0)
    news.put("a", rumor("a", 2), 0.1)
    assert [each.incarnation for each in news.peek(1000)] == [2]
    assert len(news.round(1000, 5, 0.1)) == len(news.round(1000, 5, 0.3)) == 1
    assert len(news) == 0


def test_what_does_not_fit_goes_with_the_next_round_soon() -> None:
    news = queue()
    for name in "abc":
        news.put(name, rumor(name), 0.0)
    room = 2 * (rumor("a").ByteSize() + 4)
    assert [each.node_id for each in news.round(room, 5, 0.0)] == ["a", "b"]
    assert news.due == TIMING.coalesce_s
    assert [each.node_id for each in news.round(room, 5, news.due)] == ["c", "a"]


def test_riding_along_counts_for_nothing() -> None:
    news = queue()
    news.put("a", rumor("a"), 0.0)
    for _ in range(9):
        assert len(news.peek(1000)) == 1
    assert news.due == 0.0


def test_the_queue_is_bounded_and_drops_what_was_told_most() -> None:
    news = queue()
    news.put("told", rumor("told"), 0.0)
    news.round(1000, 5, 0.0)
    for index in range(MAX_QUEUED):
        news.put(index, rumor(str(index)), 0.0)
    assert len(news) == MAX_QUEUED
    assert all(each.node_id != "told" for each in news.peek(10**6))
