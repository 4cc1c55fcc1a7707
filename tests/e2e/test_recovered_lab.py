"""A swarm whose managers are lost goes on under one of them, and from a backup; its tasks never stop."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.e2e.labs import Swarm, address, eventually, running, task_namespace

from swarmnet.cli.demo.pinger import Pinger

STATE = "/var/lib/swarmnet/manager"


@pytest.mark.parametrize("options", ["", pytest.param("--opt encrypted ", marks=pytest.mark.kernel)])
def test_a_service_outlives_its_managers(tmp_path: Path, options: str) -> None:
    backup, passphrase = tmp_path / "swarm.backup", tmp_path / "passphrase"
    passphrase.write_text("correct horse battery staple\n")
    with running(tmp_path / "logs", "--managers", "3", "--workers", "2") as lab:
        first, last = Swarm(lab, "m1"), Swarm(lab, "m3")
        first.ask(f"network create --driver overlay {options}net")
        first.ask("service create -q --name web --replicas 2 --network net host sleep infinity")
        tasks = first.running_tasks("web")
        eventually(lambda: first.reaches(*tasks), "the tasks reach each other")
        first.ask(f"swarm backup {backup} --passphrase-file {passphrase}")

        lab.kill_daemon("m1")
        lab.kill_daemon("m2")
        eventually(lambda: "none: 1 of 3" in last.ask("raft status"), "the majority is seen to be lost")
        assert "is now its only manager" in last.ask("swarm init --force-new-cluster")
        check_goes_on(last, tasks)

        lab.kill_daemon("m3")
        emptied = lab.run("m3", ["rm", "-r", STATE])  # workers know no other manager's address any more
        assert emptied.returncode == 0, emptied.stderr
        lab.start_daemon(lab.host("m3"))
        eventually(lambda: lab.run("m3", ["swarmnet", "info", "-q"]).returncode == 0, "m3 runs")
        assert "restored as of" in last.ask(f"swarm restore {backup} --passphrase-file {passphrase}")
        check_goes_on(last, tasks)


def check_goes_on(swarm: Swarm, before: list[Mapping[str, str]]) -> None:
    """The same tasks run, reach each other, and keys rotate without losing a packet."""
    workers = "node ls --filter role=worker"
    eventually(
        lambda: [row["Status"] for row in swarm.rows(workers)] == ["Ready"] * 2, "the workers are back"
    )
    assert [task["ID"] for task in swarm.running_tasks("web")] == [task["ID"] for task in before]
    eventually(lambda: swarm.reaches(*before), "the tasks reach each other again")
    one, other = before
    namespace = swarm.lab.network_namespace(swarm.lab.host(one["Node"]), task_namespace(one))
    with Pinger(namespace, address(other), 100) as pings:
        swarm.ask("key rotate")
    assert pings.sent > 0
    assert pings.lost == 0
