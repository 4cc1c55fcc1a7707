"""What operators do to managers, with the real command line: status, hand over, back up, recover."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Self

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.e2e.island import Host, Island, eventually, island

from swarmnet.core.errors import SwarmnetError


@pytest.fixture
def shore(tmp_path: Path) -> Iterator[Island]:
    with island(tmp_path) as made:
        yield made


def founded(shore: Island, managers: int) -> list[Host]:
    """The first one leads."""
    first = shore.host("manager")
    first.ok("swarm", "init")
    return [first, *(shore.joined("manager", first) for _ in range(managers - 1))]


def status(host: Host) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(host.ok("raft", "status", "--format", "json"))
    return found


def leads(host: Host) -> bool:
    shown = status(host)
    return bool(shown["Leader"]["ID"] == shown["Self"])


def row(shown: dict[str, Any], host: Host) -> dict[str, Any]:
    found: dict[str, Any] = next(each for each in shown["Managers"] if host.address in each["Address"])
    return found


def test_status_tells_of_every_manager_whoever_is_asked(shore: Island) -> None:
    first, second, third = founded(shore, 3)
    for name in ("a", "b", "c"):
        first.ok("network", "create", "--driver", "overlay", name)
    eventually(lambda: all(each["Lag"] == 0 for each in status(second)["Managers"]))
    shown = status(second)
    assert shown["Leader"]["ID"] == status(first)["Self"] != shown["Self"]
    assert shown["AppliedIndex"] == shown["CommitIndex"] == shown["LastIndex"] > 3
    assert (shown["Journal"]["Bytes"] > 1000, shown["Snapshot"]) == (True, {"Bytes": 0, "Index": 0})
    assert [row(shown, each)["Status"] for each in (first, second, third)] == ["Leader", *["Reachable"] * 2]

    third.kill()
    first.ok("network", "create", "--driver", "overlay", "without-the-third")
    eventually(lambda: row(status(second), third)["Lag"] > 0)
    assert row(status(first), third)["Status"] == "Unreachable"

    second.kill()
    eventually(lambda: not status(first)["Leader"]["ID"])
    table = first.ok("raft", "status")
    assert "none: 1 of 3 managers can be reached, 2 are needed" in table
    assert re.search(r"^ID +HOSTNAME +ADDRESS +STATUS +MATCH +LAG +LAST HEARD$", table, re.MULTILINE)


def test_leadership_goes_where_the_operator_wants_it(shore: Island) -> None:
    first, second, third = founded(shore, 3)
    wanted = status(third)["Self"]
    assert second.ok("raft", "transfer-leader", wanted) == f"Leader: {wanted}\n"
    eventually(lambda: leads(third) and not leads(first))
    assert third.ok("raft", "transfer-leader").startswith("Leader: ")
    eventually(lambda: not leads(third))

    third.kill()
    refused = first.swarmnet("raft", "transfer-leader", wanted)
    assert refused.status == 1
    assert f"manager {wanted} cannot be reached" in refused.err
    assert "no such node: nobody" in first.swarmnet("raft", "transfer-leader", "nobody").err


def test_the_only_manager_has_nobody_to_hand_over_to(shore: Island) -> None:
    (only,) = founded(shore, 1)
    refused = only.swarmnet("raft", "transfer-leader")
    assert (refused.status, "no other manager can be reached" in refused.err) == (1, True)


class Writer:
    """Creates networks at one manager, one after the other, and notes when each was accepted."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._stop = threading.Event()
        self.accepted: list[float] = []
        self.errors: list[str] = []
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            try:
                self._host.create_network(f"n{number}")
                self.accepted.append(time.monotonic())
            except SwarmnetError as error:
                self.errors.append(str(error))


def test_a_leader_that_is_stopped_hands_over_while_writes_go_on(shore: Island) -> None:
    managers = founded(shore, 3)
    leader, second, _ = managers
    with Writer(second) as writer:
        eventually(lambda: len(writer.accepted) > 20)
        assert leader.process is not None
        leader.process.send_signal(signal.SIGTERM)
        assert leader.process.wait(10) == 0
        before = len(writer.accepted)
        eventually(lambda: len(writer.accepted) > before + 20)
    assert writer.errors == []
    logs = "".join((each.folder / "log").read_text() for each in managers)
    assert "leadership not handed over" not in logs
    assert "standing for election" not in logs, "the others found out by themselves"


