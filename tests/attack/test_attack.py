"""All attacks with a few packets of each sort; `make attack` has more of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.attack.row import Result, Row, Wanted
from tests.attack.rows import GROUPS, ROWS
from tests.attack.run import attack
from tests.attack.scene import Seen

COUNT = 2


@pytest.mark.kernel
@pytest.mark.timeout(300)
def test_nothing_is_delivered_or_leaked_and_what_would_be_is_seen(tmp_path: Path) -> None:
    results = attack(tmp_path, ROWS, COUNT)
    assert [each.figure() for each in results if each.ok is False] == []
    opened = [each for each in results if each.row.wanted is Wanted.OPEN]
    assert all(each.seen.alien == each.sent for each in opened), "plain networks take what seems to be theirs"


@pytest.mark.parametrize("group", GROUPS)
def test_each_group_has_attacks_and_a_control(group: tuple[Row, ...]) -> None:
    wanted = {row.wanted for row in group}
    assert Wanted.NOTHING in wanted
    assert wanted & {Wanted.ALL_IN, Wanted.ALL_OUT, Wanted.OPEN}


@pytest.mark.parametrize(
    ("wanted", "seen", "ok"),
    [
        (Wanted.NOTHING, Seen(heard=3), True),
        (Wanted.NOTHING, Seen(heard=2), False),
        (Wanted.NOTHING, Seen(heard=3, alien=1), False),
        (Wanted.NOTHING, Seen(heard=3, leaked=1), False),
        (Wanted.ALL_IN, Seen(alien=1), False),
        (Wanted.ALL_IN, Seen(alien=2), True),
        (Wanted.ALL_OUT, Seen(alien=2, leaked=1), False),
        (Wanted.ALL_OUT, Seen(leaked=2), True),
        (Wanted.OPEN, Seen(alien=2), None),
    ],
)
def test_a_row_is_judged_by_what_was_wanted(wanted: Wanted, seen: Seen, ok: bool | None) -> None:
    row = Row("any", lambda *_: (), wanted)
    assert Result(row, sent=2, spoken=3, seen=seen).ok is ok
    assert Result(row, sent=0, spoken=3, seen=seen).ok is (None if ok is None else False)
