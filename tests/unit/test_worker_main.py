"""The swarmnet-worker command: what it is started with, and how it refuses to start."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarmnet.worker import command
from swarmnet.worker.command import config_of


def parsed(tmp_path: Path, *more: str) -> list[str]:
    return ["--state-dir", str(tmp_path / "state"), "--run-dir", str(tmp_path / "run"), *more]


def test_one_address_is_enough_for_everything(tmp_path: Path) -> None:
    arguments = command._parser().parse_args(parsed(tmp_path, "--advertise-addr", "192.0.2.7"))
    config = config_of(arguments)
    assert (config.advertise, config.data_path) == ("192.0.2.7", "192.0.2.7")
    assert (config.gossip_listen, config.gossip_advertise) == ("0.0.0.0:7946", "192.0.2.7:7946")
    assert config.image_store == tmp_path / "state/store"
    assert config.state_dir.stat().st_mode & 0o777 == 0o700


def test_data_path_and_gossip_may_have_addresses_of_their_own(tmp_path: Path) -> None:
    more = (
        "--advertise-addr",
        "192.0.2.7",
        "--data-path-addr",
        "198.51.100.7",
        "--gossip-addr",
        "192.0.2.7:8000",
    )
    config = config_of(command._parser().parse_args(parsed(tmp_path, *more)))
    assert (config.data_path, config.gossip_advertise) == ("198.51.100.7", "192.0.2.7:8000")
    assert (config.data_path_advertise, config.data_path_udp) == ("198.51.100.7", False)


def test_behind_a_nat_others_are_told_another_data_path_address(tmp_path: Path) -> None:
    more = (
        "--advertise-addr",
        "192.0.2.7",
        "--data-path-advertise-addr",
        "203.0.113.7",
        "--data-path-encap",
        "udp",
    )
    config = config_of(command._parser().parse_args(parsed(tmp_path, *more)))
    assert (config.data_path, config.data_path_advertise) == ("192.0.2.7", "203.0.113.7")
    assert config.data_path_udp


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (("--state-dir", "/proc/no"), "the state directory /proc/no is not writable: "),
        (("--run-dir", "/proc/no"), "the run directory /proc/no is not writable: "),
        (
            ("--advertise-addr", "0.0.0.0"),
            "others cannot reach this host at 0.0.0.0\nUse --advertise-addr ADDR.",
        ),
        (("--data-path-addr", "w1"), "'w1' is not an IP address\nUse --data-path-addr ADDR."),
        (("--gossip-addr", "x:y"), "invalid address 'x:y'"),
    ],
)
def test_what_cannot_work_ends_with_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...], text: str
) -> None:
    monkeypatch.setattr("swarmnet.core.logs.configure", lambda *_: None)  # they are this process's,
    monkeypatch.setattr("os.umask", lambda _: 0)  # and other tests run in it
    with pytest.raises(SystemExit) as caught:
        command.main(parsed(tmp_path, "--advertise-addr", "192.0.2.7", *more))
    assert str(caught.value.code).startswith(f"swarmnet-worker: {text}")
