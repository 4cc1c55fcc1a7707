from __future__ import annotations

from math import inf
from random import Random

import pytest

from swarmnet.core.gossip.broadcast import Body, Broadcast, rounds_for
from swarmnet.core.gossip.limits import MAX_QUEUED, MAX_ROUND_DATAGRAMS
from swarmnet.core.gossip.pace import Pace
from swarmnet.core.gossip.timing import Timing

TIMING = Timing()


def pace() -> Pace:
    return Pace(TIMING, Random(1))


def queue() -> Broadcast:
    return Broadcast(TIMING, pace())


def frames(bodies: list[Body]) -> list[bytes]:
    return [body.frames for body in bodies]


@pytest.mark.parametrize(("members", "rounds"), [(1, 2), (9, 2), (50, 2), (200, 2), (1000, 3), (10_000, 3)])
def test_news_is_repeated_log_n_times(members: int, rounds: int) -> None:
    assert rounds_for(members) == rounds
    news = queue()
    news.put("a", b"news", 0.0)
    told = 0
    while news.due < inf:
        told += len(news.round(1000, members, news.due))
    assert told == rounds


def test_the_first_round_is_due_at_once_the_next_shortly_after() -> None:
    news = queue()
    news.put("a", b"news", 10.0)
    assert news.due == 10.0
    news.round(1000, 5, 10.0)
    assert 10.0 + 0.7 * TIMING.repeat_s[0] <= news.due <= 10.0 + 1.3 * TIMING.repeat_s[0]
    news.put("b", b"more", 10.001)
    assert news.due == 10.001


def test_under_load_rounds_are_spread_and_items_share_them() -> None:
    news, now, rounds, bodies = queue(), 0.0, 0, list[bytes]()
    for number in range(1000):  # one each millisecond
        now = number / 1000
        news.put(number, b"%03d" % number, now)
        if news.due <= now:
            rounds += 1
            bodies += frames(news.round(1400, 100, now))
    assert rounds <= TIMING.burst_rounds + 1.0 / TIMING.round_period_s + 1
    told = b"".join(bodies)
    assert all(b"%03d" % number in told for number in range(900))


def test_under_load_what_others_tell_is_not_repeated() -> None:
    news = queue()
    for number in range(TIMING.burst_rounds):
        news.put(number, b"old", 0.0)
        news.round(1000, 100, 0.0)
    news.put("heard", b"heard", 0.0)
    news.put("alone", b"alone", 0.0)
    (told,) = news.round(1000, 100, 0.0)
    assert b"heard" in told.frames
    assert told.fanout == TIMING.busy_fanout < TIMING.fanout
    news.heard("heard")
    assert b"alone" not in b"".join(frames(news.round(1000, 100, 0.05)))  # others may yet be heard
    later = [news.round(1000, 100, 0.1 * number) for number in range(1, 6)]
    repeated = b"".join(body.frames for bodies in later for body in bodies)
    assert b"alone" in repeated
    assert b"heard" not in repeated


def test_who_lags_tells_more_in_fewer_rounds_and_recovers() -> None:
    slow = pace()
    for number in range(1, 40):
        slow.spend(number * 1.0, number * 1.0 + 0.4)
    assert slow.period_s == TIMING.slowest_round_period_s
    for number in range(1, 40):
        slow.spend(100.0 + number, 100.0 + number)
    assert slow.period_s == TIMING.round_period_s


def test_newer_news_of_the_same_thing_takes_its_place_and_starts_afresh() -> None:
    news = queue()
    news.put("a", b"one", 0.0)
    news.round(1000, 5, 0.0)
    news.put("a", b"two", 0.1)
    assert news.frames(1000) == b"two"
    assert news.round(1000, 5, 0.1) == [Body(b"two", first=True, fanout=TIMING.fanout)]
    assert news.round(1000, 5, 0.3) == [Body(b"two", first=False, fanout=TIMING.fanout)]
    assert len(news) == 0


def test_what_has_never_been_told_makes_its_datagram_one_that_leaves_nobody_out() -> None:
    news = queue()
    news.put("old", b"o" * 600, 0.0)
    news.round(1000, 5, 0.0)
    news.put("new", b"n" * 600, 0.02)
    told = news.round(1000, 5, 0.04)
    assert [(body.frames[:1], body.first) for body in told] == [(b"o", False), (b"n", True)]


def test_a_round_has_several_datagrams_if_need_be_and_what_is_left_goes_with_the_next() -> None:
    news = queue()
    for number in range(3 * MAX_ROUND_DATAGRAMS):
        news.put(number, bytes([number]) * 600, 0.0)
    first = news.round(1400, 5, 0.0)
    assert len(first) == MAX_ROUND_DATAGRAMS
    assert all(len(body) == 1200 for body in frames(first))
    assert news.due == 0.0
    left = b"".join(frames(news.round(1400, 5, 0.0)))
    assert bytes([3 * MAX_ROUND_DATAGRAMS - 1]) in left


def test_under_load_a_datagram_that_would_be_mostly_empty_waits_for_more() -> None:
    news = queue()
    for number in range(TIMING.burst_rounds):
        news.put(number, b"old", 0.0)
        news.round(1400, 100, 0.0)
    for number in range(3):
        news.put(str(number), bytes([number]) * 600, 0.0)
    assert [len(body) for body in frames(news.round(1400, 100, 0.0))] == [1200]
    assert news.due <= 1.1 * TIMING.round_period_s
    assert bytes([2]) * 600 in frames(news.round(1400, 100, news.due))[0]


def test_riding_along_takes_what_fits_and_counts_for_nothing() -> None:
    news = queue()
    assert news.frames(1000) == b""
    for frame in (b"aaaa", b"bbbb", b"cccc"):
        news.put(frame, frame, 0.0)
    for _ in range(9):
        assert news.frames(9) == b"aaaabbbb"
    assert news.due == 0.0
    assert news.untold


def test_the_queue_is_bounded_and_drops_the_oldest() -> None:
    news = queue()
    news.put("told", b"told", 0.0)
    news.round(1000, 5, 0.0)
    for index in range(MAX_QUEUED):
        news.put(index, b"n", 0.0)
    assert len(news) == MAX_QUEUED
    assert b"told" not in news.frames(10**6)
