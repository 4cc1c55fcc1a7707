"""Rotations while workers are away: they are named, nobody waits for ever, and they come back unaided."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping

import pytest
from tests.e2e.labs import Swarm, eventually, running


@pytest.fixture
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarm]:
    with running(tmp_path_factory.mktemp("logs"), "--managers", "1", "--workers", "3") as lab:
        yield Swarm(lab)


def key(swarm: Swarm, name: str) -> Mapping[str, str]:
    return next(row for row in swarm.rows("key ls") if row["Name"] == name)


def ready(swarm: Swarm) -> set[str]:
    return {row["Hostname"] for row in swarm.rows("node ls --filter role=worker") if row["Status"] == "Ready"}


def spread(swarm: Swarm) -> set[str]:
    return {task["Node"] for task in swarm.running_tasks("web")}


@pytest.mark.timeout(300)
def test_workers_that_missed_rotations_come_back_by_themselves(swarm: Swarm) -> None:
    """One is frozen, and holds old keys when it goes on; the other one's process is gone meanwhile."""
    swarm.ask("network create --driver overlay net")
    swarm.ask("service create -q --name web --mode global --network net host sleep infinity")
    ids = {row["Hostname"]: row["ID"] for row in swarm.rows("node ls")}
    swarm.lab.kill_daemon("w2", signal.SIGSTOP)
    swarm.lab.kill_daemon("w3", signal.SIGKILL)
    swarm.ask("key rotate --detach --network net")
    waiting = {ids["w2"], ids["w3"]}
    eventually(lambda: set(key(swarm, "net")["WaitingFor"].split(",")) == waiting, "the stragglers are named")
    for epoch in (2, 3):
        swarm.ask("key rotate --network net")
        assert int(key(swarm, "net")["Epoch"]) >= epoch
    assert ready(swarm) == {"w1"}
    swarm.lab.kill_daemon("w2", signal.SIGCONT)
    swarm.lab.start_daemon(swarm.lab.host("w3"))
    eventually(lambda: ready(swarm) == {"w1", "w2", "w3"}, "both are back")
    eventually(lambda: spread(swarm) == {"w1", "w2", "w3"}, "both have tasks again")
    eventually(lambda: key(swarm, "net")["Nodes"] == "3", "both hold the key")
    swarm.ask("key rotate")  # which needs all of them
    tasks = {task["Node"]: task for task in swarm.running_tasks("web")}
    for away in ("w2", "w3"):
        eventually(lambda: swarm.reaches(tasks["w1"], tasks[away]), "its task is reached")  # noqa: B023