def fetch(host: Host, path: str) -> tuple[int, str]:
    """Status and body of the manager's metrics port."""
    code = "import sys, urllib.request as r, urllib.error as e\n"
    code += "try: a = r.urlopen(sys.argv[1], timeout=10)\n"
    code += "except e.HTTPError as error: a = error\n"
    code += "print(a.status); print(a.read().decode(), end='')"
    command = host.island.inside([sys.executable, "-c", code, f"http://{host.metrics}{path}"])
    status, _, body = subprocess.run(command, capture_output=True, text=True, check=True).stdout.partition(
        "\n"
    )
    return int(status), body


def samples(host: Host) -> dict[str, float]:
    status, text = fetch(host, "/metrics")
    assert status == 200, text
    families = text_string_to_metric_families(text)
    return {f"{s.name}{s.labels or ''}": s.value for family in families for s in family.samples}


def test_metrics_tell_of_raft_on_the_loopback(shore: Island) -> None:
    first = shore.host("manager")
    assert fetch(first, "/livez") == (200, "ok\n")
    assert fetch(first, "/readyz") == (503, "this manager is not part of a swarm\n")
    assert fetch(first, "/other")[0] == 404
    first.ok("swarm", "init")
    second = shore.joined("manager", first)
    for number in range(20):
        first.create_network(f"n{number}")
    assert fetch(second, "/readyz") == (200, "ok\n")
    shown, of_first, of_second = status(first), samples(first), samples(second)
    assert of_first["swarmnet_raft_is_leader"] == of_second["swarmnet_raft_has_leader"] == 1
    assert of_second["swarmnet_raft_is_leader"] == 0
    assert of_first["swarmnet_raft_term"] == shown["Term"]
    assert of_first["swarmnet_raft_applied_index"] >= shown["AppliedIndex"]
    assert of_first["swarmnet_raft_commit_duration_seconds_count"] >= 20
    assert of_first["swarmnet_raft_commit_duration_seconds_bucket{'le': '+Inf'}"] >= 20
    assert 0 < of_first["swarmnet_raft_journal_sync_duration_seconds_sum"] < 60
    assert of_first["swarmnet_raft_journal_bytes"] > 1000
    second_id = status(second)["Self"]
    assert of_first[f"swarmnet_raft_peer_lag_entries{{'node': '{second_id}'}}"] >= 0
    assert of_first[f"swarmnet_raft_peer_reachable{{'node': '{second_id}'}}"] == 1
    assert of_second["process_resident_memory_bytes"] > 1e6

    second.kill()
    eventually(lambda: fetch(first, "/readyz") == (503, "no manager leads\n"))
    assert samples(first)[f"swarmnet_raft_peer_reachable{{'node': '{second_id}'}}"] == 0


def test_a_metrics_port_in_use_is_a_clear_error(shore: Island) -> None:
    first = shore.host("manager")
    folder = shore.folder / "other"
    options = [f"--state-dir={folder}/state", f"--run-dir={folder}/run", f"--metrics-addr={first.metrics}"]
    command = [sys.executable, "-m", "swarmnet.manager.main", "--advertise-addr=10.9.9.1", *options]
    ended = subprocess.run(shore.inside(command), capture_output=True, text=True, check=False, timeout=30)
    assert ended.returncode == 1
    assert f"cannot listen at {first.metrics} for metrics: Address already in use" in ended.stderr


def logged(host: Host, what: str) -> bool:
    return what in (host.folder / "log").read_text()


def names(host: Host) -> list[str]:
    return sorted(host.ok("network", "ls", "--format", "{{.Name}}").split())


def epochs(host: Host) -> dict[str, int]:
    listed = host.ok("key", "ls", "--format", "{{.Name}} {{.Epoch}}").splitlines()
    return {name: int(epoch) for name, epoch in (line.split() for line in listed)}


