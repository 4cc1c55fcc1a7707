"""Nodes that change their role, with both daemons on every host, also when these are killed on the way."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from tests.e2e.labs import PATIENCE_S, Swarm, eventually, running

from swarmnet.cli.lab.place import Kind, Lab

KILL, STOP, GO_ON = signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT


@pytest.fixture
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarm]:
    logs = tmp_path_factory.mktemp("logs")
    with running(logs, "--both", "--managers", "3", "--workers", "2") as lab:
        yield Swarm(lab)


@pytest.fixture
def swarm_of_two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarm]:
    """Two managers, a worker; no host has both daemons."""
    with running(tmp_path_factory.mktemp("logs"), "--managers", "2", "--workers", "1") as lab:
        yield Swarm(lab)


def nodes(swarm: Swarm) -> Mapping[str, Mapping[str, str]]:
    """By hostname. Empty while the manager that is asked has no answer."""
    asked = swarm.lab.run(swarm.manager, ["swarmnet", "node", "ls", "--format", "json"], timeout_s=PATIENCE_S)
    rows = map(json.loads, asked.stdout.splitlines()) if asked.returncode == 0 else ()
    return {row["Hostname"]: row for row in rows}


def is_manager(swarm: Swarm, host: str) -> bool:
    return nodes(swarm).get(host, {}).get("ManagerStatus") in {"Leader", "Reachable"}


def is_worker(swarm: Swarm, host: str) -> bool:
    found = nodes(swarm).get(host, {})
    return (found.get("Role"), found.get("Status")) == ("worker", "Ready")


def leader(swarm: Swarm) -> str:
    return next(name for name, row in nodes(swarm).items() if row["ManagerStatus"] == "Leader")


def inspected(swarm: Swarm, host: str) -> Any:
    return json.loads(swarm.ask(f"node inspect {host}"))[0]


def local(lab: Lab, host: str, kind: Kind) -> str:
    """What the daemon says of itself: the words after `Swarm:`."""
    asked = lab.run(host, ["swarmnet", "info", f"--{kind}"], timeout_s=PATIENCE_S)
    said = (line.partition(":") for line in asked.stdout.splitlines())
    return next((value.strip() for name, _, value in said if name == "Swarm"), "")


def refusal(swarm: Swarm, command: str) -> str:
    result = swarm.lab.run(swarm.manager, ["swarmnet", *command.split()], timeout_s=PATIENCE_S)
    assert result.returncode == 1, result.stdout
    return result.stderr


def restart(lab: Lab, host: str, kind: Kind) -> None:
    lab.kill_daemon(host, KILL, kind)
    lab.start_daemon(lab.host(host), kind)


def test_workers_become_managers_and_managers_workers(swarm: Swarm) -> None:
    swarm.ask("network create --driver overlay net")
    swarm.ask("service create -q --name web --replicas 4 --network net host sleep infinity")
    ids = {name: row["ID"] for name, row in nodes(swarm).items()}
    for host in ("w1", "w2"):
        said = swarm.ask(f"node promote {host}")
        assert said == f"Node {host} promoted to a manager in the swarm.\n"
        eventually(lambda: is_manager(swarm, host), f"{host} is a manager")  # noqa: B023
        eventually(lambda: local(swarm.lab, host, "worker") == "inactive", "its worker is done")  # noqa: B023
        assert swarm.lab.run(host, ["ls", "/run/swarmnet/netns"]).stdout == ""
    assert swarm.ask("node promote w1") == f"Node {ids['w1']} is already a manager.\n"
    for task in swarm.rows("service ps web"):
        assert not (task["Node"] in {"w1", "w2"} and task["CurrentState"].startswith("Running")), task

    follower = next(name for name in ("m2", "m3") if name != leader(swarm))
    assert swarm.ask(f"node demote {follower}") == f"Manager {follower} demoted in the swarm.\n"
    eventually(lambda: is_worker(swarm, follower), "the follower is a worker")
    eventually(lambda: local(swarm.lab, follower, "manager") == "inactive", "its manager is done")
    eventually(lambda: len(swarm.running_tasks("web")) == 4, "the tasks run on the new worker")
    assert swarm.ask(f"node demote {follower}") == f"Node {ids[follower]} is already a worker.\n"

    elsewhere, last = Swarm(swarm.lab, "w1"), leader(swarm)
    elsewhere.ask(f"node update --role worker {last}")
    eventually(lambda: is_worker(elsewhere, last), "the leader is a worker")
    assert {name: row["ID"] for name, row in nodes(elsewhere).items()} == ids
    assert len(elsewhere.running_tasks("web")) == 4


def test_what_is_refused_and_why(swarm_of_two: Swarm) -> None:
    swarm = swarm_of_two
    assert refusal(swarm, "node promote w1") == (
        "Error: node w1 cannot become a manager: no swarmnet-manager runs on its host\n"
        "Start swarmnet-manager on that host, outside of any swarm; its worker notices within 10 s.\n"
    )
    assert swarm.lab.run("w1", ["swarmnet", "swarm", "leave"], timeout_s=PATIENCE_S).returncode == 0
    eventually(lambda: nodes(swarm)["w1"]["Status"] == "Down", "w1 is down")
    assert refusal(swarm, "node promote w1").startswith(
        "Error: node w1 is not ready and cannot become a manager: it left the swarm\n"
    )
    swarm.ask("node demote m2")
    eventually(lambda: nodes(swarm)["m2"]["Status"] == "Down", "m2 is a worker, with no worker's daemon")
    assert inspected(swarm, "m2")["Status"]["Message"] == (
        "demoted: no swarmnet-worker has taken over on its host yet. "
        "Start it there to have a worker, or remove the node: `swarmnet node rm`"
    )
    assert refusal(swarm, "node demote m1") == (
        "Error: attempting to demote the last manager of the swarm\n"
        "Promote another node first: `swarmnet node promote NODE`.\n"
    )
    eventually(lambda: local(swarm.lab, "m2", "manager") == "demoted", "m2 waits for a worker")
    swarm.ask("node rm m2")
    eventually(lambda: local(swarm.lab, "m2", "manager") == "inactive", "m2 gives up")
    assert sorted(nodes(swarm)) == ["m1", "w1"]


def test_the_last_majority_is_protected(swarm: Swarm) -> None:
    swarm.lab.kill_daemon("m3")
    eventually(lambda: nodes(swarm)["m3"]["ManagerStatus"] == "Unreachable", "m3 is gone")
    assert refusal(swarm, "node demote m2") == (
        "Error: demoting m2 would leave 1 of 2 managers reachable, and a swarm of 2 needs 2 to agree\n"
        "Bring the other managers back first. "
        "Those that are lost for good: `swarmnet node rm --force NODE`.\n"
    )
    swarm.ask("node demote m3")
    eventually(lambda: nodes(swarm)["m3"]["Role"] == "worker", "the lost manager no longer counts")
    swarm.lab.start_daemon(swarm.lab.host("m3"))
    eventually(lambda: is_worker(swarm, "m3"), "it learns what it is when it comes back")


def test_a_promotion_goes_on_after_a_kill_of_any_daemon(swarm: Swarm) -> None:
    """The host's port is closed, so that it stops at the last step, with the certificate in hand."""
    lab = swarm.lab
    close = "iptables -{} INPUT -p tcp --dport 2377 -j DROP"
    lab.run("w1", close.format("A").split())
    swarm.ask("node promote w1")
    eventually(lambda: local(lab, "w1", "manager") == "pending", "the manager has the identity")
    restart(lab, "w1", "manager")
    restart(lab, "w1", "worker")
    first = leader(swarm)
    lab.kill_daemon(first)
    elsewhere = Swarm(lab, next(name for name in ("m1", "m2", "m3") if name != first))
    eventually(lambda: is_worker(elsewhere, "w1"), "until then it is a worker")
    lab.run("w1", close.format("D").split())
    eventually(lambda: is_manager(elsewhere, "w1"), "w1 is a manager")
    eventually(lambda: local(lab, "w1", "worker") == "inactive", "and no worker")
    lab.start_daemon(lab.host(first))
    eventually(lambda: is_manager(elsewhere, first), "the killed leader is back")


