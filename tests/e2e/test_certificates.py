"""Certificates in a lab: the root is replaced while everything goes on, and old ones open nothing."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import pytest
from tests.e2e.labs import PATIENCE_S, Swarm, eventually, running
from tests.e2e.test_roles import inspected, is_manager, is_worker, leader, local, nodes

from swarmnet.cli.lab.place import Lab

ROOT: Final = Path(__file__).parents[2]
KILL, STOP, GO_ON = signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT
RECONNECTS: Final = (
    "session established",
    "no session",
    "worker session ended",
    "manager connected",
    "manager disconnected",
    "no longer leading",
)
"""What daemons log when a stream of theirs breaks or comes back."""
STARTED: Final = """
for each in /proc/[0-9]*; do
  [ "$(cat $each/comm 2>/dev/null)" = sleep ] && cut -d' ' -f1,22 $each/stat
done
true
"""


@pytest.fixture
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarm]:
    logs = tmp_path_factory.mktemp("logs")
    with running(logs, "--managers", "3", "--workers", "3", "--host", "operator") as lab:
        made = Swarm(lab)
        made.ask("network create --driver overlay net")
        made.ask("service create -q --name web --mode global --network net host sleep infinity")
        yield made


@pytest.fixture
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarm]:
    logs = tmp_path_factory.mktemp("logs")
    with running(logs, "--both", "--managers", "3", "--workers", "2") as lab:
        yield Swarm(lab)


class Logs:
    """What the daemons have said since this was made."""

    def __init__(self, lab: Lab) -> None:
        self._began = {file: file.stat().st_size for file in lab.logs.glob("*.log")}

    def lines(self) -> list[str]:
        return [
            f"{file.stem}: {line}"
            for file, size in self._began.items()
            for line in file.read_bytes()[size:].decode().splitlines()
        ]

    def about(self, *events: str) -> list[str]:
        return [line for line in self.lines() if any(f'event="{each}"' in line for each in events)]


def sleepers(swarm: Swarm) -> set[str]:
    """Process id and start time of every task, and of nothing that is new."""
    return set(swarm.lab.run("w1", ["sh", "-c", STARTED]).stdout.splitlines())


def operator(swarm: Swarm, folder: Path, command: str) -> tuple[int, str, str]:
    """The command line on a host of no swarm, by its certificate."""
    address = next(host.address for host in swarm.lab.hosts if host.name == "m2")
    settings = [f"SWARMNET_{name}={folder}/{file}.pem" for name, file in
                (("CACERT", "ca"), ("CERT", "cert"), ("KEY", "key"))]  # fmt: skip
    argv = ["env", *settings, f"SWARMNET_HOST={address}:2377", "swarmnet", *command.split()]
    result = swarm.lab.run("operator", argv, timeout_s=PATIENCE_S)
    return result.returncode, result.stdout, result.stderr


def digest(swarm: Swarm) -> str:
    return swarm.ask("swarm join-token -q worker").split("-")[2]


def test_the_root_is_replaced_and_no_stream_breaks(swarm: Swarm, tmp_path: Path) -> None:
    swarm.ask(f"swarm credentials {tmp_path}/used")
    shutil.copytree(tmp_path / "used", tmp_path / "kept")
    before, old_digest = sleepers(swarm), digest(swarm)
    old_token = swarm.ask("swarm join-token -q worker").strip()
    logs = Logs(swarm.lab)
    said = swarm.ask("swarm ca --rotate").splitlines()
    new_digest = digest(swarm)
    assert said[0] == f"desired root digest: {new_digest}"
    assert new_digest != old_digest
    assert "  rotated TLS certificates: 6/6 nodes" in said
    assert "  rotated CA certificates: 6/6 nodes" in said
    assert said[-1] == "-----END CERTIFICATE-----"
    assert "\n".join(said[-len(swarm.ask("swarm ca").splitlines()) :]) == swarm.ask("swarm ca").strip()

    assert logs.about(*RECONNECTS) == []
    assert len(logs.about("certificate renewed")) == 6
    assert sleepers(swarm) == before
    assert len(swarm.running_tasks("web")) == 3
    assert [row["Status"] for row in swarm.rows("node ls")] == ["Ready"] * 6

    joining = ["swarmnet", "swarm", "leave"]
    assert swarm.lab.run("w3", joining, timeout_s=PATIENCE_S).returncode == 0
    address = f"{swarm.lab.host('m1').address}:2378"
    refused = swarm.lab.run("w3", ["swarmnet", "swarm", "join", "--token", old_token, address])
    assert refused.returncode == 1
    assert "remote CA does not match the token's fingerprint" in refused.stderr
    token = swarm.ask("swarm join-token -q worker").strip()
    assert swarm.lab.run("w3", ["swarmnet", "swarm", "join", "--token", token, address]).returncode == 0

    status, _, error = operator(swarm, tmp_path / "kept", "node ls")
    assert status == 1
    assert "was the root certificate rotated?" in error or "the root certificate was rotated since" in error
    assert "`swarmnet swarm credentials DIR` on a manager makes new certificate files" in error


def test_a_client_that_is_used_on_the_way_moves_along(swarm: Swarm, tmp_path: Path) -> None:
    """As long as a node is missing the old root counts, and everything works."""
    lab, folder = swarm.lab, tmp_path / "credentials"
    swarm.ask(f"swarm credentials {folder}")
    old = (folder / "cert.pem").read_bytes()
    lab.kill_daemon("w3", STOP)
    swarm.ask("swarm ca --rotate --detach")
    eventually(lambda: "waiting for: w3" in progress(swarm), "all others have moved")
    assert "rotated TLS certificates: 5/6 nodes" in progress(swarm)
    assert operator(swarm, folder, "node ls")[0] == 0
    renewed = (folder / "cert.pem").read_bytes()
    assert renewed != old
    lab.kill_daemon("w3", GO_ON)
    eventually(lambda: not progress(swarm), "the rotation ends")
    eventually(lambda: operator(swarm, folder, "node ls")[0] == 0, "the client is believed")
    assert operator(swarm, folder, "network ls")[2] == ""


def progress(swarm: Swarm) -> str:
    result = swarm.lab.run(swarm.manager, ["swarmnet", "swarm", "ca"], timeout_s=PATIENCE_S)
    assert result.returncode == 0, result.stderr
    return result.stderr


def test_a_rotation_goes_on_after_a_kill_of_any_daemon(swarm: Swarm) -> None:
    lab, first = swarm.lab, leader(swarm)
    elsewhere = Swarm(lab, next(name for name in ("m1", "m2", "m3") if name != first))
    for held in ("w2", "w3"):
        lab.kill_daemon(held, STOP)
    old = digest(swarm)
    swarm.ask("swarm ca --rotate --detach")
    eventually(lambda: "waiting for: w2, w3" in named(elsewhere), "all others have moved")
    lab.kill_daemon(first)
    lab.kill_daemon("w1")
    eventually(lambda: leader_of(elsewhere) not in {first, ""}, "another manager leads")
    lab.kill_daemon("w2", GO_ON)
    eventually(lambda: "w2" not in named(elsewhere), "w2 moves with the new leader")
    lab.kill_daemon("w3", KILL)
    assert digest(elsewhere) == old
    lab.start_daemon(lab.host(first))
    lab.start_daemon(lab.host("w1"))
    eventually(lambda: "waiting for: w3" in named(elsewhere), "only w3 is missing")
    lab.start_daemon(lab.host("w3"))
    eventually(lambda: digest(elsewhere) != old, "the rotation ends")
    eventually(lambda: [row["Status"] for row in elsewhere.rows("node ls")] == ["Ready"] * 6, "all are there")
    assert len(elsewhere.running_tasks("web")) == 3


def named(swarm: Swarm) -> str:
    """Whom the rotation waits for, without what it says of them."""
    return progress(swarm).replace(" (down)", "")


def leader_of(swarm: Swarm) -> str:
    return next((name for name, row in nodes(swarm).items() if row["ManagerStatus"] == "Leader"), "")


def test_a_node_that_was_given_up_says_what_to_do_when_it_comes_back(swarm: Swarm) -> None:
    lab = swarm.lab
    lab.kill_daemon("w3")
    eventually(lambda: nodes(swarm)["w3"]["Status"] == "Down", "w3 is down")
    swarm.ask("swarm ca --rotate --detach")
    eventually(lambda: "waiting for: w3 (down)" in progress(swarm), "it is waited for by name")
    swarm.ask("node rm w3")
    eventually(lambda: not progress(swarm), "it is waited for no longer")
    lab.start_daemon(lab.host("w3"))
    eventually(lambda: "swarmnet swarm leave" in what_it_says(lab), "it says what to do")
    assert lab.run("w3", ["swarmnet", "swarm", "leave"], timeout_s=PATIENCE_S).returncode == 0
    token = swarm.ask("swarm join-token -q worker").strip()
    join = ["swarmnet", "swarm", "join", "--token", token, f"{lab.host('m1').address}:2378"]
    assert lab.run("w3", join, timeout_s=PATIENCE_S).returncode == 0


def what_it_says(lab: Lab) -> str:
    return lab.run("w3", ["swarmnet", "info"], timeout_s=PATIENCE_S).stdout


# Old certificates

ALLOWED: Final = {
    "/swarmnet.api.v1.Dispatcher/Session": {"removed"},
    "/swarmnet.api.v1.Control/Pipeline": {"an empty answer"},
    "/swarmnet.api.v1.Control/Pipeline as an operator": {"an empty answer"},
}
"""The dispatcher tells a node itself that it is none any more; a pipeline refuses each of its calls."""
REFUSED: Final = {"UNAUTHENTICATED", "PERMISSION_DENIED", "NOT_LEADER"}
"""The last one by a manager that does not lead, to who claims to forward a call."""


def kept(lab: Lab, host: str, kind: str, folder: Path) -> Path:
    """A copy of what a daemon of that host has as its identity."""
    copy = folder / f"{host}-{kind}"
    copy.mkdir()
    script = f'cd /var/lib/swarmnet/{kind} && for f in *; do [ "$f" = raft ] || cp -r "$f" {copy}/; done'
    found = lab.run(host, ["sh", "-c", script])
    assert found.returncode == 0, found.stderr
    return copy


def opened(lab: Lab, old: Path, to: str, but: Mapping[str, set[str]] = ALLOWED) -> dict[str, str]:
    """What the certificate got at that manager."""
    argv = ["env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "tests.e2e.old_certificate"]
    argv += [str(old), old.name.partition("-")[2], lab.host(to).address]
    tried = lab.run("w2", argv, timeout_s=PATIENCE_S)
    assert tried.returncode == 0, tried.stderr
    found = json.loads(tried.stdout)
    assert len(found) > 60
    return {
        path: got
        for path, got in found.items()
        if got not in {*REFUSED, "refused", "no connection", *but.get(path, ())}
    }


def test_the_tool_gets_in_with_a_certificate_that_counts(both: Swarm, tmp_path: Path) -> None:
    found = opened(both.lab, kept(both.lab, "m2", "manager", tmp_path), "m1", {})
    assert found["/swarmnet.api.v1.Control/ListNodes as an operator"].startswith("answered")
    assert found["/grpc.health.v1.Health/Check"].startswith("answered")
    assert found["raft"] == "welcome"


def test_old_certificates_open_nothing_at_any_port(both: Swarm, tmp_path: Path) -> None:
    lab, first = both.lab, leader(both)
    removed, demoted = (name for name in ("m1", "m2", "m3") if name != first)
    swarm = Swarm(lab, first)
    old = {
        "demoted manager": kept(lab, demoted, "manager", tmp_path),
        "promoted worker": kept(lab, "w1", "worker", tmp_path),
        "removed manager": kept(lab, removed, "manager", tmp_path),
    }
    swarm.ask("node promote w1")
    eventually(lambda: is_manager(swarm, "w1"), "w1 is a manager")
    eventually(lambda: local(lab, "w1", "worker") == "inactive", "and no worker")
    swarm.ask(f"node demote {demoted}")
    eventually(lambda: is_worker(swarm, demoted), "it is a worker")
    lab.kill_daemon(removed)
    eventually(lambda: nodes(swarm)[removed]["ManagerStatus"] == "Unreachable", "it is gone")
    swarm.ask(f"node rm --force {removed}")
    for what, folder in old.items():
        for manager in (first, "w1"):
            assert opened(lab, folder, manager) == {}, f"{what} at {manager}"
    assert inspected(swarm, demoted)["Spec"]["Role"] == "worker"