def test_a_manager_of_a_lost_majority_goes_on_alone(shore: Island) -> None:
    first, second, third = founded(shore, 3)
    worker = shore.joined("worker", first)
    first.ok("network", "create", "--driver", "overlay", "--opt", "encrypted", "kept")
    first.ok("service", "create", "-q", "--detach", "--name", "web", "host", "sleep", "600")
    eventually(lambda: "Running" in first.ok("service", "ps", "web"))
    before, keys = first.ok("service", "ps", "-q", "web"), epochs(first)
    healthy = third.swarmnet("swarm", "init", "--force-new-cluster")
    assert (healthy.status, "its majority is not lost" in healthy.err) == (1, True)

    cluster_id = first.ok("info").split("ClusterID:")[1].split()[0]
    first.kill()
    second.kill()
    eventually(lambda: not status(third)["Leader"]["ID"])
    assert third.swarmnet("network", "ls").status == 1
    said = third.ok("swarm", "init", "--force-new-cluster")
    assert "is now its only manager" in said
    assert re.search(r"Entries that were not known to be agreed on, and count now: \d+\.", said)
    assert third.ok("info").split("ClusterID:")[1].split()[0] == cluster_id
    assert names(third) == ["kept"]
    assert [each["ID"] for each in status(third)["Managers"]] == [status(third)["Self"]]
    assert {name: after - keys[name] for name, after in epochs(third).items()} == dict.fromkeys(keys, 1 << 20)

    eventually(lambda: third.ok("node", "ls", "--format", "{{.Status}}").split() == ["Ready"] * 2)
    eventually(lambda: "Running" in third.ok("service", "ps", "web"))
    assert third.ok("service", "ps", "-q", "web") == before
    third.ok("key", "rotate")
    assert "Swarm: active" in " ".join(worker.ok("info").split())

    first.start()
    second.start()
    for each in (first, second):
        eventually(partial(logged, each, "refused by another manager"))
    joined = shore.joined("manager", third)
    joined.ok("network", "create", "--driver", "overlay", "with-two")
    assert names(third) == ["kept", "with-two"]
    assert status(third)["Leader"]["ID"] in {status(third)["Self"], status(joined)["Self"]}

    third.kill()
    third.start()
    eventually(lambda: names(third) == ["kept", "with-two"])
    worker.ok("swarm", "leave")  # its tasks outlive it otherwise


def test_a_live_swarm_is_backed_up_and_restored(shore: Island, tmp_path: Path) -> None:
    first, second, third = founded(shore, 3)
    worker = shore.joined("worker", first)
    first.ok("network", "create", "--driver", "overlay", "--opt", "encrypted", "kept")
    first.ok("service", "create", "-q", "--detach", "--name", "web", "host", "sleep", "600")
    eventually(lambda: "Running" in first.ok("service", "ps", "web"))
    tasks, keys, token = (
        first.ok("service", "ps", "-q", "web"),
        epochs(first),
        first.ok("swarm", "join-token", "-q", "worker"),
    )
    file = str(tmp_path / "swarm.backup")
    said = second.ok("swarm", "backup", file)
    recovery_key = re.search(r"^    (SWMREC-1-\w{50})$", said, re.MULTILINE)
    assert recovery_key is not None
    assert Path(file).stat().st_mode & 0o777 == 0o600
    exists = first.swarmnet("swarm", "backup", file)
    assert (exists.status, "exists already" in exists.err) == (1, True)
    (tmp_path / "key").write_text(recovery_key[1] + "\n")
    (tmp_path / "wrong").write_text("not the recovery key\n")
    first.ok("network", "create", "--driver", "overlay", "after-the-backup")
    cluster_id = first.ok("info").split("ClusterID:")[1].split()[0]
    active = first.swarmnet("swarm", "restore", file, "--passphrase-file", str(tmp_path / "key"))
    assert (active.status, "already part of a swarm" in active.err) == (1, True)

    for each in (first, second, third):
        each.kill()
    fresh = Host(shore, "manager", shore.folder / "again", first.address)
    fresh.run_dir.mkdir(parents=True)
    shore.hosts.append(fresh)
    fresh.start()
    wrong = fresh.swarmnet("swarm", "restore", file, "--passphrase-file", str(tmp_path / "wrong"))
    assert (wrong.status, "not the passphrase or recovery key" in wrong.err) == (1, True)
    assert "Swarm: inactive" in " ".join(fresh.ok("info").split())
    said = fresh.ok("swarm", "restore", file, "--passphrase-file", str(tmp_path / "key"))
    assert f"Swarm {cluster_id} restored" in said

    assert names(fresh) == ["kept"]
    assert fresh.ok("swarm", "join-token", "-q", "worker") == token
    eventually(lambda: fresh.ok("node", "ls", "--format", "{{.Status}}").split() == ["Ready"] * 2)
    eventually(lambda: "Running" in fresh.ok("service", "ps", "web"))
    assert fresh.ok("service", "ps", "-q", "web") == tasks
    assert {name: after - keys[name] for name, after in epochs(fresh).items()} == dict.fromkeys(keys, 1 << 20)
    fresh.ok("key", "rotate")
    assert "Swarm: active" in " ".join(worker.ok("info").split())
    shore.joined("manager", fresh)
    shore.joined("worker", fresh)

    fresh.kill()
    fresh.start()
    eventually(lambda: names(fresh) == ["kept"])
    worker.ok("swarm", "leave")  # its tasks outlive it otherwise
