"""Three managers, three workers, a plain network: the main job on any kernel, and what it outlives."""

from __future__ import annotations

import signal
from itertools import permutations

import pytest
from tests.e2e.labs import PATIENCE_S, Swarm, address, eventually, task_namespace

from swarmnet.cli.demo.pinger import Pinger

SERVE = "host python3 -m http.server 80"


@pytest.fixture(scope="module")
def web(swarm: Swarm) -> Swarm:
    """With a network `net` and a service `web` of three that all reach each other."""
    swarm.ask("network create --driver overlay net")
    swarm.ask(f"service create -q --name web --replicas 3 --network net {SERVE}")
    tasks = swarm.running_tasks("web")
    for client, server in permutations(tasks, 2):
        eventually(lambda: swarm.reaches(client, server), "the tasks reach each other")  # noqa: B023
    return swarm


def pinger(swarm: Swarm, rate_per_s: int) -> Pinger:
    """From the first task of web to the second."""
    first, second = swarm.running_tasks("web")[:2]
    host = swarm.lab.host(first["Node"])
    namespace = swarm.lab.network_namespace(host, task_namespace(first))
    return Pinger(namespace, address(second), rate_per_s)


def test_one_task_runs_on_each_worker(web: Swarm) -> None:
    assert sorted(task["Node"] for task in web.running_tasks("web")) == ["w1", "w2", "w3"]


def test_a_follower_answers_as_the_leader_does(web: Swarm) -> None:
    listings = {Swarm(web.lab, manager).ask("network ls -q --no-trunc") for manager in ("m1", "m2", "m3")}
    assert len(listings) == 1


def test_a_task_scaled_up_is_reached_from_another_host(web: Swarm) -> None:
    web.ask("service scale web=4")
    tasks = web.running_tasks("web")
    newest = tasks[-1]
    other = next(task for task in tasks if task["Node"] != newest["Node"])
    assert newest["Name"] == "web.4"
    eventually(lambda: web.reaches(other, newest), "the new task answers")


def test_traffic_flows_while_a_worker_is_killed_and_started_again(web: Swarm) -> None:
    before = web.running_tasks("web")
    host = web.lab.host(before[0]["Node"])
    with pinger(web, 100) as pings:
        web.lab.kill_daemon(host.name)
        web.lab.start_daemon(host)
        eventually(lambda: _answers(web, host.name), "the worker is back")
    assert pings.sent > 0
    assert pings.lost == 0
    assert [task["ID"] for task in web.running_tasks("web")] == [task["ID"] for task in before]


def test_rotation_loses_no_ping_on_a_plain_network_either(web: Swarm) -> None:
    with pinger(web, 200) as pings:
        web.ask("key rotate")
    assert pings.sent > 0
    assert pings.lost == 0


def test_the_swarm_goes_on_without_its_leader(web: Swarm) -> None:
    nodes = web.rows("node ls")
    leader = next(row["Hostname"] for row in nodes if row["ManagerStatus"] == "Leader")
    survivor = Swarm(web.lab, next(name for name in ("m1", "m2", "m3") if name != leader))
    with pinger(web, 100) as pings:
        web.lab.kill_daemon(leader)
        survivor.ask("service create -q --name second --replicas 2 --network net host sleep infinity")
    assert len(survivor.running_tasks("second")) == 2
    assert pings.lost == 0
    web.lab.start_daemon(web.lab.host(leader))
    eventually(
        lambda: (
            len([row for row in survivor.rows("node ls") if row["ManagerStatus"] in ("Leader", "Reachable")])
            == 3
        ),
        "the killed manager is back",
    )


def test_a_worker_that_leaves_takes_all_of_its_kernel_state_out(web: Swarm) -> None:
    survivor = next(name for name in ("m1", "m2", "m3") if _answers(web, name))
    swarm = Swarm(web.lab, survivor)
    left = web.lab.run("w3", ["swarmnet", "swarm", "leave"], timeout_s=PATIENCE_S)
    assert left.returncode == 0, left.stderr
    assert web.lab.run("w3", ["ls", "/run/swarmnet/netns"]).stdout == ""
    eventually(
        lambda: sorted({task["Node"] for task in swarm.running_tasks("web")}) == ["w1", "w2"],
        "its tasks run elsewhere",
    )
    web.lab.kill_daemon("w3", signal.SIGTERM)


def _answers(swarm: Swarm, host: str) -> bool:
    return swarm.lab.run(host, ["swarmnet", "info", "--quiet"]).returncode == 0
