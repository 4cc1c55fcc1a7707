from __future__ import annotations

import pytest

from swarmnet.core.gossip.fanout import Fanout
from swarmnet.core.gossip.members import Member, Rumor, State


def members(names: list[str], me: str) -> list[Member]:
    return [Member(Rumor(name, "10.0.0.1:7946", 1, State.ALIVE), 0.0) for name in names if name != me]


def tellers(size: int, degree: int = 3) -> dict[str, list[str]]:
    """Whom each of so many nodes tells."""
    names = [f"n{index:04}" for index in range(size)]
    return {me: [each.node_id for each in Fanout(me).of(members(names, me), degree)] for me in names}


def hops(tells: dict[str, list[str]], origin: str) -> int:
    """Until all are told; fails if somebody never is."""
    told, frontier, taken = {origin}, {origin}, 0
    while len(told) < len(tells):
        frontier = {to for each in frontier for to in tells[each]} - told
        assert frontier
        told |= frontier
        taken += 1
    return taken


@pytest.mark.parametrize("size", [2, 3, 4, 5, 6, 7, 8, 9, 10, 27, 28, 49, 50, 81, 100, 200, 500])
@pytest.mark.parametrize("degree", [2, 3])
def test_all_are_told_from_anywhere_within_log_n_hops(size: int, degree: int) -> None:
    tells = tellers(size, degree)
    least = next(taken for taken in range(20) if degree**taken >= size)
    for origin in list(tells)[:: max(size // 25, 1)]:
        assert hops(tells, origin) <= least + 1


@pytest.mark.parametrize("size", [5, 50, 200])
def test_each_tells_as_many_others_and_is_told_by_about_as_many(size: int) -> None:
    tells = tellers(size)
    for me, told in tells.items():
        assert len(set(told)) == len(told) == 3
        assert me not in told
    times = [sum(name in told for told in tells.values()) for name in tells]
    assert min(times) >= 2
    assert max(times) <= 5


def test_few_others_are_all_told() -> None:
    assert tellers(3) == {
        "n0000": ["n0001", "n0002"],
        "n0001": ["n0000", "n0002"],
        "n0002": ["n0000", "n0001"],
    }


def test_it_chooses_anew_when_there_are_others() -> None:
    fanout = Fanout("n0000")
    before = fanout.of(members([f"n{index:04}" for index in range(10)], "n0000"), 3)
    after = fanout.of(members([f"n{index:04}" for index in range(4, 20)], "n0000"), 3)
    assert not {each.node_id for each in before} & {each.node_id for each in after}
