"""Whatever is asked wrongly of a real swarm is named, with the way out; status 1, and nothing changed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.e2e.island import Host, Island, eventually, island

from swarmnet.cli.lab.kernel import has_esp
from swarmnet.core.ids import to_base36


@dataclass
class Swarm:
    """A manager, a worker, and a worker's host that is in no swarm; a network and a service that uses it."""

    island: Island
    manager: Host
    worker: Host
    outsider: Host
    token: str

    def tokens(self) -> dict[str, str]:
        """What the lines below stand for."""
        prefix, digest, secret = self.token.rsplit("-", 2)
        return {
            "TOKEN": self.token,
            "WRONG_SECRET": f"{prefix}-{digest}-{to_base36(bytes(16), 25)}",
            "WRONG_DIGEST": f"{prefix}-{to_base36(bytes(32), 50)}-{secret}",
            "MANAGER_TOKEN": self.manager.ok("swarm", "join-token", "-q", "manager").strip(),
            "AT": self.manager.bootstrap,
        }


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarm]:
    with island(tmp_path_factory.mktemp("bad")) as place:
        manager = place.host("manager")
        manager.ok("swarm", "init")
        worker, outsider = place.joined("worker", manager), place.host("worker")
        manager.ok("network", "create", "--subnet", "10.50.0.0/24", "taken")
        manager.ok("network", "create", "--opt", "encrypted", "secret-net")
        manager.ok(
            "service", "create", "-d", "--name", "user", "--replicas", "0", "--network", "taken", "host"
        )
        token = manager.ok("swarm", "join-token", "-q", "worker").strip()
        yield Swarm(place, manager, worker, outsider, token)


ATTACH = (
    "Error: swarm-scoped network (taken) is not compatible with `swarmnet create` or `swarmnet run`. "
    "This network can only be used by a swarm service.\n"
    "swarmnet service create --name NAME --network taken host\n"
)
AT_THE_MANAGER = [
    ("run --network taken host", ATTACH),
    ("network create taken", "network with name taken already exists"),
    ("network rm taken", "network taken is in use by service user"),
    ("network inspect nope", "network nope not found"),
    ("network rm nope", "network nope not found"),
    ("run --network nope host", "network nope not found"),
    ("service inspect nope", "no such service: nope"),
    ("service ps nope", "no such service: nope"),
    ("service rm nope", "no such service: nope"),
    ("service scale nope=2", "no such service: nope"),
    ("service create -d --network nope host", "network nope not found"),
    ("service create -d --name user host", "user"),
    ("node inspect nope", "no such node: nope"),
    ("node rm nope", "no such node: nope"),
    ("key rotate --network nope", "network nope not found"),
    ("network create --subnet 10.50.0.0/25 lap", "overlaps 10.50.0.0/24 of network taken"),
    ("network create --subnet 10.51.0.0 lap", "invalid subnet '10.51.0.0'"),
    ("network create --subnet nonsense lap", "invalid subnet 'nonsense'"),
    ("network create --subnet 10.51.0.7/24 lap", "Did you mean --subnet 10.51.0.0/24?"),
    ("network create --opt colour=red lap", "unknown option colour"),
    ("network create --opt encrypted=maybe lap", "option encrypted cannot be 'maybe'"),
    ("network create --driver bridge lap", "unknown network driver bridge"),
    ("network create la/p", "invalid network name 'la/p'"),
    ("service create -d --replicas -1 host", "invalid --replicas '-1'"),
    ("service create -d --replicas 10001 host", "10001 replicas are above the limit of 10000"),
    ("service scale user=-1", "invalid number of replicas for user '-1'"),
    ("service create -d --constraint colour host", "colour"),
    ("service create -d nowhere:latest", "no node has the image nowhere:latest"),
    ("swarm init", "This node is already part of a swarm."),
    ("swarm leave", "Removing the last manager erases all current state of the swarm."),
    ("swarm update --key-rotation-period 1s", "a key rotation period of 1 s is out of range"),
]
JOINING = [
    ("swarm join --token nonsense {AT}", "invalid join token"),
    ("swarm join --token {WRONG_SECRET} {AT}", "A valid join token is necessary to join this cluster"),
    ("swarm join --token {WRONG_DIGEST} {AT}", "remote CA does not match"),
    ("swarm join --token {MANAGER_TOKEN} {AT}", "the join token is for a manager"),
    ("swarm join --token {TOKEN} 10.9.9.99", "10.9.9.99"),
]


