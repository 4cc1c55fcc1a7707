"""Which hosts a lab gets, and folders that do not pile up."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from swarmnet.cli.lab import hosts, scratch
from swarmnet.core.errors import InvalidArgument


def test_names_and_addresses_follow_the_kinds() -> None:
    planned = hosts.plan(2, 1, ["attacker"])
    assert [(site.name, site.kind, site.address) for site in planned] == [
        ("m1", "manager", "10.133.0.11"),
        ("m2", "manager", "10.133.0.12"),
        ("w1", "worker", "10.133.0.21"),
        ("attacker", "bare", "10.133.0.31"),
    ]


@pytest.mark.parametrize(
    ("managers", "workers", "bare"),
    [(11, 0, []), (0, 11, []), (1, 0, ["m1"]), (0, 0, ["a", "a"]), (0, 0, ["../x"]), (0, 0, ["underlay"])],
)
def test_refuses_hosts_that_cannot_be(managers: int, workers: int, bare: list[str]) -> None:
    with pytest.raises(InvalidArgument):
        hosts.plan(managers, workers, bare)


def test_an_abandoned_folder_goes_and_a_held_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    abandoned, being_made = tmp_path / "lab-abandoned", tmp_path / "lab-new"
    for each in (abandoned, being_made):
        each.mkdir()
    (abandoned / ".lock").touch()
    with scratch.folder("lab-") as held:
        with scratch.folder("lab-"):
            assert held.exists()
        assert not abandoned.exists()
        assert being_made.exists()
    assert sorted(os.listdir(tmp_path)) == ["lab-new"]
