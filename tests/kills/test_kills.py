"""A few kills; `make kills` is the long run."""

from __future__ import annotations

import json
from itertools import islice, pairwise
from pathlib import Path

import pytest
from tests.kills.run import kills
from tests.kills.wish import wishes

from swarmnet.core.epochs import Role

KILLS = 12


@pytest.mark.kernel
def test_a_killed_data_path_loses_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    told = [json.loads(each) for each in kills(tmp_path, KILLS, seed=3)]
    assert [each for each in told if each["ok"] is False] == []
    seen = {each["case"]: each["max"] for each in told}
    assert seen["kills"] == KILLS
    assert seen["datagrams sent"] > 0


def test_wishes_rotate_in_an_order_that_loses_nothing() -> None:
    """Nobody sends with an epoch that the wish before did not have; no wish is the same as the one before."""
    story = list(islice(wishes(), 30))
    for before, after in pairwise(story):
        sending = {number for number, role in after.live if role is Role.CURRENT}
        assert sending <= {number for number, _ in before.live}
        assert before != after