def _is_refused(swarm: Swarm, host: Host, line: str, says: str) -> None:
    before = swarm.manager.versions()
    result = host.swarmnet(*line.split())
    assert result.status == 1
    assert result.err.startswith("Error: ")
    assert says in result.err
    assert "Traceback" not in result.err
    assert swarm.manager.versions() == before


@pytest.mark.parametrize(("line", "says"), AT_THE_MANAGER)
def test_what_a_manager_refuses(swarm: Swarm, line: str, says: str) -> None:
    _is_refused(swarm, swarm.manager, line, says)


@pytest.mark.parametrize(("line", "says"), JOINING)
def test_what_a_joining_host_is_told(swarm: Swarm, line: str, says: str) -> None:
    tokens = swarm.tokens()
    _is_refused(swarm, swarm.outsider, line.format(**tokens), says)
    info = swarm.outsider.swarmnet("swarm", "leave")
    assert info.status == 1  # still in no swarm


@pytest.mark.parametrize("line", ["network ls", "service create -d host", "node ls", "key rotate"])
def test_cluster_commands_on_a_worker(swarm: Swarm, line: str) -> None:
    _is_refused(swarm, swarm.worker, line, "This node is not a swarm manager. Worker nodes can't be used to")


def test_attaching_on_a_worker(swarm: Swarm) -> None:
    _is_refused(swarm, swarm.worker, "run --network taken host", ATTACH)


def test_a_worker_that_is_in_a_swarm_does_not_join_another(swarm: Swarm) -> None:
    line = "swarm join --token {TOKEN} {AT}".format(**swarm.tokens())
    _is_refused(swarm, swarm.worker, line, "This node is already part of a swarm.")


def test_a_rotated_token_is_worth_nothing(swarm: Swarm) -> None:
    old = swarm.token
    swarm.token = swarm.manager.ok("swarm", "join-token", "--rotate", "-q", "worker").strip()
    line = f"swarm join --token {old} {swarm.manager.bootstrap}"
    _is_refused(swarm, swarm.outsider, line, "A valid join token is necessary to join this cluster")


def test_an_encrypted_network_where_no_node_has_esp(swarm: Swarm) -> None:
    """The task stays pending, and `service ps` says why. With ESP in the kernel, it does not."""
    swarm.manager.ok(
        "service", "create", "-d", "--name", "sealed", "--network", "secret-net", "host", "sleep", "9"
    )
    wanted = "Running" if has_esp() else "Pending"

    def told() -> bool:
        line = swarm.manager.ok(
            "service", "ps", "--no-trunc", "--format", "{{.CurrentState}} {{.Error}}", "sealed"
        )
        return line.startswith(wanted) and (has_esp() or "ESP" in line)

    eventually(told)
    swarm.manager.ok("service", "rm", "sealed")


def test_without_a_majority(tmp_path: Path) -> None:
    with island(tmp_path) as place:
        first = place.host("manager")
        first.ok("swarm", "init")
        second = place.joined("manager", first)
        second.kill()
        result = first.swarmnet("network", "create", "my-net")
    assert (result.status, result.out) == (1, "")
    assert result.err.startswith(
        "Error: The swarm does not have a leader. It's possible that too few managers"
    )


@pytest.mark.parametrize("daemon", ["manager", "worker"])
def test_a_state_directory_that_cannot_be_written(tmp_path: Path, daemon: str) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "state"  # root may write anywhere but below a file
    command = [sys.executable, "-m", f"swarmnet.{daemon}.main", f"--state-dir={folder}"]
    command += [f"--run-dir={tmp_path}/run", "--advertise-addr=127.0.0.1"]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert run.returncode == 1
    assert f"the state directory {folder} is not writable" in run.stderr
    assert "--state-dir DIR" in run.stderr
    assert "Traceback" not in run.stderr


def test_the_command_itself_ends_with_status_1(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "swarmnet.cli", "network", "ls"]
    environment = {**os.environ, "SWARMNET_HOST": f"unix://{tmp_path}/nobody.sock"}
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30, env=environment)
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr.startswith("Error: Cannot connect to the swarmnet manager at unix://")
