"""Keys are where tasks are, not elsewhere: in what a worker was sent, its memory, its disk and its kernel."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
from tests.e2e import forensics
from tests.e2e.forensics import found
from tests.e2e.labs import Swarm, eventually, running

REKEYED_S: Final = 10.0
_RECORDER: Final = Path(__file__).with_name("recorder")
_ON: Final = "service create -q --name {name} --network {network} {where} host sleep infinity"


class Scene:
    """Three workers; the network `everywhere` is on all, `elsewhere` on w1 and w3, `passing` on w1 and w2."""

    def __init__(self, swarm: Swarm, record: Path) -> None:
        self.swarm, self.lab, self.record = swarm, swarm.lab, record
        self.nodes = {row["Hostname"]: row["ID"] for row in swarm.rows("node ls")}

    def network(self, name: str, option: str) -> None:
        self.swarm.ask(f"network create --driver overlay {option} {name}")

    def service(self, name: str, network: str, where: str) -> None:
        self.swarm.ask(_ON.format(name=name, network=network, where=where))

    def keys(self) -> Mapping[str, Mapping[str, str]]:
        """`key ls` by name."""
        return {row["Name"]: row for row in self.swarm.rows("key ls")}

    def epoch(self, network: str) -> int:
        return int(self.keys()[network]["Epoch"])

    def at_rest(self) -> bool:
        return all(row["Phase"] == "stable" for row in self.keys().values())

    def pieces(self, network: str) -> forensics.Pieces:
        return forensics.known(self.record).pieces(self.keys()[network]["ID"])

    def in_memory(self, host: str, network: str) -> set[str]:
        return found(forensics.memory(self.lab, host), self.pieces(network))

    def in_kernel(self, host: str, network: str) -> set[str]:
        return found([forensics.kernel(self.lab, host)], self.pieces(network))

    def sent(self, host: str, network: str) -> set[str]:
        told = forensics.sent(self.record, self.nodes[host])
        return found((each.SerializeToString() for each in told), self.pieces(network))

    def on_disk(self, host: str, network: str) -> set[str]:
        return found(forensics.disk(self.lab, host), self.pieces(network))


@contextmanager
def scene(tmp_path: Path, option: str) -> Iterator[Scene]:
    record = tmp_path / "record"
    record.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(_RECORDER))
        patch.setenv("SWARMNET_TEST_RECORD", str(record))
        with running(tmp_path / "logs", "--managers", "1", "--workers", "3") as lab:
            made = Scene(Swarm(lab), record)
            for network in ("everywhere", "elsewhere", "passing"):
                made.network(network, option)
            made.service("all", "everywhere", "--mode global")
            made.service("others", "elsewhere", "--mode global --constraint node.hostname!=w2")
            made.service("stays", "passing", "--constraint node.hostname==w1")
            made.service("goes", "passing", "--constraint node.hostname==w2")
            made.swarm.ask("key rotate")
            eventually(made.at_rest, "every key has rotated once")
            yield made


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "option", ["", pytest.param("--opt encrypted", marks=pytest.mark.kernel)], ids=["plain", "encrypted"]
)
def test_a_worker_holds_the_keys_of_its_tasks_and_no_others(tmp_path: Path, option: str) -> None:
    with scene(tmp_path, option) as here:
        check_where_keys_are(here, encrypted=bool(option))
        check_a_key_goes_with_its_last_task(here)
        check_force_is_quick(here)


def check_where_keys_are(here: Scene, *, encrypted: bool) -> None:
    assert here.sent("w2", "elsewhere") == set()
    assert here.in_memory("w2", "elsewhere") == set()
    assert here.on_disk("w2", "elsewhere") == set()
    assert here.in_kernel("w2", "elsewhere") == set()
    # The same search finds what is there, and of the epochs that are there only.
    assert {"secret of epoch 1", "secret of epoch 2"} <= here.sent("w2", "everywhere")
    in_memory = here.in_memory("w2", "everywhere")
    assert "secret of epoch 2" in in_memory
    assert [key for key in in_memory if key.endswith("epoch 1")] == []
    assert here.on_disk("w2", "everywhere") == set()
    w1, w2 = here.nodes["w1"], here.nodes["w2"]
    pairs = {f"ESP key from {a} to {b}, epoch 2" for a, b in ((w1, w2), (w2, w1))}
    assert (pairs <= here.in_kernel("w2", "everywhere")) is encrypted


def check_a_key_goes_with_its_last_task(here: Scene) -> None:
    assert here.in_memory("w2", "passing")
    epoch = here.epoch("passing")
    here.swarm.ask("service rm goes")
    eventually(lambda: here.keys()["passing"]["Nodes"] == "1", "its last task on w2 has ended")
    eventually(lambda: not here.in_memory("w2", "passing"), "its keys have left the memory of w2")
    assert here.in_kernel("w2", "passing") == set()
    assert here.on_disk("w2", "passing") == set()
    assert here.epoch("passing") == epoch  # nobody was sent away: it is rekeyed when its time comes


def check_force_is_quick(here: Scene) -> None:
    """Also in the middle of a rotation."""
    before = here.epoch("everywhere")
    here.swarm.ask("key rotate --detach --network everywhere")
    rekeyed(here, "w2", "everywhere", before + 2, "node update --availability drain --force w2")
    eventually(lambda: not here.in_memory("w2", "everywhere"), "its keys have left the memory of w2")
    assert here.in_kernel("w2", "everywhere") == set()
    before = here.epoch("elsewhere")
    rekeyed(here, "w3", "elsewhere", before + 1, "node rm --force w3")


def rekeyed(here: Scene, host: str, network: str, epoch: int, command: str) -> None:
    started = time.monotonic()
    here.swarm.ask(command)
    eventually(lambda: here.epoch(network) >= epoch, f"{network} has another key", REKEYED_S)
    print(f"{network} rekeyed {time.monotonic() - started:.1f} s after `{command}`")
    assert f"secret of epoch {epoch}" in here.sent("w1", network)
    assert f"secret of epoch {epoch}" not in here.sent(host, network)
