"""The end of a user-mode-linux kernel, seen from outside."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from swarmnet.cli.lab import uml


def test_a_kernel_that_loops_while_it_switches_off_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uml, "_LOOK_S", 0.01)
    monkeypatch.setattr(uml, "_SWITCH_OFF_S", 0.01)
    status = tmp_path / "status"
    looping = ["sh", "-c", f"echo $$ > {tmp_path}/pid; echo 3 > {status}; exec sleep infinity"]
    assert uml._boot(looping, os.open(os.devnull, os.O_WRONLY), status) == -9
    assert not Path("/proc", (tmp_path / "pid").read_text().strip()).exists()


def test_one_that_ends_by_itself_says_how(tmp_path: Path) -> None:
    console = os.open(os.devnull, os.O_WRONLY)
    assert uml._boot(["sh", "-c", "exit 5"], console, tmp_path / "status") == 5