def test_a_promotion_is_taken_back(swarm: Swarm) -> None:
    lab = swarm.lab
    lab.kill_daemon("w1", STOP, "manager")
    swarm.ask("node promote w1")
    assert inspected(swarm, "w1")["Spec"]["Role"] == "manager"
    swarm.ask("node demote w1")
    lab.kill_daemon("w1", GO_ON, "manager")
    assert inspected(swarm, "w1")["Spec"]["Role"] == "worker"
    swarm.ask("service create -q --name web --mode global host sleep infinity")
    assert sorted(task["Node"] for task in swarm.running_tasks("web")) == ["w1", "w2"]


def test_a_demotion_goes_on_after_a_kill_of_any_daemon(swarm: Swarm) -> None:
    lab, first = swarm.lab, leader(swarm)
    demoted = next(name for name in ("m1", "m2", "m3") if name != first)
    elsewhere = Swarm(lab, next(name for name in ("m1", "m2", "m3") if name not in {first, demoted}))
    lab.kill_daemon(demoted, KILL, "worker")
    elsewhere.ask(f"node demote {demoted}")
    restart(lab, first, "manager")
    eventually(lambda: local(lab, demoted, "manager") == "demoted", "it waits for its worker")
    eventually(lambda: nodes(elsewhere).get(demoted, {}).get("Status") == "Down", "it is down meanwhile")
    restart(lab, demoted, "manager")
    eventually(lambda: local(lab, demoted, "manager") == "demoted", "it waits again")
    lab.start_daemon(lab.host(demoted), "worker")
    eventually(lambda: is_worker(elsewhere, demoted), "the worker has taken over")
    eventually(lambda: local(lab, demoted, "manager") == "inactive", "the manager is done")


