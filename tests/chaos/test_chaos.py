"""A minute of random faults on real managers; `make chaos-raft` is the long one."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest
from tests.chaos.run import chaos

SECONDS: Final = 48.0
"""Until the last round begins; with the lab and that round it is a minute."""
SEED: Final = 3


@pytest.mark.timeout(180)
def test_a_minute_of_faults_loses_nothing_and_shows_nobody_anything_stale(tmp_path: Path) -> None:
    figures = chaos(SECONDS, SEED, 3, tmp_path)
    assert figures["violations"] == []
    assert figures["rounds"] > 1
    assert figures["faults"] > 0
    assert figures["operations"]["ok"] > figures["keys"] > 0