def test_a_new_manager_is_locked_as_the_others_and_a_worker_never_is(swarm: Swarm) -> None:
    lab = swarm.lab
    key = next(line.strip() for line in swarm.ask("swarm update --autolock").splitlines() if "SWMKEY" in line)
    swarm.ask("node promote w1")
    eventually(lambda: nodes(swarm).get("w1", {}).get("Lock") == "current", "w1 is a manager, and locks")
    restart(lab, "w1", "manager")
    eventually(lambda: local(lab, "w1", "manager") == "locked", "w1 is locked")
    unlock = f"echo {key} | swarmnet swarm unlock"
    eventually(lambda: lab.run("w1", ["sh", "-c", unlock]).returncode == 0, "w1 is unlocked")
    eventually(lambda: is_manager(swarm, "w1"), "w1 takes part again")

    lab.kill_daemon("w1", KILL, "worker")
    swarm.ask("node demote w1")
    eventually(lambda: local(lab, "w1", "manager") == "demoted", "it waits for its worker")
    restart(lab, "w1", "manager")
    eventually(lambda: local(lab, "w1", "manager") == "demoted", "it needs no unlock key for that")
    lab.start_daemon(lab.host("w1"), "worker")
    eventually(lambda: is_worker(swarm, "w1"), "the worker has taken over")


def test_a_worker_that_missed_its_promotion_is_told(swarm: Swarm) -> None:
    lab = swarm.lab
    swarm.ask("node promote w1")
    eventually(lambda: local(lab, "w1", "manager") != "inactive", "the manager has the identity")
    lab.kill_daemon("w1")
    eventually(lambda: is_manager(swarm, "w1"), "it needs its worker no more")
    lab.start_daemon(lab.host("w1"))
    eventually(lambda: local(lab, "w1", "worker") == "inactive", "the worker is none any more")
    assert is_manager(swarm, "w1")
